"""Rows that are reached through a copy in the cache: what was compressed, unpacked; what was
binary, as JSON Lines.

The copy is written once for a state of the file, streamed in bounded memory; the first rows can
be read as soon as they are in it. Without a cache it is a temporary file, gone with the source.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from abc import abstractmethod
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import xxhash

from finetui.data.formats.source import (
    LONG,
    Head,
    JsonlSource,
    Place,
    Progress,
    RawRow,
    RowError,
    Source,
    Stop,
)
from finetui.errors import UserError

_FIRST = 1 << 20  # bytes of the copy that are written on opening
_ROOM = 512 << 20  # bytes left free on the disk, which is not ours alone
_ROOM_EVERY = 64 << 20
_COPIES = count()


class CopiedSource(Source):
    """A source whose rows are those of its copy; see the module.

    ``_inner`` reads the copy, or what there is of it while ``exact`` is False.
    """

    folder = "copies"
    suffix = ".jsonl"

    def __init__(
        self, path: Path, cache: Path | None = None, partial: bool = False,
        files: list[Path] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(path, cache, partial, files)
        self._inner: Source | None = None
        self._retired: Source | None = None  # another thread may still be reading a row of it
        self._whole = False
        self._consumed = 0  # bytes of the original that have been read
        self._written = 0  # bytes of the copy
        self._fault = ""  # why the original ends early
        self._failed: UserError | None = None  # why the copy can't be written on
        self._file = -1
        self._target = self._place_copy()
        mark = f"{os.getpid()}-{next(_COPIES)}"
        self._part = self._target.with_name(f"{self._target.name}.{mark}.part")
        self._chunks: Iterator[bytes] = iter(())
        try:
            if self._target.is_file():
                self._open_whole()
            else:
                self._begin()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _read(self) -> Iterator[bytes]:
        """The bytes of the copy in order; keeps ``_consumed`` up to date.

        Raises UserError for what cannot be read at all. What breaks off is told by `_broke`.
        """

    @abstractmethod
    def _open_copy(self, file: Path, partial: bool) -> Source:
        """Open the copy, or the first part of it."""

    def _inner_name(self) -> Path:
        """What the copy would be called beside the original; tells its format."""
        return self.path

    def _broke(self, reason: str, refusal: UserError) -> None:
        """The original cannot be read on: what has been read stands, and the fault is kept with
        it. Where that is nothing, it is refused."""
        if not self._written:
            raise refusal from None
        self._fault = reason

    # ------------------------------------------------------------ rows

    @property
    def inner(self) -> Source:
        assert self._inner is not None
        return self._inner

    @property
    def rows(self) -> int:
        return self.inner.rows

    @property
    def exact(self) -> bool:
        return self._whole and self.inner.exact

    @property
    def estimated_rows(self) -> int:
        inner = self.inner
        if self._whole or not self._consumed:
            return inner.estimated_rows
        return max(inner.rows, round(inner.estimated_rows * self.size / self._consumed))

    def raw(self, row: int) -> bytes:
        return self.inner.raw(row)

    def head_of(self, row: int, limit: int = LONG) -> Head:
        return self.inner.head_of(row, limit)

    def line(self, row: int) -> int:
        return self.inner.line(row)

    def offset(self, row: int) -> int:
        return self.inner.offset(row)

    def place(self, row: int) -> Place:
        return Place(self.path, self.line(row), self.offset(row))

    def decode(self, raw: bytes) -> object:
        return self.inner.decode(raw)

    def as_jsonl(self) -> JsonlSource | None:
        return self.inner.as_jsonl() if self._whole else None

    def iterate(self) -> Iterator[RawRow]:
        self.build_index()
        return self.inner.iterate()

    def file_faults(self) -> list[RowError]:
        faults = self.inner.file_faults()
        if self._fault:
            row = self.rows - 1
            place = (self.line(row), self.offset(row)) if row >= 0 else (1, 0)
            faults.append(RowError(*place, f"the file breaks off here: {self._fault}"))
        return faults

    def build_index(self, progress: Progress | None = None, stop: Stop | None = None) -> None:
        with self._building:
            if not self._whole and not self._write_on(progress, stop):
                return
        self.inner.build_index(None, stop)
        if progress:
            progress(self.size)

    # ------------------------------------------------------------ the copy

    def _begin(self) -> None:
        """Write the first part, and open it (or all of it, when that was all)."""
        self._target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._chunks = self._read()
        self._file = os.open(self._part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        wanted = _FIRST
        while self._copy(wanted):
            if self._needs_whole():
                wanted = 1 << 62
                continue
            opened = self._opened(self._part, partial=True)
            if opened.rows:
                self._inner = opened
                return
            opened.close()  # not one whole row yet
            wanted *= 4
        self._publish()

    def _needs_whole(self) -> bool:
        """The copy cannot be read before it is complete."""
        return False

    def _copy(self, until: int, progress: Progress | None = None, stop: Stop | None = None) -> bool:
        """Write on until so many bytes are there; False when that is all there is."""
        if self._failed:
            raise self._failed
        checked = 0
        while self._written < until:
            if stop and stop():
                return True
            if self._written >= checked:
                self._keep_room()
                checked = self._written + _ROOM_EVERY
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._write(chunk)
            if progress:
                progress(self._consumed)
        return True

    def _write(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            # A part of the chunk is lost, so the copy can't go on: every later try says so again.
            self._failed = self._no_copy(error.strerror or str(error))
            raise self._failed from None
        self._written += len(chunk)

    def _no_copy(self, reason: str) -> UserError:
        where = str(self._target.parent)
        return UserError(f"cannot hold a copy: {reason}.", where, "Make room there.")

    def _write_on(self, progress: Progress | None, stop: Stop | None) -> bool:
        if self._copy(1 << 62, progress, stop):
            return False  # stopped; it goes on from here
        self._publish()
        return True

    def _keep_room(self) -> None:
        free = shutil.disk_usage(self._target.parent).free
        if free < _ROOM:
            raise self._no_copy(f"{free >> 20:,} MB are free on its disk")

    def _publish(self) -> None:
        os.close(self._file)
        self._file = -1
        if self._fault:
            from finetui.workspace import write_atomic

            write_atomic(self._fault_file(), self._fault)
        self._part.replace(self._target)
        self._open_whole()
        self._remove_older()

    def _open_whole(self) -> None:
        opened = self._opened(self._target, partial=False)
        if self._fault_file().is_file():
            self._fault = self._fault_file().read_text()
        self._retired = self._inner
        self._inner, self._whole = opened, True

    def _opened(self, file: Path, partial: bool) -> Source:
        """The copy, opened; its faults are told of the file that the person named."""
        try:
            opened = self._open_copy(file, partial)
        except UserError as error:
            where = error.where
            for name in (str(file), str(self._inner_name())):
                if where.startswith(name):
                    where = str(self.path) + where[len(name) :]
                    break
            raise UserError(error.what, where, error.fix) from None
        self.verbatim = opened.verbatim
        return opened

    def _place_copy(self) -> Path:
        folder = self.cache / self.folder if self.cache else _temporary_folder(self)
        named = xxhash.xxh3_64_hexdigest(str(self.path.resolve()).encode())
        state = xxhash.xxh3_64_hexdigest(f"{self.identity()} {self.modified}".encode())
        return folder / f"{self.path.name.partition('.')[0][:40]}-{named}-{state}{self.suffix}"

    def _fault_file(self) -> Path:
        return self._target.with_name(self._target.name + ".fault")

    def _remove_older(self) -> None:
        """Copies of earlier states of the same file are of no more use."""
        stem = self._target.name.rpartition("-")[0]
        for other in self._target.parent.glob(f"{stem}-*"):
            if not other.name.startswith(self._target.name) and other.suffix != ".part":
                other.unlink(missing_ok=True)

    def close(self) -> None:
        for source in (self._inner, self._retired):
            if source is not None:
                source.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._part.unlink(missing_ok=True)
        if self.cache is None:
            shutil.rmtree(self._target.parent, ignore_errors=True)
        super().close()


class TableSource(CopiedSource):
    """Rows of a binary table, as JSON Lines. It has no lines of its own: ``line`` is the row's
    number (1-based) and ``offset`` 0."""

    folder = "tables"

    def _open_copy(self, file: Path, partial: bool) -> Source:
        return JsonlSource(file, self.cache, partial)

    def line(self, row: int) -> int:
        return row + 1

    def offset(self, row: int) -> int:
        return 0

    def iterate(self) -> Iterator[RawRow]:
        self.build_index()
        for row in self.inner.iterate():
            yield RawRow(row.row, row.row + 1, 0, row.raw)


def _temporary_folder(owner: object) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="finetui-"))
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder
