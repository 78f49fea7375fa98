"""How many items and hours a rating needs: exact power of the two-sided sign test on items."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

MINUTES_AN_ITEM = (3, 5)  # careful experts (Chatbot Arena paper, arXiv 2403.04132)
TARGET = 0.8
ICC = 0.3  # correlation of two votes on one item: the design effect is 1 + (raters - 1) ICC
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


class Verdicts(NamedTuple):
    """How an item ends when ``raters`` judge it: chance that the candidate, the other, or nobody
    is ahead."""

    won: float
    lost: float
    even: float

    @property
    def decided(self) -> float:
        return min(1.0, self.won + self.lost)

    @property
    def share(self) -> float:
        """The candidate's share of the decided items."""
        return self.won / self.decided if self.decided else 0.5


@lru_cache(maxsize=512)
def verdicts(share: float, raters: int = 1, tie_rate: float = 0.25, icc: float = ICC) -> Verdicts:
    """How an item ends, exact.

    Each vote is a tie at ``tie_rate``; else it prefers the candidate with a chance that varies
    from item to item around ``share`` (beta-binomial) so that two votes on one item correlate by
    ``icc``.
    """
    won = lost = 0.0
    for judged in range(raters + 1):
        chance = _binomial(raters, judged, 1 - tie_rate)
        for wins in range(judged + 1):
            both = chance * _beta_binomial(judged, wins, share, icc)
            won += both if 2 * wins > judged else 0.0
            lost += both if 2 * wins < judged else 0.0
    return Verdicts(won, lost, max(0.0, 1 - won - lost))


@lru_cache(maxsize=2048)
def item_power(
    items: int,
    share: float,
    raters: int = 1,
    tie_rate: float = 0.25,
    icc: float = ICC,
    alpha: float = 0.05,
) -> float:
    """The chance that the exact sign test over ``items`` items is significant when the true share
    of decisive votes is ``share``."""
    ends = verdicts(share, raters, tie_rate, icc)
    middle, spread = items * ends.decided, math.sqrt(items * ends.decided * ends.even)
    low, high = max(0, math.floor(middle - 4 * spread)), min(items, math.ceil(middle + 4 * spread))
    total = weight = 0.0
    for decided in range(low, high + 1):
        chance = _binomial(items, decided, ends.decided)
        weight += chance
        total += chance * power(decided, ends.share, alpha)
    return total / weight if weight else 0.0


def items_needed(
    share: float,
    raters: int = 1,
    tie_rate: float = 0.25,
    icc: float = ICC,
    target: float = TARGET,
    alpha: float = 0.05,
) -> int | None:
    """Items to show so that a true share is detected with the wanted power.

    None if it would take more than LARGEST.
    """
    low, high = 0, 8
    while item_power(high, share, raters, tie_rate, icc, alpha) < target:
        low, high = high, high * 2
        if high > LARGEST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = item_power(middle, share, raters, tie_rate, icc, alpha) >= target
        low, high = (low, middle) if enough else (middle, high)
    return high


class Plan(NamedTuple):
    """What a session of so many items can show, and what it costs.

    ``showings`` a rater; ``decided`` items expected to have a winner; ``detectable`` the smallest
    true share found with the wanted power, None if none is; ``power_60`` at 60:40; ``needed_60``
    the items that 60:40 would take; ``design_effect`` 1 + (raters - 1) icc; hours are (low, high).
    """

    items: int
    raters: int
    showings: int
    decided: int
    detectable: float | None
    power_60: float
    needed_60: int | None
    design_effect: float
    hours_each: tuple[float, float]
    hours_all: tuple[float, float]
    tie_rate: float
    target: float
    alpha: float

    @property
    def sentences(self) -> list[str]:
        """The plan for the person who prepares the session."""
        return [self._finds(), self._costs(), self._compares()]

    def _finds(self) -> str:
        votes = "one vote" if self.raters == 1 else f"{self.raters} votes"
        counted = (
            f"{self.items} items with {votes} each, about {self.decided} of them decided if "
            f"{self.tie_rate:.0%} of votes are ties"
        )
        if self.detectable is None:
            return f"{counted}: too few to show any difference at {self.alpha:g}."
        wider = math.ceil(self.detectable * 100 - 1e-9)
        return (
            f"{counted}: an {self.target:.0%} chance to detect a preference of "
            f"{wider}:{100 - wider} or wider at {self.alpha:g}."
        )

    def _costs(self) -> str:
        each, every = (
            f"{low:.1f} to {high:.1f} hours" for low, high in (self.hours_each, self.hours_all)
        )
        if self.raters == 1:
            return f"Careful reading takes {each} for {self.showings} showings."
        return f"Careful reading takes {each} a rater for {self.showings} showings, {every} in all."

    def _compares(self) -> str:
        found = f"A preference of 60:40 would be found with a chance of {self.power_60:.0%}"
        if self.needed_60 is None or self.power_60 >= self.target:
            return f"{found}."
        return f"{found}; it takes {self.needed_60:,} items for {self.target:.0%}."


def plan(
    items: int,
    raters: int = 1,
    tie_rate: float = 0.25,
    icc: float = ICC,
    alpha: float = 0.05,
    target: float = TARGET,
    identical: int = 0,
    extra: int = 0,
    minutes: tuple[float, float] = MINUTES_AN_ITEM,
) -> Plan:
    """Power and cost of ``items`` items, ``identical`` of which are ties that nobody reads.

    ``extra`` are the showings a rater that are no items: repeats, catches, practice, the end
    question.
    """
    shown = max(0, items - identical)
    showings = shown + extra
    each = (showings * minutes[0] / 60, showings * minutes[1] / 60)
    return Plan(
        items=items,
        raters=raters,
        showings=showings,
        decided=round(shown * verdicts(0.6, raters, tie_rate, icc).decided),
        detectable=_detectable(shown, raters, tie_rate, icc, alpha, target),
        power_60=item_power(shown, 0.6, raters, tie_rate, icc, alpha),
        needed_60=items_needed(0.6, raters, tie_rate, icc, target, alpha),
        design_effect=1 + (raters - 1) * icc,
        hours_each=each,
        hours_all=(each[0] * raters, each[1] * raters),
        tie_rate=tie_rate,
        target=target,
        alpha=alpha,
    )


def _detectable(
    items: int, raters: int, tie_rate: float, icc: float, alpha: float, target: float
) -> float | None:
    low, high = 0.5, 1.0
    if item_power(items, high, raters, tie_rate, icc, alpha) < target:
        return None
    while high - low > 0.002:
        middle = (low + high) / 2
        enough = item_power(items, middle, raters, tie_rate, icc, alpha) >= target
        low, high = (low, middle) if enough else (middle, high)
    return high


def advice(items: int, tie_rate: float = 0.25, alpha: float = 0.05) -> str:
    """The plan's first two sentences for ``items`` items with one vote each."""
    return " ".join(plan(items, tie_rate=tie_rate, alpha=alpha).sentences[:2])


def _binomial(n: int, k: int, share: float) -> float:
    if share in (0.0, 1.0):
        return float(k == n * share)
    return math.exp(
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        + k * math.log(share) + (n - k) * math.log1p(-share)
    )  # fmt: skip


def _beta_binomial(n: int, k: int, share: float, icc: float) -> float:
    """The binomial with a share that varies so that two draws correlate by ``icc``."""
    if icc <= 0 or share in (0.0, 1.0):
        return _binomial(n, k, share)
    a, b = share * (1 - icc) / icc, (1 - share) * (1 - icc) / icc
    log = math.lgamma
    return math.comb(n, k) * math.exp(
        log(k + a) + log(n - k + b) - log(n + a + b) - log(a) - log(b) + log(a + b)
    )


def _approximate(share: float, target: float, alpha: float) -> float:
    """The normal approximation of the sample size; infinite at one half."""
    if share == 0.5:
        return math.inf
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(target)
    return float(((z_alpha / 2 + z_power * math.sqrt(share * (1 - share))) / (share - 0.5)) ** 2)


@lru_cache(maxsize=4096)
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
