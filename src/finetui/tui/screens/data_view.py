"""Rows and records of a data set as plain values for the widgets."""

from __future__ import annotations

import contextlib
import json
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from finetui.data.dataset import DataSet
from finetui.data.edits.steps import State
from finetui.data.formats.source import LONG
from finetui.data.records import Record, Shape, Turn, read_record
from finetui.data.strict import RowError
from finetui.display import UNSAFE, size
from finetui.tui.screens.data_findings import SIGNS, Findings, Spot
from finetui.tui.widgets.record import Block, Note
from finetui.tui.widgets.table import Column, TableRow, Tone

_CUT = 600  # characters of a cell that are looked at
_CUT_PAGE = 1 << 14  # bytes of a row over 1 MB that are shown
_CHAT = [
    Column("turns", 5, "right"),
    Column("user", weight=1.4, low=16),
    Column("assistant", weight=1, low=16),
]
_COLUMNS: dict[Shape, list[Column]] = {
    Shape.CHAT: _CHAT,
    Shape.SHAREGPT: _CHAT,
    Shape.PREFERENCE: [
        Column("prompt", low=14),
        Column("chosen", low=14),
        Column("rejected", low=14),
    ],
    Shape.UNPAIRED_PREFERENCE: [
        Column("label", 5),
        Column("user", weight=1.4, low=14),
        Column("answer", low=14),
    ],
    Shape.ALPACA: [Column("instruction", weight=1.4, low=16), Column("output", low=16)],
    Shape.PROMPT_COMPLETION: [Column("prompt", weight=1.4, low=16), Column("completion", low=16)],
    Shape.TEXT: [Column("text")],
    Shape.UNKNOWN: [Column("row")],
}


def columns_of(shape: Shape, rows: int) -> list[Column]:
    """The columns for a shape; the line's number is as wide as ``rows`` needs."""
    width = max(4, len(f"{rows:,}"))
    return [Column("line", width, "right"), Column("", 2, tone=True), *_COLUMNS[shape]]


class DataRows:
    """The rows of a data set, or some of them, for a VirtualTable."""

    def __init__(
        self,
        data: DataSet,
        findings: Findings,
        chosen: Sequence[int] | None = None,
        in_file_order: bool = True,
    ) -> None:
        self.data, self.findings, self.chosen = data, findings, chosen
        self.sorted = in_file_order

    @property
    def row_count(self) -> int:
        return self.data.rows if self.chosen is None else len(self.chosen)

    def number(self, index: int) -> int:
        """The data set's row at a line of the table."""
        return index if self.chosen is None else self.chosen[index]

    def place(self, row: int) -> int | None:
        """The line of the table that shows a row; None while it is filtered away."""
        if self.chosen is None:
            return row if row < self.data.rows else None
        if self.sorted:
            place = bisect_left(self.chosen, row)
            return place if place < len(self.chosen) and self.chosen[place] == row else None
        try:
            return self.chosen.index(row)
        except ValueError:
            return None

    def row(self, index: int) -> TableRow:
        row = self.number(index)
        state = self.data.state(row)
        severity = self.findings.worst(row)
        sign = _sign(state)
        tone: Tone = _tone(not state.kept, state.text is not None, severity)
        lead = (f"{self.data.source.line(row):,}", sign + (SIGNS[severity] if severity else " "))
        cut = cut_off(self.data, row)
        if cut is not None:
            return TableRow((*lead, *_spread(cut[0], self.data.shape)), tone)
        try:
            value = self.data.value(row)
        except RowError as error:
            words = f"{error.message}: {self.data.text(row)[:_CUT]}"
            return TableRow(
                (*lead, *_spread(words, self.data.shape)), "error" if state.kept else "dropped"
            )
        return TableRow((*lead, *cells_of(value, self.data.shape)), tone)


def cut_off(data: DataSet, row: int) -> tuple[str, str] | None:
    """A row over 1 MB as (one line, its first part); None for a row that is shown whole."""
    if data.state(row).text is not None or data.source.length(row) <= LONG:
        return None
    head = data.source.head_of(row, _CUT_PAGE)
    text = head.raw.decode(errors="replace")
    return f"{size(head.length)}: {text[:_CUT]}", text


def _sign(state: State) -> str:
    """D dropped, Q set aside, m marked, ✎ edited, L labelled; the weightiest of them."""
    if not state.kept:
        return "D" if state.dropped else "Q"
    if state.marked:
        return "m"
    return "✎" if state.text is not None else "L" if state.label else " "


def _tone(dropped: bool, edited: bool, severity: str) -> Tone:
    if dropped:
        return "dropped"
    if severity in ("error", "warning", "info"):
        return severity  # type: ignore[return-value]
    return "edited" if edited else ""


def _spread(words: str, shape: Shape) -> tuple[str, ...]:
    """A sentence in the first wide column, nothing in the others."""
    columns = _COLUMNS[shape]
    wide = next(i for i, column in enumerate(columns) if not column.width)
    return tuple(words if i == wide else "" for i in range(len(columns)))


def cells_of(value: object, shape: Shape) -> tuple[str, ...]:
    """The cells behind the leading columns for a decoded row."""
    record, faults = read_record(value, shape)
    if record is None or not record.all_turns():
        why = f"{faults[0].message}: " if faults else ""
        return _spread(why + _json(value)[:_CUT], shape)
    turns = record.turns
    asked = _said(turns, "user")
    if shape is Shape.PREFERENCE:
        chosen, rejected = record.chosen or [], record.rejected or []
        return (asked, _said(chosen, "assistant"), _said(rejected, "assistant"))
    answer = _said(turns, "assistant", last=True)
    if shape is Shape.UNPAIRED_PREFERENCE:
        return ({True: "good", False: "bad", None: "?"}[record.label], asked, answer)
    if shape is Shape.TEXT:
        return (turns[0].content[:_CUT],)
    if shape in (Shape.CHAT, Shape.SHAREGPT):
        return (str(len(turns)), asked, answer)
    return (asked, answer)


def _said(turns: Sequence[Turn], role: str, last: bool = False) -> str:
    found = [turn for turn in turns if turn.role == role]
    if not found:
        return ""
    turn = found[-1 if last else 0]
    return turn.content[:_CUT] or _calls(turn)[:_CUT]


def _calls(turn: Turn) -> str:
    """Tool calls as ``→ name {arguments}``."""
    words = []
    for call in turn.tool_calls or ():
        inner = call.get("function", call) if isinstance(call, dict) else {"name": str(call)}
        arguments = inner.get("arguments", {})
        text = arguments if isinstance(arguments, str) else _json(arguments)
        words.append(f"→ {inner.get('name', '?')} {text}")
    return "\n".join(words)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


# -- the record ------------------------------------------------------------------------------


def long_block(data: DataSet, row: int) -> list[Block]:
    """The beginning of a row over 1 MB; [] for any other."""
    cut = cut_off(data, row)
    if cut is None:
        return []
    whole = size(data.source.length(row))
    return [Block("row", cut[1], caption=f"the first part of {whole}; W shows the whole row")]


def blocks_of(
    data: DataSet,
    row: int,
    spots: Sequence[Spot],
    trained: Mapping[int, tuple[tuple[int, int], ...]] | None = None,
    caption: str = "",
) -> list[Block]:
    """The record view of a row. ``trained`` maps turns to character ranges."""
    try:
        value = data.value(row)
    except RowError as error:
        return [_broken(data.text(row), error, spots)]
    record, faults = read_record(value, data.shape)
    general = [Note(spot.severity, spot.sentence) for spot in spots if spot.turn is None]
    known = {spot.message for spot in spots}
    general += [Note("error", fault.message) for fault in faults if fault.message not in known]
    if record is None or not record.all_turns():
        text = json.dumps(value, ensure_ascii=False, indent=2, default=str)
        return [Block("row", text, notes=tuple(general))]
    blocks = [
        _block(turn, place, role, spots, trained)
        for place, (role, turn) in enumerate(_with_roles(record))
    ]
    if general:
        blocks[0] = replace(blocks[0], notes=(*general, *blocks[0].notes))
    blocks += _extras(record)
    if caption:
        blocks[-1] = replace(blocks[-1], caption=caption)
    return blocks


def _broken(text: str, error: RowError, spots: Sequence[Spot]) -> Block:
    notes = [Note(spot.severity, spot.sentence) for spot in spots] or [Note("error", error.message)]
    place = len(text.encode()[: error.position].decode(errors="ignore"))
    notes[0] = replace(notes[0], start=place, end=place + 1)
    return Block("not JSON", text, notes=tuple(notes))


def _with_roles(record: Record) -> list[tuple[str, Turn]]:
    found = [(turn.role or "(no role)", turn) for turn in record.turns]
    found += [("chosen", turn) for turn in record.chosen or ()]
    found += [("rejected", turn) for turn in record.rejected or ()]
    return found


def _block(
    turn: Turn,
    place: int,
    role: str,
    spots: Sequence[Spot],
    trained: Mapping[int, tuple[tuple[int, int], ...]] | None,
) -> Block:
    notes = [
        Note(spot.severity, spot.sentence, spot.start, spot.end)
        for spot in spots
        if spot.turn == place
    ]
    calls = _calls(turn)
    text = turn.content + ("\n" if turn.content and calls else "") + calls
    spans = None if trained is None else trained.get(place, ())
    return Block(role, text, spans, tuple(notes))


def _extras(record: Record) -> list[Block]:
    found = []
    if record.label is not None:
        found.append(Block("label", "good" if record.label else "bad"))
    if record.extra:
        text = "\n".join(f"{key}: {_json(part)}" for key, part in record.extra.items())
        found.append(Block("columns", text))
    return found


# -- the editor ------------------------------------------------------------------------------


def turns_of(data: DataSet, row: int) -> list[tuple[int, str, str]]:
    """(number, role, text) of the turns of a row that can be edited as plain text."""
    try:
        record, _ = read_record(data.value(row), data.shape)
    except RowError:
        return []
    if record is None:
        return []
    return [
        (number, role, turn.content)
        for number, (role, turn) in enumerate(_with_roles(record))
        if not turn.tool_calls
    ]


def escaped(text: str) -> str:
    """A turn's text for editing: what cannot be seen is written as ``\\u`` escapes."""
    text = text.replace("\\u", "\\\\u")
    return "".join(_escape(char) if ord(char) in UNSAFE and char != "\n" else char for char in text)


def unescaped(text: str) -> str:
    """The text that `escaped` showed."""

    def real(found: re.Match[str]) -> str:
        return "\\u" if found[1] is None else chr(int(found[1], 16))

    plain = re.sub(r"\\\\u|\\u([0-9a-fA-F]{4})", real, text)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def editable(text: str) -> str:
    """A row's JSON laid out for editing, invisible characters as ``\\u`` escapes.

    A row that is no JSON stays one line; its control bytes are escaped too, so that what is
    saved is what was seen.
    """
    with contextlib.suppress(ValueError):
        text = json.dumps(json.loads(text), ensure_ascii=False, indent=2)
    return "".join(_escape(char) if ord(char) in UNSAFE and char != "\n" else char for char in text)


def _escape(char: str) -> str:
    if ord(char) <= 0xFFFF:
        return f"\\u{ord(char):04x}"
    return "".join(f"\\u{unit:04x}" for unit in _surrogates(ord(char)))


def _surrogates(code: int) -> tuple[int, int]:
    code -= 0x10000
    return 0xD800 + (code >> 10), 0xDC00 + (code & 0x3FF)


def one_line(text: str) -> str:
    """Edited JSON as one line; text that is no JSON is only stripped of its line breaks."""
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except ValueError:
        return " ".join(text.split("\n"))


def json_fault(text: str) -> tuple[str, int, int] | None:
    """What is wrong with JSON and where (line and column from 1); None when nothing is."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.msg, error.lineno, error.colno
    except (ValueError, RecursionError) as error:
        return str(error), 1, 1
    return None


def turn_spans(encoded: Any, contents: Sequence[str]) -> dict[int, tuple[tuple[int, int], ...]]:
    """Which characters of each turn are trained on, from the offsets of the trained tokens.

    The turns are found in the rendered text one after another; a template that rewrites a turn
    leaves it without marks.
    """
    trained = [
        span
        for span, yes in zip(encoded.offsets, encoded.trained, strict=False)
        if yes and span[0] < span[1]
    ]
    found: dict[int, tuple[tuple[int, int], ...]] = {}
    start = 0
    for turn, content in enumerate(contents):
        place = encoded.text.find(content, start) if content else -1
        if place < 0:
            continue
        end = place + len(content)
        cut = [
            (max(a, place) - place, min(b, end) - place)
            for a, b in trained
            if a < end and b > place
        ]
        found[turn] = _joined(cut)
        start = end
    return found


def _joined(spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Neighbouring ranges as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return tuple(found)
