"""What a recipe will do, before it does it: steps, rates, adapter size, peak memory, disk.

The memory formula (bytes; P parameters, Pt trained ones, L layers, h hidden size, V vocabulary,
t tokens of the largest batch):

- weights: 2P in bf16 or fp16, 4P in fp32; NF4 with double quantisation 0.516 a parameter of the
  linear layers, 2 of the rest
- adapter 4Pt, gradients 4Pt, AdamW 8Pt (all fp32); full tuning 16P to 18P in all
- saved activations: about 53 t h a layer in bf16 with LoRA on all linear layers and an attention
  that keeps no t x t matrix (Llama 8B at 2,048 tokens: 0.415 GiB a layer); twice that in fp32
- logits: 12 t V (three fp32 copies), only on the positions that are trained on

    peak = weights + adapter + optimiser + activations + max(logits, gradients)

A maximum, not a sum: logits are freed before the gradients are complete. For Llama 3 8B, rank 16,
one row of 2,048 tokens, all trained on, this gives 31.6 GiB; a memory tracker found 32.7, of which
1.06 are copies that only a CPU makes. The CUDA context (0.3 to 0.6 GiB) and the allocator's slack
(up to 10 %) come on top, so the result is a range and no promise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from finetui.recipe.facts import Facts, Linear, data_facts, gather, model_facts
from finetui.recipe.schema import Recipe

__all__ = [
    "Facts",
    "Part",
    "Plan",
    "adapter_parameters",
    "data_facts",
    "gather",
    "learning_rate_at",
    "memory",
    "model_facts",
    "plan",
    "precision",
    "targeted",
]

GIB = 2**30
_POINTS = 200  # of the learning-rate curve: more than any pane has columns
_PACKED = 0.95  # share of a packed sequence that is filled; first-fit reaches 0.95 to 0.99
_NF4 = 0.516  # bytes a parameter: 4 bits, a byte a block of 64, quantised once more
_ACTIVATION = 53.0  # bytes a token, hidden feature and layer
_UNPICKED_SHARE = 0.2  # of tokens trained on, where the data do not say: a short answer


@dataclass(frozen=True, slots=True)
class Part:
    """One component of the peak memory, in bytes, as a range."""

    name: str
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The forecast; None is unknown. ``exact`` is False where token figures are estimates.

    ``learning_rates`` has at most 200 points, evenly over the run, the first and last step among
    them. ``memory`` splits the peak; its parts do not add up, as logits and gradients overlap.
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
    peak_bytes_low: int | None = None
    peak_bytes_high: int | None = None
    disk_bytes: int | None = None
    notes: tuple[str, ...] = ()


def plan(recipe: Recipe, facts: Facts | None = None) -> Plan:
    """Forecast a run from its recipe and what is known; pure and fast enough for every key."""
    facts = facts or Facts()
    rows = _rows_per_epoch(recipe, facts)
    sequences = _sequences(recipe, facts, rows)
    per_epoch = _steps_per_epoch(recipe, sequences)
    steps, epochs = _steps(recipe, per_epoch)
    warmup = None if steps is None else warmup_steps(recipe.training.warmup, steps)
    adapter = adapter_parameters(recipe, facts)
    parts = memory(recipe, facts)
    low, high = _peak(parts)
    return Plan(
        rows_per_epoch=rows,
        sequences_per_epoch=sequences,
        steps_per_epoch=per_epoch,
        steps=steps,
        epochs=epochs,
        evaluations=_times(steps, recipe.evaluation.every) if recipe.data.eval else 0,
        tokens=_tokens(recipe, facts, rows, epochs),
        batch_tokens=_batch_tokens(recipe, facts),
        exact=facts.exact,
        warmup_steps=warmup,
        learning_rates=_curve(recipe, steps),
        adapter_parameters=adapter,
        memory=parts,
        peak_bytes_low=low,
        peak_bytes_high=high,
        disk_bytes=_disk(recipe, facts, adapter, steps),
        notes=tuple(_notes(recipe, facts)),
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
    batches = math.ceil(sequences / recipe.training.batch_size)
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


def learning_rate_at(recipe: Recipe, step: int, steps: int) -> float:
    """The rate of update ``step`` (0-based) of ``steps``, as transformers' schedules have it."""
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


def _batch_tokens(recipe: Recipe, facts: Facts) -> int:
    """Tokens of the largest batch: every row as long as the longest that is trained on."""
    data = recipe.data
    longest = data.max_length if facts.longest is None else min(facts.longest, data.max_length)
    return recipe.training.batch_size * (data.max_length if data.packing else longest)


# --- the adapter ---------------------------------------------------------------------------------


def targeted(recipe: Recipe, facts: Facts) -> tuple[Linear, ...]:
    """The linear layers that get an adapter: all of them, or those whose name is listed."""
    wanted = recipe.method.target_modules
    if wanted == ("all-linear",):
        return facts.linears
    names = {target.rpartition(".")[2] for target in wanted}
    found = tuple(linear for linear in facts.linears if linear.name in names)
    if "lm_head" in names and facts.model_hidden and facts.vocab:
        found += (Linear("lm_head", facts.model_hidden, facts.vocab, 1),)
    return found


def adapter_parameters(recipe: Recipe, facts: Facts) -> int | None:
    """Trained parameters: rank x (inputs + outputs) for each adapted layer."""
    if recipe.method.kind == "full":
        return facts.model_parameters
    if not facts.linears:
        return None
    widths = sum((x.inputs + x.outputs) * x.count for x in targeted(recipe, facts))
    return recipe.method.rank * widths


# --- memory and disk -----------------------------------------------------------------------------


def precision(recipe: Recipe, facts: Facts) -> str:
    """fp32, bf16 or fp16; ``auto`` is fp32 on a CPU, fp16 on a GPU without bf16, else bf16."""
    if recipe.model.precision != "auto":
        return recipe.model.precision
    if facts.gpus == 0:
        return "fp32"
    return "fp16" if facts.gpu_bf16 is False else "bf16"


def memory(recipe: Recipe, facts: Facts) -> tuple[Part, ...]:
    """The components of the peak; empty where the model's geometry is unknown."""
    parameters, trained = facts.model_parameters, adapter_parameters(recipe, facts)
    geometry = facts.model_hidden and facts.model_layers and facts.vocab
    if not (parameters and trained is not None and geometry):
        return ()
    assert facts.model_hidden and facts.model_layers and facts.vocab
    tokens = _batch_tokens(recipe, facts)
    wide = 2 if precision(recipe, facts) == "fp32" else 1
    saved = _ACTIVATION * wide * tokens * facts.model_hidden * facts.model_layers
    share_low, share_high = _trained_shares(recipe, facts)
    logits = 12.0 * tokens * facts.vocab
    base = (0.45, 0.8) if facts.gpus == 0 else (0.3, 0.6)
    fixed = _weights(recipe, facts, parameters, trained, wide)
    return (
        *fixed,
        Part("activations", 0.9 * saved, 1.15 * saved),
        Part("logits", share_low * logits, share_high * logits),
        Part("process" if facts.gpus == 0 else "CUDA context", base[0] * GIB, base[1] * GIB),
    )


def _weights(
    recipe: Recipe, facts: Facts, parameters: int, trained: int, wide: int
) -> tuple[Part, ...]:
    """Weights, adapter, optimiser states and gradients."""
    if recipe.method.kind == "full":
        return (
            Part("weights", 4.0 * parameters, 6.0 * parameters),
            Part("optimiser", 8.0 * parameters, 8.0 * parameters),
            Part("gradients", 4.0 * parameters, 4.0 * parameters),
        )
    weights = 2.0 * wide * parameters
    if recipe.method.kind == "qlora":
        linear = sum(x.inputs * x.outputs * x.count for x in facts.linears)
        weights = _NF4 * linear + 2.0 * (parameters - linear)
    return (
        Part("weights", weights, weights),
        Part("adapter", 4.0 * trained, 4.0 * trained),
        Part("optimiser", 8.0 * trained, 8.0 * trained),
        Part("gradients", 4.0 * trained, 4.0 * trained),
    )


def _trained_shares(recipe: Recipe, facts: Facts) -> tuple[float, float]:
    """The share of a batch's positions that need logits, from usual to worst."""
    if recipe.data.loss_on == "all":
        return 1.0, 1.0
    if not facts.tokens or facts.trained_tokens is None:
        return _UNPICKED_SHARE, 1.0
    share = min(1.0, facts.trained_tokens / facts.tokens)
    return share, min(1.0, 2 * share)


def _peak(parts: tuple[Part, ...]) -> tuple[int | None, int | None]:
    if not parts:
        return None, None
    low = {part.name: part.low for part in parts}
    high = {part.name: part.high for part in parts}
    slack = 1.1
    return round(_sum(low)), round(_sum(high) * slack)


def _sum(sizes: dict[str, float]) -> float:
    """Everything at once, but of logits and gradients only the larger."""
    return sum(sizes.values()) - min(sizes["logits"], sizes["gradients"])


def _disk(recipe: Recipe, facts: Facts, trained: int | None, steps: int | None) -> int | None:
    """The result, the best, the checkpoints with optimiser states, and the records."""
    if trained is None:
        return None
    size = (2 if recipe.method.kind == "full" else 4) * trained
    results = size * (2 if recipe.evaluation.keep_best and recipe.data.eval else 1)
    saved = _times(steps, recipe.checkpoints.every)
    kept = recipe.checkpoints.keep if saved is None else min(recipe.checkpoints.keep, saved)
    records = 400 * (steps or 0) + 4_000 * recipe.evaluation.generate + 500_000
    return results + kept * (size + 8 * trained) + records


def _notes(recipe: Recipe, facts: Facts) -> list[str]:
    notes = []
    if facts.tokens is not None and not facts.exact:
        notes.append("token figures are estimates: bytes / 4")
    if recipe.data.packing:
        notes.append("packed sequences are taken as 95 % full")
    if recipe.model.precision == "auto" and facts.gpus is None:
        notes.append("auto precision is taken as bf16")
    if facts.longest is None:
        notes.append("memory is for rows of max length")
    return notes
