"""An evaluation as a tree of files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from finetui.errors import UserError
from finetui.evaluation.record import (
    Answer,
    Item,
    Manifest,
    Record,
    RowScore,
    SetSpec,
    Subject,
    check_name,
    name_of,
    read_manifest,
    records,
)


def manifest(**changes: object) -> Manifest:
    given = {"subjects": [Subject("base", "base", "m")], "sets": [SetSpec("test", path="d")]}
    return Manifest(name="mine", **{**given, **changes})  # type: ignore[arg-type]


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    record = Record(tmp_path / "evaluation")
    asked = manifest(created=1.5, seed=3)
    item = Item("d:1", [{"role": "user", "content": "1 + 1?"}], "2", tags={"skill": ["sums"]})
    score = RowScore("d:1", {"accuracy": 1.0}, {"nll": [1.0, 2.0, 3.0]}, {"": ("2", "2")})
    record.write_manifest(asked)
    record.write_items("test", [item])
    record.write_scores("base", "test", [score])
    with record.writer("base", "test") as out:
        out.add(Answer("d:1", "2", nll=0.5, nll_tokens=1))
    assert record.manifest() == asked
    assert record.items("test") == [item]
    assert record.scores("base", "test") == [score]
    assert record.answers("base", "test") == [Answer("d:1", "2", nll=0.5, nll_tokens=1)]


def test_a_torn_answer_is_cut_off_when_the_job_goes_on(tmp_path: Path) -> None:
    record = Record(tmp_path)
    with record.writer("base", "test") as out:
        out.add(Answer("d:1", "whole"))
    path = record.answers_path("base", "test")
    with path.open("ab") as file:
        file.write(b'{"id": "d:2", "ans')
    assert [answer.id for answer in record.answers("base", "test")] == ["d:1"]
    with record.writer("base", "test") as out:
        out.add(Answer("d:2", "again"))
    assert [answer.answer for answer in record.answers("base", "test")] == ["whole", "again"]


def test_text_that_no_utf8_can_hold_is_kept_as_question_marks(tmp_path: Path) -> None:
    record = Record(tmp_path)
    with record.writer("base", "test") as out:
        out.add(Answer("d:1", "half \ud83d", nll=1.5, nll_tokens=2))
    assert record.answers("base", "test") == [Answer("d:1", "half ?", nll=1.5, nll_tokens=2)]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "-x", "a" * 81, "a b", "é"])
def test_a_name_that_is_no_file_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot name"):
        check_name(name)
    with pytest.raises(UserError):
        Record(tmp_path).answers_path(name, "test")


def test_names_are_made_of_any_text_and_never_twice() -> None:
    assert name_of("Qwen/Qwen3 8B (LoRA)") == "Qwen-Qwen3-8B-LoRA"
    assert name_of("../..") == "unnamed"
    assert name_of("base", ["base", "base-2"]) == "base-3"
    assert check_name(name_of("日本")) == "unnamed"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"subjects": []}, "no subject"),
        ({"sets": [SetSpec("a"), SetSpec("a")]}, 'two sets are called "a"'),
        ({"base": "other"}, '"other" is no subject'),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(
    changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        Record(tmp_path).write_manifest(manifest(**changes))


def test_broken_files_are_named(tmp_path: Path) -> None:
    record = Record(tmp_path)
    with pytest.raises(UserError, match=r"manifest.json: cannot be read"):
        record.manifest()
    record.manifest_path.write_text('{"name": 3}')
    with pytest.raises(UserError, match="no manifest of an evaluation"):
        record.manifest()
    path = record.scores_path("base", "test")
    path.parent.mkdir(parents=True)
    path.write_text('{"id": "a"}\n{"values": 1}\n')
    with pytest.raises(UserError, match=r"test.jsonl:2: is no RowScore"):
        record.scores("base", "test")


def test_a_manifest_of_a_newer_version_says_so(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text('{"name":"n","subjects":[{"name":"b","kind":"base"}],"sets":[{"name":"t"}],'
                    '"format":99}')  # fmt: skip
    with pytest.raises(UserError, match="newer finetui"):
        read_manifest(path)


def test_the_evaluations_of_a_workspace_are_found(tmp_path: Path) -> None:
    for name in ("one", "two"):
        Record(tmp_path / name / "evaluation").write_manifest(manifest())
    (tmp_path / "train" / "adapter").mkdir(parents=True)
    assert {record.folder.parent.name for record in records(tmp_path)} == {"one", "two"}


def test_a_write_that_found_no_room_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, tried = Record(tmp_path / "evaluation"), []

    def again(what: str, folder: Path, need: int, write: Callable[[], None]) -> None:
        tried.append((what, folder.name, need > 0))
        while True:
            try:
                return write()
            except OSError:
                tried.append(what)

    record.around = again
    record.write_items("test", [Item("d:1", [], "2")])
    real = os.write
    room = [5, 0, 7, 0, 10_000]

    def short_write(descriptor: int, data: bytes) -> int:
        take = room.pop(0)
        if not take:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:take])

    with record.writer("base", "test") as out:
        monkeypatch.setattr(os, "write", short_write)
        out.add(Answer("d:1", "an answer of some length"))
        monkeypatch.undo()
        out.add(Answer("d:2", "b"))
    assert [answer.id for answer in record.answers("base", "test")] == ["d:1", "d:2"]
    assert tried == [
        ("items/test.jsonl", "evaluation", True),
        ("test.jsonl", "base", True),
        "test.jsonl",
        "test.jsonl",
        ("test.jsonl", "base", True),
    ]
