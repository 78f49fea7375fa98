"""What is wrong between a chat template and its tokenizer, found on small chats before a run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finetui.data.tokens import ChatTokenizer, Encoded, LossOn
from finetui.errors import UserError

_QUESTION, _ANSWER = "Which colour is it?", "It is green."
_ONE_TURN: list[dict[str, Any]] = [
    {"role": "user", "content": _QUESTION},
    {"role": "assistant", "content": _ANSWER},
]
_TWO_TURNS: list[dict[str, Any]] = [
    *_ONE_TURN,
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "It is blue."},
]
_CONTROL = re.compile(r"<\|[\w-]+\|>|<(?:start|end)_of_turn>|\[/?[A-Z]+(?:_[A-Z]+)*\]")
_OURS = "Choose another model.chat_template (chatml, llama3, ...), or put the template right."


@dataclass(frozen=True)
class TemplateFault:
    """One fault: ``blocks`` a run, or is only worth saying."""

    id: str
    message: str
    fix: str
    blocks: bool


def template_faults(
    tokenizer: ChatTokenizer, loss_on: LossOn = "assistant", several_turns: bool = False
) -> list[TemplateFault]:
    """The faults of a tokenizer's template, the blocking ones first.

    ``several_turns`` says that the data has chats with more than one answer.
    """
    if not tokenizer.has_template:
        return []
    found = list(_one_turn(tokenizer, loss_on))
    if not any(fault.blocks for fault in found):
        found += _earlier_turns(tokenizer, loss_on, several_turns)
    return sorted(found, key=lambda fault: not fault.blocks)


def require_sound(tokenizer: ChatTokenizer, loss_on: LossOn) -> None:
    """Raises UserError for the first fault that blocks a run."""
    for fault in template_faults(tokenizer, loss_on):
        if fault.blocks:
            raise UserError(fault.message, tokenizer.origin, fault.fix)


def _one_turn(tokenizer: ChatTokenizer, loss_on: LossOn) -> Iterator[TemplateFault]:
    try:
        whole = tokenizer.encode(_ONE_TURN, loss_on="assistant")
        prompt = tokenizer.render(_ONE_TURN[:1], answer_follows=True)
    except UserError as error:
        if error.what.startswith("the chat template writes turn"):
            yield _prompt_differs(error.what)
        else:
            yield TemplateFault("template-refuses", error.what, _OURS, True)
        return
    if not whole.text.startswith(prompt):
        yield _prompt_differs(
            f"the chat template writes the prompt {_end(prompt)!r} before an answer is asked for, "
            f"and {_end(whole.text[: len(prompt)])!r} in training"
        )
        return
    yield from _trained_part(tokenizer, whole, prompt, loss_on)
    asked = tokenizer.encode_prompt(_ONE_TURN[:1])
    if asked != whole.ids[: len(asked)]:
        yield TemplateFault(
            "tokens-differ",
            "the last token before an answer is another one in training than when answering, "
            "because the answer's first letters join it.",
            "End the generation prompt of the template with a special token or a line end.",
            True,
        )


def _trained_part(
    tokenizer: ChatTokenizer, whole: Encoded, prompt: str, loss_on: LossOn
) -> Iterator[TemplateFault]:
    """What is wrong with the marked part of a chat of one turn."""
    if loss_on == "all":
        return
    spans = [span for span, on in zip(whole.offsets, whole.trained, strict=True) if on]
    trained = whole.text[spans[0][0] : spans[-1][1]] if spans else ""
    if _ANSWER not in trained:
        yield TemplateFault(
            "answer-untrained",
            "the chat template leaves the assistant's answer outside its generation markers: "
            "nothing would be learned.",
            _OURS,
            True,
        )
        return
    if _QUESTION in trained:
        yield TemplateFault(
            "question-trained",
            "the chat template marks the user's question as the assistant's.",
            _OURS,
            True,
        )
        return
    unseen = whole.text[len(prompt) : max(len(prompt), spans[0][0])]
    if unseen.strip():
        yield TemplateFault(
            "start-untrained",
            f"the answer has to begin with {unseen!r}, which is neither in the prompt nor trained.",
            _OURS,
            True,
        )
    if not tokenizer.end_trained:
        yield _endless(tokenizer, whole.text.partition(_ANSWER)[2])


def _endless(tokenizer: ChatTokenizer, behind: str) -> TemplateFault:
    """The fault of a template that writes ``behind`` an answer and does not teach its end."""
    end = _CONTROL.search(behind)
    if end and tokenizer.tokenizer.token_to_id(end[0]) is None:
        return TemplateFault(
            "end-unknown",
            f"this tokenizer has no token {end[0]}, with which the chat template ends a turn: it "
            "would be spelled out in letters, and answers would never end.",
            "Choose the model.chat_template that belongs to the model, or zephyr or alpaca, which "
            "end turns with the tokenizer's own end token.",
            True,
        )
    return TemplateFault(
        "end-untrained",
        "the chat template leaves the end of a turn untrained, so answers would never end.",
        "Put the end-of-turn token inside the {% generation %} markers, or choose another "
        "model.chat_template.",
        True,
    )


def _earlier_turns(
    tokenizer: ChatTokenizer, loss_on: LossOn, several_turns: bool
) -> Iterator[TemplateFault]:
    """Whether an answer is still written the same way once the chat has gone on."""
    if loss_on != "assistant":
        return
    alone, whole = tokenizer.render(_ONE_TURN), ""
    try:
        whole = tokenizer.render(_TWO_TURNS)
        tokenizer.encode(_TWO_TURNS)
    except UserError:
        same = False
    else:
        answered = alone[: alone.index(_ANSWER) + len(_ANSWER)] if _ANSWER in alone else alone
        same = whole.startswith(answered)
    if not same:
        yield TemplateFault(
            "earlier-turns-differ",
            "the chat template writes an answer differently once the chat goes on, so earlier "
            "answers would be learned in another form than the last.",
            "Set data.loss_on to last, or model.chat_template to one of finetui's own.",
            several_turns,
        )


def _prompt_differs(message: str) -> TemplateFault:
    message = message if message.endswith(".") else f"{message}."
    return TemplateFault("prompt-differs", message, _OURS, True)


def _end(text: str) -> str:
    return text[-40:]
