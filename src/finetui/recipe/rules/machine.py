"""Rules on the machine: does the run fit into memory and disk, is the CPU left alive."""

from __future__ import annotations

from collections.abc import Iterator

from finetui.display import size
from finetui.recipe.forecast import Plan
from finetui.recipe.rule import Advice, Case, advice, error, rule, warning
from finetui.recipe.sources import MEASURED

_FORECAST = "finetui's forecast (see docs)"
_SLOW_ON_CPU = 500_000_000  # parameters


def largest_part(plan: Plan) -> tuple[str, str]:
    """The largest component of the peak, and the field that lowers it."""
    name = max(plan.memory, key=lambda part: part.high).name
    fields = {"activations": "training.batch_size", "logits": "data.max_length"}
    return name, fields.get(name, "model.path")


@rule("gpu-memory")
def gpu_memory(case: Case) -> Iterator[Advice]:
    low, high = case.plan.peak_bytes_low, case.plan.peak_bytes_high
    free, total = case.facts.gpu_free, case.facts.gpu_total
    if low is None or high is None or not (free or total):
        return
    name, id = largest_part(case.plan)
    need = f"≈ {size(low)} to {size(high)}"
    reason = f"The largest part is {name}; a smaller batch or max length lowers the peak."
    if total and low > total:
        message = f"Needs {need} of GPU memory; the card has {size(total)}."
        yield error(id, message, reason, _FORECAST)
    elif free and low > free:
        yield warning(
            id,
            f"Needs {need} of GPU memory; {size(free)} is free now.",
            f"{reason} Other processes may hold the rest.",
            _FORECAST,
        )
    elif high > (free or total or 0):
        message = f"Tight: needs {need} of GPU memory, {size(free or total or 0)} is free."
        yield advice(id, message, reason, _FORECAST)


@rule("host-memory")
def host_memory(case: Case) -> Iterator[Advice]:
    low, free = case.plan.peak_bytes_low, case.facts.host_free
    if case.facts.gpus == 0 and low is not None and free and low > free:
        name, id = largest_part(case.plan)
        yield warning(
            id,
            f"Needs ≈ {size(low)} of memory; {size(free)} is free.",
            f"The largest part is {name}. The system ends a process that takes too much.",
            _FORECAST,
        )


@rule("cpu-only")
def cpu_only(case: Case) -> Iterator[Advice]:
    parameters = case.facts.model_parameters
    if case.facts.gpus == 0 and parameters and parameters >= _SLOW_ON_CPU:
        yield warning(
            "model.path",
            f"No GPU is seen: {parameters / 1e9:.1f} B parameters on a CPU take days.",
            "Small models (to some 100 M) train well on a CPU.",
            MEASURED,
        )


@rule("threads")
def threads(case: Case) -> Iterator[Advice]:
    wanted, cores = case.recipe.training.threads, case.facts.cpu_count
    if not (wanted and cores) or wanted < cores or cores == 1:
        return
    many = wanted > cores
    yield (warning if many else advice)(
        "training.threads",
        f"{wanted} threads on {cores} cores leave none for the screen.",
        "Threads that wait for each other burn time: two on two busy cores ran at a fifth of "
        "their speed.",
        MEASURED,
    )


@rule("disk")
def disk(case: Case) -> Iterator[Advice]:
    need, free = case.plan.disk_bytes, case.facts.disk_free
    if need is None or free is None:
        return
    if need > free:
        yield error(
            "checkpoints.keep",
            f"Needs {size(need)} on disk; {size(free)} is free.",
            "A run that cannot save its result is lost; keep fewer checkpoints.",
            _FORECAST,
        )
    elif need > 0.5 * free:
        yield advice(
            "checkpoints.keep",
            f"Takes {size(need)} of {size(free)} free on disk.",
            "Keep fewer checkpoints, or make room first.",
            _FORECAST,
        )
