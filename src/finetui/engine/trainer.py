"""transformers' Trainer with our loss, our events, our checkpoints, and an ear for requests."""

from __future__ import annotations

import errno
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import DefaultFlowCallback, ProgressCallback

from finetui.engine import checkpoints
from finetui.engine.batches import Collator, Contents, Row, single
from finetui.engine.dataset import Encoding
from finetui.engine.losses import IGNORE, Loss, sft_loss
from finetui.engine.machine import Machine
from finetui.engine.model import parameter_counts
from finetui.jobs.worker import WorkerSession
from finetui.recipe.schema import Recipe

# With fp16 the scaler skips single overflowing updates by design; only a series of them is a fault.
_FP16_PATIENCE = 20
_SOURCES_SHOWN = 64


class NonFiniteError(Exception):
    """The loss or the gradient is not a number any more; the update was not made."""

    def __init__(self, step: int, what: str, rows: Sequence[str]) -> None:
        self.step, self.what, self.rows = step, what, list(rows)
        super().__init__(f"{what} at step {step}")


@dataclass
class Window:
    """What happened since the last step event; times in seconds."""

    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    sources: list[list[int]] = field(default_factory=list)


@dataclass
class Totals:
    """Tokens seen in training since the start of this attempt."""

    tokens: int = 0
    trained_tokens: int = 0


class JobTrainer(Trainer):  # type: ignore[misc]
    """Trains one job: token-normalised loss, events, requests, publication of checkpoints.

    ``rows`` are packed or single; ``held_out`` gives the eval loss, exact over all its tokens.
    """

    def __init__(
        self,
        model: Any,
        recipe: Recipe,
        machine: Machine,
        session: WorkerSession,
        data: Encoding,
        rows: Sequence[Row],
        held_out: Encoding | None,
        pad_id: int,
        loss: Loss = sft_loss,
    ) -> None:
        self.recipe, self.machine, self.session = recipe, machine, session
        self.data, self.held_out, self.loss = data, held_out, loss
        self.folder = session.job.path / "checkpoints"
        self.window, self.totals = Window(), Totals()
        self.step_loss: torch.Tensor | float = 0.0
        self.grad_norm: torch.Tensor | float | None = None
        self.step_sources: list[list[int]] = []
        self.best_loss, self.since_best = math.inf, 0
        self.evaluated_at = -1
        self.eval_loss: float | None = None
        self.end_reason = ""
        self._clock = time.perf_counter()
        self._pad_id = pad_id
        checkpoints.draft_folder(self.folder)
        super().__init__(
            model=model,
            args=training_arguments(recipe, machine, self.folder / checkpoints.PARTIAL),
            train_dataset=list(rows),
            data_collator=Collator(pad_id, packed=recipe.data.packing),
            callbacks=[JobCallback(self)],
        )
        for unwanted in (PrinterCallback, ProgressCallback, DefaultFlowCallback):
            self.remove_callback(unwanted)
        # Our loss divides by the tokens of the whole update already, and needs their number.
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = True

    # -- one step -----------------------------------------------------------------------------

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        contents: Contents = inputs.pop("contents")
        self._count(contents)
        items = contents.trained_tokens if num_items_in_batch is None else float(num_items_in_batch)
        loss, _ = self.loss(model, inputs, items)
        return (loss, {}) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.step_loss = self.step_loss + loss
        return loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
        """Trained tokens of one update. One process, so there is nothing to gather."""
        count = sum(int((batch["labels"][:, 1:] != IGNORE).sum()) for batch in batch_samples)
        return torch.tensor(count)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        self.grad_norm = super()._get_grad_norm(model, grad_norm)
        return self.grad_norm

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # nobody reads it

    def _count(self, contents: Contents) -> None:
        self.window.tokens += contents.tokens
        self.totals.tokens += contents.tokens
        self.totals.trained_tokens += contents.trained_tokens
        self.step_sources += contents.sources

    def step_ended(self) -> None:
        """Close the accounts of one update; called at its edge."""
        now = time.perf_counter()
        self.window.steps += 1
        self.window.seconds += now - self._clock
        self.window.sources += self.step_sources
        self.step_sources, self.step_loss = [], 0.0
        self._clock = now

    def restart_clock(self) -> None:
        """Leave the time since the last step out of the step times (evaluation, saving, pause)."""
        self._clock = time.perf_counter()

    # -- events -------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Step figures become an event; the Trainer's own closing summary is left out."""
        if "loss" in logs and "learning_rate" in logs:
            self.write_step(logs["loss"], logs["learning_rate"], logs.get("grad_norm"))

    def write_step(self, loss: float, rate: float, grad_norm: float | None) -> None:
        """One step event over the window since the last: mean loss, the rate of its last step."""
        window = self.window
        memory, resident = self.machine.memory()
        self.session.events.write(
            "step",
            step=self.state.global_step,
            epoch=round(self.state.epoch or 0.0, 4),
            loss=loss,
            lr=rate,
            grad_norm=grad_norm,
            tokens=self.totals.tokens,
            trained_tokens=self.totals.trained_tokens,
            tokens_per_s=window.tokens / window.seconds if window.seconds > 0 else None,
            step_s=window.seconds / window.steps if window.steps else None,
            memory_bytes=memory,
            rss_bytes=resident,
            rows=window.sources[:_SOURCES_SHOWN],
        )
        self.window = Window()

    def source_names(self, sources: Sequence[Sequence[int]]) -> list[str]:
        """file:line of each example."""
        return [f"{Path(self.data.files[file]).name}:{line}" for file, line in sources]

    # -- evaluation ---------------------------------------------------------------------------

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Mean loss over all trained held-out tokens; keeps the adapter when it is the best yet."""
        self.control.should_evaluate = False
        if self.held_out is None or self.evaluated_at == self.state.global_step:
            return {}
        began = time.perf_counter()
        loss = self.held_out_loss()
        self.eval_loss, self.evaluated_at = loss, self.state.global_step
        self.session.events.write(
            "eval",
            step=self.state.global_step,
            loss=loss,
            seconds=round(time.perf_counter() - began, 3),
        )
        if self.state.global_step > 0:
            self._judge(loss)
        self.restart_clock()
        return {"eval_loss": loss}

    def held_out_loss(self) -> float:
        """Sum of the held-out losses over the number of trained held-out tokens."""
        assert self.held_out is not None
        rows = single(sorted(self.held_out.examples, key=len))
        loader: DataLoader[Row] = DataLoader(
            rows,  # type: ignore[arg-type]
            batch_size=self.recipe.training.batch_size,
            collate_fn=Collator(self._pad_id),
        )
        was_training = self.model.training
        self.model.eval()
        total = torch.zeros((), dtype=torch.float64)
        with torch.no_grad(), self.machine.autocast():
            for batch in loader:
                batch.pop("contents")
                moved = {name: part.to(self.machine.device) for name, part in batch.items()}
                total += self.loss(self.model, moved, 1.0)[0].double().cpu()
                self.session.beat()
        self.model.train(was_training)
        return float(total) / self.held_out.trained_tokens

    def _judge(self, loss: float) -> None:
        settings = self.recipe.evaluation
        if loss < self.best_loss:
            self.best_loss, self.since_best = loss, 0
            if settings.keep_best:
                self._keep_best(loss)
        else:
            self.since_best += 1
        if settings.early_stopping and self.since_best >= settings.early_stopping:
            self.control.should_training_stop = self.control.should_save = True
            self.end_reason = (
                f"stopped early at step {self.state.global_step}: {self.since_best} evaluations "
                "without a better eval loss"
            )

    def _keep_best(self, loss: float) -> None:
        self.session.require_newest()
        try:
            checkpoints.keep_best(self.model, self.folder, self.state.global_step, loss)
        except OSError as error:
            self._unsaved(error)

    # -- checkpoints --------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Let the Trainer write into a draft, then publish it as step-N and rotate."""
        step = self.state.global_step
        target = self.folder / f"step-{step}"
        if checkpoints.manifest_of(target) is not None:
            return
        self.session.require_newest()
        draft = checkpoints.draft_folder(self.folder)
        try:
            super()._save_checkpoint(model, trial)
            saved = draft / f"checkpoint-{step}"
            # A pickle that resuming does not need.
            (saved / "training_args.bin").unlink(missing_ok=True)
            checkpoints.publish(saved, target, step=step, attempt=self.session.attempt)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            self._unsaved(error)
            return
        checkpoints.rotate(self.folder, self.recipe.checkpoints.keep)
        self.session.events.write("checkpoint", step=step, path=str(target))
        self.restart_clock()

    def _unsaved(self, error: OSError) -> None:
        """A full disk costs a checkpoint, not the run; any other fault ends it."""
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise error
        self.session.events.write(
            "warning",
            text=f"the disk is full: step {self.state.global_step} was not saved; training goes on",
        )


class JobCallback(TrainerCallback):  # type: ignore[misc]
    """The step edges: cadence, requests, and the check that all numbers are finite."""

    def __init__(self, trainer: JobTrainer) -> None:
        self.trainer = trainer
        self._bad_steps = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        everything, trained = parameter_counts(self.trainer.model)
        self.trainer.session.events.write(
            "start",
            total_steps=state.max_steps,
            epochs=args.num_train_epochs,
            parameters=everything,
            trainable=trained,
            device=self.trainer.machine.name,
            precision=self.trainer.machine.precision,
            attempt=self.trainer.session.attempt,
        )
        self.trainer.restart_clock()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Before the weights change: a loss or gradient that is no number must not reach them."""
        trainer = self.trainer
        loss = float(trainer.step_loss)
        norm = float(trainer.grad_norm) if trainer.grad_norm is not None else 0.0
        if math.isfinite(loss) and math.isfinite(norm):
            self._bad_steps = 0
            return
        self._bad_steps += 1
        only_overflow = args.fp16 and math.isfinite(loss)
        if only_overflow and self._bad_steps < _FP16_PATIENCE:
            return
        self._give_up(state, loss, norm)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        trainer, step = self.trainer, state.global_step
        trainer.step_ended()
        last = step >= state.max_steps
        recipe = trainer.recipe
        if last:
            control.should_training_stop = True
        control.should_log = step == 1 or last or step % recipe.logging.every == 0
        control.should_evaluate = _due(step, recipe.evaluation.every) or last
        control.should_save = _due(step, recipe.checkpoints.every) or last
        self._obey(control)

    def _obey(self, control: TrainerControl) -> None:
        session = self.trainer.session
        verbs = session.control.poll()
        if "pause" in verbs:
            verbs |= session.hold()
            self.trainer.restart_clock()
        control.should_evaluate |= "evaluate" in verbs
        control.should_save |= bool(verbs & {"save", "stop"})
        if "stop" in verbs:
            control.should_log = control.should_training_stop = True
            self.trainer.end_reason = "stop"

    def _give_up(self, state: TrainerState, loss: float, norm: float) -> None:
        trainer = self.trainer
        step = state.global_step + 1
        state.global_step = step
        rate = trainer._get_learning_rate()
        rows = trainer.source_names(trainer.step_sources)
        trainer.step_ended()
        trainer.write_step(loss, rate, norm)
        what = "the gradient" if math.isfinite(loss) else "the loss"
        shown = ", ".join(rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        trainer.session.events.write(
            "warning",
            text=f"{what} is not a number at step {step}; the update was not made. Rows: {shown}",
        )
        raise NonFiniteError(step, what, rows)


def training_arguments(recipe: Recipe, machine: Machine, folder: Path) -> TrainingArguments:
    """The recipe in the Trainer's words; JobCallback decides when to save, evaluate and log."""
    settings = recipe.training
    warmup = settings.warmup if settings.warmup < 1 else int(settings.warmup)
    schedule = settings.schedule
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup" if schedule == "constant" else schedule,
        warmup_steps=warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        adam_beta2=settings.beta2,
        seed=settings.seed,
        bf16=machine.precision == "bf16",
        fp16=machine.precision == "fp16",
        use_cpu=not machine.on_gpu,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=machine.on_gpu,
        train_sampling_strategy="random",
        average_tokens_across_devices=False,
    )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
