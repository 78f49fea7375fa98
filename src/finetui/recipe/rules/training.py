"""Rules on the optimiser: rate, length, warm-up, batch."""

from __future__ import annotations

from collections.abc import Iterator

from finetui.display import size
from finetui.recipe.field import show_number
from finetui.recipe.forecast import plan
from finetui.recipe.rates import usual_rates
from finetui.recipe.rule import Advice, Case, advice, error, rule, warning
from finetui.recipe.schema import Recipe, defaults, replace
from finetui.recipe.sources import (
    ADAM,
    EIGHT_BIT,
    GUIDES,
    HOUSE,
    MEASURED,
    NEFTUNE,
    REGRET,
    TORCH,
    TRAINER,
)


@rule("learning-rate-high")
def learning_rate_high(case: Case) -> Iterator[Advice]:
    rate, parameters = case.recipe.training.learning_rate, case.facts.model_parameters
    high = usual_rates(case.recipe.method.kind, case.objective, parameters).high
    if rate <= high * 1.001:
        return
    far = rate >= 1.999 * high and (parameters is not None or rate >= 1e-2)
    who = "a model of this size" if parameters is not None else "models of 1 B parameters and more"
    who = who if case.objective == "sft" else f"{case.objective} and {who}"
    yield (warning if far else advice)(
        "training.learning_rate",
        f"{show_number(rate)} is high: up to {show_number(_round(high))} is usual for {who}.",
        "Expect spikes, broken answers and lost skills: the demo model, best at 4e-3, lost three "
        "quarters of its skills at 1e-2.",
        f"{GUIDES}; {MEASURED}",
    )


@rule("learning-rate-low")
def learning_rate_low(case: Case) -> Iterator[Advice]:
    rate, kind = case.recipe.training.learning_rate, case.recipe.method.kind
    low = usual_rates(kind, case.objective, case.facts.model_parameters).low
    if rate >= low * 0.999:
        return
    if kind == "full" or case.objective != "sft":
        reason = "The loss will hardly move."
    else:
        reason = "It looks like a rate for full tuning: LoRA's best is about ten times as high."
    yield (warning if rate < low / 4 else advice)(
        "training.learning_rate",
        f"{show_number(rate)} is low: {show_number(low)} and more is usual for "
        f"{kind if case.objective == 'sft' else case.objective}.",
        reason,
        REGRET,
    )


def _round(value: float) -> float:
    return float(f"{value:.1e}")


@rule("epochs-by-rows")
def epochs_by_rows(case: Case) -> Iterator[Advice]:
    epochs, rows = case.plan.epochs, case.facts.rows
    if epochs is None:
        return
    id = "training.max_steps" if case.recipe.training.max_steps else "training.epochs"
    usual = 5 if rows is None or rows < 10_000 else 3 if rows < 100_000 else 2
    if epochs > usual:
        of_rows = f" of {rows:,} rows" if rows else ""
        yield (warning if epochs > 2 * usual else advice)(
            id,
            f"{show_number(round(epochs, 1))} passes{of_rows}: 1 to {usual} are usual.",
            "Rows seen many times are learned by heart: training loss falls on while eval loss "
            "rises.",
            GUIDES,
        )
    if epochs < 1 and rows is not None and rows < 10_000:
        yield advice(
            id,
            f"Only {100 * epochs:.0f} % of the rows will be seen.",
            "Fine for a trial; a small set is worth at least one pass.",
            GUIDES,
        )


@rule("steps-and-epochs")
def steps_and_epochs(case: Case) -> Iterator[Advice]:
    training = case.recipe.training
    if training.max_steps and training.epochs != defaults().training.epochs:
        yield advice(
            "training.max_steps",
            f"{training.max_steps:,} steps win over {show_number(training.epochs)} epochs.",
            "Set max steps to 0 to go by epochs.",
            TRAINER,
        )


@rule("few-steps")
def few_steps(case: Case) -> Iterator[Advice]:
    steps = case.plan.steps
    if steps is None or steps >= 50:
        return
    batch = batch_rows(case.recipe)
    smaller = f" A smaller batch than {batch} rows gives more." if batch > 4 else ""
    yield (warning if steps < 10 else advice)(
        "training.epochs" if not case.recipe.training.max_steps else "training.max_steps",
        f"Only {steps} updates in the whole run.",
        f"With the warm-up there is little left to learn in.{smaller}",
        HOUSE,
    )


def batch_rows(recipe: Recipe) -> int:
    """Rows (or packed sequences) of one update."""
    training = recipe.training
    return training.batch_size * training.accumulation * training.processes


@rule("warmup")
def warmup(case: Case) -> Iterator[Advice]:
    value, steps, rise = case.recipe.training.warmup, case.plan.steps, case.plan.warmup_steps
    if value >= 1 and value != int(value):
        yield error(
            "training.warmup",
            "From 1 on, the warm-up is a whole number of steps.",
            "Below 1 it is a share of all steps.",
            TRAINER,
        )
    elif value == 0:
        yield advice(
            "training.warmup",
            "No warm-up: the first step is at full rate.",
            "Adam's averages are still poor then; 3 to 10 % of the steps is usual.",
            GUIDES,
        )
    elif steps and rise is not None and rise >= steps:
        yield warning(
            "training.warmup",
            f"The warm-up of {rise} steps is as long as the run of {steps}.",
            "The full rate is never reached.",
            TRAINER,
        )
    elif steps and rise is not None and rise > max(0.2 * steps, 1):
        yield advice(
            "training.warmup",
            f"The rate still rises for {100 * rise / steps:.0f} % of the run.",
            "3 to 10 % is usual.",
            GUIDES,
        )


@rule("batch-large")
def batch_large(case: Case) -> Iterator[Advice]:
    batch, sequences = batch_rows(case.recipe), case.plan.sequences_per_epoch
    if sequences is not None and batch > sequences:
        yield warning(
            "training.batch_size",
            f"One update takes {batch} rows, an epoch has {sequences}.",
            "Each epoch is a single update; lower batch size or accumulation.",
            HOUSE,
        )
    elif batch > 128 and case.adapts:
        yield advice(
            "training.batch_size",
            f"{batch} rows an update are many for LoRA.",
            "LoRA tolerates large batches less well than full tuning, at any rank; 8 to 64 is "
            "usual.",
            REGRET,
        )


@rule("batch-small")
def batch_small(case: Case) -> Iterator[Advice]:
    batch = batch_rows(case.recipe)
    if batch < 4 and not case.recipe.data.packing:
        yield advice(
            "training.accumulation",
            f"{batch} row{'s' * (batch != 1)} an update make a noisy gradient.",
            "Accumulation adds rows without memory; 8 to 64 an update is usual.",
            GUIDES,
        )


@rule("clip")
def clip(case: Case) -> Iterator[Advice]:
    value = case.recipe.training.clip
    if value == 0 or value > 10:
        yield advice(
            "training.clip",
            "Gradients are not clipped." if value == 0 else "A clip this high hardly ever acts.",
            "One bad batch can then wreck the run; 1 is usual, 0.3 in the QLoRA paper.",
            TRAINER,
        )


@rule("weight-decay")
def weight_decay(case: Case) -> Iterator[Advice]:
    value = case.recipe.training.weight_decay
    if value > 0.1:
        yield (warning if value > 1 else advice)(
            "training.weight_decay",
            f"A weight decay of {show_number(value)} is high; 0 to 0.1 is usual.",
            "It pulls the adapter back to zero, which is the untuned model."
            if case.adapts
            else "It pulls all weights towards zero, the trained skills with them.",
            "AdamW paper (Loshchilov & Hutter, 2019)",
        )


@rule("beta2")
def beta2(case: Case) -> Iterator[Advice]:
    value, steps = case.recipe.training.beta2, case.plan.steps
    memory = 1 / (1 - value)
    if steps and value > 0.99 and memory > steps:
        yield advice(
            "training.beta2",
            f"beta2 looks back {memory:,.0f} steps, the run has {steps:,}.",
            "The averages of the squared gradients never settle; 0.99 suits short runs.",
            ADAM,
        )
    if value < 0.9:
        yield advice(
            "training.beta2",
            f"beta2 of {show_number(value)} forgets within {memory:.0f} steps.",
            "Step sizes become as noisy as single batches; 0.95 to 0.999 is usual.",
            ADAM,
        )


@rule("neftune")
def neftune(case: Case) -> Iterator[Advice]:
    noise = case.recipe.training.neftune
    if noise > 15:
        yield (warning if noise > 50 else advice)(
            "training.neftune",
            f"NEFTune noise of {show_number(noise)} is high; 5 to 15 is usual.",
            "Beyond that the rows themselves are no longer read well.",
            NEFTUNE,
        )
    if noise > 0 and case.objective != "sft":
        yield warning(
            "training.neftune",
            f"Noise on the embeddings is made for chats, not for {case.objective}.",
            "It was measured on instruction tuning; elsewhere it blurs what is compared.",
            NEFTUNE,
        )


@rule("optimizer-needless")
def optimizer_needless(case: Case) -> Iterator[Advice]:
    name = case.recipe.training.optimizer
    if name != "adamw" and case.adapts:
        yield advice(
            "training.optimizer",
            f"{name} saves little: an adapter's states are small.",
            "8 bits and paging are for full tuning, whose states are twice the weights.",
            EIGHT_BIT,
        )


@rule("compile-short")
def compile_short(case: Case) -> Iterator[Advice]:
    steps = case.plan.steps
    if not case.recipe.training.compile:
        return
    if steps is not None and steps < 300:
        yield advice(
            "training.compile",
            f"Compiling takes minutes, and the run has only {steps} steps.",
            "It pays from some hundred steps on.",
            TORCH,
        )
    if not case.recipe.data.packing and case.recipe.data.order != "length":
        yield advice(
            "training.compile",
            "Batches of ever-new lengths compile again and again.",
            "Packed rows have one length.",
            TORCH,
        )


@rule("activations-needless")
def activations_needless(case: Case) -> Iterator[Advice]:
    chosen, free = case.recipe.training.checkpointing, case.facts.gpu_free
    if chosen == "offload" and case.facts.gpus == 0:
        yield warning(
            "training.checkpointing",
            "On a CPU the activations are on the host already.",
            "offload then only computes them again: take on or off.",
            TRAINER,
        )
    if chosen == "off" or not free:
        return
    without = plan(replace(case.recipe, "training.checkpointing", "off"), case.facts)
    if without.peak_bytes_high is not None and without.peak_bytes_high < 0.7 * free:
        yield advice(
            "training.checkpointing",
            "The activations would fit without being computed again.",
            f"About a quarter faster, at a peak of ≈ {size(without.peak_bytes_high)} of "
            f"{size(free)} free.",
            "finetui's forecast (see docs)",
        )


@rule("kl-term")
def kl_term(case: Case) -> Iterator[Advice]:
    weight, general = case.recipe.training.kl_weight, case.recipe.data.general
    if weight == 0:
        return
    if not general:
        yield error(
            "training.kl_weight",
            "The distance from the base is measured on general rows, and none are named.",
            "Name a file under data.general, or set the weight to 0.",
            HOUSE,
        )
    if not case.adapts:
        yield error(
            "training.kl_weight",
            "Full tuning keeps no copy of the base to compare with.",
            "With an adapter the base is the same model with the adapter switched off.",
            HOUSE,
        )
    if weight > 2:
        yield (warning if weight > 10 else advice)(
            "training.kl_weight",
            f"A weight of {show_number(weight)} holds the model where it is; 0.1 to 1 is usual.",
            "The new task is then hardly learned.",
            MEASURED,
        )


@rule("schedule-and-early-stopping")
def schedule_and_early_stopping(case: Case) -> Iterator[Advice]:
    patience = case.recipe.evaluation.early_stopping
    epochs = case.plan.epochs
    if patience and epochs and epochs > 10 and case.recipe.training.schedule != "constant":
        yield advice(
            "training.schedule",
            "A run that stops early never gets to the low rates of its schedule.",
            "With many epochs only as a limit, constant treats every stop alike.",
            GUIDES,
        )


@rule("fp16-full")
def fp16_full(case: Case) -> Iterator[Advice]:
    if case.recipe.model.precision == "fp16" and not case.adapts:
        yield warning(
            "model.precision",
            "Full tuning in fp16 overflows easily.",
            "Gradients of all weights leave the range of fp16; bf16 and fp32 keep it.",
            TRAINER,
        )
