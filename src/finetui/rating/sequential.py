"""Stopping early without fooling oneself: e-processes, and looks that were scheduled.

All tests are of "no preference": an item's score is as likely above one half as below (signs), or
one half on average given what came before (betting). Items are taken in the order in which they
were finished. Sources: Robbins 1970; Howard, Ramdas, McAuliffe and Sekhon 2021; Waudby-Smith and
Ramdas 2024; O'Brien and Fleming 1979; Lan and DeMets 1983.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from finetui.rating.power import power
from finetui.rating.statistics import Interval

if TYPE_CHECKING:
    from finetui.rating.verdict import Vote

BETS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.9)
"""Shares of the wealth put on either side; at a mean of one half they are lambda = 0.1 ... 1.8.

Most are small, because preferences are: at 60:40 as strong as the beta-binomial."""


class StopRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When rating ends, frozen at the sealing.

    ``fixed``: every item. ``e-process``: any moment, at most ``cap`` items (0 = all). ``looks``:
    after each of these numbers of items, O'Brien-Fleming. ``process`` is the e-process: "betting"
    on item scores or "beta-binomial" (prior ``prior``) on their signs.
    """

    kind: Literal["fixed", "e-process", "looks"] = "fixed"
    alpha: float = 0.05
    cap: int = 0
    looks: tuple[int, ...] = ()
    process: Literal["betting", "beta-binomial"] = "betting"
    prior: float = 5.0

    @property
    def sentence(self) -> str:
        """The rule for a person and for the manifest."""
        if self.kind == "fixed":
            return "fixed: every item of the packet"
        if self.kind == "looks":
            counts = ", ".join(map(str, self.looks))
            return f"looks after {counts} items, O'Brien-Fleming boundaries at {self.alpha:g}"
        cap = f"at most {self.cap} items" if self.cap else "at most every item"
        name = "betting" if self.process == "betting" else f"beta-binomial (a = {self.prior:g})"
        return f"e-process, {name}, at {self.alpha:g}; looks at any time, {cap}"


class Decision(NamedTuple):
    """Whether to stop after ``items`` items, and why: "boundary", "cap", "planned end" or "".

    ``e`` (0 for looks) and ``p`` belong to the report, never to a rater's or coordinator's screen.
    """

    stop: bool
    why: str
    items: int
    e: float
    p: float


class Course(NamedTuple):
    """How a rule behaves at a true share: chance to cross, and decisive items rated on average."""

    power: float
    mean_items: float


def decide(rule: StopRule, scores: Sequence[float]) -> Decision:
    """Continue or stop, from the scores of the finished items in the order of finishing.

    Items beyond the cap or the last look are not looked at: the decision stays what it was then.
    """
    scores = scores[: rule.cap] if rule.cap else scores
    if rule.kind == "looks":
        return _scheduled(rule, scores)
    if rule.kind == "fixed":
        return Decision(False, "", len(scores), 0.0, 1.0)
    crossed, highest = _first_crossing(rule, scores)
    p = min(1.0, 1 / highest) if highest else 1.0
    if crossed:
        return Decision(True, "boundary", crossed, highest, p)
    full = 0 < rule.cap <= len(scores)
    return Decision(full, "cap" if full else "", len(scores), highest, p)


def finished(
    votes: Iterable[Vote], raters_of: Mapping[str, Collection[str]], candidate: str
) -> list[float]:
    """Scores of the items that every one of their raters has answered, in the order of finishing.

    ``raters_of`` is item -> raters who have it in their packet. Items that nobody could judge are
    left out. Only a complete item counts: a mean that can still change is no fair bet.
    """
    answered: dict[str, dict[str, Vote]] = {}
    for vote in votes:
        if vote.kind == "item":
            answered.setdefault(vote.item, {})[vote.rater] = vote
    done = []
    for item, raters in raters_of.items():
        own = answered.get(item, {})
        if raters and all(rater in own for rater in raters):
            given = [s for rater in raters if (s := own[rater].score(candidate)) is not None]
            if given:
                done.append((max(own[rater].at for rater in raters), item, fmean(given)))
    return [score for *_, score in sorted(done)]


def _first_crossing(rule: StopRule, scores: Sequence[float]) -> tuple[int, float]:
    """(items at the first crossing, or 0; the highest e-value up to there)."""
    values = betting(scores) if rule.process == "betting" else _sign_values(scores, rule.prior)
    highest = 1.0
    for n, value in enumerate(values, 1):
        highest = max(highest, value)
        if value >= 1 / rule.alpha:
            return n, highest
    return 0, highest


def _sign_values(scores: Sequence[float], prior: float) -> list[float]:
    wins = losses = 0
    values = []
    for score in scores:
        wins += score > 0.5
        losses += score < 0.5
        values.append(beta_binomial(wins, losses, prior))
    return values


def beta_binomial(wins: int, losses: int, prior: float = 5.0) -> float:
    """The e-value 2^n B(a + wins, a + losses)/B(a, a) against a share of one half."""
    return math.exp(min(700.0, _log_mixture(wins, losses, prior) + (wins + losses) * math.log(2)))


def _log_mixture(wins: int, losses: int, prior: float) -> float:
    return _log_beta(prior + wins, prior + losses) - _log_beta(prior, prior)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def confidence_sequence(
    wins: int, losses: int, prior: float = 5.0, alpha: float = 0.05
) -> Interval:
    """The shares that the beta-binomial mixture has not yet ruled out: valid at every moment."""
    mixture = _log_mixture(wins, losses, prior)

    def ruled_out(share: float) -> bool:
        likelihood = _xlogy(wins, share) + _xlogy(losses, 1 - share)
        return mixture - likelihood >= -math.log(alpha)

    n = wins + losses
    return _surviving(ruled_out, wins / n if n else 0.5)


def _xlogy(x: float, y: float) -> float:
    return 0.0 if x == 0 else x * math.log(y) if y > 0 else -math.inf


def _surviving(ruled_out: Callable[[float], bool], inside: float) -> Interval:
    """The interval around ``inside`` where the predicate is false, by bisection on each side."""
    ends = []
    for end in (0.0, 1.0):
        if not ruled_out(end):
            ends.append(end)
            continue
        out, kept = end, inside
        for _ in range(40):
            middle = (out + kept) / 2
            out, kept = (middle, kept) if ruled_out(middle) else (out, middle)
        ends.append(out)
    return Interval(*ends)


def betting(scores: Sequence[float], mean: float = 0.5) -> list[float]:
    """Wealth after each item of bettors against "the mean is ``mean``", averaged over BETS on both
    sides.

    Scores lie in [0, 1]; at a mean of one half a tie leaves the wealth as it is.
    """
    over, under = [1.0] * len(BETS), [1.0] * len(BETS)
    values = []
    for score in scores:
        up = (score - mean) / mean if mean else 0.0
        down = (score - mean) / (1 - mean) if mean < 1 else 0.0
        over = [wealth * (1 + bet * up) for wealth, bet in zip(over, BETS, strict=True)]
        under = [wealth * (1 - bet * down) for wealth, bet in zip(under, BETS, strict=True)]
        values.append((sum(over) + sum(under)) / (2 * len(BETS)))
    return values


def mean_sequence(scores: Sequence[float], alpha: float = 0.05) -> Interval:
    """The means that betting has not yet ruled out: valid at every moment.

    The wealth is convex in the mean, so what is left is one interval.
    """
    if not scores:
        return Interval(0.0, 1.0)

    def ruled_out(mean: float) -> bool:
        inner = min(1 - 1e-9, max(1e-9, mean))
        return _log_wealth(scores, inner) >= -math.log(alpha)

    return _surviving(ruled_out, min(1 - 1e-6, max(1e-6, fmean(scores))))


def _log_wealth(scores: Sequence[float], mean: float) -> float:
    counts: dict[float, int] = {}
    for score in scores:
        counts[score] = counts.get(score, 0) + 1
    logs = []
    for bet in BETS:
        for sign, edge in ((1, mean), (-1, 1 - mean)):
            logs.append(
                sum(
                    n * math.log1p(sign * bet * (score - mean) / edge)
                    for score, n in counts.items()
                )
            )
    top = max(logs)
    return top + math.log(sum(math.exp(value - top) for value in logs) / len(logs))


# -- scheduled looks ------------------------------------------------------------------------------


def spent(fraction: float, alpha: float = 0.05) -> float:
    """How much of alpha may be used up at this fraction of the items (Lan and DeMets' spending in
    the manner of O'Brien and Fleming): 2 - 2 Phi(z/sqrt(t))."""
    if fraction <= 0:
        return 0.0
    normal = NormalDist()
    return 2 * (1 - normal.cdf(normal.inv_cdf(1 - alpha / 2) / math.sqrt(min(1.0, fraction))))


def boundaries(
    decided: Sequence[int], fractions: Sequence[float], alpha: float = 0.05
) -> list[int]:
    """For each look the largest count of the rarer answer that stops (-1: none does).

    Exact: ``decided`` are the decisive items at each look, and the chance to cross under "no
    preference" is that of the binomial walk, never above what may be spent.
    """
    limits: list[int] = []
    walk, before, crossed = {0: 1.0}, 0, 0.0
    for n, fraction in zip(decided, fractions, strict=True):
        walk = _onward(walk, n - before, 0.5)
        allowed, limit, own = spent(fraction, alpha), -1, 0.0
        for k in range((n - 1) // 2 + 1):
            more = walk.get(k, 0.0) + walk.get(n - k, 0.0)
            if crossed + own + more > allowed + 1e-12:
                break
            limit, own = k, own + more
        crossed += own
        walk = {k: chance for k, chance in walk.items() if limit < k < n - limit}
        limits.append(limit)
        before = n
    return limits


def crossing(decided: Sequence[int], limits: Sequence[int], share: float) -> Course:
    """The chance to stop at one of the looks, and the decisive items used, at a true share."""
    walk, before, crossed, used, last = {0: 1.0}, 0, 0.0, 0.0, 0.0
    for n, limit in zip(decided, limits, strict=True):
        walk = _onward(walk, n - before, share)
        inside = {k: chance for k, chance in walk.items() if limit < k < n - limit}
        last = sum(walk.values()) - sum(inside.values())
        crossed, used = crossed + last, used + last * n
        walk, before = inside, n
    return Course(crossed, used + sum(walk.values()) * before)


def _onward(walk: Mapping[int, float], steps: int, share: float) -> dict[int, float]:
    """The distribution of the wins after ``steps`` more decisive items."""
    if steps <= 0:
        return dict(walk)
    jump = _binomial(steps, share)
    onward: dict[int, float] = {}
    for k, chance in walk.items():
        for more, part in enumerate(jump):
            onward[k + more] = onward.get(k + more, 0.0) + chance * part
    return onward


@lru_cache(maxsize=64)
def _binomial(n: int, share: float) -> tuple[float, ...]:
    if share in (0.0, 1.0):
        return tuple(float(k == n * share) for k in range(n + 1))
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        + k * math.log(share) + (n - k) * math.log1p(-share)
        for k in range(n + 1)
    ]  # fmt: skip
    return tuple(map(math.exp, logs))


def _scheduled(rule: StopRule, scores: Sequence[float]) -> Decision:
    """The looks that are due, with exact boundaries for the decisive items seen at each."""
    due = [n for n in sorted(rule.looks) if n <= len(scores)]
    if not due:
        return Decision(False, "", len(scores), 0.0, 1.0)
    signs = [[(s > 0.5) - (s < 0.5) for s in scores[:n]] for n in due]
    decided = [sum(map(abs, own)) for own in signs]
    final = max(rule.looks)
    limits = boundaries(decided, [n / final for n in due], rule.alpha)
    for n, own, count, limit in zip(due, signs, decided, limits, strict=True):
        rarer = min(own.count(1), own.count(-1))
        if rarer <= limit and count:
            return Decision(True, "boundary", n, 0.0, spent(n / final, rule.alpha))
    ended = due[-1] == final
    return Decision(ended, "planned end" if ended else "", due[-1], 0.0, 1.0)


def expected(rule: StopRule, share: float, decided: int) -> Course:
    """Power and mean length of a rule at a true share of decisive items, exact.

    ``decided`` is the number of decisive items at the end; looks and cap are scaled to it. The
    betting process is given the course of the beta-binomial, which it follows closely.
    """
    if rule.kind == "looks" and rule.looks:
        final = max(rule.looks)
        counts = [round(n / final * decided) for n in sorted(rule.looks)]
        limits = boundaries(counts, [n / final for n in sorted(rule.looks)], rule.alpha)
        return crossing(counts, limits, share)
    if rule.kind == "e-process":
        counts = list(range(1, decided + 1))
        return crossing(counts, _e_limits(decided, rule.prior, rule.alpha), share)
    return Course(power(decided, share, rule.alpha), decided)


@lru_cache(maxsize=32)
def _e_limits(decided: int, prior: float, alpha: float) -> list[int]:
    """For each n the largest count of the rarer answer whose e-value reaches 1/alpha."""
    limits, limit = [], -1
    for n in range(1, decided + 1):
        while beta_binomial(limit + 1, n - limit - 1, prior) >= 1 / alpha and limit + 1 < n / 2:
            limit += 1
        limits.append(limit)
    return limits
