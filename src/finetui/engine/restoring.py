"""What a checkpoint holds besides weights and optimiser, and how all of it comes back.

`find` chooses the checkpoint before anything is loaded; `restore` brings the trainer to it when
everything stands and before the first step, so that the steps to come are those of a run that was
never interrupted: weights, optimiser, schedule, random state, the place in the data, what was left
out or set, guards, evaluations and sums.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from blake3 import blake3

from finetui.display import plural
from finetui.engine import sharding
from finetui.engine.adapters import is_adapter
from finetui.engine.batches import Row
from finetui.engine.order import Position
from finetui.errors import BROKEN, UserError
from finetui.jobs import checkpoints
from finetui.jobs.checkpoints import Checkpoint
from finetui.jobs.control import Fields, describe
from finetui.jobs.events import of_kind
from finetui.jobs.folder import Job, read_json
from finetui.jobs.manifest import package_versions
from finetui.jobs.worker import WorkerSession
from finetui.recipe.files import from_spec, to_spec
from finetui.recipe.resumption import Reached, curve_on_resume, total_steps, update_rows
from finetui.recipe.schema import Recipe

if TYPE_CHECKING:
    from finetui.engine.trainer import JobTrainer

STATE = "run.json"
# What was measured before training: it is carried on, not measured again.
_BEFORE = ("before", "suite_before", "eval_loss_before")
# The fields of a request to set something, and the settings that they stand for.
_SETTINGS = {
    "learning_rate": ("training.learning_rate",),
    "eval_every": ("evaluation.every",),
    "save_every": ("checkpoints.every",),
    "end_step": ("training.epochs", "training.max_steps"),
}
_REPEATED = ("set", "exclude")
# Ends that a run which died while it concluded still comes to.
_KEPT_ENDINGS = ("early", "best", "guard")


@dataclass(frozen=True)
class Request:
    """A request that an earlier attempt obeyed past the checkpoint, to be obeyed again there."""

    step: int
    verb: str
    fields: Fields

    @property
    def text(self) -> str:
        return f"as at step {self.step:,} before: {describe(self.verb, self.fields, 'before')}"


@dataclass(frozen=True)
class Point:
    """Where a run goes on: a checkpoint, the run's state there, and requests to repeat.

    Without a checkpoint an attempt after the first begins anew: ``checkpoint`` is None.
    """

    checkpoint: Checkpoint | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    requests: tuple[Request, ...] = ()

    @property
    def step(self) -> int:
        return self.checkpoint.step if self.checkpoint else 0


# -- choosing ------------------------------------------------------------------------------------


def find(session: WorkerSession) -> Point | None:
    """Where this attempt goes on; None for the first attempt, which has nothing to go on from.

    Removes the rests of broken saves, and checkpoints whose bytes are not those that were saved.
    Raises UserError when a checkpoint cannot be read now.
    """
    if session.attempt == 1:
        return None
    folder = checkpoints.folder_of(session.job)
    rests = checkpoints.remove_rests(folder)
    if rests:
        _say(session, f"removed {plural(len(rests), 'rest')} of a broken save: {', '.join(rests)}")
    while (found := checkpoints.newest(session.job)) is not None:
        broken = checkpoints.damage(found)
        state = {} if broken else read_state(found.path)
        if state:
            session.reached(found.step)
            return Point(found, state, requests_after(session, found))
        broken = broken or f"{STATE} is no state of a run"
        text = f"the checkpoint of step {found.step:,} is passed over: {broken}"
        session.events.write("warning", text=text)
        checkpoints.discard(found.path)
    checkpoints.go_back_to(folder, 0)
    session.events.write("resume", step=0, path="", text="no checkpoint was left: begun anew")
    return Point(requests=requests_after(session, None))


def read_state(path: Path) -> dict[str, Any]:
    """The run's state in a checkpoint, {} where there is none."""
    try:
        found = json.loads((path / STATE).read_bytes())
    except (OSError, *BROKEN):
        return {}
    return found if isinstance(found, dict) else {}


def requests_after(session: WorkerSession, found: Checkpoint | None) -> tuple[Request, ...]:
    """What people set or took out in earlier attempts that is not in the checkpoint, in order.

    A setting that somebody changed in a later attempt, or on resuming, counts no more.
    """
    attempts = [
        event for event in of_kind(session.job, "control") if event.get("verb") in _REPEATED
    ]
    notes = checkpoints.resume_notes(session.job, session.attempt)
    asked = []
    for place, event in enumerate(attempts):
        attempt, step = int(event["attempt"]), int(event.get("step") or 0)
        if attempt == session.attempt or (
            found is not None and attempt <= found.attempt and step <= found.step
        ):
            continue
        fields = dict(event.get("fields") or {})
        if event["verb"] == "set":
            newer = [one for one in attempts[place:] if int(one["attempt"]) > attempt]
            fields = {
                name: value
                for name, value in fields.items()
                if not _overtaken(name, attempt, newer, notes)
            }
        if fields:
            asked.append(Request(step, event["verb"], fields))
    return tuple(sorted(asked, key=lambda one: one.step))


def _overtaken(
    name: str, attempt: int, newer: Sequence[Mapping[str, Any]], notes: Sequence[Mapping[str, Any]]
) -> bool:
    by_request = any(name in (event.get("fields") or {}) for event in newer)
    later = (one for one in notes if checkpoints.number(one.get("attempt")) > attempt)
    changed = {id for one in later for id in one.get("changes") or ()}
    return by_request or any(id in changed for id in _SETTINGS.get(name, ()))


def _say(session: WorkerSession, text: str) -> None:
    session.events.write("message", text=text)


# -- saving --------------------------------------------------------------------------------------


def write_state(trainer: JobTrainer, folder: Path) -> None:
    """Put the run's state into a checkpoint that is being saved."""
    (folder / STATE).write_text(json.dumps(state_of(trainer)), encoding="utf-8")


def state_of(trainer: JobTrainer) -> dict[str, Any]:
    """All that the trainer knows besides weights, optimiser, schedule and random state."""
    totals, window, ending = trainer.totals, trainer.window, trainer.ending
    return {
        "position": asdict(trainer.order.position),
        "out": trainer.rows.out,
        "ordered": trainer.ordered.digest,
        "guards": trainer.steering.guards.state(),
        "best": {"loss": trainer.best_loss, "step": trainer.best_step, "since": trainer.since_best},
        "evaluated_at": trainer.evaluated_at,
        "eval_loss": trainer.eval_loss,
        "eval_every": trainer.steering.eval_every,
        "save_every": trainer.steering.save_every,
        "max_steps": trainer.state.max_steps,
        "totals": {
            "tokens": totals.tokens,
            "trained_tokens": totals.trained_tokens,
            "updates": totals.updates,
            "loss": totals.loss,
            "seconds": totals.seconds,
        },
        "window": {
            "steps": window.steps,
            "seconds": window.seconds,
            "tokens": window.tokens,
            "items": window.items,
            "losses": window.losses,
            "figures": {name: _number(value) for name, value in window.figures.items()},
            "sources": window.sources,
        },
        "metrics": {name: trainer.metrics[name] for name in _BEFORE if name in trainer.metrics},
        "spent": trainer.spent + time.perf_counter() - trainer.began,
        "ending": {"kind": ending.kind, "text": ending.text, "step": ending.step}
        if ending
        else None,
    }


def facts_of(trainer: JobTrainer) -> dict[str, Any]:
    """What a checkpoint's manifest tells, for previews and for the next attempt."""
    session, recipe, machine = trainer.session, trainer.recipe, trainer.machine
    position = trainer.order.position
    return {
        "step": trainer.state.global_step,
        "attempt": session.attempt,
        "total_steps": trainer.state.max_steps,
        "best": trainer.best_step,
        "rows": {"count": len(trainer.rows), "digest": trainer.rows_digest},
        "position": {"epoch": position.epoch, "consumed": position.consumed},
        "curve": asdict(trainer.lr_scheduler.curve),
        "recipe": to_spec(recipe),
        **_data_facts(session.job, session.attempt),
        "weights": _weights(recipe.model.path, recipe.model.adapter),
        "packages": _packages(),
        "python": platform.python_version(),
        "device": machine.name,
        "precision": machine.precision,
    }


def _data_facts(job: Job, attempt: int) -> dict[str, Any]:
    """The data that was trained on: as the job was made, or as the last resume found it."""
    known: list[dict[str, Any]] = [job.manifest(), *checkpoints.resume_notes(job, attempt)]
    newest: dict[str, Any] = next((one for one in reversed(known) if "data" in one), {})
    return {"data": newest.get("data") or {}, "edits": newest.get("edits") or {}}


@lru_cache(maxsize=1)
def _packages() -> dict[str, str]:
    return package_versions()


@lru_cache(maxsize=1)
def _weights(*folders: str) -> dict[str, str]:
    return checkpoints.weight_marks(*folders)


def rows_digest(rows: Sequence[Row]) -> str:
    """BLAKE3 over all rows: their tokens, what is trained of them, and where they come from."""
    found = blake3()
    for row in rows:
        for item in row:
            found.update(f"{item.file}:{item.line}".encode())
            for part in item.sequences:
                found.update(memoryview(part.ids).cast("B"))
                found.update(memoryview(part.labels).cast("B"))
        found.update(b"|")
    digest: str = found.hexdigest()
    return digest


def _number(value: torch.Tensor | float) -> tuple[float, str]:
    """A number with the type of its tensor, so that sums go on in the same precision."""
    dtype = str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else ""
    return float(value), dtype


# -- bringing it back ----------------------------------------------------------------------------


def go_to(trainer: JobTrainer) -> int:
    """Let the order begin where the run goes on; returns the epoch.

    Raises UserError when the rows are not those of the checkpoint and nobody accepted that.
    """
    assert trainer.point is not None and trainer.point.checkpoint is not None
    trainer.order.go_to(_position(trainer, trainer.point.checkpoint, trainer.point.state))
    return trainer.order.epoch


def restore(trainer: JobTrainer, point: Point) -> None:
    """Bring a trainer that stands ready for its first step to the point where it goes on."""
    session, found = trainer.session, point.checkpoint
    trainer.ranks.first_does(lambda: checkpoints.go_back_to(trainer.folder, point.step))
    if found is None:
        # What was taken out stays out from the first step on.
        asked = [replace(one, step=0) if one.verb == "exclude" else one for one in point.requests]
        trainer.steering.again = sorted(asked, key=lambda one: one.step)
        trainer.steering.obey_again(0)
        return
    load_weights(trainer, found.path)
    _load_optimiser(trainer, found.path)
    trainer.rows.exclude(point.state["out"])
    _restore_sums(trainer, point.state)
    _restore_settings(trainer, found, point)
    trainer._load_rng_state(str(found.path))
    text = f"goes on from the checkpoint of step {found.step:,} (attempt {found.attempt})"
    totals = trainer.totals
    session.events.write(
        "resume", step=found.step, path=str(found.path), text=text, tokens=totals.tokens,
        trained_tokens=totals.trained_tokens, total_steps=trainer.state.max_steps,
    )  # fmt: skip


def load_weights(trainer: JobTrainer, path: Path) -> None:
    """Put the weights of a checkpoint into the model."""
    if trainer.ranks.sharded:
        sharding.fill(trainer.model, path)
        return
    if not is_adapter(trainer.model):
        trainer._load_from_checkpoint(str(path))
        return
    from peft.utils import load_peft_weights, set_peft_model_state_dict

    set_peft_model_state_dict(trainer.model, load_peft_weights(str(path), device="cpu"))


def _load_optimiser(trainer: JobTrainer, path: Path) -> None:
    """Optimiser, schedule and loss scaler; decay and betas stay those of the recipe as it is."""
    groups = trainer.optimizer.param_groups
    asked = [{name: group.get(name) for name in ("weight_decay", "betas")} for group in groups]
    trainer._load_optimizer_and_scheduler(str(path))
    trainer._load_scaler(str(path))
    if trainer.ranks.sharded:
        sharding.share_states(trainer.optimizer)
    for group, values in zip(trainer.optimizer.param_groups, asked, strict=True):
        group |= {name: value for name, value in values.items() if value is not None}


def _position(trainer: JobTrainer, found: Checkpoint, state: Mapping[str, Any]) -> Position:
    """The place in the data; by rows where they were changed and somebody accepted that."""
    position, told = Position(**state["position"]), found.facts["rows"]
    if told["digest"] == trainer.rows_digest:
        return position
    notes = checkpoints.resume_notes(trainer.session.job, trainer.session.attempt)
    newer = [one for one in notes if checkpoints.number(one.get("attempt")) > found.attempt]
    if not any(one.get("accept") for one in newer):
        raise UserError(
            f"the rows to train on are not those of step {found.step:,}: the run would be another.",
            trainer.session.job.id,
            f"Put the data back, or accept it: finetui resume {trainer.session.job.id} --yes",
        )
    trainer.session.events.write(
        "warning", text="the rows are not those that were trained on before; that was accepted"
    )
    count = len(trainer.rows)
    consumed = min(position.consumed, count)
    return Position(position.epoch, consumed, 0, consumed, update_rows(trainer.recipe))


def _restore_sums(trainer: JobTrainer, state: Mapping[str, Any]) -> None:
    for name, value in state["totals"].items():
        setattr(trainer.totals, name, value)
    for name, value in state["window"].items():
        setattr(trainer.window, name, value)
    trainer.window.figures = {
        name: torch.tensor(value, dtype=getattr(torch, dtype)) if dtype else value
        for name, (value, dtype) in state["window"]["figures"].items()
    }
    trainer.spent, trainer.ordered.digest = state["spent"], state["ordered"]
    trainer.best_loss, trainer.best_step = state["best"]["loss"], state["best"]["step"]
    trainer.since_best = state["best"]["since"]
    trainer.evaluated_at, trainer.eval_loss = state["evaluated_at"], state["eval_loss"]
    trainer.steering.guards.restore(state["guards"])


def _restore_settings(trainer: JobTrainer, found: Checkpoint, point: Point) -> None:
    """What was set while it ran, except where the recipe was changed since."""
    then, now, state = recipe_of(found, trainer.recipe), trainer.recipe, point.state
    steering, schedule = trainer.steering, trainer.lr_scheduler
    if then.evaluation.every == now.evaluation.every:
        steering.eval_every = state["eval_every"]
    if then.checkpoints.every == now.checkpoints.every:
        steering.save_every = state["save_every"]
    position = trainer.order.position
    reached = Reached(
        found.step, position.epoch, position.consumed, len(trainer.rows), state["max_steps"],
        found.facts["rows"]["count"],
    )  # fmt: skip
    trainer.state.max_steps = total = total_steps(then, now, reached)
    if then.training != now.training or reached.rows != reached.rows_then:
        schedule.follow(curve_on_resume(schedule.curve, then, now, reached, total))
    steering.again = list(point.requests)
    trainer.ending = _ending(trainer, found, state)


def recipe_of(found: Checkpoint, now: Recipe) -> Recipe:
    """The recipe that a checkpoint was saved under; ``now`` where it cannot be read any more."""
    try:
        return from_spec(found.facts["recipe"])
    except (UserError, *BROKEN, KeyError, TypeError, AttributeError):
        return now


def _ending(trainer: JobTrainer, found: Checkpoint, state: Mapping[str, Any]) -> Any:
    """The end that the run had come to, if its process died before it could write its outcome.

    Once it was written, whoever resumes the run wants it to go on.
    """
    from finetui.engine.steering import Ending

    told = state["ending"]
    said = read_json(trainer.session.job.path / f"outcome-a{found.attempt}.json")
    if not told or said is not None or told["kind"] not in _KEPT_ENDINGS:
        return None
    return Ending(told["kind"], told["text"], told["step"])
