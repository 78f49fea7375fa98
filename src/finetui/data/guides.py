"""How many rows the guides ask for, by what is to be taught."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["rows", "rows a class", "pairs"]
Verdict = Literal["below", "within", "above"]

FEWEST = 10
"""Fewer rows than this are refused by hosted fine-tuning, and teach nothing anywhere."""

_THUMB = "rule of thumb of fine-tuning guides"


@dataclass(frozen=True)
class Guide:
    """A range that guides give for one purpose; both ends belong to it."""

    purpose: str
    low: int
    high: int
    unit: Unit
    source: str


GUIDES: tuple[Guide, ...] = (
    Guide("a first try", 50, 100, "rows", "OpenAI's guide: the first gains show here; 10 at least"),
    Guide("a format or a style", 500, 1_000, "rows", _THUMB),
    Guide("a behaviour or a task", 1_000, 10_000, "rows", _THUMB + "; LIMA used 1,000 chosen ones"),
    Guide("broad skills or reasoning", 10_000, 50_000, "rows", _THUMB + "; Llama 2 used 27,540"),
    Guide("telling classes apart", 100, 500, "rows a class", "OpenAI's guide: 100 a class"),
    Guide("preferences", 1_000, 10_000, "pairs", _THUMB),
)


@dataclass(frozen=True)
class SizeVerdict:
    """What one guide says about a count."""

    guide: Guide
    count: int
    verdict: Verdict
    sentence: str


def judge_size(count: int, unit: Unit = "rows") -> list[SizeVerdict]:
    """Each guide of ``unit`` with its verdict, the smallest purpose first."""
    return [_judged(guide, count) for guide in GUIDES if guide.unit == unit]


def enough_for(count: int, unit: Unit = "rows") -> Guide | None:
    """The largest purpose whose lower end ``count`` reaches."""
    reached = [guide for guide in GUIDES if guide.unit == unit and count >= guide.low]
    return reached[-1] if reached else None


def _judged(guide: Guide, count: int) -> SizeVerdict:
    span = f"{guide.low:,} to {guide.high:,} {guide.unit}"
    if count < guide.low:
        missing = guide.low - count
        return SizeVerdict(guide, count, "below", f"{guide.purpose}: {span}, {missing:,} to go")
    if count > guide.high:
        return SizeVerdict(guide, count, "above", f"{guide.purpose}: {span}, more than enough")
    return SizeVerdict(guide, count, "within", f"{guide.purpose}: {span}, enough")
