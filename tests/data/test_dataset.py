"""Edits live in the journal: durable, undoable across restarts, the source never touched."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from finetui import workspace
from finetui.data.dataset import DataSet, journal_path, open_dataset
from finetui.data.edits import bulk
from finetui.data.records import Shape
from finetui.data.strict import RowError
from finetui.errors import UserError
from finetui.workspace import Workspace


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return workspace.create(tmp_path / "work")


@pytest.fixture
def path(space: Workspace) -> Path:
    file = space.datasets / "a.jsonl"
    rows = (json.dumps({"prompt": f"q{n}", "completion": f"a{n}"}) for n in range(200))
    file.write_text("".join(row + "\n" for row in rows))
    return file


def state(dataset: DataSet) -> list[tuple[str, bool]]:
    return [(dataset.text(row), dataset.state(row).dropped) for row in range(dataset.rows)]


def test_an_edit_shows_and_leaves_the_source_alone(space: Workspace, path: Path) -> None:
    before = path.read_bytes()
    with open_dataset(path, space) as dataset:
        dataset.edit(3, '{"prompt": "new", "completion": "x"}')
        row = dataset.row(3)
        assert row.edited and row.value == {"prompt": "new", "completion": "x"}
        assert (row.line, row.offset) == (4, before.find(b'{"prompt": "q3"'))
        assert dataset.record(3).turns[0].content == "new"
    assert path.read_bytes() == before


def test_edits_are_there_after_opening_again(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.edit(3, '{"prompt": "é\u2028", "completion": ""}')
        dataset.drop([5, 6, 7], note="too short")
        expected = state(dataset)
    with open_dataset(path, space) as again:
        assert state(again) == expected
        assert again.changed_rows() == [3, 5, 6, 7]
        assert (again.edited_count, again.dropped_count) == (1, 3)


def test_undo_and_redo_walk_the_whole_history_across_restarts(space: Workspace, path: Path) -> None:
    states = []
    with open_dataset(path, space) as dataset:
        states.append(state(dataset))
        for step in (
            lambda: dataset.edit(1, '{"prompt": "a", "completion": "b"}'),
            lambda: dataset.drop(range(100)),
            lambda: dataset.edit(1, '{"prompt": "c", "completion": "d"}'),
            lambda: dataset.restore([1, 2, 3]),
        ):
            step()
            states.append(state(dataset))
    for back in range(3, -1, -1):
        with open_dataset(path, space) as dataset:
            assert dataset.undo()
            assert state(dataset) == states[back]
    with open_dataset(path, space) as dataset:
        assert dataset.undo() is None
        for forth in range(1, 5):
            assert dataset.redo()
            assert state(dataset) == states[forth]
        assert dataset.redo() is None
        assert len(dataset.history()) == 12


def test_a_new_edit_ends_what_could_be_redone(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.drop([1])
        dataset.undo()
        dataset.drop([2])
        assert dataset.redo() is None
        assert dataset.changed_rows() == [2]


def test_a_bulk_drop_is_one_operation(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        assert dataset.drop(range(150)) == 150
        assert dataset.drop(range(200), note="the rest") == 50
        assert [step.changes for step in dataset.history()] == [50, 150]
        assert dataset.undo() == "Undid the drop of 50 rows (the rest)."
        assert dataset.dropped_count == 150


def test_an_edit_back_to_the_original_is_no_edit(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        original = dataset.text(4)
        dataset.edit(4, '{"x": 1}')
        dataset.edit(4, original)
        assert not dataset.row(4).edited and dataset.changed_rows() == []


def test_an_edit_that_is_no_json_is_refused_with_the_place(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        with pytest.raises(RowError) as caught:
            dataset.edit(4, '{"a": }')
        assert caught.value.line == 5 and caught.value.position == 6
        assert dataset.changed_rows() == [] and dataset.history() == []


def test_an_edit_over_several_lines_becomes_one(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.edit(0, '{\n  "prompt": "a",\n  "completion": "b"\n}')
        assert dataset.text(0) == '{"prompt": "a", "completion": "b"}'


def test_a_malformed_row_can_be_repaired(space: Workspace) -> None:
    file = space.datasets / "b.jsonl"
    file.write_bytes(b'{"prompt": "caf\xe9", "completion": "x"}\n{"prompt"\n')
    with open_dataset(file, space) as dataset:
        assert dataset.row(0).value is None and "0xE9" in dataset.row(0).error
        dataset.edit(1, '{"prompt": "a", "completion": "b"}')
        assert dataset.row(1).error == ""
        dataset.undo()
        assert dataset.row(1).error


def test_looking_makes_no_journal(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.row(0)
        assert dataset.undo() is None
    assert not journal_path(path, space).exists()


def test_without_a_workspace_nothing_can_be_edited(path: Path) -> None:
    with open_dataset(path) as dataset:
        assert dataset.rows == 200
        with pytest.raises(UserError, match="workspace"):
            dataset.drop([1])


def test_the_journal_is_private_and_append_only(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.drop([1])
    file = journal_path(path, space)
    assert file.stat().st_mode & 0o777 == 0o600
    database = sqlite3.connect(file)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with pytest.raises(sqlite3.DatabaseError, match="append-only"):
        database.execute("UPDATE change SET after_dropped = 0")
    database.close()


def test_two_sessions_see_each_other_and_never_overwrite(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as mine, open_dataset(path, space) as yours:
        mine.edit(1, '{"prompt": "mine", "completion": ""}')
        with pytest.raises(UserError, match="another session"):
            yours.edit(1, '{"prompt": "yours", "completion": ""}')
        assert yours.text(1) == mine.text(1)
        yours.edit(2, '{"prompt": "yours", "completion": ""}')
        assert mine.refresh() and mine.changed_rows() == [1, 2]


def test_edits_stand_when_rows_were_only_added(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.drop([1])
    with path.open("a") as file:
        file.write('{"prompt": "more", "completion": ""}\n')
    with open_dataset(path, space) as dataset:
        assert dataset.state(1).dropped and "edits stand" in dataset.notice


def test_edits_go_with_their_rows_when_the_file_changed(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.edit(5, '{"prompt": "a", "completion": ""}')
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))
    with open_dataset(path, space) as dataset:
        assert dataset.changed_rows() == [4] and dataset.value(4) == {
            "prompt": "a",
            "completion": "",
        }
        assert "found again" in dataset.notice and not dataset.unplaced


def test_a_file_that_changes_while_open_takes_no_edits(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        path.write_text('{"prompt": "other", "completion": ""}\n' * 300)
        with pytest.raises(UserError, match="changed on the disk"):
            dataset.drop([1])


def test_csv_rows_are_edited_as_json(space: Workspace) -> None:
    file = space.datasets / "c.csv"
    file.write_text('question,answer\n"a\nb",c\n')
    with open_dataset(file, space) as dataset:
        assert json.loads(dataset.text(0)) == {"question": "a\nb", "answer": "c"}
        dataset.edit(0, '{"question": "x", "answer": "y"}')
    with open_dataset(file, space) as dataset:
        assert dataset.value(0) == {"question": "x", "answer": "y"}


def test_every_acknowledged_edit_survives_kill_9(space: Workspace, path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        from finetui import workspace
        from finetui.data.dataset import open_dataset
        dataset = open_dataset(Path({str(path)!r}), workspace.find(Path({str(space.root)!r})))
        for row in range(200):
            dataset.edit(row, '{{"prompt": "kept", "completion": "%d"}}' % row)
            print(row, flush=True)
        """
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    acknowledged = -1
    for line in child.stdout:
        acknowledged = int(line)
        if acknowledged == 40:
            os.kill(child.pid, signal.SIGKILL)
            break
    rest = child.stdout.read().split()
    child.wait(30)
    acknowledged = int(rest[-1]) if rest else acknowledged
    with open_dataset(path, space) as dataset:
        for row in range(acknowledged + 1):
            assert json.loads(dataset.text(row)) == {"prompt": "kept", "completion": str(row)}
        assert dataset.undo()


def test_several_files_are_one_set_with_edits_of_its_own(space: Workspace, path: Path) -> None:
    other = space.datasets / "b.jsonl"
    other.write_text('{"prompt": "anna@x.org", "completion": "x"}\n' * 3)
    with open_dataset([path, other], space) as both:
        both.build_index()
        assert both.rows == 203 and bulk.rows_with(both, "email") == [200, 201, 202]
        both.drop([201])
        assert bulk.apply(both, "email", [200, 201, 202]).count == 2
    with open_dataset([path, other], space) as both:
        both.build_index()
        assert both.changed_rows() == [200, 201, 202]
        assert both.value(202) == {"prompt": "[EMAIL_1]", "completion": "x"}
    with open_dataset(other, space) as alone:
        assert alone.changed_rows() == []


def test_a_chosen_shape_is_kept_with_the_edits(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        assert dataset.shape is Shape.PROMPT_COMPLETION
        dataset.choose_shape(Shape.TEXT)
        assert dataset.shape is Shape.TEXT
    with open_dataset(path, space) as dataset:
        assert dataset.shape is Shape.TEXT and dataset.history() == []
        dataset.choose_shape(None)
    with open_dataset(path, space) as dataset:
        assert dataset.shape is Shape.PROMPT_COMPLETION
