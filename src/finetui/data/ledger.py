"""Which split each row of a version went to, so that a later split of grown data moves no old row.

A row is known again by the bytes it has in its source, else by what it asks, else by the person's
group key: it may be repaired, answered anew or stand elsewhere in the file.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress, repeat
from operator import and_, or_
from pathlib import Path

from finetui.errors import UserError

NAMES = ("train", "validation", "test")
FILE = "frozen.bin"
_STAMP = b"finetui-frozen 1\n"
_PLACE = 3  # the two lowest bits of an entry are its place in NAMES, the others the row's hash
_BARE = (1 << 64) - 1 - _PLACE


def _empty() -> array[int]:
    return array("Q")


@dataclass
class Ledger:
    """Hashes of rows with their place in `NAMES`: three sorted tables of 8 bytes an entry."""

    marks: array[int] = field(default_factory=_empty)
    keys: array[int] = field(default_factory=_empty)
    groups: array[int] = field(default_factory=_empty)

    def place(self, mark: int, key: int, group: int = 0) -> int | None:
        """Where a row belongs since the earlier split; None for a new one."""
        for table, wanted in ((self.marks, mark), (self.keys, key), (self.groups, group)):
            found = _find(table, wanted) if wanted else None
            if found is not None:
                return found
        return None

    def dumps(self) -> bytes:
        tables = [array("Q", table) for table in (self.marks, self.keys, self.groups)]
        sizes = " ".join(str(len(table)) for table in tables)
        for table in tables:
            if sys.byteorder == "big":
                table.byteswap()
        content = b"".join(table.tobytes() for table in tables)
        return _STAMP + sizes.encode() + b"\n" + content


def enter(earlier: Ledger | None, places: Sequence[int], **tables: Sequence[int]) -> Ledger:
    """A ledger of rows: hashes for ``marks``, ``keys`` and ``groups``, and the place of each row
    in `NAMES` (-1: the row is in none).

    What stood in the earlier ledger stands in the new one, rows that are gone included.
    """
    made = Ledger()
    for name, hashes in tables.items():
        kept = [hash != 0 and place >= 0 for hash, place in zip(hashes, places, strict=False)]
        bare = map(and_, compress(hashes, kept), repeat(_BARE))
        entries = set(map(or_, bare, compress(places, kept)))
        old: array[int] = getattr(earlier, name) if earlier else _empty()
        if old or len(set(map(and_, entries, repeat(_BARE)))) < len(entries):
            entries = _unambiguous(entries, old)
        setattr(made, name, array("Q", sorted(entries)))
    return made


def _unambiguous(entries: set[int], old: array[int]) -> set[int]:
    """The entries of both; of a hash with two places (one of two equal rows was edited) none."""
    seen: dict[int, int] = {}
    for entry in entries:
        bare = entry & _BARE
        seen[bare] = -1 if bare in seen else entry
    seen.update((entry & _BARE, entry) for entry in old)
    return {entry for entry in seen.values() if entry >= 0}


def read_ledger(folder: Path) -> Ledger:
    """The ledger of a version's folder. Raises UserError when there is none."""
    path = folder / FILE
    try:
        stamp, _, rest = path.read_bytes().partition(b"\n")
        sizes, _, content = rest.partition(b"\n")
        counts = [int(size) for size in sizes.split()]
        if stamp + b"\n" != _STAMP or len(counts) != 3 or 8 * sum(counts) != len(content):
            raise ValueError(path)
    except (OSError, ValueError):
        raise UserError(
            "this version does not say which row went where.",
            str(folder),
            "Only a version made by a split can be split on from; make one: finetui split",
        ) from None
    tables = []
    for count in counts:
        table = array("Q")
        table.frombytes(content[: 8 * count])
        if sys.byteorder == "big":
            table.byteswap()
        tables.append(table)
        content = content[8 * count :]
    return Ledger(*tables)


def _find(table: array[int], wanted: int) -> int | None:
    bare = wanted & _BARE
    at = bisect_left(table, bare)
    return table[at] & _PLACE if at < len(table) and table[at] & _BARE == bare else None
