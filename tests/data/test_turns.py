"""One turn of a row is changed and every other byte stays; faults are told before it is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetui import workspace
from finetui.data.dataset import open_dataset
from finetui.data.edits.splice import leaves, replaced, respelt
from finetui.data.edits.turns import with_turn
from finetui.data.records import Shape, read_record
from finetui.errors import UserError

CHAT = '{ "id":1e2, "messages" : [{"role":"user","content":"caf\\u00e9?"},{"content":"ok","role":"assistant","x":null}] }'  # noqa: E501

ROWS: list[tuple[Shape, dict[str, Any], list[str]]] = [
    (Shape.CHAT, {"messages": [{"role": "system", "content": "ok"},
                               {"role": "user", "content": "ok"},
                               {"role": "assistant", "content": "ok"}], "tools": ["ok"]},
     ["ok", "ok", "ok"]),
    (Shape.SHAREGPT, {"system": "S", "conversations": [{"from": "human", "value": "你好"},
                                                       {"from": "gpt", "value": ""}]},
     ["S", "你好", ""]),
    (Shape.ALPACA, {"instruction": "do", "input": "this", "output": "done",
                    "history": [["a", "b"]], "system": ""}, ["a", "b", "do\nthis", "done"]),
    (Shape.PROMPT_COMPLETION, {"prompt": [{"role": "user", "content": "p"}], "completion": "c"},
     ["p", "c"]),
    (Shape.PREFERENCE, {"prompt": "p", "chosen": "c", "rejected": "r"}, ["p", "c", "r"]),
    (Shape.PREFERENCE, {
        "chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}],
        "rejected": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}]},
     ["p", "c", "r"]),
    (Shape.UNPAIRED_PREFERENCE, {"prompt": "p", "completion": "c", "label": True}, ["p", "c"]),
    (Shape.TEXT, {"text": "Привет", "meta": {"text": "Привет"}}, ["Привет"]),
    (Shape.CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "a b"}]},
                               {"role": "assistant", "content": None,
                                "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]},
     ["a b", ""]),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "value", "texts"), ROWS)
def test_each_turn_of_each_shape_can_be_changed_alone(
    shape: Shape, value: dict[str, Any], texts: list[str]
) -> None:
    text = json.dumps(value, ensure_ascii=False)
    for turn in range(len(texts)):
        new = f"new « {turn} »\n[image]"
        changed = with_turn(text, shape, turn, new)
        record, _ = read_record(json.loads(changed), shape)
        assert record
        expected = [*texts[:turn], new, *texts[turn + 1 :]]
        assert [each.content for each in record.all_turns()] == expected


def test_a_turn_put_together_from_two_fields_is_changed_where_the_change_is() -> None:
    text = '{"instruction":"Translate this.","input":"Bonjour","output":"Hello"}'
    changed = with_turn(text, Shape.ALPACA, 0, "Translate this.\nBonsoir")
    assert changed == '{"instruction":"Translate this.","input":"Bonsoir","output":"Hello"}'
    changed = with_turn(text, Shape.ALPACA, 0, "Say hello.")
    assert json.loads(changed) == {"instruction": "Say hello.", "input": "", "output": "Hello"}


def test_every_other_byte_of_the_row_stays_as_it_was_written() -> None:
    changed = with_turn(CHAT, Shape.CHAT, 1, 'no "é"')
    assert changed == CHAT.replace('"ok"', '"no \\"\\u00e9\\""')
    assert with_turn(CHAT, Shape.CHAT, 1, "ok") == CHAT


def test_a_turn_that_is_a_tool_call_is_left_to_the_json() -> None:
    call = '{"name": "f", "arguments": {}}'
    row = json.dumps({"conversations": [{"from": "human", "value": "q"},
                                        {"from": "function_call", "value": call}]})  # fmt: skip
    with pytest.raises(UserError, match="JSON instead"):
        with_turn(row, Shape.SHAREGPT, 1, "words")
    with pytest.raises(UserError, match="no turn 9"):
        with_turn(row, Shape.SHAREGPT, 8, "words")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


@given(JSON, st.booleans(), st.sampled_from([None, 1]))
def test_strings_are_found_where_they_stand_in_any_json(
    value: object, ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    found = list(leaves(text))
    for leaf in found:
        here = value
        for name in leaf.path:
            here = here[name]  # type: ignore[index]
        assert here == (None if leaf.null else leaf.text)
        assert json.loads(text[leaf.start : leaf.end]) == here

    def count(part: object) -> int:
        if isinstance(part, dict):
            return sum(map(count, part.values()))
        return (
            sum(map(count, part)) if isinstance(part, list) else part is None or part == str(part)
        )

    assert len(found) == count(value)
    assert replaced(text, []) == text
    assert respelt(text, json.dumps(value)) == text


def test_validation_tells_each_fault_of_a_text(tmp_path: Path) -> None:
    space = workspace.create(tmp_path / "work")
    file = space.datasets / "a.jsonl"
    good = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    file.write_text((json.dumps(good) + "\n") * 3)
    with open_dataset(file, space) as dataset:
        assert dataset.validate(0, json.dumps(good)) == []

        def checks(text: str) -> set[str]:
            return {fault.check for fault in dataset.validate(0, text)}

        assert checks('{"messages": [') == {"malformed-json"}
        assert "duplicate-keys" in checks(json.dumps(good)[:-1] + ', "messages": []}')
        assert "missing-keys" in checks('{"prompt": "q"}')
        assert "unknown-role" in checks(json.dumps(good).replace("user", "usr"))
        assert "role-order" in checks(json.dumps(good).replace("user", "assistant"))
        swapped = json.dumps({"messages": good["messages"][::-1]})
        with pytest.raises(UserError, match="left as it is"):
            dataset.edit(0, swapped, strict=True)
        with pytest.raises(UserError):
            dataset.edit_turn(0, 1, "")
        assert dataset.changed_rows() == []
        dataset.edit_turn(0, 1, "better")
        assert dataset.record(0).turns[1].content == "better"


def test_a_row_that_was_faulty_before_can_still_be_edited(tmp_path: Path) -> None:
    space = workspace.create(tmp_path / "work")
    file = space.datasets / "a.jsonl"
    turns = [{"role": "user", "content": "q"}, {"role": "user", "content": "again"},
             {"role": "assistant", "content": "a"}]  # fmt: skip
    file.write_text((json.dumps({"messages": turns}) + "\n") * 3)
    with open_dataset(file, space) as dataset:
        assert dataset.validate(0, dataset.text(0))
        dataset.edit_turn(0, 0, "other")
        assert dataset.record(0).turns[0].content == "other"
