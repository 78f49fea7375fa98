"""All findings of a kind are repaired in one step with one undo, after a look at the first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetui import workspace
from finetui.data.dataset import DataSet, journal_path, open_dataset
from finetui.data.edits import bulk
from finetui.data.edits.redact import redact
from finetui.errors import UserError
from finetui.workspace import Workspace


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return workspace.create(tmp_path / "work")


def write(space: Workspace, *texts: str, name: str = "a.jsonl") -> Path:
    file = space.datasets / name
    rows = [
        json.dumps({"prompt": text, "completion": "fine"}, ensure_ascii=False) for text in texts
    ]
    file.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
    return file


def prompts(dataset: DataSet) -> list[str]:
    return [dataset.record(row).turns[0].content for row in range(dataset.rows)]


def test_a_preview_shows_the_first_differences_and_writes_nothing(space: Workspace) -> None:
    file = write(space, *(f"mail anna{n}@x.org" if n % 2 else "no" for n in range(100)))
    with open_dataset(file, space) as dataset:
        rows = bulk.rows_with(dataset, "email")
        seen = bulk.preview(dataset, "email", rows)
        assert seen.count == 50 and len(seen.differences) == bulk.SHOWN and not seen.unfixable
        first = seen.differences[0]
        assert (first.row, first.line, first.before) == (1, 2, dataset.text(1))
        assert json.loads(first.after or "")["prompt"] == "mail [EMAIL_1]"
        done = bulk.apply(dataset, "email", rows)
        assert done.count == 50 and dataset.text(1) == first.after
    assert journal_path(file, space).exists()


def test_a_bulk_repair_is_one_step_and_one_undo(space: Workspace) -> None:
    file = write(space, *(f"mail anna{n}@x.org" for n in range(30)))
    with open_dataset(file, space) as dataset:
        before = prompts(dataset)
        done = bulk.apply(dataset, "email", range(30))
        (step,) = dataset.steps()
        assert (step.seq, step.kind, step.rows, step.reason) == (done.seq, "fix", 30, "email")
        assert prompts(dataset) == [f"mail [EMAIL_{n + 1}]" for n in range(30)]
        assert dataset.undo() == "Undid the fix of 30 rows (fix: email)."
        assert prompts(dataset) == before


def test_a_repair_leaves_the_rest_of_a_row_as_it_was_written(space: Workspace) -> None:
    file = space.datasets / "a.jsonl"
    row = '{"n":1e2,  "prompt":"anna@x.org", "big":12345678901234567890123, "completion":"\\u00e9"}'
    file.write_text(row + "\n")
    with open_dataset(file, space) as dataset:
        bulk.apply(dataset, "email", [0])
        assert dataset.text(0) == row.replace("anna@x.org", "[EMAIL_1]")


def test_what_cannot_be_repaired_is_told_and_left(space: Workspace) -> None:
    file = write(space, "mail anna@x.org", "b")
    file.write_text(file.read_text() + '{"prompt": "cut off at anna@x.o\n')
    with open_dataset(file, space) as dataset:
        done = bulk.apply(dataset, "email", [0, 1, 2])
        assert done.count == 1
        assert [row for row, _ in done.unfixable] == [2] and "cannot be read" in done.unfixable[0][
            1
        ]
        with pytest.raises(UserError, match="no automatic repair"):
            raise UserError(bulk.apply(dataset, "role-order", [0]).unfixable[0][1])


def test_rows_can_be_dropped_put_aside_or_marked_in_place_of_a_repair(space: Workspace) -> None:
    file = write(space, "a", "b", "c", "d")
    with open_dataset(file, space) as dataset:
        assert bulk.apply(dataset, "refusal", [0, 1], "quarantine").count == 2
        assert bulk.apply(dataset, "refusal", [1, 2], "drop").count == 1
        assert bulk.apply(dataset, "refusal", [3], "mark").count == 1
        assert dataset.state(0).reason == "refusal" and dataset.state(2).dropped
        assert dataset.state(3).marked and len(dataset.steps()) == 3


def test_stopping_leaves_everything_as_it_was(space: Workspace) -> None:
    file = write(space, *(f"anna{n}@x.org" for n in range(500)))
    with open_dataset(file, space) as dataset:
        asked = iter([False, False, True])
        done = bulk.apply(dataset, "email", range(500), stop=lambda: next(asked))
        assert done.stopped and not done.count and dataset.history() == []


def test_rows_with_a_finding_are_those_as_edited_now(space: Workspace) -> None:
    file = write(space, "anna@x.org", "b", "c", "berta@x.org", "carl@x.org")
    with open_dataset(file, space) as dataset:
        dataset.edit_turn(0, 0, "no address any more")
        dataset.edit_turn(1, 0, "now dora@x.org")
        dataset.drop([3])
        assert bulk.rows_with(dataset, "email") == [1, 4]


def test_more_text_than_fits_in_memory_waits_in_a_file(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "_IN_MEMORY", 1)
    file = write(space, *(f"Größe anna{n}@x.org" for n in range(50)))
    with open_dataset(file, space) as dataset:
        assert bulk.apply(dataset, "email", range(50)).count == 50
        assert prompts(dataset)[49] == "Größe [EMAIL_50]"


# ---------------------------------------------------------------- redaction


def test_the_same_value_has_the_same_placeholder_everywhere(space: Workspace) -> None:
    file = write(
        space, "anna@x.org and Bob@x.org", "ANNA@X.ORG", "bob@x.org", "call +49 30 123456-78",
        "or +49 (30) 12345678", "对 anna@x.org 说",
    )  # fmt: skip
    with open_dataset(file, space) as dataset:
        assert redact(dataset) == 6
        assert prompts(dataset) == [
            "[EMAIL_1] and [EMAIL_2]", "[EMAIL_1]", "[EMAIL_2]", "call [PHONE_1]",
            "or [PHONE_1]", "对 [EMAIL_1] 说",
        ]  # fmt: skip
        assert [step.kind for step in dataset.steps()] == ["redact"]
        dataset.undo()
        assert dataset.changed_rows() == []


def test_numbers_go_on_over_restarts_and_undo(space: Workspace) -> None:
    file = write(space, "anna@x.org", "berta@x.org", "carl@x.org, anna@x.org")
    with open_dataset(file, space) as dataset:
        bulk.apply(dataset, "email", [1])
        assert prompts(dataset)[1] == "[EMAIL_1]"
        dataset.undo()
    with open_dataset(file, space) as dataset:
        assert redact(dataset, ["email"]) == 3
        assert prompts(dataset) == ["[EMAIL_2]", "[EMAIL_1]", "[EMAIL_3], [EMAIL_2]"]


def test_a_placeholder_that_stands_in_the_file_is_never_given_again(space: Workspace) -> None:
    file = write(space, "anna@x.org", "who is [EMAIL_7]?", "b", "and [EMAIL_3]")
    with open_dataset(file, space) as dataset:
        dataset.edit_turn(2, 0, "and [EMAIL_8]")
        redact(dataset, ["email"])
        assert prompts(dataset)[0] == "[EMAIL_9]"


def test_the_journal_keeps_numbers_and_no_table_of_the_values(space: Workspace) -> None:
    file = write(space, "anna@x.org")
    with open_dataset(file, space) as dataset:
        redact(dataset)
        assert dataset.journal
        ((kind, digest, number),) = dataset.journal.placeholders()
        assert (kind, number) == ("EMAIL", 1) and b"anna" not in digest
        assert len(bytes.fromhex(dataset.journal.meta("salt"))) == 32


def test_two_sessions_that_redact_at_once_never_share_a_number(space: Workspace) -> None:
    file = write(space, "anna@x.org", "berta@x.org")
    with open_dataset(file, space) as mine, open_dataset(file, space) as yours:
        late = bulk._Work(yours, ("email",), "repair", [1], None, None)
        texts = list(late)
        bulk.apply(mine, "email", [0])
        assert late.redactor and texts[0][1]
        change = yours.text_change(1, texts[0][1])
        assert change
        with pytest.raises(UserError, match="Redact again"):
            yours.commit("fix", "", [change], placeholders=late.redactor.fresh)
        yours.refresh()
        assert yours.changed_rows() == [0]
        bulk.apply(yours, "email", [1])
        assert prompts(yours) == ["[EMAIL_1]", "[EMAIL_2]"]
