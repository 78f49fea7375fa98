"""The chat templates we ship: their text and trained part as printed here, and their faults found.

In the golden texts ⟦ ⟧ stand around what is trained.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from finetui.data.template_faults import require_sound, template_faults
from finetui.data.templates import names, template_source
from finetui.data.tokens import ChatTokenizer, load_chat_tokenizer
from finetui.errors import UserError
from finetui.workspace import sample_data

GOLDEN = Path(__file__).parent / "templates"
CONTROL = [
    "<s>", "</s>", "<bos>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|end|>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
]  # fmt: skip
SPECIAL = {
    "chatml": {"eos_token": "<|im_end|>"},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "mistral": {"bos_token": "<s>", "eos_token": "</s>"},
    "gemma": {"bos_token": "<bos>", "eos_token": "<end_of_turn>"},
    "phi": {"eos_token": "<|end|>"},
    "zephyr": {"bos_token": "<s>", "eos_token": "</s>"},
    "alpaca": {"bos_token": "<s>", "eos_token": "</s>"},
}
TOOL = {
    "type": "function",
    "function": {"name": "find", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"type": "function", "function": {"name": "find", "arguments": {"what": "é"}}}
CHATS: dict[str, list[dict[str, Any]]] = {
    "one turn": [
        {"role": "user", "content": "Which colour?"},
        {"role": "assistant", "content": "Green."},
    ],
    "several turns": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Which colour?"},
        {"role": "assistant", "content": "Green."},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": "Blue.\nStill blue."},
    ],
    "tools": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Find it."},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": '{"found": 1}'},
        {"role": "assistant", "content": "One."},
    ],
    "reasoning": [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4", "reasoning_content": "two and two"},
    ],
}
TOOLS = ("chatml", "llama3", "mistral")


@pytest.fixture(scope="module")
def base() -> ChatTokenizer:
    """The sample model's tokenizer, with the control tokens of every family."""
    import tokenizers

    found = load_chat_tokenizer(sample_data() / "model")
    found.tokenizer.add_special_tokens(
        [tokenizers.AddedToken(name, special=True, normalized=False) for name in CONTROL]
    )
    return found


def with_template(base: ChatTokenizer, name: str) -> ChatTokenizer:
    special = SPECIAL[name]
    end = base.tokenizer.token_to_id(special["eos_token"])
    return dataclasses.replace(
        base, template=template_source(name), special=special, end_ids=(end,), origin=name
    )


def marked(tokenizer: ChatTokenizer, chat: str, **how: Any) -> str:
    """The text with ⟦ ⟧ around each run of trained tokens."""
    tools = [TOOL] if chat == "tools" else None
    encoded = tokenizer.encode(CHATS[chat], tools=tools, **how)
    out, inside, done = "", False, 0
    for (start, end), trained in zip(encoded.offsets, encoded.trained, strict=True):
        if trained != inside:
            out += encoded.text[done:start] + ("⟦" if trained else "⟧")
            done, inside = start, trained
        out += encoded.text[done:end]
        done = max(done, end)
    return out + encoded.text[done:] + ("⟧" if inside else "")


def chats_of(name: str) -> list[str]:
    found = ["one turn", "several turns"]
    found += ["tools"] if name in TOOLS else []
    return found + (["reasoning"] if name == "chatml" else [])


def test_every_template_we_ship_is_tested() -> None:
    assert names() == sorted(SPECIAL)


@pytest.mark.parametrize("name", names())
def test_text_and_trained_part_are_as_printed(base: ChatTokenizer, name: str) -> None:
    tokenizer = with_template(base, name)
    found = "".join(f"=== {chat}\n{marked(tokenizer, chat)}\n" for chat in chats_of(name))
    assert found == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", names())
def test_only_the_last_answer_is_trained_when_asked(base: ChatTokenizer, name: str) -> None:
    text = marked(with_template(base, name), "several turns", loss_on="last")
    (trained,) = [part.split("⟧")[0] for part in text.split("⟦")[1:]]
    assert trained.strip().startswith("Blue.\nStill blue.") and len(trained.strip()) < 40


@pytest.mark.parametrize("name", names())
def test_a_template_we_ship_has_no_fault(base: ChatTokenizer, name: str) -> None:
    tokenizer = with_template(base, name)
    assert tokenizer.has_markers and tokenizer.end_trained
    assert template_faults(tokenizer, several_turns=True) == []


@pytest.mark.parametrize("name", names())
def test_what_is_trained_is_what_an_answer_continues(base: ChatTokenizer, name: str) -> None:
    """Before every answer the training text is, token for token, what the model is asked with."""
    tokenizer = with_template(base, name)
    for chat in chats_of(name):
        tools = [TOOL] if chat == "tools" else None
        whole = tokenizer.encode(CHATS[chat], tools=tools)
        for turn, message in enumerate(CHATS[chat]):
            if message["role"] == "assistant":
                asked = tokenizer.encode_prompt(CHATS[chat][:turn], tools)
                assert whole.ids[: len(asked)] == asked
                assert whole.trained[len(asked)] and not whole.trained[len(asked) - 1]


@pytest.mark.parametrize("name", sorted(set(names()) - set(TOOLS)))
def test_a_form_without_tools_refuses_them(base: ChatTokenizer, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} has no place for tools; choose chatml"):
        marked(with_template(base, name), "tools")


@pytest.mark.parametrize("name", sorted(set(names()) - {"chatml"}))
def test_a_form_without_thoughts_refuses_them(base: ChatTokenizer, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} has no place for reasoning; choose chatml"):
        marked(with_template(base, name), "reasoning")


@pytest.mark.torch
@pytest.mark.parametrize("name", names())
def test_ids_and_masks_equal_those_of_transformers(base: ChatTokenizer, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = with_template(base, name)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=base.tokenizer, chat_template=tokenizer.template, **SPECIAL[name]
    )
    for chat in chats_of(name):
        tools = [TOOL] if chat == "tools" else None
        expected = theirs.apply_chat_template(
            CHATS[chat], tools=tools, return_dict=True, return_assistant_tokens_mask=True
        )
        encoded = tokenizer.encode(CHATS[chat], tools=tools)
        assert encoded.ids == expected["input_ids"]
        assert [int(trained) for trained in encoded.trained] == expected["assistant_masks"]


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "model"),
    [("llama3", "llama3"), ("gemma", "gemma"), ("gemma", "gemma3"), ("phi", "phi3")],
)
def test_the_text_is_that_of_the_models_own_template(
    base: ChatTokenizer, name: str, model: str
) -> None:
    """TRL carries the models' own templates."""
    trl = pytest.importorskip("trl")
    source = Path(trl.__file__).parent / "chat_templates" / f"{model}.jinja"
    ours = with_template(base, name)
    own = dataclasses.replace(ours, template=source.read_text(encoding="utf-8"))
    for chat in ("one turn", "several turns"):
        messages = CHATS[chat][1:] if chat == "several turns" and model == "gemma" else CHATS[chat]
        # Phi's own adds one more end token behind a whole chat.
        expected = own.render(messages)
        expected = expected.removesuffix(SPECIAL["phi"]["eos_token"]) if name == "phi" else expected
        assert ours.render(messages) == expected
        assert ours.render(messages[:1], answer_follows=True) == own.render(
            messages[:1], answer_follows=True
        )


# -- choosing ------------------------------------------------------------------------------------


def test_a_template_is_chosen_by_name_or_by_file(tmp_path: Path) -> None:
    folder = sample_data() / "model"
    assert load_chat_tokenizer(folder, "zephyr").template == template_source("zephyr")
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages[0].content }}")
    assert load_chat_tokenizer(folder, str(file)).template == "{{ messages[0].content }}"
    own = load_chat_tokenizer(folder)
    assert own.template == (folder / "chat_template.jinja").read_text()


def test_an_unknown_template_names_ours() -> None:
    with pytest.raises(UserError, match="no such chat template") as caught:
        load_chat_tokenizer(sample_data() / "model", "vicuna")
    assert "alpaca, chatml, gemma" in caught.value.fix


# -- faults --------------------------------------------------------------------------------------

FORM = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' %}ANSWER{% else %}{{ m.content + '<|im_end|>' }}{% endif %}"
    "{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
GOOD = FORM.replace("ANSWER", "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}")
ENDLESS = FORM.replace("ANSWER", "{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>")
BLIND = FORM.replace("ANSWER", "{{ m.content }}{% generation %}<|im_end|>{% endgeneration %}")
HIDDEN = FORM.replace(
    "ANSWER", "<think></think>{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
)
FAULTY = {
    "end-untrained": ENDLESS,
    "answer-untrained": BLIND,
    "start-untrained": HIDDEN,
    "prompt-differs": GOOD.replace("assistant\\n", "assistant:"),
    "question-trained": "{% generation %}"
    + GOOD.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    + "{% endgeneration %}",
    "template-refuses": "{{ raise_exception('never') }}",
    "tokens-differ": "{% for m in messages %}{{ m.role + ': ' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}"
    "{{ m.content + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_faulty_template_stops_a_run_before_it_starts(base: ChatTokenizer, fault: str) -> None:
    tokenizer = dataclasses.replace(base, template=FAULTY[fault])
    found = template_faults(tokenizer)
    assert [one.id for one in found if one.blocks] == [fault]
    with pytest.raises(UserError) as caught:
        require_sound(tokenizer, "assistant")
    assert caught.value.what == found[0].message and caught.value.fix


def test_a_sound_template_passes(base: ChatTokenizer) -> None:
    assert template_faults(dataclasses.replace(base, template=GOOD), several_turns=True) == []


def test_an_untrained_end_is_no_fault_where_everything_is_trained(base: ChatTokenizer) -> None:
    assert template_faults(dataclasses.replace(base, template=ENDLESS), "all") == []


def test_answers_rewritten_later_block_only_data_that_has_such_chats(base: ChatTokenizer) -> None:
    forgetful = dataclasses.replace(
        base,
        template=GOOD.replace(
            "{{ m.content + '<|im_end|>' }}{% endgeneration",
            "{{ ('<think></think>' if loop.last else '') + m.content + '<|im_end|>' }}"
            "{% endgeneration",
        ),
    )
    (fault,) = template_faults(forgetful, several_turns=True)
    assert (fault.id, fault.blocks) == ("earlier-turns-differ", True)
    assert not template_faults(forgetful, several_turns=False)[0].blocks
    assert template_faults(forgetful, "last", several_turns=True) == []


def test_an_end_that_the_tokenizer_has_no_token_for_is_named() -> None:
    plain = load_chat_tokenizer(sample_data() / "model", "llama3")
    (fault,) = template_faults(plain)
    assert (fault.id, fault.blocks) == ("end-unknown", True)
    assert "<|eot_id|>" in fault.message


def test_an_answer_that_joins_its_prompt_in_one_token_is_seen(base: ChatTokenizer) -> None:
    asked = CHATS["one turn"][:1]
    joining, alone = [*asked, _answer("It is green.")], [*asked, _answer("Green.")]
    tokenizer = dataclasses.replace(base, template=FAULTY["tokens-differ"])
    assert tokenizer.encode(joining).joined, "the blank before it is one token with 'It'"
    assert not tokenizer.encode(alone).joined, "the blank before it is a token of its own"
    assert not dataclasses.replace(base, template=GOOD).encode(joining).joined


def _answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}
