"""Votes and map to one report: everything that is computed, nothing that is drawn.

The unit is the item: votes of several raters on one item are averaged first, because they are
correlated.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median

import msgspec

from finetui.rating.audit import AuditEntry
from finetui.rating.sealing import Placement
from finetui.rating.session import Session
from finetui.rating.statistics import (
    Interval,
    bootstrap,
    bootstrap_two_way,
    gwet_ac1,
    krippendorff_alpha,
    position_effect,
    raw_agreement,
    sign_test,
    wilson,
)
from finetui.rating.votes import Choice, Event, fold, read_events

RATERS_RESAMPLED_FROM = 5
RESAMPLES = 4000


class Vote(msgspec.Struct, frozen=True):
    """One answer with its sides mapped back.

    ``score``: 1 candidate, 0 reference, one half a tie, None cannot judge.
    """

    rater: str
    item: str
    kind: str
    choice: Choice
    candidate_left: bool
    score: float | None
    active_ms: int
    confidence: int
    recognised: bool
    comment: str

    @property
    def decisive(self) -> bool:
        return self.choice in (Choice.LEFT, Choice.RIGHT)


class Tally(msgspec.Struct, frozen=True):
    """Answers by kind, from the candidate's view."""

    wins: int = 0
    losses: int = 0
    ties_good: int = 0
    ties_bad: int = 0
    skips: int = 0

    @property
    def decisive(self) -> int:
        return self.wins + self.losses

    @property
    def total(self) -> int:
        return self.decisive + self.ties_good + self.ties_bad + self.skips


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

    Same system (or tie) both times; same *side* both times is a position habit.
    """

    pairs: int = 0
    same: int = 0
    same_side: int = 0


class RaterRow(msgspec.Struct, frozen=True):
    """One rater's part. ``median_s`` is active seconds an item.

    ``own_account`` None when nothing tells.
    """

    rater: str
    packet: int
    tally: Tally
    share: float
    left: int
    repeats: Repeats
    recognised: int
    median_s: float
    own_account: bool | None


class Agreement(msgspec.Struct, frozen=True):
    """Between raters, on items that two or more judged.

    Nominal: four answers; ordinal: reference, tie, candidate.
    """

    items: int
    alpha_nominal: float
    alpha_ordinal: float
    ac1: float
    same: int
    pairs: int
    same_decisive: int
    pairs_decisive: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The evaluation of one session; shares are of the candidate (``systems[1]``)."""

    session: str
    question: str
    endpoint: str
    systems: tuple[str, str]
    alpha: float
    created: str
    unsealed_by: str
    unsealed_at: float
    unsealed_reason: str
    items: int
    shown: int
    identical: int
    rated: int
    tally: Tally
    items_won: int
    items_lost: int
    items_even: int
    share: float
    share_interval: Interval
    resampled: str
    resamples: int
    seed: int
    decisive_interval: Interval
    sign_p: float
    side_bias: SideBias
    repeats: Repeats
    raters: list[RaterRow]
    agreement: Agreement | None
    post_unblind: int
    problems: list[str]
    notes: list[str]

    @property
    def verdict(self) -> str:
        """One sentence that claims no more than the test does."""
        if not self.rated:
            return "No item was rated before the unsealing: there is no result."
        reference, candidate = self.systems
        if self.sign_p >= self.alpha:
            return (
                f"No preference shown between {candidate} and {reference} (p = {self.sign_p:.3g})."
            )
        ahead = self.items_won > self.items_lost
        won, lost = (candidate, reference) if ahead else (reference, candidate)
        found = f"(p = {self.sign_p:.2g})"
        return f"{won} was preferred to {lost} on more items than chance explains {found}."


def collect_votes(
    session: Session, placements: Mapping[str, Placement], candidate: str, opened: AuditEntry
) -> list[Vote]:
    """Every rater's last answers as they lay on disk at the unsealing."""
    votes = []
    for rater in session.raters:
        for pid, judged in fold(read_events(session, rater, opened.heads)).items():
            place = placements.get(pid)
            if place is None or place.rater != rater:
                continue
            if judged.choice is None or judged.event is None:
                continue
            candidate_left = place.left == candidate
            votes.append(
                Vote(
                    rater=rater,
                    item=place.item,
                    kind=place.kind,
                    choice=judged.choice,
                    candidate_left=candidate_left,
                    score=_score(judged.choice, candidate_left),
                    active_ms=judged.event.active_ms,
                    confidence=judged.confidence,
                    recognised=judged.recognised,
                    comment=judged.comment,
                )
            )
    return votes


def _score(choice: Choice, candidate_left: bool) -> float | None:
    if choice is Choice.SKIP:
        return None
    if choice in (Choice.BOTH_GOOD, Choice.BOTH_BAD):
        return 0.5
    return float((choice is Choice.LEFT) == candidate_left)


def analyse(
    session: Session,
    systems: tuple[str, str],
    placements: Mapping[str, Placement],
    identical: Sequence[str],
    opened: AuditEntry,
    problems: Sequence[str],
) -> Report:
    """The report over the votes before the unsealing; repeats count for consistency only."""
    everything = collect_votes(session, placements, systems[1], opened)
    votes = [vote for vote in everything if vote.kind == "item"]
    table = item_table(votes)
    means = {item: fmean(scores.values()) for item, scores in table.items()}
    won = sum(mean > 0.5 for mean in means.values())
    lost = sum(mean < 0.5 for mean in means.values())
    tally = tally_of(votes)
    seed = int(session.manifest_hash[:8], 16)
    scores = [*means.values(), *[0.5] * len(identical)]
    share_interval, resampled = _share_interval(table, scores, len(identical), seed)
    packets = Counter(place.rater for place in placements.values())
    raters = [_rater_row(session, r, packets[r], everything) for r in session.raters]
    manifest = session.manifest
    return Report(
        session=session.name,
        question=session.question,
        endpoint=manifest.endpoint,
        systems=systems,
        alpha=manifest.alpha,
        created=manifest.created,
        unsealed_by=opened.who,
        unsealed_at=opened.time,
        unsealed_reason=opened.reason,
        items=manifest.items,
        shown=manifest.shown,
        identical=len(identical),
        rated=len(means),
        tally=tally,
        items_won=won,
        items_lost=lost,
        items_even=len(means) - won - lost,
        share=fmean(scores) if means else math.nan,
        share_interval=share_interval,
        resampled=resampled,
        resamples=RESAMPLES,
        seed=seed,
        decisive_interval=wilson(tally.wins, tally.decisive),
        sign_p=sign_test(won, lost),
        side_bias=side_bias(votes, seed),
        repeats=repeats_of(everything),
        raters=raters,
        agreement=_agreement(votes),
        post_unblind=_late_events(session, opened),
        problems=[*problems, *_strangers(session)],
        notes=_notes(manifest.shown, len(means), raters),
    )


def item_table(votes: Iterable[Vote]) -> dict[str, dict[str, float]]:
    """item -> rater -> score, without "cannot judge"."""
    table: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for vote in votes:
        if vote.score is not None:
            table[vote.item][vote.rater] = vote.score
    return dict(table)


def tally_of(votes: Iterable[Vote]) -> Tally:
    """Count the answers."""
    votes = list(votes)
    kinds = Counter(vote.choice for vote in votes)
    wins = sum(vote.score == 1 for vote in votes)
    return Tally(
        wins=wins,
        losses=kinds[Choice.LEFT] + kinds[Choice.RIGHT] - wins,
        ties_good=kinds[Choice.BOTH_GOOD],
        ties_bad=kinds[Choice.BOTH_BAD],
        skips=kinds[Choice.SKIP],
    )


def side_bias(votes: Sequence[Vote], seed: int = 0) -> SideBias:
    """Share of the left side among decisive votes, and the side's log odds with a bootstrap
    interval over items."""
    decisive = [vote for vote in votes if vote.decisive]
    left = sum(vote.choice is Choice.LEFT for vote in decisive)
    by_item: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for vote in decisive:
        cell = (0 if vote.candidate_left else 2) + (0 if vote.score else 1)
        by_item[vote.item][cell] += 1
    cells = list(by_item.values())
    return SideBias(
        left=left,
        decisive=len(decisive),
        interval=wilson(left, len(decisive)),
        p=sign_test(left, len(decisive) - left),
        gamma=_gamma(cells) if cells else math.nan,
        gamma_interval=bootstrap(cells, _gamma, resamples=RESAMPLES, seed=seed)
        if cells
        else Interval(math.nan, math.nan),
    )


def _gamma(cells: Sequence[Sequence[int]]) -> float:
    return position_effect(*(sum(column) for column in zip(*cells, strict=True))).gamma


def repeats_of(votes: Iterable[Vote]) -> Repeats:
    """Compare each repeat with the first showing of the same item to the same rater."""
    pairs: defaultdict[tuple[str, str], dict[str, Vote]] = defaultdict(dict)
    for vote in votes:
        if vote.score is not None:
            pairs[vote.rater, vote.item][vote.kind] = vote
    both = [(p["item"], p["repeat"]) for p in pairs.values() if "item" in p and "repeat" in p]
    return Repeats(
        pairs=len(both),
        same=sum(first.score == again.score for first, again in both),
        same_side=sum(first.decisive and first.choice == again.choice for first, again in both),
    )


def _share_interval(
    table: Mapping[str, Mapping[str, float]], scores: Sequence[float], identical: int, seed: int
) -> tuple[Interval, str]:
    if not table:
        return Interval(math.nan, math.nan), "items"
    if len({rater for row in table.values() for rater in row}) >= RATERS_RESAMPLED_FROM:
        found = bootstrap_two_way(table, identical, resamples=RESAMPLES, seed=seed)
        return found, "items and raters"
    return bootstrap(scores, fmean, resamples=RESAMPLES, seed=seed), "items"


def _rater_row(session: Session, rater: str, packet: int, everything: Sequence[Vote]) -> RaterRow:
    own = [vote for vote in everything if vote.rater == rater]
    votes = [vote for vote in own if vote.kind == "item"]
    scores = [vote.score for vote in votes if vote.score is not None]
    times = [vote.active_ms / 1000 for vote in own if vote.active_ms]
    return RaterRow(
        rater=rater,
        packet=packet,
        tally=tally_of(votes),
        share=fmean(scores) if scores else math.nan,
        left=sum(vote.choice is Choice.LEFT for vote in votes),
        repeats=repeats_of(own),
        recognised=sum(vote.recognised for vote in own),
        median_s=median(times) if times else math.nan,
        own_account=_own_account(session, read_events(session, rater)),
    )


def _own_account(session: Session, events: Iterable[Event]) -> bool | None:
    """Whether the votes came from another account than the one that holds the seal."""
    accounts = {event.uid for event in events if event.ev == "open"}
    return session.sealed.stat().st_uid not in accounts if accounts else None


def _agreement(votes: Sequence[Vote]) -> Agreement | None:
    table: defaultdict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        if vote.score is not None:
            table[vote.item].append(vote)
    units = [found for found in table.values() if len(found) > 1]
    if not units:
        return None
    every = list(table.values())
    ordinal = [[vote.score for vote in unit] for unit in units]
    decided = [[vote.score if vote.decisive else None for vote in unit] for unit in units]
    same, pairs = raw_agreement(ordinal)
    same_decisive, pairs_decisive = raw_agreement(decided)
    return Agreement(
        items=len(units),
        alpha_nominal=krippendorff_alpha([[_answer(vote) for vote in unit] for unit in units]),
        alpha_ordinal=krippendorff_alpha(ordinal, "ordinal"),
        ac1=gwet_ac1([[_answer(vote) for vote in unit] for unit in every], categories=4).value,
        same=same,
        pairs=pairs,
        same_decisive=same_decisive,
        pairs_decisive=pairs_decisive,
    )


def _answer(vote: Vote) -> float:
    """One number for each of the four answers: reference, candidate, both good, both bad."""
    ties = {Choice.BOTH_GOOD: 2.0, Choice.BOTH_BAD: 3.0}
    return ties.get(vote.choice, 1.0 if vote.score else 0.0)


def _late_events(session: Session, opened: AuditEntry) -> int:
    """Answers given, changed or undone after the unsealing."""
    changing = ("vote", "amend", "undo")
    count = 0
    for rater in session.raters:
        for sign, until in ((1, None), (-1, opened.heads)):
            count += sign * sum(e.ev in changing for e in read_events(session, rater, until))
    return count


def _strangers(session: Session) -> list[str]:
    folders = sorted(path.name for path in session.ratings.iterdir() if path.is_dir())
    return [
        f"ratings/{name}: votes of nobody named in the manifest, not counted"
        for name in folders
        if name not in session.raters
    ]


def _notes(shown: int, rated: int, raters: Sequence[RaterRow]) -> list[str]:
    notes = []
    if rated < shown:
        notes.append(f"{shown - rated} of {shown} shown items have no answer; they are left out.")
    if 0 < rated < 20:
        notes.append(
            "Fewer than 20 rated items: the bootstrap interval is too narrow; trust the sign test."
        )
    if any(row.own_account is False for row in raters):
        names = ", ".join(row.rater for row in raters if row.own_account is False)
        notes.append(
            f"Rated from the account that holds the seal ({names}): tamper-evident only, "
            "the blinding was not enforced."
        )
    notes.append(
        "Not asked in this session: which side the raters took for which system (Bang's index)."
    )
    return notes
