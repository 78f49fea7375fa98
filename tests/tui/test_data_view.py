"""Rows and records as plain values: every shape, every broken row, the editor's text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from desk import HOSTILE, chat, write_rows

from finetui.data.checks.model import Finding
from finetui.data.dataset import open_dataset
from finetui.data.findings import FindingsStore
from finetui.tui.screens import data_view
from finetui.tui.screens.data_findings import Findings, Spot
from finetui.tui.screens.data_view import DataRows

SHAPES = {
    "chat": chat("hello", "hi"),
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "alpaca": {"instruction": "q", "input": "", "output": "a"},
    "prompt-completion": {"prompt": "q", "completion": "a"},
    "preference": {"prompt": "q", "chosen": "good one", "rejected": "bad one"},
    "unpaired-preference": {"prompt": "q", "completion": "a", "label": True},
    "text": {"text": "only text"},
    "unknown": {"x": 1},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_fills_its_columns(tmp_path: Path, shape: str) -> None:
    path = write_rows(tmp_path / "a.jsonl", [SHAPES[shape]] * 3)
    with open_dataset(path) as data:
        assert data.shape == shape
        row = DataRows(data, Findings()).row(1)
        assert len(row.cells) == len(data_view.columns_of(data.shape, 3))
        assert data_view.blocks_of(data, 1, [])


BROKEN = ("", "{", "[1, 2", "null", '"text"', "[]", '{"messages": 3}', HOSTILE.replace("\0", ""))


@pytest.mark.parametrize("line", BROKEN)
def test_no_line_is_too_broken_to_show(tmp_path: Path, line: str) -> None:
    path = write_rows(tmp_path / "a.jsonl", [chat("q", "a"), line, chat("q", "a")])
    with open_dataset(path) as data:
        row = DataRows(data, Findings()).row(1)
        assert len(row.cells) == len(data_view.columns_of(data.shape, 3))
        blocks = data_view.blocks_of(data, 1, [])
        assert blocks[0].notes


def test_tool_calls_can_be_read() -> None:
    call = {"function": {"name": "search", "arguments": {"q": "x"}}}
    value = {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ]
    }
    from finetui.data.records import Shape

    assert data_view.cells_of(value, Shape.CHAT)[2] == '→ search {"q": "x"}'


@pytest.mark.parametrize("text", [json.dumps(chat(HOSTILE, "a"), ensure_ascii=False), HOSTILE, "{"])
def test_the_editor_holds_no_invisible_character(text: str) -> None:
    shown = data_view.editable(text)
    assert shown.replace("\n", "").isprintable()


def test_saving_what_was_not_changed_changes_no_value() -> None:
    value = chat(f"{HOSTILE} 你好 \U0001f600", "line\nbreak\ttab")
    text = json.dumps(value, ensure_ascii=False)
    assert json.loads(data_view.one_line(data_view.editable(text))) == value


def test_a_fault_is_named_with_line_and_column() -> None:
    assert data_view.json_fault('{"a": 1}') is None
    fault = data_view.json_fault('{\n  "a" 1}')
    assert fault is not None
    assert fault[1:] == (2, 7)


@dataclass
class Encoded:
    text: str
    offsets: list[tuple[int, int]]
    trained: list[bool]


def test_trained_tokens_become_characters_of_their_turn() -> None:
    text = "<s>hi</s><a>you there</a>"
    encoded = Encoded(
        text, [(0, 3), (3, 5), (12, 15), (15, 21), (21, 25)], [False, False, True, True, True]
    )
    assert data_view.turn_spans(encoded, ["hi", "you there"]) == {0: (), 1: ((0, 9),)}


def test_a_turn_that_the_template_rewrote_gets_no_marks() -> None:
    encoded = Encoded("abc", [(0, 3)], [True])
    assert data_view.turn_spans(encoded, ["ABC", "", "abc"]) == {2: ((0, 3),)}


# -- findings --------------------------------------------------------------------------------


def spot(row: int, check: str = "empty-turn", severity: str = "error") -> Spot:
    return Spot(check, severity, row, "words")


def findings_of(folder: Path, *spots: Spot) -> Findings:
    """Findings over a real store that holds these."""
    store = FindingsStore.create(folder / "found.sqlite", "a.jsonl", "stamp")
    store.write(
        Finding(each.check, each.severity, "a.jsonl", each.row + 1, 0, None, each.message, each.row)  # type: ignore[arg-type]
        for each in spots
    )
    return Findings(store)


def test_the_next_and_the_previous_row_with_a_finding(tmp_path: Path) -> None:
    findings = findings_of(tmp_path, spot(9), spot(2), spot(2, "email", "warning"), spot(5))
    assert [findings.next_row(row) for row in (0, 2, 5, 9)] == [2, 5, 9, None]
    assert [findings.next_row(row, forward=False) for row in (9, 5, 2)] == [5, 2, None]
    findings.replace(5, [], ["empty-turn"])
    findings.replace(7, [spot(7)], ["empty-turn"])
    assert [findings.next_row(row) for row in (2, 7)] == [7, 9]
    assert [findings.next_row(row, forward=False) for row in (9, 7)] == [7, 2]


def test_the_worst_of_a_row_and_errors_first(tmp_path: Path) -> None:
    more = [spot(n, "email", "warning") for n in range(9)]
    findings = findings_of(tmp_path, spot(1, "email", "warning"), spot(1), *more)
    assert findings.worst(1) == "error"
    assert findings.worst(77) == ""
    assert [(kind.check, kind.count) for kind in findings.kinds()] == [
        ("empty-turn", 1),
        ("email", 10),
    ]


def test_an_edited_row_keeps_what_only_the_whole_file_can_show(tmp_path: Path) -> None:
    findings = findings_of(tmp_path, spot(1), spot(1, "duplicate", "warning"), spot(2))
    findings.replace(1, [spot(1, "email", "warning")], checked=["empty-turn", "email"])
    assert sorted(found.check for found in findings.of(1)) == ["duplicate", "email"]
    assert {kind.check: kind.count for kind in findings.kinds()} == {
        "empty-turn": 1, "duplicate": 1, "email": 1,
    }  # fmt: skip
    assert list(findings.rows_of("email")) == [1] and list(findings.rows_of("empty-turn")) == [2]
    findings.replace(2, [], checked=["empty-turn"])
    assert findings.next_row(1) is None


def test_before_the_first_scan_nothing_is_known() -> None:
    assert not Findings().known and Findings().next_row(0) is None and Findings().kinds() == []
