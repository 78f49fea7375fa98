"""Training runs beside each other: what each came to, and a text to find it by."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetui.errors import UserError
from finetui.jobs import digest, monitor
from finetui.jobs.folder import Job, list_jobs
from finetui.jobs.liveness import JobState, state
from finetui.jobs.reading import Reading

SLOTS = 6
"""How many runs can be told apart over each other: each has a letter and a colour."""

ORDERS = ("", "best_eval", "format", "accuracy", "tokens_per_s", "peak", "seconds")
"""What runs can be ordered by; "" is newest first."""
_MORE_IS_BETTER = ("format", "accuracy", "tokens_per_s")


@dataclass(frozen=True)
class Run:
    """One training run; None where nothing is known. Losses are per trained token, `format` and
    `accuracy` held-out scores after training from 0 to 1, `peak` bytes, `seconds` working time.

    `text` is what a filter looks at: name, state and the recipe's fields as `table.key=value`.
    `exact` is False where a long history was only sampled.
    """

    job: Job
    state: JobState
    text: str
    steps: int = 0
    total_steps: int | None = None
    best_eval: float | None = None
    best_step: int | None = None
    format: float | None = None
    accuracy: float | None = None
    tokens_per_s: float | None = None
    peak: float | None = None
    seconds: float | None = None
    exact: bool = True


def runs(jobs_dir: Path, cache: Path | None) -> list[Run]:
    """Return the training runs of a workspace, newest first."""
    return [run_of(job, cache) for job in list_jobs(jobs_dir) if job.kind == "train"]


def run_of(job: Job, cache: Path | None) -> Run:
    """Return what is known of one run, from its outcome and else from its events."""
    found = state(job)
    metrics = _table((job.outcome() or {}).get("metrics"))
    after = _table(metrics.get("after"))
    reading, exact = _read(job, cache)
    known, curves = reading.history.now(), reading.history.curves
    speed = curves["tokens_per_s"].view()
    typical = speed.values.part(0, len(speed))
    return Run(
        job=job,
        state=found,
        text=search_text(job, found.name),
        steps=known.get("step", 0),
        total_steps=known.get("total_steps"),
        best_eval=_first(metrics.get("best_eval_loss"), known.get("best_eval_loss")),
        best_step=known.get("best_eval_step"),
        format=_first(after.get("format")),
        accuracy=_first(after.get("accuracy")),
        tokens_per_s=typical.total / typical.count if typical.count else None,
        peak=_first(metrics.get("peak_bytes"), known.get("memory_peak"), known.get("rss")),
        seconds=reading.history.elapsed(None) or None,
        exact=exact,
    )


def _read(job: Job, cache: Path | None) -> tuple[Reading, bool]:
    """The history of a job, and whether it is all of it: a digest's, or the whole of a short one;
    samples of a long one."""
    reading = (digest.load(cache, job) if cache is not None else None) or Reading(job)
    if reading.behind() > monitor.SHORT_BYTES:
        reading.sample()
        return reading, False
    while reading.advance():
        pass
    return reading, True


def search_text(job: Job, state_name: str) -> str:
    """Return a run's name, state and recipe fields, one a line."""
    try:
        spec = job.spec()
    except UserError:
        spec = {}
    fields = _flat(_table(spec.get("recipe")), "")
    return "\n".join([job.id, state_name, *fields])


def matching(found: Sequence[Run], pattern: str) -> list[Run]:
    """Return the runs whose text has a regular expression, upper and lower case alike.

    Raises UserError for one that is none.
    """
    try:
        wanted = re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    except re.error as error:
        raise UserError(
            f"not a regular expression: {error}.", pattern, "For example: rank=(8|16)"
        ) from error
    return [run for run in found if wanted.search(run.text)]


def ordered(found: Sequence[Run], by: str) -> list[Run]:
    """Return runs with the best first by one of ORDERS; those without the figure come last."""
    if not by:
        return list(found)
    sign = -1 if by in _MORE_IS_BETTER else 1

    def place(run: Run) -> tuple[bool, float]:
        value: float | None = getattr(run, by)
        return (value is None, sign * value if value is not None else 0.0)

    return sorted(found, key=place)


def slots(all_runs: Sequence[Run], wanted: Sequence[Run]) -> dict[Path, int]:
    """Give each wanted run one of SLOTS places, the same one whenever it can be.

    A run's own place is its number in the workspace (oldest first); where that is taken by an
    earlier one of `wanted`, it gets the next that is free.
    """
    by_age = {run.job.path: number for number, run in enumerate(reversed(all_runs))}
    given: dict[Path, int] = {}
    for run in wanted[:SLOTS]:
        own = by_age.get(run.job.path, 0) % SLOTS
        free = [slot for slot in range(SLOTS) if slot not in given.values()]
        given[run.job.path] = min(free, key=lambda slot: (slot - own) % SLOTS)
    return given


def _flat(table: Mapping[str, Any], prefix: str) -> list[str]:
    lines = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}={value}")
    return lines


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _first(*values: Any) -> float | None:
    """The first that is a finite number."""
    for value in values:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return None
