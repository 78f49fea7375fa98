"""What went wrong, as the fields of an outcome: a reason, the error's class, one sentence."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetui.engine.steering import GuardError
from finetui.errors import UserError
from finetui.jobs import room
from finetui.jobs.deaths import lighter
from finetui.jobs.worker import explain
from finetui.recipe.files import to_spec
from finetui.recipe.schema import Recipe

# Libraries beside torch's allocator say it in their own words, as plain RuntimeErrors.
_GPU_FULL = re.compile(
    r"(CUDA|HIP|XPU) out of memory|CUDA error: out of memory|"
    r"(CUBLAS|CUDNN|CUSPARSE|CUSOLVER)_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)"
)
_HOST_FULL = re.compile(r"DefaultCPUAllocator: can't allocate memory|Cannot allocate memory")
_SHARED_FULL = re.compile(r"DataLoader worker .* is killed by signal: Bus error|out of shared mem")
_AMOUNT = r"([\d.]+ [KMGT]?i?B)"
_ASKED = re.compile(rf"[Tt]ried to allocate {_AMOUNT}")
_THERE = re.compile(rf"total capacity of {_AMOUNT} of which {_AMOUNT} is free")
_MINE = re.compile(rf"this process has {_AMOUNT} memory in use")
_OTHERS = re.compile(rf"Process (\d+) has {_AMOUNT} memory in use")
_SPLIT = re.compile(rf"and {_AMOUNT} is reserved by PyTorch but unallocated")
_CPU_ASKED = re.compile(r"you tried to allocate (\d+) bytes")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def describe(error: BaseException, recipe: Recipe | None = None) -> dict[str, Any]:
    """``reason``, ``error`` and ``sentence``.

    Reasons: cuda_oom, host_oom, shared_memory, disk_full, nonfinite, zero, user, error.
    """
    name, text = type(error).__name__, " ".join(str(error).split())
    if isinstance(error, GuardError):
        return _stopped_by_guard(error, recipe)
    if name == "OutOfMemoryError" or _GPU_FULL.search(text):
        return {"reason": "cuda_oom", "error": name, "sentence": _gpu_full(error, text, recipe)}
    if _is_host_full(error, text):
        return {"reason": "host_oom", "error": name, "sentence": _host_full(text, recipe)}
    if _SHARED_FULL.search(text):
        sentence = (
            "the shared memory (/dev/shm) is full, through which data loaders hand rows over; "
            "make it larger (docker run --shm-size=8g)"
        )
        return {"reason": "shared_memory", "error": name, "sentence": sentence}
    reason = "user" if isinstance(error, UserError) else "error"
    return {
        "reason": "disk_full" if room.is_full(error) else reason,
        "error": name,
        "sentence": explain(error),
    }


def _gpu_full(error: BaseException, text: str, recipe: Recipe | None) -> str:
    """What was asked for and what there was, and the one change that would help."""
    asked, there, mine = _ASKED.search(text), _THERE.search(text), _MINE.search(text)
    told = [
        f"{asked[1]} more was asked for" if asked else "",
        f"{there[2]} of {there[1]} was free" if there else "",
        f"this process held {mine[1]}" if mine else "",
    ]
    evidence = ", ".join(part for part in told if part) or text[:200]
    return f"the GPU ran out of memory: {evidence}; {_remedy_on_gpu(error, text, recipe)}"


def _remedy_on_gpu(error: BaseException, text: str, recipe: Recipe | None) -> str:
    asked = _ASKED.search(text)
    need = _bytes(asked[1]) if asked else 0
    # torch names this process among them.
    others = [(int(pid), held) for pid, held in _OTHERS.findall(text) if int(pid) != os.getpid()]
    if others and sum(_bytes(held) for _, held in others) > need > 0:
        pid, held = max(others, key=lambda one: _bytes(one[1]))
        return f"process {pid} holds {held} of it: wait for it to end, or take another GPU"
    split = _SPLIT.search(text)
    if split and _bytes(split[1]) > need > 0 and "expandable" not in _allocator():
        return "it is free in pieces: start with PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
    if recipe is None:
        return "answer with a smaller batch or fewer new tokens (max_new_tokens)"
    if _raised_in(error, "model.py"):
        return _remedy_for_loading(recipe)
    if _raised_in(error, "generate.py"):
        tokens = recipe.evaluation.max_new_tokens
        return f"set evaluation.max_new_tokens to {max(1, tokens // 2)} (now {tokens})"
    return lighter(to_spec(recipe), on_gpu=True)


def _remedy_for_loading(recipe: Recipe) -> str:
    """The weights alone are too much: no batch is small enough."""
    if recipe.method.kind == "full":
        return "its weights alone do not fit: set method.kind to lora (now full)"
    if recipe.method.kind == "lora":
        return "its weights alone do not fit: set method.kind to qlora (now lora)"
    return "its weights alone do not fit: take a smaller model, or a larger GPU"


def _is_host_full(error: BaseException, text: str) -> bool:
    no_memory = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or no_memory or bool(_HOST_FULL.search(text))


def _host_full(text: str, recipe: Recipe | None) -> str:
    asked = _CPU_ASKED.search(text)
    told = f": {int(asked[1]) / (1 << 30):.2f} GiB more was asked for" if asked else ""
    change = lighter(to_spec(recipe), on_gpu=False) if recipe else "close what else needs memory"
    return f"the machine ran out of memory{told}; {change}"


def _allocator() -> str:
    return os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "") + os.environ.get("PYTORCH_ALLOC_CONF", "")


def _raised_in(error: BaseException, module: str) -> bool:
    """Whether a module of the engine was at work when the error was raised."""
    here = str(Path(__file__).with_name(module))
    return any(here == file for file in _files_of(error))


def _files_of(error: BaseException) -> Iterator[str]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_code.co_filename
        trace = trace.tb_next


def _bytes(amount: str) -> float:
    """``2.00 GiB`` in bytes."""
    number, unit = amount.split()
    return float(number) * _UNITS[unit.rstrip("iB")]


def _stopped_by_guard(error: GuardError, recipe: Recipe | None) -> dict[str, Any]:
    ending = error.ending
    guard = ending.sight.guard if ending.sight else ""
    sentence = f"{ending.text}; {_remedy(guard, recipe)}"
    if ending.rows:
        sentence += f", and look at the rows of this update: {', '.join(ending.rows[:3])}"
    if error.saved:
        sentence += f". {error.saved}"
    return {
        "reason": guard,
        "error": type(error).__name__,
        "sentence": sentence,
        "step": ending.step,
        "rows": list(ending.rows),
    }


def _remedy(guard: str, recipe: Recipe | None) -> str:
    if guard == "zero":
        return "check data.loss_on and the chat template"
    rate = f" (now {recipe.training.learning_rate:g})" if recipe else ""
    return f"lower training.learning_rate{rate}"
