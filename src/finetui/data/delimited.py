"""CSV and TSV: one record a row, quote-aware, with the physical line where each record begins.

A quoted cell may hold newlines, so a record may be several lines. The rules are those of the
``csv`` module: a quote opens only at the start of a cell, and ``""`` inside stands for one quote.
"""

from __future__ import annotations

import csv
import io
import os
from array import array
from collections.abc import Iterator
from pathlib import Path

from finetui.data.source import EAGER, Progress, Source, Stop
from finetui.data.strict import BOM, JsonFault, decode
from finetui.errors import UserError

_DELIMITERS = (b",", b";", b"\t", b"|")
_JSON_CELLS = {
    "messages", "conversations", "conversation", "chosen", "rejected", "tools", "history", "prompt",
}  # fmt: skip
_READ = 1 << 20
_PROGRESS_LINES = 20_000

csv.field_size_limit(1 << 30)


class CsvSource(Source):
    """Records under a header; values are dicts of text cells (JSON cells of chats are decoded)."""

    format = "csv"

    def __init__(self, path: Path, cache: Path | None = None) -> None:
        super().__init__(path, cache)
        self._starts, self._ends, self._lines = array("Q"), array("Q"), array("Q")
        self._scanned = 0
        self._complete = False
        self._delimiter = b","
        self._records = self._scan()
        self.columns = self._header()
        while not self._complete and self._scanned < EAGER:
            self._next()

    @property
    def rows(self) -> int:
        return len(self._lines)

    @property
    def exact(self) -> bool:
        return self._complete

    @property
    def estimated_rows(self) -> int:
        if self._complete or not self._scanned:
            return self.rows
        return max(self.rows, round(self.size * self.rows / self._scanned))

    def raw(self, row: int) -> bytes:
        start = self._starts[row]
        return os.pread(self.descriptor, self._ends[row] - start, start)

    def line(self, row: int) -> int:
        return self._lines[row]

    def offset(self, row: int) -> int:
        return self._starts[row]

    def build_index(self, progress: Progress | None = None, stop: Stop | None = None) -> None:
        while not self._complete:
            if stop and stop():
                return
            for _ in range(_PROGRESS_LINES):
                if not self._next():
                    break
            if progress:
                progress(self._scanned)

    def decode(self, raw: bytes) -> object:
        if not raw.strip():
            raise JsonFault("blank-line", 0, "the line is blank")
        cells = self._cells(raw)
        if len(cells) != len(self.columns):
            raise JsonFault(
                "malformed-json",
                0,
                f"{len(cells)} cells where the header has {len(self.columns)}",
            )
        return {name: _cell(name, text) for name, text in zip(self.columns, cells, strict=True)}

    def _cells(self, raw: bytes) -> list[str]:
        try:
            text = raw.decode()
        except UnicodeDecodeError as fault:
            byte = raw[fault.start]
            raise JsonFault(
                "invalid-utf8",
                fault.start,
                f"byte 0x{byte:02X} is not valid UTF-8 ({fault.reason})",
            ) from None
        try:
            reader = csv.reader(
                io.StringIO(text, newline=""), delimiter=self._delimiter.decode(), strict=True
            )
            return next(reader, [])
        except csv.Error as fault:
            raise JsonFault("malformed-json", 0, f"a broken record: {fault}") from None

    def _header(self) -> list[str]:
        first = next(self._records, None)
        raw = os.pread(self.descriptor, first[1] - first[0], first[0]) if first else b""
        try:
            columns = self._cells(raw)
        except JsonFault as fault:
            raise UserError(
                f"has a header that cannot be read: {fault.message}.", str(self.path), "Repair it."
            ) from None
        if len(set(columns)) < len(columns) or not any(columns):
            raise UserError(
                "has no usable header: column names are empty or occur twice.",
                f"{self.path}:1",
                "Give every column its own name in the first line.",
            )
        return [name.strip() for name in columns]

    def _next(self) -> bool:
        record = next(self._records, None)
        if record is None:
            self._complete = True
            return False
        start, end, line = record
        self._starts.append(start)
        self._ends.append(end)
        self._lines.append(line)  # last, because ``rows`` counts these
        return True

    def _scan(self) -> Iterator[tuple[int, int, int]]:
        """(start, end, physical line) of every record, the header first."""
        begin, begin_line, inside = -1, 1, False
        for number, (position, line) in enumerate(self._physical_lines(), 1):
            if begin < 0:
                begin, begin_line = position, number
                if number == 1:
                    self._delimiter = _sniff(line)
            inside = _still_quoted(line, self._delimiter, inside)
            self._scanned = position + len(line)
            if not inside:
                yield begin, position + len(line.rstrip(b"\r\n")), begin_line
                begin = -1
        if begin >= 0:
            yield begin, self.size, begin_line

    def _physical_lines(self) -> Iterator[tuple[int, bytes]]:
        position = len(BOM) if os.pread(self.descriptor, 3, 0) == BOM else 0
        read, rest = position, b""
        while chunk := os.pread(self.descriptor, _READ, read):
            read += len(chunk)
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            for line in lines:
                yield position, line + b"\n"
                position += len(line) + 1
        if rest:
            yield position, rest


def _cell(name: str, text: str) -> object:
    """A cell's text; lists and objects of chats stored as JSON in a cell are decoded."""
    if name in _JSON_CELLS and text[:1] in ("[", "{"):
        try:
            return decode(text.encode())
        except JsonFault:
            return text
    return text


def _sniff(header: bytes) -> bytes:
    """The delimiter that cuts the header into most cells."""
    return max(_DELIMITERS, key=header.count)


def _still_quoted(line: bytes, delimiter: bytes, inside: bool) -> bool:
    """Whether a quoted cell is still open at the end of a physical line."""
    if b'"' not in line:
        return inside
    position = 0
    while True:
        if inside:
            position = _closing_quote(line, position)
            if position < 0:
                return True
            inside = False
        elif line[position : position + 1] == b'"':
            inside, position = True, position + 1
            continue
        cut = line.find(delimiter, position)
        if cut < 0:
            return False
        position = cut + 1


def _closing_quote(line: bytes, position: int) -> int:
    """The position after the quote that closes a cell; -1 when it stays open."""
    while True:
        quote = line.find(b'"', position)
        if quote < 0:
            return -1
        if line[quote + 1 : quote + 2] != b'"':
            return quote + 1
        position = quote + 2
