"""Shapes are detected and every shape reads into the same record."""

from __future__ import annotations

from typing import Any

import pytest

from finetui.data.records import (
    RecordError,
    Shape,
    messages,
    parse_record,
    prompt_and_reference,
    read_record,
)
from finetui.data.shapes import detect_shape

ASKED = [{"role": "user", "content": "Q"}]
CHAT = [*ASKED, {"role": "assistant", "content": "A"}]
SHAREGPT = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]

ROWS: list[tuple[dict[str, Any], Shape]] = [
    ({"messages": CHAT}, Shape.CHAT),
    ({"conversation": CHAT, "id": 7}, Shape.CHAT),
    ({"conversations": SHAREGPT}, Shape.SHAREGPT),
    ({"instruction": "Q", "input": "", "output": "A"}, Shape.ALPACA),
    ({"instruction": "Q", "response": "A"}, Shape.ALPACA),
    ({"prompt": "Q", "completion": "A"}, Shape.PROMPT_COMPLETION),
    ({"prompt": ASKED, "completion": CHAT[1:]}, Shape.PROMPT_COMPLETION),
    ({"question": "Q", "answer": "A"}, Shape.PROMPT_COMPLETION),
    ({"input": "Q", "output": "A"}, Shape.PROMPT_COMPLETION),
    ({"prompt": "Q", "chosen": "A", "rejected": "B"}, Shape.PREFERENCE),
    ({"prompt": ASKED, "chosen": CHAT[1:], "rejected": CHAT[1:]}, Shape.PREFERENCE),
    (
        {"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": SHAREGPT[1]},
        Shape.PREFERENCE,
    ),
    (
        {"chosen": CHAT, "rejected": [*ASKED, {"role": "assistant", "content": "B"}]},
        Shape.PREFERENCE,
    ),
    ({"messages": CHAT, "label": True}, Shape.UNPAIRED_PREFERENCE),
    ({"prompt": "Q", "completion": "A", "label": "false"}, Shape.UNPAIRED_PREFERENCE),
]


@pytest.mark.parametrize(("row", "shape"), ROWS)
def test_each_layout_is_detected_and_gives_the_same_chat(row: dict[str, Any], shape: Shape) -> None:
    guess = detect_shape([row])
    assert (guess.shape, guess.confidence) == (shape, 1.0)
    record = parse_record(row, shape)
    assert messages(record) == CHAT
    assert prompt_and_reference(record) == (ASKED, "A")


def test_text_is_one_trained_turn() -> None:
    assert detect_shape([{"text": "T"}, "plain"]).shape is Shape.TEXT
    assert messages(parse_record({"text": "T"}, Shape.TEXT)) == [
        {"role": "assistant", "content": "T"}
    ]


def test_the_guess_is_the_majority_with_its_share() -> None:
    guess = detect_shape([{"messages": CHAT}] * 3 + [{"x": 1}])
    assert (guess.shape, guess.confidence) == (Shape.CHAT, 0.75)
    assert "3 of 4 sampled rows" in guess.reason
    assert detect_shape([{"x": 1}]).shape is Shape.UNKNOWN


def test_alpaca_joins_input_history_and_system() -> None:
    row = {
        "instruction": "Sort", "input": "b a", "output": "a b", "system": "S",
        "history": [["1", "2"]],
    }  # fmt: skip
    chat = messages(parse_record(row, Shape.ALPACA))
    assert [turn["role"] for turn in chat] == ["system", "user", "assistant", "user", "assistant"]
    assert chat[3]["content"] == "Sort\nb a"


def test_sharegpt_tool_calls_become_tool_calls() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "function_call", "value": '{"name": "w", "arguments": {"city": "X"}}'},
            {"from": "observation", "value": "sunny"},
            {"from": "gpt", "value": "Sunny."},
        ],
        "tools": "[]",
    }
    record = parse_record(row, Shape.SHAREGPT)
    assert [turn.role for turn in record.turns] == ["user", "assistant", "tool", "assistant"]
    calls = record.turns[1].tool_calls
    assert calls == [{"type": "function", "function": {"name": "w", "arguments": {"city": "X"}}}]
    assert record.extra == {"tools": "[]"}


def test_text_parts_are_joined_and_other_parts_refused() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    row = {"messages": [{"role": "user", "content": parts}, CHAT[1]]}
    assert parse_record(row, Shape.CHAT).turns[0].content == "ab"
    parts.append({"type": "image", "url": "x"})
    with pytest.raises(RecordError, match="not text"):
        parse_record(row, Shape.CHAT)


@pytest.mark.parametrize(
    ("row", "check", "turn"),
    [
        ({"id": 1}, "missing-keys", None),
        ({"messages": "x"}, "wrong-type", None),
        ({"messages": ["x"]}, "wrong-type", 0),
        ({"messages": [*ASKED, {"role": "assistant"}]}, "missing-keys", 1),
        ({"messages": [*ASKED, {"role": "assistant", "content": None}]}, "wrong-type", 1),
        ({"messages": [*ASKED, {"role": "assitant", "content": "A"}]}, "unknown-role", 1),
        ([1], "wrong-type", None),
        (None, "wrong-type", None),
    ],
)
def test_a_fault_is_told_with_its_check_and_turn(row: object, check: str, turn: int | None) -> None:
    with pytest.raises(RecordError) as caught:
        parse_record(row, Shape.CHAT)
    assert (caught.value.check, caught.value.turn) == (check, turn)


def test_all_faults_of_a_row_are_listed_not_only_the_first() -> None:
    row = {"messages": [{"role": "user", "content": 3}, {"role": "x", "content": "A"}]}
    record, faults = read_record(row, Shape.CHAT)
    assert record is not None
    assert [(fault.check, fault.turn) for fault in faults] == [
        ("wrong-type", 0),
        ("unknown-role", 1),
    ]


def test_an_assistant_turn_of_only_tool_calls_may_have_null_content() -> None:
    turn = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    record = parse_record({"messages": [*ASKED, turn]}, Shape.CHAT)
    assert record.turns[1].content == "" and record.turns[1].tool_calls
