"""Several files as one set: rows run on from file to file, each with the line in its own file."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import xxhash

from finetui.data.formats.source import (
    LONG,
    Head,
    Place,
    Progress,
    RawRow,
    RowError,
    Source,
    Stop,
    open_source,
)
from finetui.data.shapes import ShapeGuess, merge_guesses
from finetui.data.strict import JsonFault, dumps
from finetui.errors import UserError


class SeveralSource(Source):
    """The rows of several sources, one source after the other.

    ``path`` is the first file, ``parts`` are the single sources. Files may be of several formats;
    a row of a CSV file stands here as the JSON of its cells, so that one decoder reads them all.
    """

    format = "several"
    verbatim = True

    def __init__(self, parts: Sequence[Source], cache: Path | None = None) -> None:
        super().__init__(parts[0].path, cache)
        self.parts = list(parts)
        self.files = [file for part in parts for file in part.files]
        self.size = sum(part.size for part in parts)
        self.modified = max(part.modified for part in parts)
        formats = {part.format for part in parts}
        self.format = formats.pop() if len(formats) == 1 else "several"

    @property
    def paths(self) -> list[Path]:
        return [part.path for part in self.parts]

    @property
    def rows(self) -> int:
        """Rows up to the first file that is not read to its end: later ones have no number yet."""
        total = 0
        for part in self.parts:
            total += part.rows
            if not part.exact:
                break
        return total

    @property
    def exact(self) -> bool:
        return all(part.exact for part in self.parts)

    @property
    def estimated_rows(self) -> int:
        return sum(part.estimated_rows for part in self.parts)

    def at(self, row: int) -> tuple[Source, int]:
        """The source that holds a row, and the row's number there."""
        first, part = self._part(row)
        return part, row - first

    def raw(self, row: int) -> bytes:
        part, own = self.at(row)
        return _as_json(part, part.raw(own))

    def head_of(self, row: int, limit: int = LONG) -> Head:
        part, own = self.at(row)
        head = part.head_of(own, limit)
        if head.cut or part.verbatim:
            return head
        whole = self.raw(row)
        return Head(whole[:limit], len(whole))

    def value(self, row: int) -> object:
        part, own = self.at(row)
        return part.value(own)

    def text(self, row: int) -> str:
        part, own = self.at(row)
        return part.text(own)

    def line(self, row: int) -> int:
        part, own = self.at(row)
        return part.line(own)

    def offset(self, row: int) -> int:
        part, own = self.at(row)
        return part.offset(own)

    def place(self, row: int) -> Place:
        part, own = self.at(row)
        return part.place(own)

    def build_index(self, progress: Progress | None = None, stop: Stop | None = None) -> None:
        done = 0
        for part in self.parts:
            part.build_index(_ahead(progress, done), stop)
            done += part.size

    def iterate(self) -> Iterator[RawRow]:
        first = 0
        for part in self.parts:
            row = -1
            for row, line, offset, raw in part.iterate():
                yield RawRow(first + row, line, offset, _as_json(part, raw))
            first += row + 1

    def file_faults(self) -> list[RowError]:
        return [fault for part in self.parts for fault in part.file_faults()]

    def _guess(self) -> ShapeGuess:
        """The shape of most rows; files that differ are named."""
        return merge_guesses([(part.path.name, part.rows, part.shape) for part in self.parts])

    @property
    def shapes(self) -> list[tuple[Path, ShapeGuess]]:
        """Each file with its own shape."""
        return [(part.path, part.shape) for part in self.parts]

    def identity(self) -> str:
        digest = xxhash.xxh3_128()
        for part in self.parts:
            digest.update(part.identity().encode() + b"\n")
        return f"{self.size}-{digest.hexdigest()}"

    def changed(self) -> bool:
        return any(part.changed() for part in self.parts)

    def close(self) -> None:
        for part in self.parts:
            part.close()
        super().close()

    def _part(self, row: int) -> tuple[int, Source]:
        counts = list(accumulate((part.rows for part in self.parts), initial=0))
        number = bisect_right(counts, row) - 1
        if not 0 <= number < len(self.parts):
            raise IndexError(row)
        return counts[number], self.parts[number]


def open_several(paths: Sequence[Path | str], cache: Path | None = None) -> Source:
    """Open files as one set, in this order; a single one is opened as it is. Raises UserError."""
    chosen = [Path(path) for path in paths]
    if not chosen:
        raise UserError("no file was named.", fix="Name at least one.")
    if len(chosen) == 1:
        return open_source(chosen[0], cache)
    _refuse_twice(chosen)
    opened: list[Source] = []
    try:
        opened.extend(open_source(path, cache) for path in chosen)
        return SeveralSource(opened, cache)
    except BaseException:
        for source in opened:
            source.close()
        raise


def single_files(source: Source) -> list[tuple[int, Source]]:
    """The sources of an indexed set, each with the row of the set that it begins with."""
    parts = source.parts if isinstance(source, SeveralSource) else [source]
    firsts = accumulate((part.rows for part in parts), initial=0)
    return list(zip(firsts, parts, strict=False))


def _refuse_twice(paths: Sequence[Path]) -> None:
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise UserError("is named twice.", str(path), "Name every file once.")
        seen.add(path.resolve())


def _as_json(part: Source, raw: bytes) -> bytes:
    """A row that only its own file's reader understands, as JSON; a broken one as it is."""
    if part.verbatim:
        return raw
    try:
        return dumps(part.decode(raw)).encode()
    except JsonFault:
        return raw


def _ahead(progress: Progress | None, done: int) -> Progress | None:
    return (lambda here: progress(done + here)) if progress else None
