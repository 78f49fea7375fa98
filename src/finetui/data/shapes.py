"""Guess the shape of a data set from some of its rows, and say how sure that is and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from finetui.data.records import (
    CHAT_KEYS,
    INSTRUCTION_ANSWERS,
    LABEL_KEYS,
    TEXT_KEYS,
    Shape,
    pair_of,
)

_LIKELY = 0.9


@dataclass(frozen=True)
class ShapeGuess:
    """The shape most sampled rows have; ``confidence`` is their share (0 to 1).

    ``counts`` tells how many of the ``sampled`` rows have which shape, the most first; ``also``
    are other shapes that the same columns would allow.
    """

    shape: Shape
    confidence: float
    reason: str
    sampled: int = 0
    counts: Mapping[Shape, int] = field(default_factory=dict)
    also: tuple[Shape, ...] = ()

    @property
    def mixed(self) -> bool:
        """Rows of several shapes stand in the file (or rows of none)."""
        return len(self.counts) > 1

    @property
    def sure(self) -> Literal["certain", "likely", "unsure"]:
        if self.confidence == 1 and not self.also:
            return "certain"
        return "likely" if self.confidence >= _LIKELY else "unsure"


def detect_shape(values: Sequence[object]) -> ShapeGuess:
    """The shape of decoded rows, by majority."""
    if not values:
        return ShapeGuess(Shape.UNKNOWN, 0.0, "no readable row")
    votes = Counter(shape_of(value) for value in values)
    totals: Counter[Shape] = Counter()
    for (shape, _), count in votes.items():
        totals[shape] += count
    counts = dict(totals.most_common())
    known = [shape for shape in counts if shape is not Shape.UNKNOWN]
    if not known:
        (_, reason), _ = votes.most_common(1)[0]
        why = f"no known columns ({reason})"
        return ShapeGuess(Shape.UNKNOWN, 0.0, why, len(values), counts)
    shape = known[0]
    also = _also(values, shape)
    reason = next(why for (kind, why), _ in votes.most_common() if kind == shape)
    share = counts[shape] / len(values)
    words = _words(reason, shape, counts, len(values), also)
    return ShapeGuess(shape, share, words, len(values), counts, also)


def merge_guesses(files: Sequence[tuple[str, int, ShapeGuess]]) -> ShapeGuess:
    """One guess for several files, each with its name, its rows and its own guess.

    A file's rows count for its shape; files of another shape than most rows are named.
    """
    rows: Counter[Shape] = Counter()
    for _, count, guess in files:
        rows[guess.shape] += count
    shape = rows.most_common(1)[0][0]
    alike = [(name, guess) for name, _, guess in files if guess.shape is shape]
    share = sum(count * guess.confidence for _, count, guess in files if guess.shape is shape)
    confidence = share / max(1, rows.total())
    words = alike[0][1].reason
    if len(files) > 1:
        others = [
            f"{name} is {guess.shape}" for name, _, guess in files if guess.shape is not shape
        ]
        words = f"{len(alike)} of {len(files)} files are {shape} ({words})"
        words += f"; {', '.join(others)}" if others else ""
    also = tuple(sorted({kind for _, guess in alike for kind in guess.also}))
    counts: Counter[Shape] = Counter()
    for _, _, guess in files:
        counts.update(guess.counts)
    sampled = sum(guess.sampled for _, _, guess in files)
    return ShapeGuess(shape, confidence, words, sampled, dict(counts.most_common()), also)


def _words(
    reason: str, shape: Shape, counts: Mapping[Shape, int], sampled: int, also: Sequence[Shape]
) -> str:
    sentence = f"{counts[shape]} of {sampled} sampled rows have {reason}"
    others = [f"{count} look like {kind}" for kind, count in counts.items() if kind is not shape]
    if others:
        sentence += f"; {', '.join(others)}"
    if also:
        sentence += f"; the columns could also be read as {' or '.join(also)}"
    return sentence


def shape_of(value: object) -> tuple[Shape, str]:
    """The shape of one row and the columns that tell it."""
    if isinstance(value, str):
        return Shape.TEXT, "plain strings"
    if not isinstance(value, dict):
        return Shape.UNKNOWN, "rows are not objects"
    if "chosen" in value and "rejected" in value:
        return Shape.PREFERENCE, "chosen and rejected"
    label = next((key for key in LABEL_KEYS if key in value and _is_label(value[key])), None)
    chat = _chat_column(value)
    pair = pair_of(value)
    if label and (chat or pair):
        return Shape.UNPAIRED_PREFERENCE, f"{chat or ' and '.join(pair or ())} with a {label}"
    if chat:
        return _chat_shape(chat, value[chat])
    answer = _alpaca_answer(value)
    if answer:
        return Shape.ALPACA, f"instruction and {answer}"
    if pair:
        return Shape.PROMPT_COMPLETION, " and ".join(pair)
    text = _text_column(value)
    if text:
        return Shape.TEXT, text
    return Shape.UNKNOWN, ", ".join(str(key) for key in list(value)[:6]) or "empty objects"


def _also(values: Sequence[object], shape: Shape) -> tuple[Shape, ...]:
    """Shapes that every row of the guessed shape would allow as well.

    Judged answers are chats or pairs by their nature; that is no other reading.
    """
    if shape in (Shape.PREFERENCE, Shape.UNPAIRED_PREFERENCE):
        return ()
    rows = [value for value in values if isinstance(value, dict) and shape_of(value)[0] is shape]
    common = set.intersection(*(_readings(row) for row in rows)) if rows else set()
    return tuple(sorted(common - {shape}))


def _readings(value: dict[str, Any]) -> set[Shape]:
    found = set()
    chat = _chat_column(value)
    if chat:
        found.add(_chat_shape(chat, value[chat])[0])
    pair = pair_of(value)
    if _alpaca_answer(value):
        found.add(Shape.ALPACA)
        pair = None if pair == ("input", "output") else pair
    if pair and not (chat and "prompt" in pair):
        found.add(Shape.PROMPT_COMPLETION)
    if _text_column(value):
        found.add(Shape.TEXT)
    return found


def _chat_column(value: dict[str, Any]) -> str | None:
    return next((key for key in CHAT_KEYS if isinstance(value.get(key), list)), None)


def _alpaca_answer(value: dict[str, Any]) -> str | None:
    if "instruction" not in value:
        return None
    return next((key for key in INSTRUCTION_ANSWERS if key in value), None)


def _text_column(value: dict[str, Any]) -> str | None:
    return next((key for key in TEXT_KEYS if isinstance(value.get(key), str)), None)


def _chat_shape(key: str, turns: list[object]) -> tuple[Shape, str]:
    """ShareGPT says from/value, chat says role/content; an empty list goes by its column."""
    marked = [turn for turn in turns if isinstance(turn, dict)]
    sharegpt = any("from" in turn for turn in marked) or (not marked and key != "messages")
    if sharegpt:
        return Shape.SHAREGPT, f"{key} with from and value"
    return Shape.CHAT, f"{key} with role and content"


def _is_label(value: object) -> bool:
    return isinstance(value, bool) or str(value).lower() in ("true", "false", "0", "1")
