"""The edges of a step: cadence, guards and requests, and how a run comes to an end."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetui.display import plural, span
from finetui.engine.adapters import parameter_counts
from finetui.engine.guards import Guards, Sight
from finetui.engine.parking import Parked
from finetui.engine.restoring import Request, restore
from finetui.jobs.room import Want

if TYPE_CHECKING:
    from finetui.engine.trainer import JobTrainer

_ROWS_TOLD, _ROWS_NAMED = 64, 5
_GIB = 1 << 30
# Faults: there is nothing good in going on, and nothing good about the end.
_FAULTS = ("nonfinite", "zero")


@dataclass(frozen=True)
class Ending:
    """Why a run ended before its last step.

    ``kind``: "stop" (asked for: saved, not scored), "best" (asked for: the best is kept and
    scored), "early" (early stopping), "guard" (as best), "fault" (a guard that makes the run a
    failed one). ``sight`` and ``rows`` (file:line) belong to the last two.
    """

    kind: str
    text: str
    step: int = 0
    sight: Sight | None = None
    rows: tuple[str, ...] = ()


class GuardError(Exception):
    """A guard ended the run as a fault. ``saved`` says what is left of it, "" for nothing."""

    def __init__(self, ending: Ending, saved: str = "") -> None:
        self.ending, self.saved = ending, saved
        super().__init__(ending.text)


class JobCallback(TrainerCallback):  # type: ignore[misc]
    """Decides at each edge of a step what is logged, evaluated, saved, changed or ended."""

    def __init__(self, trainer: JobTrainer) -> None:
        self.trainer = trainer
        self.eval_every = trainer.recipe.evaluation.every
        self.save_every = trainer.recipe.checkpoints.every
        self.guards = Guards(trainer.recipe, 0)
        self.again: list[Request] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        trainer, session = self.trainer, self.trainer.session
        self.guards = Guards(trainer.recipe, state.max_steps, fp16=args.fp16)
        if trainer.point is not None:
            restore(trainer, trainer.point)
        everything, trained = parameter_counts(trainer.model)
        session.events.write(
            "start",
            total_steps=state.max_steps,
            epochs=args.num_train_epochs,
            parameters=everything,
            trainable=trained,
            device=trainer.machine.name,
            precision=trainer.machine.precision,
            attempt=session.attempt,
        )
        session.expect_steps_within(trainer.recipe.guards.stall * 60 or math.inf)
        trainer.began = time.perf_counter()
        trainer.restart_clock()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Before the weights change: the guards look at the update's loss and gradient."""
        update, step = self.trainer.update, state.global_step + 1
        norm = update.norm if update.norm is not None else 0.0
        update.skipped = not (math.isfinite(update.loss) and math.isfinite(norm))
        sight = self.guards.before_update(step, update.loss, norm, update.items)
        if sight is not None:
            self._act(sight, step)
            if sight.action in ("skip", "stop"):
                self._drop_update()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        trainer, step = self.trainer, state.global_step
        update = trainer.step_ended()
        self._tell_stall(step)
        if not update.skipped:
            for sight in self.guards.after_update(step, update.loss):
                self._act(sight, step)
        trainer.session.reached(step)
        self.obey_again(step)
        self._obey(control)
        last, ending = step >= state.max_steps, trainer.ending
        control.should_training_stop |= last or ending is not None
        control.should_log = step == 1 or control.should_training_stop
        control.should_log |= _due(step, trainer.recipe.logging.every)
        control.should_evaluate |= _due(step, self.eval_every) or last
        control.should_save |= _due(step, self.save_every) or last
        if ending is not None:
            control.should_evaluate |= ending.kind in ("best", "guard")
            control.should_evaluate &= ending.kind != "fault"
            control.should_save |= trainer.totals.updates > 0

    def evaluated(self, eval_loss: float) -> None:
        """An evaluation while training gave this held-out loss."""
        step = self.trainer.state.global_step
        sight = self.guards.after_evaluation(step, eval_loss)
        if sight is not None:
            self._act(sight, step)
        if self.trainer.ending is not None:
            control = self.trainer.control
            control.should_training_stop = control.should_save = True

    # -- guards -------------------------------------------------------------------------------

    def _act(self, sight: Sight, step: int) -> None:
        """Do what the recipe wants done about a sight, and record both."""
        trainer = self.trainer
        rows = trainer.update.worst() if trainer.update.sources else []
        names = trainer.source_names([row for row, _ in rows[:_ROWS_NAMED]])
        trainer.session.events.write(
            "guard",
            step=step,
            guard=sight.guard,
            action=sight.action,
            text=sight.text + self._done_about(sight) + _named(names, [loss for _, loss in rows]),
            rows=[row for row, _ in rows[:_ROWS_TOLD]],
            value=sight.value,
        )
        if sight.action == "stop" and trainer.ending is None:
            kind = "fault" if sight.guard in _FAULTS else "guard"
            trainer.ending = Ending(kind, sight.text, step, sight, tuple(names))

    def _done_about(self, sight: Sight) -> str:
        if sight.action == "skip" and sight.guard != "nonfinite":
            return "; its update was left out"
        if sight.action == "stop":
            return "; the run stops here"
        if sight.action == "lower":
            schedule = self.trainer.lr_scheduler
            schedule.set_peak(schedule.peak / 2)
            return f"; the rate is halved (peak {schedule.peak:g})"
        return ""

    def _drop_update(self) -> None:
        """Without gradients the optimiser changes nothing, its averages included."""
        self.trainer.update.skipped = True
        self.trainer.model.zero_grad(set_to_none=True)

    def _tell_stall(self, step: int) -> None:
        limit, seconds = self.trainer.recipe.guards.stall * 60, self.trainer.totals.step_s[-1]
        if limit and seconds > limit:
            text = f"step {step} took {span(seconds)}: the run stood still"
            self.trainer.session.events.write(
                "guard", step=step, guard="stall", action="warn", text=text, rows=[], value=seconds
            )

    # -- requests -----------------------------------------------------------------------------

    def obey_again(self, step: int) -> None:
        """Do what an earlier attempt was asked for at this step, which is made again."""
        while self.again and self.again[0].step <= step:
            request = self.again.pop(0)
            self.trainer.session.events.write("message", text=request.text)
            if request.verb == "set":
                self._set(**request.fields)
            else:
                self._exclude(request.fields["rows"])

    def _forget(self, names: Collection[str]) -> None:
        """What somebody sets now counts more than what was set before."""
        kept = []
        for one in self.again:
            fields = {name: value for name, value in one.fields.items() if name not in names}
            if one.verb != "set" or fields:
                kept.append(replace(one, fields=fields if one.verb == "set" else one.fields))
        self.again = kept

    def _obey(self, control: TrainerControl) -> None:
        requests = self.trainer.requests
        verbs = requests.poll()
        if "pause" in verbs:
            verbs |= self._pause(requests.fields("pause"))
        control.should_evaluate |= "evaluate" in verbs
        control.should_save |= "save" in verbs
        if "set" in verbs:
            self._forget(requests.fields("set"))
            self._set(**requests.fields("set"))
        if "exclude" in verbs:
            self._exclude(requests.fields("exclude")["rows"])
        if verbs & {"stop", "stop_best"}:
            kind = "stop" if "stop" in verbs else "best"
            text = "stopped on request with the best so far"
            self.trainer.ending = Ending(kind, text, self.trainer.state.global_step)

    def _pause(self, fields: dict[str, Any]) -> set[str]:
        """Wait until somebody says otherwise; with release, the GPU's memory is free meanwhile."""
        trainer = self.trainer
        if fields.get("release") and trainer.machine.on_gpu and not trainer.ranks.several:
            verbs = self._pause_released()
        else:
            verbs = trainer.requests.hold()
        trainer.restart_clock()
        return verbs

    def wait_for(self, want: Want) -> set[str]:
        """Wait until the disk has room for a save, or somebody says otherwise."""
        verbs = self.trainer.session.hold(want)
        self.trainer.restart_clock()
        return verbs

    def _pause_released(self) -> set[str]:
        trainer, session = self.trainer, self.trainer.session
        parked = Parked(trainer.model, trainer.optimizer, trainer.machine.device)
        text = f"{parked.freed / _GIB:.1f} GiB of GPU memory are free while the run is paused"
        session.events.write("message", text=text)
        verbs = session.hold()
        while not parked.back():
            if verbs & {"stop", "stop_best"}:
                break  # saving works from the host as well
            text = "the GPU has no room for the run now: it stays paused; free some and resume"
            session.events.write("warning", text=text)
            verbs = (verbs - {"resume"}) | session.hold()
        return verbs

    def _set(
        self,
        learning_rate: float | None = None,
        eval_every: int | None = None,
        save_every: int | None = None,
        end_step: int | None = None,
    ) -> None:
        if learning_rate is not None:
            self.trainer.lr_scheduler.set_peak(learning_rate)
        if eval_every is not None:
            self.eval_every = eval_every
        if save_every is not None:
            self.save_every = save_every
        if end_step is not None:
            self._end_at(end_step)

    def _end_at(self, step: int) -> None:
        state = self.trainer.state
        if step <= state.global_step:
            text = f"end step {step:,} is behind step {state.global_step:,}: nothing was changed"
            self.trainer.session.events.write("warning", text=text)
            return
        self.trainer.lr_scheduler.end_at(step)
        state.max_steps = step

    def _exclude(self, rows: list[list[int]]) -> None:
        found = self.trainer.rows.exclude(rows)
        if not found:
            text = "no row was left out: none of them is trained on, or nothing would remain"
            self.trainer.session.events.write("warning", text=text)
            return
        names = ", ".join(self.trainer.source_names(found[:_ROWS_NAMED]))
        more = f" and {len(found) - _ROWS_NAMED} more" if len(found) > _ROWS_NAMED else ""
        text = f"{plural(len(found), 'row')} left out from now on: {names}{more}"
        self.trainer.session.events.write("message", text=text)


def _named(names: Sequence[str], losses: Sequence[float]) -> str:
    """The first rows of an update with their losses, "" where there are none."""
    if not names:
        return ""
    told = [
        f"{name} ({loss:.4g})" if math.isfinite(loss) else name
        for name, loss in zip(names, losses, strict=False)
    ]
    more = f" and {len(losses) - len(names)} more" if len(losses) > len(names) else ""
    return f". Rows, worst first: {', '.join(told)}{more}"


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
