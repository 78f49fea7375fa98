"""The rows of a set, worst first: what broke, then what is still wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from finetui.evaluation import catalogue
from finetui.evaluation.catalogue import Metric, metric, shown
from finetui.evaluation.record import Answer, Item, Record, RowScore
from finetui.evaluation.scoring import DOUBTFUL, main_metric

Change = Literal["broken", "wrong", "fixed", "right"]
_ORDER: dict[Change, int] = {"broken": 0, "wrong": 1, "fixed": 2, "right": 3}
_ENOUGH = 0.5  # of a number between 0 and 1: from here on a row counts as right


@dataclass(frozen=True)
class Ranked:
    """One row as two subjects answered it. ``note`` says why it is where it is.

    For a metric that is no share, a row is right from the half of its range on, broken where it
    fell below that, and rows are ranked by how much they lost.
    """

    item: Item
    before: Answer
    after: Answer
    before_score: RowScore
    after_score: RowScore
    change: Change
    note: str
    lost: float


def ranked(
    record: Record, name: str, before: str, after: str, metric_name: str = ""
) -> list[Ranked]:
    """The rows of a set that both subjects answered, worst first by a metric ("" the main one).

    Ties go to the row whose reference lost more likelihood, then to the order of the set. Raises
    UserError for a metric that does not exist.
    """
    once, now = ({row.id: row for row in record.scores(who, name)} for who in (before, after))
    said, says = ({row.id: row for row in record.answers(who, name)} for who in (before, after))
    common = once.keys() & now.keys() & said.keys() & says.keys()
    entry = metric(metric_name or _main(record, name, list(now.values())))
    rows = [
        _ranked(item, entry, said[item.id], says[item.id], once[item.id], now[item.id])
        for item in record.items(name)
        if item.id in common
    ]
    return sorted(rows, key=_badness)


def doubtful(rows: Sequence[Ranked]) -> list[Ranked]:
    """Rows of a safety set that words alone don't decide: for people, best blind."""
    return [
        row
        for row in rows
        if DOUBTFUL in (*row.before_score.faults, *row.after_score.faults)
        or row.change in ("broken", "fixed")
    ]


def of_row(entry: Metric, score: RowScore) -> float | None:
    """A metric of a single row, also where the figure is made of the whole set."""
    if entry.stem == "macro_f1":
        return score.values.get(f"accuracy:{entry.field}" if entry.field else "folded")
    value = entry.of_row(score)
    if entry.kind == "corpus" and value is not None:
        return entry.total([value])
    return None if value is None else float(value)


def _main(record: Record, name: str, scores: Sequence[RowScore]) -> str:
    return main_metric(record.manifest().spec(name), catalogue.present(scores))


def _ranked(
    item: Item, entry: Metric, before: Answer, after: Answer, once: RowScore, now: RowScore
) -> Ranked:
    was, is_now = of_row(entry, once), of_row(entry, now)
    sign = -1 if entry.better == "lower" else 1
    lost = sign * (was - is_now) if was is not None and is_now is not None else 0.0
    change = _change(entry, was, is_now)
    return Ranked(item, before, after, once, now, change, _note(entry, was, is_now, now), lost)


def _change(entry: Metric, was: float | None, now: float | None) -> Change:
    if entry.unit not in ("share", "points"):  # no half of a range to be right from: only moves
        if was is None or now is None or was == now:
            return "right"
        return "broken" if (now > was) == (entry.better == "lower") else "fixed"
    once, again = (_is_right(entry, value) for value in (was, now))
    if once:
        return "right" if again else "broken"
    return "fixed" if again else "wrong"


def _is_right(entry: Metric, value: float | None) -> bool:
    if value is None:
        return False
    share = value / 100 if entry.unit == "points" else value
    return share < _ENOUGH if entry.better == "lower" else share >= _ENOUGH


def _note(entry: Metric, was: float | None, now: float | None, score: RowScore) -> str:
    parts = list(score.faults)
    if entry.kind != "share" and was is not None and now is not None:
        parts.insert(0, f"{entry.title} {shown(entry, was)} → {shown(entry, now)}")
    return "; ".join(parts)


def _badness(row: Ranked) -> tuple[int, float, float]:
    once, now = (score.counts.get("nll") for score in (row.before_score, row.after_score))
    worse = now[0] / now[1] - once[0] / once[1] if once and now else 0.0
    return _ORDER[row.change], -row.lost, -worse
