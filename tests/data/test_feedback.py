"""Production feedback: what was asked, what was wrong and what was right is found and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetui.data.review.feedback import (
    Columns,
    Failure,
    FeedbackError,
    import_feedback,
    read_failure,
    take_repairs,
)
from finetui.data.review.queue import Queue
from finetui.evaluation import repairs
from finetui.workspace import Workspace, create

HI = [{"role": "user", "content": "Hi"}]
REPLY = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "no"}}]}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return create(tmp_path / "work")


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "bad_output": "no", "corrected_output": "yes"},
        {"messages": HI, "output": "no", "expected": "yes"},
        {"messages": [*HI, {"role": "assistant", "content": "no"}], "ideal": "yes"},
        {"messages": [*HI, {"role": "assistant", "content": "no"}], "bad": "no", "gold": "yes"},
        {"conversations": [{"from": "human", "value": "Hi"}], "response": "no", "edited": "yes"},
        {"input": HI, "output": {"role": "assistant", "content": "no"}, "reference": "yes"},
        {"request": {"model": "m", "messages": HI}, "response": REPLY, "correction": "yes"},
        {"input": {"question": "Hi"}, "output": {"text": "no"}, "target": {"content": "yes"}},
        {"question": "Hi", "answer": [{"type": "text", "text": "no"}], "fixed": "yes"},
        {"prompt": HI, "rejected": [{"role": "assistant", "content": "no"}], "chosen": "yes"},
    ],
)  # fmt: skip
def test_columns_are_found_by_the_names_they_have_in_the_wild(row: dict[str, Any]) -> None:
    found = read_failure(row)
    assert (found.prompt, found.bad, found.corrected) == (HI, "no", "yes")


def test_named_columns_override_the_guess_also_deep_down() -> None:
    row = {"prompt": "not this", "log": {"asked": "Hi", "said": ["x", "no"]}, "fix": "yes"}
    names = Columns("log.asked", "log.said.1", "fix")
    found = read_failure(row, names)
    assert (found.prompt, found.bad, found.corrected) == (HI, "no", "yes")


def test_json_answers_stay_json_and_other_columns_come_along() -> None:
    found = read_failure(
        {"prompt": "Hi", "output": {"text": "wide", "priority": "low"}, "expected": {"n": [1]},
         "comment": "wrong", "id": 7, "user": "eva", "system": "Be kind."}
    )  # fmt: skip
    assert found == Failure(
        [{"role": "system", "content": "Be kind."}, *HI],
        '{"text": "wide", "priority": "low"}', '{"n": [1]}', "wrong", {"id": 7, "user": "eva"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ([], "not an object"),
        ({"output": "x"}, "no prompt"),
        ({"prompt": " ", "output": "x"}, "no prompt"),
        ({"prompt": "Hi"}, "neither a bad nor a corrected"),
        ({"prompt": "Hi", "output": "x", "expected": " x"}, "the corrected output is the bad one"),
        ({"messages": [{"role": "user"}], "output": "x"}, "cannot be read"),
        ({"messages": [{"role": "assistant", "content": "a"}], "output": "x"}, "nobody asks"),
        ({"messages": [*HI, {"role": "assistant", "content": "a"}], "output": "x"},
         "ends with an answer that is not the bad output"),
    ],
)  # fmt: skip
def test_a_row_that_is_no_report_says_why(row: object, why: str) -> None:
    with pytest.raises(FeedbackError, match=why):
        read_failure(row)


def test_an_import_tells_of_every_line_and_loses_none(workspace: Workspace) -> None:
    file = workspace.root / "failures.jsonl"
    file.write_bytes(
        '{"prompt": "Hi", "output": "no"}\n'
        "\n"
        '{"prompt": "Hi", "output": \n'
        '{"prompt": "早上好", "output": "no", "expected": "早", "note": "\u2028"}\n'
        '{"prompt": "  HI ", "output": "No"}\n'
        '{"prompt": "x"}\n'.encode()
        + b'{"prompt": "\xff", "output": "x"}'
    )
    with Queue(workspace) as queue:
        found = import_feedback(queue, file)
        assert [refused.line for refused in found.refused] == [3, 6, 7]
        assert (found.rows, found.new, found.corrected, found.known) == (6, 2, 1, 1)
        first, second = queue.items()
    assert (first.state, first.reports, first.entry.source) == (
        "pending", 2, "failures.jsonl:1",
    )  # fmt: skip
    assert (second.state, second.answer, second.entry.note) == ("corrected", "早", "\u2028")


def test_a_grown_log_can_be_imported_again(workspace: Workspace) -> None:
    rows = [{"prompt": f"q {n}", "output": "no", "at": n} for n in range(3)]
    file = write(workspace.root / "log.jsonl", *rows)
    with Queue(workspace) as queue:
        import_feedback(queue, file)
        steps = len(queue.history())
        assert import_feedback(queue, file).new == 0
        assert len(queue.history()) == steps, "nothing was done"
        write(file, *rows, {"prompt": "q 1", "output": "no", "at": 9, "expected": "yes"})
        again = import_feedback(queue, file)
        assert (again.new, again.taken, again.known) == (0, 1, 3)
        assert [item.reports for item in queue.items()] == [1, 2, 1]
        assert queue.item(2).answer == "yes"


def test_csv_is_read_too(workspace: Workspace) -> None:
    file = workspace.root / "log.csv"
    file.write_text('prompt,output,expected\nHi,no,"yes,\nreally"\nHo,no,\n')
    with Queue(workspace) as queue:
        assert import_feedback(queue, file).new == 2
        assert [item.answer for item in queue.items()] == ["yes,\nreally", ""]


def test_rows_put_on_the_repair_list_join_the_queue_once_and_never_a_set(
    workspace: Workspace,
) -> None:
    entry = {"change": "broken", "prompt": HI, "reference": "yes", "answer": "no", "job": "j-1"}
    repairs.add(workspace.root, "heldout.jsonl:4", entry)
    with (workspace.root / repairs.FILE).open("a") as file:
        file.write('[]\n{"row": 3, "prompt": "\\ud800", "answer": "x"}\n{"torn')
    with Queue(workspace) as queue:
        assert take_repairs(queue) == 2 and take_repairs(queue) == 0
        item = queue.items()[0]
        assert (item.entry.seed, item.entry.bad, item.entry.note) == (
            "heldout.jsonl:4", "no", "broken",
        )  # fmt: skip
        assert item.state == "pending" and item.entry.extra["reference"] == "yes"
        queue.accept(1, answer="yes")
        assert queue.add().rows == 0
        queue.undo()
        queue.undo()
        assert take_repairs(queue) == 0, "an undone arrival is not forced back"
