"""The machine a job runs on: its device, number format, threads and memory figures."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass
from typing import Any

import torch

from finetui.engine.ranks import ALONE, Ranks
from finetui.errors import UserError

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Machine:
    """Where the tensors live and in which format: ``precision`` is fp32, bf16 or fp16."""

    device: torch.device
    precision: str

    @property
    def dtype(self) -> torch.dtype:
        return FORMATS[self.precision]

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def name(self) -> str:
        """The device as a person knows it."""
        if self.on_gpu:
            return torch.cuda.get_device_name(self.device)
        return f"CPU, {torch.get_num_threads()} threads"

    @property
    def gpu(self) -> str:
        """The GPU's UUID as nvidia-smi has it, "" on a CPU."""
        if not self.on_gpu:
            return ""
        uuid = getattr(torch.cuda.get_device_properties(self.device), "uuid", None)
        return f"GPU-{uuid}" if uuid else ""

    def autocast(self) -> Any:
        """A context in which matrix products use the chosen format."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.precision != "fp32")

    def memory(self) -> tuple[int, int]:
        """(peak bytes on the device, resident bytes of the process); on a CPU both resident."""
        resident = resident_bytes()
        if self.on_gpu:
            return torch.cuda.max_memory_allocated(self.device), resident
        return resident, resident


def choose_machine(precision: str = "auto", threads: int = 0, ranks: Ranks = ALONE) -> Machine:
    """The first visible GPU, or else the CPU with one core left to the screen.

    Of several processes each has a GPU of its own, or its share of the cores. Raises UserError
    when the device cannot do the asked precision.
    """
    cores = (len(os.sched_getaffinity(0)) - 1) // ranks.here
    torch.set_num_threads(threads or max(1, cores))
    if torch.cuda.is_available():
        device, has_bf16 = torch.device("cuda", ranks.local), torch.cuda.is_bf16_supported()
        if precision == "bf16" and not has_bf16:
            raise UserError(
                "this GPU has no bf16.", "model.precision", "Choose fp16, fp32 or auto."
            )
        automatic = "bf16" if has_bf16 else "fp16"
    else:
        device, automatic = torch.device("cpu"), "fp32"
        if precision == "fp16":
            raise UserError(
                "fp16 needs a GPU, and there is none here.",
                "model.precision",
                "Choose fp32, bf16 or auto.",
            )
    return Machine(device, automatic if precision == "auto" else precision)


def resident_bytes() -> int:
    """Memory of this process in RAM, in bytes."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux: the peak is the nearest figure there is, in KiB (bytes on macOS)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
