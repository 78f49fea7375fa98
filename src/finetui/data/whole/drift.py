"""How far new data is from a training set, and the rows and words that make it so.

Three questions, each answered against what the training set shows of itself:

- Can a naive Bayes model tell the two apart? (area under the ROC curve: 0.5 cannot, 1.0 always)
- How surprising are the words of a new row to a model of half the training rows? The rows of the
  other half give the measure: only one in 200 of them lies beyond the bound.
- Which words became commoner, and rarer? (z of two shares of rows, numbers written as zeros)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from heapq import nlargest
from itertools import islice
from math import erfc, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetui.data.formats.source import Source
from finetui.data.records import PROMPT_KEYS, Shape
from finetui.data.strict import JsonFault
from finetui.data.whole.draw import Draw
from finetui.data.whole.facts import Cell, Facts, write
from finetui.data.whole.labels import log_odds
from finetui.data.whole.model import WholeHit, WholeSet
from finetui.data.whole.said import said
from finetui.data.whole.words import Words, once_a_text, spell, words_of

Floats = NDArray[np.float64]

SAMPLE = 20_000
"""Training rows that the model is made from; of a longer file as many are drawn."""

_TEXT = 4_000
_BLOCK = 5_000
_TOLD_APART = 5_000  # rows a side for the model that tells the two apart
_FEWEST = 20
_BEYOND = 0.995  # share of training rows within the bound of surprise
_LEAST = 0.5  # bits a word above the middle row: where all rows are alike, any other is far
_STEADY = 5.0  # so many words of usual surprise are added to each row: short rows vary
_APART = 0.65  # area under the curve that counts as drift
_CHANCE = 1e-3
_TIMES = 3.0  # new rows beyond the bound against those that chance puts there
_BITS = 20
_WORDS_SHOWN = 12
_KEPT = 10_000  # rows beyond the bound that are listed
_WITH_WORDS = 1_000
_SHOWN = 200  # characters of a listed row
_Z = 4.0  # of a word before it is named
_COMMON = 0.01  # share of rows, before or now, that hold a word worth naming
_MEDIUM = 0.5  # Cohen's d
_LONGER = 1.25  # and at least so many times longer, or shorter, in the middle
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Strange:
    """A new row beyond the bound: its line and byte offset in the file, how surprising it is (bits
    a word; see `Drift.bound`), and its most surprising words."""

    row: int
    line: int
    offset: int
    surprise: float
    words: list[str]
    text: str


@dataclass(frozen=True)
class Shift:
    """A word that became commoner (z above 0) or rarer; shares are of rows that hold it."""

    word: str
    z: float
    before: float
    now: float


@dataclass(frozen=True)
class Drift:
    """What `measure` found. ``apart`` is the area under the ROC curve; ``beyond`` the share of new
    rows whose surprise exceeds ``bound``, ``strange_rows`` their number and ``strange`` the 10,000
    strangest of them; ``length`` Cohen's d of the log lengths. ``exact`` is False where the
    training side was sampled."""

    train_rows: int
    new_rows: int
    drifted: bool
    reasons: list[str]
    apart: float
    usual: float
    bound: float
    beyond: float
    length: float
    exact: bool
    strange_rows: int = 0
    strange: list[Strange] = field(default_factory=list)
    shifts: list[Shift] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


Tell = Callable[[int, int], None]


def measure(
    train: Source,
    new: Source,
    part: str = "prompt",
    shapes: tuple[Shape, Shape] | None = None,
    tell: Tell = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> Drift:
    """Compare the prompts (or answers) of two files; both are streamed, every new row is judged.

    Raises ValueError when either has fewer than 20 rows with text.
    """
    known = shapes or (train.shape.shape, new.shape.shape)
    texts, total = _sample(_texts(train, known[0], part, stop))
    if len(texts) < _FEWEST:
        raise ValueError(_too_few(len(texts)))
    model = _Model(texts)
    drawn, strange = Draw[str](_TOLD_APART), _Strangest(model)
    for rows, block in _blocks(_texts(new, known[1], part, stop)):
        strange.see(rows, block)
        for row, text in zip(rows, block, strict=True):
            drawn.offer(row, text)
        tell(drawn.offered, new.estimated_rows)
    if drawn.offered < _FEWEST:
        raise ValueError(_too_few(drawn.offered))
    return _judged(model, texts, total, drawn, strange, new)


def _too_few(rows: int) -> str:
    return f"{rows} rows with text; at least {_FEWEST} are needed"


def _judged(
    model: _Model,
    texts: list[str],
    total: int,
    drawn: Draw[str],
    strange: _Strangest,
    source: Source,
) -> Drift:
    new = drawn.shuffled()
    step = max(1, len(texts) // _TOLD_APART)
    apart = told_apart(words_of(texts[::step][:_TOLD_APART]), words_of(new))
    sizes = np.log1p([len(text) for text in texts]), np.log1p([len(text) for text in new])
    length = _effect(*sizes)
    reasons = [
        reason
        for reason in (
            _apart_reason(apart, min(len(texts), _TOLD_APART), len(new)),
            _beyond_reason(strange.count, drawn.offered),
            _length_reason(length, float(np.exp(sizes[1].mean() - sizes[0].mean()))),
        )
        if reason
    ]
    return Drift(
        train_rows=total,
        new_rows=drawn.offered,
        drifted=bool(reasons),
        reasons=reasons,
        apart=round(apart, 4),
        usual=round(model.usual, 3),
        bound=round(model.bound, 3),
        beyond=round(strange.count / drawn.offered, 5),
        length=round(length, 3),
        exact=total == len(texts),
        strange_rows=strange.count,
        strange=strange.named(source),
        shifts=_shifts(texts, new),
    )


def _apart_reason(apart: float, before: int, now: int) -> str:
    """The area under the curve is notable, and more than chance (Mann and Whitney)."""
    error = sqrt((before + now + 1) / (12 * before * now))
    chance = 0.5 * erfc((apart - 0.5) / error / sqrt(2))
    if apart < _APART or chance > _CHANCE:
        return ""
    return f"a model of the words tells new rows from training rows {apart:.0%} of the time"


def _beyond_reason(strange: int, total: int) -> str:
    """More rows beyond the bound than training rows would be."""
    expected = (1 - _BEYOND) * total
    spread = sqrt(expected) or 1.0
    if strange < max(2.0, _TIMES * expected) or (strange - expected) / spread < _Z:
        return ""
    return f"{strange:,} of {total:,} rows hold words that the training set hardly knows"


def _length_reason(effect: float, ratio: float) -> str:
    if abs(effect) < _MEDIUM or 1 / _LONGER < ratio < _LONGER:
        return ""
    word, times = ("longer", ratio) if effect > 0 else ("shorter", 1 / ratio)
    return f"the texts are {times:.1f} times {word} (Cohen's d {effect:+.2f} of log lengths)"


def _effect(before: Floats, now: Floats) -> float:
    pooled = sqrt((float(before.var()) + float(now.var())) / 2)
    return float(now.mean() - before.mean()) / pooled if pooled > 0 else 0.0


# ---------------------------------------------------------------- surprise


class _Model:
    """How surprising a word is, from the share of texts of one half that hold it (bits)."""

    def __init__(self, texts: Sequence[str]) -> None:
        even, odd = once_a_text(words_of(texts[::2])), words_of(texts[1::2])
        holding = np.bincount(even.buckets(_BITS), minlength=1 << _BITS)
        self._bits = np.log2((len(even) + 1) / (holding + 0.5))
        weights = self._bits[even.buckets(_BITS)]
        self.usual = float(weights.mean()) if len(weights) else 0.0
        own = self.surprise(odd)
        beyond, middle = np.quantile(own, (_BEYOND, 0.5)) if len(own) else (0.0, 0.0)
        self.bound = float(max(beyond, middle + _LEAST))

    def surprise(self, words: Words) -> Floats:
        """The mean surprise of a text's different words, each once; steadied for short texts."""
        words = once_a_text(words)
        bits = self._bits[words.buckets(_BITS)]
        running = np.concatenate(([0.0], np.cumsum(bits)))
        sums = running[words.starts[1:]] - running[words.starts[:-1]]
        counts = np.diff(words.starts)
        surprise: Floats = (sums + _STEADY * self.usual) / (counts + _STEADY)
        return surprise

    def strangest(self, words: Words, text: int, count: int = 5) -> NDArray[np.uint64]:
        """The hashes of a text's most surprising words."""
        own = np.unique(words.hashes[words.starts[text] : words.starts[text + 1]])
        bits = self._bits[(own >> np.uint64(64 - _BITS)).astype(np.int64)]
        return own[np.argsort(-bits, kind="stable")][:count]


class _Strangest:
    """Counts the rows beyond the bound and keeps the strangest of them."""

    def __init__(self, model: _Model) -> None:
        self._model = model
        self._kept: list[tuple[float, int, str]] = []
        self.count = 0

    def see(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        scores = self._model.surprise(words_of(texts))
        beyond = np.flatnonzero(scores > self._model.bound).tolist()
        self.count += len(beyond)
        self._kept += [(float(scores[place]), rows[place], texts[place]) for place in beyond]
        if len(self._kept) > 2 * _KEPT:
            self._kept = nlargest(_KEPT, self._kept)

    def named(self, source: Source) -> list[Strange]:
        """The strangest first; the first thousand with their most surprising words."""
        kept = nlargest(_KEPT, self._kept)
        words = words_of(text for _, _, text in kept[:_WITH_WORDS])
        return [
            Strange(
                row=row,
                line=source.line(row),
                offset=source.offset(row),
                surprise=round(score, 3),
                words=self._words(words, place, text) if place < _WITH_WORDS else [],
                text=" ".join(text.split())[:_SHOWN],
            )
            for place, (score, row, text) in enumerate(kept)
        ]

    def _words(self, words: Words, place: int, text: str) -> list[str]:
        return list(spell([text], self._model.strangest(words, place)).values())


def told_apart(before: Words, now: Words) -> float:
    """Area under the ROC curve of naive Bayes models that have not seen the rows they judge."""
    words = Words(
        np.concatenate((before.hashes, now.hashes)),
        np.concatenate((before.starts, now.starts[1:] + before.starts[-1])),
    )
    labels = np.repeat(np.array([0, 1]), (len(before), len(now)))
    odds = log_odds(once_a_text(words), labels, 2, seed=0)
    margin = odds[:, 1] - odds[:, 0]
    order = np.argsort(margin, kind="stable")
    ranks = np.empty(len(margin))
    ranks[order] = np.arange(1, len(margin) + 1)
    _, same, count = np.unique(margin, return_inverse=True, return_counts=True)
    ranks = (np.bincount(same, ranks) / count)[same]  # ties share their mean rank
    above = ranks[labels == 1].sum() - len(now) * (len(now) + 1) / 2
    return float(above / (len(before) * len(now)))


def _shifts(before: Sequence[str], now: Sequence[str]) -> list[Shift]:
    """The words whose shares of rows changed most surely, both ways."""
    old, new = once_a_text(words_of(before)), once_a_text(words_of(now))
    hashes = np.unique(np.concatenate((old.hashes, new.hashes)))
    a = np.bincount(np.searchsorted(hashes, old.hashes), minlength=len(hashes)).astype(float)
    b = np.bincount(np.searchsorted(hashes, new.hashes), minlength=len(hashes)).astype(float)
    share = (a + b) / (len(old) + len(new))
    error = np.sqrt(share * (1 - share) * (1 / len(old) + 1 / len(new)))
    z = (b / len(new) - a / len(old)) / np.maximum(error, 1e-9)
    z[np.maximum(a / len(old), b / len(new)) < _COMMON] = 0
    chosen = np.argsort(-np.abs(z), kind="stable")[:_WORDS_SHOWN]
    chosen = chosen[np.abs(z[chosen]) >= _Z]
    spelt = spell([*now, *before], hashes[chosen])
    return [
        Shift(
            _DIGITS.sub("0", spelt[int(hashes[k])]),
            round(float(z[k]), 1),
            round(float(a[k]) / len(old), 4),
            round(float(b[k]) / len(new), 4),
        )
        for k in chosen
        if int(hashes[k]) in spelt
    ]


# ---------------------------------------------------------------- texts of a file


def _texts(
    source: Source, shape: Shape, part: str, stop: Callable[[], bool]
) -> Iterator[tuple[int, str]]:
    """(row, text) of every row that holds any; new data may have prompts only."""
    if shape is Shape.UNKNOWN:
        found = _loose(source, stop)
    else:
        found = (
            (one.row, one.answer if part == "answer" else one.prompt)
            for one in said(source, shape, stop)
        )
    for row, text in found:
        if text.strip():
            yield row, text[:_TEXT]


def _loose(source: Source, stop: Callable[[], bool]) -> Iterator[tuple[int, str]]:
    """The texts of rows of no known shape: a column that is called a prompt, or all of them."""
    for raw in source.iterate():
        if stop():
            return
        try:
            yield raw.row, _loose_text(source.decode(raw.raw))
        except JsonFault:
            continue


def _loose_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        return ""
    key = next((key for key in PROMPT_KEYS if isinstance(value.get(key), str)), None)
    if key is not None:
        return str(value[key])
    return "\x1e".join(text for text in value.values() if isinstance(text, str))


def _blocks(rows: Iterator[tuple[int, str]]) -> Iterator[tuple[list[int], list[str]]]:
    while block := list(islice(rows, _BLOCK)):
        yield [row for row, _ in block], [text for _, text in block]


def _sample(rows: Iterable[tuple[int, str]]) -> tuple[list[str], int]:
    drawn = Draw[str](SAMPLE)
    for row, text in rows:
        drawn.offer(row, text)
    return drawn.shuffled(), drawn.offered


# ---------------------------------------------------------------- as a check


def find(whole: WholeSet) -> Iterator[WholeHit]:
    """Held-out rows that are unlike the training file, where the files differ."""
    last = len(whole.sources) - 1
    told: list[list[Cell]] = []
    for number in range(last):
        shapes = (whole.shapes[last], whole.shapes[number])
        try:
            found = measure(
                whole.sources[last], whole.sources[number], "prompt", shapes, stop=whole.stop
            )
        except ValueError:
            continue
        about = "" if found.exact else "≈"
        name = whole.sources[number].path.name
        told.append([name, found.new_rows, f"{about}{found.apart:.2f}", f"{found.beyond:.1%}"])
        if found.drifted:
            yield WholeHit(number, 0, f"of the whole file: {about}{'; '.join(found.reasons)}")
    header = ("file", "rows", "told apart (0.5: not)", "rows of unknown words")
    write(whole, "drift", Facts("Unlike the training file", header, told))
