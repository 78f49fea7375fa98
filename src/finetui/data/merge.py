"""Merge duplicates: which row of a cluster stays, and dropping the others as one operation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finetui.data.dataset import DataSet
from finetui.data.findings import Cluster
from finetui.data.records import read_record
from finetui.data.strict import RowError
from finetui.errors import UserError

Keep = Literal["longest", "newest", "first"]
REASON = "near-duplicate"

# Where rows say when they were made; of several the first is believed.
_TIMES = ("updated_at", "created_at", "timestamp", "created", "updated", "datetime", "date", "time")


@dataclass(frozen=True)
class Merged:
    """What `merge` did: clusters that lost rows, and how many rows were dropped."""

    clusters: int
    rows: int


def merge(dataset: DataSet, clusters: Iterable[Cluster], keep: Keep | int = "longest") -> Merged:
    """Keep one row of each cluster and drop the others, as one operation of the journal.

    Raises UserError as `choose` does, or when the data set cannot be edited.
    """
    chosen = [choose(dataset, cluster, keep) for cluster in clusters]
    dropped = [row for rows in chosen for row in rows]
    if dropped:
        named = f"line {dataset.source.line(keep)}" if isinstance(keep, int) else keep
        dataset.drop(dropped, f"merge duplicates: kept {named}", REASON)
    return Merged(sum(map(bool, chosen)), len(dropped))


def choose(dataset: DataSet, cluster: Cluster, keep: Keep | int = "longest") -> list[int]:
    """The rows of a cluster to drop, so that one stays; those dropped already do not count.

    ``keep`` is ``longest`` (most text), ``newest`` (by a date in the rows where all have one,
    otherwise the last in the file), ``first``, or the row to keep. Raises UserError for a row
    that is not in the cluster or is dropped.
    """
    rows = [row for row in cluster.rows if dataset.state(row).kept]
    if isinstance(keep, int) and keep not in rows:
        raise UserError(
            f"line {dataset.source.line(keep)} is not one of these rows.",
            str(dataset.path),
            "Choose a row of the cluster that is not dropped.",
        )
    if len(rows) < 2:
        return []
    stays = keep if isinstance(keep, int) else _CHOICES[keep](dataset, rows)
    return [row for row in rows if row != stays]


def _longest(dataset: DataSet, rows: Sequence[int]) -> int:
    """The row with most text; of equals the first."""
    return max(rows, key=lambda row: (_letters(dataset, row), -row))


def _letters(dataset: DataSet, row: int) -> int:
    try:
        record, _ = read_record(dataset.value(row), dataset.shape)
    except RowError:
        return 0
    return sum(len(turn.content) for turn in record.all_turns()) if record else 0


def _newest(dataset: DataSet, rows: Sequence[int]) -> int:
    """The row with the latest date; the last one where not all have dates of one kind."""
    values = [_value(dataset, row) for row in rows]
    for name in _TIMES:
        times = [value.get(name) for value in values]
        if all(isinstance(time, str) and time for time in times) or all(map(_is_number, times)):
            return max(zip(times, rows, strict=True))[1]
    return rows[-1]


def _value(dataset: DataSet, row: int) -> dict[str, Any]:
    try:
        value = dataset.value(row)
    except RowError:
        return {}
    return value if isinstance(value, dict) else {}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _first(dataset: DataSet, rows: Sequence[int]) -> int:
    return rows[0]


_CHOICES = {"longest": _longest, "newest": _newest, "first": _first}
