"""Room on the disk: what counts as full, what is asked for before a start, and the last word."""

import errno
import os
from pathlib import Path

import pytest
from small_disk import small_disk

from finetui.errors import UserError
from finetui.jobs import room
from finetui.jobs.folder import Job
from finetui.jobs.room import Want


class SafetensorError(Exception):
    pass


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "full", "quota"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True, False),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True, True),
        (SafetensorError("I/O error: No space left on device (os error 28)"), True, False),
        (SafetensorError("I/O error: Disk quota exceeded (os error 122)"), True, True),
        (caused(RuntimeError("saving failed"), OSError(errno.EDQUOT, "x")), True, True),
        (OSError(errno.EIO, "Input/output error"), False, False),
        (SafetensorError("I/O error: (os error 280)"), False, False),
        (RuntimeError("the shapes do not fit"), False, False),
    ],
)
def test_a_full_disk_is_known_by_all_the_words_there_are_for_it(error, full, quota):
    assert room.is_full(error) is full
    assert room.is_quota(error) is quota


def test_words_that_could_mean_anything_count_only_where_there_is_no_room(tmp_path):
    error = RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed")
    assert not room.is_full(error, tmp_path, need=1)
    assert room.is_full(error, tmp_path, need=1 << 60)
    assert not room.is_full(error), "without a folder nothing is known"


def test_what_is_wanted_is_said_with_its_file_system_and_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "free", lambda folder: 300 << 10)
    want = Want("the checkpoint of step 4", tmp_path, 2 << 20)
    assert want.sentence().endswith(
        "is full: the checkpoint of step 4 needs 2.1 MiB, 300.0 KiB free"
    )
    assert not want.met()
    quota = Want("the adapter", tmp_path, 2 << 20, quota=True)
    assert quota.sentence().startswith("your quota on ") and "free" not in quota.sentence()


def test_a_file_system_is_named_by_the_folder_it_is_mounted_at(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda1 / ext4 rw 0 0\nserver:/home /data/my\\040home nfs4 rw 0 0\nbroken\n"
    )
    assert room.mounted_at(Path("/data/my home/anna/run"), mounts) == "/data/my home (nfs4)"
    assert room.mounted_at(Path("/data/my homework"), mounts) == "/ (ext4)"
    assert room.mounted_at(Path("/x"), tmp_path / "none") == "/x"


def test_a_start_is_refused_where_its_files_will_not_fit(tmp_path, monkeypatch):
    room.require(tmp_path, 1000, "the run")
    monkeypatch.setattr(room, "free", lambda folder: 100 << 20)
    room.require(tmp_path, 80 << 20, "the run")
    with pytest.raises(UserError, match=r"the run needs about 109\.1 MiB on disk; 100\.0 MiB is"):
        room.require(tmp_path / "not" / "there" / "yet", 90 << 20, "the run")


def test_a_quota_refuses_a_start_although_the_disk_has_room(tmp_path, monkeypatch):
    def over_quota(descriptor: int, count: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(room, "_allocate", over_quota)
    with pytest.raises(UserError, match="your quota there allows less"):
        room.require(tmp_path, 1000, "the run")


def test_a_file_system_that_cannot_say_counts_as_one_with_room(tmp_path, monkeypatch):
    def not_able(descriptor: int, count: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(room, "_allocate", not_able)
    assert room.has_room(tmp_path, 1000)


def test_asking_for_room_leaves_nothing_behind(tmp_path):
    with small_disk(tmp_path / "disk", "2m") as disk:
        assert room.has_room(disk.path, 1 << 20) and not room.has_room(disk.path, 3 << 20)
        assert list(disk.path.iterdir()) == [] and disk.free() == 2 << 20


def test_the_last_word_is_written_without_a_byte_of_room(tmp_path):
    with small_disk(tmp_path / "disk", "3m") as disk:
        job = Job(disk.path / "job")
        job.path.mkdir()
        room.lay_ballast(job)
        disk.fill()
        room.last_word(job, "exit.json", {"rc": 1})
        disk.fill()  # others take the room that the ballast left
        assert disk.free() == 0
        room.last_word(job, "outcome.json", {"status": "failed", "text": "x" * 9000})
        assert job.outcome() == {"status": "failed", "text": "x" * 9000}
        assert not (job.path / "ballast.word").exists()
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            room.last_word(job, "another.json", {"text": "x" * 9000})


def test_the_note_of_what_is_waited_for_needs_no_room(tmp_path):
    with small_disk(tmp_path / "disk", "2m") as disk:
        job = Job(disk.path)
        note = room.WaitingNote(job, 3)
        disk.fill()
        assert room.waited_for(job, 3) == ""
        note.say("/scratch is full: " + "é" * 4000)
        assert room.waited_for(job, 3).startswith("/scratch is full: é")
        assert room.waited_for(job, 2) == "", "the note of another attempt says nothing"
        note.say("")
        assert room.waited_for(job, 3) == ""
        note.close()
        assert os.listdir(disk.path) == ["filler"]
