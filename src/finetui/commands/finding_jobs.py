"""Which job a person means."""

from __future__ import annotations

from pathlib import Path

from finetui.errors import UserError
from finetui.jobs.folder import Job, list_jobs
from finetui.workspace import Workspace


def job_named(workspace: Workspace, name: str, kind: str = "") -> Job:
    """The job with this id, folder or part of an id; the newest (of a kind) when empty.

    Raises UserError when none or several match.
    """
    if name and Path(name).is_dir():
        return Job(Path(name).resolve())
    jobs = [job for job in list_jobs(workspace.jobs) if kind in ("", job.kind)]
    if not jobs:
        raise UserError(f"no {kind} jobs yet.".replace("  ", " "), str(workspace.jobs),
                        "Start one: finetui train RECIPE")  # fmt: skip
    exact = [job for job in jobs if job.id == name]
    found = exact or [job for job in jobs if name in job.id]
    if not found:
        raise UserError(f"no job matches {name!r}.", fix="List them: finetui jobs")
    if name and len(found) > 1:
        raise UserError(f"{name!r} matches {len(found)} jobs: {', '.join(j.id for j in found[:4])}.")
    return found[0]
