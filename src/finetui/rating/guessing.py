"""Could a rater tell which system wrote an answer, from its looks alone?

Before the sealing: a logistic model on countable properties guesses, for pairs that it has not
seen, which of two answers is the candidate's. Its hit rate bounds how well blinding can hold.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from finetui.rating.logistic import NoFit, estimate
from finetui.rating.statistics import Interval, wilson
from finetui.rating.style import features, first_word, relative

FOLDS = 50  # up to here one item is left out at a time
FIRST_WORDS = 6
RIDGE = 1.0
SOME, HIGH = 0.65, 0.8
FEWEST = 10  # pairs; with fewer nothing can be learnt


class Cue(msgspec.Struct, frozen=True):
    """How well one property alone tells the systems apart; ``auc`` 1/2 is not at all.

    Above one half the candidate has more of it.
    """

    name: str
    auc: float


class Guessability(msgspec.Struct, frozen=True):
    """The audit of one pair of systems.

    ``auc``: area under the curve of left-out guesses; ``hits``: the share of pairs guessed right,
    ``interval`` its Wilson interval. ``giveaways``: items guessed right, surest first.
    """

    systems: tuple[str, str]
    items: int
    auc: float
    hits: float
    interval: Interval
    cues: list[Cue]
    giveaways: list[str]

    @property
    def level(self) -> str:
        """ "low", "some" or "high"; "unknown" with too few pairs."""
        if math.isnan(self.auc):
            return "unknown"
        return "high" if self.auc >= HIGH else "some" if self.auc >= SOME else "low"

    @property
    def sentence(self) -> str:
        """The finding for the person who prepares the session. It names no system."""
        if self.level == "unknown":
            return f"Too few pairs ({self.items}) to see whether style gives the systems away."
        found = f"Style alone tells the two systems apart with AUC {self.auc:.2f}"
        found += f" ({self.hits:.0%} of pairs guessed right)"
        strongest = ", ".join(cue.name for cue in self.cues[:3])
        if self.level == "low":
            return f"{found}: hardly better than a coin."
        if self.level == "some":
            return f"{found}, mostly by {strongest}. Raters may come to recognise one."
        return (
            f"{found}, mostly by {strongest}. Raters will learn to recognise it: the blind will "
            "not hold for long, whatever is sealed."
        )


def audit(texts: Mapping[str, Mapping[str, str]], systems: tuple[str, str]) -> Guessability:
    """Guess the candidate (``systems[1]``) of every pair from the others.

    ``texts`` is item -> system -> shown text; items without both texts or with equal texts are
    passed over. Leave-one-out up to FOLDS pairs, FOLDS folds beyond.
    """
    items, rows, names = _differences(texts, systems)
    if len(items) < FEWEST or not names:
        nothing = Interval(0.0, 1.0)
        return Guessability(systems, len(items), math.nan, math.nan, nothing, [], [])
    scores = _left_out_scores(rows)
    hits = sum((s > 0) + (s == 0) / 2 for s in scores)
    surest = sorted((-s, item) for s, item in zip(scores, items, strict=True) if s > 0)
    cues = [Cue(name, _mirrored_auc([row[k] for row in rows])) for k, name in enumerate(names)]
    return Guessability(
        systems=systems,
        items=len(items),
        auc=_mirrored_auc(scores),
        hits=hits / len(items),
        interval=wilson(math.floor(hits), len(items)),
        cues=sorted(cues, key=lambda cue: -abs(cue.auc - 0.5)),
        giveaways=[item for _, item in surest],
    )


def _differences(
    texts: Mapping[str, Mapping[str, str]], systems: tuple[str, str]
) -> tuple[list[str], list[list[float]], list[str]]:
    """(items, one standardised row of candidate less reference each, names of the columns)."""
    reference, candidate = systems
    pairs = {
        item: (sides[candidate], sides[reference])
        for item, sides in texts.items()
        if candidate in sides and reference in sides and sides[candidate] != sides[reference]
    }
    openings = Counter(first_word(text) for pair in pairs.values() for text in pair)
    common = [word for word, n in openings.most_common(FIRST_WORDS) if word and n > 1]
    table = [_row(*pair, common) for pair in pairs.values()]
    names = sorted(table[0]) if table else []
    # The scale does not depend on which text is whose: a mirrored pair has the same one.
    scale = {name: math.sqrt(sum(row[name] ** 2 for row in table) / len(table)) for name in names}
    names = [name for name in names if scale[name] > 0]
    return list(pairs), [[row[name] / scale[name] for name in names] for row in table], names


def _row(candidate: str, reference: str, openings: Sequence[str]) -> dict[str, float]:
    ours, theirs = features(candidate), features(reference)
    row = {name: relative(ours[name], theirs[name]) for name in ours}
    for word in openings:
        row[f"first word {word!r}"] = float(first_word(candidate) == word) - (
            first_word(reference) == word
        )
    return row


def _left_out_scores(rows: Sequence[Sequence[float]]) -> list[float]:
    """How much each pair looks the right way round to a model of the other pairs.

    Pairs have no order of their own, so the model has no intercept and every outcome is 1: a
    mirrored pair would add the same terms.
    """
    folds = min(len(rows), FOLDS)
    ridge = [RIDGE] * len(rows[0])
    whole, _, _ = estimate(rows, [1.0] * len(rows), ridge)
    scores = [0.0] * len(rows)
    for fold in range(folds):
        kept = [row for n, row in enumerate(rows) if n % folds != fold]
        try:
            found, _, _ = estimate(kept, [1.0] * len(kept), ridge, start=whole)
        except NoFit:
            continue
        for n in range(fold, len(rows), folds):
            scores[n] = sum(b * x for b, x in zip(found, rows[n], strict=True))
    return scores


def _mirrored_auc(scores: Sequence[float]) -> float:
    """P(s + s' > 0) over pairs of scores: the area under the curve of the scores against their
    mirror images."""
    ordered = sorted(scores)
    total = 0.0
    for score in ordered:
        below, upto = bisect_left(ordered, -score), bisect_right(ordered, -score)
        total += len(ordered) - upto + (upto - below) / 2
    return total / len(ordered) ** 2
