"""The pictures of a report as plain values: a terminal or a page draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from finetui.rating.analysis import Report
from finetui.rating.blinding import Bang
from finetui.rating.statistics import Interval


class Row(msgspec.Struct, frozen=True):
    """One line of a picture: a value with its interval (``low`` = ``high`` = value without one)."""

    label: str
    value: float
    low: float
    high: float
    note: str = ""


class Picture(msgspec.Struct, frozen=True):
    """Values on one axis from ``low`` to ``high``; ``line`` marks where nothing is the case.

    ``kind``: "interval" (a mark and a whisker) or "count" (a bar from ``low``). ``unit``: "share"
    (written in per cent) or "number".
    """

    title: str
    rows: list[Row]
    low: float
    high: float
    line: float
    kind: Literal["interval", "count"] = "interval"
    unit: Literal["share", "number"] = "number"


def pictures(report: Report) -> list[Picture]:
    """What there is to draw, the endpoint first."""
    candidate = report.pair[1]
    found = [
        Picture(f"Win share of {candidate}", _shares(report), 0, 1, 0.5, unit="share"),
        Picture("Answers", _answers(report), 0, _most(report), 0, "count"),
    ]
    if report.ranking:
        rows = [
            Row(
                place.system,
                place.strength,
                *place.interval,
                f"rank {_ranks(place.best, place.worst)}",
            )
            for place in report.ranking.places
        ]
        found.append(_free("Strength of the systems (log odds)", rows))
    if len(report.thirds) > 1:
        found += _thirds(report)
    sides = [
        _row(row.rater, row.left, row.side.decisive, row.side.interval) for row in report.raters
    ]
    found.append(
        Picture(
            "Left side chosen, by rater", [row for row in sides if row], 0, 1, 0.5, unit="share"
        )
    )
    if report.agreement:
        found.append(_free("Agreement between raters", _agreement(report)))
    if report.blinding:
        found.append(Picture("Bang's blinding index", _bangs(report), -1, 1, 0))
    if report.guessability and not math.isnan(report.guessability.auc):
        style = report.guessability
        rows = [Row("all properties", style.auc, style.auc, style.auc)]
        rows += [Row(cue.name, cue.auc, cue.auc, cue.auc) for cue in style.cues[:5]]
        found.append(Picture("Told apart by style alone (AUC)", rows, 0, 1, 0.5))
    return [picture for picture in found if picture.rows]


def _shares(report: Report) -> list[Row]:
    rows = [
        Row(
            "all items" if len(report.systems) == 2 else f"{one.candidate} over {one.reference}",
            one.share, *one.interval, f"{one.rated} items",
        )
        for one in report.comparisons
    ]  # fmt: skip
    if report.style:
        names = {"length": "equally long", "style": "equally styled"}
        rows += [
            Row(names[one.name], one.share, *one.interval, "model")
            for one in report.style.adjusted
            if one.name in names
        ]
    lines = [*report.sensitivity, *report.criteria]
    rows += [Row(one.name, one.share, *one.interval, f"{one.items} items") for one in lines]
    rows += [
        Row(f"rater {row.rater}", row.share, row.share, row.share, f"{row.tally.total} votes")
        for row in report.raters
    ]
    return [row for row in rows if not math.isnan(row.value)]


def _answers(report: Report) -> list[Row]:
    reference, candidate = report.pair
    tally = report.tally
    counts = (
        (f"{candidate} better", tally.wins),
        (f"{reference} better", tally.losses),
        ("both good", tally.ties_good),
        ("both bad", tally.ties_bad),
        ("cannot judge", tally.skips),
        ("identical (items)", report.main.identical),
    )
    return [Row(label, count, count, count) for label, count in counts]


def _most(report: Report) -> float:
    return max(1.0, *(row.value for row in _answers(report)))


def _thirds(report: Report) -> list[Picture]:
    ties: list[Row] = []
    times: list[Row] = []
    alike: list[Row] = []
    steady: list[Row] = []
    for third in report.thirds:
        label = f"third {third.part}"
        if not math.isnan(third.tie_rate):
            ties.append(Row(label, third.tie_rate, *third.tie_interval, f"{third.votes} votes"))
        if not math.isnan(third.median_s):
            times.append(Row(label, third.median_s, third.median_s, third.median_s))
        if third.agreement.pairs:
            share = third.agreement.share
            alike.append(Row(label, share, share, share, f"{third.agreement.pairs} pairs"))
        if third.repeats.pairs:
            share = third.repeats.same / third.repeats.pairs
            steady.append(
                Row(label, share, *third.repeats.interval, f"{third.repeats.pairs} repeats")
            )
    longest = max((row.value for row in times), default=1.0)
    return [
        Picture("Ties by third of the session", ties, 0, 1, 0, unit="share"),
        Picture("Seconds an item by third", times, 0, longest, 0, "count"),
        Picture("Same answer as other raters by third", alike, 0, 1, 0, unit="share"),
        Picture("Repeats answered alike by third", steady, 0, 1, 0, unit="share"),
    ]


def _row(label: str, part: int, whole: int, interval: Interval) -> Row | None:
    return Row(label, part / whole, *interval, f"{part} of {whole}") if whole else None


def _agreement(report: Report) -> list[Row]:
    found = report.agreement
    if found is None:
        return []
    rows = [
        Row("alpha, ordinal", found.alpha_ordinal, *found.ordinal_interval),
        Row("alpha, nominal", found.alpha_nominal, *found.nominal_interval),
        Row("AC1", found.ac1, *found.ac1_interval),
    ]
    return [row for row in rows if not math.isnan(row.value)]


def _bangs(report: Report) -> list[Row]:
    found = report.blinding
    if found is None:
        return []
    rows: list[tuple[str, Bang]] = [("all raters", found.overall)]
    rows += [(f"rater {rater}", bang) for rater, bang in found.raters.items()]
    return [
        Row(label, bang.index, *bang.interval(), f"{bang.correct} right, {bang.incorrect} wrong")
        for label, bang in rows
    ]


def _free(title: str, rows: Sequence[Row]) -> Picture:
    """A picture around zero whose axis follows its values."""
    ends = [end for row in rows for end in (row.low, row.high) if not math.isnan(end)]
    reach = max([abs(end) for end in ends], default=1.0) or 1.0
    low = -reach if min(ends, default=0.0) < 0 else 0.0
    return Picture(title, list(rows), low, max(reach, 1e-9), 0)


def _ranks(best: int, worst: int) -> str:
    return str(best) if best == worst else f"{best} to {worst}"
