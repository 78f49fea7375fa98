"""The tokens on screen are the tokens in training, and the right ones are trained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from finetui.data.tokens import ChatTokenizer, Encoded, kept_out, load_chat_tokenizer
from finetui.errors import UserError
from finetui.workspace import sample_data

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' "
    "+ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CHATS = {
    "one turn": [
        {"role": "user", "content": "My account was charged twice."},
        {"role": "assistant", "content": '{"urgency": "high"}'},
    ],
    "several turns": [
        {"role": "system", "content": "You are kind."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Good day!"},
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4"},
    ],
    "white space at the edges": [
        {"role": "user", "content": "  spaced  \n\n"},
        {"role": "assistant", "content": " \n  answer with edges  "},
    ],
    "many bytes a character": [
        {"role": "user", "content": "Grüße 👩‍👩‍👧 日本語"},
        {"role": "assistant", "content": "日本語 🎉 end 🎉"},
    ],
    "empty answer": [
        {"role": "user", "content": "Say nothing."},
        {"role": "assistant", "content": ""},
    ],
    "no assistant": [{"role": "user", "content": "Anyone?"}],
}


@pytest.fixture(scope="module")
def chat() -> ChatTokenizer:
    return load_chat_tokenizer(sample_data() / "model")


def trained_text(encoded: Encoded) -> str:
    """What is trained on, as text: its first to its last trained token, run by run."""
    runs, inside = [], False
    for (start, end), trained in zip(encoded.offsets, encoded.trained, strict=True):
        if trained and not inside:
            runs.append([start, end])
        elif trained:
            runs[-1][1] = end
        inside = trained
    return "|".join(encoded.text[start:end] for start, end in runs)


@pytest.mark.torch
@pytest.mark.parametrize("name", CHATS)
def test_ids_and_masks_equal_those_of_transformers(chat: ChatTokenizer, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(sample_data() / "model")
    expected = theirs.apply_chat_template(
        CHATS[name], return_dict=True, return_assistant_tokens_mask=True
    )
    encoded = chat.encode(CHATS[name])
    assert encoded.ids == expected["input_ids"]
    assert [int(trained) for trained in encoded.trained] == expected["assistant_masks"]
    assert (
        chat.encode_prompt(CHATS[name][:1])
        == theirs.apply_chat_template(
            CHATS[name][:1], add_generation_prompt=True, return_dict=True
        )["input_ids"]
    )


def test_the_answer_and_its_end_are_trained_and_nothing_else(chat: ChatTokenizer) -> None:
    encoded = chat.encode(CHATS["several turns"])
    assert trained_text(encoded) == "Good day!<|im_end|>|4<|im_end|>"
    assert chat.end_trained
    assert chat.stop_ids == (3,)


@pytest.mark.parametrize("name", CHATS)
def test_prefix_rendering_finds_the_same_tokens_as_markers(chat: ChatTokenizer, name: str) -> None:
    unmarked = dataclasses.replace(chat, template=CHATML)
    assert not unmarked.has_markers
    with_markers, without = chat.encode(CHATS[name]), unmarked.encode(CHATS[name])
    assert without == with_markers


@pytest.mark.parametrize("template", ["", CHATML])
def test_only_the_last_turn_is_trained_when_asked(chat: ChatTokenizer, template: str) -> None:
    tokenizer = dataclasses.replace(chat, template=template) if template else chat
    encoded = tokenizer.encode(CHATS["several turns"], loss_on="last")
    assert trained_text(encoded) == "4<|im_end|>"


def test_all_tokens_are_trained_when_asked(chat: ChatTokenizer) -> None:
    assert all(chat.encode(CHATS["several turns"], loss_on="all").trained)


def test_a_template_that_rewrites_earlier_turns_is_named(chat: ChatTokenizer) -> None:
    forgetful = dataclasses.replace(
        chat,
        template="{% for m in messages %}{{ m.role }}: "
        "{{ m.content if loop.last or m.role == 'user' else '...' }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
    )
    with pytest.raises(UserError, match=r"turn 3 differently.*'Good day!") as caught:
        forgetful.encode(CHATS["several turns"])
    assert "{% generation %}" in caught.value.fix
    last_only = forgetful.encode(CHATS["several turns"], loss_on="last")
    assert trained_text(last_only).strip() == "4"


def test_a_template_that_never_trains_the_end_is_seen(chat: ChatTokenizer) -> None:
    endless = dataclasses.replace(
        chat,
        template="{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}",
    )
    assert not endless.end_trained


def test_too_long_is_cut_and_counted(chat: ChatTokenizer) -> None:
    whole = chat.encode(CHATS["several turns"])
    cut = chat.encode(CHATS["several turns"], max_length=10)
    assert (len(cut.ids), len(cut.trained), len(cut.offsets)) == (10, 10, 10)
    assert cut.truncated == len(whole.ids) - 10
    assert whole.truncated == 0


def test_the_start_is_cut_when_asked_and_a_first_token_stays(chat: ChatTokenizer) -> None:
    whole = chat.encode(CHATS["several turns"])
    cut = chat.encode(CHATS["several turns"], max_length=10, cut="start")
    assert cut.ids == whole.ids[-10:] and cut.trained == whole.trained[-10:]
    assert cut.truncated == len(whole.ids) - 10
    begun = dataclasses.replace(
        chat, template="{{ bos_token }}" + CHATML, special={"bos_token": "<|endoftext|>"}
    )
    kept = begun.encode(CHATS["several turns"], max_length=10, cut="start")
    assert kept.ids == [begun.encode(CHATS["several turns"]).ids[0], *whole.ids[-9:]]
    assert kept_out(20, 5, "start", begins=True) == range(1, 6)
    assert kept_out(20, 5, "end", begins=True) == range(15, 20)


def test_a_text_too_long_can_be_cut_on_either_side(chat: ChatTokenizer) -> None:
    whole = chat.encode_text("one two three four five six")
    assert chat.encode_text("one two three four five six", 3).ids == whole.ids[:3]
    assert chat.encode_text("one two three four five six", 3, "start").ids == whole.ids[-3:]


@pytest.mark.parametrize("template", ["", CHATML])
def test_turns_before_a_place_can_be_left_untrained(chat: ChatTokenizer, template: str) -> None:
    tokenizer = dataclasses.replace(chat, template=template) if template else chat
    turns = [*CHATS["several turns"], {"role": "assistant", "content": "Yes, 4"}]
    for start, expected in ((0, 3), (3, 2), (5, 1)):
        encoded = tokenizer.encode(turns, from_turn=start)
        assert len(trained_text(encoded).split("|>|")) == expected


def test_an_end_token_behind_a_whole_chat_is_no_difference(chat: ChatTokenizer) -> None:
    """As Phi 3 writes it: with the answer to come there is none, and between turns neither."""
    tokenizer = dataclasses.replace(
        chat,
        template=CHATML + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}",
        special={"eos_token": "<|endoftext|>"},
    )
    encoded = tokenizer.encode(CHATS["several turns"])
    assert trained_text(encoded).startswith("Good day!<|im_end|>|4<|im_end|>")


@pytest.mark.parametrize("name", CHATS)
def test_offsets_cover_the_whole_text(chat: ChatTokenizer, name: str) -> None:
    encoded = chat.encode(CHATS[name])
    reached = 0
    for start, end in encoded.offsets:
        assert start <= reached
        reached = max(reached, end)
    assert reached == len(encoded.text)


def test_plain_text_ends_with_the_end_token(chat: ChatTokenizer) -> None:
    encoded = chat.encode_text("A story.")
    assert encoded.ids[-1] == chat.end_ids[0]
    assert all(encoded.trained)


def test_without_a_template_a_completion_follows_its_prompt(chat: ChatTokenizer) -> None:
    bare = dataclasses.replace(chat, template="")
    encoded = bare.encode(
        [{"role": "user", "content": "2+2="}, {"role": "assistant", "content": "4"}]
    )
    assert encoded.text == "2+2=4"
    assert encoded.trained_tokens == 2
    assert encoded.ids[-1] == bare.end_ids[0]
    with pytest.raises(UserError, match="no chat template"):
        bare.encode(CHATS["several turns"])


def test_the_reason_of_a_refusing_template_is_passed_on(chat: ChatTokenizer) -> None:
    strict = dataclasses.replace(chat, template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(UserError, match="roles must alternate"):
        strict.encode(CHATS["one turn"])


def test_a_template_cannot_reach_python(chat: ChatTokenizer) -> None:
    hostile = dataclasses.replace(
        chat, template="{{ messages.__class__.__base__.__subclasses__() }}"
    )
    with pytest.raises(UserError, match=r"refuses|unsafe"):
        hostile.encode(CHATS["one turn"], loss_on="all")


def test_end_tokens_come_from_both_configurations(tmp_path: Path) -> None:
    source = sample_data() / "model"
    (tmp_path / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    inline = {
        "eos_token": {"content": "<|im_end|>"},
        "chat_template": [
            {"name": "tool_use", "template": "no"},
            {"name": "default", "template": CHATML},
        ],
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(inline))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 3]}))
    found = load_chat_tokenizer(tmp_path)
    assert found.end_ids == (3, 1)
    assert found.template == CHATML


def test_a_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer.json") as caught:
        load_chat_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)
