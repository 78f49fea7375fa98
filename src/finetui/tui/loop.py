"""Where the loop stands: data, recipe, train, evaluate, rate, worked out from the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetui.display import clean, plural
from finetui.tui.messages import OpenData, OpenJob, OpenRecipe, OpenSession
from finetui.workspace import Workspace

StepState = Literal["done", "now", "bad", "open"]
ACTIVE = frozenset({"starting", "running", "paused", "queued", "requeued", "stalled"})
LOST = frozenset({"failed", "interrupted", "preempted"})


@dataclass(frozen=True, slots=True)
class Step:
    """One station of the loop; ``sentence`` says in words how far it is."""

    mode: str
    title: str
    state: StepState
    sentence: str
    request: object | None = None


@dataclass(frozen=True, slots=True)
class Loop:
    """The five stations, and what it makes sense to do next."""

    steps: tuple[Step, ...]
    advice: str
    mode: str
    request: object | None = None


def loop_of(workspace: Workspace, jobs: Sequence[Any]) -> Loop:
    """The state of the loop. ``jobs`` are lookout.JobLine, newest first."""
    trained = [job for job in jobs if job.kind == "train"]
    steps = (
        _data(workspace),
        _recipe(workspace),
        _train(trained),
        _evaluate(jobs),
        _rate(workspace, jobs),
    )
    return Loop(steps, *_next(steps))


def _data(workspace: Workspace) -> Step:
    files = workspace.dataset_files()
    if not files:
        return Step("data", "Data", "open", f"no data set yet: put files into {_place(workspace)}")
    words = plural(len(files), "data set")
    versions = len({file.parent for file in workspace.version_files()})
    words += f", {plural(versions, 'version')} written" if versions else ""
    return Step("data", "Data", "done", words, OpenData(files[0]))


def _place(workspace: Workspace) -> str:
    return clean(workspace.relative(workspace.datasets)) + "/"


def _recipe(workspace: Workspace) -> Step:
    files = workspace.recipe_files()
    if not files:
        return Step("recipe", "Recipe", "open", "no recipe yet", OpenRecipe())
    newest = max(files, key=_changed)
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return Step("recipe", "Recipe", "done", clean(newest.stem) + more, OpenRecipe(newest))


def _train(trained: Sequence[Any]) -> Step:
    if not trained:
        return Step("train", "Train", "open", "no run yet")
    newest = trained[0]
    words = f"{newest.slug}: {newest.sentence or newest.state}"
    request = OpenJob(newest.path)
    if newest.state in ACTIVE:
        return Step("train", "Train", "now", words, request)
    if newest.state in LOST:
        return Step("train", "Train", "bad", words, request)
    return Step("train", "Train", "done", words, request)


def _evaluate(jobs: Sequence[Any]) -> Step:
    """The newest evaluation, or run that answered before and after."""
    for job in jobs:
        if job.kind == "evaluate" and job.state in ACTIVE:
            words = f"{job.slug}: {job.sentence or job.state}"
            return Step("evaluate", "Evaluate", "now", words, OpenJob(job.path))
        if job.kind == "evaluate" and (job.path / "evaluation" / "figures.json").is_file():
            words = f"{job.slug}: {job.sentence}"
            return Step("evaluate", "Evaluate", "done", words, OpenJob(job.path))
        answered = job.kind == "train" and (job.path / "outputs-after.jsonl").is_file()
        if answered and job.state not in ACTIVE:
            words = f"base against tuned of {job.slug}"
            return Step("evaluate", "Evaluate", "done", words, OpenJob(job.path))
    return Step("evaluate", "Evaluate", "open", "no finished run to compare with its base")


def _rate(workspace: Workspace, jobs: Sequence[Any]) -> Step:
    preparing = [job for job in jobs if job.kind == "prepare" and job.state in ACTIVE]
    if preparing:
        words = f"{preparing[0].slug}: answers are being written"
        return Step("rate", "Rate", "now", words)
    sessions = _sessions(workspace)
    if not sessions:
        return Step("rate", "Rate", "open", "no blind session yet")
    newest = sessions[0]
    if not _has_votes(newest):
        words = f"{clean(newest.name)}: sealed, waits for votes"
        return Step("rate", "Rate", "now", words, OpenSession(newest))
    return Step("rate", "Rate", "done", f"{clean(newest.name)}: has votes", OpenSession(newest))


def _sessions(workspace: Workspace) -> list[Path]:
    if not workspace.ratings.is_dir():
        return []
    found = [path for path in workspace.ratings.iterdir() if path.is_dir()]
    return sorted((path for path in found if path.name[:1] != "."), key=_changed, reverse=True)


def _has_votes(session: Path) -> bool:
    return any(session.glob("ratings/*.jsonl"))


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _next(steps: tuple[Step, ...]) -> tuple[str, str, object | None]:
    """The next sensible step: one sentence, the mode that does it, and its request."""
    data, recipe, train, evaluate, rate = steps
    if data.state == "open":
        return "Bring a data set: put a file into datasets/, or open one by its path.", "data", None
    if train.state == "now":
        return "Watch the run.", "train", train.request
    if rate.state == "now" and isinstance(rate.request, OpenSession):
        return "Rate the answers blind.", "rate", rate.request
    if evaluate.state == "now":
        return "Watch the evaluation.", "evaluate", evaluate.request
    if train.state == "bad":
        return "See why the last run ended early, and resume it.", "train", train.request
    if recipe.state == "open":
        return "Write a recipe for a first run.", "recipe", recipe.request
    if train.state == "open":
        return "Check the data, then start a run with the recipe.", "recipe", recipe.request
    if evaluate.state == "open":
        return "Look at the run's result.", "train", train.request
    if rate.state == "open":
        return "Prepare a blind session: which answers are better?", "rate", evaluate.request
    return "Repair what failed, and run again.", "evaluate", evaluate.request
