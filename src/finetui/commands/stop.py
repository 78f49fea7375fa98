"""``finetui stop``: ask a job to save and stop at the next step; take a waiting one out."""

from __future__ import annotations

import argparse

from finetui.commands import console
from finetui.jobs import control
from finetui.jobs.folder import find_job
from finetui.jobs.liveness import state


def parser() -> argparse.ArgumentParser:
    made = console.parser("Ask a job to save what it has and stop at the next step.")
    made.add_argument("job", help="its id, folder, or part of the id")
    made.add_argument(
        "--best", action="store_true", help="take the best weights so far, and score them"
    )
    return made


def run(arguments: argparse.Namespace) -> int:
    job = find_job(console.workspace_of(arguments).jobs, arguments.job)
    now = state(job)
    if not (now.alive or now.waits):
        console.say(f"{job.id} is not running: {now.name}. {now.sentence}")
        return 1
    said = control.request(job, "stop_best" if arguments.best else "stop")
    console.say(f"{said}; follow it: finetui watch {job.id}")
    return 0
