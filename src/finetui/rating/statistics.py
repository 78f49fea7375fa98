"""The statistics of a paired blind rating, on plain numbers.

Formulae and the figures they were checked against: docs/rating.md and
tests/rating/test_statistics.py.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist, fmean
from typing import Literal, NamedTuple, TypeVar

Level = Literal["nominal", "ordinal", "interval", "ratio"]
T = TypeVar("T")
Unit = Sequence[float | None]


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
    rows = [dict(row) for row in table.values()] + [{}] * fixed
    raters = sorted({rater for row in table.values() for rater in row})
    means = []
    for _ in range(resamples):
        weight = Counter(draw.choices(raters, k=len(raters)))
        scores = [_weighted(row, weight) for row in draw.choices(rows, k=len(rows))]
        if kept := [score for score in scores if score is not None]:
            means.append(fmean(kept))
    return _percentiles(means, confidence)


def _weighted(row: Mapping[str, float], weight: Mapping[str, int]) -> float | None:
    if not row:
        return 0.5
    total = sum(weight[rater] for rater in row)
    return sum(weight[rater] * score for rater, score in row.items()) / total if total else None


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


def krippendorff_alpha(units: Sequence[Unit], level: Level = "nominal") -> float:
    """Krippendorff's alpha, 1 - D_o/D_e over the coincidence matrix; None marks a missing value.

    ``units`` are the rated things, each with one value a rater. NaN when there is nothing to
    compare or only one value.
    """
    pairable = [kept for unit in units if len(kept := [v for v in unit if v is not None]) > 1]
    coincidence: defaultdict[tuple[float, float], float] = defaultdict(float)
    for values in pairable:
        for place, first in enumerate(values):
            for other, second in enumerate(values):
                if place != other:
                    coincidence[first, second] += 1 / (len(values) - 1)
    marginal: defaultdict[float, float] = defaultdict(float)
    for (first, _), weight in coincidence.items():
        marginal[first] += weight
    total = sum(marginal.values())
    distance = _distance(level, marginal)
    observed = sum(weight * distance(a, b) for (a, b), weight in coincidence.items())
    expected = sum(marginal[a] * marginal[b] * distance(a, b) for a in marginal for b in marginal)
    return 1 - (total - 1) * observed / expected if expected else math.nan


def _distance(level: Level, marginal: Mapping[float, float]) -> Callable[[float, float], float]:
    if level == "nominal":
        return lambda a, b: float(a != b)
    if level == "interval":
        return lambda a, b: (a - b) ** 2
    if level == "ratio":
        return lambda a, b: ((a - b) / (a + b)) ** 2 if a + b else 0.0
    middle, below = {}, 0.0
    for value in sorted(marginal):
        middle[value] = below + marginal[value] / 2
        below += marginal[value]
    return lambda a, b: (middle[a] - middle[b]) ** 2


class Ac1(NamedTuple):
    """Gwet's AC1 with the observed and the chance agreement it comes from."""

    value: float
    observed: float
    chance: float


def gwet_ac1(units: Sequence[Unit], categories: int = 0) -> Ac1:
    """Gwet's AC1 (2008) for any number of raters; None marks a missing value.

    ``categories`` is the number of possible answers (0 = those that occur). NaN where nothing can
    be compared.
    """
    rated = [Counter(v for v in unit if v is not None) for unit in units]
    rated = [counts for counts in rated if counts]
    pairs = [counts for counts in rated if counts.total() > 1]
    values = {value for counts in rated for value in counts}
    q = max(categories, len(values))
    if not pairs or q < 2:
        return Ac1(math.nan, math.nan, math.nan)
    observed = fmean(
        sum(c * (c - 1) for c in counts.values()) / (counts.total() * (counts.total() - 1))
        for counts in pairs
    )
    shares = [fmean(counts[value] / counts.total() for counts in rated) for value in values]
    chance = sum(share * (1 - share) for share in shares) / (q - 1)
    return Ac1((observed - chance) / (1 - chance), observed, chance)


def raw_agreement(units: Sequence[Unit]) -> tuple[int, int]:
    """(pairs of raters that gave the same answer, pairs), over all units."""
    same = pairs = 0
    for unit in units:
        counts = Counter(v for v in unit if v is not None)
        same += sum(math.comb(c, 2) for c in counts.values())
        pairs += math.comb(counts.total(), 2)
    return same, pairs
