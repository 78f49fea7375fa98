"""``finetui demo``: the whole loop on the sample workspace.

On a terminal it opens the workstation there. Without one it runs the loop with progress: look,
repair, version, train, evaluate, rate (a script stands in for the person), report, preferences.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetui import start
from finetui.commands import console, watch
from finetui.contenders import systems_of
from finetui.display import clean, duration, plural
from finetui.errors import UserError
from finetui.jobs.folder import Job
from finetui.jobs.liveness import state
from finetui.workspace import Workspace, create_sample

Say = Callable[[str], None]

_FOLDER = "demo-workspace"
_SESSION = "demo"
_RATED_ITEMS = 12


def parser() -> argparse.ArgumentParser:
    made = console.parser(__doc__ or "", json=True, workspace=False)
    made.add_argument("path", type=Path, nargs="?", default=Path(_FOLDER), help="where to make it")
    made.add_argument("--no-tui", action="store_true", help="run the loop, also on a terminal")
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the recipe",
    )
    return made


def run(arguments: argparse.Namespace) -> int:
    workspace = create_sample(arguments.path)
    if sys.stdin.isatty() and sys.stdout.isatty() and not (arguments.no_tui or arguments.json):
        from finetui.commands.tui import open_on

        return open_on(workspace, {})
    say = console.say if arguments.json else _print
    result = loop(workspace, say, arguments.set)
    if arguments.json:
        console.emit(result)
    return 0


def _print(line: str) -> None:
    console.out(line)
    sys.stdout.flush()


def loop(workspace: Workspace, say: Say, settings: list[str]) -> dict[str, Any]:
    """Run every station once; returns the figures of the last line."""
    began = time.monotonic()
    say(f"sample workspace at {workspace.root}")
    _look_and_repair(workspace, say)
    job = _train(workspace, say, settings)
    result = _result(job, time.monotonic() - began)
    _rate(workspace, job, say)
    base, tuned = result["base"], result["tuned"]
    say("")
    say("held-out tickets (issues and products never seen in training)")
    say(f"  before tuning  format {base['format']:6.1%}   right {base['accuracy']:6.1%}")
    say(f"  after tuning   format {tuned['format']:6.1%}   right {tuned['accuracy']:6.1%}")
    say(f"trained and scored in {duration(result['seconds'])}; the run: {job.path}")
    say(f"look at it in the workstation: finetui {workspace.root}")
    return result


def _look_and_repair(workspace: Workspace, say: Say) -> None:
    """Check the dirty file, mend what has a safe fix, drop what cannot be read, write a version."""
    from finetui.data.checks.model import CheckOptions
    from finetui.data.checks.run import check_files
    from finetui.data.dataset import open_dataset
    from finetui.data.split import SplitSpec
    from finetui.data.versions import write_version

    dirty = workspace.datasets / "tickets_dirty.jsonl"
    run = check_files([dirty, workspace.datasets / "tickets_heldout.jsonl"], CheckOptions())
    findings = [finding for finding in run if Path(finding.file).name == dirty.name]
    say(
        f"1. look      {dirty.name}: {plural(len(findings), 'finding')} in "
        f"{plural(len({finding.line for finding in findings}), 'row')}, as "
        + "; ".join(f"line {found.line} {found.check}" for found in findings[:3])
    )
    with open_dataset(dirty, workspace) as rows:
        bad = sorted({found.row for found in findings if found.severity == "error"})
        fresh = [row for row in bad if not rows.row(row).dropped]
        dropped = rows.drop(fresh, "demo: rows with errors") if fresh else 0
        version = write_version([rows], workspace, dirty.stem, SplitSpec())
    counts = ", ".join(f"{name} {count}" for name, count in _counts(version.manifest).items())
    say(
        f"2. repair    dropped {plural(dropped, 'row')} with errors (undo brings them back); "
        f"version {version.id} split without leaks: {counts}"
    )


def _counts(manifest: dict[str, Any]) -> dict[str, int]:
    return {Path(output["file"]).stem: output["rows"] for output in manifest["outputs"]}


def _train(workspace: Workspace, say: Say, settings: list[str]) -> Job:
    from finetui.commands.train import changed, recipe_file
    from finetui.recipe.files import load

    recipe = changed(load(recipe_file(workspace, "triage-lora")), settings)
    job = start.start_training(workspace, recipe)
    say(f"3. train     {job.id}, detached: it would go on without this terminal")
    watch.follow(job, lambda line: say(f"   {line}"))
    _require_finished(job)
    return job


def _require_finished(job: Job) -> None:
    now = state(job)
    if now.name != "finished":
        raise UserError(f"{now.name}: {now.sentence}.", job.id, f"Its log: {job.path}")


def _result(job: Job, seconds: float) -> dict[str, Any]:
    metrics = (job.outcome() or {})["metrics"]
    keys = ("format", "accuracy")
    return {
        "base": {key: metrics["before"][key] for key in keys},
        "tuned": {key: metrics["after"][key] for key in keys},
        "seconds": round(seconds, 1),
        "job": str(job.path),
    }


def _rate(workspace: Workspace, job: Job, say: Say) -> None:
    """Seal a session that waits for the person; rate a copy of it by rule to show the report."""
    from finetui.rating.session import open_session

    name = _free_name(workspace)
    prepared = start.start_prepare(
        workspace, systems_of(workspace, run=job.id), name, items=_RATED_ITEMS
    )
    watch.follow(prepared, lambda line: None)
    _require_finished(prepared)
    session = open_session(workspace.ratings / name)
    say(
        f"4. rate      sealed {name}: {plural(session.manifest.shown, 'pair')}, sides hidden; "
        f"rate it yourself: finetui rate vote {name} -w {workspace.root}"
    )
    _show_a_report(workspace, name, say)


def _free_name(workspace: Workspace) -> str:
    taken = {folder.name for folder in workspace.ratings.iterdir()}
    names = [_SESSION, *(f"{_SESSION}-{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)


def _show_a_report(workspace: Workspace, name: str, say: Say) -> None:
    """A script votes on a copy (it prefers the answer that is a JSON object), then the report."""
    import json
    import tempfile

    from finetui.rating.ballot import Ballot
    from finetui.rating.report import as_text
    from finetui.rating.session import open_session
    from finetui.rating.unseal import report, unseal

    def is_object(text: str) -> bool:
        try:
            return isinstance(json.loads(text), dict)
        except ValueError:
            return False

    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(workspace.ratings / name, Path(scratch) / name))
        session = open_session(copy)
        with Ballot(session, session.raters[0]) as ballot:
            while (item := ballot.current) is not None:
                left, right = is_object(item.left), is_object(item.right)
                ballot.vote(
                    "G" if left and right else "B" if left == right else "L" if left else "R"
                )
        unseal(session, "demo: a script rated a copy of the session")
        say("5. report    of a copy that a script rated (JSON wins); yours stays sealed")
        for line in as_text(report(session)).splitlines():
            say(clean(f"   {line}").rstrip())
