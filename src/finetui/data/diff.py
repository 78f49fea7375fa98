"""Two versions row by row: what was added, removed, edited, or moved to another split.

A row is the same row when its bytes are; when they are not, it is an edit of the row that asks the
same, or that stood between the same neighbours and reads much alike.
"""

from __future__ import annotations

from array import array
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import xxhash

from finetui.data.blocks import blocks
from finetui.data.dataset import DataSet, open_dataset
from finetui.data.prompts import letters, question
from finetui.data.records import Record, read_record
from finetui.data.strict import JsonFault
from finetui.data.versions import Version

Kind = Literal["added", "removed", "edited", "moved"]
_ALIKE = 0.4  # the share of its pieces that an edited row keeps, at least
_WINDOW = 6  # bytes
_hash = xxhash.xxh3_64_intdigest


class Place(NamedTuple):
    """A row of a version: its file, and its line there (1-based)."""

    file: str
    line: int


@dataclass(frozen=True)
class Change:
    """One row that is not the same in both versions.

    ``before`` is None for an added row, ``after`` for a removed one. A moved row is in another
    file (split) than before; an edited one may be as well.
    """

    kind: Kind
    before: Place | None
    after: Place | None


@dataclass
class Diff:
    """What it takes to come from one version to the other; ``same`` rows need nothing."""

    before: Version
    after: Version
    changes: list[Change] = field(default_factory=list)
    same: int = 0

    @property
    def counts(self) -> dict[str, int]:
        kinds: dict[str, int] = dict.fromkeys(("added", "removed", "edited", "moved"), 0)
        for change in self.changes:
            kinds[change.kind] += 1
        return kinds | {"same": self.same}

    def texts(self, change: Change) -> tuple[str | None, str | None]:
        """The row before and after, as JSON; not yet made safe for a terminal."""
        return self._old.text(change.before), self._new.text(change.after)

    def close(self) -> None:
        """Close the files that `texts` opened."""
        for name in ("_old", "_new"):
            opened = self.__dict__.pop(name, None)
            if opened is not None:
                opened.close()

    @cached_property
    def _old(self) -> _Rows:
        return _Rows(self.before)

    @cached_property
    def _new(self) -> _Rows:
        return _Rows(self.after)


def diff(before: Version, after: Version) -> Diff:
    """Compare two versions; changes in the order of the newer one's rows, removed ones where they
    were."""
    result = Diff(before, after)
    try:
        _Comparison(result).run()
    finally:
        result.close()
    return result


class _Rows:
    """The rows of a version by a number that runs over its files."""

    def __init__(self, version: Version) -> None:
        self.sets: list[DataSet] = [open_dataset(path) for path in _data_files(version)]
        self.hashes = array("Q")
        self.starts: list[int] = []

    def read(self) -> None:
        """Take the hash of every row."""
        for dataset in self.sets:
            dataset.build_index()
            self.starts.append(len(self.hashes))
            for block in blocks(dataset):
                self.hashes.extend(map(_hash, block.rows))

    def split_of(self, number: int) -> int:
        """The place of the row's file among the files."""
        return next(k for k in range(len(self.starts) - 1, -1, -1) if self.starts[k] <= number)

    def place(self, number: int) -> Place:
        own = self.split_of(number)
        return Place(self.sets[own].path.name, number - self.starts[own] + 1)

    def text(self, place: Place | None) -> str | None:
        if place is None:
            return None
        dataset = next(item for item in self.sets if item.path.name == place.file)
        dataset.build_index()
        return dataset.text(place.line - 1)

    def record(self, number: int) -> Record | None:
        own = self.split_of(number)
        dataset = self.sets[own]
        try:
            value = dataset.source.decode(dataset.source.raw(number - self.starts[own]))
        except JsonFault:
            return None
        return read_record(value, dataset.shape)[0]

    def close(self) -> None:
        for dataset in self.sets:
            dataset.close()


def _data_files(version: Version) -> list[Path]:
    """The files that have rows; an empty split is an empty file, which cannot be opened."""
    outputs = version.manifest["outputs"]
    return [version.path / str(output["file"]) for output in outputs if output["rows"]]


class _Comparison:
    def __init__(self, result: Diff) -> None:
        self.result = result
        self.old, self.new = result._old, result._new

    def run(self) -> None:
        self.old.read()
        self.new.read()
        partner = self._same_bytes()
        gone = [old for old, new in enumerate(self._inverse(partner)) if new < 0]
        come = [new for new, old in enumerate(partner) if old < 0]
        pairs = self._same_question(gone, come)
        known = array("q", partner)
        for new, old in pairs.items():
            known[new] = old
        met = set(pairs.values())
        pairs |= self._same_place(
            [old for old in gone if old not in met],
            [new for new in come if new not in pairs],
            known,
        )
        self._tell(partner, pairs, set(gone) - set(pairs.values()))

    # ------------------------------------------------------------ who is whose partner

    def _same_bytes(self) -> array[int]:
        """For each new row the old row with its bytes, in the same file if there is one; -1."""
        partner = array("q", [-1]) * len(self.new.hashes)
        taken = bytearray(len(self.old.hashes))
        waiting: list[int] = []
        where: dict[int, deque[int]] = {}
        first: dict[int, int] = {}
        for old, key in enumerate(self.old.hashes):
            if first.setdefault(key, old) != old:
                where.setdefault(key, deque([first[key]])).append(old)
        for same_file in (True, False):
            for new in range(len(partner)) if same_file else waiting:
                old = self._free(self.new.hashes[new], new, first, where, taken, same_file)
                if old >= 0:
                    partner[new], taken[old] = old, 1
                elif same_file and self.new.hashes[new] in first:
                    waiting.append(new)
        return partner

    def _free(
        self,
        key: int,
        new: int,
        first: dict[int, int],
        where: dict[int, deque[int]],
        taken: bytearray,
        same_file: bool,
    ) -> int:
        if key not in first:
            return -1
        name = self._file(self.new, new)
        for old in where.get(key) or (first[key],):
            if not taken[old] and (not same_file or self._file(self.old, old) == name):
                return old
        return -1

    @staticmethod
    def _file(rows: _Rows, number: int) -> str:
        return rows.sets[rows.split_of(number)].path.name

    def _inverse(self, partner: Sequence[int]) -> array[int]:
        inverse = array("q", [-1]) * len(self.old.hashes)
        for new, old in enumerate(partner):
            if old >= 0:
                inverse[old] = new
        return inverse

    def _same_question(self, gone: Sequence[int], come: Sequence[int]) -> dict[int, int]:
        """New row to old row of those that ask the same, first with first."""
        asked: dict[int, deque[int]] = defaultdict(deque)
        for old in gone:
            record = self.old.record(old)
            if record:
                asked[question(record)[0]].append(old)
        pairs = {}
        for new in come:
            record = self.new.record(new)
            waiting = asked.get(question(record)[0]) if record else None
            if waiting:
                pairs[new] = waiting.popleft()
        return pairs

    def _same_place(
        self, gone: Sequence[int], come: Sequence[int], partner: Sequence[int]
    ) -> dict[int, int]:
        """New row to old row of those that stood behind the same row, and read much alike."""
        inverse = self._inverse(partner)
        after: dict[int, deque[int]] = defaultdict(deque)
        for old, anchor in zip(gone, _anchors(gone, inverse), strict=True):
            after[anchor].append(old)
        pairs = {}
        for new, anchor in zip(come, _anchors(come, partner), strict=True):
            waiting = after.get(-1 if anchor < 0 else partner[anchor])
            if waiting and self._alike(waiting[0], new):
                pairs[new] = waiting.popleft()
        return pairs

    def _alike(self, old: int, new: int) -> bool:
        before, after = _windows(self.old.record(old)), _windows(self.new.record(new))
        return len(before & after) >= _ALIKE * max(1, min(len(before), len(after)))

    # ------------------------------------------------------------ the result

    def _tell(self, partner: Sequence[int], pairs: dict[int, int], removed: set[int]) -> None:
        changes = self.result.changes
        for new, old in enumerate(partner):
            if old >= 0 and self._file(self.old, old) == self._file(self.new, new):
                self.result.same += 1
            elif old >= 0:
                changes.append(Change("moved", self.old.place(old), self.new.place(new)))
            elif new in pairs:
                changes.append(Change("edited", self.old.place(pairs[new]), self.new.place(new)))
            else:
                changes.append(Change("added", None, self.new.place(new)))
        for old in sorted(removed):
            changes.append(Change("removed", self.old.place(old), None))


def _anchors(numbers: Sequence[int], partner: Sequence[int]) -> Iterator[int]:
    """For each number (they are in order) the nearest one before it that has a partner; -1."""
    anchor = at = -1
    for number in numbers:
        for between in range(at + 1, number):
            if partner[between] >= 0:
                anchor = between
        at = number
        yield anchor


def _windows(record: Record | None) -> set[bytes]:
    """Pieces of the text, two letters of Chinese or six of English each."""
    text = letters("".join(turn.content for turn in record.all_turns()) if record else "")
    return {text[at : at + _WINDOW] for at in range(max(1, len(text) - _WINDOW + 1))}
