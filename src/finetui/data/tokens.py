"""Chat to tokens, and which of them are trained on: one code for the screen and for training.

Stands on `tokenizers` (imported lazily) and `data.chat_template`, never on transformers.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from finetui.data.chat_template import ChatTemplate, Span
from finetui.data.templates import template_source
from finetui.errors import BROKEN, UserError

if TYPE_CHECKING:
    import tokenizers

LossOn: TypeAlias = Literal["assistant", "last", "all"]
Side: TypeAlias = Literal["end", "start"]
Messages: TypeAlias = Sequence[Mapping[str, Any]]

_PROBE: list[dict[str, str]] = [
    {"role": "user", "content": "question"},
    {"role": "assistant", "content": "answer"},
]


@dataclass(frozen=True)
class Encoded:
    """One example as tokens.

    ``ids``, ``trained`` and ``offsets`` have one entry a token; offsets are characters of
    ``text``. ``truncated`` counts the tokens that were cut off to fit ``max_length``. ``joined``
    says that an answer's first letters share a token with the end of its prompt: when answering,
    the model sees another token there.
    """

    ids: list[int]
    trained: list[bool]
    truncated: int
    offsets: list[Span]
    text: str
    joined: bool = False

    @property
    def trained_tokens(self) -> int:
        return sum(self.trained)


@dataclass
class ChatTokenizer:
    """A model's tokenizer with its chat template.

    ``end_ids`` are the tokens that end an answer; ``pad_id`` fills batches and is never trained.
    """

    tokenizer: tokenizers.Tokenizer
    template: str
    special: dict[str, str]
    end_ids: tuple[int, ...]
    pad_id: int
    origin: str = ""

    @property
    def has_template(self) -> bool:
        return bool(self.template)

    @property
    def has_markers(self) -> bool:
        """True when the template itself says which part is the assistant's."""
        return self._template.has_markers

    @cached_property
    def end_trained(self) -> bool:
        """True when the end-of-turn token is trained on; otherwise answers never learn to end."""
        if not self.has_template:
            return bool(self.end_ids)
        probe = self.encode(_PROBE)
        last = max((i for i, trained in enumerate(probe.trained) if trained), default=-1)
        return last >= 0 and self._is_special(probe.ids[last])

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that stop generation: the model's own and the template's end of turn."""
        if self.has_template and self.end_trained:
            probe = self.encode(_PROBE)
            last = max(i for i, trained in enumerate(probe.trained) if trained)
            return tuple(dict.fromkeys((probe.ids[last], *self.end_ids)))
        return self.end_ids

    def encode(
        self,
        messages: Messages,
        max_length: int | None = None,
        loss_on: LossOn = "assistant",
        tools: Sequence[Any] | None = None,
        cut: Side = "end",
        from_turn: int = 0,
    ) -> Encoded:
        """Tokens of a whole chat, with the trained ones marked.

        ``loss_on``: every assistant turn, only the last one, or all tokens; ``from_turn`` (counted
        from 0) leaves the turns before it untrained. A chat longer than ``max_length`` loses its
        ``cut`` side. Raises UserError when the template refuses the chat or cannot tell its
        assistant part.
        """
        if not self.has_template:
            encoded = self._encode_without_template(messages, loss_on)
        else:
            turns = [turn for turn in _assistant_turns(messages) if turn >= from_turn]
            wanted = turns[-1:] if loss_on == "last" else turns
            text, spans = self._spans(messages, tools, None if loss_on == "all" else wanted)
            encoded = self._encoded(text, spans)
        return shortened(encoded, max_length, cut, self._begins(encoded))

    def _spans(
        self, messages: Messages, tools: Sequence[Any] | None, turns: list[int] | None
    ) -> tuple[str, list[Span]]:
        """Text and what is trained of it: these assistant turns, or everything for None."""
        if turns is None:
            text = self.render(messages, tools=tools)
            return text, [(0, len(text))]
        if not self.has_markers:
            return self._prefixed(messages, tools, turns)
        text, spans = self._template.render(self._variables(messages, False, tools))
        left_out = [turn for turn in _assistant_turns(messages) if turn not in turns]
        return text, self._behind(messages, tools, text, spans, turns) if left_out else spans

    def encode_text(self, text: str, max_length: int | None = None, cut: Side = "end") -> Encoded:
        """Plain text: every token trained, an end token behind it."""
        encoded = self._encoded(text, [(0, len(text))], end=True, add_special_tokens=True)
        return shortened(encoded, max_length, cut, self._begins(encoded))

    def encode_prompt(self, messages: Messages, tools: Sequence[Any] | None = None) -> list[int]:
        """Tokens of a chat up to where the assistant's answer begins."""
        if not self.has_template:
            text = "".join(str(turn.get("content") or "") for turn in messages)
            return list(self.tokenizer.encode(text, add_special_tokens=True).ids)
        text = self.render(messages, answer_follows=True, tools=tools)
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids`` without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def render(
        self,
        messages: Messages,
        answer_follows: bool = False,
        tools: Sequence[Any] | None = None,
    ) -> str:
        """The chat as the model reads it. Raises UserError when the template refuses it."""
        if not self.has_template:
            raise UserError("this model has no chat template.", self.origin)
        return self._template.render(self._variables(messages, answer_follows, tools))[0]

    # -- spans of the assistant ---------------------------------------------------------------

    def _prefixed(
        self, messages: Messages, tools: Sequence[Any] | None, turns: list[int]
    ) -> tuple[str, list[Span]]:
        """Text and the spans of assistant ``turns``, found by rendering the chat turn by turn."""
        text = self.render(messages, tools=tools)
        spans: list[Span] = []
        for turn in turns:
            before = self.render(messages[:turn], answer_follows=True, tools=tools)
            upto = (
                text
                if turn == len(messages) - 1
                else self._without_last_end(self.render(messages[: turn + 1], tools=tools), text)
            )
            self._require_prefix(before, upto, turn)
            self._require_prefix(upto, text, turn)
            spans.append((len(before), self._end_of_turn(upto)))
        return text, spans

    def _without_last_end(self, upto: str, text: str) -> str:
        """Some templates (Phi 3) write one more end token behind a whole chat, not a turn."""
        end = self.special.get("eos_token", "")
        ends = bool(end) and upto.endswith(end) and not text.startswith(upto)
        return upto.removesuffix(end) if ends else upto

    def _require_prefix(self, start: str, whole: str, turn: int) -> None:
        if whole.startswith(start):
            return
        at = next((i for i, (a, b) in enumerate(zip(start, whole, strict=False)) if a != b), None)
        place = min(len(start), len(whole)) if at is None else at
        raise UserError(
            f"the chat template writes turn {turn + 1} differently once the chat goes on: "
            f"{start[place : place + 40]!r} becomes {whole[place : place + 40]!r}, so the "
            "trained part cannot be told.",
            self.origin,
            "Set data.loss_on to last, choose another model.chat_template, or put "
            "{% generation %} markers into this one.",
        )

    def _end_of_turn(self, text: str) -> int:
        """Length of ``text`` up to its last special token, where only white space follows it."""
        bare = text.rstrip()
        ends = any(bare.endswith(token) for token in self._special_texts)
        return len(bare) if ends else len(text)

    def _behind(
        self,
        messages: Messages,
        tools: Sequence[Any] | None,
        text: str,
        spans: list[Span],
        turns: list[int],
    ) -> list[Span]:
        """The spans behind everything that is rendered before the first of ``turns``."""
        if not turns or not spans:
            return []
        try:
            before = self.render(messages[: turns[0]], tools=tools)
        except UserError:
            return spans[-len(turns) :]
        if not text.startswith(before):
            return spans[-len(turns) :]
        return [span for span in spans if span[0] >= len(before)] or spans[-len(turns) :]

    # -- text to tokens -----------------------------------------------------------------------

    def _encode_without_template(self, messages: Messages, loss_on: LossOn) -> Encoded:
        """Prompt and completion one behind the other: all a model without a template has."""
        roles = [str(message.get("role")) for message in messages]
        if roles not in (["user", "assistant"], ["assistant"]):
            raise UserError(
                f"this model has no chat template, and a chat of {len(roles)} turns "
                f"({', '.join(roles)}) needs one.",
                self.origin,
                "Use an instruct model, or put a chat_template.jinja beside its tokenizer.",
            )
        texts = [str(message.get("content") or "") for message in messages]
        whole = "".join(texts)
        start = 0 if loss_on == "all" else len(whole) - len(texts[-1])
        return self._encoded(whole, [(start, len(whole))], end=True, add_special_tokens=True)

    def _encoded(
        self,
        text: str,
        spans: list[Span],
        end: bool = False,
        add_special_tokens: bool = False,
    ) -> Encoded:
        encoding = self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        ids, offsets = list(encoding.ids), list(encoding.offsets)
        trained = [any(_covers(span, offset) for span in spans) for offset in offsets]
        if end and self.end_ids and (not ids or ids[-1] not in self.end_ids):
            ids.append(self.end_ids[0])
            offsets.append((len(text), len(text)))
            trained.append(True)
        whole = _touching(offsets)
        joined = any(_splits(start, whole) for start, _ in spans)
        return Encoded(ids, trained, 0, whole, text, joined)

    def _begins(self, encoded: Encoded) -> bool:
        """Whether the first token is the model's beginning-of-sequence token."""
        begin = self.special.get("bos_token")
        return bool(begin and encoded.ids and encoded.ids[0] == self.tokenizer.token_to_id(begin))

    def _is_special(self, token_id: int) -> bool:
        return token_id in self.end_ids or token_id in self._special_ids

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        added = self.tokenizer.get_added_tokens_decoder()
        return frozenset(number for number, token in added.items() if token.special)

    @cached_property
    def _special_texts(self) -> tuple[str, ...]:
        added = self.tokenizer.get_added_tokens_decoder()
        return tuple(token.content for token in added.values() if token.special)

    @cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self.template, self.origin)

    def _variables(
        self, messages: Messages, answer_follows: bool, tools: Sequence[Any] | None
    ) -> dict[str, Any]:
        """What a template may read, under the names that transformers gives it."""
        return {
            **self.special,
            "messages": [_without_nulls(message) for message in messages],
            "tools": list(tools) if tools else None,
            "documents": None,
            "add_generation_prompt": answer_follows,
        }


def shortened(encoded: Encoded, max_length: int | None, cut: Side, begins: bool) -> Encoded:
    """At most ``max_length`` tokens of an example, the rest cut off one side.

    A beginning-of-sequence token (``begins``) is kept when the start is cut: models lean on it.
    """
    over = len(encoded.ids) - (max_length or len(encoded.ids))
    if over <= 0:
        return encoded
    left_out = kept_out(len(encoded.ids), over, cut, begins)
    return replace(
        encoded,
        ids=encoded.ids[: left_out.start] + encoded.ids[left_out.stop :],
        trained=encoded.trained[: left_out.start] + encoded.trained[left_out.stop :],
        truncated=over,
        offsets=encoded.offsets[: left_out.start] + encoded.offsets[left_out.stop :],
    )


def kept_out(length: int, over: int, cut: Side, begins: bool) -> range:
    """The positions of ``length`` tokens that are cut when ``over`` of them are too many."""
    if cut == "end":
        return range(length - over, length)
    return range(int(begins), int(begins) + over)


def load_chat_tokenizer(model_dir: Path | str, chat_template: str = "") -> ChatTokenizer:
    """The tokenizer of a model folder, with its chat template or another.

    ``chat_template`` is the name of one of ours, a .jinja file, or empty for the folder's own.
    Reads tokenizer.json, tokenizer_config.json, chat_template.jinja, generation_config.json.
    Raises UserError when there is no tokenizer.json or one of the files is missing or broken.
    """
    import tokenizers

    folder = Path(model_dir)
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UserError(
            "no tokenizer.json here.",
            str(folder),
            "Choose a model folder in the Hugging Face layout.",
        )
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception for a broken file
        raise UserError(f"cannot be read: {error}.", str(file)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config = _json(folder / "tokenizer_config.json")
    special = _special_tokens(config, _json(folder / "special_tokens_map.json"))
    end_ids = _end_ids(tokenizer, special, _json(folder / "generation_config.json"))
    pad = tokenizer.token_to_id(special["pad_token"]) if "pad_token" in special else None
    return ChatTokenizer(
        tokenizer=tokenizer,
        template=template_source(chat_template) or _template(folder, config),
        special=special,
        end_ids=end_ids,
        pad_id=pad if pad is not None else (end_ids[0] if end_ids else 0),
        origin=str(folder),
    )


def _covers(span: Span, offset: Span) -> bool:
    """True when a token lies in ``span``, wholly or in part.

    Byte-level tokenizers trim spaces off their offsets, so a token of spaces has an empty offset
    at its own end.
    """
    start, end = span
    if offset[0] == offset[1]:
        return start < offset[1] <= end
    return offset[0] < end and offset[1] > start


def _splits(place: int, offsets: list[Span]) -> bool:
    """True when a character place lies inside a token."""
    at = bisect.bisect_left(offsets, (place, place)) - 1
    return at >= 0 and offsets[at][0] < place < offsets[at][1]


def _touching(offsets: list[Span]) -> list[Span]:
    """Offsets without gaps: trimmed white space goes to the token behind it, where it belongs."""
    whole: list[Span] = []
    reached = 0
    for start, end in offsets:
        whole.append((min(start, reached), end))
        reached = max(reached, end)
    return whole


def _assistant_turns(messages: Messages) -> list[int]:
    return [turn for turn, message in enumerate(messages) if message.get("role") == "assistant"]


def _without_nulls(message: Mapping[str, Any]) -> dict[str, Any]:
    """Many templates write "None" for a null content or crash on it, but accept a missing key."""
    return {key: value for key, value in message.items() if value is not None}


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(_read(path))
    except BROKEN as error:
        raise UserError(f"is not valid JSON: {error}.", str(path)) from error
    return found if isinstance(found, dict) else {}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}.", str(path)) from error
    except UnicodeDecodeError as error:
        raise UserError(f"is not UTF-8: {error.reason}.", str(path)) from error


def _template(folder: Path, config: dict[str, Any]) -> str:
    """The chat template: its own file first, then the one inside tokenizer_config.json."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return _read(file)
    found = config.get("chat_template")
    if isinstance(found, list):  # several, by name
        named = {
            entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)
        }
        found = named.get("default")
    return found if isinstance(found, str) else ""


def _special_tokens(*sources: dict[str, Any]) -> dict[str, str]:
    """bos_token, eos_token, pad_token, unk_token by name, the first source that has one wins."""
    found: dict[str, str] = {}
    for source in sources:
        for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
            value = source.get(name)
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                found.setdefault(name, text)
    return found


def _end_ids(
    tokenizer: tokenizers.Tokenizer, special: dict[str, str], generation: dict[str, Any]
) -> tuple[int, ...]:
    """End tokens of the tokenizer and of generation_config.json, without repeats."""
    found: list[int] = []
    if "eos_token" in special:
        own = tokenizer.token_to_id(special["eos_token"])
        if own is not None:
            found.append(own)
    listed = generation.get("eos_token_id")
    for number in listed if isinstance(listed, list) else [listed]:
        if isinstance(number, int) and number not in found:
            found.append(number)
    return tuple(found)
