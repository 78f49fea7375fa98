"""``finetui resume``: go on with a training run that ended early, from its newest checkpoint."""

from __future__ import annotations

import argparse

from finetui import resuming
from finetui.commands import console, watch
from finetui.display import clean, moment
from finetui.errors import UserError
from finetui.jobs.folder import Job, find_job
from finetui.jobs.liveness import state
from finetui.resuming import ResumePreview
from finetui.workspace import Workspace

_RATES_SHOWN = 5


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Go on with a training run from its newest checkpoint, where it ran before: the steps to "
        "come are those of a run that was never interrupted.",
        json=True,
    )
    made.add_argument("job", nargs="?", default="last",
                      help="its id, folder, or part of the id (default: the newest)")  # fmt: skip
    made.add_argument("--dry-run", action="store_true",
                      help="say what would come back, what differs and what is left")  # fmt: skip
    made.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE",
                      help="change a setting from here on, as in training.epochs=5")  # fmt: skip
    made.add_argument("--yes", action="store_true",
                      help="go on although the data or the model is not what it was")  # fmt: skip
    made.add_argument("--takeover", action="store_true",
                      help="start it although nobody knows whether it runs elsewhere")  # fmt: skip
    made.add_argument("--detach", action="store_true", help="start it and return at once")
    return made


def run(arguments: argparse.Namespace) -> int:
    workspace = console.workspace_of(arguments)
    job = find_job(workspace.jobs, arguments.job, "train")
    changes = _changes(arguments.set)
    found = resuming.preview(workspace, job, changes=changes)
    if arguments.dry_run:
        return _tell(found, arguments)
    for one in found.differences:
        console.say(_line(one))
    attempt = resuming.resume(
        workspace, job, changes=changes, accept=arguments.yes, takeover=arguments.takeover
    )
    console.say(f"attempt {attempt} of {job.id} {resuming.tell(found)}")
    return _follow(workspace, job, attempt, arguments)


def _changes(settings: list[str]) -> dict[str, str]:
    found = {}
    for setting in settings:
        field, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"{setting!r} is not FIELD=VALUE.", "--set")
        found[field.strip()] = text
    return found


def _follow(workspace: Workspace, job: Job, attempt: int, arguments: argparse.Namespace) -> int:
    if arguments.detach:
        if arguments.json:
            console.emit({"job": job.id, "path": str(job.path), "attempt": attempt})
        else:
            console.place(job.path)
        return 0
    now = state(job)
    if now.waits:
        console.say(f"it {now.sentence}")
    if arguments.json:
        watch.events(job)
    else:
        watch.steps(job, console.out, before=0)
    return watch.ended(job)


def _tell(found: ResumePreview, arguments: argparse.Namespace) -> int:
    """The preview; 1 where the run could not go on like this."""
    good = not found.problem and (arguments.yes or not found.errors)
    if arguments.json:
        console.emit(_as_value(found))
        return 0 if good else 1
    saved = f", saved {moment(found.t, '%Y-%m-%d %H:%M')}" if found.t else ""
    console.out(f"{found.job}: {found.state}; {resuming.tell(found)}{saved}")
    for one in found.differences:
        console.out(clean(_line(one)))
    if found.rates:
        console.out(f"rate     {_rates(found.rates)}")
    if found.problem:
        console.say(f"it cannot be resumed: {found.problem}")
    elif found.errors and not arguments.yes:
        console.say("put back what differs, or accept it with --yes")
    return 0 if good else 1


def _line(one: resuming.Difference) -> str:
    return f"{one.severity}: {one.what}: {one.then} then, {one.now} now"


def _rates(rates: tuple[tuple[int, float], ...]) -> str:
    """A few points of the learning rate that is left."""
    last = len(rates) - 1
    places = sorted({round(at * last / (_RATES_SHOWN - 1)) for at in range(_RATES_SHOWN)})
    return ", ".join(f"{rates[at][1]:.3g} at step {rates[at][0]:,}" for at in places)


def _as_value(found: ResumePreview) -> dict[str, object]:
    return {
        "job": found.job, "state": found.state, "step": found.step,
        "checkpoint": str(found.path) if found.path else None, "t": found.t,
        "total": found.total, "left": found.left, "lost": found.lost,
        "differences": [
            {"what": one.what, "then": one.then, "now": one.now, "severity": one.severity}
            for one in found.differences
        ],
        "rates": [list(point) for point in found.rates], "problem": found.problem,
    }  # fmt: skip
