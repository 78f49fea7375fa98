"""Every operation is reversible, over restarts, crashes, switching off and changing places."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import xxhash

from finetui import workspace
from finetui.data.dataset import DataSet, journal_path, open_dataset
from finetui.data.edits.journal import Journal
from finetui.data.edits.steps import State
from finetui.errors import UserError
from finetui.workspace import Workspace

ROWS = 40
V1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE op (seq INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, actor TEXT NOT NULL,
    kind TEXT NOT NULL, note TEXT NOT NULL, inverse_of INTEGER REFERENCES op (seq));
CREATE TABLE change (seq INTEGER NOT NULL REFERENCES op (seq), row INTEGER NOT NULL,
    before_text TEXT, before_dropped INTEGER NOT NULL, after_text TEXT,
    after_dropped INTEGER NOT NULL, before_hash TEXT NOT NULL, original BLOB);
CREATE INDEX change_seq ON change (seq);
CREATE TRIGGER op_frozen BEFORE UPDATE ON op
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER change_frozen BEFORE UPDATE ON change
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
"""


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return workspace.create(tmp_path / "work")


@pytest.fixture
def path(space: Workspace) -> Path:
    file = space.datasets / "a.jsonl"
    file.write_text("".join(f'{{"prompt": "q{n}", "completion": "a{n}"}}\n' for n in range(ROWS)))
    return file


def row_text(words: str) -> str:
    return json.dumps({"prompt": words, "completion": "x"})


def whole(dataset: DataSet) -> list[State]:
    return [dataset.state(row) for row in range(dataset.rows)]


def told(dataset: DataSet) -> str:
    """The states of all rows as one word, the same in every process."""
    return xxhash.xxh3_64_hexdigest(repr(whole(dataset)).encode())


def last(dataset: DataSet) -> int:
    return dataset.steps()[-1].seq


# ---------------------------------------------------------------- what can be said of a row


def test_a_quarantined_row_is_left_out_with_its_reason(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        assert dataset.quarantine([3, 4], "looks made up") == 2
        row = dataset.row(3)
        assert (row.quarantined, row.dropped, row.kept, row.reason) == (
            *(True, False, False),
            "looks made up",
        )
        assert [number for number, _ in dataset.records()] == [0, 1, 2, *range(5, ROWS)]
        assert dataset.changed_rows() == [3, 4] and dataset.quarantined_count == 2
        assert dataset.restore([3]) == 1 and dataset.state(3).kept


def test_a_dropped_row_is_not_taken_back_by_a_quarantine(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.drop([1], reason="no")
        assert dataset.quarantine([1, 2], "odd") == 1
        assert dataset.state(1).dropped and dataset.state(2).quarantined
        assert dataset.drop([2]) == 1 and not dataset.state(2).quarantined


def test_marks_and_labels_change_nothing_that_is_trained_on(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        assert (dataset.mark([1, 2]), dataset.label([2], "Größe/大")) == (2, 1)
        assert dataset.changed_rows() == [] and dataset.record(2)
        row = dataset.row(2)
        assert row.marked and row.label == "Größe/大" and row.kept
        assert dataset.mark([1, 2], on=False) == 2 and dataset.label([2], "") == 1
        assert dataset.state(2) == State()


def test_counts_say_how_many_rows_for_each_reason(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.drop([1, 2], reason="duplicate")
        dataset.drop([3], reason="too short")
        dataset.quarantine([4], "check with Anna")
        dataset.edit(5, row_text("new"), note="fix: email")
        dataset.edit(1, row_text("dropped, so not counted as edited"))
        dataset.mark([7])
        assert [(count.what, count.reason, count.rows) for count in dataset.counts()] == [
            ("dropped", "duplicate", 2),
            ("dropped", "too short", 1),
            ("edited", "email", 1),
            ("marked", "", 1),
            ("quarantined", "check with Anna", 1),
        ]


def test_steps_tell_who_did_what_and_when(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        assert dataset.journal
        dataset.journal.actor = "anna"
        dataset.drop([1, 2], note="by hand")
        dataset.edit(5, row_text("new"))
        steps = dataset.steps()
        told = [(step.kind, step.rows, step.note, step.actor) for step in steps]
        assert told == [("drop", 2, "by hand", "anna"), ("edit", 1, "", "anna")]
        assert steps[0].time <= steps[1].time and all(step.active for step in steps)
        assert [step.kind for step in dataset.row_steps(5)] == ["edit"]


# ---------------------------------------------------------------- switching off


def test_a_step_switched_off_is_as_if_never_made(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.drop(range(10), reason="short")
        first = last(dataset)
        dataset.edit(20, row_text("kept"))
        dataset.switch(first, False)
        assert dataset.changed_rows() == [20]
        assert [step.active for step in dataset.steps()] == [False, True]
    with open_dataset(path, space) as dataset:
        assert dataset.changed_rows() == [20]
        dataset.switch(first, True)
        assert dataset.changed_rows() == [*range(10), 20]
        assert dataset.state(0).reason == "short"


def test_a_row_that_two_steps_dropped_stays_out_without_one(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.drop([1, 2, 3], reason="duplicate")
        first = last(dataset)
        assert dataset.drop([3, 4], reason="placeholder") == 1
        assert dataset.state(3).reason == "duplicate"
        dataset.switch(first, False)
        assert dataset.changed_rows() == [3, 4] and dataset.state(3).reason == "placeholder"


def test_what_another_step_was_made_on_cannot_be_switched_off(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.edit(1, row_text("first"))
        base = last(dataset)
        dataset.edit(1, row_text("first and second"))
        second = last(dataset)
        assert dataset.steps()[1].depends_on == (base,)
        before = whole(dataset)
        with pytest.raises(UserError, match=f"step {second} was made on what step {base} left"):
            dataset.switch(base, False)
        assert whole(dataset) == before
        assert dataset.switch(base, False, along=True) == f"Switched steps {base}, {second} off."
        assert dataset.changed_rows() == []
        with pytest.raises(UserError, match=f"Switch step {base} on first"):
            dataset.switch(second, True)
        dataset.switch(base, True)
        dataset.switch(second, True)
        assert whole(dataset) == before


def test_a_step_cannot_come_back_under_a_text_made_without_it(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.edit(1, row_text("one"))
        one = last(dataset)
        dataset.switch(one, False)
        dataset.edit(1, row_text("two"))
        with pytest.raises(UserError, match=f"changed row 2 while step {one} was off"):
            dataset.switch(one, True)


def test_switching_and_moving_are_undone_like_everything_else(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.drop([1])
        dataset.mark([2])
        one, two = (step.seq for step in dataset.steps())
        dataset.switch(one, False)
        dataset.move(two, one)
        assert [step.seq for step in dataset.steps()] == [two, one]
        assert dataset.undo() == f"Undid the move of step {two}."
        assert [step.seq for step in dataset.steps()] == [one, two]
        assert "switching off" in (dataset.undo() or "")
        assert dataset.state(1).dropped
        assert dataset.redo() and not dataset.state(1).dropped


# ---------------------------------------------------------------- changing places


def test_independent_steps_change_places_and_nothing_else(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.drop([1, 2])
        dataset.edit(1, row_text("a"))
        dataset.quarantine([5], "odd")
        before = whole(dataset)
        one, two, three = (step.seq for step in dataset.steps())
        dataset.move(three, one)
        dataset.move(one, None)
        assert [step.seq for step in dataset.steps()] == [three, two, one]
        assert whole(dataset) == before
    with open_dataset(path, space) as dataset:
        assert [step.seq for step in dataset.steps()] == [three, two, one]
        assert whole(dataset) == before


@pytest.mark.parametrize("back", [False, True])
def test_dependent_steps_keep_their_order(space: Workspace, path: Path, back: bool) -> None:
    with open_dataset(path, space) as dataset:
        dataset.drop([1, 2, 3])
        dataset.restore([2])
        one, two = (step.seq for step in dataset.steps())
        with pytest.raises(UserError, match=f"step {two} depends on step {one}.*row 3"):
            dataset.move(one, None) if back else dataset.move(two, one)


def test_a_step_that_is_none_is_refused(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.drop([1])
        for ask in (lambda: dataset.switch(7, False), lambda: dataset.move(1, 7)):
            with pytest.raises(UserError, match="no step 7"):
                ask()


# ---------------------------------------------------------------- the same after opening again


def random_step(dataset: DataSet, rng: Random) -> None:
    """One thing that a person may do, refused or not."""
    rows = rng.sample(range(ROWS), rng.randint(1, 6))
    steps = dataset.steps()
    some = rng.choice(steps).seq if steps else 1
    place = rng.choice([None, *(step.seq for step in steps)])
    acts: list[Callable[[], object]] = [
        lambda: dataset.edit(rows[0], row_text(f"text {rng.randint(0, 3)}")),
        lambda: dataset.edit(rows[0], row_text(f"text {rng.randint(0, 3)}")),
        lambda: dataset.edit(rows[0], dataset.source.text(rows[0])),
        lambda: dataset.drop(rows, reason=rng.choice("ab")),
        lambda: dataset.quarantine(rows, rng.choice("cd")),
        lambda: dataset.restore(rows),
        lambda: dataset.mark(rows, rng.random() < 0.7),
        lambda: dataset.label(rows, rng.choice(["", "x", "y"])),
        dataset.undo,
        dataset.undo,
        dataset.redo,
        lambda: dataset.switch(some, rng.random() < 0.5, rng.random() < 0.3),
        lambda: dataset.move(some, place),
    ]
    try:
        rng.choice(acts)()
    except UserError as error:
        assert "step" in error.what


@pytest.mark.parametrize("seed", range(12))
def test_what_a_session_sees_is_what_the_next_one_reads(
    space: Workspace, path: Path, seed: int
) -> None:
    rng = Random(seed)
    with open_dataset(path, space) as dataset, open_dataset(path, space) as other:
        for number in range(60):
            random_step(dataset, rng)
            if number % 6 == 0:
                again = Journal(journal_path(path, space))
                assert again.overlay == dataset.journal.overlay  # type: ignore[union-attr]
                again.close()
                other.refresh()
                assert whole(other) == whole(dataset)
                assert other.steps() == dataset.steps()


@pytest.mark.parametrize("seed", range(4))
def test_undoing_everything_gives_the_file_back(space: Workspace, path: Path, seed: int) -> None:
    rng = Random(100 + seed)
    with open_dataset(path, space) as dataset:
        seen = []
        for _ in range(40):
            random_step(dataset, rng)
        while True:
            seen.append(whole(dataset))
            if dataset.undo() is None:
                break
        assert seen[-1] == [State()] * ROWS and dataset.steps() == []
        for expected in reversed(seen[:-1]):
            assert dataset.redo()
            assert whole(dataset) == expected


# ---------------------------------------------------------------- files of before, crashes


def old_journal(path: Path, space: Workspace) -> Path:
    """A journal as the first layout wrote it: an edit, a drop, another drop that was undone."""
    with open_dataset(path) as dataset:
        identity = dataset.source.identity()
        raw = dataset.source.raw(2)
    file = journal_path(path, space)
    file.parent.mkdir(parents=True)
    database = sqlite3.connect(file)
    database.executescript("PRAGMA journal_mode = WAL;" + V1)
    database.execute("INSERT INTO meta VALUES ('identity', ?)", (identity,))
    for kind, note, inverse in (
        ("edit", "", None), ("drop", "fix: duplicate", None), ("drop", "", None), ("undo", "", 3),
    ):  # fmt: skip
        database.execute(
            "INSERT INTO op (time, actor, kind, note, inverse_of) VALUES (1.5, 'pid 7', ?, ?, ?)",
            (kind, note, inverse),
        )
    new = row_text("edited long ago")
    database.executemany(
        "INSERT INTO change VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (1, 2, None, 0, new, 0, "h", raw),
            (2, 2, new, 0, new, 1, "h", None),
            (2, 3, None, 0, None, 1, "h", None),
            (3, 9, None, 0, None, 1, "h", None),
            (4, 9, None, 1, None, 0, "h", None),
        ],
    )
    database.commit()
    database.close()
    return file


def test_a_journal_of_the_first_layout_goes_on(space: Workspace, path: Path) -> None:
    file = old_journal(path, space)
    database = sqlite3.connect(file)
    before = database.execute("SELECT * FROM op").fetchall()
    database.close()
    with open_dataset(path, space) as dataset:
        assert dataset.changed_rows() == [2, 3]
        assert dataset.state(2) == State(row_text("edited long ago"), True, reason="duplicate")
        assert [(step.kind, step.rows, step.actor) for step in dataset.steps()] == [
            ("edit", 1, "pid 7"), ("drop", 2, "pid 7"),
        ]  # fmt: skip
        assert dataset.redo() == "Redid the drop of 1 row."
        assert dataset.changed_rows() == [2, 3, 9]
        dataset.quarantine([5], "odd")
        dataset.switch(2, False)
        assert dataset.changed_rows() == [2, 5, 9]
        while dataset.undo():
            pass
        assert dataset.changed_rows() == []
    database = sqlite3.connect(file)
    columns = "seq, time, actor, kind, note, inverse_of"
    assert database.execute(f"SELECT {columns} FROM op LIMIT 4").fetchall() == before
    database.close()


def test_two_sessions_bring_an_old_journal_up_to_date_once(space: Workspace, path: Path) -> None:
    file = old_journal(path, space)
    program = "import sys; from pathlib import Path\n"
    program += "from finetui.data.edits.journal import Journal\n"
    program += "print(len(Journal(Path(sys.argv[1])).overlay))"
    children = [
        subprocess.Popen([sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    assert [child.communicate(timeout=60)[0].strip() for child in children] == [b"2"] * 4


def test_a_journal_of_a_newer_finetui_is_left_alone(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.drop([1])
    database = sqlite3.connect(journal_path(path, space))
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(UserError, match="newer finetui"):
        open_dataset(path, space)


def test_nothing_in_a_journal_can_be_changed_or_deleted(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.drop([1])
    database = sqlite3.connect(journal_path(path, space))
    for order in ("UPDATE op SET kind = 'x'", "DELETE FROM change", "DELETE FROM op"):
        with pytest.raises(sqlite3.DatabaseError, match="append-only"):
            database.execute(order)
    database.close()


def test_every_acknowledged_step_of_any_kind_survives_kill_9(space: Workspace, path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        from random import Random
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_journal import random_step, told
        from finetui import workspace
        from finetui.data.dataset import open_dataset
        rng = Random(int(sys.argv[1]))
        space = workspace.find(Path({str(space.root)!r}))
        with open_dataset(Path({str(path)!r}), space) as dataset:
            while True:
                random_step(dataset, rng)
                print(dataset.journal.head, told(dataset), flush=True)
        """
    )
    probe = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_journal import told
        from finetui import workspace
        from finetui.data.dataset import open_dataset
        space = workspace.find(Path({str(space.root)!r}))
        with open_dataset(Path({str(path)!r}), space) as dataset:
            print(dataset.journal.head, told(dataset))
            while dataset.undo():
                pass
            assert dataset.changed_rows() == [] and not dataset.steps()
        """
    )
    for seed, after in ((1, 25), (2, 60), (3, 11)):
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(seed)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(after)]
        os.kill(child.pid, signal.SIGKILL)
        lines += child.stdout.readlines()
        child.wait(30)
        states = dict(line.split() for line in lines if line.endswith("\n"))
        assert len(states) > 3
        done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        head, state = done.stdout.split()
        newest = max(map(int, states))
        assert int(head) in (newest, newest + 1)  # one may have been written and not yet told
        if int(head) == newest:
            assert state == states[head]


def test_a_bulk_step_cut_short_by_kill_9_is_there_whole_or_not_at_all(
    space: Workspace, path: Path
) -> None:
    program = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from finetui import workspace
        from finetui.data.dataset import open_dataset
        space = workspace.find(Path({str(space.root)!r}))
        dataset = open_dataset(Path({str(path)!r}), space)
        dataset.drop([0])
        def changes():
            for row in range(1, 30):
                if row == 20:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield dataset.drop_change(row, "cut short")
        dataset.commit("drop", "", changes())
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with open_dataset(path, space) as dataset:
        assert dataset.changed_rows() == [0]
        assert dataset.drop(range(1, 5)) == 4


def test_a_full_disk_is_told_and_leaves_the_journal_whole(space: Workspace, path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import resource, signal
        from pathlib import Path
        from finetui import workspace
        from finetui.data.dataset import open_dataset
        from finetui.errors import UserError
        space = workspace.find(Path({str(space.root)!r}))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        dataset = open_dataset(Path({str(path)!r}), space)
        dataset.drop([1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
        kept = dataset.journal.head
        try:
            for row in range(2, 39):
                dataset.edit(row, '{{"prompt": "%s", "completion": ""}}' % ("x" * 40_000))
                kept = dataset.journal.head
        except UserError as error:
            assert "cannot be written" in error.what, error
            assert dataset.journal.head == kept and not dataset.row(row).edited
            print(kept)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) > 1, done.stderr
    with open_dataset(path, space) as dataset:
        assert dataset.journal and dataset.journal.head == int(done.stdout)
        dataset.drop([38])


def test_a_journal_that_cannot_be_read_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    import sqlite3

    space = workspace.create(tmp_path / "work")
    file = space.datasets / "a.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n')
    with open_dataset(file, space) as dataset:
        dataset.drop([0])
    journal = journal_path(file, space)
    database = sqlite3.connect(journal)
    database.execute("ALTER TABLE op RENAME COLUMN uniform TO other")
    database.close()
    before = journal.read_bytes()
    with pytest.raises(UserError, match="cannot be read"):
        open_dataset(file, space)
    assert journal.read_bytes() == before
