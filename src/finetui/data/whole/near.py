"""Near-duplicates in one file: rows that say nearly the same, and rows that contradict each other.

The search is over all that is said in a row (`pairs`); a pair counts as a near-duplicate only if
its answers agree (`lessons`), as a conflict if the prompts do and the answers do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from finetui.data.findings import Cluster
from finetui.data.keys import content_hash, normal_hash, prompt_text
from finetui.data.records import Record, last_answer
from finetui.data.whole.beginnings import alike_beginnings
from finetui.data.whole.clusters import Edge, Groups, Star, stars
from finetui.data.whole.lessons import conflict, same_answer
from finetui.data.whole.model import WholeHit, WholeSet
from finetui.data.whole.pairs import THRESHOLD, Pairs, Search
from finetui.data.whole.rows import RowReader, Rows, SourceRows, whole_text

KIND = "near-duplicate"
_MEMO = "near"
_REMEMBERED = 20_000  # records at once, so that a file of templates does not fill the memory

Progress = Callable[[int, int], None]
Stop = Callable[[], bool]


@dataclass(frozen=True)
class Near:
    """What was found in one data set: stars of rows; members that are exact copies of another of
    their star; (later row, earlier row, similarity) of rows whose answers contradict."""

    stars: list[Star]
    copies: set[int]
    conflicts: list[Edge]


def search(
    reader: RowReader,
    threshold: float = THRESHOLD,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Near:
    """Near-duplicates and conflicts of a data set; with ``stop`` those of the rows read so far."""
    rows = Rows([reader], whole_text)
    record = lru_cache(_REMEMBERED)(rows.record)
    with Search(rows, threshold, progress, stop) as found:
        edges, contrary = _sort_out(found.pairs, record)
        equal = _equal(found, record)

        def judge(centre: int, others: list[int]) -> list[Edge]:
            if not others or (stop is not None and stop()):
                return []
            ends = np.array(others, np.int64)
            pairs = found.judge(np.minimum(centre, ends), np.maximum(centre, ends))
            return _sort_out(pairs, record)[0]

        found_stars = stars([*edges, *equal], judge)
        return Near(found_stars, _copies(found_stars, record), _conflicts(contrary, record))


def clusters(
    reader: RowReader,
    threshold: float = THRESHOLD,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> list[Cluster]:
    """The stars of `search` as clusters, numbered from 0 in the order of their first rows."""
    return _as_clusters(search(reader, threshold, progress, stop).stars)


def groups(
    readers: Sequence[RowReader], threshold: float = THRESHOLD, progress: Progress | None = None
) -> list[list[tuple[int, int]]]:
    """Groups of rows, as (data set, row), that must not straddle a split: near prompts, near rows,
    and conversations that begin alike. What is near chains here."""
    joined = Groups()
    for text_of in (prompt_text, whole_text):
        rows = Rows(readers, text_of)
        with Search(rows, threshold, progress) as found:
            leader = found.leader
            followers = np.flatnonzero((leader >= 0) & (leader != np.arange(len(leader))))
            for row, first in zip(followers.tolist(), leader[followers].tolist(), strict=True):
                joined.join(first, row)
            pairs = zip(found.pairs.first.tolist(), found.pairs.second.tolist(), strict=True)
            for first, second in pairs:
                joined.join(first, second)
    for numbers in alike_beginnings(readers):
        for number in numbers[1:]:
            joined.join(numbers[0], number)
    return [[rows.place(number) for number in numbers] for numbers in joined.lists()]


def find(whole: WholeSet) -> Iterator[WholeHit]:
    """Rows that say nearly the same as another one; its clusters go to the store."""
    near, source = _searched(whole), len(whole.sources) - 1
    opened = whole.sources[source]
    if whole.store is not None:
        whole.store.write_clusters(KIND, _as_clusters(near.stars))
    for star in near.stars:
        other, size = opened.line_words(star.centre), len(star.members) + 1
        for row, similarity in star.members.items():
            if row not in near.copies:  # exact copies are the duplicate check's to tell
                yield WholeHit(source, row, _sentence(similarity, other, size))


def find_conflicts(whole: WholeSet) -> Iterator[WholeHit]:
    """Rows that ask nearly the same as an earlier one and are answered otherwise."""
    near, source = _searched(whole), len(whole.sources) - 1
    opened = whole.sources[source]
    reader = SourceRows(opened, whole.shape)
    for row, earlier, similarity in near.conflicts:
        record = reader.record(row)
        turn = last_answer(record.all_turns()) if record and record.chosen is None else None
        message = f"{opened.line_words(earlier)} asks the same in nearly the same words"
        yield WholeHit(
            source, row, f"{message} and is answered otherwise ({similarity:.0%} alike)", turn
        )


def _searched(whole: WholeSet) -> Near:
    if _MEMO not in whole.memo:
        reader = SourceRows(whole.sources[-1], whole.shape)
        whole.memo[_MEMO] = search(reader, THRESHOLD, whole.progress, whole.stop)
    near: Near = whole.memo[_MEMO]
    return near


def _sentence(similarity: float, other: str, size: int) -> str:
    among = f", one of {size} such rows" if size > 2 else ""
    if similarity >= 1:
        return f"the same as {other} but for case, spacing and punctuation{among}"
    return f"{min(similarity, 0.99):.0%} the same as {other}{among}"


def _as_clusters(found: Sequence[Star]) -> list[Cluster]:
    return [
        Cluster(number, tuple(star.numbers), round(star.similarity, 4))
        for number, star in enumerate(found)
    ]


def _sort_out(
    pairs: Pairs, record: Callable[[int], Record | None]
) -> tuple[list[Edge], list[Edge]]:
    """(pairs with one answer, pairs with two)."""
    same: list[Edge] = []
    other: list[Edge] = []
    columns = pairs.first.tolist(), pairs.second.tolist(), pairs.alike.tolist()
    for first, second, alike in zip(*columns, strict=True):
        one, two = record(first), record(second)
        if one is not None and two is not None:
            (same if same_answer(one, two) else other).append((first, second, alike))
    return same, other


def _copies(found: Sequence[Star], record: Callable[[int], Record | None]) -> set[int]:
    copies: set[int] = set()
    for star in found:
        equal = [row for row, similarity in star.members.items() if similarity >= 1]
        seen: set[int] = set()
        for row in (star.centre, *equal):
            one = record(row)
            key = content_hash(one) if one else 0
            if key in seen:
                copies.add(row)
            seen.add(key)
    return copies


def _conflicts(contrary: list[Edge], record: Callable[[int], Record | None]) -> list[Edge]:
    """(later row, earlier row, similarity), the most similar one for each later row.

    Prompts that are the same but for case and spacing are the conflicting-answers check's.
    """
    best: dict[int, Edge] = {}
    for first, second, alike in contrary:
        one, two = record(first), record(second)
        if one is None or two is None or not conflict(one, two):
            continue
        known = best.get(second)
        if normal_hash(prompt_text(one)) != normal_hash(prompt_text(two)) and (
            known is None or alike > known[2]
        ):
            best[second] = (second, first, alike)
    return [best[row] for row in sorted(best)]


def _equal(found: Search, record: Callable[[int], Record | None]) -> list[Edge]:
    """Rows with all windows of an earlier one, as edges to it."""
    leader = found.leader
    rows = np.flatnonzero((leader >= 0) & (leader != np.arange(len(leader))))
    edges: list[Edge] = []
    for row, first in zip(rows.tolist(), leader[rows].tolist(), strict=True):
        one, two = record(first), record(row)
        if one is not None and two is not None and same_answer(one, two):
            edges.append((first, row, 1.0))
    return edges
