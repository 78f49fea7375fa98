"""What a row asks: the same letters are one question, read fast or in full."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetui.data.blocks import blocks, doubtful, surely_json
from finetui.data.dataset import open_dataset
from finetui.data.prompts import Asked, asked, asked_in_full, letters, question, question_of
from finetui.data.records import Shape, read_record
from finetui.data.strict import JsonFault, decode

WORDS = st.sampled_from(
    ["", " ", "Hello", "ＨＥＬＬＯ", "straße", "你好 世界", "привет", "a\tb", "x" * 60, "😀", "é"]
)
ROLES = st.sampled_from(
    ["user", "assistant", "system", "tool", "User", "human", "developer", "?", "function_call"]
)
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": ROLES, "content": WORDS | st.none() | st.just([{"type": "text", "text": "t"}])},
        optional={"name": st.just("n"), "tool_calls": st.just([{"id": "1"}])},
    ),
    max_size=6,
)
ROWS = st.fixed_dictionaries({"messages": TURNS}, optional={"system": WORDS, "id": st.integers()})
BROKEN = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'
GARBAGE = st.sampled_from(
    [
        *(b"", b"  ", b"{", b"[]", b"3", b'"x"', b'{"messages": 3}', b'{"messages": []}'),
        *(b'{"a": "\xff"}', b'{"a": NaN}', b'{"a": 1}\r', BROKEN, BROKEN + b', "b": "\xff"}'),
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    ]
)


def lines(rows: list[dict[str, Any] | bytes], ascii: bool) -> bytes:
    made = [
        row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=ascii).encode()
        for row in rows
    ]
    return b"\n".join(made) + b"\n"


def flat(found: list[Asked]) -> list[tuple[int, int, int, list[int]]]:
    rows = []
    for block in found:
        for place, row in enumerate(block.rows):
            openings = [opening for at, opening in block.openings if at == place]
            rows.append((row, block.keys[place], block.marks[place], openings))
    return rows


@settings(max_examples=150, deadline=None)
@given(st.lists(ROWS | GARBAGE, min_size=1, max_size=12), st.booleans())
def test_the_fast_way_and_the_full_way_see_the_same(
    tmp_path_factory: Any, rows: list[dict[str, Any] | bytes], ascii: bool
) -> None:
    chat = {"messages": [{"role": "user", "content": "q"}]}
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    path.write_bytes(lines([chat, *rows], ascii))
    with open_dataset(path) as dataset:
        dataset.shape_override = Shape.CHAT
        fast = flat(list(asked(dataset)))
        full = []
        for read in asked_in_full(dataset):
            one, openings = question_of(read)
            full.append((read.row, one, read.mark, list(openings)))
    assert fast == full


@settings(max_examples=100, deadline=None)
@given(st.lists(ROWS | GARBAGE, min_size=1, max_size=12))
def test_a_row_that_is_not_doubted_is_one_json_value(rows: list[dict[str, Any] | bytes]) -> None:
    made = lines(rows, False).split(b"\n")[:-1]
    doubted = doubtful(made)
    for place, row in enumerate(made):
        try:
            decode(row)
            good = True
        except JsonFault:
            good = False
        assert good or place in doubted
        assert not (good and place in doubted)


def test_blocks_have_every_row_of_every_length(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [b'{"text": "%s"}' % (b"x" * size) for size in (1, 70_000, 5, 200_000, 65_536, 0)]
    for end in (b"\n", b""):
        path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(rows) + end)
        with open_dataset(path) as dataset:
            found = list(blocks(dataset))
            assert [row for block in found for row in block.rows] == rows
            assert b"".join(block.read for block in found) == path.read_bytes()
            assert [block.first for block in found] == sorted({block.first for block in found})


def test_case_width_and_blanks_are_no_difference() -> None:
    assert letters("Where  IS\nit?") == letters("where is it ?") == b"whereisit?"
    assert letters("ＡＢ　ｃ") == letters("abc")
    assert letters("今日 は") == letters("今日は")
    assert letters("ПРИВЕТ") == letters("привет")


def key(value: object, shape: Shape) -> int:
    record = read_record(value, shape)[0]
    assert record is not None
    return question(record)[0]


def test_a_question_is_the_same_in_every_shape() -> None:
    said = [("system", "s"), ("user", "Why not?"), ("assistant", "a")]
    chat = {"messages": [{"role": role, "content": text} for role, text in said]}
    one = key(chat, Shape.CHAT)
    assert one == key({"prompt": "why NOT?", "completion": "b"}, Shape.PROMPT_COMPLETION)
    assert one == key({"instruction": "Why not?", "output": "c"}, Shape.ALPACA)
    assert one == key(
        {"conversations": [{"from": "human", "value": "Why not?"}, {"from": "gpt", "value": "d"}]},
        Shape.SHAREGPT,
    )
    assert one == key({"prompt": "Why not?", "chosen": "e", "rejected": "f"}, Shape.PREFERENCE)


def test_rows_that_ask_nothing_are_told_by_their_content() -> None:
    def answer(text: str) -> int:
        return key({"messages": [{"role": "assistant", "content": text}]}, Shape.CHAT)

    assert answer("a") == answer("a") != answer("b")


@pytest.mark.parametrize(
    "text",
    [
        "1 2\n\n",
        "{}{}\n[1,\n2]\n",
        "[1,\n2]\n3 4\n",
        "{}\r\n",
        " {}\n",
        "{}\n\n",
        '{"a":NaN}\n',
        "{\n",
    ],
)
def test_a_text_whose_lines_are_not_one_value_each_is_not_sure(text: str) -> None:
    assert not surely_json(text.encode(), text.count("\n"))


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS | GARBAGE, min_size=1, max_size=12))
def test_a_sure_text_has_no_doubtful_row(rows: list[dict[str, Any] | bytes]) -> None:
    text = lines(rows, False)
    if surely_json(text, text.count(b"\n")):
        assert not doubtful(text.split(b"\n")[:-1])
