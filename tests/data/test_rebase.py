"""When the file is replaced, edits go with their rows; what is nowhere is listed and kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from finetui import workspace
from finetui.data.dataset import DataSet, open_dataset
from finetui.data.formats.source import open_source
from finetui.errors import UserError
from finetui.workspace import Workspace


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return workspace.create(tmp_path / "work")


def line(number: int | str) -> str:
    return json.dumps({"prompt": f"q{number}", "completion": f"a{number}"}) + "\n"


@pytest.fixture
def path(space: Workspace) -> Path:
    file = space.datasets / "a.jsonl"
    file.write_text("".join(map(line, range(30))))
    return file


def edited(words: str) -> str:
    return json.dumps({"prompt": words, "completion": "edited"})


def change_all(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.edit(4, edited("four"))
        dataset.drop([7, 20], reason="bad")
        dataset.quarantine([9], "odd")
        dataset.mark([11])
        dataset.label([12], "billing")


def said(dataset: DataSet) -> dict[str, object]:
    """What the edits say, by the question that the source row asks."""
    assert dataset.journal
    return {
        str(dataset.source.value(row)["prompt"]): state  # type: ignore[index]
        for row, state in dataset.journal.overlay.items()
    }


@pytest.mark.parametrize(
    "shift",
    [
        lambda lines: ["\n", *lines],
        lambda lines: lines[3:],
        lambda lines: lines[::-1],
        lambda lines: Random(1).sample(lines, len(lines)),
        lambda lines: [each for twice in lines for each in (twice, line("new" + twice[11:14]))],
    ],
)
def test_edits_follow_their_rows_wherever_they_go(
    space: Workspace, path: Path, shift: Callable[[list[str]], list[str]]
) -> None:
    change_all(space, path)
    with open_dataset(path, space) as dataset:
        before = said(dataset)
    path.write_text("".join(shift(path.read_text().splitlines(keepends=True))))
    for _ in range(2):
        with open_dataset(path, space) as dataset:
            assert said(dataset) == before and not dataset.unplaced


def test_undo_reaches_back_through_a_replaced_file(space: Workspace, path: Path) -> None:
    change_all(space, path)
    path.write_text(path.read_text().partition("\n")[2])
    with open_dataset(path, space) as dataset:
        dataset.edit(3, edited("four again"))
        assert dataset.steps()[-1].depends_on == (1,)
        dataset.edit(0, edited("one"))
        assert dataset.changed_rows() == [0, 3, 6, 8, 19]
        with pytest.raises(UserError, match="made on what step 1 left of row 4"):
            dataset.switch(1, False)
        while dataset.undo():
            pass
        assert dataset.changed_rows() == []
        while dataset.redo():
            pass
    path.write_text(line("zero") + path.read_text())
    with open_dataset(path, space) as dataset:
        assert dataset.value(4) == json.loads(edited("four again"))
        assert dataset.changed_rows() == [1, 4, 7, 9, 20]


def test_what_is_nowhere_is_listed_and_comes_back_with_its_row(
    space: Workspace, path: Path
) -> None:
    change_all(space, path)
    old = path.read_text()
    lines = old.splitlines(keepends=True)
    lines[4], lines[9], lines[11] = line("other 4"), line("other 9"), line("other 11")
    path.write_text("".join(lines[:25]))
    with open_dataset(path, space) as dataset:
        assert dataset.changed_rows() == [7, 20]
        lost = dataset.unplaced
        assert [(each.row, each.line, each.settled) for each in lost] == [
            (4, 5, False), (9, 10, False), (11, 12, False),
        ]  # fmt: skip
        assert lost[2].state.marked
        assert lost[0].text == edited("four") and "line 5 holds another" in lost[0].reason
        assert lost[1].state.reason == "odd" and json.loads(lost[1].text)["prompt"] == "q9"
        assert "3 were not" in dataset.notice and "--unplaced" in dataset.notice
        assert len(dataset.steps()) == 5  # nothing is lost from the list of steps
    path.write_text(old)
    with open_dataset(path, space) as dataset:
        assert dataset.changed_rows() == [4, 7, 9, 20] and not dataset.unplaced
        assert dataset.state(11).marked


def test_an_unplaced_edit_can_be_put_on_a_row_by_hand_and_that_undone(
    space: Workspace, path: Path
) -> None:
    change_all(space, path)
    lines = path.read_text().splitlines(keepends=True)
    lines[4], lines[9] = line("other 4"), line("other 9")
    path.write_text("".join(lines))
    with open_dataset(path, space) as dataset:
        four, nine = dataset.unplaced
        dataset.place(four.key, 4)
        assert dataset.value(4) == json.loads(edited("four"))
        assert [each.key for each in dataset.unplaced] == [nine.key]
        assert dataset.dismiss([nine.key]) == 1 and not dataset.unplaced
        dataset.undo()
        dataset.undo()
        assert dataset.value(4) == json.loads(line("other 4")) and len(dataset.unplaced) == 2


def test_an_edit_that_the_file_now_holds_itself_is_settled(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.edit(4, edited("four"))
    lines = path.read_text().splitlines(keepends=True)
    lines[4] = json.dumps(json.loads(edited("four")), indent=None, separators=(",", ":")) + "\n"
    path.write_text("".join(lines))
    with open_dataset(path, space) as dataset:
        (lost,) = dataset.unplaced
        assert lost.settled and "holds this text itself" in lost.reason
        assert "not" not in dataset.notice


@pytest.mark.parametrize("ending", ["crlf", "compact", "sorted"])
def test_rows_written_anew_are_known_by_their_value(
    space: Workspace, path: Path, ending: str
) -> None:
    path.write_text(path.read_text() + '{"prompt": "broken\n')
    change_all(space, path)
    with open_dataset(path, space) as dataset:
        dataset.drop([30])
        before = {row: dataset.state(row) for row in range(31)}
    lines = path.read_text().splitlines()
    if ending == "crlf":
        path.write_bytes(b"".join(each.encode() + b"\r\n" for each in lines))
    else:
        form = {"separators": (",", ":")} if ending == "compact" else {"sort_keys": True}
        values = [json.dumps(json.loads(each), **form) for each in lines[:30]]  # type: ignore[arg-type]
        path.write_text("\n".join([*values, lines[30]]) + "\n")
    for _ in range(2):
        with open_dataset(path, space) as dataset:
            assert {row: dataset.state(row) for row in range(31)} == before


def test_of_equal_rows_the_nearest_to_its_place_is_meant(space: Workspace) -> None:
    file = space.datasets / "same.jsonl"
    lines = [line(n) for n in range(10)]
    for place in (2, 5, 8):
        lines[place] = line("same")
    file.write_text("".join(lines))
    with open_dataset(file, space) as dataset:
        dataset.edit(5, edited("the middle one"))
        dataset.drop([9])
    file.write_text("".join([line("a"), line("b"), *lines]))
    with open_dataset(file, space) as dataset:
        assert dataset.changed_rows() == [7, 11]


def test_the_copy_that_was_kept_is_never_dropped_in_place_of_the_other(space: Workspace) -> None:
    file = space.datasets / "same.jsonl"
    lines = [line(n) for n in range(10)]
    lines[6] = lines[2]
    file.write_text("".join(lines))
    with open_dataset(file, space) as dataset:
        dataset.drop([6], reason="duplicate")
    file.write_text("".join(lines[:6] + lines[7:]))
    with open_dataset(file, space) as dataset:
        assert dataset.changed_rows() == []
        (lost,) = dataset.unplaced
        assert lost.settled and "one copy" in lost.reason


def test_a_near_duplicate_that_moved_stays_dropped(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.drop([6], reason="near-duplicate")
    path.write_text(line("new") + path.read_text())
    with open_dataset(path, space) as dataset:
        assert dataset.changed_rows() == [7]


def test_a_change_in_the_middle_of_a_file_of_equal_size_is_seen(space: Workspace) -> None:
    file = space.datasets / "big.jsonl"
    rows = [line(f"{n:06} " + "x" * 200) for n in range(1000)]
    file.write_text("".join(rows))
    with open_dataset(file, space) as dataset:
        dataset.edit(500, edited("middle"))
        first = dataset.source.identity()
    rows[500], rows[501] = rows[501], rows[500]
    file.write_text("".join(rows))
    with open_source(file) as source:
        assert source.identity() == first  # both ends and the size are as before
    with open_dataset(file, space) as dataset:
        assert dataset.changed_rows() == [501]


def test_a_file_that_was_only_touched_costs_no_step(space: Workspace, path: Path) -> None:
    change_all(space, path)
    path.write_text(path.read_text())
    with open_dataset(path, space) as dataset:
        assert dataset.notice == "" and dataset.journal
        assert dataset.history(1)[0].kind == "label"


@pytest.mark.parametrize("seed", range(8))
def test_no_edit_ever_lands_on_another_row(space: Workspace, path: Path, seed: int) -> None:
    """Against any change of the file: what an edit was made on is what it stands on."""
    rng = Random(seed)
    lines = [line(rng.randint(0, 40)) for _ in range(60)]
    path.write_text("".join(lines))
    made_on: dict[str, str] = {}
    with open_dataset(path, space) as dataset:
        for row in rng.sample(range(60), 20):
            word = f"edit {row}"
            made_on[word] = lines[row]
            dataset.edit(row, edited(word))
    for _ in range(4):
        for _ in range(rng.randint(1, 12)):
            place = rng.randrange(len(lines))
            what = rng.choice(("delete", "insert", "change", "copy", "swap"))
            if what == "delete" and len(lines) > 10:
                del lines[place]
            elif what == "insert":
                lines.insert(place, line(f"new {rng.random()}"))
            elif what == "change":
                lines[place] = line(f"changed {rng.random()}")
            elif what == "copy":
                lines.insert(rng.randrange(len(lines)), lines[place])
            else:
                other = rng.randrange(len(lines))
                lines[place], lines[other] = lines[other], lines[place]
        path.write_text("".join(lines))
        with open_dataset(path, space) as dataset:
            here = [json.loads(dataset.text(row))["prompt"] for row in dataset.changed_rows()]
            for row, word in zip(dataset.changed_rows(), here, strict=True):
                assert lines[row] == made_on[word]
            nowhere = [json.loads(each.text)["prompt"] for each in dataset.unplaced]
            assert sorted(here + nowhere) == sorted(made_on)
            for word in nowhere:
                wanting = sum(made_on[each] == made_on[word] for each in made_on)
                assert lines.count(made_on[word]) < wanting
