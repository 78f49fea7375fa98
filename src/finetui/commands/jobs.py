"""``finetui jobs``: list the jobs with their derived states, or compare the training runs."""

from __future__ import annotations

import argparse

from finetui.commands import console
from finetui.display import duration, size
from finetui.jobs.folder import Job, list_jobs
from finetui.jobs.liveness import state
from finetui.jobs.runs import ORDERS, Run, matching, ordered, runs
from finetui.recipe.compare import differences, recipe_of_run
from finetui.workspace import Workspace

_HEADER = ("run", "state", "best eval", "format", "right", "steps", "tokens/s", "peak", "time")


def parser() -> argparse.ArgumentParser:
    made = console.parser("List the jobs of the workspace, newest first.", json=True)
    made.add_argument(
        "--compare",
        nargs="?",
        const="",
        metavar="REGEX",
        help="training runs beside each other; REGEX looks at name, state and recipe (rank=(8|16))",
    )
    made.add_argument(
        "--by", choices=ORDERS[1:], default="", help="the best first (with --compare)"
    )
    made.add_argument(
        "--diff", action="store_true", help="where their recipes differ (with --compare)"
    )
    return made


def run(arguments: argparse.Namespace) -> int:
    workspace = console.workspace_of(arguments)
    if arguments.compare is not None:
        return compare(workspace, arguments)
    jobs = list_jobs(workspace.jobs)
    if arguments.json:
        for job in jobs:
            console.emit(as_row(job))
    elif jobs:
        console.table([_cells(job) for job in jobs], ("job", "kind", "state", "what is known"))
    else:
        console.say("no jobs yet. Start one: finetui train RECIPE")
    return 0


def as_row(job: Job) -> dict[str, object]:
    """One job as a JSON value: identity, path and derived state."""
    now = state(job)
    return {
        "id": job.id, "kind": job.kind, "slug": job.slug, "path": str(job.path),
        "state": now.name, "sentence": now.sentence, "since": now.since,
        "waits": now.waits,
    }  # fmt: skip


def _cells(job: Job) -> tuple[str, str, str, str]:
    now = state(job)
    return job.id, job.kind, now.name, now.sentence


def compare(workspace: Workspace, arguments: argparse.Namespace) -> int:
    """What the training runs came to, in one table; 1 when none fits."""
    found = matching(runs(workspace.jobs, workspace.cache), arguments.compare)
    found = ordered(found, arguments.by)
    if arguments.json:
        for one in found:
            console.emit(as_figures(one))
    elif found:
        console.table([_figures(one) for one in found], _HEADER)
    if not found:
        console.say("no training run fits.")
    elif arguments.diff and not arguments.json:
        _tell_differences(found, workspace)
    return 0 if found else 1


def _tell_differences(found: list[Run], workspace: Workspace) -> None:
    recipes = [recipe_of_run(one.job.spec()) for one in found]
    rows = [(each.field, *each.values) for each in differences(recipes, workspace.root)]
    console.out()
    console.table(rows, ("field", *(one.job.slug for one in found)))


def as_figures(one: Run) -> dict[str, object]:
    """One run as a JSON value; null where nothing is known."""
    return {
        "id": one.job.id,
        "slug": one.job.slug,
        "state": one.state.name,
        "steps": one.steps,
        "total_steps": one.total_steps,
        "best_eval": one.best_eval,
        "best_step": one.best_step,
        "format": one.format,
        "accuracy": one.accuracy,
        "tokens_per_s": one.tokens_per_s,
        "peak_bytes": one.peak,
        "seconds": one.seconds,
        "exact": one.exact,
    }


def _figures(one: Run) -> tuple[str, ...]:
    def told(value: float | None, form: str) -> str:
        return "–" if value is None else form.format(value)

    about = "" if one.exact else "≈"
    steps = f"{one.steps}" + (f"/{one.total_steps}" if one.total_steps else "")
    return (
        one.job.slug,
        one.state.name,
        about + told(one.best_eval, "{:.4g}"),
        told(one.format, "{:.0%}"),
        told(one.accuracy, "{:.0%}"),
        steps,
        told(one.tokens_per_s, "{:,.0f}"),
        "–" if one.peak is None else size(one.peak),
        "–" if one.seconds is None else duration(one.seconds),
    )
