"""A set cut into slices by label, length, language, finding: where it is good, where it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetui.evaluation import catalogue, paired
from finetui.evaluation.catalogue import Metric, metric
from finetui.evaluation.figures import column
from finetui.evaluation.metrics import mcnemar
from finetui.evaluation.record import Item, Record, RowScore
from finetui.evaluation.scoring import main_metric

_RESAMPLES = 500
_MOST_VALUES = 200


@dataclass(frozen=True)
class Slice:
    """Rows with one value in one column, as two subjects did on them; ``p`` after Holm.

    ``low`` and ``high`` are the 95 % interval of the difference ``after`` less ``before``.
    """

    column: str
    value: str
    n: int
    before: float
    after: float
    difference: float
    low: float
    high: float
    fixed: int
    broken: int
    p: float


def table(record: Record, name: str, before: str, after: str, metric_name: str = "") -> list[Slice]:
    """The slices of a set, column by column, the worst value first.

    Columns are the tags of the items and, for labels, what the references say ("urgency").
    """
    manifest = record.manifest()
    scores = {who: record.scores(who, name) for who in (before, after)}
    spec = manifest.spec(name)
    asked = metric_name or main_metric(spec, catalogue.present(scores[after]))
    entry = metric(asked)
    columns = [column(entry, scores[who]) for who in (before, after)]
    common = columns[0].keys() & columns[1].keys()
    groups = _groups(record.items(name), scores[after], common)
    found = [_slice(entry, where, ids, columns, manifest.seed) for where, ids in groups.items()]
    return _ordered(entry, found)


def _groups(
    items: Sequence[Item], scores: Sequence[RowScore], common: set[str]
) -> dict[tuple[str, str], list[str]]:
    """Row ids by (column, value); columns with too many values, as ids are, are left out."""
    groups: dict[tuple[str, str], list[str]] = {}
    for item in items:
        for name, values in item.tags.items():
            for value in dict.fromkeys(values):
                groups.setdefault((name, value), []).append(item.id)
    for score in scores:
        for field, (wanted, _) in score.labels.items():
            groups.setdefault((field or "label", wanted), []).append(score.id)
    per_column: dict[str, int] = {}
    for name, _ in groups:
        per_column[name] = per_column.get(name, 0) + 1
    kept = {
        where: [id for id in ids if id in common]
        for where, ids in groups.items()
        if 2 <= per_column[where[0]] <= _MOST_VALUES
    }
    return {where: ids for where, ids in kept.items() if ids}


def _slice(
    entry: Metric,
    where: tuple[str, str],
    ids: Sequence[str],
    columns: Sequence[Mapping[str, Any]],
    seed: int,
) -> Slice:
    once, now = ([values[id] for id in ids] for values in columns)
    was, is_now = entry.total(once), entry.total(now)
    fixed = broken = 0
    if entry.kind == "share":
        told = mcnemar([value > 0 for value in once], [value > 0 for value in now])
        low, high = paired.tango(told.fixed, told.broken, len(ids))
        fixed, broken, p = told.fixed, told.broken, told.p
        if entry.better == "lower":
            fixed, broken = broken, fixed
    else:
        drawn = paired.bootstrap(
            {"once": (entry.total, once), "now": (entry.total, now)}, seed, _RESAMPLES
        )
        moves = [b - a for a, b in zip(drawn["once"], drawn["now"], strict=True)]
        low, high = paired.interval(moves, len(ids))
        p = paired.bootstrap_p(moves, len(ids))
    return Slice(*where, len(ids), was, is_now, is_now - was, low, high, fixed, broken, p)


def _ordered(entry: Metric, found: Sequence[Slice]) -> list[Slice]:
    """With Holm's p-values over all slices; columns as met, in them the worst figure first."""
    adjusted = paired.holm([slice.p for slice in found])
    told = [Slice(**{**slice.__dict__, "p": p}) for slice, p in zip(found, adjusted, strict=True)]
    order = {name: place for place, name in enumerate(dict.fromkeys(row.column for row in told))}
    sign = -1 if entry.better == "lower" else 1
    return sorted(told, key=lambda row: (order[row.column], sign * row.after, -row.n))
