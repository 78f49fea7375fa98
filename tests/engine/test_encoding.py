"""No row goes missing unsaid: what is left out, refused or cut is counted and named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tiny_jobs import chat, write_rows

from finetui.data.tokens import ChatTokenizer
from finetui.engine.dataset import CALLS_UNWRITTEN, REFUSED, Encoding, encode_files, mixed
from finetui.errors import UserError
from finetui.recipe.schema import Data

CALL = {"type": "function", "function": {"name": "find_it", "arguments": {}}}


def calling() -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": "Find it."},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
        ]
    }


def encode(
    tokenizer: ChatTokenizer, folder: Path, rows: list[dict[str, Any]], **data: Any
) -> Encoding:
    path = write_rows(folder / "rows.jsonl", rows)
    return encode_files([str(path)], tokenizer, Data(max_length=64, **data))


def test_a_tool_call_that_the_template_leaves_out_is_not_trained_as_an_empty_answer(
    tokenizer: ChatTokenizer, tmp_path: Path
) -> None:
    found = encode(
        tokenizer, tmp_path, [chat(f"Is it {n}?", "yes") for n in range(5)] + [calling()]
    )
    assert len(found.examples) == 5
    assert found.left_out == {CALLS_UNWRITTEN: 1}
    assert found.first_left_out[CALLS_UNWRITTEN].endswith("rows.jsonl:6")


def test_rows_that_a_template_refuses_are_counted_with_its_reason(
    tokenizer: ChatTokenizer, tmp_path: Path
) -> None:
    strict = dataclasses.replace(
        tokenizer,
        template="{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}" + tokenizer.template,
    )
    rows = [chat(f"Is it {n}?", "yes") for n in range(5)]
    rows.append({"messages": [{"role": "system", "content": "Be kind."}, *rows[0]["messages"]]})
    found = encode(strict, tmp_path, rows)
    assert found.left_out == {REFUSED: 1}
    assert "no system" in found.first_left_out[REFUSED]


def test_many_untrainable_rows_stop_the_run_before_it_starts(
    tokenizer: ChatTokenizer, tmp_path: Path
) -> None:
    rows = [chat("Is it?", "yes")] * 3 + [calling()] * 2
    with pytest.raises(UserError, match="2 of 5 rows are with tool calls .*rows.jsonl:4"):
        encode(tokenizer, tmp_path, rows)


def test_a_faulty_template_stops_the_run_before_a_row_is_read(
    tokenizer: ChatTokenizer, tmp_path: Path
) -> None:
    endless = dataclasses.replace(
        tokenizer, template="{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}"
    )
    with pytest.raises(UserError, match="answer"):
        encode(endless, tmp_path, [chat("Is it?", "yes")])


@pytest.mark.parametrize("side", ["end", "start"])
def test_a_long_row_is_cut_on_the_chosen_side(
    tokenizer: ChatTokenizer, tmp_path: Path, side: Any
) -> None:
    row = chat("please help " * 40, "invoice " * 4)
    cut = {"overlong": "truncate", "truncation_side": side}
    rows = [chat("Is it?", "yes"), row]
    found = encode(tokenizer, tmp_path, rows, **cut)
    assert len(encode(tokenizer, tmp_path, rows).examples) == 1
    if side == "end":  # the answer is gone: there is nothing to learn
        assert found.left_out["longer than max_length"] == 1
    else:
        assert found.truncated == 1
        assert found.examples[1].trained_tokens == tokenizer.encode(row["messages"]).trained_tokens


def test_general_rows_are_mixed_in_as_files_behind_the_task(
    tokenizer: ChatTokenizer, tmp_path: Path
) -> None:
    task = encode(tokenizer, tmp_path, [chat(f"Is it {n}?", "yes") for n in range(8)])
    everyday = write_rows(tmp_path / "everyday.jsonl", [chat(f"Why {n}?", "so") for n in range(9)])
    general = encode_files([str(everyday)], tokenizer, Data(max_length=64))
    both = mixed(task, general, 0.5, seed=1)
    assert len(both.examples) == 12 and both.files == [*task.files, str(everyday)]
    assert [item.file for item in both.examples] == [0] * 8 + [1] * 4
