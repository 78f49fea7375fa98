"""Write the rows of data sets to the files of a version, whole blocks at a time.

An unedited row of a file with lines keeps its bytes; what is not one line of JSON becomes one.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

from blake3 import blake3

from finetui.data.blocks import Block, blocks, doubtful, surely_json
from finetui.data.dataset import DataSet
from finetui.data.split import LEFT_OUT
from finetui.data.strict import JsonFault, decode, dumps
from finetui.errors import UserError

_READ = 1 << 20
_BATCH = 512  # rows written at once where each is fetched by its number


class Held(NamedTuple):
    """A row of the first file that waits for its turn: its part, row, and length in bytes."""

    part: int
    row: int
    length: int


Order = Callable[[list[Held]], Sequence[Held]]
"""From the rows of a file as they lie to the order in which they are written."""


@dataclass
class Part:
    """A data set's part in a version: the output each row goes to (None: all to the first one;
    `LEFT_OUT`: to none), a column to tell its rows by, as (name, value), and what makes a line
    of another shape of a line, where its shape is not that of the others."""

    dataset: DataSet
    places: array[int] | None = None
    column: tuple[str, str] | None = None
    remake: Callable[[bytes], bytes] | None = None


@dataclass
class Tally:
    """What became of one source's rows. Lines are physical and 1-based."""

    rows: int = 0
    written: int = 0
    edited: int = 0
    dropped: int = 0
    quarantined: int = 0
    left_out: int = 0
    blank: int = 0
    dropped_lines: list[int] = field(default_factory=list)
    malformed_lines: list[int] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For a manifest: what did not happen is not told where it seldom happens."""
        said = asdict(self)
        return {key: said[key] for key in said if key not in _SELDOM or said[key]}


_SELDOM = ("quarantined", "left_out")


class Output:
    """A file of the version, hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = blake3()
        self._rows = self._bytes = 0

    def __enter__(self) -> Output:
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        return self

    def write(self, lines: bytes, rows: int) -> None:
        """Lines with their newlines."""
        self._digest.update(lines)
        self._rows += rows
        self._bytes += len(lines)
        view = memoryview(lines)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def __exit__(self, *_: object) -> None:
        os.fsync(self._descriptor)
        os.close(self._descriptor)

    def entry(self) -> dict[str, Any]:
        return {
            "file": self._path.name,
            "rows": self._rows,
            "bytes": self._bytes,
            "blake3": self._digest.hexdigest(),
        }


def write_rows(
    parts: Sequence[Part],
    outputs: Sequence[Output],
    skip_malformed: bool = False,
    order: Order | None = None,
) -> list[tuple[Tally, dict[str, str]]]:
    """Write every part; its tally, and the BLAKE3 of each of its files.

    ``order`` puts the rows of the first output in another order than that of the sources. Raises
    UserError for malformed rows, unless ``skip_malformed``; it names the first, and how many.
    """
    writers = [_Writer(part, outputs, hold=order is not None) for part in parts]
    for writer in writers:
        writer.write()
    if not skip_malformed:
        for writer in writers:
            writer.refuse_malformed()
    if order:
        held = [Held(part, *found) for part, writer in enumerate(writers) for found in writer.held]
        _write_held(writers, order(held), outputs[0])
    return [(writer.tally, writer.hashes()) for writer in writers]


def _write_held(writers: Sequence[_Writer], held: Sequence[Held], output: Output) -> None:
    for start in range(0, len(held), _BATCH):
        batch = held[start : start + _BATCH]
        lines = [writers[part].line_of(row) for part, row, _ in batch]
        output.write(b"\n".join(lines) + b"\n", len(lines))


class _Writer:
    """Writes one part."""

    def __init__(self, part: Part, outputs: Sequence[Output], hold: bool) -> None:
        self.part, self.dataset, self.outputs = part, part.dataset, outputs
        self.tally = Tally()
        self.held: list[tuple[int, int]] = []
        self._hold = hold
        self._digest = blake3()
        self._hashed = 0
        self._column = _Column(*part.column) if part.column else None
        self._as_is = part.column is None and part.remake is None

    def write(self) -> None:
        places = self.part.places
        for block in blocks(self.dataset):
            self._hash(block)
            self.tally.rows += block.count
            if places is None:
                self._write_block(block, None)
            else:
                self._write_block(block, places[block.first : block.first + block.count])

    def _write_block(self, block: Block, places: array[int] | None) -> None:
        plain = places is None and not self._hold and self._as_is and not block.changed
        if plain and block.lines and surely_json(block.text, block.count):
            self._put(0, block.text, block.count)
            return
        lines, kept = self._lay(block)
        if places is None:
            self._write_chosen(block, lines, kept, 0)
            return
        code = places.tobytes()
        for place in range(len(self.outputs)):
            chosen = [good and own == place for good, own in zip(kept, code, strict=True)]
            self._write_chosen(block, lines, chosen, place)
        if LEFT_OUT in code:
            self.tally.left_out += sum(
                good and own == LEFT_OUT for good, own in zip(kept, code, strict=True)
            )

    def _write_chosen(
        self, block: Block, lines: list[bytes], chosen: list[bool], place: int
    ) -> None:
        """Some rows of a block to an output, or to those that wait for their turn."""
        count = chosen.count(True)
        if not count:
            return
        self.tally.edited += _edited(block, chosen)
        if place == 0 and self._hold:
            numbers = range(block.first, block.first + len(lines))
            self.held += compress(zip(numbers, map(len, lines), strict=True), chosen)
            self.tally.written += count
            return
        own: Iterable[bytes] = compress(lines, chosen)
        own = own if self._as_is else map(self._remade, own)
        self._put(place, b"\n".join((*own, b"")), count)

    def _put(self, place: int, lines: bytes, rows: int) -> None:
        self.outputs[place].write(lines, rows)
        self.tally.written += rows

    def _lay(self, block: Block) -> tuple[list[bytes], list[bool]]:
        """The block's rows as lines of JSON, edits in place; which of them can be written."""
        lines, kept = block.rows, [True] * len(block.rows)
        for place, state in block.changed.items():
            if state.text is not None:
                lines[place] = state.text.encode()
            if not state.kept:
                kept[place] = False
                self._leave_out(block.first + place, state.quarantined)
        if block.lines:
            for place in doubtful(lines):
                if kept[place]:
                    kept[place] = False
                    self._unreadable(block.first + place, blank=not lines[place].strip())
            return lines, kept
        for place in range(len(lines)):
            if kept[place]:
                line = self._line(block, place)
                kept[place] = line is not None
                lines[place] = line or b""
        return lines, kept

    def _leave_out(self, row: int, quarantined: bool) -> None:
        if quarantined:
            self.tally.quarantined += 1
        else:
            self.tally.dropped += 1
        self.tally.dropped_lines.append(self.dataset.source.line(row))

    def _line(self, block: Block, place: int) -> bytes | None:
        """One row as a line of JSON; None, and counted, when it cannot be read."""
        state = block.changed.get(place)
        edited = state.text if state else None
        try:
            return row_line(self.dataset, block.rows[place], edited)
        except JsonFault as fault:
            self._unreadable(block.first + place, blank=fault.check == "blank-line")
            return None

    def _unreadable(self, row: int, blank: bool) -> None:
        if blank:
            self.tally.blank += 1
        else:
            self.tally.malformed_lines.append(self.dataset.source.line(row))

    def line_of(self, row: int) -> bytes:
        """A row that was held back, by its number."""
        state = self.dataset.state(row)
        line = row_line(self.dataset, self.dataset.source.raw(row), state.text)
        return self._remade(line)

    def _remade(self, line: bytes) -> bytes:
        line = self.part.remake(line) if self.part.remake else line
        return self._column.add(line) if self._column else line

    # ------------------------------------------------------------ the source

    def _hash(self, block: Block) -> None:
        if block.lines and _is_own_text(self.dataset):
            self._digest.update(block.read)
            self._hashed += len(block.read)

    def hashes(self) -> dict[str, str]:
        """The BLAKE3 of each file of the source; raises UserError when one changed meanwhile."""
        source = self.dataset.source
        if source.changed():
            raise UserError("changed while it was read.", str(source.path), "Write it again.")
        if self._hashed == source.size and _is_own_text(self.dataset):
            return {str(source.path): self._digest.hexdigest()}
        return {str(file): file_hash(file) for file in source.files}

    def refuse_malformed(self) -> None:
        bad, faults = self.tally.malformed_lines, self.dataset.source.file_faults()
        if not bad and not faults:
            return
        count = len(bad) + len(faults)
        many = f"{count} malformed rows, the first here" if count > 1 else "a malformed row here"
        raise UserError(
            f"{many}; a version cannot hold what no trainer can read.",
            f"{self.dataset.path}:{bad[0] if bad else faults[0].line}",
            "Repair or drop them, or write the version without them (--skip-malformed).",
        )


def _is_own_text(dataset: DataSet) -> bool:
    """The blocks of rows are the very bytes of the one file that was named."""
    source = dataset.source
    return source.format == "jsonl" and not source.packing and source.files == [source.path]


def _edited(block: Block, chosen: Sequence[bool]) -> int:
    return sum(chosen[place] and state.text is not None for place, state in block.changed.items())


def row_line(dataset: DataSet, raw: bytes, edited: str | None = None) -> bytes:
    """What a version holds for a row: its own bytes where they are one line of JSON.

    Raises JsonFault for a row that cannot be read.
    """
    if edited is not None:
        decode(edited.encode())
        return edited.encode()
    value = dataset.source.decode(raw)
    if dataset.source.verbatim and b"\n" not in raw:
        return raw
    return dumps(value).encode()


class _Column:
    """Adds a column at the end of a row; every other byte stays."""

    def __init__(self, name: str, value: str) -> None:
        self._name, self._key = name, dumps(name).encode()
        self._entry = self._key + b": " + dumps(value).encode() + b"}"

    def add(self, line: bytes) -> bytes:
        body = line.rstrip()
        if not body.endswith(b"}") or self._has(line):
            return line
        rest = body[:-1].rstrip()
        return rest + (b"" if rest.endswith(b"{") else b", ") + self._entry

    def _has(self, line: bytes) -> bool:
        """The row has a column of this name already, which stays as it is."""
        if self._key not in line and b"\\u" not in line:
            return False
        value = decode(line)
        return isinstance(value, dict) and self._name in value


def file_hash(path: Path, kind: str = "blake3") -> str:
    """BLAKE3 (or SHA-256, of older versions) of a file, in hex."""
    import hashlib

    digest: Any = blake3() if kind == "blake3" else hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_READ):
            digest.update(chunk)
    return str(digest.hexdigest())


def total(tallies: Iterable[Tally]) -> dict[str, int]:
    """The counts of a manifest."""
    said = list(tallies)
    counts = {
        "rows": sum(tally.rows for tally in said),
        "written": sum(tally.written for tally in said),
        "edited": sum(tally.edited for tally in said),
        "dropped": sum(tally.dropped for tally in said),
        "blank": sum(tally.blank for tally in said),
        "malformed": sum(len(tally.malformed_lines) for tally in said),
    }
    for name in _SELDOM:
        count = sum(getattr(tally, name) for tally in said)
        if count:
            counts[name] = count
    return counts
