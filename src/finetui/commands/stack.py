"""``finetui stack``: where a job's processes stand, for a run that gives no sign of life."""

from __future__ import annotations

import argparse
from pathlib import Path

from finetui.commands import console
from finetui.display import clean_block
from finetui.errors import UserError
from finetui.jobs import stack
from finetui.jobs.folder import Job, find_job
from finetui.jobs.liveness import state


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Say where a job's processes stand: the stack of every thread, most recent call first. "
        "The run goes on; nothing is ended."
    )
    made.add_argument("job", help="its id, folder, or part of the id")
    return made


def run(arguments: argparse.Namespace) -> int:
    given = Path(arguments.job)
    known = "/" in arguments.job and (given / "spec.toml").is_file()
    job = Job(given) if known else find_job(console.workspace_of(arguments).jobs, arguments.job)
    now = state(job)
    console.say(f"{job.id}: {now.name}. {now.sentence}")
    if now.ended:
        raise UserError("the job has ended; nothing of it stands anywhere.", job.id)
    console.out(clean_block(stack.ask(job)))
    return 0
