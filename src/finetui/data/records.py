"""One `Record` for every data set shape: who said what, and what is to be learnt.

`read_record` reads a decoded JSON value as a shape and lists every structural fault it meets, so
that the checks can show them all; `parse_record` is the strict form for training.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn

import msgspec
from msgspec.structs import replace

from finetui.data.strict import JsonFault, decode


class Shape(StrEnum):
    """How a row is laid out."""

    CHAT = "chat"
    PROMPT_COMPLETION = "prompt-completion"
    ALPACA = "alpaca"
    SHAREGPT = "sharegpt"
    PREFERENCE = "preference"
    UNPAIRED_PREFERENCE = "unpaired-preference"
    TEXT = "text"
    UNKNOWN = "unknown"


# Column names in the wild, the preferred one first.
CHAT_KEYS = ("messages", "conversations", "conversation", "chat", "dialogue", "dialog")
PAIR_KEYS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("query", "response"),
    ("prompt", "output"),
    ("prompt", "answer"),
    ("question", "response"),
    ("input", "output"),
    ("source", "target"),
)
INSTRUCTION_ANSWERS = ("output", "response", "completion", "answer")
TEXT_KEYS = ("text", "content", "document")
LABEL_KEYS = ("label", "kto_tag", "is_desirable")
PROMPT_KEYS = ("prompt", "question", "instruction", "query", "input")
SYSTEM_KEYS = ("system", "system_prompt")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "ipython": "tool",
}
_PLAIN_ROLES = ("user", "assistant", "system")
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from"), ("content", "value")
_TEXT_PARTS = (None, "text", "input_text", "output_text")
_DETAILS: dict[str, type] = {  # optional keys of a message that have a place of their own
    "tool_calls": list, "name": str, "tool_call_id": str,
}  # fmt: skip
_PART_AFFIXES = re.compile(r"^input_|_(?:url|file|ref|base64)$")


class Turn(msgspec.Struct, frozen=True):
    """One message; ``role`` is system, user, assistant or tool (or, when faulty, as written).

    ``parts`` is multi-part content as it was; ``content`` then shows its texts, and ``[image]``
    and the like in place of other parts. ``reasoning`` stood under ``reasoning_key``; ``extra``
    keeps the keys of the message that mean nothing to us.

    A struct rather than a dataclass: there are millions, and it is made six times as fast.
    """

    role: str
    content: str
    tool_calls: list[Any] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_key: str = REASONING_KEYS[0]
    parts: list[Any] | None = None
    extra: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The message as a chat template takes it."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.reasoning:
            message[self.reasoning_key] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        if self.tool_call_id:
            message["tool_call_id"] = self.tool_call_id
        if self.name:
            message["name"] = self.name
        return message


def other_parts(turn: Turn) -> list[str]:
    """What a turn's content holds besides text (image, audio, file, ...), in order."""
    return [part_kind(part) for part in turn.parts or () if not _is_text_part(part)]


def part_kind(part: object) -> str:
    """``image`` for ``{"type": "image_url", ...}``."""
    said = part.get("type") if isinstance(part, dict) else None
    return _PART_AFFIXES.sub("", said) if isinstance(said, str) and said else "part"


@dataclass(frozen=True)
class Record:
    """One example of any shape.

    ``turns`` is the conversation with its answer; for a preference pair only the prompt, with the
    two continuations in ``chosen`` and ``rejected``. ``extra`` keeps the columns that are no text
    of the conversation (``tools``, ids, metadata). ``origin`` is the value that was read.
    """

    shape: Shape
    turns: list[Turn]
    chosen: list[Turn] | None = None
    rejected: list[Turn] | None = None
    label: bool | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    origin: object = field(default=None, compare=False, repr=False)

    def all_turns(self) -> list[Turn]:
        """Every turn; findings count turns in this order: prompt, chosen, rejected."""
        return [*self.turns, *(self.chosen or ()), *(self.rejected or ())]


@dataclass(frozen=True)
class Fault:
    """What is structurally wrong: check id, sentence, and the turn where there is one."""

    check: str
    message: str
    turn: int | None = None


class RecordError(Exception):
    """A value that is not a usable record of its shape."""

    def __init__(self, message: str, turn: int | None = None, check: str = "wrong-type") -> None:
        self.message, self.turn, self.check = message, turn, check
        super().__init__(message if turn is None else f"turn {turn}: {message}")


def parse_record(value: object, shape: Shape) -> Record:
    """Read a value as ``shape`` to train on it; raises RecordError at the first fault.

    Parts that are not text are one here: their stand-in must never be trained on.
    """
    record, faults = read_record(value, shape)
    if faults or record is None:
        fault = faults[0] if faults else Fault("wrong-type", "not a record")
        raise RecordError(fault.message, fault.turn, fault.check)
    for number, turn in enumerate(record.all_turns()):
        if turn.parts and (others := other_parts(turn)):
            raise RecordError(f"has parts that are not text ({', '.join(others)})", number)
    return record


def read_record(value: object, shape: Shape) -> tuple[Record | None, list[Fault]]:
    """Read a value as ``shape`` as far as it goes, with every fault (missing keys, types, roles).

    The record is None where nothing of it can be read.
    """
    reader = _Reader(shape)
    return reader.read(value), reader.faults


def messages(record: Record) -> list[dict[str, Any]]:
    """The training chat as role/content dicts (``tool_calls`` and ``name`` where given).

    A preference pair gives prompt and chosen answer. Plain text is one assistant turn: all of it
    is to be learnt.
    """
    return [turn.as_dict() for turn in [*record.turns, *(record.chosen or ())]]


def prompt_and_reference(record: Record) -> tuple[list[dict[str, Any]], str]:
    """The turns before the last assistant turn, and that turn's text (``""`` for none)."""
    turns = [*record.turns, *(record.chosen or ())]
    last = last_answer(turns)
    if last < 0:
        return [turn.as_dict() for turn in turns], ""
    return [turn.as_dict() for turn in turns[:last]], turns[last].content


def last_answer(turns: Sequence[Turn]) -> int:
    """The index of the last assistant turn; -1 for none."""
    return next((k for k in range(len(turns) - 1, -1, -1) if turns[k].role == "assistant"), -1)


class _UnreadableError(Exception):
    """Nothing of the row can be read; the fault is already noted."""


class _Reader:
    """Reads one value; collects faults instead of stopping at the first."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.faults: list[Fault] = []
        self._used: list[str] = []  # the columns that were read as part of the conversation

    def read(self, value: object) -> Record | None:
        if self.shape is Shape.TEXT and isinstance(value, str):
            return Record(self.shape, [Turn("assistant", value)], origin=value)
        if not isinstance(value, dict):
            self._fault("wrong-type", f"the row is {_kind(value)}, not an object")
            return None
        read = {
            Shape.CHAT: self._chat,
            Shape.SHAREGPT: self._chat,
            Shape.ALPACA: self._alpaca,
            Shape.PROMPT_COMPLETION: self._pair,
            Shape.PREFERENCE: self._preference,
            Shape.UNPAIRED_PREFERENCE: self._unpaired,
            Shape.TEXT: self._text,
        }.get(self.shape)
        if read is None:
            self._fault("missing-keys", "no known shape fits; " + _has(value))
            return None
        try:
            return read(value)
        except _UnreadableError:
            return None

    def _fault(self, check: str, message: str, turn: int | None = None) -> None:
        self.faults.append(Fault(check, message, turn))

    # ------------------------------------------------------------ shapes

    def _record(
        self,
        value: dict[str, Any],
        turns: list[Turn],
        chosen: list[Turn] | None = None,
        rejected: list[Turn] | None = None,
        label: bool | None = None,
    ) -> Record:
        used = self._used
        extra = {key: part for key, part in value.items() if key not in used}
        return Record(self.shape, turns, chosen, rejected, label, extra, value)

    def _chat(self, value: dict[str, Any]) -> Record:
        return self._record(value, self._conversation(value))

    def _alpaca(self, value: dict[str, Any]) -> Record:
        if "instruction" not in value:
            self._missing("instruction", value)
        answer = next((key for key in INSTRUCTION_ANSWERS if key in value), None)
        if answer is None:
            self._missing("output", value)
        turns = self._system(value) + self._history(value)
        turns.append(Turn("user", self._instruction(value, len(turns))))
        turns.append(Turn("assistant", self._text_of(value, answer, len(turns))))
        self._used += ("instruction", "input", answer)
        return self._record(value, turns)

    def _instruction(self, value: dict[str, Any], turn: int) -> str:
        """Instruction and input, if there is one, as the one text that trainers make of them."""
        prompt = [self._text_of(value, "instruction", turn)]
        if value.get("input") not in (None, ""):
            prompt.append(self._text_of(value, "input", turn))
        return "\n".join(prompt)

    def _pair(self, value: dict[str, Any]) -> Record:
        return self._record(value, self._pair_turns(value))

    def _pair_turns(self, value: dict[str, Any]) -> list[Turn]:
        keys = pair_of(value)
        if keys is None:
            expected = "prompt" if not any(key in value for key in PROMPT_KEYS) else "completion"
            self._missing(expected, value)
        turns = self._system(value) + self._history(value)
        turns += self._side(value[keys[0]], "user", keys[0], len(turns))
        turns += self._side(value[keys[1]], "assistant", keys[1], len(turns))
        self._used += keys
        return turns

    def _preference(self, value: dict[str, Any]) -> Record:
        for key in ("chosen", "rejected"):
            if key not in value:
                self._missing(key, value)
        turns = self._prompt(value)
        at = len(turns)
        chosen = self._side(value["chosen"], "assistant", "chosen", at)
        rejected = self._side(value["rejected"], "assistant", "rejected", at + len(chosen))
        self._used += ("chosen", "rejected")
        shared = _shared_prefix(chosen, rejected)
        if not turns and shared:  # both hold the whole conversation: the prompt is what they share
            turns, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        elif turns and chosen[:at] == turns and rejected[:at] == turns:
            chosen, rejected = chosen[at:], rejected[at:]
        return self._record(value, turns, chosen, rejected)

    def _unpaired(self, value: dict[str, Any]) -> Record:
        key = next((key for key in LABEL_KEYS if key in value), None)
        if key is None:
            self._missing("label", value)
        chat = any(name in value for name in CHAT_KEYS)
        turns = self._conversation(value) if chat else self._pair_turns(value)
        label = _LABELS.get(str(value[key]).strip().lower())
        if label is None:
            self._fault("wrong-type", f"{key!r} is {_kind(value[key])}, not true or false")
        self._used.append(key)
        return self._record(value, turns, label=label)

    def _text(self, value: dict[str, Any]) -> Record:
        key = next((key for key in TEXT_KEYS if key in value), None)
        if key is None:
            self._missing("text", value)
        self._used.append(key)
        return self._record(value, [Turn("assistant", self._text_of(value, key, 0))])

    # ------------------------------------------------------------ parts

    def _missing(self, key: str, value: dict[str, Any]) -> NoReturn:
        self._fault("missing-keys", f"no {key!r} key; " + _has(value))
        raise _UnreadableError

    def _prompt(self, value: dict[str, Any]) -> list[Turn]:
        if any(key in value for key in CHAT_KEYS):
            return self._conversation(value)
        turns = self._system(value) + self._history(value)
        key = next((key for key in PROMPT_KEYS if key in value), None)
        if key is None:
            return turns
        self._used.append(key)
        if key == "instruction" and isinstance(value[key], str):
            self._used.append("input")
            return [*turns, Turn("user", self._instruction(value, len(turns)))]
        return turns + self._side(value[key], "user", key, len(turns))

    def _system(self, value: dict[str, Any]) -> list[Turn]:
        key = next((key for key in SYSTEM_KEYS if key in value), None)
        if key is None:
            return []
        self._used.append(key)
        if value[key] in (None, ""):
            return []
        return [Turn("system", self._text_of(value, key, 0))]

    def _history(self, value: dict[str, Any]) -> list[Turn]:
        """Alpaca's earlier exchanges: a list of [user, assistant] pairs."""
        if "history" not in value:
            return []
        self._used.append("history")
        history = value["history"] or []
        turns: list[Turn] = []
        pairs = history if isinstance(history, list) else [history]
        for pair in pairs:
            if not (isinstance(pair, list) and len(pair) == 2):
                self._fault("wrong-type", "'history' is not a list of [user, assistant] pairs")
                return []
            for role, text in zip(("user", "assistant"), pair, strict=True):
                if not isinstance(text, str):
                    self._fault("wrong-type", f"'history' holds {_kind(text)}, not a string")
                    return []
                turns.append(Turn(role, text))
        return turns

    def _side(self, part: object, role: str, key: str, at: int) -> list[Turn]:
        """A prompt or an answer: a string, one message, or a list of messages."""
        if isinstance(part, str):
            return [Turn(role, part)]
        if isinstance(part, dict):
            part = [part]
        if isinstance(part, list):
            return list(self._turns(part, at))
        self._fault("wrong-type", f"{key!r} is {_kind(part)}, not a string", at)
        return []

    def _conversation(self, value: dict[str, Any]) -> list[Turn]:
        key = next((key for key in CHAT_KEYS if key in value), None)
        if key is None:
            self._missing(CHAT_KEYS[0 if self.shape is not Shape.SHAREGPT else 1], value)
        found = value[key]
        if not isinstance(found, list):
            self._fault("wrong-type", f"{key!r} is {_kind(found)}, not a list")
            raise _UnreadableError
        turns = self._system(value)
        self._used.append(key)
        return turns + list(self._turns(found, len(turns)))

    def _turns(self, found: list[Any], at: int) -> Iterator[Turn]:
        for place, message in enumerate(found, at):
            if isinstance(message, dict):
                yield self._turn(message, place)
            else:
                self._fault("wrong-type", f"the turn is {_kind(message)}, not an object", place)
                yield Turn("", "")

    def _turn(self, message: dict[str, Any], place: int) -> Turn:
        if len(message) == 2:  # nearly every turn: half the time of reading a row was spent here
            plain_role, plain = message.get("role"), message.get("content")
            if isinstance(plain, str) and plain_role in _PLAIN_ROLES:
                return Turn(plain_role, plain)
        said = self._role(message, place)
        role = ROLES.get(said.strip().lower(), said)
        calls = message.get("tool_calls")
        if calls is not None and not isinstance(calls, list):
            self._fault("wrong-type", f"'tool_calls' is {_kind(calls)}, not a list", place)
            calls = None
        key = next((key for key in _CONTENT_KEYS if key in message), None)
        if key is None and not calls:
            self._fault("missing-keys", "no 'content' key; " + _has(message), place)
        content = self._content(message.get(key) if key else "", key or "content", place, calls)
        if said == "function_call" and not calls:
            calls, content = self._function_call(content, place)
        turn = Turn(role, content, calls or None)
        if len(message) == 2 and key and isinstance(message[key], str):
            return turn  # ShareGPT's turns, mostly
        return _with_details(turn, message, key)

    def _role(self, message: dict[str, Any], place: int) -> str:
        key = next((key for key in _ROLE_KEYS if key in message), None)
        if key is None:
            self._fault("missing-keys", "no 'role' key; " + _has(message), place)
            return ""
        said = message[key]
        if not isinstance(said, str):
            self._fault("wrong-type", f"{key!r} is {_kind(said)}, not a string", place)
            return ""
        if said not in ROLES:
            near = ROLES.get(said.strip().lower())
            meant = f"; {near!r} is meant?" if near else ""
            self._fault("unknown-role", f"the role {said!r} is not known{meant}", place)
        return said

    def _content(self, content: object, key: str, place: int, calls: list[Any] | None) -> str:
        if isinstance(content, str):
            return content
        if content is None and calls:
            return ""
        if isinstance(content, list):
            return self._joined(content, key, place)
        self._fault("wrong-type", f"{key!r} is {_kind(content)}, not a string", place)
        return ""

    def _joined(self, parts: list[Any], key: str, place: int) -> str:
        """The texts of multi-part content, with a stand-in for what is not text."""
        texts = []
        for part in parts:
            if isinstance(part, dict):
                texts.append(part["text"] if _is_text_part(part) else f"[{part_kind(part)}]")
            else:
                self._fault("wrong-type", f"{key!r} has a part that is {_kind(part)}", place)
        return "".join(texts)

    def _function_call(self, text: str, place: int) -> tuple[list[Any] | None, str]:
        """ShareGPT's function_call turn: the call as JSON in its text."""
        try:
            value = decode(text.encode())
        except JsonFault:
            value = None
        calls = value if isinstance(value, list) else [value]
        if not all(isinstance(call, dict) and "name" in call for call in calls):
            message = "function_call is not a JSON object with 'name' and 'arguments'"
            self._fault("wrong-type", message, place)
            return None, text
        return [{"type": "function", "function": call} for call in calls], ""

    def _text_of(self, value: dict[str, Any], key: str, turn: int) -> str:
        text = value.get(key)
        if isinstance(text, str):
            return text
        self._fault("wrong-type", f"{key!r} is {_kind(text)}, not a string", turn)
        return ""


_LABELS = {
    "true": True, "1": True, "good": True, "desirable": True, "yes": True, "chosen": True,
    "false": False, "0": False, "bad": False, "undesirable": False, "no": False,
    "rejected": False,
}  # fmt: skip


def _with_details(turn: Turn, message: dict[str, Any], content_key: str | None) -> Turn:
    """The turn with all that its message says besides role, content and tool calls."""
    said = next((key for key in REASONING_KEYS if isinstance(message.get(key), str)), None)
    used = {content_key, said, next((key for key in _ROLE_KEYS if key in message), None)}
    used |= {key for key, kind in _DETAILS.items() if isinstance(message.get(key), kind | None)}
    name, answers = message.get("name"), message.get("tool_call_id")
    content = message.get(content_key) if content_key else None
    return replace(
        turn,
        name=name if isinstance(name, str) else None,
        tool_call_id=answers if isinstance(answers, str) else None,
        reasoning=message[said] if said else None,
        reasoning_key=said or REASONING_KEYS[0],
        parts=content if isinstance(content, list) else None,
        extra={key: part for key, part in message.items() if _is_extra(key, part, used)} or None,
    )


def _is_extra(key: str, part: object, used: set[str | None]) -> bool:
    """Arrow gives every message all keys of all messages, most of them null."""
    return key not in used and not (part is None and key in REASONING_KEYS)


def pair_of(value: dict[str, Any]) -> tuple[str, str] | None:
    """The prompt and answer columns of a row, if it has a known pair."""
    return next((pair for pair in PAIR_KEYS if pair[0] in value and pair[1] in value), None)


def _shared_prefix(left: list[Turn], right: list[Turn]) -> int:
    """How many turns both begin with, leaving each at least one of its own."""
    limit = min(len(left), len(right)) - 1
    return next((k for k in range(limit) if left[k] != right[k]), max(0, limit))


def _is_text_part(part: object) -> bool:
    if not isinstance(part, dict) or not isinstance(part.get("text"), str):
        return False
    return part.get("type") in _TEXT_PARTS


def _has(value: dict[str, Any]) -> str:
    keys = ", ".join(str(key) for key in list(value)[:6])
    return f"it has: {keys}" if keys else "the object is empty"


_KINDS = {
    type(None): "null", bool: "true/false", int: "a number", float: "a number",
    str: "a string", list: "a list", dict: "an object",
}  # fmt: skip


def _kind(value: object) -> str:
    return _KINDS.get(type(value), type(value).__name__)
