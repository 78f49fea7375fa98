"""``finetui watch``: follow a job line by line; the route for scripts and screen readers."""

from __future__ import annotations

import argparse
import time

from finetui.commands import console
from finetui.commands.finding_jobs import job_named
from finetui.jobs.events import EventTail
from finetui.jobs.folder import Job
from finetui.jobs.liveness import LIVE, state
from finetui.jobs.monitor import sentence

_LOOK_EVERY_S = 0.5


def parser() -> argparse.ArgumentParser:
    made = console.parser("Follow a job until it ends; leaving does not stop it.", json=True)
    made.add_argument("job", nargs="?", default="", help="its id, folder, or part of the id "
                      "(default: the newest)")  # fmt: skip
    made.add_argument("--once", action="store_true", help="print what is there and return")
    return made


def run(arguments: argparse.Namespace) -> int:
    job = job_named(console.workspace_of(arguments), arguments.job)
    follow(job, as_json=arguments.json, once=arguments.once)
    now = state(job)
    console.say(f"{job.id}: {now.name}. {now.sentence}")
    return 1 if now.name in ("failed", "interrupted") else 0


def follow(job: Job, *, as_json: bool = False, once: bool = False) -> None:
    """Print every event until the job has ended."""
    tail = EventTail(job)
    while True:
        over = once or state(job).name not in LIVE  # looked at before the read: no event is missed
        for event in tail.read():
            if as_json:
                console.emit(event)
            elif line := sentence(event):
                console.out(line)
        if over:
            return
        time.sleep(_LOOK_EVERY_S)
