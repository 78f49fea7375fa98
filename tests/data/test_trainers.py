"""What other trainers do with a row, held against their own code where it can be had."""

import pytest

from finetui.data.records import Record, Shape, parse_record
from finetui.data.trainers import (
    Measured,
    axolotl_fate,
    finetui_fate,
    llama_factory_fate,
    trl_fate,
)


def chat(*roles: str) -> Record:
    turns = [{"role": role, "content": f"{role} {number}"} for number, role in enumerate(roles)]
    return parse_record({"messages": turns}, Shape.CHAT)


def measured(record: Record, tokens: int = 10, trained: int = 4, kept: int = 4) -> Measured:
    return Measured(record, tokens, trained, kept, limit=100)


@pytest.mark.parametrize(
    ("roles", "kept"),
    [
        (("user", "assistant"), True),
        (("system", "user", "assistant"), True),
        (("user", "assistant", "user", "assistant"), True),
        (("user", "assistant", "tool", "tool", "assistant"), True),
        (("user", "assistant", "user"), False),
        (("user", "user", "assistant"), False),
        (("user", "system", "assistant"), False),
        (("assistant",), False),
    ],
)
def test_llama_factory_keeps_a_row_only_when_its_turns_alternate(roles, kept):
    fate = llama_factory_fate(measured(chat(*roles)))
    assert (fate.kind == "trained") == kept
    assert bool(fate.why) != kept


def test_a_row_over_the_limit_is_cut_by_some_and_dropped_by_others():
    row = measured(chat("user", "assistant"), tokens=101)
    assert finetui_fate(row).kind == "dropped"
    assert llama_factory_fate(row).kind == "cut"
    assert axolotl_fate(row).kind == "dropped"
    assert trl_fate(row).kind == "cut"


def test_a_row_at_the_limit_is_over_for_nobody():
    row = measured(chat("user", "assistant"), tokens=100)
    for judge in (finetui_fate, llama_factory_fate, axolotl_fate, trl_fate):
        assert judge(row).kind == "trained"


def test_a_prompt_that_fills_the_limit_leaves_trl_nothing_to_train_on():
    row = measured(chat("user", "assistant"), tokens=150, trained=20, kept=0)
    assert trl_fate(row).kind == "dropped"


def test_a_chat_without_an_answer_stops_trl_and_is_dropped_by_axolotl():
    row = measured(chat("user"), trained=0, kept=0)
    assert trl_fate(row).kind == "stops"
    assert axolotl_fate(row).kind == "dropped"
