"""transformers' Trainer with our objectives, events, row losses and checkpoints.

What happens at the edge of a step (guards, requests, cadence) is in ``steering``.
"""

from __future__ import annotations

import errno
import math
import resource
import shutil
import sys
import tempfile
import time
from array import array
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer_callback import DefaultFlowCallback, ProgressCallback

from finetui.engine import optimiser, restoring, sharding, sizes
from finetui.engine.adapters import is_adapter, save_adapter_files
from finetui.engine.batches import NOTHING, Contents, Row
from finetui.engine.checkpoints import keep_best
from finetui.engine.dataset import Encoding
from finetui.engine.evaluator import HeldOut, Samples
from finetui.engine.losses import Told
from finetui.engine.machine import Machine
from finetui.engine.objectives import Objective
from finetui.engine.order import Order, Ordered, TrainingRows, Updates
from finetui.engine.ranks import ALONE, Ranks, Requests, merged
from finetui.engine.reporting import reports
from finetui.engine.restoring import Point
from finetui.engine.schedule import Schedule
from finetui.engine.steering import Ending, JobCallback
from finetui.jobs import checkpoints, procfs, room
from finetui.jobs.rowlosses import RowLossWriter
from finetui.jobs.worker import UnsavedError, WorkerSession
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
    figures: dict[str, Any] = field(default_factory=dict)
    skipped: bool = False
    _losses: list[torch.Tensor] = field(default_factory=list)
    _rows: list[torch.Tensor] = field(default_factory=list)
    _sizes: list[tuple[int, int]] = field(default_factory=list)

    def add(self, contents: Contents, loss: torch.Tensor, told: Told) -> None:
        """Take in one batch; ``loss`` is already divided by the items of the whole update."""
        self.tokens += contents.tokens
        self.trained_tokens += contents.trained_tokens
        self.sources += contents.sources
        self._losses.append(loss.detach().reshape(1))
        self._sizes.append((len(contents.sources), 0 if told.rows is None else len(told.rows)))
        if told.rows is not None:
            self.row_items += contents.row_items
            self._rows.append(told.rows)
        for name, value in told.figures.items():
            self.figures[name] = self.figures[name] + value if name in self.figures else value

    def settle(self, norm: torch.Tensor | float | None, ranks: Ranks = ALONE) -> None:
        """Read everything in one transfer: a GPU waits once an update.

        With several ranks each then has the whole update, in the order of one process.
        """
        device = self._losses[0].device
        norms = [] if norm is None else [torch.as_tensor(norm, device=device).reshape(1)]
        parts = [part.float() for part in (*norms, *self._losses, *self._rows)]
        numbers: list[float] = torch.cat(parts).tolist()
        start = len(norms)
        self.norm = numbers[0] if norms else None
        self.loss = sum(numbers[start : start + len(self._losses)])
        self.row_losses = numbers[start + len(self._losses) :]
        if ranks.several:
            self._join(ranks, numbers[start : start + len(self._losses)])

    def _join(self, ranks: Ranks, losses: list[float]) -> None:
        """Take in the batches of the other ranks."""
        named = list(self.figures)
        values = (
            torch.stack([self.figures[name].float() for name in named]).tolist() if named else []
        )
        mine: dict[str, Any] = {
            "loss": sum(losses),
            "tokens": [self.tokens, self.trained_tokens],
            "figures": dict(zip(named, values, strict=True)),
            "batches": list(self._batches()),
        }
        parts = ranks.gather(mine)
        self.loss = sum(part["loss"] for part in parts)
        self.tokens, self.trained_tokens = (
            sum(part["tokens"][at] for part in parts) for at in (0, 1)
        )
        self.figures = _summed(part["figures"] for part in parts)
        batches = merged([part["batches"] for part in parts])
        self.sources, self.row_items, self.row_losses = (
            [one for batch in batches for one in batch[at]] for at in range(3)
        )

    def _batches(self) -> Iterator[tuple[list[list[int]], list[int], list[float]]]:
        """Sources, items and losses of the rows of each batch."""
        source = row = 0
        for sources, rows in self._sizes:
            yield (
                self.sources[source : source + sources],
                self.row_items[row : row + rows],
                self.row_losses[row : row + rows],
            )
            source, row = source + sources, row + rows

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


def _summed(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


@dataclass
class Window:
    """What happened since the last step event; times in seconds."""

    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    items: float = 0.0
    losses: list[float] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
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
    """Sums since the first step, over all attempts that led here; ``seconds`` are those of the
    steps, and ``step_s`` has each of this attempt."""

    tokens: int = 0
    trained_tokens: int = 0
    updates: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    step_s: array[float] = field(default_factory=lambda: array("d"))

    def add(self, update: Update, seconds: float) -> None:
        self.tokens += update.tokens
        self.trained_tokens += update.trained_tokens
        self.seconds += seconds
        self.step_s.append(seconds)
        if not update.skipped:
            self.updates += 1
            self.loss += update.loss


class JobTrainer(Trainer):  # type: ignore[misc]
    """Trains one job: item-normalised loss, events, row losses, publication of checkpoints.

    ``rows`` are packed or single. ``held_out`` gives the eval loss, exact over all its items,
    ``probe`` the loss on general rows beside it, ``samples`` answers to read. How a run that did
    not reach its last step came to its end is in ``ending``. ``point`` is where it goes on, None
    for a first attempt; ``metrics`` are those of the run.
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
        ranks: Ranks = ALONE,
        point: Point | None = None,
        metrics: dict[str, Any] | None = None,
    ) -> None:
        self.point, self.metrics = point, {} if metrics is None else metrics
        self.recipe, self.machine, self.session = recipe, machine, session
        self.ranks, self.requests = ranks, Requests(session, ranks)
        self.data, self.objective = data, objective
        self.held_out, self.probe, self.samples = held_out, probe, samples
        self.rows = TrainingRows(rows)
        settings = recipe.training
        size = settings.batch_size * settings.accumulation * ranks.world
        self.order = Order(self.rows, recipe.data.order, size, settings.seed)
        self.updates = Updates(
            self.order, settings.batch_size, settings.accumulation, ranks.world, ranks.rank
        )
        self.folder = session.job.path / "checkpoints"
        self.row_file = (
            RowLossWriter(session.job, session.attempt)
            if recipe.logging.row_losses and ranks.first
            else None
        )
        self.update, self.window, self.totals = Update(), Window(), Totals()
        self.ordered = Ordered()
        self.best_loss, self.best_step, self.since_best = math.inf, 0, 0
        self.evaluated_at = -1
        self.eval_loss: float | None = None
        self.ending: Ending | None = None
        self.steering = JobCallback(self)
        # Seconds of training before this attempt, and when this one's began.
        self.spent, self.began = 0.0, time.perf_counter()
        self._clock = time.perf_counter()
        if ranks.first:
            checkpoints.draft_folder(self.folder)
        super().__init__(
            model=model,
            args=training_arguments(recipe, machine, self.folder / checkpoints.PARTIAL, ranks),
            train_dataset=self.rows,
            data_collator=objective.collate,
            callbacks=[self.steering],
        )
        for unwanted in (PrinterCallback, ProgressCallback, DefaultFlowCallback):
            self.remove_callback(unwanted)
        for report in reports(recipe, session.job) if ranks.first else ():
            self.add_callback(report)
        # Our loss divides by the items of the whole update already, and needs their number.
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = True

    # -- what the Trainer is made of ------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Row]:
        """Batches in our order. Nothing is fetched ahead: a row taken out is out at once."""
        return DataLoader(
            self.rows,
            batch_sampler=self.updates,
            collate_fn=self.data_collator,
            pin_memory=self.machine.on_gpu,
            # Its seed is drawn at each epoch: not from the random state that a run goes on with.
            generator=torch.Generator(),
        )

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        planned: tuple[Any, ...] = super().set_initial_training_values(*args, **kwargs)
        return (_EPOCHS_WITHOUT_END, *planned[1:])

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """The step and the epoch to begin with; `restoring` brings everything else."""
        planned: tuple[int, int] = super()._init_training_state(*args, **kwargs)
        if self.point is None or self.point.checkpoint is None:
            return planned
        self.state.global_step = self.point.step
        return restoring.go_to(self), 0

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> None:
        """One epoch, or what is left of it: the order begins where the run goes on."""
        if self.state.global_step >= self.state.max_steps or self.ending is not None:
            self.control.should_training_stop = True
            return
        self.order.begin(epoch)
        left = self.order.left
        kwargs["steps_in_epoch"] = self.updates.batches(left)
        kwargs["num_update_steps_per_epoch"] = self.updates.updates(left)
        super()._run_epoch(*args, epoch=epoch, **kwargs)

    def _wrap_model(self, model: Any, training: bool = True, **kwargs: Any) -> Any:
        if self.ranks.sharded and training:
            return sharding.Together(model)
        return super()._wrap_model(model, training=training, **kwargs)

    def compute_loss_context_manager(self) -> ExitStack:
        """The number format, where it is not the Trainer that wraps the model."""
        stack: ExitStack = super().compute_loss_context_manager()
        if self.ranks.sharded:
            stack.enter_context(self.machine.autocast())
        return stack

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.ranks.sharded:
            sharding.rest(self.model)  # the optimiser's parameters are the shares
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
        if contents.idle:
            # The other ranks have rows still: this one only takes part in what they do together.
            loss, told = loss * 0.0, Told()
        self.update.add(contents, loss, told)
        if self.ranks.several:
            # The gradients of the ranks are averaged, and the items are those of them all.
            loss = loss * self.ranks.world
        return (loss, {}) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
        """Items of one update, over all ranks."""
        items = 0
        taken = self.updates.taken(len(batch_samples))
        for batch, idle in zip(batch_samples, taken, strict=True):
            if idle:
                batch["contents"] = NOTHING
            else:
                items += self.objective.items(batch)
        self.update.items = self.ranks.total(float(items))[0]
        return torch.tensor(self.update.items)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        if self.ranks.sharded:
            norm = sharding.plain(norm)
        self.update.settle(norm, self.ranks)
        return norm

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # nobody reads it

    def store_flos(self) -> None:
        """Nothing: with several ranks it would wait for those that do not save."""

    def step_ended(self) -> Update:
        """Close the accounts of one update and return it; called at its edge."""
        now, update = time.perf_counter(), self.update
        seconds = now - self._clock
        self.window.add(update, seconds)
        self.totals.add(update, seconds)
        self.ordered.add(update.sources)
        self.state.epoch = self.order.epochs
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
            order=self.ordered.digest,
            **self._places(resident),
        )
        self.report({"loss": loss, "learning_rate": rate, "grad_norm": grad_norm,
                     "tokens_per_s": speed, **figures})  # fmt: skip

    def report(self, figures: Mapping[str, float | None]) -> None:
        """Hand figures to the reports that the recipe asks for (tensorboard, wandb, ...)."""
        if self.recipe.logging.report_to:
            plain = {name: value for name, value in figures.items() if value is not None}
            try:
                self.callback_handler.on_log(self.args, self.state, self.control, plain)
            except Exception as error:
                if not room.is_full(error):
                    raise
                text = f"{', '.join(self.recipe.logging.report_to)} got no figures: {error}"
                self.session.events.write("warning", text=text)

    def source_names(self, sources: Sequence[Sequence[int]]) -> list[str]:
        """file:line of each example."""
        return [f"{Path(self.data.files[file]).name}:{line}" for file, line in sources]

    def _places(self, resident: int) -> dict[str, Any]:
        """Where each of several ranks is, and the memory it takes, in bytes."""
        if not self.ranks.several:
            return {}
        mine = {
            "rank": self.ranks.rank,
            "host": procfs.host(),
            "gpu": self.machine.gpu,
            "memory_bytes": self._memory_now(resident),
            "memory_peak_bytes": peak_bytes(self.machine),
            "rss_bytes": resident,
        }
        return {"ranks": self.ranks.gather(mine)}

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
        loss, figures = self.held_out.measure(
            self.model, self.machine, self.session.beat, self.ranks
        )
        probe = {}
        if self.probe is not None:
            rows = self.probe.measure(self.model, self.machine, self.session.beat, self.ranks)
            probe = {"probe_loss": rows[0]}
        if self.ranks.sharded:
            sharding.rest(self.model)
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
        self.ranks.first_does(self._show_samples)
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
            self.best_loss, self.best_step, self.since_best = loss, self.state.global_step, 0
            if settings.keep_best:
                with self._whole():
                    self.ranks.first_does(lambda: self._keep_best(loss))
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
        step = self.state.global_step
        self._until_saved(
            f"the best adapter or model, of step {step}",
            self.folder / f"best-{step}",
            sizes.weights_bytes(self.model),
            lambda: keep_best(self.model, self.folder, step, loss),
        )

    # -- checkpoints --------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Let the Trainer write into a draft, then publish it as step-N and rotate."""
        step = self.state.global_step
        target = self.folder / f"step-{step}"
        if self.ranks.share(checkpoints.manifest_of(target) is not None):
            return
        self._others_random = self._random_states()
        with self._whole(states=True):
            self.ranks.first_does(lambda: self._save_step(model, trial, target))
        self.restart_clock()

    @contextmanager
    def _whole(self, states: bool = False) -> Iterator[None]:
        """Inside, rank 0 has all of what is trained, also where it is shared out."""
        if not self.ranks.sharded:
            yield
            return
        first = self.ranks.first
        with (
            sharding.whole(self.model, keep=first),
            sharding.whole_states(self.optimizer, keep=first and states),
        ):
            yield

    def _save_step(self, model: Any, trial: Any, target: Path) -> None:
        step = self.state.global_step
        self.session.require_newest()
        saved = self._until_saved(
            f"the checkpoint of step {step}",
            target,
            sizes.checkpoint_bytes(self.model, self.optimizer),
            lambda: self._write_checkpoint(model, trial, target),
        )
        if not saved:
            return
        checkpoints.rotate(self.folder, self.recipe.checkpoints.keep)
        checkpoints.drop_old_best(self.folder, self.best_step)
        self.session.events.write("checkpoint", step=step, path=str(target))

    @cached_property
    def rows_digest(self) -> str:
        """What tells these rows from others."""
        return restoring.rows_digest(self.rows.all)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """An adapter as we write it: the Trainer's way may ask the hub about the vocabulary."""
        if output_dir is None or not is_adapter(self.model):
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            save_adapter_files(self.model, Path(output_dir))

    def _write_checkpoint(self, model: Any, trial: Any, target: Path) -> None:
        step = self.state.global_step
        draft = checkpoints.draft_folder(self.folder)
        super()._save_checkpoint(model, trial)
        saved = draft / f"checkpoint-{step}"
        # A pickle that resuming does not need.
        (saved / "training_args.bin").unlink(missing_ok=True)
        for rank, state in enumerate(self._others_random, start=1):
            (saved / f"rng_state_{rank}.pth").write_bytes(state)
        restoring.write_state(self, saved)
        # Writing may have taken a while.
        self.session.require_newest()
        checkpoints.publish(saved, target, **restoring.facts_of(self))

    def _random_states(self) -> list[bytes]:
        """The random state of each rank above 0, as the Trainer would save it."""
        mine = ""
        if not self.ranks.first:
            with tempfile.TemporaryDirectory() as folder:
                self._save_rng_state(folder)
                (file,) = Path(folder).iterdir()
                mine = b64encode(file.read_bytes()).decode()
        return [b64decode(state) for state in self.ranks.gather(mine)[1:]]

    def _until_saved(self, what: str, target: Path, need: int, save: Callable[[], object]) -> bool:
        """Save into ``target`` by way of the draft, paused while the disk is full (need: bytes).

        False when a stop was asked for and the disk is full still: then there is no ``target``.
        """
        ending = self.ending

        def write() -> None:
            try:
                save()
            except Exception as error:
                full = room.is_full(error, self.folder, need)
                # What is half written would keep the room that is waited for.
                shutil.rmtree(self.folder / checkpoints.PARTIAL, ignore_errors=True)
                if checkpoints.manifest_of(target) is None:
                    shutil.rmtree(target, ignore_errors=True)
                if full and not isinstance(error, OSError):
                    raise OSError(errno.ENOSPC, str(error)) from error
                raise

        try:
            self.session.until_saved(
                what, self.folder, need, write, hold=self.steering.wait_for,
                patient=ending is None or ending.kind != "stop",
            )  # fmt: skip
        except UnsavedError as error:
            self.session.events.write("warning", text=str(error))
            self.session.control.keep(error.verbs)
            return False
        return True


def peak_bytes(machine: Machine) -> int:
    """The most memory that tensors took on the GPU; on a CPU, that the process took at all."""
    if machine.on_gpu:
        return int(torch.cuda.max_memory_allocated(machine.device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def training_arguments(
    recipe: Recipe, machine: Machine, folder: Path, ranks: Ranks = ALONE
) -> TrainingArguments:
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
        **(_together(ranks) if ranks.several else {}),
    )


def _together(ranks: Ranks) -> dict[str, Any]:
    """What several processes need beside: every rank has the same buffers and uses the same
    weights, experts that no row of a rank went to excepted."""
    return {"ddp_broadcast_buffers": False, "ddp_find_unused_parameters": True}
