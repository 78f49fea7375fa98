"""A rehearsal: the longest batch through a few updates, one evaluation, one save and reload.

The same code as in training, on the rows that need the most memory, so that a run which would
break in the night breaks in a minute. Leaves no result, only figures: peak memory, seconds an
update, bytes a checkpoint; the machine's calibration learns from them.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from finetui.display import size
from finetui.engine.batches import AnyExample
from finetui.engine.ledger import Ledger
from finetui.engine.machine import choose_machine
from finetui.engine.model import load_model, load_tokenizer
from finetui.engine.restoring import load_weights
from finetui.engine.train import Material, Run, build_trainer, cost, put_training_on, read_data
from finetui.engine.trainer import JobTrainer
from finetui.errors import UserError
from finetui.jobs import calibration, checkpoints
from finetui.jobs.devices import DeviceReader
from finetui.jobs.worker import WorkerSession
from finetui.recipe.schema import Recipe
from finetui.recipe.schema import replace as changed
from finetui.workspace import Workspace

# The first update makes the optimiser's states, so the peak comes with the second.
UPDATES = 3


def rehearse(session: WorkerSession, recipe: Recipe, workspace: Workspace | None = None) -> None:
    """Try a recipe and write what it took as the outcome. Raises what would stop the run."""
    session.events.write("stage", text="loading the model")
    recipe = shortened(recipe)
    machine = choose_machine(recipe.model.precision, recipe.training.threads)
    tokenizer = load_tokenizer(recipe.model, session.job.path / "tokenizer")
    run = Run(session, recipe, machine, tokenizer, workspace)
    material = read_data(run)
    _keep_longest(run, material)
    model = load_model(recipe.model, machine, recipe.method, packed=recipe.data.packing)
    trainer = build_trainer(run, put_training_on(run, model), material)
    run.stage("training on the longest batch")
    trainer.train()
    run.metrics |= {"steps": trainer.state.global_step, **cost(machine, trainer)}
    run.metrics |= _pace(trainer)
    if machine.on_gpu:
        run.metrics |= _seen_from_outside()
    else:
        run.metrics["tensor_bytes"] = tensor_peak(trainer)
    _check_checkpoint(run, trainer)
    session.outcome("finished", metrics=run.metrics, sentence=_sentence(run))
    calibration.keep(session.job)


def shortened(recipe: Recipe) -> Recipe:
    """The recipe with a few updates, evaluation and save at the end, and nothing else."""
    values: dict[str, Any] = {
        "training.max_steps": UPDATES,
        # More batches an update only wait for each other: two have all that many have.
        "training.accumulation": min(recipe.training.accumulation, 2),
        # What one of several processes needs; sharing the weights out is not tried.
        "training.processes": 1,
        "data.order": "file",
        "evaluation.every": 0,
        "evaluation.generate": 0,
        "evaluation.samples": 0,
        "evaluation.early_stopping": 0,
        "evaluation.keep_best": False,
        "checkpoints.every": 0,
        "logging.every": 1,
        "logging.row_losses": False,
        "logging.report_to": (),
    }
    for id, value in values.items():
        recipe = changed(recipe, id, value)
    return recipe


def _keep_longest(run: Run, material: Material) -> None:
    """Leave one update of the longest training examples, and one batch of held-out ones."""
    training = run.recipe.training
    rows = training.batch_size * training.accumulation
    tokens = rows * run.recipe.data.max_length if run.recipe.data.packing else 0
    run.metrics["rows"] = len(material.data.examples)
    run.metrics["longest"] = max(map(len, material.data.examples))
    material.data = replace(material.data, examples=longest(material.data.examples, rows, tokens))
    for name in ("held_out", "probe"):
        found = getattr(material, name)
        if found is not None:
            kept = longest(found.examples, training.batch_size)
            setattr(material, name, replace(found, examples=kept))


def longest(examples: Sequence[AnyExample], count: int, tokens: int = 0) -> list[AnyExample]:
    """The longest examples: ``count`` of them, or more until they hold so many tokens."""
    kept: list[AnyExample] = []
    held = 0
    for example in sorted(examples, key=len, reverse=True):
        if len(kept) >= count and held >= tokens:
            break
        kept.append(example)
        held += len(example)
    return kept


def _pace(trainer: JobTrainer) -> dict[str, float]:
    """Seconds and tokens of the updates after the first, which warms everything up."""
    later = list(trainer.totals.step_s)[1:] or list(trainer.totals.step_s)
    if not later:
        return {}
    tokens = trainer.totals.tokens / len(trainer.totals.step_s)
    mean = sum(later) / len(later)
    return {"step_s": round(mean, 6), "tokens_per_s": round(tokens / mean, 3) if mean else 0.0}


def tensor_peak(trainer: JobTrainer) -> int:
    """Bytes of all tensors at the peak of one more batch, counted: a CPU's allocator tells none.

    Resident memory, which `cost` has, also holds the libraries and what was given back to malloc.
    """
    size = trainer.recipe.training.batch_size
    batch = trainer.objective.collate(
        [trainer.rows[i] for i in range(min(size, len(trainer.rows)))]
    )
    batch.pop("contents")
    states = [one for state in trainer.optimizer.state.values() for one in state.values()]
    standing = [*trainer.model.parameters(), *trainer.model.buffers()]
    standing += [one for one in states if isinstance(one, torch.Tensor)]
    ledger = Ledger()
    ledger.ignore(standing)
    trainer.model.train()
    with ledger:
        with trainer.machine.autocast():
            loss, _ = trainer.objective.loss(trainer.model, batch, 1.0)
        torch.autograd.backward(loss)
    trainer.model.zero_grad(set_to_none=True)
    held: int = sum(one.numel() * one.element_size() for one in standing)
    return ledger.peak + held


def _seen_from_outside() -> dict[str, int]:
    """Bytes of GPU memory that other programs see this process hold: context and cache too."""
    reader = DeviceReader()
    try:
        held = [
            one.memory
            for gpu in reader.sample().gpus
            for one in gpu.processes
            if one.pid == os.getpid() and one.memory
        ]
    finally:
        reader.close()
    return {"process_bytes": held[0]} if held else {}


# -- the checkpoint ------------------------------------------------------------------------------


def _check_checkpoint(run: Run, trainer: JobTrainer) -> None:
    """Read the last checkpoint back and compare it with what is trained; then remove it.

    Raises UserError when it cannot be resumed from.
    """
    run.stage("reading the checkpoint back")
    found = checkpoints.valid_checkpoints(trainer.folder)
    if not found:
        raise UserError("no checkpoint could be saved.", str(trainer.folder), "See the warnings.")
    _, path = found[-1]
    began = time.perf_counter()
    manifest = checkpoints.manifest_of(path) or {}
    run.metrics["checkpoint_bytes"] = checkpoints.size_of(manifest)
    _reload(trainer, path)
    run.metrics["reload_s"] = round(time.perf_counter() - began, 3)
    shutil.rmtree(trainer.folder, ignore_errors=True)


def _reload(trainer: JobTrainer, path: Path) -> None:
    """Load weights and optimiser as resuming does. Raises UserError where they differ."""
    before = _trained(trainer.model)
    with torch.no_grad():
        for part in trainer.model.parameters():
            if part.requires_grad:
                part.zero_()
    load_weights(trainer, path)
    trainer._load_optimizer_and_scheduler(str(path))
    after = _trained(trainer.model)
    wrong = [name for name, value in before.items() if not torch.equal(value, after[name])]
    if wrong:
        raise UserError(
            f"the checkpoint does not bring back {len(wrong)} of {len(before)} trained weights, "
            f"such as {wrong[0]}.",
            str(path),
            "This run could not be resumed; say so on the issue tracker.",
        )


def _trained(model: Any) -> dict[str, torch.Tensor]:
    return {
        name: part.detach().to("cpu", copy=True)
        for name, part in model.named_parameters()
        if part.requires_grad
    }


def _sentence(run: Run) -> str:
    metrics = run.metrics
    told = (
        f"peak {size(metrics['peak_bytes'])}{_forecast(run, 'peak_bytes_low', 'peak_bytes_high')}"
    )
    if "tensor_bytes" in metrics:
        tensors = _forecast(run, "tensors", "tensors")
        told += f", of which tensors {size(metrics['tensor_bytes'])}{tensors}"
    return (
        f"{told}; {metrics.get('step_s', 0):.3g} s an update; "
        f"{size(metrics['checkpoint_bytes'])} a checkpoint"
    )


def _forecast(run: Run, *names: str) -> str:
    """The forecast of one figure, which the job was started with, in brackets."""
    kept = run.session.job.manifest().get("forecast") or {}
    sizes = dict.fromkeys(size(kept[name]) for name in names if kept.get(name))
    return f" (forecast {' to '.join(sizes)})" if sizes else ""
