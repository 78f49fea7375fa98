"""Pairs whose sides say the same, and rows that are judged by themselves in any process."""

from __future__ import annotations

from pathlib import Path

import pytest
from whole_workshop import pair, write

from finetui.data.checks.model import CheckOptions
from finetui.data.checks.registry import CHECKS
from finetui.data.checks.run import check_files

SAME = frozenset({"identical-pair"})


@pytest.mark.parametrize(
    ("chosen", "rejected", "said"),
    [
        ("Yes.", "Yes.", "are the same"),
        ("Yes  sir", "yes sir", "differ in case and spacing only"),
        ("ＡＢＣ", "abc", "differ in case and spacing only"),
    ],
)
def test_a_pair_without_a_difference_is_told_at_the_chosen_turn(
    tmp_path: Path, chosen: str, rejected: str, said: str
) -> None:
    rows = [pair("q", "a", "b"), pair("q", chosen, rejected)]
    (finding,) = check_files([write(tmp_path / "p.jsonl", rows)], CheckOptions(only=SAME))
    assert (finding.line, finding.turn) == (2, 1) and said in finding.message


def test_pairs_that_differ_in_a_tool_call_or_in_words_are_fine(tmp_path: Path) -> None:
    call = [{"type": "function", "function": {"name": "find", "arguments": "{}"}}]
    turns = [{"role": "assistant", "content": "", "tool_calls": call}]
    other = [{"role": "assistant", "content": "", "tool_calls": [*call, *call]}]
    rows = [
        pair("q", "a", "a."),
        {"prompt": "q", "chosen": turns, "rejected": other},
        {"prompt": "the rejected one", "completion": "chosen"},
    ]
    assert list(check_files([write(tmp_path / "p.jsonl", rows)], CheckOptions(only=SAME))) == []


def test_every_check_of_sets_can_be_asked_for_by_its_id(tmp_path: Path) -> None:
    from importlib import import_module

    for check in CHECKS.values():
        module, _, name = check.whole.partition(":")
        assert not check.whole or callable(getattr(import_module(module), name)), check.id
        assert check.family, check.id
