"""Pairs of texts that are alike: candidates by their smallest windows, then proof by all of them.

Each text keeps its eight smallest window hashes. Two texts of Jaccard similarity j share none of
theirs with a chance of (1 - j) ** 8, so at one half four pairs in a thousand are missed, and fewer
above (Broder 1997, bottom-k sketches). Of a pair that shares one, the smallest 24 are compared; if
these do not speak against it, all windows are, from the text read again.

Windows that stand in one of a hundred texts are *common*: greetings, templates, a passage that all
questions are about. What texts have in common only by these does not make them alike, unless next
to nothing else is in them; and a text's own windows come first in its sketch.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from finetui.data.whole.windows import I64, U64, WIDTH, Batch, cut

F64 = NDArray[np.float64]

THRESHOLD = 0.5
SURELY = 0.8  # so much alike counts even where all of it is common, if hardly anything differs
KEYS = 8
NEIGHBOURS = 12  # texts that a text is compared with under each of its keys
_FEW = 3  # of them under a key that many have: a near text shares a rarer one too, or all do
_MANY = 64

SKETCH = 24  # smallest windows that a pair is judged by before its texts are read again
_LEAST = 0.5  # of what is asked of the windows' own similarity, for a pair to be read again
_SHARED = 3  # windows of their own that two texts must share to be near: half a short sentence
_DIFFER = 12  # windows of their own in which they may differ to be surely near: two or three words
_SAMPLE = 2000
_SHARE, _FEWEST = 0.01, 8  # a window is common from this share and number of sampled texts on
_BITS = np.uint64(48)  # of a window's hash that are kept; the top one says that it is common
_VALUE = np.uint64((1 << 48) - 1)
_COMMON = np.uint64(1 << 47)
_PAIRS = 1 << 15  # compared at once
_WINDOWS = 1 << 21


class Body(Protocol):
    """Numbered texts that can be read more than once. ``size`` is above every number."""

    size: int

    def texts(self) -> Iterator[tuple[int, str]]: ...

    def pick(self, numbers: Sequence[int]) -> Iterator[tuple[int, str]]:
        """Those of the texts that are named, by rising number."""
        ...


class Sets(NamedTuple):
    """Windows of texts as sets: ``values[starts[k]:starts[k + 1]]`` are those of text
    ``numbers[k]``, each once, rising, 48 bits, the common ones last."""

    numbers: I64
    starts: I64
    values: U64


class Pairs(NamedTuple):
    """Pairs of texts with ``first < second``, rising; ``alike`` is the Jaccard similarity of
    their windows (0 to 1), ``own`` that of the windows that are not common, ``shared`` how many
    of those both have and ``differ`` how many only one has."""

    first: I64
    second: I64
    alike: F64
    own: F64
    shared: I64
    differ: I64

    def where(self, chosen: NDArray[np.bool_]) -> Pairs:
        return Pairs(
            self.first[chosen],
            self.second[chosen],
            self.alike[chosen],
            self.own[chosen],
            self.shared[chosen],
            self.differ[chosen],
        )


def near(pairs: Pairs, threshold: float) -> NDArray[np.bool_]:
    """True where a pair is near: alike beyond what is common, or with next to no difference."""
    beyond = (pairs.own >= threshold / 2) & (pairs.shared >= _SHARED)
    surely = (pairs.alike >= SURELY) & (pairs.differ <= _DIFFER)
    return (beyond | surely) & (pairs.alike >= threshold)


class Common:
    """The windows that many texts have."""

    def __init__(self, values: U64) -> None:
        self.values = values
        self._table = np.zeros(1 << 20, bool)
        self._table[values & np.uint64(len(self._table) - 1)] = True

    def flag(self, values: U64) -> None:
        """Set the top bit of the values that are common."""
        if not len(self.values):
            return
        maybe = np.flatnonzero(self._table[values & np.uint64(len(self._table) - 1)])
        found = values[maybe]
        place = np.minimum(np.searchsorted(self.values, found), len(self.values) - 1)
        values[maybe[self.values[place] == found]] |= _COMMON


def is_own(values: U64) -> NDArray[np.bool_]:
    """True for the windows that are not common."""
    return values < _COMMON


def find_common(bodies: Sequence[Body], width: int = WIDTH) -> Common:
    """Windows of at least one text in a hundred, judged by a fixed sample of each body.

    Texts with the same windows count once, so that copies do not make a window common.
    """
    counted: list[U64] = []
    for body in bodies:
        numbers = sorted(Random(0).sample(range(body.size), min(_SAMPLE, body.size)))
        least = max(_FEWEST, int(_SHARE * len(numbers)))
        seen: set[int] = set()
        values: list[U64] = []
        for sets in window_sets(body.pick(numbers), Common(np.empty(0, np.uint64)), width):
            for place, mark in enumerate(signatures(sets).tolist()):
                if mark not in seen:
                    values.append(sets.values[sets.starts[place] : sets.starts[place + 1]])
                    seen.add(mark)
        if values:
            found, times = np.unique(np.concatenate(values), return_counts=True)
            counted.append(found[times >= least])
    return Common(np.unique(np.concatenate(counted)) if counted else np.empty(0, np.uint64))


def window_sets(
    texts: Iterable[tuple[int, str]], common: Common, width: int = WIDTH
) -> Iterator[Sets]:
    """Cut texts and make each one's windows a set."""
    for batch in cut(texts, width):
        yield _as_sets(batch, common)


def _as_sets(batch: Batch, common: Common) -> Sets:
    values = batch.hashes >> np.uint64(17)
    common.flag(values)
    count = len(batch.numbers)
    places = np.arange(count + 1, dtype=np.uint64) << _BITS
    values |= np.repeat(places[:-1], np.diff(batch.starts))
    values = once(values)
    starts = np.searchsorted(values, places)
    return Sets(batch.numbers, starts, values & _VALUE)


def signatures(sets: Sets) -> U64:
    """One number for each text's set of windows; 0 where it has none."""
    mixed = sets.values * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    total = np.zeros(len(mixed) + 1, np.uint64)
    np.cumsum(mixed, out=total[1:])
    return total[sets.starts[1:]] - total[sets.starts[:-1]]


class Sketches:
    """The smallest windows of every text of a body: what joins candidates.

    ``leader[n]`` is the first text with the same windows as text n (itself when it is the first,
    -1 without windows); only leaders are compared. ``count[n]`` is how many windows it has.
    """

    def __init__(self, size: int) -> None:
        self.bits = max(24, size.bit_length())
        self.count = np.zeros(size, np.int32)
        self.marks = np.zeros(size, np.uint64)
        self._heads = np.full((size, SKETCH), _NONE, np.uint32)
        self._entries: list[U64] = []

    def add(self, sets: Sets) -> None:
        self.count[sets.numbers] = np.diff(sets.starts)
        self.marks[sets.numbers] = signatures(sets)
        self._heads[sets.numbers] = heads(sets)
        self._entries.append(smallest(sets, self.bits))

    def finish(self) -> None:
        marks, first, place = np.unique(self.marks, return_index=True, return_inverse=True)
        first[marks == 0] = -1
        self.leader: I64 = first[place].astype(np.int64)

    def candidates(self, threshold: float) -> tuple[I64, I64]:
        """Pairs of leaders that share a key and are not too different in length."""
        entries = np.concatenate(self._entries) if self._entries else np.empty(0, np.uint64)
        self._entries = []
        bits, low = np.uint64(self.bits), np.uint64((1 << self.bits) - 1)
        own = entries & low
        entries = entries[self.leader[own] == own]
        del own
        entries.sort()
        keys, texts = entries >> bits, (entries & low).astype(np.int64)
        rare = _rare(keys)
        found: list[U64] = []
        for step in range(1, min(NEIGHBOURS, len(keys) - 1) + 1):
            equal = keys[step:] == keys[:-step]
            same = np.flatnonzero(equal if step <= _FEW else equal & rare[step:])
            first, second = texts[same], texts[same + step]
            fits = self._fits(first, second, threshold)
            first, second = first[fits], second[fits]
            chosen = likely(self._heads, first, self._heads, second, threshold)
            first, second = first[chosen], second[chosen]
            found.append((first.astype(np.uint64) << _HALF) | second.astype(np.uint64))
        joined = once(np.concatenate(found)) if found else np.empty(0, np.uint64)
        return (joined >> _HALF).astype(np.int64), (joined & _LOW).astype(np.int64)

    def _fits(self, first: I64, second: I64, threshold: float) -> NDArray[np.bool_]:
        """Jaccard similarity is at most the ratio of the sizes."""
        one, other = self.count[first], self.count[second]
        return np.minimum(one, other) >= threshold * np.maximum(one, other)


def _rare(keys: U64) -> NDArray[np.bool_]:
    """True for each of the rising keys that few have."""
    bounds = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1], [True])))
    sizes = np.diff(bounds)
    return np.repeat(sizes <= _MANY, sizes)


def once(values: U64) -> U64:
    """Each value once, rising; `np.unique` takes several times as long."""
    values.sort()
    once = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=once[1:])
    return values[once]


_HALF, _LOW = np.uint64(32), np.uint64((1 << 32) - 1)
_NONE = np.uint32(0xFFFFFFFF)


def heads(sets: Sets) -> NDArray[np.uint32]:
    """The smallest windows of each text in 32 bits, rising; `_NONE` where there are no more."""
    place = sets.starts[:-1, None] + np.arange(SKETCH)
    inside = place < sets.starts[1:, None]
    found = np.full(place.shape, _NONE, np.uint32)
    found[inside] = sets.values[place[inside]] >> np.uint64(16)
    return found


def likely(
    ones: NDArray[np.uint32], first: I64, others: NDArray[np.uint32], second: I64, threshold: float
) -> NDArray[np.bool_]:
    """Whether the smallest windows of two texts together let them be near.

    Their common share estimates the similarity (Cohen and Kaplan 2007). ``first`` and ``second``
    are places in the `heads` of the one and the other.
    """
    found = np.zeros(len(first), bool)
    for start in range(0, len(first), _PAIRS):
        part = slice(start, start + _PAIRS)
        both = np.concatenate((ones[first[part]], others[second[part]]), axis=1)
        both.sort(axis=1)
        some = both != _NONE
        twice = np.zeros(both.shape, bool)
        np.equal(both[:, 1:], both[:, :-1], out=twice[:, 1:])
        twice &= some
        rank = np.cumsum(some & ~twice, axis=1, dtype=np.int8)
        twice &= rank <= SKETCH
        shares = twice.sum(axis=1) / np.clip(rank[:, -1], 1, SKETCH)
        found[part] = shares >= _LEAST * threshold / 2
    return found


def smallest(sets: Sets, bits: int) -> U64:
    """The first `KEYS` windows of each text, each with the text's number in the low ``bits``."""
    place = sets.starts[:-1, None] + np.arange(KEYS)
    inside = place < sets.starts[1:, None]
    keys = sets.values[place[inside]] >> np.uint64(max(0, 48 + bits - 64))
    numbers = np.repeat(sets.numbers, inside.sum(axis=1)).astype(np.uint64)
    entries: U64 = keys << np.uint64(bits) | numbers
    return entries


class WindowStore:
    """Window sets of the texts that are to be compared, in a temporary file without a name.

    A body of templates makes candidates of all its texts; their windows would fill the memory.
    """

    def __init__(self, size: int) -> None:
        self._file = tempfile.TemporaryFile(prefix="finetui-windows-")
        self._place = np.full(size, -1, np.int64)
        self.count = np.zeros(size, np.int64)
        self.own = np.zeros(size, np.int64)
        self._end = 0

    def add(self, sets: Sets) -> None:
        self._file.write(sets.values.tobytes())
        numbers, starts = sets.numbers, sets.starts
        self._place[numbers] = self._end + starts[:-1]
        self.count[numbers] = np.diff(starts)
        own = np.zeros(len(sets.values) + 1, np.int64)
        np.cumsum(is_own(sets.values), out=own[1:])
        self.own[numbers] = own[starts[1:]] - own[starts[:-1]]
        self._end += len(sets.values)

    def lacking(self, numbers: I64) -> I64:
        """Those of the texts whose windows are not here yet, each once."""
        return np.unique(numbers[self._place[numbers] < 0])

    def load(self, numbers: I64) -> tuple[I64, U64]:
        """(starts, values) of texts, in the order given."""
        self._file.flush()
        handle = self._file.fileno()
        places, counts = self._place[numbers].tolist(), self.count[numbers].tolist()
        parts = [
            os.pread(handle, 8 * count, 8 * place)
            for place, count in zip(places, counts, strict=True)
        ]
        starts = np.zeros(len(parts) + 1, np.int64)
        np.cumsum(self.count[numbers], out=starts[1:])
        return starts, np.frombuffer(b"".join(parts), np.uint64)

    def close(self) -> None:
        self._file.close()


def compare(store: WindowStore, first: I64, second: I64) -> Pairs:
    """The similarities of pairs of texts, by all their windows."""
    alike, own = np.zeros(len(first)), np.zeros(len(first))
    shared, differ = np.zeros(len(first), np.int64), np.zeros(len(first), np.int64)
    weight = np.cumsum(store.count[first] + store.count[second])
    start = 0
    while start < len(first):
        done = weight[start - 1] if start else 0
        end = int(np.searchsorted(weight, done + _WINDOWS))
        end = max(start + 1, min(end, start + _PAIRS))
        part = slice(start, end)
        found = _shares(store, first[part], second[part])
        alike[part], own[part], shared[part], differ[part] = found
        start = end
    return Pairs(first, second, alike, own, shared, differ)


def _shares(store: WindowStore, first: I64, second: I64) -> tuple[F64, F64, I64, I64]:
    """Shared part over union, of all windows and of those that are not common; how many of these
    are shared and are not."""
    texts, places = np.unique(np.concatenate((first, second)), return_inverse=True)
    starts, values = store.load(texts)
    counts = np.diff(starts)[places]
    pair = np.tile(np.arange(len(first), dtype=np.uint64), 2)
    every = values[_ranges(starts[:-1][places], counts)]
    every |= np.repeat(pair << _BITS, counts)
    every.sort()
    both = every[1:][every[1:] == every[:-1]]
    of = (both >> _BITS).astype(np.int64)
    shared = np.bincount(of, minlength=len(first))
    shared_own = np.bincount(of[is_own(both & _VALUE)], minlength=len(first))
    union = store.count[first] + store.count[second] - shared
    union_own = store.own[first] + store.own[second] - shared_own
    share, share_own = shared / np.maximum(union, 1), shared_own / np.maximum(union_own, 1)
    return share, share_own, shared_own, union_own - shared_own


def _ranges(starts: I64, counts: I64) -> I64:
    """``starts[k], starts[k] + 1, ...`` as many as ``counts[k]``, one after the other."""
    total = np.cumsum(counts)
    shift = np.repeat(starts - (total - counts), counts)
    return shift + np.arange(total[-1] if len(total) else 0)


class Search:
    """Near pairs in one body of texts; see the module.

    ``pairs`` are near by `near`, between leaders only; `Search.leader` tells whom a text equals.
    ``judge(pairs)`` may be asked again for pairs that no key joined. Close it when done.
    """

    def __init__(
        self,
        body: Body,
        threshold: float = THRESHOLD,
        progress: Callable[[int, int], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.body, self.threshold = body, threshold
        self._progress = progress or (lambda done, total: None)
        self._stop = stop or (lambda: False)
        self.stopped = False
        self.common = find_common([body])
        self.store = WindowStore(body.size)
        sketches = self._sketch()
        self.leader = sketches.leader
        self.compared = 0
        first, second = sketches.candidates(threshold)
        del sketches
        self.pairs = self.judge(first, second)

    def _sketch(self) -> Sketches:
        sketches = Sketches(self.body.size)
        for sets in window_sets(self.body.texts(), self.common):
            sketches.add(sets)
            self._progress(int(sets.numbers[-1]), self.body.size)
            if self._stop():
                self.stopped = True
                break
        sketches.finish()
        return sketches

    def judge(self, first: I64, second: I64) -> Pairs:
        """Those of the pairs that are near."""
        lacking = self.store.lacking(np.concatenate((first, second)))
        for sets in window_sets(self.body.pick(lacking.tolist()), self.common):
            self.store.add(sets)
        self.compared += len(first)
        pairs = compare(self.store, first, second)
        return pairs.where(near(pairs, self.threshold))

    def close(self) -> None:
        self.store.close()

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
