"""Base against tuned, row by row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetui.errors import UserError
from finetui.evaluation.compare import Output, compare, compare_job, read_outputs


def output(row: str, answer: str, reference: str = "yes", format: bool = True) -> Output:
    return Output(row, [], answer, reference, format, answer == reference)


def test_rows_come_worst_first() -> None:
    answers = {"a": "no", "b": "yes", "c": "yes", "d": "no", "e": "no"}
    before = [output(row, answer) for row, answer in answers.items()]
    after = [
        output("a", "yes"),
        output("b", "yes"),
        output("c", "no"),
        output("d", "no"),
        output("e", "", format=False),
    ]
    comparison = compare(before, after)
    assert [(pair.before.id, pair.change) for pair in comparison.rows] == [
        ("c", "broken"),
        ("e", "wrong"),
        ("d", "wrong"),
        ("a", "fixed"),
        ("b", "right"),
    ]
    assert (comparison.paired.fixed, comparison.paired.broken) == (1, 1)
    assert comparison.before["accuracy"] == pytest.approx(0.4)


def test_rows_of_one_side_only_are_counted_and_left_out() -> None:
    comparison = compare([output("a", "yes"), output("b", "yes")], [output("b", "yes")])
    assert comparison.unpaired == 1
    assert comparison.after["n"] == 1


def test_labels_show_where_it_is_wrong() -> None:
    def ticket(urgency: str, product: str) -> str:
        return json.dumps({"urgency": urgency, "product": product})

    before = [output(str(i), "Dear customer", ticket("high", "Mail"), False) for i in range(2)]
    after = [
        output("0", ticket("high", "Mail"), ticket("high", "Mail")),
        output("1", ticket("low", "Mail"), ticket("high", "Mail")),
    ]
    table = {
        (row.field, row.label): (row.n, row.before, row.after)
        for row in compare(before, after).labels
    }
    assert table == {("urgency", "high"): (2, 0, 1), ("product", "Mail"): (2, 0, 2)}


def line(row: str, answer: str) -> str:
    entry = {"id": row, "prompt": [], "answer": answer, "reference": "yes"}
    return json.dumps({**entry, "format": True, "correct": answer == "yes"}) + "\n"


def test_a_job_is_compared_once_both_sides_are_there(tmp_path: Path) -> None:
    (tmp_path / "outputs-before.jsonl").write_text(line("a", "no"))
    assert compare_job(tmp_path) is None
    (tmp_path / "outputs-after.jsonl").write_text(line("a", "yes") + '{"id": "torn')
    comparison = compare_job(tmp_path)
    assert comparison is not None
    assert comparison.paired.fixed == 1


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "outputs.jsonl"
    path.write_text(line("a", "no") + "{}\n")
    with pytest.raises(UserError, match=r"outputs.jsonl:2"):
        read_outputs(path)
