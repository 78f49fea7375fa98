"""Which rows have a key that another row has as well."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import pairwise

_AT_ONCE = 2_000_000  # keys sorted at a time: about 100 MB


def repeated(files: Sequence[array[int]]) -> list[list[int]]:
    """For each file the rows (in order) whose key occurs twice in all files; 0 is no key."""
    total = sum(map(len, files))
    rounds = 1 + total // _AT_ONCE
    twice: set[int] = set()
    for turn in range(rounds):
        keys = sorted([key for keys in files for key in keys if key % rounds == turn])
        twice.update([one for one, other in pairwise(keys) if one == other])
    twice.discard(0)
    return [[row for row, key in enumerate(keys) if key in twice] for keys in files]
