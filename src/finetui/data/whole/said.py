"""What each row of a file asks and answers, by the cheap way where a row is plain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from finetui.data.checks import structure
from finetui.data.formats.source import Source
from finetui.data.keys import answer_text, prompt_text
from finetui.data.records import Record, Shape, read_record
from finetui.data.scan.plain import PlainRow, PlainRows
from finetui.data.strict import JsonFault

_LOOKED_AT = 64  # rows that show the layout of the plain ones


class Said(NamedTuple):
    """A readable row: `keys.prompt_text` and `keys.answer_text` of it. ``record`` is None for a
    plain row: a chat, pair or text without tool calls, extra turns or verdict to look at."""

    row: int
    prompt: str
    answer: str
    record: Record | None


def said(source: Source, shape: Shape, stop: Callable[[], bool] | None = None) -> Iterator[Said]:
    """Every readable row of a source, in order."""
    read = _plain_reader(source, shape)
    for number, raw in enumerate(source.iterate()):
        if stop is not None and number % 1_000 == 0 and stop():
            return
        row = read(raw.raw)
        if row is not None:
            yield _of_plain(raw.row, row, shape)
            continue
        try:
            record = read_record(source.decode(raw.raw), shape)[0]
        except JsonFault:
            continue
        if record is not None:
            yield Said(raw.row, prompt_text(record), answer_text(record), record)


def _plain_reader(source: Source, shape: Shape) -> Callable[[bytes], PlainRow | None]:
    if not source.verbatim:  # its bytes are not JSON, or not a row's alone
        return lambda raw: None
    values = []
    for raw in source.head(_LOOKED_AT):
        try:
            values.append(source.decode(raw))
        except JsonFault:
            continue
    plain = PlainRows(shape, values, structure.CHECKS)
    return lambda raw: plain.read(raw, True)


def _of_plain(row: int, plain: PlainRow, shape: Shape) -> Said:
    roles, texts = plain
    if shape is Shape.TEXT:
        return Said(row, texts[0], texts[0], None)
    last = len(roles) - 1
    while last >= 0 and roles[last] != "assistant":
        last -= 1
    asked = texts if last < 0 else texts[:last]
    if "system" in roles:
        asked = [text for role, text in zip(roles, asked, strict=False) if role != "system"]
    return Said(row, "\x1e".join(asked), texts[last] if last >= 0 else "", None)
