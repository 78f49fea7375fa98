"""``finetui watch``: follow a job line by line; the route for scripts and screen readers."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from finetui.commands import console
from finetui.display import clean, duration
from finetui.jobs.events import EventTail
from finetui.jobs.folder import Job, find_job
from finetui.jobs.liveness import state
from finetui.jobs.monitor import JobReader, Snapshot

_LOOK_EVERY_S = 0.5
_FIGURES_EVERY_S = 5.0

Write = Callable[[str], None]


def parser() -> argparse.ArgumentParser:
    made = console.parser("Follow a job until it ends; leaving does not stop it.", json=True)
    made.add_argument("job", nargs="?", default="last",
                      help="its id, folder, or part of the id (default: the newest)")  # fmt: skip
    made.add_argument("--once", action="store_true", help="print what is there and return")
    return made


def run(arguments: argparse.Namespace) -> int:
    job = find_job(console.workspace_of(arguments).jobs, arguments.job)
    if arguments.json:
        events(job, once=arguments.once)
    else:
        follow(job, console.out, once=arguments.once)
    return ended(job)


def ended(job: Job) -> int:
    """Say how a job stands; 1 when it did not end well."""
    now = state(job)
    console.say(f"{job.id}: {now.name}. {now.sentence}")
    return 1 if now.name in ("failed", "interrupted") else 0


def events(job: Job, once: bool = False) -> None:
    """Print every event as one JSON value a line until the job has ended."""
    tail = EventTail(job)
    while True:
        over = once or not state(job).alive  # looked at before the read, so that none is missed
        for event in tail.read():
            console.emit(event)
        if over:
            return
        time.sleep(_LOOK_EVERY_S)


def follow(job: Job, write: Write, once: bool = False) -> None:
    """Write what happens, and the figures every few seconds, until the job has ended."""
    reader, told = JobReader(job), 0.0
    last_figures = ""
    next_figures = 0.0
    while True:
        over = once or not state(job).alive
        if snapshot := reader.poll():
            fresh = [line for line in snapshot.events if line.t > told]
            for line in fresh:
                write(clean(f"{time.strftime('%H:%M:%S', time.localtime(line.t))}  {line.text}"))
            told = fresh[-1].t if fresh else told
            now_figures = figures(snapshot)
            if now_figures not in ("", last_figures) and (over or time.monotonic() >= next_figures):
                write(now_figures)
                last_figures, next_figures = now_figures, time.monotonic() + _FIGURES_EVERY_S
        if over:
            return
        time.sleep(_LOOK_EVERY_S)


def figures(snapshot: Snapshot) -> str:
    """One line of figures: the stage's progress, or step, losses, rate and time left."""
    if snapshot.progress is not None:
        return (
            f"          {snapshot.progress.text} {snapshot.progress.done}/{snapshot.progress.total}"
        )
    if not snapshot.step:
        return ""
    parts = [f"step {snapshot.step}/{snapshot.total_steps or '?'}"]
    for name, value in (("loss", snapshot.loss), ("eval", snapshot.eval_loss)):
        if value is not None:
            parts.append(f"{name} {value:.4g}")
    if snapshot.tokens_per_s:
        parts.append(f"{snapshot.tokens_per_s:,.0f} tokens/s")
    if snapshot.eta_s:
        parts.append(f"{duration(snapshot.eta_s)} left")
    return "          " + "  ".join(parts)
