"""What a set does not hold: answers that decline or ask back, company for lone prompts, variety.

Looks at the sample of `profile`; its figures carry "≈" when that is not every row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from finetui.data.checks.answers import fenced, json_answer
from finetui.data.keys import normalise
from finetui.data.records import Shape
from finetui.data.whole.facts import Facts, write
from finetui.data.whole.model import WholeHit, WholeSet
from finetui.data.whole.profile import Profile, Sample, label_columns, profile_of
from finetui.data.whole.words import Words, once_a_text, words_of

Floats = NDArray[np.float32]

_FEWEST = 200
_NEIGHBOURS_OF = 4_000  # prompts compared with each other
_DIMENSIONS = 512
_KIN = 3  # a prompt's company is how near (cosine) its third nearest is
_COMPANY = 0.4  # in a set of clear intents nearly all have company as near as this
_NEARLY_ALL = 0.95
_ALONE = 0.5  # of what nearly all have
_MOST_ALONE = 0.02
_TEMPLATE = 0.1
_FEWEST_WORDS = 4
_SAME_ANSWER = 0.1
_SHORT, _LONG = 3, 4.0  # words of a short prompt; times the middle length of a long one


# ---------------------------------------------------------------- negatives and edge cases

_DECLINES = re.compile(
    r"(?i)\b(?:i (?:do not|don[’']t) (?:know|have)|(?:can ?not|can[’']t|unable to|not able to)\b"
    r"|not (?:mentioned|specified|provided|given|stated|enough|sure|available|found|possible)"
    r"|no (?:information|data|answer|result|match)|unclear|unknown|unfortunately|sorry|afraid"
    r"|(?:could|can) you (?:please )?(?:provide|clarify|tell|give|share|specify|explain|describe)"
    r"|please (?:provide|clarify|specify|share)|out of scope|none of|does ?n[o’']t (?:say|mention)"
    r"|n/a|je ne sais|d[ée]sol[ée]|leider|kann ich nicht|lo siento|no puedo|no s[eé])"
    r"|не знаю|не могу|извините|к сожалению|抱歉|对不起|無法|无法|不知道"
    r"|申し訳|できません|わかりません|죄송|알 수 없"
)
_NOTHING = frozenset((
    "none", "null", "unknown", "unclear", "other", "n/a", "na", "nil", "no", "empty",
    "irrelevant", "unrelated", "undefined",
))  # fmt: skip


def negatives(whole: WholeSet) -> Iterator[WholeHit]:
    """A set in which no answer declines, asks back, or says that there is nothing."""
    profile = profile_of(whole)
    if profile.shape in (Shape.TEXT, Shape.PREFERENCE) or len(profile) < _FEWEST:
        return
    declining = sum(map(_declines, (sample.answer for sample in profile.sample)))
    write(whole, "no-negatives", _kinds(profile, declining))
    if not declining:
        looked = f" ({profile.about}{len(profile.sample):,} looked at)" if profile.sampled else ""
        yield WholeHit(
            len(whole.sources) - 1,
            0,
            "of the whole file: no answer declines, asks back, or says that something is missing"
            + looked,
        )


def _declines(answer: str) -> bool:
    value = json_answer(fenced(answer))
    if value is not None:
        return _holds_nothing(value)
    text = answer.strip()
    return text.endswith(("?", "？")) or normalise(text) in _NOTHING or bool(_DECLINES.search(text))


def _holds_nothing(value: object) -> bool:
    """A JSON value with a null, an empty text or list, or a word for nothing in it."""
    if isinstance(value, dict):
        return not value or any(map(_holds_nothing, value.values()))
    if isinstance(value, list):
        return not value or any(map(_holds_nothing, value))
    return value is None or (isinstance(value, str) and (not value or normalise(value) in _NOTHING))


def _kinds(profile: Profile, declining: int) -> Facts:
    """How many rows are of each kind that sets tend to forget."""
    samples = profile.sample
    prompts = [sample.prompt for sample in samples]
    middle = float(np.median([len(prompt) for prompt in prompts]))
    kinds = {
        "answers that decline, ask back or hold nothing": declining,
        f"prompts of at most {_SHORT} words": sum(len(p.split(None, 3)) <= _SHORT for p in prompts),
        f"prompts {_LONG:.0f} times as long as the middle one": sum(
            len(p) > _LONG * middle for p in prompts
        ),
        "prompts of several turns": sum("\x1e" in p for p in prompts),
        "prompts beyond ASCII": sum(not p.isascii() for p in prompts),
        "prompts with a question mark": sum("?" in p or "？" in p for p in prompts),
    }
    rows = [[name, f"{profile.about}{count / len(samples):.1%}"] for name, count in kinds.items()]
    return Facts("Kinds of rows", ("rows", "share"), rows, not profile.sampled)


# ---------------------------------------------------------------- thin intents


def thin(whole: WholeSet) -> Iterator[WholeHit]:
    """Prompts that stand alone in a set where nearly all have many like them."""
    profile = profile_of(whole)
    samples = _thinned(profile.sample)
    if len(samples) < _FEWEST:
        return
    company = _company(words_of(sample.prompt for sample in samples))
    usual = float(np.quantile(company, 1 - _NEARLY_ALL))
    alone = np.flatnonzero(company < _ALONE * usual)
    about = "" if len(samples) == len(profile) else "≈"
    marks = np.quantile(company, (0.01, 0.05, 0.5, 0.95)).tolist()
    rows = [
        [name, f"{about}{mark:.2f}"]
        for name, mark in zip(("1 %", "5 %", "half", "95 %"), marks, strict=True)
    ]
    title = "How alike the third nearest prompt is (cosine of the words)"
    write(whole, "thin-intent", Facts(title, ("of the prompts", "at most"), rows, not about))
    if usual < _COMPANY or len(alone) > _MOST_ALONE * len(samples):
        return
    for place in alone:
        yield WholeHit(
            len(whole.sources) - 1,
            samples[place].row,
            f"hardly another prompt is like this one (likeness {about}{company[place]:.2f}; "
            f"nearly all have at least {usual:.2f})",
        )


def _thinned(samples: Sequence[Sample]) -> list[Sample]:
    """Evenly fewer samples, as many as can be compared with each other."""
    step = max(1, -(-len(samples) // _NEIGHBOURS_OF))
    return list(samples[::step])


def _company(words: Words) -> Floats:
    """For each text how near its third nearest is (cosine)."""
    vectors = _vectors(words)
    third = np.zeros(len(words), np.float32)
    for start in range(0, len(words), 500):
        near = vectors[start : start + 500] @ vectors.T
        near[np.arange(len(near)), np.arange(start, start + len(near))] = -1
        third[start : start + 500] = np.partition(near, -_KIN, axis=1)[:, -_KIN]
    return third


def _vectors(words: Words) -> Floats:
    """Texts as unit vectors: signed feature hashing of tf-idf (Weinberger et al. 2009)."""
    words = once_a_text(words)
    _, ids, count = np.unique(words.hashes, return_inverse=True, return_counts=True)
    weight = np.log((len(words) + 1) / count)[ids]
    sign = np.where(words.hashes >> np.uint64(63), 1.0, -1.0)
    cell = words.text_of() * _DIMENSIONS + words.buckets(32) % _DIMENSIONS
    flat = np.bincount(cell, weight * sign, minlength=len(words) * _DIMENSIONS)
    vectors = flat.reshape(len(words), _DIMENSIONS).astype(np.float32)
    length = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    vectors /= np.maximum(length, 1e-6)
    return vectors


# ---------------------------------------------------------------- variety


def variety(whole: WholeSet) -> Iterator[WholeHit]:
    """One template, or one answer, that makes up a tenth of the set or more."""
    profile = profile_of(whole)
    samples = profile.sample
    if len(samples) < _FEWEST or profile.shape is Shape.TEXT:
        return
    words = words_of(sample.prompt for sample in samples)
    write(whole, "low-variety", _variety_facts(profile, words))
    last = len(whole.sources) - 1
    share, places = _largest(_templates(words))
    different = len({samples[place].prompt for place in places})
    if share >= _TEMPLATE and 2 * different > len(places):
        yield WholeHit(
            last,
            samples[places[0]].row,
            f"{profile.about}{share:.0%} of the prompts are this one with other numbers",
        )
    if not label_columns(profile) and not profile.tool_calls:
        yield from _same_answers(profile, last)


def _same_answers(profile: Profile, source: int) -> Iterator[WholeHit]:
    texts = [normalise(sample.answer) for sample in profile.sample]
    numbers: dict[str, int] = {}
    keys = np.array([numbers.setdefault(text, len(numbers)) for text in texts])
    keys[[not text for text in texts]] = -1
    share, places = _largest(keys)
    if share >= _SAME_ANSWER:
        yield WholeHit(
            source,
            profile.sample[places[0]].row,
            f"{profile.about}{share:.0%} of the answers are the same as this one",
        )


def _templates(words: Words) -> NDArray[np.int64]:
    """A number for each text, equal where the words are, digits aside; -1 for a few words."""
    place = np.arange(len(words.hashes)) - np.repeat(words.starts[:-1], np.diff(words.starts))
    mixed = words.hashes * (2 * place + 1).astype(np.uint64)
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)))
    whole = sums[words.starts[1:]] - sums[words.starts[:-1]]
    _, numbers = np.unique(whole, return_inverse=True)
    return np.where(np.diff(words.starts) >= _FEWEST_WORDS, numbers, -1)


def _largest(keys: NDArray[np.int64]) -> tuple[float, NDArray[np.int64]]:
    """The share and the places of the key that occurs most; keys below 0 do not count."""
    if not (keys >= 0).any():
        return 0.0, np.zeros(0, np.int64)
    most = int(np.bincount(keys[keys >= 0]).argmax())
    places = np.flatnonzero(keys == most)
    return len(places) / len(keys), places


def _variety_facts(profile: Profile, words: Words) -> Facts:
    prompts = profile.sample
    pairs = words.hashes[:-1] ^ (words.hashes[1:] * np.uint64(3))
    openings: dict[str, int] = {}
    for sample in prompts:
        start = " ".join(normalise(sample.prompt[:60]).split()[:3])
        openings[start] = openings.get(start, 0) + 1
    opening = max(openings, key=lambda start: openings[start])
    templates = _templates(words)
    about = profile.about
    rows = [
        ["different prompts", f"{about}{len({s.prompt for s in prompts}) / len(prompts):.0%}"],
        ["different but for numbers", f"{about}{_different(templates) / len(prompts):.0%}"],
        ["different answers", f"{about}{len({s.answer for s in prompts}) / len(prompts):.0%}"],
        ["different words among all", _share(words.hashes, about)],
        ["different pairs of words among all", _share(pairs, about)],
        [f"begin with {opening!r}", f"{about}{openings[opening] / len(prompts):.0%}"],
    ]
    return Facts("Variety", ("of the prompts", "is"), rows, not profile.sampled)


def _share(hashes: NDArray[np.uint64], about: str) -> str:
    return f"{about}{len(np.unique(hashes)) / max(1, len(hashes)):.1%}"


def _different(keys: NDArray[np.int64]) -> int:
    """How many different keys there are; each one below 0 is one of its own."""
    return len(np.unique(keys[keys >= 0])) + int((keys < 0).sum())
