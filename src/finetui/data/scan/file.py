"""One file under the checks: a pass in order, then the rows that must be compared."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from finetui.data.checks.look import read_example
from finetui.data.checks.model import Across, Check, CheckOptions, Example, Finding, Hit
from finetui.data.checks.registry import CHECKS
from finetui.data.formats.several import single_files
from finetui.data.formats.source import JsonlSource, RawRow, Source
from finetui.data.records import Shape
from finetui.data.scan.chunks import (
    Chunk,
    ChunkScan,
    Looked,
    Task,
    chunks_of,
    sampled,
)
from finetui.data.scan.pool import Pool
from finetui.data.scan.repeats import repeated
from finetui.data.scan.rows import RowScan, Spot, alike_of, sorted_parts, spot
from finetui.data.strict import decode

Report = Callable[[int], None]

SMALL = 32 << 20
"""Bytes that are looked at in this process: starting others would take longer."""


class FileScan:
    """A source, the checks that look at it, and what they need to know of its rows.

    ``across`` are the states of the checks that compare rows, shared by all files of a run.
    """

    def __init__(
        self,
        source: Source,
        checks: Sequence[Check],
        across: Sequence[tuple[Check, Across]],
        options: CheckOptions,
        last: bool,
        workers: int,
    ) -> None:
        self.source = source
        self._checks, self._options, self._last, self._workers = checks, options, last, workers
        self.parts = sorted_parts(checks, [self._own(check, state) for check, state in across])
        source.build_index()
        self.shape: Shape = options.shape or source.shape.shape
        self.rows = 0
        self.keys = [array("Q") for _ in alike_of(self.parts)]
        self._blanks: list[Spot] = []
        self._moved = False  # rows are looked at in another file than they are told in

    def _own(self, check: Check, state: Across) -> tuple[Check, Across]:
        """States that judge one file must not see the next before they have finished."""
        alone = getattr(state, "merges", False) or getattr(state, "by_row", False)
        return check, check.across(self._options) if alone and check.across else state

    # ------------------------------------------------------------ the pass

    def looked(self, report: Report) -> Iterator[list[Spot]]:
        """Findings of the checks that judge rows alone, in order of rows."""
        for _, state in (*self.parts.by_row, *self.parts.merging):
            state.begin(self.source, self._last)
        done = 0
        for first, part in single_files(self.source):
            yield from self._single(part, first, _ahead(report, done))
            done += part.size
            self._blanks = []  # those that end a file are no fault

    def _single(self, part: Source, first: int, report: Report) -> Iterator[list[Spot]]:
        """One file, whose rows begin at row ``first`` of the source."""
        lines = part.as_jsonl()
        self._moved = lines is not self.source
        if lines is None:
            yield from self._by_rows(part, first, report)
        elif self._workers > 1 and lines.size > SMALL:
            yield from self._by_workers(lines, first, report)
        else:
            yield from self._here(lines, first, report)

    def task(self, lines: JsonlSource) -> Task:
        ids = [check.id for check in self._checks]
        options = replace(self._options, shape=self.shape)
        return Task(str(lines.path), self.shape, ids, options, self._last, sampled(lines))

    def _by_workers(self, lines: JsonlSource, first: int, report: Report) -> Iterator[list[Spot]]:
        chunks = chunks_of(lines, first)
        with Pool(self.task(lines), min(self._workers, len(chunks))) as pool:
            for looked in pool.look(chunks):
                for (_, state), part in zip(self.parts.merging, looked.merging, strict=True):
                    state.merge(part)
                yield self._took(looked)
                report(looked.chunk.end)

    def _here(self, lines: JsonlSource, first: int, report: Report) -> Iterator[list[Spot]]:
        scan = RowScan(self.parts, self.shape, decode, sampled(lines))
        states = [state for _, state in self.parts.merging]
        here = ChunkScan(lines.descriptor, scan)
        for chunk in chunks_of(lines, first):
            yield self._took(here.look(chunk, states))
            report(chunk.end)

    def _by_rows(self, part: Source, first: int, report: Report) -> Iterator[list[Spot]]:
        """Formats that are not lines of JSON."""
        scan = RowScan(self.parts, self.shape, part.decode, ())
        states = [state for _, state in self.parts.merging]
        json = part.verbatim or part.format == "json"
        look = scan.row if json else scan.other_row
        step = 4096
        for start in range(0, max(1, part.rows), step):
            end = min(start + step, part.rows)
            scan.renew(states)
            for own in range(start, end):
                look(RawRow(first + own, part.line(own), part.offset(own), part.raw(own)))
            keys = [keys.tobytes() for keys in scan.keys]
            chunk = Chunk(first + start, end - start, 0, part.offset(end - 1) if end else 0)
            yield self._took(Looked(chunk, scan.spots, keys, [], scan.solid))
            report(chunk.end)

    def _took(self, looked: Looked) -> list[Spot]:
        """Enter what came of a chunk; its findings without blank lines that may end the file."""
        self.rows += looked.chunk.rows
        for keys, more in zip(self.keys, looked.keys, strict=True):
            keys.frombytes(more)
        found: list[Spot] = []
        if looked.solid >= 0:
            found, self._blanks = self._blanks, []
        for one in looked.spots:
            late = one.check == "blank-line" and one.row > looked.solid
            (self._blanks if late else found).append(one)
        return [self._placed(one) for one in found] if self._moved else found

    def _placed(self, one: Spot) -> Spot:
        source = self.source
        return one._replace(line=source.line(one.row), offset=source.offset(one.row))

    def findings(self, spots: Iterable[Spot]) -> Iterator[Finding]:
        """Findings for people: with the file's name and the check's severity."""
        source = self.source
        path, single = str(source.path), len(source.files) == 1
        for one in spots:
            if not single:
                path = str(source.place(one.row).path)
            yield Finding(
                one.check, CHECKS[one.check].severity, path, one.line, one.offset, one.turn,
                one.message, one.row, one.start, one.end,
            )  # fmt: skip

    # ------------------------------------------------------------ rows that are compared

    def compared(self, rows: Sequence[int]) -> Iterator[Spot]:
        """Findings of the checks that compare rows; ``rows`` are those that may have any."""
        states = [*self.parts.alike, *self.parts.in_order]
        if not states:
            return
        for _, state in states:
            state.begin(self.source, self._last)
        for row in rows if not self.parts.in_order else range(self.source.rows):
            example = self.example(row)
            for check, state in states:
                for hit in state.see(example):
                    yield spot(check, example, hit)

    def finished(self) -> Iterator[Spot]:
        """Findings that only the whole file shows."""
        ending = (*self.parts.alike, *self.parts.in_order, *self.parts.merging, *self.parts.by_row)
        for check, state in ending:
            for row, hit in state.finish():
                yield spot(check, self._place(row), hit)
        if any(check.id == "malformed-json" for check in self._checks):
            for fault in self.source.file_faults():
                last = max(0, self.rows - 1)
                place = Example(last, fault.line, fault.offset, b"")
                yield Spot("malformed-json", last, place.line, place.offset, None, fault.message)

    def example(self, row: int) -> Example:
        source = self.source
        if row and isinstance(source, JsonlSource):  # finding the row once, not three times
            start, end = source.index.span(row)
            raw = os.pread(source.descriptor, end - start, start)
            place = RawRow(row, row + 1, start, raw)
        else:
            place = RawRow(row, source.line(row), source.offset(row), source.raw(row))
        return read_example(place, source.decode, self.shape)

    def spot_at(self, row: int, check: str, hit: Hit) -> Spot:
        """A finding at a row that was not read for it."""
        return spot(CHECKS[check], self._place(row), hit)

    def _place(self, row: int) -> Example:
        return Example(row, self.source.line(row), self.source.offset(row), b"")


def _ahead(report: Report, done: int) -> Report:
    return lambda here: report(done + here)


def concerned(scans: Sequence[FileScan]) -> list[list[int]]:
    """For each file the rows that some check must compare, in order."""
    found: list[set[int]] = [set() for _ in scans]
    for keys in zip(*(scan.keys for scan in scans), strict=True):
        for rows, more in zip(found, repeated(keys), strict=True):
            rows.update(more)
    return [sorted(rows) for rows in found]
