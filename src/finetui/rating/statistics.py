"""The statistics of a paired blind rating, on plain numbers.

Agreement between raters is in agreement.py. Formulae and the figures they were checked against:
docs/rating.md and tests/rating/test_rating_statistics.py.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from operator import mul
from statistics import NormalDist
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a share (Wilson 1927); (0, 1) without trials."""
    if trials == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    centre = (successes + z * z / 2) / (trials + z * z)
    half = z * math.sqrt(trials * share * (1 - share) + z * z / 4) / (trials + z * z)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def sign_test(wins: int, losses: int) -> float:
    """Exact two-sided p value of the sign test (binomial, share one half); 1 without decisions."""
    n, fewer = wins + losses, min(wins, losses)
    return min(1.0, 2 * sum(math.comb(n, j) for j in range(fewer + 1)) / (1 << n))


def bootstrap(
    values: Sequence[T],
    statistic: Callable[[Sequence[T]], float],
    *,
    confidence: float = 0.95,
    resamples: int = 4000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a statistic of independent values (Efron 1979), seeded."""
    draw = random.Random(seed)
    return _percentiles(
        [statistic(draw.choices(values, k=len(values))) for _ in range(resamples)], confidence
    )


def bootstrap_two_way(
    table: Mapping[str, Mapping[str, float]],
    fixed: int = 0,
    *,
    confidence: float = 0.95,
    resamples: int = 4000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of the mean of item means that draws items *and* raters (pigeonhole
    bootstrap, Owen 2007).

    ``table`` is item -> rater -> score; ``fixed`` more items score one half whoever rates. A
    resample without a vote for an item leaves that item out.
    """
    draw = random.Random(seed)
    raters = sorted({rater for row in table.values() for rater in row})
    rows = [
        ([row.get(rater, 0.0) for rater in raters], [float(rater in row) for rater in raters])
        for row in table.values()
    ]
    rows += [([0.5] * len(raters), [1.0] * len(raters))] * fixed
    means = []
    for _ in range(resamples):
        drawn = Counter(draw.choices(raters, k=len(raters)))
        weights = [drawn[rater] for rater in raters]
        scores = [
            sum(map(mul, weights, given)) / votes
            for given, there in draw.choices(rows, k=len(rows))
            if (votes := sum(map(mul, weights, there)))
        ]
        if scores:
            means.append(sum(scores) / len(scores))
    return _percentiles(means, confidence)


def _percentiles(values: Sequence[float], confidence: float) -> Interval:
    if not values:
        return Interval(math.nan, math.nan)
    ordered = sorted(values)
    tail = (1 - confidence) / 2
    return Interval(_quantile(ordered, tail), _quantile(ordered, 1 - tail))


def _quantile(ordered: Sequence[float], q: float) -> float:
    place = q * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


class PositionEffect(NamedTuple):
    """Log odds: ``theta`` of the candidate against the reference, ``gamma`` of the left side
    against the right."""

    theta: float
    gamma: float


def position_effect(
    left_won: int, left_lost: int, right_won: int, right_lost: int
) -> PositionEffect:
    """Split preference from side: candidate's wins and losses shown on the left, then on the right.

    Two-system Bradley-Terry model with an order effect, 0.5 added to each cell (Haldane-Anscombe),
    so it is finite.
    """
    on_left = math.log((left_won + 0.5) / (left_lost + 0.5))
    on_right = math.log((right_won + 0.5) / (right_lost + 0.5))
    return PositionEffect((on_left + on_right) / 2, (on_left - on_right) / 2)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values of several tests (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, highest = [0.0] * len(p_values), 0.0
    for place, k in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - place) * p_values[k]))
        adjusted[k] = highest
    return adjusted
