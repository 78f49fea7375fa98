"""Rows that a scanner cuts out of a file: CSV records and the elements of a JSON array.

Each row keeps its byte range and the physical line where it begins, 24 bytes a row; the scanner
runs lazily, so that the first rows are there before the rest has been read.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from finetui.data.formats.sidecar import Sidecar
from finetui.data.formats.source import EAGER, LONG, Head, Progress, Source, Stop

_ROWS_A_STEP = 5_000


class Span(NamedTuple):
    """Where a row lies: bytes from ``start`` to before ``end``, and its first line (1-based)."""

    start: int
    end: int
    line: int


class SpanSource(Source):
    """A source whose rows come from `_scan`, in order."""

    def __init__(self, path: Path, cache: Path | None = None, partial: bool = False) -> None:
        super().__init__(path, cache, partial)
        self._starts, self._ends, self._lines = array("Q"), array("Q"), array("Q")
        self._scanned = 0
        self._complete = False
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _scan(self) -> Iterator[Span]:
        """The spans of all rows; sets ``_scanned`` to the bytes it has been through."""

    def _begin(self, found: Iterator[Span]) -> None:
        """Take what stands before the rows (a header)."""

    def _open(self) -> None:
        self._found = self._scan()
        self._begin(self._found)
        self._sidecar = Sidecar(self, "spans", EAGER)
        if not self._load():
            while not self._complete and (self._scanned < EAGER or not self._lines):
                self._next()

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

    def head_of(self, row: int, limit: int = LONG) -> Head:
        start, length = self._starts[row], self._ends[row] - self._starts[row]
        return Head(os.pread(self.descriptor, min(limit, length), start), length)

    def line(self, row: int) -> int:
        return self._lines[row]

    def offset(self, row: int) -> int:
        return self._starts[row]

    def build_index(self, progress: Progress | None = None, stop: Stop | None = None) -> None:
        with self._building:
            if self._complete:
                return
            while not self._complete:
                if stop and stop():
                    return
                for _ in range(_ROWS_A_STEP):
                    if not self._next():
                        break
                if progress:
                    progress(self._scanned)
            self._save()

    def _next(self) -> bool:
        span = next(self._found, None)
        if span is None:
            self._complete = True
            return False
        self._starts.append(span.start)
        self._ends.append(span.end)
        self._lines.append(span.line)  # last, because ``rows`` counts these
        return True

    def _load(self) -> bool:
        kept = self._sidecar.load()
        if not kept or len(kept) % 24:
            return False
        third = len(kept) // 3
        for part, numbers in enumerate((self._starts, self._ends, self._lines)):
            numbers.frombytes(kept[part * third : (part + 1) * third])
        self._complete = True
        return True

    def _save(self) -> None:
        if not self.file_faults():  # those are found by scanning only
            parts = (self._starts, self._ends, self._lines)
            self._sidecar.save(b"".join(numbers.tobytes() for numbers in parts))
