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
from itertools import islice

import msgspec

from finetui.data.dataset import DataSet
from finetui.data.edits.steps import State
from finetui.data.formats.source import Source
from finetui.data.strict import BOM

SIZE = 1 << 16  # bytes; larger blocks leave the processor's cache, and their memory is given back
_ROWS = 512  # of a format that has no lines
_skim = msgspec.json.Decoder(msgspec.Raw).decode
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(slots=True)
class Block:
    """Rows ``first``, ``first + 1`` ... of a source: ``rows`` are their bytes, unedited.

    ``changed`` has the state of every row whose text or place in the set is not the source's, by
    its place in ``rows``. ``lines``: each row is a line, and ``read`` the bytes of the file that
    were read for this block (they end within the next one's first row).
    """

    first: int
    rows: list[bytes]
    lines: bool = False
    read: bytes = b""
    changed: dict[int, State] = field(default_factory=dict)


def blocks(dataset: DataSet) -> Iterator[Block]:
    """Every row of a data set, in order."""
    states = _changed_rows(dataset)
    places = sorted(states)
    for block in _source_blocks(dataset.source):
        end = block.first + len(block.rows)
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
        yield Block(batch[0].row, [raw.raw for raw in batch])


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
        rows = b"".join(pieces).split(b"\n")
        pieces = [rows.pop()]
        yield Block(first, rows, True, b"".join(waiting))
        first += len(rows)
        waiting = []
    last = b"".join(pieces)
    if last or waiting:  # a file that is nothing but a byte order mark has one row
        yield Block(first, [last], True, b"".join(waiting))


def doubtful(rows: Sequence[bytes]) -> list[int]:
    """The places of the rows that are not surely one JSON value.

    As strict as `decode` at a sixth of its cost, apart from numbers too large for a float.
    """
    try:
        deque(map(_skim, rows), maxlen=0)
        for row in rows:
            if not row.isascii():
                row.decode()  # skimming looks at no bytes inside a string
    except _FAULTS:
        return [place for place, row in enumerate(rows) if not _is_good(row)]
    return []


def _is_good(row: bytes) -> bool:
    try:
        _skim(row)
        row.decode()
    except _FAULTS:
        return False
    return True
