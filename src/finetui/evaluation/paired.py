"""Differences between two subjects on the same rows, with intervals.

Shares: McNemar's exact test and Tango's score interval, which stays honest when few rows changed
or none (a bootstrap of no change would be sure of it). Everything else: the paired bootstrap, which
draws rows and takes both figures again of what it drew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from random import Random
from statistics import NormalDist
from typing import Any, TypeVar

_NORMAL_95 = 1.959963984540054
_NORMAL = NormalDist()
_MOST_PICKS = 1_000_000
_FEWEST_DRAWS = 400
_FEW_CROSSED = 5  # draws: below that a tail is known better from the spread than by counting

_Key = TypeVar("_Key", bound=Hashable)
Total = Callable[[Sequence[Any]], float]
_Pick = Callable[[Sequence[Any]], Sequence[Any]]


@dataclass(frozen=True)
class Added:
    """A figure of the sums of its rows' numbers, as BLEU and perplexity are."""

    of: Callable[[Sequence[float]], float]

    def __call__(self, rows: Sequence[Sequence[float]]) -> float:
        return self.of([sum(column) for column in zip(*rows, strict=True)])


def tango(fixed: int, broken: int, n: int, z: float = _NORMAL_95) -> tuple[float, float]:
    """Score interval of the difference (fixed - broken) / n of two paired shares.

    Tango 1998, "Equivalence test and confidence interval for the difference in proportions for
    the paired-sample design", Statistics in Medicine 17. (-1, 1) when there is no data.
    """
    if n == 0:
        return -1.0, 1.0
    value = (fixed - broken) / n
    low = _bisect(lambda delta: _tango_score(fixed, broken, n, delta) - z, -1.0, value)
    high = _bisect(lambda delta: _tango_score(fixed, broken, n, delta) + z, value, 1.0)
    return low, high


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = highest
    return adjusted


def draws(n: int, resamples: int) -> int:
    """How many times to draw ``n`` rows: what was asked for, fewer for very many rows."""
    return max(_FEWEST_DRAWS, min(resamples, _MOST_PICKS // max(1, n)))


def bootstrap(
    columns: Mapping[_Key, tuple[Total, Sequence[Any]]], seed: int, resamples: int
) -> dict[_Key, list[float]]:
    """Each column's figure in each drawn set of rows.

    All columns have one entry a row, in the same order, and meet the same draws, as do columns
    of an equal number of rows in another call with the same seed.
    """
    n = len(next(iter(columns.values()))[1])
    found: dict[_Key, list[float]] = {key: [] for key in columns}
    ready = {key: _drawable(total, column) for key, (total, column) in columns.items()}
    random, rows = Random(f"{seed}/{n}"), range(n)
    for _ in range(draws(n, resamples)):
        picks = random.choices(rows, k=n)
        pick: _Pick = itemgetter(*picks) if n > 1 else lambda column: (column[0],)
        for key, figure in ready.items():
            found[key].append(figure(pick))
    return found


def _drawable(total: Total, column: Sequence[Any]) -> Callable[[_Pick], float]:
    """The figure of picked rows; sums are taken number by number, which is far quicker."""
    if isinstance(total, Added):
        numbers, of = list(zip(*column, strict=True)), total.of
        return lambda pick: of([sum(pick(line)) for line in numbers])
    return lambda pick: total(pick(column))


def interval(figures: Sequence[float], n: int) -> tuple[float, float]:
    """The 95 % interval of figures drawn from ``n`` rows: percentiles, further out for few rows.

    The expanded percentile interval of Hesterberg 2015, "What Teachers Should Know About the
    Bootstrap", The American Statistician 69: drawn rows vary too little by (n - 1) / n, and
    their spread is itself known from n rows only.
    """
    ordered = sorted(figures)
    tail = _NORMAL.cdf(-_NORMAL_95 * _widening(n))
    return quantile(ordered, tail), quantile(ordered, 1 - tail)


def quantile(ordered: Sequence[float], share: float) -> float:
    """A quantile of sorted numbers, between two neighbours in a straight line."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def bootstrap_p(differences: Sequence[float], n: int) -> float:
    """Two-sided p of differences drawn from ``n`` rows; below 0.05 where `interval` is off zero.

    From the share of draws on the other side of no difference. Where hardly a draw is there, from
    the normal tail with the draws' mean and spread, which goes on below one in their number, as
    an adjustment for many tests needs.
    """
    if n < 2 or not any(differences):
        return 1.0
    count = len(differences)
    crossed = min(sum(value <= 0 for value in differences), sum(v >= 0 for v in differences))
    tail = min(0.5, (crossed + 1) / (count + 1))
    distance = -_NORMAL.inv_cdf(tail)
    if crossed < _FEW_CROSSED:
        mean = sum(differences) / count
        spread = math.sqrt(sum((value - mean) ** 2 for value in differences) / count)
        distance = max(distance, abs(mean) / spread) if spread else math.inf
    return math.erfc(distance / _widening(n) / math.sqrt(2))


def _widening(n: int) -> float:
    """How much further out a 95 % bound of ``n`` rows is than a normal one of drawn rows.

    Student's quantile by the expansion of Abramowitz and Stegun 26.7.5.
    """
    if n < 2:
        return math.inf
    z, degrees = _NORMAL_95, n - 1
    student = (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )
    return student / z * math.sqrt(n / degrees)


def _tango_score(fixed: int, broken: int, n: int, delta: float) -> float:
    """The score statistic of the hypothesis that the difference is ``delta``; falls with it."""
    a = 2 * n
    b = -fixed - broken + (2 * n - fixed + broken) * delta
    c = -broken * delta * (1 - delta)
    root = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = n * (2 * root + delta * (1 - delta))
    distance = fixed - broken - n * delta
    if variance <= 1e-12:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _bisect(score: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero."""
    for _ in range(60):
        middle = (low + high) / 2
        if score(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
