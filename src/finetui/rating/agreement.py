"""Agreement between raters, on plain numbers.

A *unit* is one rated thing with one value a rater; None marks a missing value. Where raters have
fixed places in the unit (all but the place-free coefficients), the places are the same in every
unit.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Literal, NamedTuple

Level = Literal["nominal", "ordinal", "interval", "ratio"]
Unit = Sequence[float | None]


def krippendorff_alpha(units: Sequence[Unit], level: Level = "nominal") -> float:
    """Krippendorff's alpha, 1 - D_o/D_e over the coincidence matrix; None marks a missing value.

    NaN when there is nothing to compare or only one value.
    """
    pairable = [kept for unit in units if len(kept := [v for v in unit if v is not None]) > 1]
    coincidence: defaultdict[tuple[float, float], float] = defaultdict(float)
    for values in pairable:
        counts = Counter(values)
        for first, m in counts.items():
            for second, n in counts.items():
                together = m * (m - 1) if first == second else m * n
                coincidence[first, second] += together / (len(values) - 1)
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


class Kappas(NamedTuple):
    """Coefficients that differ only in the agreement they expect by chance.

    ``observed`` is the share of agreeing pairs. ``conger`` is Cohen's kappa where there are two
    raters. NaN where nothing can be compared.
    """

    observed: float
    ac1: float
    fleiss: float
    conger: float
    brennan_prediger: float


def kappas(units: Sequence[Unit], categories: int = 0) -> Kappas:
    """Gwet's AC1, Fleiss' and Conger's kappa and Brennan-Prediger, gaps allowed (Gwet 2014).

    ``categories`` is the number of possible answers (0 = those that occur).
    """
    values = sorted({value for unit in units for value in unit if value is not None})
    q = max(categories, len(values))
    observed = _observed(units)
    if math.isnan(observed) or q < 2:
        return Kappas(*[math.nan] * 5)
    shares = _shares(units, values)
    spread = sum(share * (1 - share) for share in shares.values()) / (q - 1)
    same = sum(share * share for share in shares.values())
    chances = (spread, same, _conger_chance(units, values), 1 / q)
    return Kappas(observed, *(_beyond(observed, chance) for chance in chances))


def gwet_ac1(units: Sequence[Unit], categories: int = 0) -> float:
    """Gwet's AC1 (2008) for any number of raters; NaN where nothing can be compared."""
    return kappas(units, categories).ac1


def _beyond(observed: float, chance: float) -> float:
    return (observed - chance) / (1 - chance) if chance < 1 else math.nan


def _observed(units: Sequence[Unit]) -> float:
    """Mean over units of the share of agreeing pairs."""
    found = []
    for unit in units:
        counts = Counter(v for v in unit if v is not None)
        if (n := counts.total()) > 1:
            found.append(sum(c * (c - 1) for c in counts.values()) / (n * (n - 1)))
    return fmean(found) if found else math.nan


def _shares(units: Sequence[Unit], values: Sequence[float]) -> dict[float, float]:
    """Mean share of each value over the units that somebody rated."""
    rated = [counts for unit in units if (counts := Counter(v for v in unit if v is not None))]
    return {value: fmean(c[value] / c.total() for c in rated) for value in values}


def _conger_chance(units: Sequence[Unit], values: Sequence[float]) -> float:
    """Chance agreement of raters who each keep their own rates: mean of products over pairs of
    raters."""
    width = max(len(unit) for unit in units)
    columns = [[u[k] for u in units if k < len(u) and u[k] is not None] for k in range(width)]
    rates = [{v: col.count(v) / len(col) for v in values} for col in columns if col]
    pairs = math.comb(len(rates), 2)
    if not pairs:
        return math.nan
    return (
        sum((sum(r[v] for r in rates) ** 2 - sum(r[v] ** 2 for r in rates)) / 2 for v in values)
        / pairs
    )
