"""Conversations that begin alike: the first exchange of one is in the other, word for word.

A chat cut at several places makes such rows, and a held-out one among them has been seen.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetui.data.keys import HashTable, normalise, text_hash
from finetui.data.records import Record
from finetui.data.whole.rows import RowReader

_LONG = 60  # letters of an exchange; shorter ones ("Hi", "Hello, how can I help?") begin many
_USUAL = 5  # conversations of one file that begin alike: a habit, not a leak


class Leak(NamedTuple):
    """A training row and the held-out row that it gives away; ``data`` is the place of the latter
    among the held-out sets, ``other`` its row, ``share`` how much of it (0 to 1)."""

    row: int
    data: int
    other: int
    share: float


def beginnings(record: Record) -> list[int]:
    """A hash of the conversation up to its first answer, its second, and so on, as soon as that
    is long enough to say something; the system prompt is left out."""
    said: list[str] = []
    hashes: list[int] = []
    letters = 0
    for turn in record.turns:
        if turn.role == "system":
            continue
        said.append(f"{turn.role}\x1e{normalise(turn.content)}")
        letters += len(turn.content)
        if turn.role == "assistant" and len(said) > 1 and letters >= _LONG:
            hashes.append(text_hash("\x1e".join(said)))
    return hashes


def same_beginnings(train: RowReader, held_out: Sequence[RowReader]) -> list[Leak]:
    """Training rows that begin with an exchange of a held-out row; by row.

    ``share`` is how much of the held-out row's exchanges that is. What more than five rows of
    the held-out files, or one in a hundred of the training file, begin with is a habit.
    """
    table = HashTable(sum(reader.size for reader in held_out))
    places: list[tuple[int, int, float]] = []
    often: Counter[int] = Counter()
    for data, reader in enumerate(held_out):
        for row, record in reader.records():
            hashes = beginnings(record)
            for exchange, key in enumerate(hashes, 1):
                places.append((data, row, exchange / len(hashes)))
                often[table.first(key, len(places) - 1)] += 1
    found: defaultdict[int, list[Leak]] = defaultdict(list)
    for row, record in train.records():
        last = max((table.get(key) for key in beginnings(record)), default=-1)
        if last >= 0:
            found[last].append(Leak(row, *places[last]))
    most = max(_USUAL, train.size // 100)
    usual = {place for place, leaks in found.items() if len(leaks) > most or often[place] > _USUAL}
    return sorted(leak for place in found.keys() - usual for leak in found[place])


def alike_beginnings(readers: Sequence[RowReader]) -> list[list[int]]:
    """Rows that begin with one exchange, numbered through all readers; habits left out."""
    keys, numbers, base = array("Q"), array("q"), 0
    for reader in readers:
        for row, record in reader.records():
            found = beginnings(record)
            keys.extend(found)
            numbers.extend([base + row] * len(found))
        base += reader.size
    order = np.argsort(np.frombuffer(keys, np.uint64), kind="stable")
    ranked, rows = np.frombuffer(keys, np.uint64)[order], np.frombuffer(numbers, np.int64)[order]
    bounds = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1], [True])))
    sizes = np.diff(bounds)
    alike = (sizes >= 2) & (sizes <= 2 * max(_USUAL, base // 100))
    return [rows[start : start + size].tolist() for start, size in _spans(bounds, sizes, alike)]


def _spans(
    bounds: NDArray[np.int64], sizes: NDArray[np.int64], chosen: NDArray[np.bool_]
) -> Iterator[tuple[int, int]]:
    return zip(bounds[:-1][chosen].tolist(), sizes[chosen].tolist(), strict=True)
