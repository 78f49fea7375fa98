"""One answer with its sides mapped back to systems: what every analysis is made from."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from statistics import fmean

import msgspec

from finetui.rating.votes import Choice

CATCH = "catch"
"""The "system" of the worse text of a catch item."""


class Vote(msgspec.Struct, frozen=True, kw_only=True):
    """One rater's last answer on one showing; ``left`` and ``right`` are systems.

    ``kind``: item, repeat (sides swapped), catch, practice or guess (which side is the tuned one?).
    ``seq`` is the place in the rater's order, ``at`` unix seconds, ``criteria`` the answers to the
    further questions.
    """

    rater: str
    item: str
    kind: str
    choice: Choice
    left: str
    right: str
    seq: int = 0
    at: float = 0.0
    active_ms: int = 0
    confidence: int = 0
    recognised: bool = False
    comment: str = ""
    tags: tuple[str, ...] = ()
    criteria: dict[str, Choice] = {}

    @property
    def decisive(self) -> bool:
        return self.choice in (Choice.LEFT, Choice.RIGHT)

    @property
    def winner(self) -> str:
        """The preferred system; empty for ties and "cannot judge"."""
        if self.choice is Choice.LEFT:
            return self.left
        return self.right if self.choice is Choice.RIGHT else ""

    @property
    def pair(self) -> frozenset[str]:
        return frozenset((self.left, self.right))

    def score(self, candidate: str) -> float | None:
        """1 if the candidate was preferred, 0 if the other, one half a tie, None cannot judge."""
        return score(self.choice, self.left == candidate)


def score(choice: Choice, candidate_left: bool) -> float | None:
    """1 candidate, 0 the other, one half a tie, None cannot judge."""
    if choice is Choice.SKIP:
        return None
    if choice in (Choice.BOTH_GOOD, Choice.BOTH_BAD):
        return 0.5
    return float((choice is Choice.LEFT) == candidate_left)


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
    def ties(self) -> int:
        return self.ties_good + self.ties_bad

    @property
    def total(self) -> int:
        return self.decisive + self.ties + self.skips


def tally_of(votes: Iterable[Vote], candidate: str) -> Tally:
    """Count the answers."""
    votes = list(votes)
    kinds = Counter(vote.choice for vote in votes)
    wins = sum(vote.winner == candidate for vote in votes)
    return Tally(
        wins=wins,
        losses=kinds[Choice.LEFT] + kinds[Choice.RIGHT] - wins,
        ties_good=kinds[Choice.BOTH_GOOD],
        ties_bad=kinds[Choice.BOTH_BAD],
        skips=kinds[Choice.SKIP],
    )


def item_table(votes: Iterable[Vote], candidate: str) -> dict[str, dict[str, float]]:
    """item -> rater -> score, without "cannot judge"."""
    table: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for vote in votes:
        if (value := vote.score(candidate)) is not None:
            table[vote.item][vote.rater] = value
    return dict(table)


def mean_share(votes: Iterable[Vote], candidate: str) -> float:
    """The candidate's share over votes; NaN without a verdict."""
    scores = [s for vote in votes if (s := vote.score(candidate)) is not None]
    return fmean(scores) if scores else float("nan")
