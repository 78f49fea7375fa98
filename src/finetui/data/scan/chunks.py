"""Pieces of a JSON Lines file that can be looked at in any order, and what comes of one."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from finetui.data.checks.model import Check, CheckOptions
from finetui.data.checks.registry import CHECKS
from finetui.data.formats.source import JsonlSource
from finetui.data.records import Shape
from finetui.data.scan.rows import Parts, RowScan, Spot, sorted_parts
from finetui.data.strict import decode

CHUNK = 8 << 20
_BLOCK = 1 << 20
_SAMPLE = 60


class Chunk(NamedTuple):
    """Rows ``row`` to ``row + rows``, whole lines in the bytes from ``start`` to ``end``."""

    row: int
    rows: int
    start: int
    end: int


@dataclass
class Looked:
    """What a pass over a chunk gave; ``merging`` are the states of checks that merge."""

    chunk: Chunk
    spots: list[Spot]
    keys: list[bytes]
    merging: list[Any]
    solid: int


@dataclass
class Task:
    """What a worker must know to look at chunks of one file."""

    path: str
    shape: Shape
    checks: list[str]
    options: CheckOptions
    last: bool
    sample: list[bytes] = field(default_factory=list)


def chunks_of(source: JsonlSource, first: int = 0, size: int = CHUNK) -> list[Chunk]:
    """The chunks of an indexed file, in order; its own first row is row ``first`` of its set."""
    rows = source.rows
    firsts, wanted = [0], size
    while firsts[-1] < rows and wanted < source.size:
        row = bisect_left(range(rows), wanted, lo=firsts[-1], key=source.offset)
        if row > firsts[-1] and row < rows:
            firsts.append(row)
        wanted = max(wanted + size, source.offset(row) if row < rows else source.size)
    found = [part(source, row, end) for row, end in zip(firsts, [*firsts[1:], rows], strict=True)]
    return [chunk._replace(row=first + chunk.row) for chunk in found]


def part(source: JsonlSource, first: int, end: int) -> Chunk:
    """Rows ``first`` to ``end`` as a chunk."""
    stop = source.offset(end) if end < source.rows else source.size
    return Chunk(first, end - first, source.offset(first), stop)


def sampled(source: JsonlSource) -> list[bytes]:
    """Rows from the beginning and spread over the whole file."""
    step = max(1, source.rows // _SAMPLE)
    rows = {*range(min(_SAMPLE, source.rows)), *range(0, source.rows, step)}
    return [source.raw(row) for row in sorted(rows)]


class ChunkScan:
    """Looks at chunks of an open file."""

    def __init__(self, descriptor: int, rows: RowScan) -> None:
        self._descriptor, self._rows = descriptor, rows

    def look(self, chunk: Chunk, merging: list[Any]) -> Looked:
        """What is in a chunk; ``merging`` are the states of the checks that merge."""
        rows, row = self._rows, chunk.row
        rows.renew(merging)
        for start, block in lines_between(self._descriptor, chunk.start, chunk.end):
            row += rows.block(row, start, block)
        keys = [keys.tobytes() for keys in rows.keys]
        return Looked(chunk, rows.spots, keys, merging, rows.solid)


class TaskScan:
    """Looks at chunks as a task says, with states of its own."""

    def __init__(self, source: JsonlSource, task: Task) -> None:
        self._source, self._task = source, task
        chosen = [CHECKS[check] for check in task.checks]
        across = [(check, check.across(task.options)) for check in chosen if check.across]
        self._parts: Parts = sorted_parts(chosen, across)
        for _, state in self._parts.by_row:
            state.begin(source, task.last)
        rows = RowScan(self._parts, task.shape, decode, task.sample)
        self._chunks = ChunkScan(source.descriptor, rows)

    def look(self, chunk: Chunk) -> Looked:
        return self._chunks.look(chunk, [self._fresh(check) for check, _ in self._parts.merging])

    def _fresh(self, check: Check) -> Any:
        assert check.across is not None
        state = check.across(self._task.options)
        state.begin(self._source, self._task.last)
        return state


def lines_between(descriptor: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """(byte offset, whole lines), about a megabyte at a time."""
    if start == end:
        yield start, b""
        return
    pieces: list[bytes] = []
    base = place = start
    while place < end:
        read = os.pread(descriptor, min(_BLOCK, end - place), place)
        if not read:
            break
        place += len(read)
        cut = read.rfind(b"\n") + 1
        if not cut:
            pieces.append(read)
            continue
        block = b"".join((*pieces, read[:cut]))
        yield base, block
        base += len(block)
        pieces = [read[cut:]]
    rest = b"".join(pieces)
    if rest:
        yield base, rest
