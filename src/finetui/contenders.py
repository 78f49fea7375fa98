"""Who is compared in a rating, from a few typed words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import structs

from finetui import evaluations
from finetui.errors import UserError
from finetui.evaluation.record import Subject, name_of
from finetui.jobs.folder import Job
from finetui.start import trained_job
from finetui.workspace import Workspace

KINDS = (
    "base, tuned, tuned:RUN, checkpoint:STEP, checkpoint:RUN@STEP, few-shot:N, few-shot:N@FILE, "
    "model:PATH, outputs:FILE"
)
USUAL = ("base", "tuned")


def systems_of(workspace: Workspace, words: Sequence[str] = (), run: str = "") -> list[Subject]:
    """The systems that words like "tuned" or "new=checkpoint:120" name, the reference first.

    ``run`` is the training run they speak of (the newest by default); a name before "=" is what
    reports call the system. Without words: the base against what the run left. Raises UserError.
    """
    found: list[Subject] = []
    for word in words or USUAL:
        name, named, what = word.partition("=")
        subject = _subject(workspace, what if named else word, run)
        taken = [other.name for other in found]
        found.append(structs.replace(subject, name=name_of(name if named else subject.name, taken)))
    return found


def _subject(workspace: Workspace, word: str, run: str) -> Subject:
    kind, _, value = word.partition(":")
    known: dict[str, Callable[[], Subject]] = {
        "base": lambda: _base(trained_job(workspace, value or run)),
        "tuned": lambda: evaluations.tuned_of(trained_job(workspace, value or run)),
        "checkpoint": lambda: _checkpoint(workspace, value, run),
        "few-shot": lambda: _few_shot(workspace, value, run),
        "model": lambda: evaluations.model_of(workspace, value),
        "outputs": lambda: evaluations.outputs_of(workspace, value),
    }
    if kind not in known:
        raise UserError(f"{word!r} names no system.", fix=f"Use one of: {KINDS}.")
    return known[kind]()


def _base(trained: Job) -> Subject:
    """A run's base; it keeps the run's name, whose held-out rows are the first to be asked."""
    return structs.replace(evaluations.base_of(trained), job=trained.id)


def _checkpoint(workspace: Workspace, value: str, run: str) -> Subject:
    named, _, step = value.rpartition("@")
    trained: Job = trained_job(workspace, named or run)
    found = {str(one.step): one for one in evaluations.checkpoints_of(trained)}
    if step not in found:
        there = ", ".join(found) or "none that can be used alone"
        raise UserError(f"has no checkpoint {step!r}.", trained.id, f"There are: {there}.")
    return found[step]


def _few_shot(workspace: Workspace, value: str, run: str) -> Subject:
    count, _, file = value.partition("@")
    if not count.isdecimal() or not int(count):
        raise UserError(f"{count!r} is no number of examples.", fix="For example few-shot:4")
    trained = trained_job(workspace, run)
    data: Job | str = trained
    if file:
        data = str(workspace.resolve(file))
        if not Path(data).is_file():
            raise UserError("is not there.", data)
    return evaluations.few_shot_of(_base(trained), data, int(count))
