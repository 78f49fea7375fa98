"""``finetui jobs``: list the jobs with their derived states."""

from __future__ import annotations

import argparse

from finetui.commands import console
from finetui.jobs.folder import Job, list_jobs
from finetui.jobs.liveness import state


def parser() -> argparse.ArgumentParser:
    return console.parser("List the jobs of the workspace, newest first.", json=True)


def run(arguments: argparse.Namespace) -> int:
    workspace = console.workspace_of(arguments)
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
    }  # fmt: skip


def _cells(job: Job) -> tuple[str, str, str, str]:
    now = state(job)
    return job.id, job.kind, now.name, now.sentence
