"""Clusters from pairs: rows that stand round one of them, and groups that must stay together.

A cluster is a star: every row of it is near its *centre*, proven, so that dropping all but one
loses nothing. Pairs alone would chain: a is near b, b near c, and a has little in common with c.
For splits chains are right, since no near pair may straddle: those are *groups*.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

Edge = tuple[int, int, float]
Judge = Callable[[int, list[int]], list[Edge]]

_ROUNDS = 50  # centres that are tried in one component; what then is left keeps its pairs


@dataclass
class Star:
    """A centre and the members near it, by number, each with its similarity (0 to 1)."""

    centre: int
    members: dict[int, float] = field(default_factory=dict)

    @property
    def numbers(self) -> list[int]:
        return sorted((self.centre, *self.members))

    @property
    def similarity(self) -> float:
        """The least similarity of a member to the centre."""
        return min(self.members.values())


class Groups:
    """Union-find over numbers; a group is named by its first number."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def root(self, number: int) -> int:
        parents = self._parents
        above = parents.get(number, number)
        while above != number:
            further = parents.get(above, above)
            parents[number] = further
            number, above = further, parents.get(further, further)
        return number

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self.root(one), self.root(other)))
        if low != high:
            self._parents[high] = low
            self._parents.setdefault(low, low)

    def lists(self) -> list[list[int]]:
        """Groups of two and more, rising, in the order of their first numbers."""
        found: dict[int, list[int]] = defaultdict(list)
        for number in sorted(self._parents):
            found[self.root(number)].append(number)
        return list(found.values())


def stars(edges: Iterable[Edge], judge: Judge) -> list[Star]:
    """Clusters from near pairs; ``judge(centre, others)`` gives the edges from the centre to those
    of the others that are near it, and is asked where no pair is known.

    In each connected component the number with most neighbours is the first centre (of equals the
    smallest), and so on with what is left.
    """
    near: dict[int, dict[int, float]] = defaultdict(dict)
    groups = Groups()
    for one, other, similarity in edges:
        near[one][other] = near[other][one] = similarity
        groups.join(one, other)
    found: list[Star] = []
    for numbers in groups.lists():
        found += _component(numbers, near, judge)
    return sorted(found, key=lambda star: star.numbers[0])


def _component(numbers: list[int], near: dict[int, dict[int, float]], judge: Judge) -> list[Star]:
    found: list[Star] = []
    left = set(numbers)
    for _ in range(_ROUNDS):
        centre = _busiest(left, near)
        if centre is None:
            break
        unknown = sorted(left - near[centre].keys() - {centre})
        for one, other, similarity in judge(centre, unknown) if unknown else ():
            near[one][other] = near[other][one] = similarity
        members = {number: near[centre][number] for number in sorted(left & near[centre].keys())}
        found.append(Star(centre, members))
        left -= {centre, *members}
    return found


def _busiest(left: set[int], near: dict[int, dict[int, float]]) -> int | None:
    """The number with most neighbours among those left; None when none has any."""
    degree = {number: len(near[number].keys() & left) for number in sorted(left)}
    best = max(degree, key=degree.__getitem__, default=None)
    return best if best is not None and degree[best] else None
