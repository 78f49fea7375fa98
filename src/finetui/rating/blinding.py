"""Did the blind hold? Indices over the guesses "which one is the tuned one?"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import msgspec

from finetui.rating.statistics import Interval

BROKEN = 0.2  # Bang's index from which a blind is usually called in doubt (Bang 2004)


class Bang(msgspec.Struct, frozen=True):
    """Bang's blinding index of one arm or rater: (correct - incorrect)/all guesses.

    0 is guessing, 1 everything known, -1 everything the wrong way round. "Don't know" counts below
    the line. NaN without guesses.
    """

    correct: int
    incorrect: int
    unsure: int

    @property
    def guesses(self) -> int:
        return self.correct + self.incorrect + self.unsure

    @property
    def index(self) -> float:
        return (self.correct - self.incorrect) / self.guesses if self.guesses else math.nan

    @property
    def error(self) -> float:
        """Standard error, multinomial (Bang, Ni and Davis 2004)."""
        if not self.guesses:
            return math.nan
        c, i = self.correct / self.guesses, self.incorrect / self.guesses
        return math.sqrt((c * (1 - c) + i * (1 - i) + 2 * c * i) / self.guesses)

    def interval(self, confidence: float = 0.95) -> Interval:
        """Normal interval of the index, cut at -1 and 1."""
        half = NormalDist().inv_cdf(0.5 + confidence / 2) * self.error
        return Interval(max(-1.0, self.index - half), min(1.0, self.index + half))

    def plus(self, other: Bang) -> Bang:
        """Both together."""
        return Bang(
            self.correct + other.correct,
            self.incorrect + other.incorrect,
            self.unsure + other.unsure,
        )


def james_index(arms: Sequence[Bang]) -> float:
    """James' blinding index of two arms: 0 everybody knows, 1/2 guessing, 1 everybody unsure.

    Correct guesses weigh 0, wrong ones 1/2, "don't know" 1 (James 1996). NaN without guesses.
    """
    one, two = arms
    total = one.guesses + two.guesses
    if not total:
        return math.nan
    unsure = (one.unsure + two.unsure) / total
    told = total - one.unsure - two.unsure
    if not told:
        return 1.0
    said_one, said_two = one.correct + two.incorrect, two.correct + one.incorrect
    are_one, are_two = one.correct + one.incorrect, two.correct + two.incorrect
    observed = (one.incorrect + two.incorrect) / told
    expected = (said_one * are_two + said_two * are_one) / told**2
    beyond = (observed - expected) / expected if expected else 0.0
    return (1 + unsure + (1 - unsure) * beyond) / 2
