"""A JSON file that is one array of rows, or one object that wraps such an array.

Each row keeps its exact byte range and first physical line. The file is read in windows of a
megabyte: msgspec cuts what is valid (1 ms a megabyte); a window it refuses is looked at token by
token, so that one bad element is one bad row and the next one is found again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from finetui.data.formats.source import EAGER
from finetui.data.formats.spans import Span, SpanSource
from finetui.data.strict import BOM, RowError

# A string ends at its quote or, since JSON strings hold no newline, at the end of its line: that
# is what keeps a missing quote from swallowing the rest of the file.
_TOKEN = re.compile(rb'"(?:[^"\\\n]|\\[^\n])*"?|[\[\]{},]')
_STRING = re.compile(rb'"(?:[^"\\\n]|\\.)*"')
_GAP = re.compile(rb"[\s,]*")
_SPACE = re.compile(rb"\s*")
_FIRST_KEY = re.compile(rb'\s*\{\s*("(?:[^"\\\n]|\\.)*")\s*:')
_NEXT_KEY = re.compile(rb',\s*(?=\{\s*("(?:[^"\\\n]|\\.)*")\s*:)')
_DEPTH = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}
_OPENER = {b"]": b"[", b"}": b"{"}
_PREFERRED = ("data", "train", "rows", "examples", "instances", "items", "records")
_PIECES = msgspec.json.Decoder(list[msgspec.Raw])
_ONE = msgspec.json.Decoder(msgspec.Raw)
_REFUSED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_WINDOW = 1 << 20
_WIDEST = 16 << 20  # an element that does not end within this is taken for a broken one
_TRIES = 24
_KEYS_TRIED = 6
_FAULTS = 100  # of an array; what follows is no array any more, and one bad row
_BLANKS = 256  # no one indents an array deeper

Bounds = tuple[int, int]


class JsonSource(SpanSource):
    """The elements of one JSON array as rows."""

    format = "json"
    verbatim = True

    def __init__(self, path: Path, cache: Path | None = None, partial: bool = False) -> None:
        self._faults: list[RowError] = []
        super().__init__(path, cache, partial)

    def file_faults(self) -> list[RowError]:
        return list(self._faults)

    def _scan(self) -> Iterator[Span]:
        head = os.pread(self.descriptor, EAGER, 0)
        bom = len(BOM) if head.startswith(BOM) else 0
        opening = array_start(head, bom)
        if opening < 0:
            yield from self._whole(bom)
            return
        wrapped = bool(head[bom:opening].strip())
        cutter = _Cutter(self.descriptor, self.size, opening, wrapped)
        cutter.line += head.count(b"\n", 0, opening)
        del head
        last = Span(opening, opening, cutter.line)
        for last in cutter.spans(self.partial):
            self._scanned = last.end
            yield last
        self._scanned = self.size
        self._faults = cutter.faults
        if cutter.closed < 0:
            message = "the array that begins before is never closed (cut off?)"
            self._faults.append(RowError(last.line, last.start, message))

    def _whole(self, position: int) -> Iterator[Span]:
        """A file without an array is one row, from its first byte that is not blank to its last."""
        start = end = _next_text(self.descriptor, position, self.size)
        if start >= self.size or self.partial:
            return
        while data := os.pread(self.descriptor, _WINDOW, position):
            if data.rstrip():
                end = position + len(data.rstrip())
            position += len(data)
        yield Span(start, end, 1 + _newlines(self.descriptor, 0, start))


class _Window(NamedTuple):
    """What was cut out of a window: element bounds in it, how far it was used up, and the place
    after the array's closing bracket (-1 while it is open)."""

    bounds: list[Bounds]
    used: int
    closed: int = -1


class _Cutter:
    """Cuts the elements of the array at ``opening``, window by window."""

    def __init__(self, descriptor: int, size: int, opening: int, wrapped: bool) -> None:
        self._descriptor, self._size, self._wrapped = descriptor, size, wrapped
        self._position = opening + 1  # everything before has been cut
        self._width = _WINDOW
        self._key = b""  # the first key of the elements, as they begin
        self.line = 1  # the physical line at ``_position``
        self.closed = -1  # the position after the array's closing bracket
        self.faults: list[RowError] = []  # of the array, not of an element

    def spans(self, partial: bool) -> Iterator[Span]:
        """Every element in order; ``partial`` leaves out the last one of an array that goes on."""
        after_comma = False
        while self.closed < 0:
            data = os.pread(self._descriptor, self._width, self._position)
            last = self._position + len(data) >= self._size
            found = self._cut(data, last and not partial)
            if found is None:
                if last:
                    return
                self._width *= 4
                continue
            yield from self._publish(data, found, after_comma)
            after_comma = found.closed < 0
            self._width = _WINDOW
            self._look_behind()
            if len(self.faults) > _FAULTS:
                yield Span(self._position, self._size, self.line)
                return
            if last and found.used >= len(data):
                return

    def _look_behind(self) -> None:
        """Text after the end of an array: a bracket in a broken element ended it too early."""
        if self.closed < 0 or self._wrapped:
            return
        behind = _next_text(self._descriptor, self.closed, self._size)
        if behind < self._size:
            line = self.line + _newlines(self._descriptor, self.closed, behind)
            self.faults.append(RowError(line, behind, "text goes on after the end of the array"))
            self.closed = -1

    def _publish(self, data: bytes, found: _Window, after_comma: bool) -> Iterator[Span]:
        base, counted = self._position, 0
        self._note_stray(data, found, after_comma)
        several_lines = b"\n" in data
        for start, end in found.bounds:
            if several_lines:
                self.line += data.count(b"\n", counted, start)
                counted = start
            yield Span(base + start, base + end, self.line)
        used = found.closed if found.closed >= 0 else found.used
        self.line += data.count(b"\n", counted, used)
        self._position = base + used
        if found.closed >= 0:
            self.closed = base + found.closed

    def _note_stray(self, data: bytes, found: _Window, after_comma: bool) -> None:
        """Commas that separate nothing: JSON forbids them, but no row is to blame."""
        until, allowed = 0, 0
        for start, end in found.bounds:
            self._count_commas(data, until, start, allowed)
            until, allowed = end, 1
        if found.closed >= 0:
            self._count_commas(data, until, found.closed - 1, 0)
            if after_comma and not found.bounds:
                self._stray(self._position - 1, self.line)

    def _count_commas(self, data: bytes, start: int, end: int, allowed: int) -> None:
        if data.count(b",", start, end) > allowed:
            place = data.rfind(b",", start, end)
            line = self.line + data.count(b"\n", 0, place)
            self._stray(self._position + place, line)

    def _stray(self, offset: int, line: int) -> None:
        self.faults.append(RowError(line, offset, "a comma with no element before or after it"))

    # ------------------------------------------------------------ one window

    def _cut(self, data: bytes, last: bool) -> _Window | None:
        """The elements of a window; None when none of them ends in it."""
        if not self._key and (first := _FIRST_KEY.match(data)):
            self._key = first[1]
        return self._cut_valid(data, last) or self._cut_broken(data, last)

    def _cut_valid(self, data: bytes, last: bool) -> _Window | None:
        if last:
            end = len(data.rstrip())
            if data[end - 1 : end] == b"]" and (bounds := _pieces(data, end - 1)) is not None:
                return _Window(bounds, end, end)
        for comma in self._commas(data):
            if bounds := _pieces(data, comma):
                return _Window(bounds, comma + 1)
        return None

    def _commas(self, data: bytes) -> Iterator[int]:
        """Where an element may end, from the back: first where the next begins as the first did."""
        for key in (self._key, b"") if self._key else (b"",):
            position = len(data)
            for _ in range(_TRIES):
                comma, position = _comma_before(data, position, key)
                if comma < 0:
                    break
                yield comma

    def _cut_broken(self, data: bytes, last: bool) -> _Window | None:
        bounds, end = element_bounds(data, 0)
        if end >= 0 or last:
            bounds = self._split_all(data, bounds)
            if end < 0:
                end = _closing_after(data, bounds)
            return _Window(bounds, len(data) if end < 0 else end, end)
        if len(data) >= _WIDEST and bounds:  # it does not end: taken for broken
            bounds += _split(data, bounds.pop(), self._key)
        if len(bounds) < 2:
            return None
        pending = bounds.pop()
        return _Window(self._split_all(data, bounds), pending[0])

    def _split_all(self, data: bytes, bounds: list[Bounds]) -> list[Bounds]:
        return [part for whole in bounds for part in _split(data, whole)]


def _split(data: bytes, whole: Bounds, key: bytes = b"") -> list[Bounds]:
    """A broken element may have swallowed good ones: find where they begin again.

    Elements mostly begin with the same key; of the keys that objects begin with here (unless only
    ``key`` is meant), it is the one that cuts most bytes into valid values.
    """
    start, end = whole
    if _is_value(data[start:end]):
        return [whole]
    cuts: dict[bytes, list[Bounds]] = {}
    for hit in _NEXT_KEY.finditer(data, start, end):
        if not key or hit[1] == key:
            cuts.setdefault(hit[1], []).append(hit.span())
    best, most = [whole], 0
    for places in sorted(cuts.values(), key=len, reverse=True)[:_KEYS_TRIED]:
        parts, good = _split_at(data, whole, places)
        if good > most:
            best, most = parts, good
    return best


def _split_at(data: bytes, whole: Bounds, cuts: list[Bounds]) -> tuple[list[Bounds], int]:
    """Parts between (comma, next beginning) cuts, broken ones joined; bytes of the valid ones."""
    begins = [whole[0], *(after for _, after in cuts)]
    ends = [*(comma for comma, _ in cuts), whole[1]]
    parts: list[Bounds] = []
    good, bad_before = 0, False
    for begin, stop in zip(begins, ends, strict=True):
        bad = not _is_value(data[begin:stop].rstrip(b" \t\r\n]"))
        if bad and bad_before:
            parts[-1] = (parts[-1][0], stop)
        else:
            parts.append((begin, stop))
        good += 0 if bad else stop - begin
        bad_before = bad
    return parts, good


def _closing_after(data: bytes, bounds: list[Bounds]) -> int:
    """The closing bracket that a broken element hid at the end of the last row; -1 for none."""
    if not bounds:
        return -1
    start, end = bounds[-1]
    text = data[start:end].rstrip(b" \t\r\n]")
    if len(text) == end - start or not _is_value(text) or _is_value(data[start:end]):
        return -1
    bounds[-1] = (start, start + len(text))
    return end


def _comma_before(data: bytes, position: int, key: bytes) -> tuple[int, int]:
    """The last comma before ``position`` that an object (with this first key) follows, and where
    that object begins; (-1, -1) for none."""
    while (position := data.rfind(b"{", 0, position)) >= 0:
        at = max(0, position - _BLANKS)
        before = data[at:position].rstrip()
        if before.endswith(b",") and data.startswith(key, _space(data, position + 1)):
            return at + len(before) - 1, position
    return -1, -1


def _pieces(data: bytes, end: int) -> list[Bounds] | None:
    """The elements of ``data[:end]``, which has no brackets around it; None when it is not valid.

    They come in order with only blanks and commas between them, so that their lengths give
    their places.
    """
    try:
        pieces = _PIECES.decode(b"[" + data[:end] + b"]")
    except _REFUSED:
        return None
    bounds, position = [], 0
    for piece in pieces:
        gap = _GAP.match(data, position)
        start = gap.end() if gap else position
        position = start + len(memoryview(piece))
        bounds.append((start, position))
    return bounds


def _is_value(text: bytes) -> bool:
    try:
        _ONE.decode(text)
    except _REFUSED:
        return False
    return True


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


def _next_text(descriptor: int, position: int, size: int) -> int:
    """The first byte from ``position`` on that is not blank; ``size`` for none."""
    while data := os.pread(descriptor, _WINDOW, position):
        gap = _space(data, 0)
        if gap < len(data):
            return position + gap
        position += gap
    return size


def _newlines(descriptor: int, start: int, end: int) -> int:
    """Newlines between two positions with only blanks between them."""
    return os.pread(descriptor, end - start, start).count(b"\n")


def _space(data: bytes, position: int) -> int:
    gap = _SPACE.match(data, position)
    return gap.end() if gap else position


def element_bounds(data: bytes, begin: int) -> tuple[list[Bounds], int]:
    """Byte ranges between the commas of an array whose inside begins at ``begin``, valid or not.

    Also the position after its ``]``, or -1 when it is never closed. A bracket that closes
    nothing, or the wrong one, belongs to its element.
    """
    bounds: list[Bounds] = []
    opened: list[bytes] = []
    counts = {b"[": 0, b"{": 0}  # of each in ``opened``
    for token in _TOKEN.finditer(data, begin):
        mark = token[0]
        if mark in counts:
            opened.append(mark)
            counts[mark] += 1
        elif mark in _OPENER:
            if counts[_OPENER[mark]]:
                _close(opened, counts, _OPENER[mark])
            elif mark == b"]":
                _add(bounds, data, begin, token.start())
                return bounds, token.end()
        elif mark == b"," and not opened:
            _add(bounds, data, begin, token.start())
            begin = token.end()
    _add(bounds, data, begin, len(data))
    return bounds, -1


def _close(opened: list[bytes], counts: dict[bytes, int], opener: bytes) -> None:
    """Close the last such bracket, and what was opened in it and never closed."""
    while True:
        last = opened.pop()
        counts[last] -= 1
        if last == opener:
            return


def _add(bounds: list[Bounds], data: bytes, begin: int, end: int) -> None:
    start = _space(data, begin)
    stop = begin + len(data[begin:end].rstrip())
    if start < stop:
        bounds.append((start, stop))
