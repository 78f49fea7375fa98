"""No run is measured on what it was trained on, unless a person wrote down why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetui import workspace
from finetui.data import gate
from finetui.data.dataset import open_dataset
from finetui.data.split import SplitSpec
from finetui.data.versions import write_version
from finetui.errors import UserError
from finetui.workspace import Workspace


def conversation(*said: str) -> str:
    roles = ("user", "assistant")
    turns = [{"role": roles[k % 2], "content": text} for k, text in enumerate(said)]
    return json.dumps({"messages": turns}, ensure_ascii=False)


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return workspace.create(tmp_path / "work")


def file(space: Workspace, name: str, lines: list[str]) -> Path:
    path = space.datasets / f"{name}.jsonl"
    path.write_text("".join(line + "\n" for line in lines))
    return path


TRAIN = [conversation(f"question number {n} about parcels", f"answer {n}") for n in range(40)]
LONG = "is there any way to have the parcel brought on another day?"


def leaks(space: Workspace, train: Path, held_out: Path, near: bool = False) -> list[gate.Leak]:
    verdict = gate.check(space, [train], [held_out], near)
    assert verdict.open == (not verdict.closed_by)
    return verdict.closed_by


def told(found: list[gate.Leak]) -> list[tuple[str, int, int]]:
    return [(leak.kind, leak.train.line, leak.held_out.line) for leak in found]


def test_clean_files_pass(space: Workspace) -> None:
    train = file(space, "train", TRAIN)
    held = file(space, "held", [conversation("what is something else", "b")])
    assert leaks(space, train, held, near=True) == []


def test_every_way_to_ask_the_same_is_seen(space: Workspace) -> None:
    held = file(
        space,
        "held",
        [
            TRAIN[3],
            conversation("QUESTION   number 5 about parcels", "another answer"),
            conversation(LONG, "yes", "how?", "so"),
            conversation("unlike any other matter", "c"),
        ],
    )
    train = file(
        space, "train", [*TRAIN, conversation(LONG, "yes"), conversation(LONG, "no", "?", "!")]
    )
    assert told(leaks(space, train, held)) == [
        ("row", 4, 1), ("prompt", 6, 2), ("opening", 41, 3), ("opening", 42, 3),
    ]  # fmt: skip
    assert [leak.sentence() for leak in leaks(space, train, held)][:2] == [
        "train.jsonl:4 is the same row as held.jsonl:1",
        "train.jsonl:6 asks what held.jsonl:2 asks",
    ]


def test_a_near_duplicate_is_seen_and_remembered(space: Workspace) -> None:
    texts = [f"{n} quick brown foxes jump over {n * 7919} lazy dogs in the park" for n in range(50)]
    train = file(space, "train", [conversation(text, "a") for text in texts])
    held = file(space, "held", [conversation(texts[7] + " today", "b")])
    (leak,) = leaks(space, train, held, near=True)
    assert (leak.kind, leak.train.line) == ("near", 8) and 0.5 <= leak.similarity < 1
    (memory,) = (space.cache / "gate").iterdir()
    memory.write_bytes(b"[]")
    assert leaks(space, train, held, near=True) == []
    with open_dataset(train, space) as dataset:
        dataset.drop([20])
    assert len(leaks(space, train, held, near=True)) == 1, "edits make it look again"


def test_a_set_phrase_is_no_leak(space: Workspace) -> None:
    train = file(space, "t", [conversation(LONG, "yes", f"and {n}?", "so") for n in range(60)])
    held = file(space, "h", [conversation(LONG, "yes", "what then?", "so")])
    assert leaks(space, train, held) == []


def test_what_a_split_wrote_passes(space: Workspace) -> None:
    lines = [*TRAIN, *(conversation(LONG, "yes", f"and {n}?", "so") for n in range(15))]
    with open_dataset(file(space, "all", lines), space) as dataset:
        version = write_version(dataset, space, spec=SplitSpec())
    for name in ("validation", "test"):
        assert leaks(space, version.file("train"), version.file(name)) == []


def test_mending_drops_the_rows_and_undo_brings_the_leak_back(space: Workspace) -> None:
    train, held = file(space, "train", TRAIN), file(space, "held", TRAIN[:3])
    found = leaks(space, train, held)
    assert gate.mend(space, found) == 3 and leaks(space, train, held) == []
    with open_dataset(train, space) as dataset:
        dataset.undo()
    assert told(leaks(space, train, held)) == told(found)


def test_an_accepted_leak_lets_the_run_start_and_a_new_one_does_not(space: Workspace) -> None:
    train, held = file(space, "train", TRAIN), file(space, "held", TRAIN[:3])
    word = gate.accept(space, train, held, leaks(space, train, held), " three known rows ")
    assert (word.train, word.reason, word.rows) == ("datasets/train.jsonl", "three known rows", 3)
    verdict = gate.check(space, [train], [held], near=False)
    assert verdict.open and len(verdict.accepted) == 3 and verdict.acceptances == [word]
    assert "keys" not in word.as_dict()
    file(space, "train", [*reversed(TRAIN)])
    assert leaks(space, train, held) == [], "lines may move"
    file(space, "held", TRAIN[:4])
    assert told(leaks(space, train, held)) == [("row", 37, 4)]
    assert len(gate.acceptances(space)) == 1


def test_a_leak_is_not_accepted_without_a_reason_or_without_a_leak(space: Workspace) -> None:
    train, held = file(space, "train", TRAIN), file(space, "held", TRAIN[:1])
    found = leaks(space, train, held)
    with pytest.raises(UserError, match="with a reason"):
        gate.accept(space, train, held, found, "  ")
    with pytest.raises(UserError, match="no leak to accept"):
        gate.accept(space, train, held, [], "why")
    assert gate.acceptances(space) == []


def test_a_closed_gate_says_what_to_do(space: Workspace) -> None:
    train, held = file(space, "my train", TRAIN), file(space, "held", TRAIN[:5])
    error = str(gate.check(space, [train], [held], near=False).error(space))
    assert "5 training rows leak" in error and "and 2 more" in error
    assert "finetui accept-leak 'datasets/my train.jsonl' datasets/held.jsonl --reason" in error


def test_too_many_rows_are_not_searched_at_every_start(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "NEAR_ROWS", 10)
    train, held = file(space, "train", TRAIN), file(space, "held", [conversation("else", "b")])
    verdict = gate.check(space, [train], [held])
    assert verdict.open and "40 training rows are too many" in verdict.notes[0]
