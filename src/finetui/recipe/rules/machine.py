"""Rules on the machine: does the run fit into memory and disk, is the CPU left alive."""

from __future__ import annotations

from collections.abc import Iterator

from finetui.display import size
from finetui.recipe.forecast import Plan
from finetui.recipe.rule import Advice, Case, advice, error, rule, warning
from finetui.recipe.sharding import unsharded
from finetui.recipe.sources import HOUSE, LIGER, MEASURED, QLORA, TORCH

_FORECAST = "finetui's forecast (see docs)"
_SLOW_ON_CPU = 500_000_000  # parameters
# Logs, and what others write meanwhile; `jobs/room.require` asks for as much.
_SPARE = 1.2


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
    if _SPARE * need > free:
        yield error(
            "checkpoints.keep",
            f"Needs {size(need)} on disk and a fifth to spare; {size(free)} is free.",
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


@rule("one-gpu")
def one_gpu(case: Case) -> Iterator[Advice]:
    gpus, processes = case.facts.gpus, case.recipe.training.processes
    if gpus is not None and gpus > 1 and processes == 1:
        yield advice(
            "training.processes",
            f"{gpus} GPUs are seen; the run uses one of them.",
            "Several processes finish sooner; other runs take a free GPU by themselves.",
            HOUSE,
        )


@rule("processes")
def processes(case: Case) -> Iterator[Advice]:
    """One process a GPU: more of them than GPUs cannot start here."""
    gpus, asked = case.facts.gpus, case.recipe.training.processes
    if asked == 1 or gpus is None or asked <= gpus:
        return
    if gpus == 0:
        yield advice(
            "training.processes",
            f"{asked} processes share the cores of a machine without a GPU.",
            "That tries a recipe out; it is not faster than one process.",
            HOUSE,
        )
    else:
        yield warning(
            "training.processes",
            f"{asked} processes need {asked} GPUs; {gpus} {'is' if gpus == 1 else 'are'} seen.",
            "Here the run would not start; a cluster may have them.",
            TORCH,
        )


@rule("sharding")
def sharding(case: Case) -> Iterator[Advice]:
    """What cannot be trained while the weights are shared out."""
    recipe = case.recipe
    if recipe.training.sharding != "fsdp" or recipe.training.processes == 1:
        return
    for id, what in unsharded(recipe):
        yield error(
            id,
            f"{what} cannot be trained with sharding fsdp.",
            "Choose ddp, which keeps the whole model on every GPU.",
            TORCH,
        )
    if case.facts.gpus == 0:
        yield error(
            "training.sharding",
            "fsdp needs GPUs, and none is seen here.",
            "On a CPU ddp tries several processes out.",
            TORCH,
        )


@rule("attention-unavailable")
def attention_unavailable(case: Case) -> Iterator[Advice]:
    """Back ends that this machine, precision or installation cannot run."""
    chosen = case.recipe.model.attention
    if chosen not in ("flash", "varlen"):
        return
    fault = _attention_fault(case, chosen)
    if fault:
        yield error("model.attention", fault, "auto takes the best there is; sdpa runs anywhere.",
                    TORCH)  # fmt: skip


def _attention_fault(case: Case, chosen: str) -> str:
    if case.facts.gpus == 0:
        return f"{chosen} attention needs a CUDA GPU, and none is seen here."
    if case.recipe.model.precision == "fp32":
        return f"{chosen} attention computes in bf16 or fp16, not in fp32."
    if chosen == "flash" and case.lacks("flash_attn"):
        return "The flash-attn package is not installed here."
    version = case.details.torch
    if chosen == "varlen" and version is not None and version < (2, 11):
        return f"varlen attention needs torch 2.11; here is {version[0]}.{version[1]}."
    return ""


@rule("attention-eager")
def attention_eager(case: Case) -> Iterator[Advice]:
    length = case.recipe.data.max_length
    if case.recipe.model.attention == "eager" and length >= 1024:
        yield (warning if length >= 4096 else advice)(
            "model.attention",
            f"eager keeps a matrix of {length:,} x {length:,} a head and layer.",
            "sdpa computes the same without it.",
            TORCH,
        )


@rule("liger-unavailable")
def liger_unavailable(case: Case) -> Iterator[Advice]:
    if not case.recipe.training.liger:
        return
    if case.facts.gpus == 0:
        yield error(
            "training.liger",
            "Liger's kernels need a CUDA GPU, and none is seen here.",
            "Turn it off: the rest of the recipe runs without.",
            LIGER,
        )
    elif case.lacks("liger_kernel"):
        yield error(
            "training.liger",
            "The liger-kernel package is not installed here.",
            "pip install liger-kernel, or turn it off.",
            LIGER,
        )


@rule("bitsandbytes-missing")
def bitsandbytes_missing(case: Case) -> Iterator[Advice]:
    if not case.lacks("bitsandbytes"):
        return
    needs = [
        ("method.kind", "qlora") if case.recipe.method.kind == "qlora" else None,
        ("training.optimizer", case.recipe.training.optimizer)
        if case.recipe.training.optimizer != "adamw"
        else None,
    ]
    for need in filter(None, needs):
        yield error(
            need[0],
            f"{need[1]} needs bitsandbytes, which is not installed here.",
            "pip install bitsandbytes, or choose lora and adamw.",
            QLORA,
        )


@rule("torch-missing")
def torch_missing(case: Case) -> Iterator[Advice]:
    if case.lacks("torch"):
        yield error(
            "model.path",
            "torch is not installed here: this machine can look, not train.",
            "pip install 'finetui[train]', or start the run where it is.",
            HOUSE,
        )


@rule("tf32-off")
def tf32_off(case: Case) -> Iterator[Advice]:
    model = case.recipe.model
    if not model.tf32 and model.precision == "fp32" and case.facts.gpus:
        yield advice(
            "model.tf32",
            "fp32 without tf32 leaves most of the GPU unused.",
            "TF32 rounds products to 10 bits of mantissa, as bf16 has 7.",
            TORCH,
        )
