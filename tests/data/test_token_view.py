"""The token view shows what training trains on: the same tokens, masks and cuts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finetui.data.records import Shape, parse_record
from finetui.data.token_view import Rules, token_rows
from finetui.data.tokens import ChatTokenizer, load_chat_tokenizer
from finetui.errors import UserError
from finetui.workspace import sample_data

CHAT = {
    "messages": [
        {"role": "user", "content": "What is 3 plus one?"},
        {"role": "assistant", "content": "It is 4. 你好 👍🏽"},
        {"role": "user", "content": "And 5?"},
        {"role": "assistant", "content": "It is 6."},
    ]
}
PAIR = {
    "prompt": [{"role": "user", "content": "Hi"}],
    "chosen": [{"role": "assistant", "content": "Hello."}],
    "rejected": [{"role": "assistant", "content": "Go away, please."}],
}


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    return load_chat_tokenizer(sample_data() / "model")


def row(tokenizer, value, shape=Shape.CHAT, **rules):
    [found] = token_rows(parse_record(value, shape), tokenizer, Rules(**rules))
    return found


@pytest.mark.parametrize("loss_on", ["assistant", "last", "all"])
@pytest.mark.parametrize("cut", ["end", "start"])
@pytest.mark.parametrize("max_length", [None, 500, 30, 12])
def test_the_states_are_those_that_training_encodes(tokenizer, loss_on, cut, max_length):
    rules = Rules(max_length=max_length, loss_on=loss_on, cut=cut, overlong="cut")
    [found] = token_rows(parse_record(CHAT, Shape.CHAT), tokenizer, rules)
    encoded = tokenizer.encode(CHAT["messages"], max_length, loss_on, None, cut)
    assert [found.ids[at] for at in found.seen] == encoded.ids
    assert found.count("cut") == encoded.truncated
    trained = [found.states[at] == "trained" for at in found.seen]
    assert trained == [False, *encoded.trained[1:]]  # nothing comes before the first


def test_the_pieces_together_are_the_text_the_model_reads(tokenizer):
    found = row(tokenizer, CHAT)
    text = "".join(piece for piece in found.pieces if not piece.startswith("⟨"))
    assert text == tokenizer.render(CHAT["messages"])
    assert all(found.pieces)


def test_a_row_that_is_left_out_says_why(tokenizer):
    assert "longer than max length" in row(tokenizer, CHAT, max_length=12).fate
    assert row(tokenizer, CHAT, max_length=12, overlong="cut").fate.startswith("nothing in it")
    assert row(tokenizer, CHAT).fate == ""
    bad = parse_record(CHAT, Shape.CHAT)
    [found] = token_rows(replace(bad, label=False), tokenizer, Rules())
    assert "bad answer" in found.fate


def test_a_pair_has_two_sides_of_which_only_the_answers_are_trained(tokenizer):
    record = parse_record(PAIR, Shape.PREFERENCE)
    sides = token_rows(record, tokenizer, Rules("dpo"))
    assert [side.side for side in sides] == ["chosen", "rejected"]
    for side, answer in zip(sides, ("Hello.", "Go away, please."), strict=True):
        trained = "".join(
            piece for piece, state in zip(side.pieces, side.states, strict=True)
            if state == "trained"
        )  # fmt: skip
        assert trained.startswith(answer)
    [chosen] = token_rows(record, tokenizer, Rules("sft"))
    assert chosen.ids == sides[0].ids
    same = parse_record({**PAIR, "rejected": PAIR["chosen"]}, Shape.PREFERENCE)
    assert {side.fate for side in token_rows(same, tokenizer, Rules("dpo"))} == {
        "both answers are the same"
    }


def test_pretraining_trains_all_but_the_first_token_of_each_piece(tokenizer):
    found = row(tokenizer, {"text": "one two three four five six"}, Shape.TEXT,
                objective="pretrain", max_length=4)  # fmt: skip
    assert [at for at, state in enumerate(found.states) if state == "masked"] == list(
        range(0, len(found.ids), 4)
    )
    assert found.count("cut") == 0


def test_an_objective_without_use_for_the_row_says_what_it_wants(tokenizer):
    for objective, words in (("dpo", "a chosen and a rejected answer"), ("kto", "a label")):
        with pytest.raises(UserError, match=words):
            row(tokenizer, CHAT, objective=objective)
