"""Turn records of one shape into rows of another: lossless, or with a list of what is dropped.

*Dropped* is text, structure or metadata that the other shape has no place for. A *note* tells of
what is kept but no longer means the same (where an instruction ended, which answers are learnt).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from finetui.data.formats.source import Progress, Source
from finetui.data.records import (
    CHAT_KEYS,
    INSTRUCTION_ANSWERS,
    LABEL_KEYS,
    PAIR_KEYS,
    PROMPT_KEYS,
    SYSTEM_KEYS,
    TEXT_KEYS,
    Record,
    Shape,
    Turn,
    last_answer,
    other_parts,
    read_record,
)
from finetui.data.strict import JsonFault, decode, dumps
from finetui.errors import UserError

TARGETS = tuple(shape for shape in Shape if shape is not Shape.UNKNOWN)
_SHAREGPT_ROLES = {"user": "human", "assistant": "gpt", "tool": "observation"}
_PLAIN = Turn("", "")
_FIRST_LINES = 5


class CannotConvert(Exception):
    """A record has nothing that the other shape is made of."""


@dataclass(frozen=True)
class Converted:
    """The rows that a record becomes (a preference pair becomes two single judgements)."""

    values: list[object]
    dropped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def value(self) -> object:
        return self.values[0]


def to_value(record: Record, shape: Shape | None = None) -> object:
    """The JSON value of a record in its own shape, or in another one.

    A record that is as it was read gives the very value that it was read from. Raises
    CannotConvert.
    """
    if shape is None or shape is record.shape:
        again, _ = read_record(record.origin, record.shape)
        if again == record:
            return record.origin
    return _convert(record, shape or record.shape).value


def convert(record: Record, to: Shape) -> Converted:
    """A record in another shape; raises CannotConvert with the reason."""
    if to is record.shape:
        return Converted([to_value(record)])
    return _convert(record, to)


def _convert(record: Record, to: Shape) -> Converted:
    loss = _Loss()
    values = _WRITERS[to](record, loss)
    for value in values:
        _add_columns(value, record, to, loss)
    return Converted(list(values), list(loss.dropped), list(loss.notes))


class _Loss:
    """What a conversion drops and changes; each thing once, in order."""

    def __init__(self) -> None:
        self.dropped: dict[str, None] = {}
        self.notes: dict[str, None] = {}

    def drop(self, what: str) -> None:
        self.dropped[what] = None

    def note(self, what: str) -> None:
        self.notes[what] = None


Row = dict[str, Any]


# ---------------------------------------------------------------- one writer a shape


def _to_chat(record: Record, loss: _Loss) -> list[Row]:
    return [{"messages": [_message(turn) for turn in _conversation(record, loss)]}]


def _to_sharegpt(record: Record, loss: _Loss) -> list[Row]:
    turns = [part for turn in _conversation(record, loss) for part in _sharegpt(turn, loss)]
    return [{"conversations": turns}]


def _to_pair(record: Record, loss: _Loss) -> list[Row]:
    before, answer = _asked_and_answered(_conversation(record, loss), loss)
    prompt, completion = _side(before, "user"), _side(answer, "assistant")
    if isinstance(prompt, str) and isinstance(completion, str):
        return [{"prompt": prompt, "completion": completion}]
    return [{"prompt": _messages(before), "completion": _messages(answer)}]


def _to_alpaca(record: Record, loss: _Loss) -> list[Row]:
    turns = [_only_text(turn, loss) for turn in _conversation(record, loss)]
    before, (answer,) = _asked_and_answered(turns, loss, single=True)
    row: Row = {}
    if before and before[0].role == "system":
        row["system"] = before[0].content
        before = before[1:]
    *earlier, asked = before or [_PLAIN]
    if asked.role != "user" or not _alternates(earlier):
        raise CannotConvert("Alpaca rows hold questions and answers in turn, and nothing else")
    row |= {"instruction": asked.content, "input": "", "output": answer.content}
    if earlier:
        texts = [turn.content for turn in earlier]
        row["history"] = [list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
    return [row]


def _to_preference(record: Record, loss: _Loss) -> list[Row]:
    if record.chosen is None or record.rejected is None:
        raise CannotConvert("there is no second answer to prefer one to")
    sides = _side(record.turns, "user"), _side(record.chosen, "assistant")
    prompt, chosen, rejected = *sides, _side(record.rejected, "assistant")
    if all(isinstance(side, str) for side in (prompt, chosen, rejected)):
        return [{"prompt": prompt, "chosen": chosen, "rejected": rejected}]
    parts = record.turns, record.chosen, record.rejected
    return [dict(zip(("prompt", "chosen", "rejected"), map(_messages, parts), strict=True))]


def _to_unpaired(record: Record, loss: _Loss) -> list[Row]:
    if record.chosen is not None and record.rejected is not None:
        answers = [(record.chosen, True), (record.rejected, False)]
        loss.note("each pair becomes two rows: the chosen answer is good, the rejected one bad")
        return [_judged(record.turns, answer, label) for answer, label in answers]
    if record.label is None:
        raise CannotConvert("nothing says whether the answer is good or bad")
    last = last_answer(record.turns)
    if last < 0:
        raise CannotConvert("there is no answer")
    return [_judged(record.turns[:last], record.turns[last:], record.label)]


def _judged(before: list[Turn], answer: list[Turn], label: bool) -> Row:
    prompt, completion = _side(before, "user"), _side(answer, "assistant")
    if isinstance(prompt, str) and isinstance(completion, str):
        return {"prompt": prompt, "completion": completion, "label": label}
    return {"messages": _messages([*before, *answer]), "label": label}


def _to_text(record: Record, loss: _Loss) -> list[Row]:
    turns = [_only_text(turn, loss) for turn in _conversation(record, loss)]
    if any(turn.role == "tool" for turn in turns):
        raise CannotConvert("plain text has no place for tool results")
    if len(turns) > 1:
        loss.drop("roles and the borders of turns")
    return [{"text": "\n\n".join(turn.content for turn in turns)}]


_WRITERS: dict[Shape, Callable[[Record, _Loss], list[Row]]] = {
    Shape.CHAT: _to_chat,
    Shape.SHAREGPT: _to_sharegpt,
    Shape.PROMPT_COMPLETION: _to_pair,
    Shape.ALPACA: _to_alpaca,
    Shape.PREFERENCE: _to_preference,
    Shape.UNPAIRED_PREFERENCE: _to_unpaired,
    Shape.TEXT: _to_text,
}


# ---------------------------------------------------------------- turns


def _conversation(record: Record, loss: _Loss) -> list[Turn]:
    """The one conversation of a record that is to be learnt from."""
    if record.label is False:
        raise CannotConvert("its answer is labelled bad; as an example it would be learnt")
    if record.label is not None:
        loss.drop("the label")
    if record.rejected is not None:
        loss.drop("the rejected answer")
    if record.shape is Shape.TEXT:
        loss.note("the text becomes an answer that nothing was asked for")
    if record.shape is Shape.ALPACA and _has_input(record.origin):
        loss.note("instruction and input are joined; where the one ended is not kept")
    return [*record.turns, *(record.chosen or ())]


def _has_input(origin: object) -> bool:
    return isinstance(origin, dict) and origin.get("input") not in (None, "")


def _asked_and_answered(
    turns: Sequence[Turn], loss: _Loss, single: bool = False
) -> tuple[list[Turn], list[Turn]]:
    """Turns before the last answer, and that answer with the turns of its tools before it."""
    if not turns or turns[-1].role != "assistant":
        raise CannotConvert("it does not end with an answer")
    at = len(turns) - 1
    while not single and at and turns[at - 1].role in ("assistant", "tool"):
        at -= 1
    if not at:
        raise CannotConvert("there is no prompt before the answer")
    if any(turn.role == "assistant" for turn in turns[:at]):
        loss.note("earlier answers become part of the prompt and are not learnt by most trainers")
    return list(turns[:at]), list(turns[at:])


def _alternates(turns: Sequence[Turn]) -> bool:
    roles = [turn.role for turn in turns]
    return roles == ["user", "assistant"] * (len(roles) // 2)


def _message(turn: Turn) -> Row:
    """A turn under role and content, with all it has."""
    calls_alone = turn.tool_calls and not turn.content
    content = turn.parts if turn.parts is not None else None if calls_alone else turn.content
    return _keyed(turn, {"role": turn.role, "content": content}, turn.tool_calls)


def _messages(turns: Iterable[Turn]) -> list[Row]:
    return [_message(turn) for turn in turns]


def _keyed(turn: Turn, message: Row, calls: list[Any] | None) -> Row:
    """A message with the keys that both chat shapes share."""
    if turn.reasoning is not None:
        message[turn.reasoning_key] = turn.reasoning
    if calls:
        message["tool_calls"] = calls
    if turn.tool_call_id is not None:
        message["tool_call_id"] = turn.tool_call_id
    if turn.name is not None:
        message["name"] = turn.name
    return message | {key: part for key, part in (turn.extra or {}).items() if key not in message}


def _sharegpt(turn: Turn, loss: _Loss) -> Iterator[Row]:
    """A turn under from and value; calls of tools are a turn of their own there."""
    if others := other_parts(turn):
        loss.drop(f"parts that are not text ({', '.join(sorted(set(others)))})")
    elif turn.parts is not None:
        loss.note("parts of text are joined")
    calls = [_bare_call(call, loss) for call in turn.tool_calls or ()]
    if turn.content or not calls:
        said = _SHAREGPT_ROLES.get(turn.role, turn.role)
        yield _keyed(turn, {"from": said, "value": turn.content}, None)
        turn = replace(turn, reasoning=None, name=None, tool_call_id=None, extra=None)
        if calls:
            loss.note("an answer with calls of tools becomes two turns")
    if calls:
        text = dumps(calls[0] if len(calls) == 1 else calls)
        yield _keyed(turn, {"from": "function_call", "value": text}, None)


def _bare_call(call: Any, loss: _Loss) -> Any:
    """``name`` and ``arguments`` of a call, as ShareGPT writes it."""
    if not isinstance(call, dict):
        return call
    function = call.get("function", call)
    if call.get("id") is not None:
        loss.drop("the ids of tool calls")
    if not isinstance(function, dict):
        return call
    bare = {key: part for key, part in function.items() if key not in ("id", "type")}
    if isinstance(bare.get("arguments"), str):
        try:
            bare["arguments"] = decode(bare["arguments"].encode())
        except (JsonFault, UnicodeEncodeError):
            loss.note("arguments of a tool that are not JSON stay a string")
    return bare


def _only_text(turn: Turn, loss: _Loss) -> Turn:
    """The turn as text alone."""
    if others := other_parts(turn):
        loss.drop(f"parts that are not text ({', '.join(sorted(set(others)))})")
    if turn.tool_calls:
        raise CannotConvert("the other shape has no place for calls of tools")
    for what, there in (
        ("reasoning", turn.reasoning),
        ("names of speakers", turn.name),
        ("ids of tool results", turn.tool_call_id),
    ):
        if there:
            loss.drop(what)
    for key in turn.extra or ():
        loss.drop(f"the turns' key {key!r}")
    return turn


def _side(turns: Sequence[Turn], role: str) -> str | list[Row]:
    """One plain turn as its text, anything else as messages."""
    if len(turns) == 1 and turns[0] == Turn(role, turns[0].content):
        return turns[0].content
    return _messages(turns)


# ---------------------------------------------------------------- other columns


def _add_columns(value: object, record: Record, to: Shape, loss: _Loss) -> None:
    """The record's other columns beside the conversation, where they change no meaning there."""
    assert isinstance(value, dict)
    for key, part in record.extra.items():
        if key in value or key in _READ_AS_TEXT[to]:
            loss.drop(f"the column {key!r} (the other shape would read it as part of the text)")
        else:
            value[key] = part


_PAIR_COLUMNS = {key for pair in PAIR_KEYS for key in pair}
_READ_AS_TEXT: dict[Shape, set[str]] = {
    Shape.CHAT: {*CHAT_KEYS, *SYSTEM_KEYS, *LABEL_KEYS, "chosen", "rejected"},
    Shape.SHAREGPT: {*CHAT_KEYS, *SYSTEM_KEYS, *LABEL_KEYS, "chosen", "rejected"},
    Shape.PROMPT_COMPLETION: {
        *CHAT_KEYS, *SYSTEM_KEYS, *LABEL_KEYS, "chosen", "rejected", "history", "instruction",
    },
    Shape.ALPACA: {
        *CHAT_KEYS, *SYSTEM_KEYS, *LABEL_KEYS, "chosen", "rejected", "history",
        *INSTRUCTION_ANSWERS,
    },
    Shape.PREFERENCE: {*CHAT_KEYS, *SYSTEM_KEYS, *PROMPT_KEYS, "history"},
    Shape.UNPAIRED_PREFERENCE: {
        *CHAT_KEYS, *SYSTEM_KEYS, *LABEL_KEYS, *PROMPT_KEYS, "chosen", "rejected", "history",
    },
    Shape.TEXT: {
        *CHAT_KEYS, *TEXT_KEYS, *LABEL_KEYS, *_PAIR_COLUMNS, "instruction", "chosen", "rejected",
    },
}  # fmt: skip


# ---------------------------------------------------------------- whole files


@dataclass
class Conversion:
    """What became of a file's rows. ``dropped`` and ``notes`` count rows; lines are physical."""

    rows: int = 0
    written: int = 0
    blank: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    first_lines: dict[str, list[int]] = field(default_factory=dict)

    @property
    def lossless(self) -> bool:
        return not self.dropped and not self.left_out

    def count(self, counter: Counter[str], what: str, line: int) -> None:
        counter[what] += 1
        lines = self.first_lines.setdefault(what, [])
        if len(lines) < _FIRST_LINES:
            lines.append(line)

    def as_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows, "written": self.written, "blank": self.blank,
            "lossless": self.lossless, "dropped": dict(self.dropped), "notes": dict(self.notes),
            "left_out": dict(self.left_out), "first_lines": self.first_lines,
        }  # fmt: skip


class InputRow(NamedTuple):
    """A row to convert: its physical line, its bytes, what decodes them, and whether they are JSON
    as it stands."""

    line: int
    raw: bytes
    read: Callable[[bytes], object]
    verbatim: bool


def rows_of(source: Source) -> Iterator[InputRow]:
    """Every row of a source, in order."""
    for raw in source.iterate():
        yield InputRow(raw.line, raw.raw, source.decode, source.verbatim)


def convert_rows(rows: Iterable[InputRow], shape: Shape, to: Shape, out: int | None) -> Conversion:
    """Convert rows that are read as ``shape``; written as JSON Lines to the descriptor ``out``,
    or only counted where that is None."""
    result = Conversion()
    buffer: list[bytes] = []
    for row in rows:
        result.rows += 1
        converted = _convert_row(result, row, shape, to)
        if converted is None:
            continue
        result.written += len(converted.values)
        for what in converted.dropped:
            result.count(result.dropped, what, row.line)
        for what in converted.notes:
            result.count(result.notes, what, row.line)
        same = to is shape and row.verbatim and b"\n" not in row.raw
        buffer += [row.raw] if same else [dumps(value).encode() for value in converted.values]
        _flush(buffer, out, 1000)
    _flush(buffer, out, 1)
    return result


def convert_file(
    source: Source, to: Shape, out: Path | None, shape: Shape | None = None,
    progress: Progress | None = None,
) -> Conversion:  # fmt: skip
    """Convert a source into the new JSON Lines file ``out`` (None only tells what would happen).

    Raises UserError when ``out`` is there already or the source has no known shape.
    """
    source.build_index(progress)
    return convert_to(rows_of(source), shape or source.shape.shape, to, out, str(source.path))


def convert_to(
    rows: Iterable[InputRow], shape: Shape, to: Shape, out: Path | None, where: str
) -> Conversion:
    """`convert_rows` into a file that appears whole or not at all. Raises UserError."""
    if shape is Shape.UNKNOWN:
        raise UserError("the shape of its rows is not known.", where, "Say it: --from SHAPE")
    if out is None:
        return convert_rows(rows, shape, to, None)
    if out.exists():
        raise UserError("is there already; nothing is written over.", str(out), "Name a new file.")
    from finetui.workspace import new_file

    with new_file(out) as descriptor:
        return convert_rows(rows, shape, to, descriptor)


def _convert_row(result: Conversion, row: InputRow, shape: Shape, to: Shape) -> Converted | None:
    try:
        record, faults = read_record(row.read(row.raw), shape)
        if record is None or faults:
            result.count(result.left_out, f"not readable as {shape}: {faults[0].message}", row.line)
            return None
        return convert(record, to)
    except JsonFault as fault:
        if fault.check == "blank-line":
            result.blank += 1
        else:
            result.count(result.left_out, f"not JSON: {fault.message}", row.line)
    except CannotConvert as reason:
        result.count(result.left_out, str(reason), row.line)
    return None


def _flush(buffer: list[bytes], out: int | None, at_least: int) -> None:
    if len(buffer) < at_least:
        return
    view = memoryview(b"".join(row + b"\n" for row in buffer) if out is not None else b"")
    while view and out is not None:
        view = view[os.write(out, view) :]
    buffer.clear()
