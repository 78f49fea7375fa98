"""Votes and design to one report: everything that is computed, nothing that is drawn.

The unit is the item: votes of several raters on one item are averaged first, because they are
correlated. The *main comparison* is the first two systems of the design, reference and candidate.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from statistics import fmean

import msgspec

from finetui.rating.blinding import BROKEN
from finetui.rating.guessing import Guessability
from finetui.rating.panel import (
    NOTHING,
    Agreement,
    Blinding,
    RaterRow,
    Repeats,
    SideBias,
    Third,
    agreement_of,
    blinding_of,
    catches_of,
    rater_row,
    repeats_of,
    side_bias,
    thirds,
)
from finetui.rating.ranking import Disconnected, Match, Ranking, rank
from finetui.rating.sequential import (
    Decision,
    StopRule,
    confidence_sequence,
    decide,
    finished,
    mean_sequence,
)
from finetui.rating.statistics import (
    Interval,
    bootstrap,
    bootstrap_two_way,
    holm,
    sign_test,
    wilson,
)
from finetui.rating.style import Style, StyledVote, adjust, features
from finetui.rating.verdict import Tally, Vote, item_table, tally_of

RATERS_RESAMPLED_FROM = 5
RESAMPLES = 4000
SIDE_RESAMPLES = 1000  # for what is looked at beside the endpoint
FEW_ITEMS = 20
UNINFORMATIVE = 1 / 3  # share of "both bad" from which a session says little
INCONSISTENT = 0.5
HURRIED = 0.6  # the last third's time an item over the first one's


class Design(msgspec.Struct, frozen=True, kw_only=True):
    """What was frozen at the sealing, and what the texts look like.

    ``systems``: the reference first. ``packets``: showings a rater; ``identical``: (item, system,
    system) with equal texts; ``raters_of``: who has an item in their packet. ``margin`` > 0 asks
    for non-inferiority, in win share. Raters below ``catch_needed`` (share of catches passed) are
    left out of the endpoint. ``flags`` mark items for a line of their own with them left out;
    ``interested`` raters, too.
    """

    session: str
    question: str
    endpoint: str
    created: str
    systems: tuple[str, ...]
    raters: tuple[str, ...]
    packets: dict[str, int]
    items: int
    shown: int
    identical: tuple[tuple[str, str, str], ...] = ()
    raters_of: dict[str, tuple[str, ...]] = {}
    alpha: float = 0.05
    margin: float = 0.0
    stop: StopRule = StopRule()
    catch_needed: float = 0.0
    interested: tuple[str, ...] = ()
    flags: dict[str, tuple[str, ...]] = {}
    texts: dict[str, dict[str, str]] = {}
    guessability: Guessability | None = None
    seed: int = 0


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """The unsealing: who, when (unix seconds), why; ``late`` answers after it; what is wrong with
    the files. ``own_account`` per rater: voted from another account than the seal's (None: nothing
    tells)."""

    by: str
    at: float
    reason: str
    late: int = 0
    looks: int = 0
    problems: tuple[str, ...] = ()
    own_account: dict[str, bool | None] = {}


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two systems; shares are of ``candidate``. ``p_holm`` is adjusted over all comparisons."""

    reference: str
    candidate: str
    rated: int
    identical: int
    tally: Tally
    items_won: int
    items_lost: int
    items_even: int
    share: float
    interval: Interval
    resampled: str
    resamples: int
    decisive_interval: Interval
    sign_p: float
    p_holm: float


class Test(msgspec.Struct, frozen=True, kw_only=True):
    """The registered test of the main comparison.

    ``p`` is NaN where the rule gives none; ``sequence`` is the interval that stays valid however
    often one looks, for e-processes.
    """

    name: str
    p: float
    significant: bool
    sentence: str
    sequence: Interval | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """The main comparison over some of the votes, or by another question."""

    name: str
    votes: int
    items: int
    share: float
    interval: Interval
    p: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The evaluation of one session. ``comparisons`` has every pair, the main one first."""

    session: str
    question: str
    endpoint: str
    systems: tuple[str, ...]
    alpha: float
    margin: float
    stop_rule: str
    created: str
    unsealed_by: str
    unsealed_at: float
    unsealed_reason: str
    looks: int
    items: int
    shown: int
    main: Comparison
    test: Test
    comparisons: list[Comparison]
    ranking: Ranking | None
    sensitivity: list[Line]
    criteria: list[Line]
    tags: dict[str, Tally]
    side_bias: SideBias
    repeats: Repeats
    raters: list[RaterRow]
    agreement: Agreement | None
    thirds: list[Third]
    blinding: Blinding | None
    guessability: Guessability | None
    style: Style | None
    post_unblind: int
    seed: int
    problems: list[str]
    notes: list[str]

    @property
    def pair(self) -> tuple[str, str]:
        """(reference, candidate) of the main comparison."""
        return self.main.reference, self.main.candidate

    @property
    def share(self) -> float:
        return self.main.share

    @property
    def share_interval(self) -> Interval:
        return self.main.interval

    @property
    def tally(self) -> Tally:
        return self.main.tally

    @property
    def sign_p(self) -> float:
        return self.main.sign_p

    @property
    def rated(self) -> int:
        return self.main.rated

    @property
    def verdict(self) -> str:
        """One sentence that claims no more than the registered test does."""
        if not self.main.rated:
            return "No item was rated before the unsealing: there is no result."
        return self.test.sentence


def analyse(votes: Sequence[Vote], design: Design, opening: Opening) -> Report:
    """The report over the votes before the unsealing.

    Repeats, catches and guesses tell about the raters only; practice counts for nothing.
    """
    everything = [vote for vote in votes if vote.rater in design.raters]
    failed = _failed(everything, design)
    items = [vote for vote in everything if vote.kind == "item" and vote.rater not in failed]
    comparisons = _comparisons(items, design)
    main = comparisons[0]
    pair = (main.reference, main.candidate)
    own = [vote for vote in items if vote.pair == frozenset(pair)]
    raters = [_rater(rater, everything, pair, design, opening, failed) for rater in design.raters]
    kept = [vote for vote in everything if vote.rater not in failed]
    found = Report(
        session=design.session,
        question=design.question,
        endpoint=design.endpoint,
        systems=design.systems,
        alpha=design.alpha,
        margin=design.margin,
        stop_rule=design.stop.sentence,
        created=design.created,
        unsealed_by=opening.by,
        unsealed_at=opening.at,
        unsealed_reason=opening.reason,
        looks=opening.looks,
        items=design.items,
        shown=design.shown,
        main=main,
        test=_test(main, own, design, failed),
        comparisons=comparisons,
        ranking=_ranking(items, design) if len(design.systems) > 2 else None,
        sensitivity=_sensitivity(everything, own, pair, design, failed),
        criteria=_criteria(own, pair, design),
        tags=_tags(own, main.candidate),
        side_bias=side_bias(own, main.candidate, design.seed),
        repeats=repeats_of(kept, main.candidate),
        raters=raters,
        agreement=agreement_of(own, main.candidate, design.seed),
        thirds=thirds(_of_pair(kept, pair), design.packets, main.candidate),
        blinding=blinding_of(everything, main.reference),
        guessability=design.guessability,
        style=_style(own, pair, design.texts),
        post_unblind=opening.late,
        seed=design.seed,
        problems=list(opening.problems),
        notes=[],
    )
    return msgspec.structs.replace(found, notes=_notes(found))


def _of_pair(votes: Sequence[Vote], pair: tuple[str, str]) -> list[Vote]:
    return [vote for vote in votes if vote.pair == frozenset(pair)]


def _failed(votes: Sequence[Vote], design: Design) -> frozenset[str]:
    """Raters who saw through fewer catches than the manifest asks for."""
    if not design.catch_needed:
        return frozenset()
    caught = {
        rater: catches_of([vote for vote in votes if vote.rater == rater])
        for rater in design.raters
    }
    return frozenset(
        rater for rater, own in caught.items() if own.shown and own.share < design.catch_needed
    )


def _comparisons(items: Sequence[Vote], design: Design) -> list[Comparison]:
    """Every pair of systems, the main one first; Holm's adjustment over all of them."""
    pairs = list(combinations(design.systems, 2))
    found = [
        compare(
            _of_pair(items, pair),
            pair,
            sum({a, b} == set(pair) for _, a, b in design.identical),
            design.seed,
            RESAMPLES if pair == pairs[0] else SIDE_RESAMPLES,
        )
        for pair in pairs
    ]
    adjusted = holm([one.sign_p for one in found])
    return [msgspec.structs.replace(one, p_holm=p) for one, p in zip(found, adjusted, strict=True)]


def compare(
    votes: Sequence[Vote],
    pair: tuple[str, str],
    identical: int = 0,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Share, interval and sign test of one pair over items; ``identical`` more items count as
    ties."""
    reference, candidate = pair
    table = item_table(votes, candidate)
    means = [fmean(scores.values()) for scores in table.values()]
    won, lost = sum(mean > 0.5 for mean in means), sum(mean < 0.5 for mean in means)
    scores = [*means, *[0.5] * identical]
    interval, resampled = _share_interval(table, scores, identical, seed, resamples)
    tally = tally_of(votes, candidate)
    p = sign_test(won, lost)
    return Comparison(
        reference=reference,
        candidate=candidate,
        rated=len(means),
        identical=identical,
        tally=tally,
        items_won=won,
        items_lost=lost,
        items_even=len(means) - won - lost,
        share=fmean(scores) if means else math.nan,
        interval=interval,
        resampled=resampled,
        resamples=resamples,
        decisive_interval=wilson(tally.wins, tally.decisive),
        sign_p=p,
        p_holm=p,
    )


def _share_interval(
    table: Mapping[str, Mapping[str, float]],
    scores: Sequence[float],
    identical: int,
    seed: int,
    resamples: int,
) -> tuple[Interval, str]:
    if not table:
        return NOTHING, "items"
    if len({rater for row in table.values() for rater in row}) >= RATERS_RESAMPLED_FROM:
        found = bootstrap_two_way(table, identical, resamples=resamples, seed=seed)
        return found, "items and raters"
    return bootstrap(scores, fmean, resamples=resamples, seed=seed), "items"


# -- the registered test --------------------------------------------------------------------------


def _test(main: Comparison, votes: Sequence[Vote], design: Design, failed: frozenset[str]) -> Test:
    if design.margin:
        return _non_inferiority(main, design.margin)
    if design.stop.kind == "fixed":
        significant = main.sign_p < design.alpha
        return Test(
            name="exact two-sided sign test on items",
            p=main.sign_p,
            significant=significant,
            sentence=_preference(
                main, main.items_won - main.items_lost, significant, f"p = {main.sign_p:.2g}"
            ),
        )
    raters_of = design.raters_of or _raters_of(votes)
    kept = {item: [r for r in raters if r not in failed] for item, raters in raters_of.items()}
    scores = finished(votes, kept, main.candidate)
    return _stopped(main, design.stop, decide(design.stop, scores), scores)


def _raters_of(votes: Sequence[Vote]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for vote in votes:
        found[vote.item] = (*found.get(vote.item, ()), vote.rater)
    return found


def _non_inferiority(main: Comparison, margin: float) -> Test:
    low = main.interval.low
    good = low > 0.5 - margin
    found = "is not worse" if good else "was not shown to be no worse"
    return Test(
        name="non-inferiority: lower end of the 95% interval above 1/2 less the margin",
        p=math.nan,
        significant=good,
        sentence=(
            f"{main.candidate} {found} than {main.reference} by the margin of {margin:.1%} "
            f"(win share at least {low:.1%})."
        ),
    )


def _stopped(main: Comparison, rule: StopRule, found: Decision, scores: Sequence[float]) -> Test:
    crossed = found.why == "boundary"
    if rule.kind == "looks":
        due = sum(n <= len(scores) for n in rule.looks)
        detail = f"O'Brien-Fleming boundary, {due} of {len(rule.looks)} looks due"
        sequence, p = None, math.nan
    else:
        detail, p = f"always-valid p = {found.p:.2g}", found.p
        used = scores[: rule.cap] if rule.cap else scores
        won, lost = sum(s > 0.5 for s in used), sum(s < 0.5 for s in used)
        sequence = (
            mean_sequence(used, rule.alpha)
            if rule.process == "betting"
            else confidence_sequence(won, lost, rule.prior, rule.alpha)
        )
    after = f" after {found.items} items" if crossed else ""
    # Who was ahead when it stopped, as the test counts: later votes may have turned.
    then = scores[: found.items]
    lead: float = sum((score > 0.5) - (score < 0.5) for score in then)
    if rule.kind == "e-process" and rule.process == "betting":
        lead = sum(score - 0.5 for score in then)
    return Test(
        name=rule.sentence,
        p=p,
        significant=crossed,
        sentence=_preference(main, lead, crossed, detail + after),
        sequence=sequence,
    )


def _preference(main: Comparison, lead: float, significant: bool, detail: str) -> str:
    """The verdict; ``lead`` is above zero when the candidate is ahead."""
    if not significant:
        return f"No preference shown between {main.candidate} and {main.reference} ({detail})."
    won, lost = main.candidate, main.reference
    if lead < 0:
        won, lost = lost, won
    return f"{won} was preferred to {lost} on more items than chance explains ({detail})."


# -- beside the endpoint --------------------------------------------------------------------------


def _line(
    name: str, votes: Sequence[Vote], pair: tuple[str, str], identical: int, seed: int
) -> Line:
    found = compare(votes, pair, identical, seed, SIDE_RESAMPLES)
    return Line(
        name=name,
        votes=len(votes),
        items=found.rated,
        share=found.share,
        interval=found.interval,
        p=found.sign_p,
    )


def _sensitivity(
    everything: Sequence[Vote],
    own: Sequence[Vote],
    pair: tuple[str, str],
    design: Design,
    failed: frozenset[str],
) -> list[Line]:
    """The same comparison with other choices of votes; only those that change anything."""
    flags = sorted({flag for marks in design.flags.values() for flag in marks})
    choices: list[tuple[str, Callable[[Vote], bool]]] = [
        ("decisive votes only", lambda vote: vote.decisive),
        ("sure votes only", lambda vote: vote.confidence == 3),
        ("unrecognised only", lambda vote: not vote.recognised),
        ("raters without interest", lambda vote: vote.rater not in design.interested),
    ]
    lines = []
    for name, keep in choices:
        some = [vote for vote in own if keep(vote)]
        if some and len(some) < len(own):
            # Identical items are ties: they belong to every line but the one without ties.
            ties = 0 if name == choices[0][0] else _identical(design, pair)
            lines.append(_line(name, some, pair, ties, design.seed))
    for flag in flags:
        some = [vote for vote in own if flag not in design.flags.get(vote.item, ())]
        if some and len(some) < len(own):
            name = f"items not marked {flag!r}"
            lines.append(_line(name, some, pair, _identical(design, pair), design.seed))
    if failed:
        every = [vote for vote in _of_pair(everything, pair) if vote.kind == "item"]
        name = "with raters who failed"
        lines.append(_line(name, every, pair, _identical(design, pair), design.seed))
    return lines


def _identical(design: Design, pair: tuple[str, str]) -> int:
    return sum({a, b} == set(pair) for _, a, b in design.identical)


def _criteria(own: Sequence[Vote], pair: tuple[str, str], design: Design) -> list[Line]:
    """The further questions, each as a comparison of its own."""
    names = dict.fromkeys(name for vote in own for name in vote.criteria)
    lines = []
    for name in names:
        answered = [
            msgspec.structs.replace(vote, choice=vote.criteria[name])
            for vote in own
            if name in vote.criteria
        ]
        lines.append(_line(name, answered, pair, _identical(design, pair), design.seed))
    return lines


def _tags(own: Sequence[Vote], candidate: str) -> dict[str, Tally]:
    counts = Counter(tag for vote in own for tag in vote.tags)
    return {
        tag: tally_of([vote for vote in own if tag in vote.tags], candidate)
        for tag, _ in counts.most_common()
    }


def _style(
    own: Sequence[Vote], pair: tuple[str, str], texts: Mapping[str, Mapping[str, str]]
) -> Style | None:
    """The style adjustment where the shown texts are at hand."""
    reference, candidate = pair
    looks = {
        item: (features(sides[candidate]), features(sides[reference]))
        for item in {vote.item for vote in own}
        if candidate in (sides := texts.get(item, {})) and reference in sides
    }
    votes = [
        StyledVote(vote.item, value, vote.left == candidate, *looks[vote.item])
        for vote in own
        if vote.item in looks and (value := vote.score(candidate)) is not None
    ]
    return adjust(votes) if votes else None


def _ranking(items: Sequence[Vote], design: Design) -> Ranking | None:
    """Davidson's model over all pairs; identical outputs are ties of every rater who would have
    seen them."""
    matches = [
        Match(vote.left, vote.right, value, vote.item)
        for vote in items
        if (value := vote.score(vote.left)) is not None
    ]
    if not matches:
        return None
    each = len(matches) / max(1, len({(vote.item, vote.pair) for vote in items}))
    matches += [Match(a, b, 0.5, item, each) for item, a, b in design.identical]
    try:
        return rank(matches)
    except (Disconnected, ArithmeticError):
        return None


def _rater(
    rater: str,
    everything: Sequence[Vote],
    pair: tuple[str, str],
    design: Design,
    opening: Opening,
    failed: frozenset[str],
) -> RaterRow:
    return rater_row(
        rater,
        everything,
        pair,
        packet=design.packets.get(rater, 0),
        own_account=opening.own_account.get(rater),
        interested=rater in design.interested,
        left_out=rater in failed,
        seed=design.seed,
    )


# -- what a reader must be told -------------------------------------------------------------------


def _notes(report: Report) -> list[str]:
    rules = (
        _missing, _few, _bad, _accounts, _catches, _repeats, _side, _tired, _blind, _looks,
        _guessable, _styled, _unranked,
    )  # fmt: skip
    return [note for rule in rules if (note := rule(report))]


def _missing(report: Report) -> str:
    own = report.main.rated
    if len(report.systems) == 2 and own < report.shown:
        return (
            f"{report.shown - own} of {report.shown} shown items have no answer; they are left out."
        )
    return ""


def _few(report: Report) -> str:
    if 0 < report.main.rated < FEW_ITEMS:
        return (
            f"Fewer than {FEW_ITEMS} rated items: the bootstrap interval is too narrow; trust the "
            "sign test."
        )
    return ""


def _bad(report: Report) -> str:
    tally = report.main.tally
    if tally.total and tally.ties_bad / tally.total > UNINFORMATIVE:
        return (
            f'{tally.ties_bad / tally.total:.0%} of answers are "both bad": the items say more '
            "about the prompts than about the systems."
        )
    return ""


def _accounts(report: Report) -> str:
    names = ", ".join(row.rater for row in report.raters if row.own_account is False)
    if not names:
        return ""
    return (
        f"Rated from the account that holds the seal ({names}): tamper-evident only, the blinding "
        "was not enforced."
    )


def _catches(report: Report) -> str:
    names = ", ".join(row.rater for row in report.raters if row.left_out)
    if not names:
        return ""
    return f"Left out of the endpoint for missing too many catch items, as registered: {names}."


def _repeats(report: Report) -> str:
    found = report.repeats
    if found.pairs >= 5 and found.same / found.pairs <= INCONSISTENT:
        return (
            f"Only {found.same} of {found.pairs} repeated items were answered alike: the raters do "
            "not agree with themselves."
        )
    return ""


def _side(report: Report) -> str:
    names = [row.rater for row in report.raters if row.side.p < 0.01]
    if report.side_bias.p < 0.01:
        found = report.side_bias
        return (
            f"One side was preferred ({found.left} of {found.decisive} decisive votes went left); "
            "sides are balanced, so this weakens the result without leaning it."
        )
    return f"One side was preferred by {', '.join(names)}." if names else ""


def _tired(report: Report) -> str:
    if len(report.thirds) < 2:
        return ""
    first, last = report.thirds[0], report.thirds[-1]
    quicker = last.median_s < HURRIED * first.median_s
    ties = last.tie_interval.low > first.tie_interval.high
    if quicker or ties:
        return (
            "The last third was answered faster or with more ties than the first "
            f"({first.median_s:.0f} s and {first.tie_rate:.0%} ties, then {last.median_s:.0f} s "
            f"and {last.tie_rate:.0%}): raters may have tired."
        )
    return ""


def _blind(report: Report) -> str:
    found = report.blinding
    if found is None:
        return (
            "Not asked in this session: which side the raters took for which system (Bang's index)."
        )
    if found.overall.index >= BROKEN:
        return (
            f"Raters could tell the systems apart (Bang's index {found.overall.index:.2f}): a "
            "preference may be one for a system they recognised."
        )
    return ""


def _looks(report: Report) -> str:
    if report.looks and report.stop_rule.startswith("fixed"):
        return (
            f"{report.looks} interim looks were taken although the rule is fixed: the p value does "
            "not account for them."
        )
    return ""


def _guessable(report: Report) -> str:
    found = report.guessability
    return found.sentence if found and found.level in ("some", "high") else ""


def _styled(report: Report) -> str:
    return report.style.warning if report.style else ""


def _unranked(report: Report) -> str:
    if report.ranking and report.ranking.smoothed:
        return (
            "Some systems never lost (or never won) against the rest: the ranking adds half a win "
            "each way to every pair, its intervals are rough."
        )
    if len(report.systems) > 2 and report.ranking is None:
        return "No ranking: the systems were not all compared with each other."
    return ""
