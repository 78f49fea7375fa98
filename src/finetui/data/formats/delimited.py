"""CSV and TSV: one record a row, quote-aware, with the physical line where each record begins.

A quoted cell may hold newlines, so a record may be several lines. The rules are those of the
``csv`` module: a quote opens only at the start of a cell, and ``""`` inside stands for one quote.
A quote that nothing closes would swallow the rest of the file; it is one bad line instead.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator
from typing import Any

from finetui.data.formats.spans import Span, SpanSource
from finetui.data.records import CHAT_KEYS
from finetui.data.strict import BOM, JsonFault, decode
from finetui.errors import UserError

_DELIMITERS = (b",", b";", b"\t", b"|")
_JSON_CELLS = {*CHAT_KEYS, "history", "tools"}
_SIDES = {"prompt", "completion", "chosen", "rejected"}  # texts, or chats as JSON
_READ = 1 << 20

csv.field_size_limit(1 << 30)


class CsvSource(SpanSource):
    """Records under a header; values are dicts of text cells (JSON cells of chats are decoded)."""

    format = "csv"

    def decode(self, raw: bytes) -> object:
        if not raw.strip():
            raise JsonFault("blank-line", 0, "the line is blank")
        cells = self._cells(raw)
        if len(cells) != len(self.columns):
            raise _broken(f"{len(cells)} cells where the header has {len(self.columns)}")
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
            cells = next(reader, [])
            if next(reader, None) is not None:
                raise _broken("a carriage return without a newline ends the record too early")
            return cells
        except csv.Error as fault:
            raise _broken(f"a broken record: {fault}") from None

    def _begin(self, found: Iterator[Span]) -> None:
        first = next(found, None)
        raw = os.pread(self.descriptor, first.end - first.start, first.start) if first else b""
        try:
            columns = [name.strip() for name in self._cells(raw)]
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
        self.columns = columns

    def _scan(self) -> Iterator[Span]:
        """Every record, the header first: whole blocks by one pattern, cut ones line by line."""
        start = len(BOM) if os.pread(self.descriptor, 3, 0) == BOM else 0
        line, data = 1, b""
        self._delimiter = _sniff(os.pread(self.descriptor, _READ, start))
        record = _record_pattern(self._delimiter)
        while True:
            data = os.pread(self.descriptor, _READ, start)
            if not data:
                return
            at = 0
            while found := record.match(data, at):
                self._scanned = start + found.end()
                yield Span(start + at, start + _without_ending(data, at, found.end()), line)
                line += data.count(b"\n", at, found.end())
                at = found.end()
            start += at
            if not at:
                cut = self._cut_record(start, line)
                if cut is None:
                    return
                yield cut[0]
                start, line = cut[1:]

    def _cut_record(self, start: int, line: int) -> tuple[Span, int, int] | None:
        """A record that is longer than a block or ends the file; where the next one begins."""
        inside, first_end, number = False, -1, line
        for position, content in self._physical_lines(start):
            inside = _still_quoted(content, self._delimiter, inside)
            end = position + len(content.rstrip(b"\r\n"))
            after = position + len(content)
            self._scanned, number = after, number + 1
            if first_end < 0:
                first_end, second = end, after
            if not inside and (content.endswith(b"\n") or not self.partial):
                return Span(start, end, line), after, number
        if first_end < 0 or self.partial:
            return None
        return Span(start, first_end, line), second, line + 1

    def _physical_lines(self, position: int) -> Iterator[tuple[int, bytes]]:
        read, pieces = position, list[bytes]()
        while chunk := os.pread(self.descriptor, _READ, read):
            read += len(chunk)
            first, newline, rest = chunk.partition(b"\n")
            pieces.append(first)
            if not newline:
                continue
            lines = [b"".join(pieces), *rest.split(b"\n")]
            pieces = [lines.pop()]
            for content in lines:
                yield position, content + b"\n"
                position += len(content) + 1
        if last := b"".join(pieces):
            yield position, last


def _broken(message: str) -> JsonFault:
    return JsonFault("malformed-json", 0, message)


def _cell(name: str, text: str) -> object:
    """A cell's text; chats stored as JSON in a cell are decoded."""
    if text[:1] not in ("[", "{") or name not in _JSON_CELLS | _SIDES:
        return text
    try:
        value = decode(text.encode())
    except JsonFault:
        return text
    return value if name in _JSON_CELLS or _is_chat(value) else text


def _is_chat(value: Any) -> bool:
    """One message or a list of them, rather than a text that happens to be JSON."""
    turns = value if isinstance(value, list) else [value]
    return bool(turns) and all(isinstance(turn, dict) and _has_role(turn) for turn in turns)


def _has_role(turn: dict[str, Any]) -> bool:
    return isinstance(turn.get("role", turn.get("from")), str)


def _sniff(head: bytes) -> bytes:
    """The delimiter that cuts the header into most cells."""
    return max(_DELIMITERS, key=head.partition(b"\n")[0].count)


def _record_pattern(delimiter: bytes) -> re.Pattern[bytes]:
    """One whole record with its newline. A cell is a quoted part, if any, and what follows it."""
    mark = re.escape(delimiter)
    cell = rb'(?:"(?:[^"]++|"")*+"|(?!"))[^' + mark + rb"\n]*+"
    return re.compile(cell + rb"(?:" + mark + cell + rb")*+\n")


def _without_ending(data: bytes, start: int, end: int) -> int:
    """The position before the newline (and carriage returns) that ends a record."""
    end -= 1
    while end > start and data[end - 1] in b"\r\n":
        end -= 1
    return end


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
