"""The rows of a data set by the block, as they lie in the source, beside what the journal changed.

Going through a million rows one by one costs more in calls than in work; a block of a quarter of a
megabyte is split, checked and written at the speed of memory.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from operator import length_hint

import msgspec

from finetui.data.dataset import DataSet
from finetui.data.edits.steps import State
from finetui.data.formats.source import Source
from finetui.data.strict import BOM

SIZE = 1 << 16  # bytes; larger blocks leave the processor's cache, and their memory is given back
_ROWS = 512  # of a format that has no lines
_SKIM = msgspec.json.Decoder(msgspec.Raw)
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass
class Block:
    """Rows ``first``, ``first + 1`` ... of a source: ``rows`` are their bytes, unedited.

    ``changed`` has the state of every row whose text or place in the set is not the source's, by
    its place in ``rows``. Of a file with lines, ``text`` are the rows with their newlines, and
    ``read`` the bytes that were read for this block (they end within the next one's first row).
    """

    first: int
    count: int
    text: bytes = b""
    read: bytes = b""
    changed: dict[int, State] = field(default_factory=dict)

    @property
    def lines(self) -> bool:
        """Whether each row is a line."""
        return bool(self.text)

    @cached_property
    def rows(self) -> list[bytes]:
        rows = self.text.split(b"\n")
        del rows[-1]
        return rows


def blocks(dataset: DataSet) -> Iterator[Block]:
    """Every row of a data set, in order."""
    states = _changed_rows(dataset)
    places = sorted(states)
    for block in _source_blocks(dataset.source):
        end = block.first + block.count
        for row in places[bisect_left(places, block.first) : bisect_left(places, end)]:
            block.changed[row - block.first] = states[row]
        yield block


def _changed_rows(dataset: DataSet) -> dict[int, State]:
    overlay = dataset.journal.overlay if dataset.journal else {}
    return {row: state for row, state in overlay.items() if state.changed}


def _source_blocks(source: Source) -> Iterator[Block]:
    source.build_index()
    lines = source.as_jsonl()
    if lines is not None:
        yield from _line_blocks(lines.descriptor)
        return
    found = source.iterate()
    while batch := list(islice(found, _ROWS)):
        block = Block(batch[0].row, len(batch))
        block.rows = [raw.raw for raw in batch]
        yield block


def _line_blocks(descriptor: int) -> Iterator[Block]:
    """The lines of a file; one longer than a block is put together once."""
    first = position = 0
    pieces: list[bytes] = []
    waiting: list[bytes] = []  # read, and not yet part of a block
    while chunk := os.pread(descriptor, SIZE, position):
        if position == 0:
            pieces.append(chunk.removeprefix(BOM))
        else:
            pieces.append(chunk)
        waiting.append(chunk)
        position += len(chunk)
        if b"\n" not in chunk:
            continue
        cut = pieces[-1].rfind(b"\n") + 1
        text, pieces = b"".join((*pieces[:-1], pieces[-1][:cut])), [pieces[-1][cut:]]
        yield Block(first, count := text.count(b"\n"), text, b"".join(waiting))
        first += count
        waiting = []
    last = b"".join(pieces)
    if last or waiting:  # a file that is nothing but a byte order mark has one row
        yield Block(first, 1, last + b"\n", b"".join(waiting))


def surely_json(text: bytes, lines: int) -> bool:
    """Whether each of so many lines is one JSON value and nothing else; strict as `doubtful`."""
    try:
        values = _SKIM.decode_lines(text)
    except _FAULTS:
        return False
    return len(values) == lines and b"\n".join((*values, b"")) == text and _is_utf8(text)


def doubtful(rows: Sequence[bytes]) -> list[int]:
    """The places of the rows that are not surely one JSON value.

    As strict as `decode` at a sixth of its cost, apart from numbers too large for a float.
    """
    found = set()
    rest = iter(rows)
    while length_hint(rest):
        try:
            deque(map(_SKIM.decode, rest), maxlen=0)
        except _FAULTS:
            found.add(len(rows) - length_hint(rest) - 1)  # the row it stopped at
    if not all(map(bytes.isascii, rows)):  # skimming looks at no bytes inside a string
        found.update(place for place, row in enumerate(rows) if not _is_utf8(row))
    return sorted(found)


def _is_utf8(row: bytes) -> bool:
    try:
        return row.isascii() or row.decode() is not None
    except UnicodeDecodeError:
        return False
