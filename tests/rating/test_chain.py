"""Chained files: a change shows, a torn tail is mended, nothing acknowledged is lost."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import finetui.rating.chain as chain_module
from finetui.rating.chain import ChainWriter, Link, append_shared, encode_line, read_chain, repair


class Note(Link, kw_only=True):
    text: str


def written(path: Path, count: int = 5) -> list[bytes]:
    writer = ChainWriter(path, "genesis")
    for n in range(count):
        writer.append(Note(text=f"note {n}"))
    writer.close()
    return path.read_bytes().splitlines(keepends=True)


def test_a_whole_file_reads_back_without_a_problem(tmp_path: Path) -> None:
    written(tmp_path / "f")
    chain = read_chain(tmp_path / "f", "genesis")
    assert (len(chain.lines), chain.problem, chain.torn, chain.set_aside) == (5, "", 0, 0)
    assert chain.head == chain.hashes[-1]


def test_a_missing_file_is_an_empty_chain(tmp_path: Path) -> None:
    assert read_chain(tmp_path / "f", "genesis").head == "genesis"


def test_an_edited_line_is_found_and_what_follows_is_set_aside(tmp_path: Path) -> None:
    lines = written(tmp_path / "f")
    lines[2] = lines[2].replace(b"note 2", b"note 9")
    (tmp_path / "f").write_bytes(b"".join(lines))
    chain = read_chain(tmp_path / "f", "genesis")
    assert chain.problem == "line 3 was changed after it was written"
    assert (len(chain.lines), chain.set_aside) == (2, 3)


def test_an_edited_line_with_its_hash_made_anew_is_found_by_the_next(tmp_path: Path) -> None:
    lines = written(tmp_path / "f")
    forged, _ = encode_line(
        Note(text="forged", prev=read_chain(tmp_path / "f", "genesis").hashes[1])
    )
    lines[2] = forged
    (tmp_path / "f").write_bytes(b"".join(lines))
    chain = read_chain(tmp_path / "f", "genesis")
    assert chain.problem.startswith("line 4 does not follow line 3")
    assert len(chain.lines) == 2


@pytest.mark.parametrize("victim", [0, 1, 3])
def test_a_removed_line_is_found(tmp_path: Path, victim: int) -> None:
    lines = written(tmp_path / "f")
    del lines[victim]
    (tmp_path / "f").write_bytes(b"".join(lines))
    assert read_chain(tmp_path / "f", "genesis").problem


def test_a_file_of_another_session_does_not_fit(tmp_path: Path) -> None:
    written(tmp_path / "f")
    assert "does not start this session" in read_chain(tmp_path / "f", "other").problem


def test_a_file_cut_anywhere_keeps_its_whole_lines_and_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "f"
    lines = written(path, 8)
    whole = b"".join(lines)
    draw = random.Random(11)
    for _ in range(100):
        cut = draw.randrange(len(whole) + 1)
        path.write_bytes(whole[:cut])
        Path(f"{path}.torn").unlink(missing_ok=True)
        kept = whole[:cut].count(b"\n")
        moved = repair(path, "genesis")
        assert path.read_bytes() == b"".join(lines[:kept])
        assert moved == cut - len(path.read_bytes())
        if moved:
            assert Path(f"{path}.torn").read_bytes() == whole[cut - moved : cut] + b"\n"
        assert read_chain(path, "genesis").problem == ""


def test_garbage_in_place_of_the_last_line_is_torn_not_tampered(tmp_path: Path) -> None:
    path = tmp_path / "f"
    lines = written(path)
    path.write_bytes(b"".join(lines) + b"\x00" * 40 + b"\n")
    assert repair(path, "genesis") == 41
    assert read_chain(path, "genesis").problem == ""


def test_a_living_writers_file_is_not_mended(tmp_path: Path) -> None:
    path = tmp_path / "f"
    writer = ChainWriter(path, "genesis")
    writer.append(Note(text="one"))
    with path.open("ab") as other:
        other.write(b'{"half')
    assert repair(path, "genesis") == 0
    writer.close()
    assert repair(path, "genesis") == 6


def test_a_write_that_fails_leaves_no_half_line(tmp_path: Path, monkeypatch) -> None:
    writer = ChainWriter(tmp_path / "f", "genesis")
    writer.append(Note(text="one"))
    before = (tmp_path / "f").read_bytes()
    real = chain_module.os.write
    monkeypatch.setattr(
        chain_module.os, "write", lambda fd, data: real(fd, bytes(data)[:7]) and _full()
    )
    with pytest.raises(OSError, match="No space"):
        writer.append(Note(text="two"))
    monkeypatch.undo()
    assert (tmp_path / "f").read_bytes() == before
    writer.append(Note(text="two"))
    assert read_chain(tmp_path / "f", "genesis").problem == ""


def _full() -> int:
    raise OSError(28, "No space left on device")


def test_a_line_is_synced_before_it_is_acknowledged(tmp_path: Path, monkeypatch) -> None:
    writer = ChainWriter(tmp_path / "f", "genesis")
    synced: list[bytes] = []
    real = chain_module.os.fsync
    monkeypatch.setattr(
        chain_module.os,
        "fsync",
        lambda fd: (synced.append((tmp_path / "f").read_bytes()), real(fd)),
    )
    writer.append(Note(text="one"))
    assert len(synced) == 1
    assert b"one" in synced[0]
    append_shared(tmp_path / "log", "genesis", Note(text="two"))
    assert len(synced) == 3, "the line, and the new name in its folder"


def test_a_shared_log_mends_its_tail_and_refuses_to_go_on_after_a_change(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for n in range(3):
        append_shared(path, "genesis", Note(text=f"note {n}"))
    path.write_bytes(path.read_bytes() + b'{"torn')
    append_shared(path, "genesis", Note(text="note 3"))
    assert len(read_chain(path, "genesis").lines) == 4
    path.write_bytes(path.read_bytes().replace(b"note 1", b"note 7"))
    with pytest.raises(ValueError, match="line 2 was changed"):
        append_shared(path, "genesis", Note(text="note 4"))
