"""transformers' Trainer with our objectives, events, row losses and checkpoints.

What happens at the edge of a step (guards, requests, cadence) is in ``steering``.
"""

from __future__ import annotations

import errno
import math
import resource
import shutil
import sys
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer_callback import DefaultFlowCallback, ProgressCallback

from finetui.engine import checkpoints, optimiser
from finetui.engine.batches import Contents, Row
from finetui.engine.dataset import Encoding
from finetui.engine.evaluator import HeldOut, Samples
from finetui.engine.losses import Told
from finetui.engine.machine import Machine
from finetui.engine.objectives import Objective
from finetui.engine.order import Order, TrainingRows
from finetui.engine.reporting import reports
from finetui.engine.schedule import Schedule
from finetui.engine.steering import Ending, JobCallback
from finetui.jobs.rowlosses import RowLossWriter
from finetui.jobs.worker import WorkerSession
from finetui.recipe.schema import Recipe

_SOURCES_SHOWN = 64
# The callback ends a run by its steps: the end may be moved past the planned epochs.
_EPOCHS_WITHOUT_END = 1_000_000_000


@dataclass
class Update:
    """One update while it is made: losses and figures of its batches, still on the device.

    ``settle`` brings them to the host at once; from then on ``loss``, ``norm`` and ``row_losses``
    are plain numbers.
    """

    loss: float = 0.0
    norm: float | None = None
    items: float = 0.0
    tokens: int = 0
    trained_tokens: int = 0
    sources: list[list[int]] = field(default_factory=list)
    row_items: list[int] = field(default_factory=list)
    row_losses: list[float] = field(default_factory=list)
    figures: dict[str, torch.Tensor] = field(default_factory=dict)
    skipped: bool = False
    _losses: list[torch.Tensor] = field(default_factory=list)
    _rows: list[torch.Tensor] = field(default_factory=list)

    def add(self, contents: Contents, loss: torch.Tensor, told: Told) -> None:
        """Take in one batch; ``loss`` is already divided by the items of the whole update."""
        self.tokens += contents.tokens
        self.trained_tokens += contents.trained_tokens
        self.sources += contents.sources
        self._losses.append(loss.detach().reshape(1))
        if told.rows is not None:
            self.row_items += contents.row_items
            self._rows.append(told.rows)
        for name, value in told.figures.items():
            self.figures[name] = self.figures[name] + value if name in self.figures else value

    def settle(self, norm: torch.Tensor | float | None) -> None:
        """Read everything in one transfer: a GPU waits once an update."""
        device = self._losses[0].device
        norms = [] if norm is None else [torch.as_tensor(norm, device=device).reshape(1)]
        parts = [part.float() for part in (*norms, *self._losses, *self._rows)]
        numbers: list[float] = torch.cat(parts).tolist()
        start = len(norms)
        self.norm = numbers[0] if norms else None
        self.loss = sum(numbers[start : start + len(self._losses)])
        self.row_losses = numbers[start + len(self._losses) :]

    def worst(self) -> list[tuple[list[int], float]]:
        """Each row, (file, line), with its mean loss; the highest first, not a number leads."""
        if len(self.row_losses) != len(self.sources):
            return [(source, math.nan) for source in self.sources]
        found = [
            (source, loss / max(items, 1))
            for source, loss, items in zip(
                self.sources, self.row_losses, self.row_items, strict=True
            )
        ]
        return sorted(
            found, key=lambda row: math.inf if math.isnan(row[1]) else row[1], reverse=True
        )


@dataclass
class Window:
    """What happened since the last step event; times in seconds."""

    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    items: float = 0.0
    losses: list[float] = field(default_factory=list)
    figures: dict[str, torch.Tensor] = field(default_factory=dict)
    sources: list[list[int]] = field(default_factory=list)

    def add(self, update: Update, seconds: float) -> None:
        self.steps += 1
        self.seconds += seconds
        self.tokens += update.tokens
        self.losses.append(update.loss)
        self.sources += update.sources
        if math.isfinite(update.loss):
            self.items += update.items
            for name, value in update.figures.items():
                self.figures[name] = self.figures[name] + value if name in self.figures else value

    def loss(self) -> float:
        """Mean of the losses that are numbers; not a number when none is."""
        finite = [loss for loss in self.losses if math.isfinite(loss)]
        return sum(finite) / len(finite) if finite else math.nan

    def means(self) -> dict[str, float]:
        """The objective's own figures, a mean over the items."""
        return {name: float(value) / max(self.items, 1) for name, value in self.figures.items()}


@dataclass
class Totals:
    """Sums since the start of this attempt; ``step_s`` has the seconds of every step."""

    tokens: int = 0
    trained_tokens: int = 0
    updates: int = 0
    loss: float = 0.0
    step_s: array[float] = field(default_factory=lambda: array("d"))

    def add(self, update: Update, seconds: float) -> None:
        self.tokens += update.tokens
        self.trained_tokens += update.trained_tokens
        self.step_s.append(seconds)
        if not update.skipped:
            self.updates += 1
            self.loss += update.loss


class JobTrainer(Trainer):  # type: ignore[misc]
    """Trains one job: item-normalised loss, events, row losses, publication of checkpoints.

    ``rows`` are packed or single. ``held_out`` gives the eval loss, exact over all its items,
    ``probe`` the loss on general rows beside it, ``samples`` answers to read. How a run that did
    not reach its last step came to its end is in ``ending``.
    """

    def __init__(
        self,
        model: Any,
        recipe: Recipe,
        machine: Machine,
        session: WorkerSession,
        data: Encoding,
        rows: Sequence[Row],
        objective: Objective,
        held_out: HeldOut | None = None,
        probe: HeldOut | None = None,
        samples: Samples | None = None,
    ) -> None:
        self.recipe, self.machine, self.session = recipe, machine, session
        self.data, self.objective = data, objective
        self.held_out, self.probe, self.samples = held_out, probe, samples
        self.rows = TrainingRows(rows)
        settings = recipe.training
        self.order = Order(
            self.rows, recipe.data.order, settings.batch_size * settings.accumulation, settings.seed
        )
        self.folder = session.job.path / "checkpoints"
        self.row_file = (
            RowLossWriter(session.job, session.attempt) if recipe.logging.row_losses else None
        )
        self.update, self.window, self.totals = Update(), Window(), Totals()
        self.best_loss, self.since_best = math.inf, 0
        self.evaluated_at = -1
        self.eval_loss: float | None = None
        self.ending: Ending | None = None
        self.steering = JobCallback(self)
        self._clock = time.perf_counter()
        checkpoints.draft_folder(self.folder)
        super().__init__(
            model=model,
            args=training_arguments(recipe, machine, self.folder / checkpoints.PARTIAL),
            train_dataset=self.rows,
            data_collator=objective.collate,
            callbacks=[self.steering],
        )
        for unwanted in (PrinterCallback, ProgressCallback, DefaultFlowCallback):
            self.remove_callback(unwanted)
        for report in reports(recipe, session.job):
            self.add_callback(report)
        # Our loss divides by the items of the whole update already, and needs their number.
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = True

    # -- what the Trainer is made of ------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Row]:
        """Batches in our order. Nothing is fetched ahead: a row taken out is out at once."""
        return DataLoader(
            self.rows,
            batch_size=self.args.per_device_train_batch_size,
            sampler=self.order,
            collate_fn=self.data_collator,
            pin_memory=self.machine.on_gpu,
        )

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        planned: tuple[Any, ...] = super().set_initial_training_values(*args, **kwargs)
        return (_EPOCHS_WITHOUT_END, *planned[1:])

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> None:
        self.order.epoch = epoch
        super()._run_epoch(*args, epoch=epoch, **kwargs)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        self.optimizer: Any = self.optimizer or optimiser.build(self.model, self.recipe)
        return cast(torch.optim.Optimizer, self.optimizer)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Schedule:
        chosen = self.optimizer if optimizer is None else optimizer
        self.lr_scheduler = Schedule(chosen, self.recipe, num_training_steps)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    # -- one step -----------------------------------------------------------------------------

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        contents: Contents = inputs.pop("contents")
        loss, told = self.objective.loss(model, inputs, self.update.items)
        self.update.add(contents, loss, told)
        return (loss, {}) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
        """Items of one update. One process, so there is nothing to gather."""
        self.update.items = float(sum(map(self.objective.items, batch_samples)))
        return torch.tensor(self.update.items)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        self.update.settle(norm)
        return norm

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # nobody reads it

    def step_ended(self) -> Update:
        """Close the accounts of one update and return it; called at its edge."""
        now, update = time.perf_counter(), self.update
        seconds = now - self._clock
        self.window.add(update, seconds)
        self.totals.add(update, seconds)
        if self.row_file is not None and update.row_losses:
            self.row_file.append(
                self.state.global_step,
                update.sources,
                update.row_losses,
                update.row_items,
                update.skipped,
            )
        self.update, self._clock = Update(), now
        return update

    def restart_clock(self) -> None:
        """Leave the time since the last step out of the step times (evaluation, saving, pause)."""
        self._clock = time.perf_counter()

    # -- events -------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Step figures become an event; the Trainer's own closing summary is left out."""
        if "loss" in logs and "learning_rate" in logs:
            self.write_step(logs["learning_rate"], logs.get("grad_norm"))

    def write_step(self, rate: float, grad_norm: float | None) -> None:
        """One step event over the window since the last: mean loss, the rate of its last step."""
        window, self.window = self.window, Window()
        _, resident = self.machine.memory()
        loss, figures = window.loss(), window.means()
        speed = window.tokens / window.seconds if window.seconds > 0 else None
        self.session.events.write(
            "step",
            step=self.state.global_step,
            total_steps=self.state.max_steps,
            epoch=round(self.state.epoch or 0.0, 4),
            loss=loss,
            lr=rate,
            grad_norm=grad_norm,
            tokens=self.totals.tokens,
            trained_tokens=self.totals.trained_tokens,
            tokens_per_s=speed,
            step_s=window.seconds / window.steps if window.steps else None,
            memory_bytes=self._memory_now(resident),
            memory_peak_bytes=peak_bytes(self.machine),
            rss_bytes=resident,
            figures=figures,
            rows=window.sources[-_SOURCES_SHOWN:],
        )
        self.report({"loss": loss, "learning_rate": rate, "grad_norm": grad_norm,
                     "tokens_per_s": speed, **figures})  # fmt: skip

    def report(self, figures: Mapping[str, float | None]) -> None:
        """Hand figures to the reports that the recipe asks for (tensorboard, wandb, ...)."""
        if self.recipe.logging.report_to:
            plain = {name: value for name, value in figures.items() if value is not None}
            self.callback_handler.on_log(self.args, self.state, self.control, plain)

    def source_names(self, sources: Sequence[Sequence[int]]) -> list[str]:
        """file:line of each example."""
        return [f"{Path(self.data.files[file]).name}:{line}" for file, line in sources]

    def _memory_now(self, resident: int) -> int:
        """Bytes that the process holds on its device, as other programs see them."""
        if self.machine.on_gpu:
            return int(torch.cuda.memory_reserved(self.machine.device))
        return resident

    # -- evaluation ---------------------------------------------------------------------------

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Mean loss over all held-out items; keeps the weights when they are the best yet."""
        self.control.should_evaluate = False
        if self.held_out is None or self.evaluated_at == self.state.global_step:
            return {}
        began = time.perf_counter()
        loss, figures = self.held_out.measure(self.model, self.machine, self.session.beat)
        probe = {}
        if self.probe is not None:
            rows = self.probe.measure(self.model, self.machine, self.session.beat)
            probe = {"probe_loss": rows[0]}
        self.eval_loss, self.evaluated_at = loss, self.state.global_step
        self.session.events.write(
            "eval",
            step=self.state.global_step,
            loss=loss,
            seconds=round(time.perf_counter() - began, 3),
            figures=figures,
            **probe,
        )
        named = {f"eval_{name}": value for name, value in figures.items()}
        self.report({"eval_loss": loss, **probe, **named})
        self._show_samples()
        if self.state.global_step > 0:
            self._judge(loss)
        self.restart_clock()
        return {"eval_loss": loss}

    def _show_samples(self) -> None:
        if self.samples is None:
            return
        for prompt, answer in self.samples.answer(self.model):
            self.session.events.write(
                "sample",
                step=self.state.global_step,
                id=prompt.id,
                prompt=str(prompt.messages[-1].get("content") or ""),
                answer=answer,
                reference=prompt.reference,
            )

    def _judge(self, loss: float) -> None:
        settings = self.recipe.evaluation
        if loss < self.best_loss:
            self.best_loss, self.since_best = loss, 0
            if settings.keep_best:
                self._keep_best(loss)
        else:
            self.since_best += 1
        if settings.early_stopping and self.since_best >= settings.early_stopping:
            step = self.state.global_step
            text = (
                f"stopped early at step {step}: {self.since_best} evaluations without a better "
                "eval loss"
            )
            self.ending = self.ending or Ending("early", text, step)
        self.steering.evaluated(loss)

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


def peak_bytes(machine: Machine) -> int:
    """The most memory that tensors took on the GPU; on a CPU, that the process took at all."""
    if machine.on_gpu:
        return int(torch.cuda.max_memory_allocated(machine.device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def training_arguments(recipe: Recipe, machine: Machine, folder: Path) -> TrainingArguments:
    """The recipe in the Trainer's words, where it is asked: optimiser, schedule, order, reports
    and everything about the model are ours; JobCallback says when to save, evaluate and log."""
    settings = recipe.training
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        max_grad_norm=settings.clip,
        seed=settings.seed,
        bf16=machine.precision == "bf16",
        fp16=machine.precision == "fp16",
        use_cpu=not machine.on_gpu,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        run_name=recipe.name or None,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=machine.on_gpu,
        average_tokens_across_devices=False,
    )
