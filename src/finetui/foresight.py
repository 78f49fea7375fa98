"""What the machine tells the forecast, and what a run's record keeps of its forecast."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from finetui.jobs import calibration
from finetui.jobs.devices import DeviceSample, Gpu, held_memory, training_gpu
from finetui.recipe.facts import Facts, Holder, Past, merge
from finetui.recipe.forecast import flops_per_token, plan
from finetui.recipe.memory import device, peak
from finetui.recipe.schema import Recipe

_BF16_FROM = (8, 0)  # CUDA compute capability; older GPUs only emulate it


def machine_facts(sample: DeviceSample | None, environ: Mapping[str, str] = os.environ) -> Facts:
    """What devices and earlier runs tell: memory in bytes of the GPU that a run would take."""
    past = Facts(past=tuple(_past(run) for run in calibration.runs(environ)))
    if sample is None:
        return past
    used, total = sample.host_memory_used, sample.host_memory_total
    free = None if used is None or total is None else total - used
    host = Facts(host_free=free, host_total=total)
    gpu = training_gpu(sample, environ)
    return merge(past, host, _gpu_facts(gpu, len(sample.gpus)) if gpu else Facts(gpus=0))


def _gpu_facts(gpu: Gpu, count: int) -> Facts:
    able = None if gpu.capability is None else gpu.capability >= _BF16_FROM
    return Facts(
        gpus=count,
        gpu_name=gpu.name or "",
        gpu_total=gpu.memory_total,
        gpu_free=gpu.memory_free,
        gpu_bf16=able,
        gpu_holders=tuple(
            Holder(one.pid, one.user or "", one.name or "", one.memory or 0)
            for one in held_memory(gpu)
        ),
    )


def _past(run: calibration.Run) -> Past:
    return Past(
        device=run.device,
        method=run.method,
        parameters=run.parameters,
        predicted=run.predicted,
        peak=run.peak,
        flops=run.flops,
        seconds=run.seconds,
    )


def foreseen(recipe: Recipe, facts: Facts) -> dict[str, Any]:
    """The forecast as a run's manifest keeps it, to be held against what the run took."""
    found, forecast = peak(recipe, facts), plan(recipe, facts)
    parameters = facts.model_parameters or 0
    return {
        "device": device(facts),
        "method": recipe.method.kind,
        "parameters": parameters,
        "source": found.source if found else "",
        "tensors": round(found.uncorrected) if found else 0,
        "peak_bytes_low": found.low if found else 0,
        "peak_bytes_high": found.high if found else 0,
        "flops_per_token": flops_per_token(recipe, parameters),
        "seconds_low": forecast.seconds_low or 0,
        "seconds_high": forecast.seconds_high or 0,
        "disk_bytes": forecast.disk_bytes or 0,
    }
