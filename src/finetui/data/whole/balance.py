"""How often each label occurs: rare classes, and one class that is nearly all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from finetui.data.whole.facts import Facts, write
from finetui.data.whole.model import WholeHit, WholeSet
from finetui.data.whole.profile import Column, Profile, label_columns, profile_of

_RARE = 0.1  # of an equal share
_NEARLY_ALL = 0.95
_FEWEST = 100
_SHOWN = 12


def rare(whole: WholeSet) -> Iterator[WholeHit]:
    """Classes with less than a tenth of an equal share, told at their first rows."""
    profile = profile_of(whole)
    last = len(whole.sources) - 1
    labels = label_columns(profile)
    for column in labels:
        counts = column.counts
        equal = counts.sum() / len(counts)
        for code in np.flatnonzero((counts >= 2) & (counts < _RARE * equal)):
            place = int(np.flatnonzero(column.codes == code)[0])
            message = (
                f"{column} is {column.values[code]!r} in {counts[code]:,} of {counts.sum():,} "
                f"rows; an equal share would be {equal:,.0f}"
            )
            yield WholeHit(last, int(profile.rows[place]), message)
    write(whole, "rare-class", _facts(labels))


def one_class(whole: WholeSet) -> Iterator[WholeHit]:
    """A label that nearly every row has, told of the file."""
    profile = profile_of(whole)
    for column in profile.columns:
        if column.values and len(profile) >= _FEWEST and (found := _dominant(column, profile)):
            yield WholeHit(len(whole.sources) - 1, 0, found)


def _dominant(column: Column, profile: Profile) -> str:
    counts = column.counts
    total = int(counts.sum())
    most = int(counts.argmax())
    if total < 0.9 * len(profile) or not counts[most] / total >= _NEARLY_ALL:
        return ""
    share = counts[most] / total
    percent = "always" if share == 1 else f"in {share:.1%} of the rows"
    return f"of the whole file: {column} is {column.values[most]!r} {percent}"


def _facts(labels: list[Column]) -> Facts:
    rows = []
    for column in labels:
        counts = column.counts
        order = np.argsort(-counts, kind="stable")
        for code in order[:_SHOWN]:
            share = f"{counts[code] / counts.sum():.1%}"
            rows.append([str(column), column.values[code], int(counts[code]), share])
        if len(order) > _SHOWN:
            rest = int(counts[order[_SHOWN:]].sum())
            others = f"{len(order) - _SHOWN:,} others"
            rows.append([str(column), others, rest, f"{rest / counts.sum():.1%}"])
    return Facts("Labels", ("labels", "value", "rows", "share"), rows)
