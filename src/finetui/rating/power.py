"""How many items a rating needs: exact power of the two-sided sign test."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

MINUTES_AN_ITEM = (3, 5)  # careful experts (Chatbot Arena paper, arXiv 2403.04132)
TARGET = 0.8
LARGEST = 3000  # decisive answers; beyond that a person asks for the impossible


class SampleSize(NamedTuple):
    """Decisive answers needed.

    Exact power is a saw-tooth: ``first`` reaches the target, from ``stable`` on it stays.
    """

    first: int
    stable: int


def power(n: int, share: float, alpha: float = 0.05) -> float:
    """The chance that the exact sign test over ``n`` decisive answers is significant when the true
    share is ``share``."""
    limit = _critical(n, alpha)
    return _tail(n, share, limit) + _tail(n, 1 - share, limit) if limit >= 0 else 0.0


@lru_cache(maxsize=256)
def sample_size(share: float, target: float = TARGET, alpha: float = 0.05) -> SampleSize:
    """Decisive answers that detect a true share with the wanted power.

    Raises ValueError for a share so near one half that it would need more than LARGEST.
    """
    share = max(share, 1 - share)
    if share > 1 or _approximate(share, target, alpha) > 0.85 * LARGEST:
        raise ValueError(f"a share of {share} needs more than {LARGEST:,} decisive answers")
    first, last_below, n = 0, 0, 1
    while not first or n <= max(first + 60, 1.15 * first):
        if power(n, share, alpha) < target:
            last_below = n
        elif not first:
            first = n
        n += 1
    return SampleSize(first, last_below + 1)


def detectable_share(n: int, target: float = TARGET, alpha: float = 0.05) -> float | None:
    """The smallest true share (above one half) that ``n`` decisive answers detect.

    None if not even 100 % would do.
    """
    if power(n, 1.0, alpha) < target:
        return None
    low, high = 0.5, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if power(n, middle, alpha) >= target else (middle, high)
    return high


def advice(items: int, tie_rate: float = 0.25, alpha: float = 0.05) -> str:
    """Two sentences for the person who prepares a rating of ``items`` items with one vote each.

    ``tie_rate`` is the share of items expected to end in a tie: they decide nothing.
    """
    decisive = round(items * (1 - tie_rate))
    found = detectable_share(decisive, alpha=alpha)
    few, many = MINUTES_AN_ITEM
    counted = f"{items} items, about {decisive} of them decided if {tie_rate:.0%} are ties"
    if found is None:
        return f"{counted}: too few to show any difference at {alpha:g}."
    wider = math.ceil(found * 100 - 1e-9)
    return (
        f"{counted}: an {TARGET:.0%} chance to detect a preference of {wider}:{100 - wider} "
        f"or wider at {alpha:g}. Careful reading takes {few} to {many} minutes an item, "
        f"{items * few / 60:.1f} to {items * many / 60:.1f} hours in all."
    )


def _approximate(share: float, target: float, alpha: float) -> float:
    """The normal approximation of the sample size; infinite at one half."""
    if share == 0.5:
        return math.inf
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(target)
    return float(((z_alpha / 2 + z_power * math.sqrt(share * (1 - share))) / (share - 0.5)) ** 2)


def _critical(n: int, alpha: float) -> int:
    """The largest count of the rarer answer that is still significant; -1 if none is."""
    above, below = alpha.as_integer_ratio()
    allowed = (above << n) // below
    ways, total = 1, 0
    for k in range(n // 2 + 1):
        total += 2 * ways
        if total > allowed:
            return k - 1
        ways = ways * (n - k) // (k + 1)
    return n // 2


def _tail(n: int, share: float, limit: int) -> float:
    """P(at most ``limit`` losses) when each answer is a win with this share."""
    if share in (0.0, 1.0):
        return share
    # From the largest count down, each term from the one before: no term overflows or starts at
    # zero.
    term = math.exp(
        math.lgamma(n + 1)
        - math.lgamma(limit + 1)
        - math.lgamma(n - limit + 1)
        + limit * math.log1p(-share)
        + (n - limit) * math.log(share)
    )
    odds, total = share / (1 - share), 0.0
    for k in range(limit, -1, -1):
        total += term
        term *= k / (n - k + 1) * odds
    return total
