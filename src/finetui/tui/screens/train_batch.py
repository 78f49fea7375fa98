"""The rows behind a step, for worker threads: their losses, their texts, and dropping them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import msgspec

from finetui.data.dataset import DataSet, open_dataset
from finetui.display import plural
from finetui.errors import BROKEN, UserError
from finetui.jobs import control
from finetui.jobs.folder import Job
from finetui.jobs.liveness import state
from finetui.jobs.rowlosses import RowLosses
from finetui.tui.screens import data_view

if TYPE_CHECKING:
    from finetui.workspace import Workspace

_MOST = 512
"""Rows of a step that are looked up; a larger batch shows the worst of them."""
_LONGEST = 4000
"""Characters of a turn that are shown."""


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One row of a step: ``file`` and ``line`` as the run counts them, ``mean`` the loss of a
    trained token (or of the pair), ``before`` the median of its earlier visits. ``row`` is its
    0-based number in ``path``, None when that cannot be told any more."""

    file: int
    line: int
    path: Path | None = None
    row: int | None = None
    mean: float | None = None
    before: float | None = None
    visits: int = 0
    items: int = 0
    skipped: bool = False
    turns: tuple[tuple[str, str], ...] = ()
    out: str = ""
    """``dropped``, ``set aside`` or ``edited``; empty for a row as it came."""

    @property
    def name(self) -> str:
        return f"{self.path.name if self.path else self.file}:{self.line}"


def rows_of_steps(
    job: Job, files: Sequence[str], first: int, last: int, workspace: Workspace | None
) -> list[BatchRow]:
    """The rows of the updates from ``first`` to ``last``, the highest loss first.

    Runs that kept no row losses tell only which rows they were. Raises UserError when a data
    file cannot be read.
    """
    losses = RowLosses(job)
    found = [
        BatchRow(each.file, each.line, mean=each.mean, items=each.items, skipped=each.skipped)
        for each in losses.rows_between(first, last)[:_MOST]
    ]
    found = found or [BatchRow(file, line) for file, line in _told_rows(job, last)[:_MOST]]
    found = [_with_history(losses, row, first) for row in found]
    return with_texts(found, files, workspace)


def stubborn_rows(
    job: Job, files: Sequence[str], workspace: Workspace | None, count: int = 200
) -> list[BatchRow]:
    """The rows that still have the highest loss after several visits, the highest first."""
    found = [
        BatchRow(each.file, each.line, mean=each.newest, before=each.first, visits=each.visits)
        for each in RowLosses(job).stubborn(count)
    ]
    return with_texts(found, files, workspace)


def _with_history(losses: RowLosses, row: BatchRow, first: int) -> BatchRow:
    visits = losses.history(row.file, row.line)
    earlier = [each.mean for each in visits if each.step < first and math.isfinite(each.mean)]
    return replace(row, visits=len(visits), before=median(earlier) if earlier else None)


def _told_rows(job: Job, step: int) -> list[tuple[int, int]]:
    """The rows that the step's event names."""
    wanted = f'"step":{step},'.encode()
    for path in reversed(job.events_files()):
        with path.open("rb") as lines:
            for line in lines:
                if wanted in line and b'"kind":"step"' in line:
                    return _pairs(line)
    return []


def _pairs(line: bytes) -> list[tuple[int, int]]:
    try:
        rows = msgspec.json.decode(line).get("rows") or []
        return [(int(file), int(number)) for file, number in rows]
    except (AttributeError, TypeError, OverflowError, *BROKEN):
        return []


# -- in the data set -------------------------------------------------------------------------


def located(name: str, workspace: Workspace | None) -> Path | None:
    """A data file of a run where it is now: at its path, or at the same place of a workspace that
    was moved."""
    path = Path(name)
    if path.is_file() or workspace is None:
        return path if path.is_file() else None
    parts = path.parts[1:]
    places = (workspace.root.joinpath(*parts[start:]) for start in range(len(parts)))
    return next((place for place in places if place.is_file()), None)


def with_texts(
    rows: Sequence[BatchRow], files: Sequence[str], workspace: Workspace | None
) -> list[BatchRow]:
    """The rows with their place in the data set, their turns, and what became of them."""
    found = list(rows)
    for file in {row.file for row in rows}:
        path = located(files[file], workspace) if 0 <= file < len(files) else None
        if path is None:
            continue
        with open_dataset(path, workspace) as data:
            data.build_index()
            found = [_looked_up(data, row) if row.file == file else row for row in found]
    return found


def _looked_up(data: DataSet, row: BatchRow) -> BatchRow:
    number = row_of_line(data, row.line)
    if number is None:
        return replace(row, path=data.path)
    now = data.state(number)
    out = "dropped" if now.dropped else "set aside" if now.quarantined else ""
    turns = tuple(
        (role, text[:_LONGEST]) for _, role, text in data_view.turns_of(data, number)
    ) or (("", data.text(number)[:_LONGEST]),)
    edited = "edited" if now.text is not None else ""
    return replace(row, path=data.path, row=number, turns=turns, out=out or edited)


def row_of_line(data: DataSet, line: int) -> int | None:
    """The row that begins on a line (1-based); None when no row does."""
    source = data.source
    row = bisect_left(range(source.rows), line, key=source.line)
    return row if row < source.rows and source.line(row) == line else None


def drop(workspace: Workspace | None, job: Job, rows: Sequence[BatchRow], reason: str) -> str:
    """Drop rows in the journal, and have a run that goes on leave them out; says what was done.

    Raises UserError when the journal or the run cannot take it.
    """
    if workspace is None:
        raise UserError("dropping rows needs a workspace.")
    count = 0
    for path, numbers in by_file(rows):
        with open_dataset(path, workspace) as data:
            data.build_index()
            count += data.drop(numbers, reason=reason)
    said = f"{plural(count, 'row')} dropped; the file stays as it is"
    if state(job).ended:
        return f"{said}, and the next run learns without them."
    control.request(job, "exclude", rows=[[row.file, row.line] for row in rows])
    return f"{said}. The run leaves {'them' if count != 1 else 'it'} out from its next step on."


def by_file(rows: Iterable[BatchRow]) -> list[tuple[Path, list[int]]]:
    """Row numbers of each data file; rows whose place is not known are left out."""
    found: dict[Path, list[int]] = {}
    for row in rows:
        if row.path is not None and row.row is not None:
            found.setdefault(row.path, []).append(row.row)
    return list(found.items())
