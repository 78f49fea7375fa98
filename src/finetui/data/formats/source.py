"""Open data set files and read their rows; the files themselves are never written.

Every format gives the same view: rows by number, each with its physical line (1-based), the byte
where it begins, its raw bytes and its value. For JSONL a row is a physical line, blank or not.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import xxhash

from finetui.data.formats.lineindex import LineIndex
from finetui.data.formats.sidecar import Sidecar
from finetui.data.shapes import ShapeGuess, detect_shape
from finetui.data.strict import BOM, JsonFault, RowError, decode, dumps

__all__ = ["Head", "Place", "Progress", "RawRow", "RowError", "Source", "Stop", "open_source"]

Progress = Callable[[int], None]
Stop = Callable[[], bool]

EAGER = 4 << 20  # bytes read on opening: the first page of any file, all of a small one
LONG = 1 << 20  # rows longer than this are shown cut
_READ = 1 << 20
_EDGE = 1 << 16
_SAMPLE = 50


class RawRow(NamedTuple):
    """One row as it lies in the file: row number, line (1-based), byte offset, bytes."""

    row: int
    line: int
    offset: int
    raw: bytes


class Place(NamedTuple):
    """Where a row lies: the file, its physical line there (1-based), the byte where it begins."""

    path: Path
    line: int
    offset: int


class Head(NamedTuple):
    """The first bytes of a row, and how many it has in all."""

    raw: bytes
    length: int

    @property
    def cut(self) -> bool:
        return len(self.raw) < self.length


class Source(ABC):
    """Rows of a file (or of several), open for reading.

    ``rows`` is what can be read now; while ``exact`` is False more may follow, and
    ``estimated_rows`` says about how many there are in all. ``path`` is what the person named,
    ``files`` are the files behind it. ``partial`` says that only the beginning of a file is
    there yet, so that its last row is not to be trusted.
    """

    format: str = ""
    packing: str = ""  # gzip, zstd, ... for a compressed file
    verbatim = False  # raw(i) plus a newline is what a version should hold for an unedited row

    def __init__(
        self,
        path: Path,
        cache: Path | None = None,
        partial: bool = False,
        files: list[Path] | None = None,
    ) -> None:
        self.path, self.cache, self.partial = path, cache, partial
        self.files = files or [path]
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._states = [_state(os.fstat(self.descriptor))]
        if files:
            self._states = [_state(os.stat(file)) for file in files]
        self.size = sum(size for size, _ in self._states)
        self.modified = max(modified for _, modified in self._states)
        self._building = threading.Lock()  # two threads may ask for the index at once
        self._shape: ShapeGuess | None = None
        self._shape_exact = False

    # ------------------------------------------------------------ what each format provides

    @property
    @abstractmethod
    def rows(self) -> int: ...

    @property
    @abstractmethod
    def exact(self) -> bool: ...

    @property
    @abstractmethod
    def estimated_rows(self) -> int: ...

    @abstractmethod
    def raw(self, row: int) -> bytes: ...

    @abstractmethod
    def head_of(self, row: int, limit: int = LONG) -> Head:
        """At most ``limit`` bytes of a row, without reading the rest of it."""

    @abstractmethod
    def line(self, row: int) -> int: ...

    @abstractmethod
    def offset(self, row: int) -> int: ...

    @abstractmethod
    def build_index(self, progress: Progress | None = None, stop: Stop | None = None) -> None:
        """Read on until every row is known; safe in a thread. ``progress`` gets bytes done."""

    def iterate(self) -> Iterator[RawRow]:
        """Every row in order; builds the index first where the format needs one."""
        self.build_index()
        for row in range(self.rows):
            yield RawRow(row, self.line(row), self.offset(row), self.raw(row))

    def decode(self, raw: bytes) -> object:
        """The value of a row's bytes; raises JsonFault."""
        return decode(raw)

    def file_faults(self) -> list[RowError]:
        """Faults of the file that belong to no row (an array that is never closed)."""
        return []

    def as_jsonl(self) -> JsonlSource | None:
        """The JSON Lines file whose physical line k is row k, once the index is built.

        It is the file itself, or the copy of what was compressed or binary; None for formats
        that are read in place by other rules.
        """
        return None

    # ------------------------------------------------------------ the same for all formats

    def head(self, count: int) -> list[bytes]:
        """The first rows, without waiting for the index."""
        return [self.raw(row) for row in range(min(count, self.rows))]

    def length(self, row: int) -> int:
        """How many bytes a row has."""
        return self.head_of(row, 0).length

    def place(self, row: int) -> Place:
        return Place(self.path, self.line(row), self.offset(row))

    @property
    def paths(self) -> list[Path]:
        """What was named to open it: one path, or those of a set of several."""
        return [self.path]

    def line_words(self, row: int) -> str:
        """``line 12``; in a set of several files ``b.jsonl:12``."""
        line = self.line(row)
        return f"line {line}" if len(self.files) == 1 else f"{self.place(row).path.name}:{line}"

    def value(self, row: int) -> object:
        """The row's value; raises RowError with line, offset and the position of the fault."""
        try:
            return self.decode(self.raw(row))
        except JsonFault as fault:
            raise RowError(
                self.line(row), self.offset(row), fault.message, fault.position, fault.check
            ) from None

    def text(self, row: int) -> str:
        """The row as one JSON line for people; invalid bytes show as U+FFFD."""
        raw = self.raw(row)
        if self.verbatim and b"\n" not in raw:
            return raw.decode(errors="replace").rstrip("\r")
        try:
            return dumps(self.decode(raw))
        except JsonFault:
            return raw.decode(errors="replace")

    @property
    def shape(self) -> ShapeGuess:
        """What the rows look like, from the first ones and some spread over what is indexed.

        Guessed once from the first page and once more when every row is known.
        """
        if self._shape is None or (self.exact and not self._shape_exact):
            self._shape_exact = self.exact
            self._shape = self._guess()
        return self._shape

    def _guess(self) -> ShapeGuess:
        return detect_shape(self._sample())

    def _sample(self) -> list[object]:
        rows = self.rows
        step = max(1, rows // _SAMPLE)
        values = []
        for row in sorted({*range(min(_SAMPLE, rows)), *range(0, rows, step)}):
            if rows > 1 and self.length(row) > LONG:
                continue
            try:
                values.append(self.value(row))
            except RowError:
                continue
        return values

    def identity(self) -> str:
        """Size and a hash of both ends: tells another file state without reading all of it."""
        if self.files == [self.path]:
            return f"{self.size}-{_ends(self.descriptor, self.size).hexdigest()}"
        digest = xxhash.xxh3_128()
        for file in self.files:
            with file.open("rb") as opened:
                digest.update(_ends(opened.fileno(), file.stat().st_size).digest())
        return f"{self.size}-{digest.hexdigest()}"

    def changed(self) -> bool:
        """A file on the disk is no longer the one that was opened."""
        try:
            return [_state(file.stat()) for file in self.files] != self._states
        except OSError:
            return True

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _state(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


def _ends(descriptor: int, size: int) -> xxhash.xxh3_128:
    digest = xxhash.xxh3_128(os.pread(descriptor, _EDGE, 0))
    digest.update(os.pread(descriptor, _EDGE, max(0, size - _EDGE)))
    return digest


class JsonlSource(Source):
    """One JSON value a line. The index is one newline count a 64 kB block."""

    format = "jsonl"
    verbatim = True

    def __init__(self, path: Path, cache: Path | None = None, partial: bool = False) -> None:
        super().__init__(path, cache, partial)
        self._bom = len(BOM) if os.pread(self.descriptor, 3, 0) == BOM else 0
        self.index = LineIndex(self.descriptor, self.size)
        self._sidecar = Sidecar(self, "lines", EAGER)
        kept = self._sidecar.load()
        if kept is None or not self.index.load(kept):
            self.index.build(EAGER)
            while not self.index.lines and not self.index.complete:
                self.index.build(self.index.indexed_bytes + EAGER)

    @property
    def rows(self) -> int:
        return self.index.whole_lines if self.partial else self.index.lines

    @property
    def exact(self) -> bool:
        return self.index.complete

    @property
    def estimated_rows(self) -> int:
        """From the mean line length so far; the exact count once the index is complete."""
        if self.index.complete or not self.index.indexed_bytes:
            return self.rows
        return max(1, round(self.size * self.index.lines / self.index.indexed_bytes))

    def raw(self, row: int) -> bytes:
        raw = self.index.read(row)
        return raw[self._bom :] if row == 0 else raw

    def head_of(self, row: int, limit: int = LONG) -> Head:
        start, end = self.index.span(row)
        start += self._bom if row == 0 else 0
        return Head(os.pread(self.descriptor, min(limit, end - start), start), end - start)

    def line(self, row: int) -> int:
        return row + 1

    def offset(self, row: int) -> int:
        return self.index.span(row)[0] + (self._bom if row == 0 else 0)

    def as_jsonl(self) -> JsonlSource:
        return self

    def build_index(self, progress: Progress | None = None, stop: Stop | None = None) -> None:
        with self._building:
            if self.index.complete:
                return
            self.index.build(None, progress, stop)
            if self.index.complete:
                self._sidecar.save(self.index.dump())

    def blocks(self, size: int = _READ) -> Iterator[tuple[int, int, bytes]]:
        """(first row, byte offset, whole lines) in order; needs no index."""
        row = start = position = 0
        pieces: list[bytes] = []
        while chunk := os.pread(self.descriptor, size, position):
            position += len(chunk)
            cut = chunk.rfind(b"\n") + 1
            if not cut:
                pieces.append(chunk)
                continue
            block = b"".join((*pieces, chunk[:cut]))
            yield row, start, block
            row, start = row + block.count(b"\n"), start + len(block)
            pieces = [chunk[cut:]]
        rest = b"".join(pieces)
        if rest:
            yield row, start, rest

    def iterate(self) -> Iterator[RawRow]:
        for first, base, block in self.blocks():
            row, start = first, 0
            if base == 0 and self._bom:
                start = self._bom
            while start < len(block) or (row == 0 and start == len(block)):
                end = block.find(b"\n", start)
                end = len(block) if end < 0 else end
                yield RawRow(row, row + 1, base + start, block[start:end])
                row, start = row + 1, end + 1


def open_source(path: Path | str, cache: Path | None = None) -> Source:
    """Open a file by what it holds, not only by its name: JSONL, a JSON array, CSV, TSV, Parquet,
    Arrow, each also compressed, or a folder written by ``datasets``.

    ``cache`` is a folder for rebuildable indexes and copies; without it they live as long as the
    source. Raises UserError when the file cannot be read.
    """
    from finetui.data.formats.doors import open_path

    return open_path(Path(path), cache)
