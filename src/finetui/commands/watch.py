"""``finetui watch``: follow a job line by line; the route for scripts and screen readers."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from finetui import readonly
from finetui.commands import console
from finetui.commands.tui import open_on, watched
from finetui.display import clean, duration, moment
from finetui.errors import UserError
from finetui.jobs.events import Event, EventTail
from finetui.jobs.folder import Job, find_job
from finetui.jobs.history import History
from finetui.jobs.liveness import state
from finetui.jobs.monitor import JobReader
from finetui.jobs.reading import Reading
from finetui.jobs.series import Series
from finetui.jobs.snapshot import EventLine, Progress
from finetui.workspace import Workspace

_LOOK_EVERY_S = 0.5
_FIGURES_EVERY_S = 5.0
_STEPS_BEFORE = 20
_POINTS = 400  # of a curve that is drawn as text
# So that the curves of a run that is followed for days do not fill the memory: nobody draws them.
_FORGET_AFTER = 10_000

Write = Callable[[str], None]


def parser() -> argparse.ArgumentParser:
    made = console.parser("Follow a job until it ends; leaving does not stop it.", json=True)
    made.add_argument("job", nargs="?", default="last",
                      help="its id, folder, or part of the id (default: the newest)")  # fmt: skip
    made.add_argument("--once", action="store_true", help="print what is there and return")
    made.add_argument("--all", action="store_true",
                      help=f"every step from the first on (default: the last {_STEPS_BEFORE} "
                      "that are there, then all that come)")  # fmt: skip
    made.add_argument("--chart", nargs="?", const="loss", default="", metavar="CURVE",
                      help="draw a curve as far as it is, and return (default: loss)")  # fmt: skip
    made.add_argument("--full", action="store_true", help="the live screen instead of lines")
    made.add_argument("--readonly", action="store_true",
                      help="write nothing in its workspace: for somebody else's run")  # fmt: skip
    return made


def run(arguments: argparse.Namespace) -> int:
    workspace, job = _meant(arguments)
    if arguments.full:
        return full(workspace, job, arguments)
    if arguments.chart:
        console.out(chart(workspace, job, arguments.chart))
        return 0
    if arguments.json:
        events(job, once=arguments.once)
    else:
        before = None if arguments.all else _STEPS_BEFORE
        steps(job, console.out, once=arguments.once, before=before)
    return ended(job)


def _meant(arguments: argparse.Namespace) -> tuple[Workspace, Job]:
    """The job and its workspace; a job that is named by its folder brings its own."""
    place = Path(arguments.job)
    if arguments.readonly and "/" in arguments.job:
        workspace, job = watched(place)
        if job is None:
            raise UserError("is no run's folder.", arguments.job, "See: finetui jobs")
        return workspace, Job(job)
    workspace = console.workspace_of(arguments)
    if arguments.readonly:
        readonly.begin(workspace.root)
    return workspace, find_job(workspace.jobs, arguments.job)


def full(workspace: Workspace, job: Job, arguments: argparse.Namespace) -> int:
    """Open the workstation on this job's live screen."""
    if arguments.json or arguments.once:
        raise UserError("--full is a screen.", fix="Leave out --json and --once.")
    from finetui.tui.messages import OpenJob

    return open_on(workspace, {}, "train", OpenJob(job.path))


def chart(workspace: Workspace, job: Job, name: str) -> str:
    """A curve of a run as plain text. Raises UserError when the run has none of this name."""
    from finetui.commands.plots import lines

    reader = JobReader(job, cache=workspace.cache)
    found = reader.poll()
    while found is not None and not found.exact:
        time.sleep(_LOOK_EVERY_S)
        found = reader.poll() or found
    series = dict(found.series) if found else {}
    names = [name, "eval_loss", "probe_loss"] if name == "loss" else [name]
    text = lines([(one, *_drawn(series[one])) for one in names if one in series], "step")
    if not text:
        known = ", ".join(sorted(one for one, curve in series.items() if len(curve)))
        raise UserError(f"has no curve {name!r}.", job.id, f"It has: {known or 'none yet'}.")
    return text


def _drawn(curve: Series) -> tuple[list[float], list[float]]:
    """At most 400 points of a curve, each the mean of its steps."""
    if not len(curve):
        return [], []
    first, last = curve.step(0), curve.last_step
    width = max(1.0, (last - first + 1) / _POINTS)
    parts = curve.parts(first, width, min(_POINTS, math.ceil((last - first + 1) / width)))
    seen = [(first + n * width, part) for n, part in enumerate(parts) if part.count]
    return [step for step, _ in seen], [part.total / part.count for _, part in seen]


def ended(job: Job) -> int:
    """Say how a job stands; 1 when it did not end well."""
    now = state(job)
    console.say(f"{job.id}: {now.name}. {now.sentence}")
    return 1 if now.name in ("failed", "interrupted") else 0


def events(job: Job, once: bool = False) -> None:
    """Print every event as one JSON value a line until the job has ended."""
    for event in _coming(EventTail(job), job, once):
        if event is not None:
            console.emit(event)


def steps(job: Job, write: Write, once: bool = False, before: int | None = None) -> None:
    """Write a line for each step event and for whatever else happens, until the job has ended.

    Of the steps that are there already only the last ``before`` are written, None for all.
    """
    reading = Reading(job)
    if before is not None:
        reading.skim()
        if any(reading.positions.values()):  # samples do not know which evaluation was the best
            reading.history.ledger.figures["best_eval_loss"] = -math.inf
    teller = Teller(reading.history)
    waiting: list[str] = []
    for event in _coming(EventTail(job, reading.positions), job, once):
        if event is None:
            _write_last(waiting, before, write)
            waiting, before = [], None
            continue
        lines = teller.lines(event)
        if before is None:
            for line in lines:
                write(line)
        else:
            waiting += lines
            if event["kind"] == "step":
                del waiting[: max(0, len(waiting) - 2 * before)]
    _write_last(waiting, before, write)


def _write_last(lines: list[str], count: int | None, write: Write) -> None:
    for line in lines if count is None else lines[-count:]:
        write(line)


def _coming(tail: EventTail, job: Job, once: bool) -> Iterator[Event | None]:
    """The events until the job has ended; None whenever there are no more for now."""
    while True:
        over = once or not _goes_on(job)  # looked at before the read, so that none is missed
        while found := tail.read():
            yield from found
        yield None
        if over:
            return
        time.sleep(_LOOK_EVERY_S)


def _goes_on(job: Job) -> bool:
    """Whether a worker is there, or will be without another start."""
    now = state(job)
    return now.alive or now.waits


class Teller:
    """Events in words, a line each."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._steps = 0

    def lines(self, event: Event) -> list[str]:
        """Return what an event says; [] when it says nothing to people."""
        told = self._history.ledger.lines[-1:]
        self._history.add(event, event["attempt"])
        if event["kind"] == "step":
            self._steps += 1
            if self._steps % _FORGET_AFTER == 0:
                self._history = History(self._history.ledger)
        fresh = [spoken(line) for line in _after(self._history.ledger.lines, told)]
        return [*fresh, self._step(event)] if event["kind"] == "step" else fresh

    def _step(self, event: Event) -> str:
        now = self._history.now() | {"eta_s": self._history.eta()}
        return f"{_clock(event.get('t'))}  {figures(now)}"


def _after(lines: list[EventLine], told: list[EventLine]) -> list[EventLine]:
    for count, line in enumerate(reversed(lines)):
        if told and line is told[0]:
            return lines[len(lines) - count :]
    return lines


def follow(job: Job, write: Write, once: bool = False) -> None:
    """Write what happens, and the figures every few seconds, until the job has ended."""
    reader, told = JobReader(job), 0.0
    last_figures = ""
    next_figures = 0.0
    waits = ""
    while True:
        now = state(job)
        over = once or not (now.alive or now.waits)
        if now.waits and now.sentence != waits:
            waits = now.sentence
            write(f"{_clock(time.time())}  {waits}")
        if snapshot := reader.poll():
            fresh = [line for line in snapshot.events if line.t > told]
            for line in fresh:
                write(spoken(line))
            told = fresh[-1].t if fresh else told
            now_figures = figures(vars(snapshot))
            if now_figures not in ("", last_figures) and (over or time.monotonic() >= next_figures):
                write(" " * 10 + now_figures)
                last_figures, next_figures = now_figures, time.monotonic() + _FIGURES_EVERY_S
        if over:
            return
        time.sleep(_LOOK_EVERY_S)


def spoken(line: EventLine) -> str:
    """One thing that happened, with its time of day."""
    return clean(f"{_clock(line.t)}  {line.text}")


def _clock(t: object) -> str:
    known = t if isinstance(t, int | float) else 0.0
    return moment(known, "%H:%M:%S")


def figures(now: dict[str, object]) -> str:
    """A snapshot's fields on one line: the stage's progress, or step, losses, rate, time left."""
    progress = now.get("progress")
    if isinstance(progress, Progress):
        return clean(f"{progress.text} {progress.done}/{progress.total}")
    if not now.get("step"):
        return ""
    parts = [f"step {now['step']}/{now.get('total_steps') or '?'}"]
    for name, form in (
        ("loss", "loss {:.4g}"),
        ("eval_loss", "eval {:.4g}"),
        ("probe_loss", "probe {:.4g}"),
        ("lr", "lr {:.3g}"),
        ("grad_norm", "grad {:.3g}"),
        ("tokens_per_s", "{:,.0f} tokens/s"),
    ):
        value = now.get(name)
        if isinstance(value, int | float):
            parts.append(form.format(value) if math.isfinite(value) else f"{name} NaN")
    eta = now.get("eta_s")
    if isinstance(eta, int | float) and eta:
        parts.append(f"{duration(eta)} left")
    return "  ".join(parts)
