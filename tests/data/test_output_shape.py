"""Answers of another form than most: what is odd is told, what is merely different is not."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from whole_workshop import chat, sentence, write

from finetui.data.checks.answers import Ending, beginning, ending, fenced, json_answer, last_line
from finetui.data.checks.model import CheckOptions
from finetui.data.checks.output_shape import OutputShape
from finetui.data.checks.run import check_files


def told(path: Path, answers: list[str]) -> list[tuple[int, str]]:
    file = write(path / "a.jsonl", [chat(f"{sentence(n)} {n}", a) for n, a in enumerate(answers)])
    found = check_files([file], CheckOptions(only=frozenset({"output-shape"})))
    return [(finding.line, finding.message) for finding in found]


def fields(number: int, **other: Any) -> str:
    return json.dumps({"level": ("low", "high")[number % 2], "count": number, **other})


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ("It is high.", "the answer is not JSON; 99 % of the answers are"),
        ('```json\n{"level": "low", "count": 5}\n```', "stands in a code fence"),
        ('{"level": "low"}', "has the keys level; most have count, level"),
        ('{"count": 5, "level": "low"}', "the keys come as count, level; most as level, count"),
        ('{"level": "low", "count": "5"}', "count is a text; in most answers it is a number"),
        ('{"level": "Low", "count": 5}', "level is 'Low', which no other answer has"),
    ],
)
def test_one_odd_answer_among_json_answers(tmp_path: Path, odd: str, said: str) -> None:
    answers = [fields(n) for n in range(80)]
    assert told(tmp_path, answers) == []
    answers[41] = odd
    ((line, message),) = told(tmp_path, answers)
    assert line == 42 and said in message


def test_optional_nulls_mixed_numbers_and_free_key_orders_are_fine(tmp_path: Path) -> None:
    assert told(tmp_path, [fields(n, note=None if n % 9 == 0 else "x") for n in range(80)]) == []
    halves = [json.dumps({"a": 1, "b": 2.5} if n % 2 else {"b": 2, "a": 1.5}) for n in range(80)]
    assert told(tmp_path, halves) == []


def test_bare_json_is_odd_where_most_is_fenced(tmp_path: Path) -> None:
    answers = [f"```json\n{fields(n)}\n```" for n in range(80)]
    assert told(tmp_path, answers) == []
    answers[7] = fields(7)
    ((line, message),) = told(tmp_path, answers)
    assert line == 8 and "bare" in message


@pytest.mark.parametrize(
    ("usual", "odd", "said"),
    [
        ("It is {0}.", "It is only", "does not end with a full stop; 98 % do: cut off?"),
        ("{0}。", "他说，", "does not end with a full stop"),
        ("{0}", "It is ruby.", "ends with a full stop"),
        ("Answer: {0}", "It is ruby", "does not begin with 'Answer:'"),
        ("<think>so</think> {0}", "plainly ruby", "does not begin with"),
        ("It is {0}\n#### {1}", "It is ruby\n12", "does not begin its last line with '####'"),
    ],
)
def test_one_odd_answer_among_prose(tmp_path: Path, usual: str, odd: str, said: str) -> None:
    answers = [usual.format(sentence(n), n) for n in range(64)]
    assert told(tmp_path, answers) == []
    answers[30] = odd
    ((line, message),) = told(tmp_path, answers)
    assert line == 31 and said in message


def test_prose_of_many_kinds_is_left_alone(tmp_path: Path) -> None:
    kinds = ["A plain sentence.", "- a list\n- of two", "# A title\n\ntext", "42", "```py\nx\n```",
             'He said "no."', "(see above)", "Why not?", "Sure 🙂"]  # fmt: skip
    assert told(tmp_path, [f"{kinds[n % 9]}" for n in range(90)]) == []


@given(
    st.lists(
        st.sampled_from(
            [fields(1), fields(2), '{"level": "odd!"}', "prose.", "prose", '{"level": 3}', "[1]",
             '```json\n{"level": "low", "count": 5}\n```', "#### x", "", '{"count": 1, "level": 2}']
        ),
        max_size=150,
    ),
    st.integers(1, 40),
)  # fmt: skip
def test_merged_states_say_what_one_state_says(answers: list[str], step: int) -> None:
    whole, merged = OutputShape(), OutputShape()
    answers = [fields(n) for n in range(60)] + answers
    for row, answer in enumerate(answers):
        whole.answer(row, answer)
    for start in range(0, len(answers), step):
        part = OutputShape()
        for row, answer in enumerate(answers[start : start + step], start):
            part.answer(row, answer)
        merged.merge(pickle.loads(pickle.dumps(part)))  # noqa: S301 (our own, from above)
    assert list(merged.finish()) == list(whole.finish())


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("Yes.", Ending.STOP), ('He said "yes."', Ending.STOP), ("是的。", Ending.STOP),
        ("**Done!**", Ending.STOP), ("and then", Ending.OPEN), ("one, two,", Ending.OPEN),
        ("12", Ending.OPEN), ("(as above)", Ending.OTHER), ("```", Ending.OTHER),
        ("fine 🙂", Ending.OTHER), ("", Ending.OTHER),
    ],
)  # fmt: skip
def test_endings(text: str, how: Ending) -> None:
    assert ending(text) is how


def test_beginnings_last_lines_and_fences() -> None:
    assert beginning("  #### 42") == "####" and beginning("Answer: 42") == "Answer:"
    assert beginning("<think> so") == "<think>" and beginning("Well, yes") == ""
    assert last_line("a\nb\n") == "b" and last_line("a") == ""
    assert json_answer(fenced('```json\n{"a": 1}\n```')) == {"a": 1}
    assert fenced("```a\nb\n```\nand\n```c\n```") == "```a\nb\n```\nand\n```c\n```"
