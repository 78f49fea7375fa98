"""Rows of data sets as numbered texts: what is compared of a row, and which row a number is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, cast

import msgspec

from finetui.data.dataset import DataSet
from finetui.data.edits.steps import State
from finetui.data.formats.source import Source
from finetui.data.records import Record, Shape, Turn, read_record
from finetui.data.strict import JsonFault, RowError, decode, dumps
from finetui.errors import BROKEN


class RowReader(Protocol):
    """Records of one data set: all of them in order, or one by its row."""

    size: int

    def records(self) -> Iterator[tuple[int, Record]]:
        """(row, record) of the rows that can be read; the records hold their turns, not more."""
        ...

    def record(self, row: int) -> Record | None:
        """None where the row cannot be read or is left out."""
        ...


class _PlainTurn(msgspec.Struct, forbid_unknown_fields=True):
    """A turn without tools and faults; stands for a `Turn`."""

    role: Literal["system", "user", "assistant"]
    content: str
    tool_calls: None = None
    name: None = None


class _PlainChat(msgspec.Struct):
    messages: list[_PlainTurn]


_PLAIN = msgspec.json.Decoder(_PlainChat)


class SourceRows:
    """The rows of a source, with edits laid over them: a row is left out, or has another text."""

    def __init__(
        self, source: Source, shape: Shape, changes: Mapping[int, State] | None = None
    ) -> None:
        source.build_index()
        self.size = source.rows
        self._source, self._shape, self._changes = source, shape, changes or {}
        self._plain = shape is Shape.CHAT and source.verbatim

    def records(self) -> Iterator[tuple[int, Record]]:
        changes = self._changes
        for raw in self._source.iterate():
            row = raw.row
            record = self._changed(row) if row in changes else self._read(raw.raw)
            if record is not None:
                yield row, record

    def record(self, row: int) -> Record | None:
        if row in self._changes:
            return self._changed(row)
        try:
            return read_record(self._source.value(row), self._shape)[0]
        except RowError:
            return self._read(self._source.raw(row))

    def _changed(self, row: int) -> Record | None:
        state = self._changes[row]
        if not state.kept:
            return None
        if state.text is None:
            return self._read(self._source.raw(row))
        try:
            return read_record(decode(state.text.encode()), self._shape)[0]
        except JsonFault:
            return None

    def _read(self, raw: bytes) -> Record | None:
        """Nearly all chats are plain, and reading those takes a quarter of the time."""
        if self._plain:
            try:
                turns = _PLAIN.decode(raw).messages
            except BROKEN:
                pass
            else:
                return Record(self._shape, cast(Any, turns))
        try:
            return read_record(self._source.decode(raw), self._shape)[0]
        except JsonFault:
            return None


class ChosenRows:
    """Some rows of a data set; the others are as if left out."""

    def __init__(self, reader: RowReader, rows: Iterable[int]) -> None:
        self.size = reader.size
        self._reader, self._rows = reader, frozenset(rows)

    def records(self) -> Iterator[tuple[int, Record]]:
        return (pair for pair in self._reader.records() if pair[0] in self._rows)

    def record(self, row: int) -> Record | None:
        return self._reader.record(row) if row in self._rows else None


def rows_of(dataset: DataSet) -> SourceRows:
    """The rows of a data set as they are now."""
    changes = {row: dataset.state(row) for row in dataset.changed_rows()}
    return SourceRows(dataset.source, dataset.shape, changes)


class Rows:
    """Several data sets as one body of texts, numbered through; see `pairs.Body`."""

    def __init__(self, readers: Sequence[RowReader], text_of: Callable[[Record], str]) -> None:
        self.readers, self.text_of = readers, text_of
        self.bases = [0]
        for reader in readers:
            self.bases.append(self.bases[-1] + reader.size)
        self.size = self.bases[-1]

    def texts(self) -> Iterator[tuple[int, str]]:
        for base, reader in zip(self.bases, self.readers, strict=False):
            for row, record in reader.records():
                yield base + row, self.text_of(record)

    def pick(self, numbers: Sequence[int]) -> Iterator[tuple[int, str]]:
        for number in numbers:
            record = self.record(number)
            if record is not None:
                yield number, self.text_of(record)

    def place(self, number: int) -> tuple[int, int]:
        """(data set, row) of a number."""
        dataset = next(k for k, base in enumerate(self.bases[1:]) if number < base)
        return dataset, number - self.bases[dataset]

    def record(self, number: int) -> Record | None:
        dataset, row = self.place(number)
        return self.readers[dataset].record(row)


def whole_text(record: Record) -> str:
    """All that is said, tools called included, without the system prompt: sets share one."""
    return "\n".join(_said(turn) for turn in record.all_turns() if turn.role != "system")


def _said(turn: Turn) -> str:
    return f"{turn.content}\n{dumps(turn.tool_calls)}" if turn.tool_calls else turn.content
