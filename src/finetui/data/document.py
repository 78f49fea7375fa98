"""A JSON file that is one array of rows, or one object that wraps such an array.

Each row keeps its exact byte range and first physical line. A valid array is cut by msgspec
(1 ms a megabyte); a broken one by a tolerant scanner, so that one bad element is one bad row.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import msgspec

from finetui.data.source import EAGER, Progress, Source, Stop
from finetui.data.strict import BOM, RowError

# A string ends at its quote or, since JSON strings hold no newline, at the end of its line: that
# is what keeps a missing quote from swallowing the rest of the file.
_TOKEN = re.compile(rb'"(?:[^"\\\n]|\\[^\n])*"?|[\[\]{},]')
_STRING = re.compile(rb'"(?:[^"\\\n]|\\.)*"')
_GAP = re.compile(rb"[\s,]*")
_SPACE = re.compile(rb"\s*")
_DEPTH = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}
_PREFERRED = ("data", "train", "rows", "examples", "instances", "items", "records")


class JsonSource(Source):
    """The elements of one JSON array as rows."""

    format = "json"
    verbatim = True

    def __init__(self, path: Path, cache: Path | None = None) -> None:
        super().__init__(path, cache)
        self._starts, self._ends, self._lines = array("Q"), array("Q"), array("Q")
        self._complete = False
        self._closed = True
        if self.size <= EAGER:
            self.build_index()
        else:
            self._take(os.pread(self.descriptor, EAGER, 0), whole=False)

    @property
    def rows(self) -> int:
        return len(self._lines)

    @property
    def exact(self) -> bool:
        return self._complete

    @property
    def estimated_rows(self) -> int:
        if self._complete or not self._ends:
            return self.rows
        return max(self.rows, round(self.size * self.rows / self._ends[-1]))

    def raw(self, row: int) -> bytes:
        start = self._starts[row]
        return os.pread(self.descriptor, self._ends[row] - start, start)

    def line(self, row: int) -> int:
        return self._lines[row]

    def offset(self, row: int) -> int:
        return self._starts[row]

    def build_index(self, progress: Progress | None = None, stop: Stop | None = None) -> None:
        if self._complete or (stop and stop()):
            return
        self._take(_read_all(self.descriptor), whole=True)
        self._complete = True
        if progress:
            progress(self.size)

    def file_faults(self) -> list[RowError]:
        if self._closed:
            return []
        row = self.rows - 1
        line, offset = (self._lines[row], self._starts[row]) if row >= 0 else (1, 0)
        return [RowError(line, offset, "the array that begins before is never closed (cut off?)")]

    def _take(self, data: bytes, whole: bool) -> None:
        starts, ends, lines = array("Q"), array("Q"), array("Q")
        line, counted = 1, 0
        spans = self._spans(data, whole)
        for start, end in spans:
            line += data.count(b"\n", counted, start)
            counted = start
            starts.append(start)
            ends.append(end)
            lines.append(line)
        # Published last and longest first, so that a reader in another thread never sees a row
        # without its range.
        self._starts, self._ends, self._lines = starts, ends, lines

    def _spans(self, data: bytes, whole: bool) -> Iterator[tuple[int, int]]:
        bom = len(BOM) if data.startswith(BOM) else 0
        opening = array_start(data, bom)
        if opening < 0:
            return iter([(bom, len(data.rstrip()))])
        if whole and data[:opening].strip() in (b"", BOM):
            try:
                pieces = msgspec.json.decode(
                    data if not bom else memoryview(data)[bom:], type=list[msgspec.Raw]
                )
                return _exact_spans(data, opening, pieces)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass
        return self._tolerant(data, opening, whole)

    def _tolerant(self, data: bytes, opening: int, whole: bool) -> Iterator[tuple[int, int]]:
        spans, end = element_spans(data, opening)
        if not whole:
            return iter(spans[:-1] if end < 0 else spans)
        self._closed = end >= 0
        rest = _SPACE.match(data, end) if end >= 0 else None
        wrapped = bool(data[:opening].removeprefix(BOM).strip())
        if rest is None or rest.end() >= len(data) or wrapped:
            return iter(spans)
        return chain(spans, [(rest.end(), len(data.rstrip()))])  # text after the array is a row


def _read_all(descriptor: int) -> bytes:
    pieces, position = [], 0
    while piece := os.pread(descriptor, 1 << 24, position):
        pieces.append(piece)
        position += len(piece)
    return b"".join(pieces)


def array_start(data: bytes, position: int = 0) -> int:
    """Where the ``[`` of the rows is: the file's, or that of a wrapping object; -1 for none."""
    position = _space(data, position)
    if data[position : position + 1] == b"[":
        return position
    if data[position : position + 1] != b"{":
        return -1
    found = dict(_lists_of_object(data, position + 1))
    names = [name for name in _PREFERRED if name in found] or list(found)
    return found[names[0]] if names else -1


def _lists_of_object(data: bytes, position: int) -> Iterator[tuple[str, int]]:
    """(key, position of its list) for every list value of the object that begins before."""
    while True:
        gap = _GAP.match(data, position)
        key = _STRING.match(data, gap.end() if gap else position)
        if not key:
            return
        colon = _space(data, key.end())
        if data[colon : colon + 1] != b":":
            return
        position = _space(data, colon + 1)
        if data[position : position + 1] == b"[":
            inner = _space(data, position + 1)
            if data[inner : inner + 1] in (b"{", b"]"):
                yield key[0][1:-1].decode(errors="replace"), position
        position = _value_end(data, position)
        if position < 0:
            return


def _value_end(data: bytes, position: int) -> int:
    """The end of the JSON value at ``position``; -1 when it does not end."""
    depth = 0
    for token in _TOKEN.finditer(data, position):
        if depth == 0 and token[0] in (b",", b"}", b"]"):
            return token.start()
        depth += _DEPTH.get(token[0], 0)
        if depth == 0 and (token[0] in (b"}", b"]") or token[0][:1] == b'"'):
            return token.end()
    return -1


def _space(data: bytes, position: int) -> int:
    gap = _SPACE.match(data, position)
    return gap.end() if gap else position


def _exact_spans(data: bytes, opening: int, pieces: list[msgspec.Raw]) -> Iterator[tuple[int, int]]:
    """Pieces come in order with only blanks and commas between them: lengths give places."""
    position = opening + 1
    for piece in pieces:
        gap = _GAP.match(data, position)
        start = gap.end() if gap else position
        position = start + len(memoryview(piece))
        yield start, position


def element_spans(data: bytes, opening: int) -> tuple[list[tuple[int, int]], int]:
    """Byte ranges between the commas of the array at ``opening``, valid JSON or not.

    Also the position after its ``]``, or -1 when it is never closed.
    """
    spans: list[tuple[int, int]] = []
    depth, begin = 0, opening + 1
    for token in _TOKEN.finditer(data, opening):
        mark = token[0]
        depth += _DEPTH.get(mark, 0)
        if depth == 1 and mark == b",":
            _add(spans, data, begin, token.start())
            begin = token.end()
        elif depth == 0:
            _add(spans, data, begin, token.start())
            return spans, token.end()
    _add(spans, data, begin, len(data))
    return spans, -1


def _add(spans: list[tuple[int, int]], data: bytes, begin: int, end: int) -> None:
    start = _space(data, begin)
    stop = begin + len(data[begin:end].rstrip())
    if start < stop:
        spans.append((start, stop))
