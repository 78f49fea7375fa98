"""Records turn into other shapes without loss, or what is lost is listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetui.data.convert import CannotConvert, convert, convert_file, to_value
from finetui.data.formats.source import open_source
from finetui.data.records import Record, Shape, Turn, messages, parse_record
from finetui.data.shapes import detect_shape
from finetui.errors import UserError
from finetui.workspace import sample_data

ASKED = {"role": "user", "content": "Q"}
ANSWERED = {"role": "assistant", "content": "A"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
TOOLS: list[dict[str, Any]] = [
    ASKED,
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning": "Hm."},
    {"role": "tool", "content": "4", "tool_call_id": "c1", "name": "f"},
    ANSWERED,
]
PARTS = [{"type": "text", "text": "Look: "}, {"type": "image_url", "image_url": {"url": "u"}}]


def read(value: object) -> Record:
    return parse_record(value, detect_shape([value]).shape)


def said(record: Record) -> list[dict[str, Any]]:
    return messages(record)


# ---------------------------------------------------------------- there and back

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
META = st.dictionaries(st.sampled_from(["id", "lang", "score", "tools"]), TEXT, max_size=2)
PLAIN = st.builds(lambda role, text: {"role": role, "content": text}, st.just("user"), TEXT)
TURN_KEYS = st.dictionaries(
    st.sampled_from(["reasoning", "thinking", "name", "weight", "train"]), TEXT, max_size=2
)


@st.composite
def chats(draw: st.DrawFn) -> list[dict[str, Any]]:
    turns = [{"role": "system", "content": draw(TEXT)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        turns.append({"role": "user", "content": draw(TEXT)})
        turns.append({"role": "assistant", "content": draw(TEXT)} | draw(TURN_KEYS))
    return turns


@st.composite
def values(draw: st.DrawFn) -> dict[str, Any]:
    """Rows of every shape, plain and conversational, with columns of their own."""
    chat, answer = draw(chats()), {"role": "assistant", "content": draw(TEXT)}
    row: dict[str, Any] = draw(
        st.sampled_from([
            {"messages": chat},
            {"conversations": [{"from": turn["role"], "value": turn["content"]} for turn in chat]},
            {"instruction": draw(TEXT), "input": draw(TEXT), "output": draw(TEXT)},
            {"prompt": draw(TEXT), "completion": draw(TEXT)},
            {"prompt": chat[:-1], "completion": chat[-1:]},
            {"prompt": draw(TEXT), "chosen": draw(TEXT), "rejected": draw(TEXT)},
            {"prompt": chat[:-1], "chosen": chat[-1:], "rejected": [answer]},
            {"prompt": draw(TEXT), "completion": draw(TEXT), "label": draw(st.booleans())},
            {"messages": chat, "label": draw(st.booleans())},
            {"text": draw(TEXT)},
        ])
    )  # fmt: skip
    return row | draw(META)


@settings(max_examples=150, deadline=None)
@given(value=values())
def test_a_record_gives_the_very_value_it_was_read_from(value: dict[str, Any]) -> None:
    assert to_value(read(value)) == value


@settings(max_examples=300, deadline=None)
@given(value=values(), to=st.sampled_from([shape for shape in Shape if shape != "unknown"]))
def test_what_is_not_listed_as_dropped_can_be_read_again(value: dict[str, Any], to: Shape) -> None:
    record = read(value)
    try:
        converted = convert(record, to)
    except CannotConvert as reason:
        assert str(reason)
        return
    again = [parse_record(row, to) for row in converted.values]
    assert all(detect_shape([row]).shape is to for row in converted.values)
    if converted.dropped:
        return
    assert all(part.extra == record.extra for part in again)
    if len(again) == 1:
        assert said(again[0]) == said(record)
        assert [turn.extra for turn in again[0].all_turns()] == [
            turn.extra for turn in record.all_turns()
        ]
    else:
        assert [part.label for part in again] == [True, False]


def test_an_edited_record_is_written_with_all_that_it_holds() -> None:
    record = parse_record({"messages": TOOLS, "id": 7}, Shape.CHAT)
    record.turns[-1] = Turn("assistant", "B")
    value = to_value(record)
    assert isinstance(value, dict) and value["id"] == 7
    assert value["messages"][:3] == TOOLS[:3] and value["messages"][3]["content"] == "B"


# ---------------------------------------------------------------- what is lost is said


@pytest.mark.parametrize(
    ("value", "to", "dropped"),
    [
        ({"messages": TOOLS}, Shape.SHAREGPT, ["the ids of tool calls"]),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, Shape.CHAT, ["the rejected answer"]),
        ({"messages": [ASKED, ANSWERED], "label": True}, Shape.CHAT, ["the label"]),
        (
            {"messages": [{"role": "user", "content": PARTS}, ANSWERED]},
            Shape.ALPACA,
            ["parts that are not text (image)"],
        ),
        (
            {"messages": [ASKED, ANSWERED | {"reasoning": "Hm.", "weight": 1}]},
            Shape.ALPACA,
            ["reasoning", "the turns' key 'weight'"],
        ),
        ({"messages": [ASKED, ANSWERED]}, Shape.TEXT, ["roles and the borders of turns"]),
    ],
)
def test_each_loss_is_listed(value: dict[str, Any], to: Shape, dropped: list[str]) -> None:
    record = read_lenient(value)
    assert convert(record, to).dropped == dropped


def read_lenient(value: object) -> Record:
    from finetui.data.records import read_record

    record, _ = read_record(value, detect_shape([value]).shape)
    assert record is not None
    return record


def test_a_column_that_the_other_shape_would_misread_is_not_carried_over() -> None:
    row = {"messages": [ASKED, ANSWERED], "history": [["a", "b"]], "topic": "x"}
    converted = convert(read(row), Shape.ALPACA)
    assert "column 'history'" in converted.dropped[0]
    assert converted.value == {
        "instruction": "Q", "input": "", "output": "A", "topic": "x"
    }  # fmt: skip


def test_tool_calls_become_function_calls_and_back() -> None:
    sharegpt = convert(read({"messages": TOOLS}), Shape.SHAREGPT).value
    assert isinstance(sharegpt, dict)
    turns = sharegpt["conversations"]
    assert [turn["from"] for turn in turns] == ["human", "function_call", "observation", "gpt"]
    assert json.loads(turns[1]["value"]) == {"name": "f", "arguments": {"x": 1}}
    chat = convert(read(sharegpt), Shape.CHAT)
    assert not chat.dropped
    assert isinstance(chat.value, dict)
    call = chat.value["messages"][1]["tool_calls"][0]["function"]
    assert call == {"name": "f", "arguments": {"x": 1}}


def test_alpaca_history_and_system_hold_a_conversation() -> None:
    turns = [{"role": "system", "content": "S"}, ASKED, ANSWERED, ASKED, ANSWERED]
    converted = convert(read({"messages": turns}), Shape.ALPACA)
    assert converted.value == {
        "system": "S", "instruction": "Q", "input": "", "output": "A", "history": [["Q", "A"]]
    }  # fmt: skip
    assert not converted.dropped and "not learnt" in converted.notes[0]


def test_a_pair_becomes_two_judged_rows() -> None:
    pair = {"prompt": "Q", "chosen": "A", "rejected": "B", "id": 1}
    converted = convert(read(pair), Shape.UNPAIRED_PREFERENCE)
    assert converted.values == [
        {"prompt": "Q", "completion": "A", "label": True, "id": 1},
        {"prompt": "Q", "completion": "B", "label": False, "id": 1},
    ]
    assert not converted.dropped


@pytest.mark.parametrize(
    ("value", "to", "why"),
    [
        ({"prompt": "Q", "completion": "A", "label": False}, Shape.CHAT, "labelled bad"),
        ({"messages": [ASKED, ANSWERED]}, Shape.PREFERENCE, "no second answer"),
        ({"messages": [ASKED, ANSWERED]}, Shape.UNPAIRED_PREFERENCE, "good or bad"),
        ({"messages": TOOLS}, Shape.ALPACA, "calls of tools"),
        ({"messages": [ASKED]}, Shape.PROMPT_COMPLETION, "end with an answer"),
        ({"text": "T"}, Shape.ALPACA, "no prompt"),
    ],
)
def test_what_cannot_be_converted_says_why(value: dict[str, Any], to: Shape, why: str) -> None:
    with pytest.raises(CannotConvert, match=why):
        convert(read(value), to)


# ---------------------------------------------------------------- files


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    )
    return path


def test_a_file_is_converted_and_every_row_accounted_for(tmp_path: Path) -> None:
    pair = {"prompt": "é", "completion": "A"}
    path = jsonl(tmp_path / "a.jsonl", pair, "", "{broken", {"prompt": 1, "completion": "A"}, pair)
    with open_source(path) as source:
        result = convert_file(source, Shape.CHAT, tmp_path / "out.jsonl")
    assert (result.rows, result.written, result.blank, result.lossless) == (5, 2, 1, False)
    assert sorted(result.first_lines.values()) == [[3], [4]]
    with open_source(tmp_path / "out.jsonl") as out:
        assert out.rows == 2 and out.shape.shape is Shape.CHAT
        assert "é".encode() in out.raw(0)


def test_nothing_is_written_over_and_no_unknown_shape_is_guessed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"x": 1})
    with open_source(path) as source:
        with pytest.raises(UserError, match="not known"):
            convert_file(source, Shape.CHAT, None)
        with pytest.raises(UserError, match="there already"):
            convert_file(source, Shape.CHAT, path, shape=Shape.TEXT)
    assert path.read_text() == '{"x": 1}\n'


@pytest.mark.parametrize("to", [Shape.CHAT, Shape.SHAREGPT, Shape.PROMPT_COMPLETION])
def test_the_sample_set_goes_there_and_back(tmp_path: Path, to: Shape) -> None:
    path = next(iter(sorted((sample_data() / "datasets").glob("*.jsonl"))))
    with open_source(path) as source:
        shape = source.shape.shape
        there = convert_file(source, to, tmp_path / "there.jsonl")
        expected = [said(parse_record(source.value(row), shape)) for row in range(10)]
    with open_source(tmp_path / "there.jsonl") as source:
        back = [said(parse_record(source.value(row), to)) for row in range(10)]
    assert there.written and back == expected
