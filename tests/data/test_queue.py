"""The review queue: nothing is lost, nothing enters a set by itself, all can be undone."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from finetui.data.records import Shape
from finetui.data.review.queue import CANDIDATE, FEEDBACK, Entry, Queue, chat_row, key_of, unfit
from finetui.errors import UserError
from finetui.workspace import Workspace, create


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return create(tmp_path / "work")


def asked(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def failure(text: str, corrected: str = "", **more: Any) -> tuple[int, str, Entry]:
    row = chat_row(asked(text), corrected) if corrected else None
    entry = Entry(prompt=asked(text), row=row, bad=f"bad {text}", source="log.jsonl:1", **more)
    return key_of(text), f"origin {text}", entry


def candidate(text: str, answer: str = "yes", **more: Any) -> tuple[int, str, Entry]:
    entry = Entry(row=chat_row(asked(text), answer), seed="tickets.jsonl:3", **more)
    return key_of("candidate", text), f"candidate {text}", entry


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_feedback_goes_from_pending_over_corrected_to_added(workspace: Workspace) -> None:
    with Queue(workspace) as queue:
        arrived = queue.arrive(FEEDBACK, [failure("a"), failure("b", "good b")], "import")
        assert (arrived.new, arrived.known) == (2, 0)
        assert [item.state for item in queue.items()] == ["pending", "corrected"]
        with pytest.raises(UserError, match="no corrected answer yet"):
            queue.accept(1)
        assert queue.accept(1, answer="好 a").state == "corrected"
        added = queue.add()
        assert (added.rows, added.files) == (2, {"datasets/feedback.jsonl": 2})
        assert queue.counts()[FEEDBACK]["added"] == 2
        assert queue.item(1).file == "datasets/feedback.jsonl"
    assert lines(workspace.datasets / "feedback.jsonl") == [
        chat_row(asked("a"), "好 a"), chat_row(asked("b"), "good b"),
    ]  # fmt: skip


def test_candidates_stay_out_of_every_set_until_accepted_and_added(workspace: Workspace) -> None:
    with Queue(workspace) as queue:
        queue.arrive(CANDIDATE, [candidate("a"), candidate("b"), candidate("c")])
        assert queue.add().rows == 0 and not list(workspace.datasets.iterdir())
        queue.accept(1)
        queue.accept(2, row=json.dumps(chat_row(asked("b?"), "edited")))
        queue.dismiss(3, "dull")
        assert queue.add([1, 2]).files == {"datasets/tickets-candidates.jsonl": 2}
        assert queue.item(3).reason == "dull"
    assert lines(workspace.datasets / "tickets-candidates.jsonl")[1] == chat_row(
        asked("b?"), "edited"
    )


def test_every_decision_can_be_undone_and_done_again_over_restarts(workspace: Workspace) -> None:
    with Queue(workspace) as queue:
        queue.arrive(CANDIDATE, [candidate("a"), candidate("b")], "two")
        queue.accept(1, answer="better")
        queue.dismiss(2, "dull")
        queue.add()
    file = workspace.datasets / "tickets-candidates.jsonl"
    told = []
    for _ in range(4):
        with Queue(workspace) as queue:
            told.append(queue.undo())
    assert told == [
        "Undid the add of 1 item (datasets/tickets-candidates.jsonl).",
        "Undid the dismiss of 1 item (dull).",
        "Undid the accept of 1 item.",
        "Undid the arrive of 2 items (two).",
    ]
    with Queue(workspace) as queue:
        assert queue.undo() is None and queue.items() == [] and not file.exists()
        for _ in range(4):
            assert queue.redo()
        assert queue.redo() is None
        assert [item.state for item in queue.items()] == ["added", "dismissed"]
        assert queue.item(1).answer == "better" and queue.item(1).edited
        assert lines(file) == [chat_row(asked("a"), "better")]
        queue.undo()
        queue.dismiss(1)
        assert queue.redo() is None, "a new decision ends what could be redone"


def test_who_did_what_and_when_is_kept(workspace: Workspace) -> None:
    with Queue(workspace) as queue:
        queue.arrive(FEEDBACK, [failure("a")], "import of log.jsonl")
        queue.dismiss(1, "not ours")
        queue.undo()
        steps = queue.history()
    assert [(step.kind, step.items, step.note) for step in steps] == [
        ("undo", 1, ""), ("dismiss", 1, "not ours"), ("arrive", 1, "import of log.jsonl"),
    ]  # fmt: skip
    assert steps[0].inverse_of == steps[1].seq
    assert all(step.actor and step.time > 1.7e9 for step in steps)


def test_the_queue_is_append_only(workspace: Workspace) -> None:
    with Queue(workspace) as queue:
        queue.arrive(FEEDBACK, [failure("a")])
        path = queue.path
    database = sqlite3.connect(path)
    for table in ("item", "op", "change"):
        for sql in (f"DELETE FROM {table}", f"UPDATE {table} SET rowid = rowid"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                database.execute(sql)
    database.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_equal_reports_are_one_item_and_each_counts_once(workspace: Workspace) -> None:
    with Queue(workspace) as queue:
        key, _, entry = failure("a")
        for origin in ("monday", "tuesday", "monday"):
            queue.arrive(FEEDBACK, [(key, origin, entry)])
        queue.arrive(FEEDBACK, [failure("rare")])
        assert [item.reports for item in queue.items()] == [2, 1]
        queue.arrive(FEEDBACK, [(key_of("rare"), f"again {n}", entry) for n in range(5)])
        assert queue.ids(order="reports") == [2, 1]


def test_a_correction_that_comes_later_is_taken_but_overrides_nobody(workspace: Workspace) -> None:
    with Queue(workspace) as queue:
        queue.arrive(FEEDBACK, [failure("a")])
        assert queue.arrive(FEEDBACK, [failure("a", "late")]).corrected == 1
        assert queue.item(1).state == "corrected" and queue.item(1).answer == "late"
        assert queue.arrive(FEEDBACK, [failure("a", "later")]).known == 1
        assert queue.item(1).answer == "late"
        queue.undo()
        assert queue.item(1).state == "pending"


def test_what_was_undone_may_arrive_again(workspace: Workspace) -> None:
    with Queue(workspace) as queue:
        queue.arrive(FEEDBACK, [failure("a")])
        queue.undo()
        with pytest.raises(UserError, match="no item 1"):
            queue.item(1)
        assert queue.arrive(FEEDBACK, [failure("a", "fixed")]).new == 1
        assert queue.item(1).state == "corrected" and queue.item(1).answer == "fixed"


def test_reopening_brings_an_item_back_as_it_came(workspace: Workspace) -> None:
    with Queue(workspace) as queue:
        queue.arrive(FEEDBACK, [failure("a", "came"), failure("b")])
        queue.accept(1, answer="mine")
        queue.dismiss(2)
        assert queue.reopen([1, 2]) == 2
        assert [(i.state, i.answer) for i in queue.items()] == [
            ("corrected", "came"), ("pending", ""),
        ]  # fmt: skip


def test_many_items_are_accepted_in_one_step_or_not_at_all(workspace: Workspace) -> None:
    with Queue(workspace) as queue:
        queue.arrive(CANDIDATE, [candidate("a"), candidate("b")])
        queue.arrive(FEEDBACK, [failure("c")])
        with pytest.raises(UserError, match="no corrected answer yet"):
            queue.accept_all([1, 2, 3])
        assert queue.counts()[CANDIDATE]["pending"] == 2
        assert queue.accept_all([1, 2]) == 2
        queue.undo()
        assert queue.ids("pending") == [1, 2, 3]


def test_an_item_in_a_set_is_not_decided_again(workspace: Workspace) -> None:
    with Queue(workspace) as queue:
        queue.arrive(FEEDBACK, [failure("a", "good")])
        queue.add()
        for decide in (queue.dismiss, queue.reopen, queue.accept):
            with pytest.raises(UserError, match=r"is in datasets/feedback\.jsonl already"):
                decide(1)
        with pytest.raises(UserError, match="is added, not accepted"):
            queue.add([1])


def test_refused_candidates_keep_their_reason_and_are_never_added(workspace: Workspace) -> None:
    broken = Entry(text="{oops", refused="malformed: cut off", seed="t.jsonl:1")
    with Queue(workspace) as queue:
        arrived = queue.arrive(
            CANDIDATE,
            [(5, "x", broken), candidate("twin", refused="duplicate of line 4 of t.jsonl")],
        )
        assert (arrived.new, arrived.refused) == (0, 2)
        assert [item.entry.refused for item in queue.items("refused")] == [
            "malformed: cut off", "duplicate of line 4 of t.jsonl",
        ]  # fmt: skip
        with pytest.raises(UserError, match="no usable row"):
            queue.accept(1)
        assert queue.add().rows == 0
        assert queue.accept(1, row=json.dumps(chat_row(asked("ok"), "ok"))).state == "accepted"
        assert queue.accept(2).state == "accepted", "a person may overrule"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("{", "is not JSON"),
        ('{"text": "x"}', "wrong shape: text, not chat"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "last turn is not the assistant"),
        ('{"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": "x"}]}',
         "empty user turn"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "nobody asks"),
        ('{"messages": [{"role": "wizard", "content": "x"}]}', "wizard"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "is not JSON"),
    ],
)  # fmt: skip
def test_a_row_that_could_not_be_trained_on_is_not_accepted(
    workspace: Workspace, row: str, why: str
) -> None:
    with Queue(workspace) as queue:
        queue.arrive(CANDIDATE, [candidate("a")])
        with pytest.raises(UserError, match=why):
            queue.accept(1, row=row)
        assert queue.item(1).state == "pending"
        with pytest.raises(UserError, match="the answer is empty"):
            queue.accept(1, answer="  ")


@pytest.mark.parametrize(
    ("shape", "row", "changed"),
    [
        ("alpaca", {"instruction": "q", "input": "i", "output": "a"}, "output"),
        ("prompt-completion", {"prompt": "q", "completion": "a"}, "completion"),
        ("prompt-completion", {"question": "q", "answer": "a"}, "answer"),
        ("text", {"text": "all of it"}, "text"),
    ],
)
def test_the_answer_of_other_shapes_is_set_in_its_column(
    workspace: Workspace, shape: str, row: dict[str, str], changed: str
) -> None:
    entry = Entry(row=row, shape=shape, seed="a.jsonl:1")
    with Queue(workspace) as queue:
        queue.arrive(CANDIDATE, [(1, "o", entry)])
        assert queue.accept(1, answer="b").row == {**row, changed: "b"}
        assert queue.item(1).answer == "b"


def test_every_shape_has_a_row_that_fits_and_one_that_does_not() -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    said = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    fitting = {
        Shape.CHAT: {"messages": turns},
        Shape.SHAREGPT: {"conversations": said},
        Shape.ALPACA: {"instruction": "q", "output": "a"},
        Shape.PROMPT_COMPLETION: {"prompt": "q", "completion": "a"},
        Shape.PREFERENCE: {"prompt": "q", "chosen": "a", "rejected": "b"},
        Shape.UNPAIRED_PREFERENCE: {"prompt": "q", "completion": "a", "label": True},
        Shape.TEXT: {"text": "a"},
    }
    for shape, row in fitting.items():
        assert unfit(row, shape) == "", shape
        other = fitting[Shape.TEXT if shape is not Shape.TEXT else Shape.CHAT]
        assert unfit(other, shape).startswith("wrong shape"), shape
        assert unfit([row], shape).startswith("wrong shape"), shape


# ---------------------------------------------------------------- the files


def test_the_persons_own_files_are_never_written(workspace: Workspace) -> None:
    mine = workspace.datasets / "mine.jsonl"
    mine.write_text('{"text": "mine"}\n')
    with Queue(workspace) as queue:
        queue.arrive(FEEDBACK, [failure("a", "good")])
        for name in ("datasets/mine.jsonl", mine):
            with pytest.raises(UserError, match="not made by the review queue"):
                queue.add(file=name)
        with pytest.raises(UserError, match=r"\.jsonl"):
            queue.add(file="datasets/new.csv")
        assert queue.item(1).state == "corrected" and queue.history()[0].kind == "arrive"
    assert mine.read_text() == '{"text": "mine"}\n'


def test_bytes_that_were_in_the_file_stay_as_they_are(workspace: Workspace) -> None:
    file = workspace.datasets / "feedback.jsonl"
    with Queue(workspace) as queue:
        queue.arrive(FEEDBACK, [failure("a", "1"), failure("b", "2"), failure("c", "3")])
        queue.add([1])
        by_hand = (
            b'\n{"messages":  [], "x": "\x85\xff\r"}'  # blank line, no JSON habits, no newline
        )
        file.write_bytes(file.read_bytes() + by_hand)
        queue.add([2])
        assert file.read_bytes().count(by_hand + b"\n") == 1
        queue.undo()
        assert file.read_bytes().endswith(by_hand + b"\n")
        edited = file.read_bytes().replace(b'"1"', b'"one"')
        file.write_bytes(edited)
        assert "1 row had been changed in the file since" in (queue.undo() or "")
        assert file.read_bytes() == edited


def test_an_addition_that_was_cut_short_is_simply_done_again(workspace: Workspace) -> None:
    file = workspace.datasets / "feedback.jsonl"
    with Queue(workspace) as queue:
        queue.arrive(FEEDBACK, [failure("a", "1"), failure("b", "1")])
        queue.add([1])
        whole = file.read_bytes()
        queue.undo()
        file.write_bytes(whole)  # as if the process had died between the file and the queue
        queue.add([1, 2])
    assert [row["messages"][0]["content"] for row in lines(file)] == ["a", "b"]


def test_rows_of_held_out_data_are_not_trained_on_by_accident(workspace: Workspace) -> None:
    with Queue(workspace) as queue:
        queue.arrive(FEEDBACK, [failure("a", "x", held_out=True), failure("b", "y")])
        with pytest.raises(UserError, match="would leak the test"):
            queue.add([1])
        added = queue.add()
        assert (added.rows, added.held_out) == (1, 1)
        assert queue.add([1], held_out=True).rows == 1


def test_corrections_can_become_preference_pairs(workspace: Workspace) -> None:
    with Queue(workspace) as queue:
        queue.arrive(FEEDBACK, [failure("a", "good"), failure("b", "bad b")])
        with pytest.raises(UserError, match="is the bad one"):
            queue.add([2], preference=True)
        queue.add([1], preference=True)
        assert queue.undo() and queue.redo()
        with pytest.raises(UserError, match="holds preference rows, and these are chat rows"):
            queue.add([2], "datasets/feedback-preferences.jsonl")
    (pair,) = lines(workspace.datasets / "feedback-preferences.jsonl")
    assert pair["chosen"][0]["content"] == "good" and pair["rejected"][0]["content"] == "bad a"
    assert unfit(pair, Shape.PREFERENCE) == ""


def test_rows_of_several_shapes_do_not_go_into_one_file(workspace: Workspace) -> None:
    other = Entry(row={"prompt": "q", "completion": "a"}, shape="prompt-completion")
    with Queue(workspace) as queue:
        queue.arrive(CANDIDATE, [candidate("a"), (9, "o", other)])
        queue.accept(1)
        queue.accept(2)
        with pytest.raises(UserError, match="several shapes"):
            queue.add(file="datasets/both.jsonl")
        assert not (workspace.datasets / "both.jsonl").exists()


# ---------------------------------------------------------------- durability


_KILLED = """
import os, signal, sys
from pathlib import Path
from finetui.data.review.queue import FEEDBACK, Entry, Queue, chat_row
from finetui.workspace import Workspace
queue = Queue(Workspace(Path(sys.argv[1])))
for n in range(10**6):
    prompt = [{"role": "user", "content": f"q {n}"}]
    queue.arrive(FEEDBACK, [(n + 1, str(n), Entry(prompt=prompt, row=chat_row(prompt, "a")))])
    queue.dismiss(n + 1, "no")
    print(n + 1, flush=True)
"""


def test_what_was_told_to_be_done_survives_a_kill(workspace: Workspace) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(workspace.root)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    told = 0
    for line in process.stdout:
        told = int(line)
        if told == 5:
            os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with Queue(workspace) as queue:
        dismissed = queue.ids("dismissed")
        assert dismissed[: max(told, 5)] == list(range(1, max(told, 5) + 1))
        assert queue.undo() and queue.redo()


def test_two_sessions_at_once_lose_nothing(workspace: Workspace) -> None:
    def work(name: str) -> None:
        with Queue(workspace) as queue:
            for number in range(10):
                queue.arrive(FEEDBACK, [failure(f"{name} {number}", "x")])

    with Queue(workspace) as watching:
        threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(watching.items("corrected")) == 30


def test_a_broken_store_is_told_and_looking_makes_no_file(workspace: Workspace) -> None:
    with Queue(workspace) as queue:
        assert queue.items() == [] and queue.history() == [] and queue.counts()
        assert not queue.path.parent.exists()
    queue.path.parent.mkdir()
    queue.path.write_bytes(b"not a database at all, but long enough to be looked at" * 9)
    with Queue(workspace) as queue, pytest.raises(UserError, match="not a readable queue"):
        queue.items()
