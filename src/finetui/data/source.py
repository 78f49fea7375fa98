"""Open a data set file and read its rows; the file itself is never written.

Every format gives the same view: rows by number, each with its physical line (1-based), the byte
where it begins, its raw bytes and its value. For JSONL a row is a physical line, blank or not.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import xxhash

from finetui.data.lineindex import LineIndex
from finetui.data.shapes import ShapeGuess, detect_shape
from finetui.data.strict import BOM, JsonFault, RowError, decode, dumps
from finetui.errors import UserError

__all__ = ["Progress", "RawRow", "RowError", "Source", "Stop", "open_source"]

Progress = Callable[[int], None]
Stop = Callable[[], bool]

EAGER = 4 << 20  # bytes read on opening: the first page of any file, all of a small one
_READ = 1 << 20
_EDGE = 1 << 16
_SAMPLE = 50
_PACKED = {".gz": "gunzip -k", ".zst": "zstd -dk", ".xz": "unxz -k", ".zip": "unzip"}


class RawRow(NamedTuple):
    """One row as it lies in the file: row number, line (1-based), byte offset, bytes."""

    row: int
    line: int
    offset: int
    raw: bytes


class Source(ABC):
    """A file of rows, open for reading.

    ``rows`` is what can be read now; while ``exact`` is False more may follow, and
    ``estimated_rows`` says about how many there are in all.
    """

    format: str = ""
    verbatim = False  # raw(i) plus a newline is what a version should hold for an unedited row

    def __init__(self, path: Path, cache: Path | None = None) -> None:
        self.path, self.cache = path, cache
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        state = os.fstat(self.descriptor)
        self.size, self.modified = state.st_size, state.st_mtime_ns
        self._shape: ShapeGuess | None = None

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

    # ------------------------------------------------------------ the same for all formats

    def head(self, count: int) -> list[bytes]:
        """The first rows, without waiting for the index."""
        return [self.raw(row) for row in range(min(count, self.rows))]

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
        """What the rows look like, from the first ones and some spread over what is indexed."""
        if self._shape is None:
            self._shape = detect_shape(self._sample())
        return self._shape

    def _sample(self) -> list[object]:
        rows = self.rows
        step = max(1, rows // _SAMPLE)
        values = []
        for row in sorted({*range(min(_SAMPLE, rows)), *range(0, rows, step)}):
            try:
                values.append(self.value(row))
            except RowError:
                continue
        return values

    def identity(self) -> str:
        """Size and a hash of both ends: tells another file state without reading all of it."""
        digest = xxhash.xxh3_128(os.pread(self.descriptor, _EDGE, 0))
        digest.update(os.pread(self.descriptor, _EDGE, max(0, self.size - _EDGE)))
        return f"{self.size}-{digest.hexdigest()}"

    def changed(self) -> bool:
        """The file on the disk is no longer the one that was opened."""
        try:
            now = self.path.stat()
        except OSError:
            return True
        return (now.st_size, now.st_mtime_ns) != (self.size, self.modified)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class JsonlSource(Source):
    """One JSON value a line. The index is one newline count a 64 kB block."""

    format = "jsonl"
    verbatim = True

    def __init__(self, path: Path, cache: Path | None = None) -> None:
        super().__init__(path, cache)
        self._bom = len(BOM) if os.pread(self.descriptor, 3, 0) == BOM else 0
        self.index = LineIndex(self.descriptor, self.size)
        if not self._load():
            self.index.build(EAGER)
            while not self.index.lines and not self.index.complete:
                self.index.build(self.index.indexed_bytes + EAGER)

    @property
    def rows(self) -> int:
        return self.index.lines

    @property
    def exact(self) -> bool:
        return self.index.complete

    @property
    def estimated_rows(self) -> int:
        """From the mean line length so far; the exact count once the index is complete."""
        if self.index.complete or not self.index.indexed_bytes:
            return self.index.lines
        return max(1, round(self.size * self.index.lines / self.index.indexed_bytes))

    def raw(self, row: int) -> bytes:
        raw = self.index.read(row)
        return raw[self._bom :] if row == 0 else raw

    def line(self, row: int) -> int:
        return row + 1

    def offset(self, row: int) -> int:
        return self.index.span(row)[0] + (self._bom if row == 0 else 0)

    def build_index(self, progress: Progress | None = None, stop: Stop | None = None) -> None:
        if not self.index.complete:
            self.index.build(None, progress, stop)
            if self.index.complete:
                self._save()

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

    # The sidecar belongs to one state of the file: size and time of change are in its first line.
    def _sidecar(self) -> Path | None:
        if self.cache is None or self.size <= EAGER:
            return None
        name = xxhash.xxh3_64_hexdigest(str(self.path.resolve()).encode())
        return self.cache / "index" / f"{self.path.stem[:40]}-{name}.lines"

    def _stamp(self) -> bytes:
        return f"finetui-lines 1 {self.size} {self.modified} {self.identity()}\n".encode()

    def _load(self) -> bool:
        sidecar = self._sidecar()
        if sidecar is None or not sidecar.is_file():
            return False
        stamp, content = self._stamp(), sidecar.read_bytes()
        return content.startswith(stamp) and self.index.load(content[len(stamp) :])

    def _save(self) -> None:
        sidecar = self._sidecar()
        if sidecar is None:
            return
        from finetui.workspace import write_atomic

        sidecar.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(sidecar, self._stamp() + self.index.dump())


def open_source(path: Path | str, cache: Path | None = None) -> Source:
    """Open a JSONL, JSON, CSV, TSV or Parquet file by what it holds, not only by its name.

    ``cache`` is a folder for rebuildable indexes. Raises UserError when the file cannot be read.
    """
    path = Path(path)
    try:
        head = _head(path)
        return _door(path, head)(path, cache)
    except FileNotFoundError:
        raise UserError("there is no such file.", str(path), "Check the path.") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot be read: {reason}.", str(path), "Check its permissions.") from None


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise UserError("is a folder, not a data file.", str(path), "Name a file in it.")
    if path.suffix in _PACKED:
        command = f"Unpack it first: {_PACKED[path.suffix]} {path.name}"
        raise UserError("is compressed; rows cannot be reached at random.", str(path), command)
    with path.open("rb") as file:
        head = file.read(_EDGE)
    if not head:
        raise UserError("is empty.", str(path), "Choose a file with rows.")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        command = f"Convert it: iconv -f UTF-16 -t UTF-8 {path.name} > new-{path.name}"
        raise UserError("is UTF-16, not UTF-8.", str(path), command)
    return head


def _door(path: Path, head: bytes) -> Callable[[Path, Path | None], Source]:
    """The reader for a file, from its first bytes and its suffix."""
    if head[:4] == b"PAR1":
        from finetui.data.parquet import ParquetSource

        return ParquetSource
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv", ".tab"):
        from finetui.data.delimited import CsvSource

        return CsvSource
    if b"\0" in head or suffix == ".parquet":
        raise UserError(
            "is a binary file finetui does not know.", str(path), "Use JSONL, JSON, CSV or Parquet."
        )
    start = head.removeprefix(BOM).lstrip()
    if suffix not in (".jsonl", ".ndjson", ".json") and start[:1] not in (b"{", b"["):
        raise UserError(
            "is not a data set finetui knows.", str(path), "Use JSONL, JSON, CSV or Parquet."
        )
    if start[:1] in (b"[", b"{") and _is_document(start, suffix, len(head) < _EDGE):
        from finetui.data.document import JsonSource

        return JsonSource
    return JsonlSource


def _is_document(start: bytes, suffix: str, whole: bool) -> bool:
    """One JSON value over the whole file, rather than one a line."""
    first, newline, rest = start.partition(b"\n")
    try:
        value = decode(first)
        complete = True
    except JsonFault:
        value, complete = None, False
    alone = not rest.strip() and (whole or not newline)
    if start[:1] == b"[":
        return suffix == ".json" or (not complete and first.strip() == b"[") or alone
    if complete:
        wraps = isinstance(value, dict) and any(_is_rows(part) for part in value.values())
        return alone and wraps and not _is_one_row(value)
    return suffix == ".json" and (first.strip() == b"{" or (alone and not newline))


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _is_one_row(value: object) -> bool:
    """A single chat is an object that holds a list as well; it is one row, not a wrapper."""
    return detect_shape([value]).confidence > 0
