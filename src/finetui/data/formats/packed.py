"""Compressed files: .gz, .zst, .xz and .bz2, unpacked once into the cache.

Lines and offsets are those of the unpacked text. A file that breaks off gives the rows that were
whole before, and a fault of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from finetui.data.formats.copied import CopiedSource
from finetui.data.formats.doors import open_file
from finetui.data.formats.source import Source
from finetui.errors import UserError

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
}
_SUFFIXES = {".gz", ".gzip", ".zst", ".zstd", ".xz", ".bz2"}
_WHOLE_FIRST = (b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")
_READ = 1 << 18
_PACKED = 1 << 12  # bytes given to zstd at a time: a file made to burst memory gets 100 MB of it


def packing_of(head: bytes) -> str:
    """How a file that begins so is compressed; ``""`` when it is not."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")


class PackedSource(CopiedSource):
    """A compressed file of any format; ``format`` is that of what is inside."""

    folder = "unpacked"

    def __init__(self, path: Path, cache: Path | None = None, partial: bool = False) -> None:
        with path.open("rb") as file:
            self.packing = packing_of(file.read(8))
        self.path = path
        self.suffix = self._inner_name().suffix
        super().__init__(path, cache, partial)

    def _inner_name(self) -> Path:
        packed = self.path.suffix.lower() in _SUFFIXES
        return self.path.with_suffix("") if packed else self.path

    def _read(self) -> Iterator[bytes]:
        unpack = _unpack_zstd if self.packing == "zstd" else _unpack_stream
        with self.path.open("rb") as file:
            try:
                for chunk in unpack(file, self.packing):
                    self._consumed = min(file.tell(), self.size)
                    yield chunk
            except _broken_by(self.packing) as error:
                reason = str(error) or type(error).__name__
                what = f"cannot be unpacked: {reason}."
                self._broke(reason, UserError(what, str(self.path), "Fetch it again."))

    def _open_copy(self, file: Path, partial: bool) -> Source:
        opened = open_file(file, self._inner_name(), self.cache, partial)
        self.format = opened.format
        return opened

    def _needs_whole(self) -> bool:
        with self._part.open("rb") as file:
            head = file.read(8)
        return head.startswith(_WHOLE_FIRST) or bool(packing_of(head))


def _unpack_stream(file: IO[bytes], packing: str) -> Iterator[bytes]:
    """``read1`` gives what there is before it raises for what is damaged."""
    stream = _opener(packing)(file)
    while chunk := stream.read1(_READ):
        yield chunk


def _opener(packing: str) -> Callable[[IO[bytes]], Any]:
    if packing == "xz":
        import lzma

        return lzma.LZMAFile
    if packing == "bzip2":
        import bz2

        return bz2.BZ2File
    import gzip

    return lambda file: gzip.GzipFile(fileobj=file)


def _unpack_zstd(file: IO[bytes], packing: str) -> Iterator[bytes]:
    """Frame by frame: the stream reader of the library neither tells a file that is cut off nor
    gives what stood before a fault."""
    import zstandard

    context = zstandard.ZstdDecompressor()
    frame, packed = context.decompressobj(), b""
    started = False
    while packed := packed or file.read(_PACKED):
        started = True
        if chunk := frame.decompress(packed):
            yield chunk
        packed = frame.unused_data if frame.eof else b""
        if frame.eof:
            frame, started = context.decompressobj(), False
    if started:
        raise EOFError("the last frame has no end")


def _broken_by(packing: str) -> tuple[type[Exception], ...]:
    """What each library raises for a file that is damaged or cut off."""
    import zlib

    known: tuple[type[Exception], ...] = (EOFError, OSError, zlib.error)
    if packing == "xz":
        import lzma

        return (*known, lzma.LZMAError)
    if packing == "zstd":
        import zstandard

        return (*known, zstandard.ZstdError)
    return known
