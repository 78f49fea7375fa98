"""A set's size against the guides' figures."""

from __future__ import annotations

from collections.abc import Iterator

from finetui.data.guides import FEWEST, Unit, judge_size
from finetui.data.records import Shape
from finetui.data.whole.facts import Cell, Facts, write
from finetui.data.whole.model import WholeHit, WholeSet
from finetui.data.whole.profile import label_columns, profile_of


def find(whole: WholeSet) -> Iterator[WholeHit]:
    """A file with fewer rows than the smallest purpose of the guides asks for."""
    profile = profile_of(whole)
    unit: Unit = "pairs" if profile.shape is Shape.PREFERENCE else "rows"
    verdicts = judge_size(len(profile), unit)
    told: list[list[Cell]] = [
        [v.guide.purpose, v.guide.low, v.guide.high, unit, v.verdict] for v in verdicts
    ]
    for column in label_columns(profile):
        least = int(column.counts[column.counts > 0].min())
        name = f"the rarest class of {column}"
        told += [
            [f"{v.guide.purpose}: {name}", v.guide.low, v.guide.high, v.guide.unit, v.verdict]
            for v in judge_size(least, "rows a class")
        ]
    write(whole, "too-few-rows", Facts("Size", ("for", "from", "to", "unit", "verdict"), told))
    first = judge_size(len(profile))[0].guide
    last = len(whole.sources) - 1
    if len(profile) < FEWEST:
        text = f"of the whole file: {len(profile):,} rows; {FEWEST} are the least anywhere"
        yield WholeHit(last, 0, text)
    elif len(profile) < first.low:
        span = f"{first.low} to {first.high}"
        text = f"of the whole file: {len(profile):,} rows; {first.purpose} takes {span}"
        yield WholeHit(last, 0, text)
