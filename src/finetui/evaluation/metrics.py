"""Scores of single answers, their summary with an interval, and the paired test of two models."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

_NUMBER = r"-?\$?\d[\d,]*(?:\.\d+)?"
_FINAL = re.compile(r"####\s*(" + _NUMBER + ")")
_ANY_NUMBER = re.compile(_NUMBER)
_NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class AnswerScore:
    """``format``: the shape that was asked for; ``correct``: what the reference says."""

    format: bool
    correct: bool


@dataclass(frozen=True)
class Paired:
    """Two models on the same rows: ``fixed`` wrong to right, ``broken`` right to wrong.

    ``p`` is the exact two-sided McNemar p-value: how often chance alone would split the changed
    rows at least this unevenly.
    """

    fixed: int
    broken: int
    both_right: int
    both_wrong: int
    p: float


def score_answer(answer: str, reference: str) -> AnswerScore:
    """Compare one answer with its reference.

    A JSON object or array as reference asks for JSON with the same keys, right when equal. A
    reference that ends in "#### n" asks for that number. Anything else must be equal as text,
    white space around it aside.
    """
    wanted = _json_value(reference)
    if isinstance(wanted, dict | list):
        return _score_json(answer, wanted)
    final = _final_number(reference)
    if final is not None:
        return _score_number(answer, final)
    text = answer.strip()
    return AnswerScore(format=bool(text), correct=text == reference.strip())


def number_matches(answer: str, reference: str) -> bool:
    """Whether the number behind "####", or else the last one of the answer, is the reference's."""
    final = _final_number(reference)
    if final is None:
        numbers = _ANY_NUMBER.findall(reference)
        if not numbers:
            return False
        final = _number(numbers[-1])
    return _score_number(answer, final).correct


def summarise(scores: Iterable[AnswerScore]) -> dict[str, float]:
    """Shares of well-formed and right answers with 95 % Wilson intervals, and their number."""
    listed = list(scores)
    n = len(listed)
    well_formed = sum(score.format for score in listed)
    right = sum(score.correct for score in listed)
    format_low, format_high = wilson(well_formed, n)
    low, high = wilson(right, n)
    return {
        "n": n,
        "format": well_formed / n if n else 0.0,
        "format_low": format_low,
        "format_high": format_high,
        "accuracy": right / n if n else 0.0,
        "accuracy_low": low,
        "accuracy_high": high,
    }


def wilson(successes: int, n: int, z: float = _NORMAL_95) -> tuple[float, float]:
    """Wilson score interval of a share (Wilson 1927); (0, 1) when there is no data."""
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    square = z * z / n
    centre = (share + square / 2) / (1 + square)
    half = z * math.sqrt(share * (1 - share) / n + square / (4 * n)) / (1 + square)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> Paired:
    """Exact McNemar test on the rows where two models differ.

    Raises ValueError when the two sides have unequal lengths.
    """
    pairs = list(zip(before, after, strict=True))
    fixed = sum(now and not once for once, now in pairs)
    broken = sum(once and not now for once, now in pairs)
    both_right = sum(once and now for once, now in pairs)
    return Paired(
        fixed=fixed,
        broken=broken,
        both_right=both_right,
        both_wrong=len(pairs) - fixed - broken - both_right,
        p=_sign_test(fixed, broken),
    )


def _sign_test(wins: int, losses: int) -> float:
    """Two-sided exact binomial p-value of ``wins`` against ``losses`` at even odds."""
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1))
    return min(1.0, float(2 * tail / 2**n))


def _score_json(answer: str, wanted: dict[str, Any] | list[Any]) -> AnswerScore:
    found = _json_value(answer)
    if isinstance(wanted, dict):
        shaped = isinstance(found, dict) and set(found) == set(wanted)
    else:
        shaped = isinstance(found, list)
    return AnswerScore(format=shaped, correct=shaped and _same(found, wanted))


def _score_number(answer: str, wanted: float) -> AnswerScore:
    """The number behind "####", or else the last one in the answer, which is a fault of form."""
    final = _final_number(answer)
    if final is not None:
        return AnswerScore(format=True, correct=final == wanted)
    numbers = _ANY_NUMBER.findall(answer)
    return AnswerScore(format=False, correct=bool(numbers) and _number(numbers[-1]) == wanted)


def _json_value(text: str) -> Any:
    """The JSON value of ``text``, None when it is not JSON."""
    try:
        return json.loads(text.strip())
    except (ValueError, RecursionError):
        return None


def _same(a: Any, b: Any) -> bool:
    """Equal as JSON: 1 equals 1.0, but true is no number."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _final_number(text: str) -> float | None:
    found = _FINAL.findall(text)
    return _number(found[-1]) if found else None


def _number(text: str) -> float:
    return float(text.replace(",", "").replace("$", ""))
