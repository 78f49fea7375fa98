"""The raters: their habits, their agreement, their fatigue, and whether the blind held."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

import msgspec

from finetui.rating.agreement import Unit, kappas, krippendorff_alpha
from finetui.rating.blinding import Bang, james_index
from finetui.rating.statistics import (
    Interval,
    bootstrap,
    position_effect,
    sign_test,
    wilson,
)
from finetui.rating.verdict import CATCH, Tally, Vote, mean_share, tally_of
from finetui.rating.votes import Choice

RESAMPLES = 1000
PARTS = 3
NOTHING = Interval(math.nan, math.nan)


class SideBias(msgspec.Struct, frozen=True):
    """How often the left one won among decisive votes.

    ``gamma`` is the log odds of left against right.
    """

    left: int
    decisive: int
    interval: Interval
    p: float
    gamma: float
    gamma_interval: Interval


class Repeats(msgspec.Struct, frozen=True):
    """Items shown again with sides swapped.

    Same system (or tie) both times; same *side* both times is a position habit. ``interval`` is
    Wilson's, of the same answers.
    """

    pairs: int = 0
    same: int = 0
    same_side: int = 0
    interval: Interval = Interval(0.0, 1.0)


class Catches(msgspec.Struct, frozen=True):
    """Items with a spoilt answer: ``passed`` of ``shown`` were seen through."""

    shown: int = 0
    passed: int = 0

    @property
    def share(self) -> float:
        return self.passed / self.shown if self.shown else math.nan


class Pairs(msgspec.Struct, frozen=True):
    """Pairs of answers on one item: ``same`` of ``pairs``, and the same without ties."""

    same: int = 0
    pairs: int = 0
    same_decisive: int = 0
    pairs_decisive: int = 0

    @property
    def share(self) -> float:
        return self.same / self.pairs if self.pairs else math.nan


class RaterRow(msgspec.Struct, frozen=True, kw_only=True):
    """One rater's part. ``median_s`` is active seconds an item.

    ``against_rest`` compares with each other rater of the same item; ``alpha_without`` is the
    ordinal alpha of the others. ``own_account`` None when nothing tells.
    """

    rater: str
    packet: int
    tally: Tally
    share: float
    left: int
    side: SideBias
    repeats: Repeats
    catches: Catches
    against_rest: Pairs
    alpha_without: float
    bang: Bang | None
    recognised: int
    median_s: float
    own_account: bool | None
    interested: bool
    left_out: bool


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """Between raters, on items that two or more judged.

    Nominal: four answers; ordinal: reference, tie, candidate. Intervals by bootstrap over items.
    ``kappa`` is Conger's (Cohen's for two raters).
    """

    items: int
    alpha_nominal: float
    nominal_interval: Interval
    alpha_ordinal: float
    ordinal_interval: Interval
    ac1: float
    ac1_interval: Interval
    kappa: float
    answers: Pairs


class Third(msgspec.Struct, frozen=True, kw_only=True):
    """One third of the session, by each rater's own order; ``part`` counts from 1."""

    part: int
    votes: int
    share: float
    tie_rate: float
    tie_interval: Interval
    left_share: float
    median_s: float
    agreement: Pairs
    repeats: Repeats


class Blinding(msgspec.Struct, frozen=True):
    """The guesses at the end: overall, by rater, and by the side on which the candidate stood."""

    overall: Bang
    interval: Interval
    raters: dict[str, Bang]
    on_left: Bang
    on_right: Bang
    james: float


def side_bias(votes: Sequence[Vote], candidate: str, seed: int = 0) -> SideBias:
    """Share of the left side among decisive votes, and the side's log odds with a bootstrap
    interval over items."""
    decisive = [vote for vote in votes if vote.decisive]
    left = sum(vote.choice is Choice.LEFT for vote in decisive)
    by_item: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for vote in decisive:
        cell = (0 if vote.left == candidate else 2) + (vote.winner != candidate)
        by_item[vote.item][cell] += 1
    cells = [tuple(cell) for cell in by_item.values()]
    return SideBias(
        left=left,
        decisive=len(decisive),
        interval=wilson(left, len(decisive)),
        p=sign_test(left, len(decisive) - left),
        gamma=_gamma(cells) if cells else math.nan,
        gamma_interval=bootstrap(cells, _gamma, resamples=RESAMPLES, seed=seed)
        if cells
        else NOTHING,
    )


def _gamma(cells: Sequence[Sequence[int]]) -> float:
    return position_effect(*map(sum, zip(*cells, strict=True))).gamma


def repeats_of(votes: Iterable[Vote], candidate: str) -> Repeats:
    """Compare each repeat with the first showing of the same pair to the same rater."""
    pairs: defaultdict[tuple[str, str, frozenset[str]], dict[str, Vote]] = defaultdict(dict)
    for vote in votes:
        if vote.choice is not Choice.SKIP and vote.kind in ("item", "repeat"):
            pairs[vote.rater, vote.item, vote.pair][vote.kind] = vote
    both = [(p["item"], p["repeat"]) for p in pairs.values() if len(p) == 2]
    same = sum(_preference(first) == _preference(again) for first, again in both)
    return Repeats(
        pairs=len(both),
        same=same,
        same_side=sum(first.decisive and first.choice == again.choice for first, again in both),
        interval=wilson(same, len(both)),
    )


def _preference(vote: Vote) -> str:
    return vote.winner if vote.decisive else "tie"


def catches_of(votes: Iterable[Vote]) -> Catches:
    """How often the spoilt answer was seen through."""
    caught = [vote for vote in votes if vote.kind == "catch"]
    return Catches(len(caught), sum(vote.decisive and vote.winner != CATCH for vote in caught))


def agreement_of(votes: Sequence[Vote], candidate: str, seed: int = 0) -> Agreement | None:
    """Agreement on the items that two or more judged; None if there are none."""
    every = list(_by_item(votes).values())
    units = [found for found in every if len(found) > 1]
    if not units:
        return None
    raters = sorted({vote.rater for vote in votes})
    nominal = [_unit(unit, raters, _answer(candidate)) for unit in units]
    ordinal = [_unit(unit, raters, lambda vote: vote.score(candidate)) for unit in units]
    all_nominal = [_unit(unit, raters, _answer(candidate)) for unit in every]
    coefficients = kappas(all_nominal, categories=4)
    resamples = max(100, min(RESAMPLES, 60_000 // len(every)))

    def spread(values: Sequence[Unit], statistic: Callable[[Sequence[Unit]], float]) -> Interval:
        return bootstrap(values, statistic, resamples=resamples, seed=seed)

    return Agreement(
        items=len(units),
        alpha_nominal=krippendorff_alpha(nominal),
        nominal_interval=spread(nominal, krippendorff_alpha),
        alpha_ordinal=krippendorff_alpha(ordinal, "ordinal"),
        ordinal_interval=spread(ordinal, lambda some: krippendorff_alpha(some, "ordinal")),
        ac1=coefficients.ac1,
        ac1_interval=spread(all_nominal, lambda some: kappas(some, categories=4).ac1),
        kappa=coefficients.conger,
        answers=pairs_of(votes),
    )


def _by_item(votes: Iterable[Vote]) -> dict[str, list[Vote]]:
    table: defaultdict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        if vote.choice is not Choice.SKIP:
            table[vote.item].append(vote)
    return dict(table)


def _unit(
    votes: Iterable[Vote], raters: Sequence[str], value: Callable[[Vote], float | None]
) -> Unit:
    given = {vote.rater: value(vote) for vote in votes}
    return tuple(given.get(rater) for rater in raters)


def _answer(candidate: str) -> Callable[[Vote], float]:
    """One number for each of the four answers: reference, candidate, both good, both bad."""
    ties = {Choice.BOTH_GOOD: 2.0, Choice.BOTH_BAD: 3.0}
    return lambda vote: ties.get(vote.choice, float(vote.winner == candidate))


def pairs_of(votes: Sequence[Vote]) -> Pairs:
    """Pairs of raters on one item, each pair once."""
    twice = _with_others(votes, votes)
    return Pairs(*(count // 2 for count in msgspec.structs.astuple(twice)))


def alpha_without(votes: Sequence[Vote], candidate: str, rater: str) -> float:
    """Ordinal alpha of the other raters; NaN for fewer than two of them."""
    others = [vote for vote in votes if vote.rater != rater]
    raters = sorted({vote.rater for vote in others})
    units = [
        _unit(unit, raters, lambda vote: vote.score(candidate))
        for unit in _by_item(others).values()
    ]
    return krippendorff_alpha(units, "ordinal") if len(raters) > 1 else math.nan


def thirds(votes: Sequence[Vote], packets: Mapping[str, int], candidate: str) -> list[Third]:
    """The session in three parts by each rater's own order; a repeat counts where it came again."""
    parts: list[list[Vote]] = [[] for _ in range(PARTS)]
    for vote in votes:
        if vote.kind in ("item", "repeat"):
            length = max(packets.get(vote.rater, 0), vote.seq, 1)
            parts[min(PARTS - 1, (vote.seq - 1) * PARTS // length)].append(vote)
    return [_third(n, part, votes, candidate) for n, part in enumerate(parts, 1) if part]


def _third(part: int, own: Sequence[Vote], every: Sequence[Vote], candidate: str) -> Third:
    items = [vote for vote in own if vote.kind == "item"]
    tally = tally_of(items, candidate)
    judged = tally.decisive + tally.ties
    shown = {(vote.rater, vote.item) for vote in own if vote.kind == "repeat"}
    again = [vote for vote in every if (vote.rater, vote.item) in shown]
    left = sum(vote.choice is Choice.LEFT for vote in items)
    return Third(
        part=part,
        votes=len(items),
        share=mean_share(items, candidate),
        tie_rate=tally.ties / judged if judged else math.nan,
        tie_interval=wilson(tally.ties, judged),
        left_share=left / tally.decisive if tally.decisive else math.nan,
        median_s=_median_seconds(own),
        agreement=_with_others(items, every),
        repeats=repeats_of(again, candidate),
    )


def _with_others(own: Sequence[Vote], every: Sequence[Vote]) -> Pairs:
    """Agreement of these votes with every other rater's vote on the same item."""
    by_item = _by_item(vote for vote in every if vote.kind == "item")
    same = pairs = same_decisive = pairs_decisive = 0
    for vote in own:
        if vote.choice is Choice.SKIP:
            continue
        for other in by_item.get(vote.item, ()):
            if other.rater != vote.rater and other.pair == vote.pair:
                alike = _preference(vote) == _preference(other)
                sure = vote.decisive and other.decisive
                same, pairs = same + alike, pairs + 1
                same_decisive, pairs_decisive = (
                    same_decisive + (alike and sure),
                    pairs_decisive + sure,
                )
    return Pairs(same, pairs, same_decisive, pairs_decisive)


def _median_seconds(votes: Iterable[Vote]) -> float:
    times = [vote.active_ms / 1000 for vote in votes if vote.active_ms]
    return median(times) if times else math.nan


def blinding_of(votes: Iterable[Vote], reference: str) -> Blinding | None:
    """The end question "which one is the tuned one?"; None where it was not asked.

    A guess counts where exactly one of the two is the reference.
    """
    guesses = [vote for vote in votes if vote.kind == "guess" and reference in vote.pair]
    if not guesses:
        return None
    raters = {
        rater: _bang([vote for vote in guesses if vote.rater == rater], reference)
        for rater in sorted({vote.rater for vote in guesses})
    }
    overall = _bang(guesses, reference)
    on_left = _bang([vote for vote in guesses if vote.right == reference], reference)
    on_right = _bang([vote for vote in guesses if vote.left == reference], reference)
    james = james_index((on_left, on_right))
    return Blinding(overall, overall.interval(), raters, on_left, on_right, james)


def _bang(guesses: Sequence[Vote], reference: str) -> Bang:
    told = [vote for vote in guesses if vote.decisive]
    correct = sum(vote.winner != reference for vote in told)
    return Bang(correct, len(told) - correct, len(guesses) - len(told))


def rater_row(
    rater: str,
    everything: Sequence[Vote],
    pair: tuple[str, str],
    *,
    packet: int,
    own_account: bool | None,
    interested: bool,
    left_out: bool,
    seed: int = 0,
) -> RaterRow:
    """One rater's part, over the main comparison; repeats, catches and guesses over all."""
    reference, candidate = pair
    main = [v for v in everything if v.kind == "item" and v.pair == frozenset(pair)]
    own = [vote for vote in everything if vote.rater == rater]
    items = [vote for vote in main if vote.rater == rater]
    guesses = blinding_of(own, reference)
    return RaterRow(
        rater=rater,
        packet=packet,
        tally=tally_of(items, candidate),
        share=mean_share(items, candidate),
        left=sum(vote.choice is Choice.LEFT for vote in items),
        side=side_bias(items, candidate, seed),
        repeats=repeats_of(own, candidate),
        catches=catches_of(own),
        against_rest=_with_others(items, main),
        alpha_without=alpha_without(main, candidate, rater),
        bang=guesses.overall if guesses else None,
        recognised=sum(vote.recognised for vote in own),
        median_s=_median_seconds(vote for vote in own if vote.kind in ("item", "repeat")),
        own_account=own_account,
        interested=interested,
        left_out=left_out,
    )
