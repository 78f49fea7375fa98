"""Leaks between files: training rows that hold what a model will be tested on.

Prompts that are the same, in another writing, are the `leak` check's. Here are prompts that are
nearly the same; passages of a held-out row inside a training row, wherever they stand; and
conversations that begin with the same exchange.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from finetui.data.alike import COVERED, THRESHOLD, Covered, NearLeak
from finetui.data.keys import HashTable, normal_hash, prompt_text
from finetui.data.whole.beginnings import Leak, same_beginnings
from finetui.data.whole.model import WholeHit, WholeSet
from finetui.data.whole.pairs import (
    NEIGHBOURS,
    SKETCH,
    Body,
    Common,
    Pairs,
    Sets,
    WindowStore,
    compare,
    find_common,
    heads,
    is_own,
    likely,
    near,
    once,
    smallest,
    window_sets,
)
from finetui.data.whole.rows import RowReader, Rows, SourceRows, whole_text
from finetui.data.whole.windows import I64, U64

PASSAGE = 50  # letters: windows so long are hardly ever shared by chance
_TOLD = "near leaks"
_FEWEST = 10  # passages that must be shared: about 110 letters in a row

Progress = Callable[[int, int], None]
Stop = Callable[[], bool]


def near_prompts(
    train: RowReader,
    held_out: Sequence[RowReader],
    threshold: float = THRESHOLD,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> list[Leak]:
    """Training rows whose prompt is near a held-out one, each with the nearest; by row.

    Prompts that are equal after folding are among them, with a share of 1.
    """
    before, after = Rows(held_out, prompt_text), Rows([train], prompt_text)
    common = find_common([before, after])
    index = _PromptIndex(before, common)
    found: list[U64] = []
    for sets in window_sets(after.texts(), common):
        found.append(index.candidates(sets, threshold))
        if _told(progress, stop, int(sets.numbers[-1]), after.size):
            break
    pairs = _verified(before, after, common, found)
    return _best(before, pairs.where(near(pairs, threshold)))


class _PromptIndex:
    """The smallest windows of the held-out prompts, to look up those of a training prompt."""

    def __init__(self, body: Body, common: Common) -> None:
        self._count = np.zeros(body.size, np.int64)
        self._heads = np.zeros((body.size, SKETCH), np.uint32)
        entries: list[U64] = []
        for sets in window_sets(body.texts(), common):
            self._count[sets.numbers] = np.diff(sets.starts)
            self._heads[sets.numbers] = heads(sets)
            entries.append(smallest(sets, _BITS))
        joined = np.sort(np.concatenate(entries)) if entries else np.empty(0, np.uint64)
        self._keys, self._numbers = joined >> _SHIFT, (joined & _LOW).astype(np.int64)

    def candidates(self, sets: Sets, threshold: float) -> U64:
        """Pairs that share a key, as held-out number and training number in one value."""
        placed = sets._replace(numbers=np.arange(len(sets.numbers)))
        wanted = smallest(placed, _BITS)
        keys, places = wanted >> _SHIFT, (wanted & _LOW).astype(np.int64)
        size, own_heads = np.diff(sets.starts), heads(sets)
        start = np.searchsorted(self._keys, keys)
        end = np.searchsorted(self._keys, keys, side="right")
        found: list[U64] = []
        for step in range(NEIGHBOURS):
            more = start + step < end
            if not more.any():
                break
            others, own = self._numbers[(start + step)[more]], places[more]
            one, other = self._count[others], size[own]
            fits = np.minimum(one, other) >= threshold * np.maximum(one, other)
            others, own = others[fits], own[fits]
            chosen = likely(self._heads, others, own_heads, own, threshold)
            numbers = sets.numbers[own[chosen]].astype(np.uint64)
            found.append(others[chosen].astype(np.uint64) << _SHIFT | numbers)
        return once(np.concatenate(found)) if found else np.empty(0, np.uint64)


_BITS = 32
_SHIFT, _LOW = np.uint64(32), np.uint64((1 << 32) - 1)


def _verified(before: Rows, after: Rows, common: Common, found: list[U64]) -> Pairs:
    """All windows of the candidates compared; training rows are numbered after held-out ones."""
    joined = once(np.concatenate(found)) if found else np.empty(0, np.uint64)
    first = (joined >> _SHIFT).astype(np.int64)
    second = (joined & _LOW).astype(np.int64)
    store = WindowStore(before.size + after.size)
    try:
        for body, numbers, base in ((before, first, 0), (after, second, before.size)):
            for sets in window_sets(body.pick(np.unique(numbers).tolist()), common):
                store.add(sets._replace(numbers=sets.numbers + base))
        return compare(store, first, second + before.size)._replace(second=second)
    finally:
        store.close()


def _best(before: Rows, pairs: Pairs) -> list[Leak]:
    """For each training row the held-out row that is most alike."""
    order = np.lexsort((pairs.first, -pairs.alike, pairs.second))
    leaks: list[Leak] = []
    for place in order.tolist():
        row = int(pairs.second[place])
        if not leaks or leaks[-1].row != row:
            data, other = before.place(int(pairs.first[place]))
            leaks.append(Leak(row, data, other, float(pairs.alike[place])))
    return leaks


def _told(progress: Progress | None, stop: Stop | None, done: int, total: int) -> bool:
    if progress is not None:
        progress(done, total)
    return stop is not None and stop()


# ---------------------------------------------------------------- passages


def passages(
    train: RowReader,
    held_out: Sequence[RowReader],
    least: float = COVERED,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> list[Leak]:
    """Training rows that hold at least this share of a held-out row's passages; by row.

    A passage is a window of 50 letters. Those that one row in a hundred has, in either file, are
    left out on both sides of the share; fewer than ten in common are no leak.
    """
    before, after = Rows(held_out, whole_text), Rows([train], whole_text)
    index = _PassageIndex(before, find_common([before, after], width=PASSAGE))
    leaks: list[Leak] = []
    for sets in window_sets(after.texts(), index.common, PASSAGE):
        leaks += index.covered(sets, least)
        if _told(progress, stop, int(sets.numbers[-1]), after.size):
            break
    return sorted(leaks)


class _PassageIndex:
    """Which held-out rows have which passages."""

    def __init__(self, body: Rows, common: Common) -> None:
        self.common, self._body = common, body
        self.total = np.zeros(body.size, np.int64)
        values: list[U64] = []
        numbers: list[I64] = []
        for sets in window_sets(body.texts(), common, PASSAGE):
            own = is_own(sets.values)
            owners = np.repeat(sets.numbers, np.diff(sets.starts))[own]
            self.total += np.bincount(owners, minlength=body.size)
            values.append(sets.values[own])
            numbers.append(owners)
        every = np.concatenate(values) if values else np.empty(0, np.uint64)
        order = np.argsort(every, kind="stable")
        self._values = every[order]
        self._numbers = np.concatenate(numbers)[order] if numbers else np.empty(0, np.int64)
        self._table = np.zeros(1 << 22, bool)
        self._table[self._values & _TABLE] = True

    def covered(self, sets: Sets, least: float) -> Iterator[Leak]:
        """The texts that cover enough of a held-out row, each with the row it covers most."""
        maybe = np.flatnonzero(self._table[sets.values & _TABLE])
        place = np.searchsorted(sets.starts, maybe, side="right") - 1
        start = np.searchsorted(self._values, sets.values[maybe])
        end = np.searchsorted(self._values, sets.values[maybe], side="right")
        places: list[I64] = []
        owners: list[I64] = []
        while (more := start < end).any():
            places.append(place[more])
            owners.append(self._numbers[start[more]])
            place, start, end = place[more], start[more] + 1, end[more]
        if not places:
            return
        pair = np.concatenate(places) * self._body.size + np.concatenate(owners)
        both, hits = np.unique(pair, return_counts=True)
        yield from self._leaks(sets, both, hits, least)

    def _leaks(self, sets: Sets, both: I64, hits: I64, least: float) -> Iterator[Leak]:
        place, owner = both // self._body.size, both % self._body.size
        total = self.total[owner]
        share = hits / np.maximum(total, 1)
        enough = (share >= least) & (hits >= _FEWEST)
        best: dict[int, tuple[float, int]] = {}
        columns = place[enough].tolist(), share[enough].tolist(), owner[enough].tolist()
        for at, part, number in zip(*columns, strict=True):
            best[at] = max(best.get(at, (0.0, 0)), (part, -number))
        for at, (part, number) in best.items():
            yield Leak(int(sets.numbers[at]), *self._body.place(-number), part)


_TABLE = np.uint64((1 << 22) - 1)


# ---------------------------------------------------------------- all reasons at once


def near_leaks(
    train: Sequence[RowReader],
    held_out: Sequence[RowReader],
    threshold: float = THRESHOLD,
    progress: Progress | None = None,
) -> list[NearLeak]:
    """What a split must not have: near prompts and shared beginnings, one for each training row;
    by data set and row."""
    found: list[NearLeak] = []
    for place, reader in enumerate(train):
        told: set[int] = set()
        for row, data, other, share in near_prompts(reader, held_out, threshold, progress):
            found.append(NearLeak(place, row, data, other, share, "near prompt"))
            told.add(row)
        for row, data, other, share in same_beginnings(reader, held_out):
            if row not in told:
                found.append(NearLeak(place, row, data, other, share, "same beginning"))
    return sorted(found, key=lambda leak: (leak.dataset, leak.row))


def covered(
    train: RowReader,
    held_out: Sequence[RowReader],
    least: float = COVERED,
    progress: Progress | None = None,
) -> list[Covered]:
    """Training rows that give a held-out row away for any reason, with the strongest; by row."""
    reasons = (
        ("same prompt", same_prompts(train, held_out)),
        ("near prompt", near_prompts(train, held_out, THRESHOLD, progress)),
        ("passages", passages(train, held_out, least, progress)),
        ("same beginning", same_beginnings(train, held_out)),
    )
    worst: dict[int, Covered] = {}
    for why, leaks in reasons:
        for leak in leaks:
            known = worst.get(leak.row)
            if known is None or leak.share > known.coverage:
                worst[leak.row] = Covered(leak.row, leak.share, leak.data, leak.other, why)
    return [worst[row] for row in sorted(worst)]


def same_prompts(train: RowReader, held_out: Sequence[RowReader]) -> list[Leak]:
    """Training rows whose prompt is a held-out one but for case and spacing; by row."""
    table = HashTable(sum(reader.size for reader in held_out))
    places: list[tuple[int, int]] = []
    for data, reader in enumerate(held_out):
        for row, record in reader.records():
            key = normal_hash(prompt_text(record))
            if key:
                places.append((data, row))
                table.first(key, len(places) - 1)
    found: list[Leak] = []
    for row, record in train.records():
        key = normal_hash(prompt_text(record))
        place = table.get(key) if key else -1
        if place >= 0:
            found.append(Leak(row, *places[place], 1.0))
    return found


# ---------------------------------------------------------------- checks


def find_near(whole: WholeSet) -> Iterator[WholeHit]:
    """Training prompts that are near a held-out one; equal ones are the leak check's."""
    for train, held_out, place in _sides(whole):
        for leak in near_prompts(train, held_out, THRESHOLD, whole.progress, whole.stop):
            if not _same_prompt(train, held_out, leak):
                whole.memo.setdefault(_TOLD, set()).add((place, leak.row))
                share, where = f"{min(leak.share, 0.99):.0%}", _where(whole, leak)
                yield WholeHit(place, leak.row, f"the prompt is {share} the same as in {where}")


def find_passages(whole: WholeSet) -> Iterator[WholeHit]:
    """Training rows that hold passages of a held-out row, but for those whose prompt says all."""
    told = whole.memo.get(_TOLD, set())
    for train, held_out, place in _sides(whole):
        for leak in passages(train, held_out, COVERED, whole.progress, whole.stop):
            if (place, leak.row) not in told and not _same_prompt(train, held_out, leak):
                where = _where(whole, leak)
                yield WholeHit(place, leak.row, f"holds {leak.share:.0%} of the text of {where}")


def find_beginnings(whole: WholeSet) -> Iterator[WholeHit]:
    """Training conversations that begin with an exchange of a held-out one."""
    for train, held_out, place in _sides(whole):
        for leak in same_beginnings(train, held_out):
            if not _same_prompt(train, held_out, leak):
                where = _where(whole, leak)
                yield WholeHit(place, leak.row, f"the conversation begins like that of {where}")


def _sides(whole: WholeSet) -> Iterator[tuple[RowReader, list[RowReader], int]]:
    """Each file with those before it, which are more held out than it is, and its place."""
    readers: list[RowReader] = [
        SourceRows(source, shape) for source, shape in zip(whole.sources, whole.shapes, strict=True)
    ]
    for place in range(1, len(readers)):
        if not whole.stop():
            yield readers[place], readers[:place], place


def _where(whole: WholeSet, leak: Leak) -> str:
    place = whole.sources[leak.data].place(leak.other)
    return f"{place.path}:{place.line}"


def _same_prompt(train: RowReader, held_out: Sequence[RowReader], leak: Leak) -> bool:
    one, other = train.record(leak.row), held_out[leak.data].record(leak.other)
    if one is None or other is None:
        return False
    return normal_hash(prompt_text(one)) == normal_hash(prompt_text(other))
