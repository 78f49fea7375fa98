"""Two versions are compared row by row, whatever became of the rows."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from finetui import workspace
from finetui.data.dataset import open_dataset
from finetui.data.diff import Change, Place, diff
from finetui.data.split import SplitSpec
from finetui.data.versions import Version, write_version
from finetui.workspace import Workspace


def line(prompt: str, answer: str = "a") -> str:
    return json.dumps({"prompt": prompt, "completion": answer}, ensure_ascii=False)


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return workspace.create(tmp_path / "work")


def version(space: Workspace, lines: list[str], spec: SplitSpec | None = None) -> Version:
    path = space.datasets / "a.jsonl"
    path.write_text("".join(text + "\n" for text in lines))
    with open_dataset(path, space) as dataset:
        return write_version(dataset, space, spec=spec)


LINES = [line(f"what is the matter with number {n}?", f"answer {n}") for n in range(30)]


def test_rows_added_removed_and_edited_are_told_apart(space: Workspace) -> None:
    before = version(space, LINES)
    now = list(LINES)
    now[4] = line("what is the matter with number 4?", "another answer")  # the same question
    now[9] = line("what is the matter with the number nine?", "answer 9")  # the same place
    del now[20]
    now.insert(2, line("something else altogether", "b"))
    found = diff(before, version(space, now))
    assert found.counts == {"added": 1, "removed": 1, "edited": 2, "moved": 0, "same": 27}
    data = "data.jsonl"
    assert found.changes == [
        Change("added", None, Place(data, 3)),
        Change("edited", Place(data, 5), Place(data, 6)),
        Change("edited", Place(data, 10), Place(data, 11)),
        Change("removed", Place(data, 21), None),
    ]
    assert found.texts(found.changes[1]) == (LINES[4], now[5])
    assert found.texts(found.changes[3]) == (LINES[20], None)
    found.close()


def test_the_order_of_the_rows_is_no_difference(space: Workspace) -> None:
    before = version(space, LINES)
    mixed = random.Random(1).sample(LINES, len(LINES))
    assert diff(before, version(space, mixed)).counts["same"] == 30


def test_repeated_rows_are_counted(space: Workspace) -> None:
    unlike = [line("where is my parcel"), line("你们的营业时间是什么"), line("Сколько это стоит?")]
    before = version(space, [*unlike, *unlike])
    found = diff(before, version(space, [*unlike, *unlike[:1], *unlike[:1]]))
    assert found.counts == {"added": 1, "removed": 2, "edited": 0, "moved": 0, "same": 4}


def test_a_row_in_another_split_has_moved(space: Workspace) -> None:
    before = version(space, LINES, SplitSpec(seed=1))
    after = version(space, LINES, SplitSpec(seed=2))
    found = diff(before, after)
    assert found.counts["same"] + found.counts["moved"] == 30 and found.counts["moved"] > 0
    for change in found.changes:
        assert change.before and change.after and change.before.file != change.after.file
        old, new = found.texts(change)
        assert old == new
    found.close()


def test_unlike_rows_in_one_place_are_no_edit(space: Workspace) -> None:
    before = version(space, [*LINES, line("how do I return a parcel", "so")])
    after = version(space, [*LINES, line("你们的营业时间是什么", "九点")])
    assert diff(before, after).counts["edited"] == 0
    chinese = version(space, [*LINES, line("你们周末的营业时间是什么", "九点")])
    assert diff(after, chinese).counts == {
        "added": 0, "removed": 0, "edited": 1, "moved": 0, "same": 30,
    }  # fmt: skip
