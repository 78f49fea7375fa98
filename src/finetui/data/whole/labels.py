"""Labels that look wrong: values the prompt does not hold, and confident learning.

Values that are copied from their prompts (product names, places) are simply looked for there. For
other labels a naive Bayes model of the prompts' words gives each row a probability of each label,
never having seen that row; a label is doubted where another one is held with confidence (Northcutt
et al., "Confident Learning", JAIR 2021) and most of the rows most like it have that other one too.
A model that does not understand the labels (under 80 % right) accuses nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetui.data.records import Shape
from finetui.data.whole.facts import Facts, write
from finetui.data.whole.model import WholeHit, WholeSet
from finetui.data.whole.profile import Column, Profile, label_columns, profile_of
from finetui.data.whole.said import said
from finetui.data.whole.words import Words, once_a_text, take, words_of

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]

SAMPLE = 100_000
"""Rows that labels are judged on; of a longer file as many are drawn."""

_HELD_SHARE = 0.97  # values found in their prompts before the others are doubted
_FEWEST = 100
_FEWEST_A_CLASS = 10
_MOST_CLASSES = 100
_TEXT = 4_000  # characters of a prompt that are read
_FOLDS = 5
_SMOOTHING = 0.1
_BITS = 16
_UNDERSTOOD = 0.8  # share of labels that the model finds by itself
_TRIAL = 5_000
_PROMISING = 0.6  # the same share in a trial on some rows of a long file
_MARGIN = 0.7  # by how much the other label must be likelier
_SHARPNESS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05)
_NEIGHBOURS = 15
_KIN, _STRANGERS = 0.4, 0.3  # shares of the neighbours' votes: the other label's, the given one's
_COMMON_WORD = 0.2  # a word in more texts than this says nothing of neighbourhood
_MOST_DOUBTS = 5_000


def find(whole: WholeSet) -> Iterator[WholeHit]:
    """Doubted labels of every file, and the figures of the one that is trained on."""
    for source in range(len(whole.sources)):
        profile = profile_of(whole, source)
        if len(profile) < _FEWEST or profile.shape is Shape.UNPAIRED_PREFERENCE:
            continue  # whether an answer is good is not to be read off its prompt
        columns = [column for column in label_columns(profile) if not _copied(column)]
        if columns:
            yield from _doubted(whole, source, profile, columns)


def not_held(whole: WholeSet) -> Iterator[WholeHit]:
    """Values missing from their prompts, in fields whose values nearly always stand there."""
    for source in range(len(whole.sources)):
        yield from _not_held(profile_of(whole, source), source)


# ---------------------------------------------------------------- copied values


def _copied(column: Column) -> bool:
    """Values that nearly always stand in their prompts."""
    asked = int((column.held >= 0).sum())
    found = int((column.held == 1).sum())
    return asked >= _FEWEST and found >= _HELD_SHARE * asked


def _not_held(profile: Profile, source: int) -> Iterator[WholeHit]:
    for column in profile.columns:
        if not _copied(column):
            continue
        asked = int((column.held >= 0).sum())
        share = 100 * int((column.held == 1).sum()) / asked
        for number in np.flatnonzero(column.held == 0):
            code = column.codes[number]
            value = f" ({column.values[code]})" if column.values and code >= 0 else ""
            yield WholeHit(
                source,
                int(profile.rows[number]),
                f"the prompt does not hold the value of {column}{value}; "
                f"{share:.0f} % of the prompts do",
            )


# ---------------------------------------------------------------- confident learning


@dataclass(frozen=True)
class Doubts:
    """Rows (places in the given arrays) whose label is doubted, the surest first; ``likelier`` is
    the label each should have. ``understood`` is the share of labels that the model finds."""

    rows: Numbers
    likelier: Numbers
    understood: float


def doubted_labels(words: Words, labels: Numbers, classes: int, seed: int = 0) -> Doubts:
    """Confident learning over texts (their words) and labels 0 ... ``classes`` - 1."""
    words = once_a_text(words)
    odds = log_odds(words, labels, classes, seed)
    likely = _sharpened(odds, labels)
    own = likely[np.arange(len(labels)), labels]
    understood = float((likely.argmax(axis=1) == labels).mean())
    if understood < _UNDERSTOOD:
        none = np.zeros(0, np.int64)
        return Doubts(none, none, understood)
    other, confident = _confident(likely, labels)
    margin = likely[np.arange(len(labels)), other] - own
    doubted = np.flatnonzero(confident & (other != labels) & (margin > _MARGIN))
    doubted = doubted[np.argsort(-margin[doubted], kind="stable")][:_MOST_DOUBTS]
    kept = _confirmed(words, labels, classes, doubted, other[doubted])
    return Doubts(doubted[kept], other[doubted][kept], understood)


def log_odds(words: Words, labels: Numbers, classes: int, seed: int = 0) -> Floats:
    """Log odds of each label for each text, up to a constant a text, by five naive Bayes models
    that each have not seen a fifth of the texts."""
    buckets = words.buckets(_BITS).astype(np.int64)
    text = words.text_of()
    size = 1 << _BITS
    fold = np.random.default_rng(seed).permutation(len(labels)) % _FOLDS
    cells = _counts(labels[text] * size + buckets, classes, size)
    vocabulary = int((cells.sum(axis=0) > 0).sum())
    odds = np.zeros((len(labels), classes))
    for number in range(_FOLDS):
        rows = np.flatnonzero(fold == number)
        part = take(words, rows)
        places = part.buckets(_BITS).astype(np.int64)
        seen = cells - _counts(labels[rows][part.text_of()] * size + places, classes, size)
        prior = np.bincount(labels[fold != number], minlength=classes)
        likely = np.log(seen + _SMOOTHING)
        likely -= np.log(seen.sum(axis=1, keepdims=True) + _SMOOTHING * vocabulary)
        for label in range(classes):
            odds[rows, label] = _sums(likely[label][places], part.starts)
        odds[rows] += np.log((prior + 1) / (prior.sum() + classes))
    return odds


def _counts(cells: Numbers, classes: int, size: int) -> Floats:
    return np.bincount(cells, minlength=classes * size).reshape(classes, size).astype(np.float64)


def _sums(values: Floats, starts: Numbers) -> Floats:
    """The sum of each stretch of ``values``; 0 for an empty one."""
    running = np.concatenate(([0.0], np.cumsum(values)))
    sums: Floats = running[starts[1:]] - running[starts[:-1]]
    return sums


def _sharpened(odds: Floats, labels: Numbers) -> Floats:
    """Probabilities. Naive Bayes is far too sure of itself, so its odds are first made as sharp as
    suits the labels."""

    def fit(sharpness: float) -> float:
        likely = _softmax(odds * sharpness)
        return float(np.log(likely[np.arange(len(labels)), labels] + 1e-12).sum())

    return _softmax(odds * max(_SHARPNESS, key=fit))


def _softmax(odds: Floats) -> Floats:
    powers: Floats = np.exp(odds - odds.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def _confident(likely: Floats, labels: Numbers) -> tuple[Numbers, Flags]:
    """The likeliest label among those held with confidence, and whether there is one.

    A label is held with confidence at the mean probability it has in rows that carry it.
    """
    classes = likely.shape[1]
    own = likely[np.arange(len(labels)), labels]
    count = np.bincount(labels, minlength=classes)
    level = np.bincount(labels, own, minlength=classes) / np.maximum(count, 1)
    level[count == 0] = 2.0
    held = np.where(likely >= level, likely, -1.0)
    return held.argmax(axis=1), held.max(axis=1) >= 0


def _confirmed(
    words: Words, labels: Numbers, classes: int, doubted: Numbers, other: Numbers
) -> Flags:
    """Which doubts the nearest rows share: most of them have the other label, few the given one."""
    if not len(doubted):
        return np.zeros(0, bool)
    index = _Index(words)
    kept = np.zeros(len(doubted), bool)
    for place, (row, label) in enumerate(zip(doubted, other, strict=True)):
        near, weight = index.nearest(int(row), _NEIGHBOURS)
        total = float(weight.sum())
        if total <= 0:
            continue
        votes = np.bincount(labels[near], weight, minlength=classes) / total
        kept[place] = votes[label] >= _KIN and votes[labels[row]] <= _STRANGERS
    return kept


class _Index:
    """Texts by their rarer words, weighted as in tf-idf, for the nearest ones (cosine)."""

    def __init__(self, words: Words) -> None:
        _, ids, count = np.unique(words.hashes, return_inverse=True, return_counts=True)
        texts, text = len(words), words.text_of()
        useful = ((count >= 2) & (count <= max(2, _COMMON_WORD * texts)))[ids]
        self._ids, text = ids[useful], text[useful]
        weight = np.log((texts + 1) / count)[self._ids]
        norm = np.sqrt(np.bincount(text, weight * weight, minlength=texts))
        self._weight = weight / np.maximum(norm[text], 1e-9)
        order = np.argsort(self._ids, kind="stable")
        self._texts, self._theirs = text[order], self._weight[order]
        self._words = np.searchsorted(self._ids[order], np.arange(len(count) + 1))
        self._begins = np.searchsorted(text, np.arange(texts + 1))
        self._sums = np.zeros(texts)

    def nearest(self, row: int, count: int) -> tuple[Numbers, Floats]:
        """The ``count`` nearest other texts and their similarities (0 to 1)."""
        sums = self._sums
        sums[:] = 0
        for place in range(self._begins[row], self._begins[row + 1]):
            word = self._ids[place]
            span = slice(self._words[word], self._words[word + 1])
            sums[self._texts[span]] += self._weight[place] * self._theirs[span]
        sums[row] = 0
        count = min(count, len(sums) - 1)
        near = np.argpartition(-sums, count)[:count]
        return near, sums[near].copy()


# ---------------------------------------------------------------- a file's labels


def _doubted(
    whole: WholeSet, source: int, profile: Profile, columns: list[Column]
) -> Iterator[WholeHit]:
    chosen = _drawn(len(profile))
    if len(chosen) > 2 * _TRIAL:
        columns = [column for column in columns if _promises(column, profile)]
    if not columns:
        return
    words = _prompt_words(whole, source, profile.rows[chosen])
    told: list[tuple[str, int, float, int]] = []
    for column in columns:
        codes, names = _usual_labels(column)
        part = codes[chosen]
        used = np.flatnonzero(part >= 0)
        if whole.stop() or len(names) < 2 or len(names) > _MOST_CLASSES or len(used) < _FEWEST:
            continue
        doubts = doubted_labels(take(words, used), part[used], len(names))
        told.append((str(column), len(names), doubts.understood, len(doubts.rows)))
        for place, likelier in zip(used[doubts.rows], doubts.likelier, strict=True):
            message = _sentence(column, names[part[place]], names[likelier])
            yield WholeHit(source, int(profile.rows[chosen[place]]), message)
    if source == len(whole.sources) - 1:
        write(whole, "label-error", _facts(told, len(chosen) == len(profile)))


def _promises(column: Column, profile: Profile) -> bool:
    """Whether the words of some sampled prompts tell the labels at all: a long file need not be
    read again when they do not."""
    codes, names = _usual_labels(column)
    if not 2 <= len(names) <= _MOST_CLASSES:
        return False
    samples = profile.sample[:: max(1, len(profile.sample) // _TRIAL)]
    part = codes[np.searchsorted(profile.rows, [sample.row for sample in samples])]
    used = np.flatnonzero(part >= 0)
    words = once_a_text(words_of(samples[place].prompt for place in used))
    likely = _sharpened(log_odds(words, part[used], len(names)), part[used])
    return float((likely.argmax(axis=1) == part[used]).mean()) >= _PROMISING


def _sentence(column: Column, given: str, likelier: str) -> str:
    return f"{column} is {given!r}, but rows that read like this one have {likelier!r}"


def _drawn(total: int) -> Numbers:
    if total <= SAMPLE:
        return np.arange(total)
    return np.sort(np.random.default_rng(0).choice(total, SAMPLE, replace=False))


def _usual_labels(column: Column) -> tuple[Numbers, list[str]]:
    """Labels that occur ten times, numbered anew (-1 for the others), and their names."""
    usual = np.flatnonzero(column.counts >= _FEWEST_A_CLASS)
    numbers = np.full(len(column.values) + 1, -1, np.int64)
    numbers[usual] = np.arange(len(usual))
    return numbers[column.codes], [column.values[code] for code in usual]


def _prompt_words(whole: WholeSet, source: int, rows: Numbers) -> Words:
    def texts() -> Iterable[str]:
        wanted = iter(rows.tolist())
        row = next(wanted, -1)
        for one in said(whole.sources[source], whole.shapes[source], whole.stop):
            if one.row == row:
                yield one.prompt[:_TEXT]
                row = next(wanted, -1)
                if row < 0:
                    return

    return words_of(texts())


def _facts(told: list[tuple[str, int, float, int]], exact: bool) -> Facts:
    return Facts(
        "How well the prompts tell the labels",
        ("labels", "classes", "found by the words alone", "doubted"),
        [[name, classes, f"{share:.0%}", count] for name, classes, share, count in told],
        exact,
    )
