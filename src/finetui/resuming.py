"""Going on with a run that ended early: what would come back, what differs, and the start of it."""

from __future__ import annotations

import getpass
import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetui import start
from finetui.display import plural
from finetui.errors import BROKEN, UserError
from finetui.jobs import checkpoints, heartbeat, slurm
from finetui.jobs.checkpoints import Checkpoint, number
from finetui.jobs.devices import DeviceReader
from finetui.jobs.folder import Job
from finetui.jobs.launch import launch
from finetui.jobs.liveness import JobState, state
from finetui.jobs.manifest import package_versions
from finetui.recipe.curve import Curve
from finetui.recipe.field import FieldError
from finetui.recipe.files import from_spec, to_spec
from finetui.recipe.resumption import (
    Reached,
    changed_on_resume,
    curve_on_resume,
    fields_changed,
    is_harmless,
    total_steps,
)
from finetui.recipe.schema import Recipe, field, get
from finetui.workspace import Workspace

Severity = Literal["error", "warning", "note"]

# What arithmetic and tokens hang on; another version of anything else is only noted.
_COUNTING = ("torch", "transformers", "peft", "accelerate", "tokenizers", "bitsandbytes")
_SHORT = 12


@dataclass(frozen=True)
class Difference:
    """What is not as it was when the checkpoint was saved.

    ``error``: the run would not be the same one, so a person must accept it. ``warning``: losses
    differ from those of an unbroken run. ``note``: worth knowing.
    """

    what: str
    then: str
    now: str
    severity: Severity


@dataclass(frozen=True)
class ResumePreview:
    """What resuming a job would do.

    ``path`` is None and ``step`` 0 where no checkpoint is left: the run then begins anew.
    ``lost`` are steps made after the checkpoint, which are made again. ``total`` and ``left`` are
    steps, None where not known. ``rates`` are (step, learning rate) of the rest, at most 200
    points. ``problem`` is a sentence on why the job cannot be resumed now, "" when it can;
    differences of severity error are no problem once they are accepted.
    """

    job: str
    state: str
    step: int = 0
    path: Path | None = None
    t: float | None = None
    total: int | None = None
    left: int | None = None
    lost: int = 0
    differences: tuple[Difference, ...] = ()
    rates: tuple[tuple[int, float], ...] = ()
    problem: str = ""

    @property
    def errors(self) -> tuple[Difference, ...]:
        """The differences that a person must accept."""
        return tuple(found for found in self.differences if found.severity == "error")


def preview(
    workspace: Workspace, job: Job, *, changes: Mapping[str, str] | None = None
) -> ResumePreview:
    """What resuming would do, with ``changes`` (recipe field -> text) made; starts nothing.

    Raises UserError for a job that is no training run, and for a change that no checkpoint can be
    resumed with.
    """
    if job.kind != "train":
        raise UserError("only training runs are resumed.", job.id, "Start a new job.")
    recipe = changed_on_resume(_recipe(job), changes or {})
    now, found = state(job), checkpoints.newest(job)
    if found is None:
        return ResumePreview(job.id, now.name, lost=_last_step(job), problem=_problem(job, now))
    then = _recipe_of(found, recipe)
    reached = _reached(found)
    total = total_steps(then, recipe, reached)
    problem = _problem(job, now) or _nothing_left(now, found, total)
    return ResumePreview(
        job=job.id,
        state=now.name,
        step=found.step,
        path=found.path,
        t=found.t,
        total=total,
        left=max(0, total - found.step),
        lost=max(0, _last_step(job) - found.step),
        differences=tuple(_differences(workspace, job, found, then, recipe)),
        rates=_rates(found, then, recipe, reached, total),
        problem=problem,
    )


def resume(
    workspace: Workspace,
    job: Job,
    *,
    changes: Mapping[str, str] | None = None,
    accept: bool = False,
    takeover: bool = False,
) -> int:
    """Start the next attempt of a training run where it ran before; returns its number.

    ``accept`` goes on in spite of differences of severity error. ``takeover`` starts also where
    the state is unknown. Raises UserError.
    """
    found = preview(workspace, job, changes=changes)
    if found.problem and not (takeover and found.state == "unknown"):
        raise UserError(f"cannot be resumed: {found.problem}.", job.id)
    if found.errors and not accept:
        told = "; ".join(f"{one.what}: {one.then} then, {one.now} now" for one in found.errors)
        raise UserError(
            f"is not what it was at step {found.step:,}: {told}.", job.id,
            "Put it back, or accept it: finetui resume --yes",
        )  # fmt: skip
    recipe = changed_on_resume(_recipe(job), changes or {})
    if changes:
        _require_sound(workspace, recipe)
    attempt = job.next_attempt()
    note = checkpoints.resume_path(job, attempt)
    job.write_json(note.name, _note(workspace, job, attempt, recipe, changes or {}, accept))
    try:
        return _start(job, attempt, takeover)
    except UserError:
        proc = job.proc()
        if proc is None or proc.attempt < attempt:
            note.unlink(missing_ok=True)
        raise


def _start(job: Job, attempt: int, takeover: bool) -> int:
    """Start it where it ran before: here, or in the cluster that it was handed to."""
    submission = slurm.submission(job)
    if submission is None:
        return launch(job, takeover=takeover)
    slurm.submit(job, submission.profile, takeover=takeover)
    return attempt


def _note(
    workspace: Workspace,
    job: Job,
    attempt: int,
    recipe: Recipe,
    changes: Mapping[str, str],
    accept: bool,
) -> dict[str, Any]:
    """What the attempt is to be told, and who wanted it so."""
    spec = to_spec(recipe)
    changed: dict[str, Any] = {}
    for name in changes:
        table, _, key = field(name).id.rpartition(".")
        if table:
            changed.setdefault(table, {})[key] = spec[table][key]
        else:
            changed[key] = spec[key]
    ids = {field(name).id: text for name, text in changes.items()}
    return {
        "attempt": attempt, "t": round(time.time(), 3), "who": _user(), "changes": ids,
        "recipe": changed, "accept": accept, **start.data_state(workspace, _files(recipe)),
    }  # fmt: skip


def _require_sound(workspace: Workspace, recipe: Recipe) -> None:
    _, advice = start.check_recipe(workspace, recipe)
    told = [f"{one.field}: {one.message}" for one in advice if one.severity == "error"]
    if told:
        raise UserError(f"the recipe cannot run: {'; '.join(told)}", recipe.name)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


# -- whether, and from where ---------------------------------------------------------------------


def _problem(job: Job, now: JobState) -> str:
    if now.name == "queued" and not now.waits:
        return "it was made and never started"
    if now.ended:
        return ""
    if now.name == "paused":
        return f"it is {now.sentence}; it goes on with: finetui control {job.id} resume"
    return now.sentence if now.name == "unknown" else f"it is {now.name} ({now.sentence})"


def _nothing_left(now: JobState, found: Checkpoint, total: int) -> str:
    if now.name != "finished" or found.step < total:
        return ""
    return (
        f"all its {total:,} steps are made; more epochs or steps let it train further "
        "(training.epochs, training.max_steps)"
    )


def _last_step(job: Job) -> int:
    beat = heartbeat.read(job.heartbeat)
    return beat.step if beat else 0


def _recipe(job: Job) -> Recipe:
    """The recipe of the newest attempt, paths resolved as they were. Raises UserError."""
    return from_spec(checkpoints.spec_of_attempt(job).get("recipe") or {})


def _recipe_of(found: Checkpoint, recipe: Recipe) -> Recipe:
    """The recipe that the checkpoint was saved under, as far as it can still be read."""
    try:
        return from_spec(found.facts["recipe"])
    except (UserError, *BROKEN, KeyError, TypeError, AttributeError):
        return recipe


def _reached(found: Checkpoint) -> Reached:
    """Where the checkpoint is in the data, the length of which is taken as it was."""
    position, rows = _table(found, "position"), _table(found, "rows")
    count = max(1, int(number(rows.get("count"))))
    consumed, epoch = int(number(position.get("consumed"))), int(number(position.get("epoch")))
    if consumed >= count:
        epoch, consumed = epoch + 1, 0
    total = int(number(found.facts.get("total_steps"), found.step))
    return Reached(found.step, epoch, consumed, count, total, count)


def _rates(
    found: Checkpoint, then: Recipe, now: Recipe, reached: Reached, total: int
) -> tuple[tuple[int, float], ...]:
    """The learning rate of the steps that are left."""
    told = _table(found, "curve")
    names = ("total", "end", "peak", "turn", "place")
    if any(number(told.get(name), -1) < 0 for name in names):
        return ()
    curve = Curve(**{name: told[name] for name in names})
    return curve_on_resume(curve, then, now, reached, total).points(now, found.step)


def _table(found: Checkpoint, name: str) -> dict[str, Any]:
    value = found.facts.get(name)
    return dict(value) if isinstance(value, Mapping) else {}


# -- what differs --------------------------------------------------------------------------------


def _differences(
    workspace: Workspace, job: Job, found: Checkpoint, then: Recipe, now: Recipe
) -> Iterator[Difference]:
    yield from _in_data(workspace, found, now)
    yield from _in_model(found, now)
    for id in fields_changed(then, now):
        severity: Severity = "note" if is_harmless(id) else "warning"
        yield Difference(id, _shown(then, id), _shown(now, id), severity)
    if slurm.submission(job) is None:  # the nodes of a cluster may have others than we see here
        yield from _in_software(found)
        yield from _in_devices(found)


def _shown(recipe: Recipe, id: str) -> str:
    try:
        return field(id).show(get(recipe, id))
    except FieldError:
        return ""


def _in_data(workspace: Workspace, found: Checkpoint, recipe: Recipe) -> Iterator[Difference]:
    """Files whose bytes or edits are others than those that were trained on."""
    trained = {*recipe.data.train, recipe.data.general}
    state = start.data_state(workspace, _files(recipe))
    hashes, edits = _table(found, "data"), _table(found, "edits")
    for path, digest in hashes.items():
        severity: Severity = "error" if path in trained else "warning"
        name = workspace.relative(Path(path))
        now = state["data"].get(path)
        if now is None:
            yield Difference(name, "there", "gone", "error")
        elif now != digest:
            yield Difference(name, f"SHA-256 {str(digest)[:_SHORT]}", now[:_SHORT], severity)
        before, after = edits.get(path, 0), state["edits"].get(path, 0)
        if before != after:
            yield Difference(name, _edits(before), _edits(after), severity)


def _edits(head: object) -> str:
    return f"edited up to number {head}" if head else "unedited"


def _files(recipe: Recipe) -> list[str]:
    data = recipe.data
    return [*data.train, data.eval, data.general, recipe.evaluation.suite]


def _in_model(found: Checkpoint, recipe: Recipe) -> Iterator[Difference]:
    """Weights in a folder that were replaced: an adapter fits those it was trained on."""
    marks = _table(found, "weights")
    for path, mark in checkpoints.weight_marks(recipe.model.path, recipe.model.adapter).items():
        before = marks.get(path)
        if before and before != mark:
            yield Difference(f"weights in {Path(path).name}", str(before), mark, "error")


def _in_software(found: Checkpoint) -> Iterator[Difference]:
    before, after = _table(found, "packages"), package_versions()
    for name, version in before.items():
        severity: Severity = "warning" if name in _COUNTING else "note"
        now = after.get(name)
        # A login node shows runs without having what trains them.
        if now is not None and now != version:
            yield Difference(name, str(version), now, severity)
    python = found.facts.get("python")
    if python and python != platform.python_version():
        yield Difference("Python", str(python), platform.python_version(), "note")


def _in_devices(found: Checkpoint) -> Iterator[Difference]:
    """Another kind of device rounds differently."""
    then = str(found.facts.get("device") or "")
    reader = DeviceReader()
    try:
        sample = reader.sample()
    finally:
        reader.close()
    names = sorted({gpu.name for gpu in sample.gpus if gpu.name}) if sample else []
    on_cpu = "cpu" in then.lower()
    if on_cpu and not names:
        return
    if then and then not in names:
        yield Difference("device", then, ", ".join(names) or "no GPU", "warning")


def tell(found: ResumePreview) -> str:
    """One sentence about where a run would go on."""
    if found.path is None:
        return "no checkpoint is left: it begins anew"
    again = f"; {plural(found.lost, 'step')} made after it are made again" if found.lost else ""
    left = f", {found.left:,} of {found.total:,} left" if found.total is not None else ""
    return f"goes on from step {found.step:,}{left}{again}"
