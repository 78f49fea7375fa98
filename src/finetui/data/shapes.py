"""Guess the shape of a data set from some of its rows, and say why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from finetui.data.records import (
    CHAT_KEYS,
    INSTRUCTION_ANSWERS,
    LABEL_KEYS,
    TEXT_KEYS,
    Shape,
    pair_of,
)


@dataclass(frozen=True)
class ShapeGuess:
    """The shape most sampled rows have; ``confidence`` is their share (0 to 1)."""

    shape: Shape
    confidence: float
    reason: str


def detect_shape(values: Sequence[object]) -> ShapeGuess:
    """The shape of decoded rows, by majority."""
    if not values:
        return ShapeGuess(Shape.UNKNOWN, 0.0, "no readable row")
    votes = Counter(shape_of(value) for value in values)
    known = [(shape, count) for (shape, _), count in votes.most_common() if shape != "unknown"]
    if not known:
        (_, reason), _ = votes.most_common(1)[0]
        return ShapeGuess(Shape.UNKNOWN, 0.0, f"no known columns ({reason})")
    totals: Counter[Shape] = Counter()
    for shape, count in known:
        totals[shape] += count
    shape, count = totals.most_common(1)[0]
    reason = next(why for (kind, why), _ in votes.most_common() if kind == shape)
    sampled = f"{count} of {len(values)} sampled rows have {reason}"
    return ShapeGuess(shape, count / len(values), sampled)


def shape_of(value: object) -> tuple[Shape, str]:
    """The shape of one row and the columns that tell it."""
    if isinstance(value, str):
        return Shape.TEXT, "plain strings"
    if not isinstance(value, dict):
        return Shape.UNKNOWN, "rows are not objects"
    if "chosen" in value and "rejected" in value:
        return Shape.PREFERENCE, "chosen and rejected"
    label = next((key for key in LABEL_KEYS if key in value and _is_label(value[key])), None)
    chat = next((key for key in CHAT_KEYS if isinstance(value.get(key), list)), None)
    pair = pair_of(value)
    if label and (chat or pair):
        return Shape.UNPAIRED_PREFERENCE, f"{chat or ' and '.join(pair or ())} with a {label}"
    if chat:
        return _chat_shape(chat, value[chat])
    if "instruction" in value:
        answer = next((key for key in INSTRUCTION_ANSWERS if key in value), None)
        if answer:
            return Shape.ALPACA, f"instruction and {answer}"
    if pair:
        return Shape.PROMPT_COMPLETION, " and ".join(pair)
    text = next((key for key in TEXT_KEYS if isinstance(value.get(key), str)), None)
    if text:
        return Shape.TEXT, text
    return Shape.UNKNOWN, ", ".join(str(key) for key in list(value)[:6]) or "empty objects"


def _chat_shape(key: str, turns: list[object]) -> tuple[Shape, str]:
    """ShareGPT says from/value, chat says role/content; an empty list goes by its column."""
    marked = [turn for turn in turns if isinstance(turn, dict)]
    sharegpt = any("from" in turn for turn in marked) or (not marked and key != "messages")
    if sharegpt:
        return Shape.SHAREGPT, f"{key} with from and value"
    return Shape.CHAT, f"{key} with role and content"


def _is_label(value: object) -> bool:
    return isinstance(value, bool) or str(value).lower() in ("true", "false", "0", "1")
