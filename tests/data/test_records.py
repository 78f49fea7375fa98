"""Shapes are detected and every shape reads into the same record."""

from __future__ import annotations

from typing import Any

import pytest

from finetui.data.records import (
    RecordError,
    Shape,
    Turn,
    messages,
    other_parts,
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


def test_text_parts_are_joined_and_other_parts_are_kept_but_never_trained_on() -> None:
    parts: list[dict[str, Any]] = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    row = {"messages": [{"role": "user", "content": parts}, CHAT[1]]}
    assert parse_record(row, Shape.CHAT).turns[0].content == "ab"
    parts.append({"type": "image_url", "image_url": {"url": "x"}})
    parts.append({"type": "input_audio", "text": None})
    record, faults = read_record(row, Shape.CHAT)
    assert record is not None and not faults
    turn = record.turns[0]
    assert (turn.content, turn.parts) == ("ab[image][audio]", parts)
    assert other_parts(turn) == ["image", "audio"]
    with pytest.raises(RecordError, match="not text"):
        parse_record(row, Shape.CHAT)


def test_a_part_that_is_no_object_is_a_fault() -> None:
    row = {"messages": [{"role": "user", "content": ["a", {"text": "b"}]}]}
    _, faults = read_record(row, Shape.CHAT)
    assert [(fault.check, fault.turn) for fault in faults] == [("wrong-type", 0)]


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content", "thinking"])
def test_reasoning_tools_and_unknown_keys_of_a_turn_are_kept(key: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    answer = {"role": "assistant", "content": None, key: "Hm.", "tool_calls": [call], "weight": 0}
    result = {"role": "tool", "content": "4", "tool_call_id": "c1", "name": "f", "x": [1]}
    record = parse_record({"messages": [*ASKED, answer, result], "id": 7}, Shape.CHAT)
    asked, turn, tool = record.turns
    assert (asked.reasoning, asked.extra, asked.tool_call_id) == (None, None, None)
    assert (turn.reasoning, turn.extra, turn.tool_calls) == ("Hm.", {"weight": 0}, [call])
    assert (tool.tool_call_id, tool.name, tool.extra) == ("c1", "f", {"x": [1]})
    assert turn.as_dict() == {"role": "assistant", "content": "", key: "Hm.", "tool_calls": [call]}
    assert tool.as_dict()["tool_call_id"] == "c1" and record.extra == {"id": 7}


def test_the_empty_keys_that_arrow_gives_every_turn_are_no_extra_keys() -> None:
    turn = {"role": "user", "content": "Q", "tool_calls": None, "name": None, "reasoning": None}
    assert parse_record({"messages": [turn]}, Shape.CHAT).turns == [Turn("user", "Q")]


def test_a_column_is_extra_unless_this_shape_reads_it() -> None:
    row = {"messages": CHAT, "source": "wiki", "text": "T", "label": "spam", "system": "S"}
    record = parse_record(row, Shape.CHAT)
    assert record.extra == {"source": "wiki", "text": "T", "label": "spam"}
    assert record.turns[0] == Turn("system", "S")
    orca = {"system_prompt": "S", "question": "Q", "response": "A", "id": "x"}
    assert [turn.role for turn in parse_record(orca, Shape.PROMPT_COMPLETION).turns] == [
        "system", "user", "assistant"
    ]  # fmt: skip


def test_a_guess_tells_how_sure_it_is_and_what_else_is_there() -> None:
    rows: list[object] = [{"messages": CHAT}] * 19 + [{"text": "T"}]
    guess = detect_shape(rows)
    assert (guess.sure, guess.mixed, guess.counts) == (
        "likely", True, {Shape.CHAT: 19, Shape.TEXT: 1}
    )  # fmt: skip
    assert "1 look like text" in guess.reason
    both = detect_shape([{"instruction": "Q", "input": "", "output": "A", "text": "Q A"}] * 3)
    assert (both.shape, both.sure, both.also) == (Shape.ALPACA, "likely", (Shape.TEXT,))
    assert "could also be read as text" in both.reason
    assert detect_shape(rows[:19]).sure == "certain"


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
