"""Preference pairs of a whole set: one side always longer, one prompt judged both ways."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from finetui.data.keys import answer_text, normal_hash, prompt_text
from finetui.data.records import Shape
from finetui.data.whole.facts import Facts, write
from finetui.data.whole.model import WholeHit, WholeSet
from finetui.data.whole.profile import Pairs, Profile, profile_of

NOTABLE = 0.5
"""Cohen's d from which a difference counts as medium (Cohen 1988, p. 25)."""

_FEWEST = 50
_Z = 1.96


@dataclass(frozen=True)
class LengthBias:
    """How chosen and rejected differ in length: Cohen's d of characters with a 95 % interval
    (positive: chosen are longer), and the share of pairs in which the chosen one is longer."""

    effect: float
    low: float
    high: float
    longer: float

    @property
    def notable(self) -> bool:
        """At least a medium effect, and surely not none."""
        return abs(self.effect) >= NOTABLE and self.low * self.high > 0


def length_bias(chosen: NDArray[np.int32], rejected: NDArray[np.int32]) -> LengthBias:
    """Cohen's d of two lengths a pair, pooled over both sides; its standard error is that of two
    groups (Hedges and Olkin 1985), which is careful for pairs."""
    a, b = chosen.astype(np.float64), rejected.astype(np.float64)
    count = len(a)
    pooled = sqrt((float(a.var(ddof=1)) + float(b.var(ddof=1))) / 2) if count > 1 else 0.0
    difference = float(a.mean() - b.mean()) if count else 0.0
    effect = difference / pooled if pooled else 0.0
    error = sqrt(2 / count + effect * effect / (4 * count)) if count else 0.0
    longer = float((a > b).mean()) if count else 0.0
    return LengthBias(effect, effect - _Z * error, effect + _Z * error, longer)


def bias(whole: WholeSet) -> Iterator[WholeHit]:
    """One side longer than the other by a medium effect or more, told of the file."""
    profile = profile_of(whole)
    if profile.pairs is None or len(profile) < _FEWEST:
        return
    found = length_bias(profile.pairs.chosen_chars, profile.pairs.rejected_chars)
    if found.notable:
        word = "longer" if found.effect > 0 else "shorter"
        share = found.longer if found.effect > 0 else 1 - found.longer
        yield WholeHit(
            len(whole.sources) - 1,
            0,
            f"of the whole file: chosen answers are {word} in {share:.0%} of the pairs "
            f"(Cohen's d {found.effect:+.2f})",
        )
    write(whole, "length-bias", _facts(profile.pairs, found))


def _facts(pairs: Pairs, found: LengthBias) -> Facts:
    rows = [
        ["chosen, middle length", f"{np.median(pairs.chosen_chars):,.0f} characters"],
        ["rejected, middle length", f"{np.median(pairs.rejected_chars):,.0f} characters"],
        ["chosen is longer", f"{found.longer:.0%} of the pairs"],
        ["Cohen's d", f"{found.effect:+.2f} ({found.low:+.2f} to {found.high:+.2f})"],
        ["different prompts", f"{len(np.unique(pairs.prompt)):,} of {len(pairs.prompt):,}"],
    ]
    return Facts("Preference pairs", ("of the pairs", "is"), rows)


def flipped(whole: WholeSet) -> Iterator[WholeHit]:
    """Pairs, or judged answers, that say the opposite of an earlier row."""
    for source in range(len(whole.sources)):
        if whole.shapes[source] is Shape.PREFERENCE:
            yield from _flipped_pairs(whole, source, profile_of(whole, source))
        elif whole.shapes[source] is Shape.UNPAIRED_PREFERENCE:
            yield from _flipped_verdicts(whole, source)


def _flipped_pairs(whole: WholeSet, source: int, profile: Profile) -> Iterator[WholeHit]:
    pairs = profile.pairs
    if pairs is None:
        return
    first: dict[tuple[int, int, int], int] = {}
    keys = zip(pairs.prompt.tolist(), pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True)
    for place, (prompt, chosen, rejected) in enumerate(keys):
        if chosen == rejected:
            continue
        opposite = first.get((prompt, rejected, chosen))
        if opposite is not None:
            line = whole.sources[source].line_words(opposite)
            text = f"{line} prefers the other one of the same two answers to this prompt"
            yield WholeHit(source, int(profile.rows[place]), text)
        first.setdefault((prompt, chosen, rejected), int(profile.rows[place]))


def _flipped_verdicts(whole: WholeSet, source: int) -> Iterator[WholeHit]:
    first: dict[int, tuple[int, bool]] = {}
    for row, record in whole.records(source):
        if record.label is None:
            continue
        key = normal_hash(f"{prompt_text(record)}\x1e{answer_text(record)}")
        before, verdict = first.setdefault(key, (row, record.label))
        if verdict is not record.label:
            line = whole.sources[source].line_words(before)
            text = f"{line} judges the same answer to the same prompt the other way"
            yield WholeHit(source, row, text)
