"""What a recipe will do, before it does it: steps, rates, adapter size, memory, disk, time.

Memory is `finetui.recipe.memory`, whether it fits `finetui.recipe.fitting`. Steps and rates are
the trainer's own arithmetic. Time comes from this machine's earlier runs: operations a second that
they reached, over the operations of this one (2 a parameter and token forward, 2 backward, 2 more
for the gradients of trained weights, 2 more where activations are computed again).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from finetui.recipe.facts import Facts
from finetui.recipe.fitting import Remedy, Verdict, fits, remedies
from finetui.recipe.memory import (
    Moment,
    Part,
    Peak,
    Source,
    adapter_parameters,
    alike,
    largest_batch,
    peak,
    precision,
    problem,
)
from finetui.recipe.schema import Recipe

__all__ = [
    "Facts",
    "Part",
    "Plan",
    "Remedy",
    "Verdict",
    "fits",
    "flops_per_token",
    "learning_rate_at",
    "plan",
    "remedies",
    "too_long_share",
]

_POINTS = 200  # of the learning-rate curve: more than any pane has columns
_PACKED = 0.95  # share of a packed sequence that is filled; first-fit reaches 0.95 to 0.99
_KNOWN, _ONCE = 0.1, 0.25  # doubt in the pace: from several earlier runs, from one
# Processes that wait for each other's gradients, at worst.
_WAITS = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The forecast; None is unknown. ``exact`` is False where token figures are estimates.

    ``learning_rates`` has at most 200 points, evenly over the run, the first and last step among
    them. ``memory`` splits the peak, bytes at ``peak_moment``: its parts add up to it.
    ``memory_source`` says where activations come from, ``calibrated`` how many earlier runs
    corrected them. ``disk`` adds up to ``disk_bytes``. ``seconds`` are those of training and its
    evaluations, answers not counted.
    """

    rows_per_epoch: int | None = None
    sequences_per_epoch: int | None = None
    steps_per_epoch: int | None = None
    steps: int | None = None
    epochs: float | None = None
    evaluations: int | None = None
    tokens: int | None = None
    batch_tokens: int | None = None
    exact: bool = False
    warmup_steps: int | None = None
    learning_rates: tuple[float, ...] = ()
    adapter_parameters: int | None = None
    memory: tuple[Part, ...] = ()
    memory_source: Source | Literal[""] = ""
    calibrated: int = 0
    peak_moment: Moment | Literal[""] = ""
    peak_bytes_low: int | None = None
    peak_bytes_high: int | None = None
    disk: tuple[Part, ...] = ()
    disk_bytes: int | None = None
    flops: float | None = None
    step_seconds: float | None = None
    seconds_low: float | None = None
    seconds_high: float | None = None
    notes: tuple[str, ...] = ()


def plan(recipe: Recipe, facts: Facts | None = None) -> Plan:
    """Forecast a run from its recipe and what is known; pure and fast enough for every key."""
    facts = facts or Facts()
    rows = _rows_per_epoch(recipe, facts)
    per_epoch = _steps_per_epoch(recipe, _sequences(recipe, facts, rows))
    steps, epochs = _steps(recipe, per_epoch)
    tokens = _tokens(recipe, facts, rows, epochs)
    adapter = adapter_parameters(recipe, facts)
    found = peak(recipe, facts)
    disk = _disk(recipe, facts, adapter, steps, (rows or 0) * (epochs or 0))
    flops = _flops(recipe, facts, tokens, steps)
    low, high = _seconds(recipe, facts, flops)
    return Plan(
        rows_per_epoch=rows,
        sequences_per_epoch=_sequences(recipe, facts, rows),
        steps_per_epoch=per_epoch,
        steps=steps,
        epochs=epochs,
        evaluations=_times(steps, recipe.evaluation.every) if recipe.data.eval else 0,
        tokens=tokens,
        batch_tokens=largest_batch(recipe, facts).tokens,
        exact=facts.exact,
        warmup_steps=None if steps is None else warmup_steps(recipe.training.warmup, steps),
        learning_rates=_curve(recipe, steps),
        adapter_parameters=adapter,
        memory=found.parts if found else (),
        memory_source=found.source if found else "",
        calibrated=found.calibrated if found else 0,
        peak_moment=found.moment if found else "",
        peak_bytes_low=found.low if found else None,
        peak_bytes_high=found.high if found else None,
        disk=disk,
        disk_bytes=round(sum(part.high for part in disk)) if disk else None,
        flops=flops,
        step_seconds=(low + high) / 2 / steps if low and high and steps else None,
        seconds_low=low,
        seconds_high=high,
        notes=tuple(_notes(recipe, facts, found)),
    )


# --- steps and rates -----------------------------------------------------------------------------


def too_long_share(recipe: Recipe, facts: Facts) -> float:
    """The estimated share of training rows longer than max_length."""
    limit = recipe.data.max_length
    if facts.longest is not None and facts.longest <= limit:
        return 0.0
    return sum(length > limit for length in facts.lengths) / max(1, len(facts.lengths))


def _rows_per_epoch(recipe: Recipe, facts: Facts) -> int | None:
    """Training rows that fit, and the general rows mixed in."""
    if facts.rows is None:
        return None
    kept = facts.rows
    if recipe.data.overlong == "drop":
        kept -= round(facts.rows * too_long_share(recipe, facts))
    general = int(facts.rows * recipe.data.general_share) if recipe.data.general else 0
    if facts.general_rows is not None:
        general = min(general, facts.general_rows)
    return kept + general


def _mean_tokens(recipe: Recipe, facts: Facts) -> float | None:
    if not facts.rows or facts.tokens is None:
        return None
    return min(facts.tokens / facts.rows, recipe.data.max_length)


def _sequences(recipe: Recipe, facts: Facts, rows: int | None) -> int | None:
    """Sequences an epoch: rows, or packed sequences of max_length."""
    if rows is None or not recipe.data.packing:
        return rows
    mean = _mean_tokens(recipe, facts)
    if mean is None:
        return None
    return max(1, min(rows, math.ceil(rows * mean / (recipe.data.max_length * _PACKED))))


def _steps_per_epoch(recipe: Recipe, sequences: int | None) -> int | None:
    if sequences is None:
        return None
    batches = math.ceil(sequences / (recipe.training.batch_size * recipe.training.processes))
    return max(1, math.ceil(batches / recipe.training.accumulation))


def _steps(recipe: Recipe, per_epoch: int | None) -> tuple[int | None, float | None]:
    """Updates of the whole run and the epochs they make; max_steps wins over epochs."""
    training = recipe.training
    if training.max_steps:
        return training.max_steps, training.max_steps / per_epoch if per_epoch else None
    if per_epoch is None:
        return None, training.epochs
    return math.ceil(training.epochs * per_epoch), training.epochs


def _times(steps: int | None, every: int) -> int | None:
    """How often something happens every so many steps, the last step always among them."""
    if not every:
        return 1
    return None if steps is None else math.ceil(steps / every)


def warmup_steps(warmup: float, steps: int) -> int:
    """Below 1 a share of all steps, from 1 on a number of steps (as TrainingArguments has it)."""
    return math.ceil(steps * warmup) if warmup < 1 else int(warmup)


def learning_rate_at(recipe: Recipe, step: float, steps: int) -> float:
    """The rate of update ``step`` (0-based, also between two) of ``steps``.

    As transformers' schedules have it.
    """
    training = recipe.training
    warmup = warmup_steps(training.warmup, steps)
    if step < warmup:
        return training.learning_rate * step / max(1, warmup)
    done = (step - warmup) / max(1, steps - warmup)
    match training.schedule:
        case "cosine":
            return training.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        case "linear":
            return training.learning_rate * max(0.0, 1 - done)
        case _:
            return training.learning_rate


def _curve(recipe: Recipe, steps: int | None) -> tuple[float, ...]:
    if not steps:
        return ()
    points = min(steps, _POINTS)
    last = max(1, points - 1)
    at = [round(i * (steps - 1) / last) for i in range(points)]
    return tuple(learning_rate_at(recipe, step, steps) for step in at)


def _tokens(recipe: Recipe, facts: Facts, rows: int | None, epochs: float | None) -> int | None:
    mean = _mean_tokens(recipe, facts)
    return None if mean is None or rows is None or epochs is None else round(mean * rows * epochs)


# --- disk and time -------------------------------------------------------------------------------


def _disk(
    recipe: Recipe, facts: Facts, trained: int | None, steps: int | None, seen: float
) -> tuple[Part, ...]:
    """The result, the best, the checkpoints with optimiser states, and the records.

    ``seen`` rows are trained on in all. A whole model is left in the format it computes in.
    """
    if trained is None:
        return ()
    size = 4.0 * trained
    saved = _times(steps, recipe.checkpoints.every)
    # Two stay whatever is asked for, and the oldest goes once the newest is there.
    most = max(2, recipe.checkpoints.keep) + 1
    kept = most if saved is None else min(most, saved)
    states = (2.03 if recipe.training.optimizer.endswith("8bit") else 8.0) * trained
    best = recipe.evaluation.keep_best and bool(recipe.data.eval)
    row_losses = 24 * seen if recipe.logging.row_losses else 0
    records = 400 * (steps or 0) + 4_000 * recipe.evaluation.generate + row_losses + 500_000
    halved = recipe.method.kind == "full" and precision(recipe, facts) != "fp32"
    parts = (
        ("result", size / 2 if halved else size),
        ("best", size if best else 0.0),
        ("checkpoints", kept * (size + states)),
        ("records", float(records)),
    )
    return tuple(Part(name, bytes, bytes) for name, bytes in parts if bytes)


def flops_per_token(recipe: Recipe, parameters: int) -> float:
    """Operations a trained token takes: 2 a parameter forward, 2 to 6 more backward."""
    backward = 4.0 if recipe.method.kind == "full" else 2.0
    again = 0.0 if recipe.training.checkpointing == "off" else 2.0
    return (2.0 + backward + again) * parameters


def _flops(recipe: Recipe, facts: Facts, tokens: int | None, steps: int | None) -> float | None:
    """Operations of the whole run: its tokens, and the held-out ones at each evaluation."""
    if not facts.model_parameters or tokens is None:
        return None
    sides = 2 if recipe.method.objective in ("dpo", "orpo") else 1
    training = flops_per_token(recipe, facts.model_parameters) * tokens * sides
    mean = _mean_tokens(recipe, facts)
    times = (_times(steps, recipe.evaluation.every) or 0) + 1
    held_out = (facts.eval_rows or 0) * (mean or 0.0) * times if recipe.data.eval else 0.0
    return training + 2.0 * facts.model_parameters * held_out


def _seconds(
    recipe: Recipe, facts: Facts, flops: float | None
) -> tuple[float | None, float | None]:
    """From the pace of earlier runs on this device: the fastest and the slowest of the newest.

    Several processes share the work, at best without waiting for each other.
    """
    runs = [run for run in alike(recipe, facts) if run.flops and run.seconds]
    if not runs or flops is None:
        return None, None
    paces = [run.flops / run.seconds for run in runs]
    doubt = _KNOWN if len(runs) > 1 else _ONCE
    each = flops / recipe.training.processes
    waits = _WAITS if recipe.training.processes > 1 else 1.0
    return each / max(paces) * (1 - doubt), each / min(paces) * (1 + doubt) * waits


def _notes(recipe: Recipe, facts: Facts, found: Peak | None) -> Iterator[str]:
    if facts.tokens is not None and not facts.exact:
        yield "token figures are estimates from a sample"
    if recipe.data.packing:
        yield "packed sequences are taken as 95 % full"
    if recipe.model.precision == "auto" and facts.gpus is None:
        yield "auto precision is taken as bf16"
    if facts.longest is None:
        yield "memory is for rows of max length"
    if found and found.source == "formula":
        why = problem(recipe, facts)
        yield f"activations by formula{f': {why}' if why else ', not measured yet'}"
