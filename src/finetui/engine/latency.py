"""How fast a model answers: base, adapter and merged in turn, on the same prompts."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from finetui.engine.answer import base_model, tuned_model
from finetui.engine.export import merged_model
from finetui.engine.machine import Machine
from finetui.engine.subjects import spec_of, weight_bytes
from finetui.evaluation.record import Subject, Timing

_WARM_UP_TOKENS = 8
_ROOM = 0.8  # of the memory that is free; the rest is for caches and activations

Load = Callable[[], Any]


@dataclass(frozen=True)
class Question:
    """A prompt in tokens under its row's id."""

    id: str
    ids: list[int]


@dataclass
class _Clock:
    """A streamer of transformers: it gets the prompt first, then each token as it comes."""

    times: list[float] = field(default_factory=list)

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is left to write."""


def conditions(base: Subject, tuned: Subject, machine: Machine) -> dict[str, Load]:
    """What is timed by name, the base first; each loads a model of its own."""
    found: dict[str, Load] = {"base": lambda: base_model(spec_of(base), machine)}
    spec = spec_of(tuned)
    if not tuned.adapter:
        return found | {"model": lambda: base_model(spec, machine)}
    return found | {
        "adapter": lambda: tuned_model(spec, machine),
        "merged": lambda: merged_model(spec, machine).to(machine.device, machine.dtype).eval(),
    }


def timings(
    loads: dict[str, Load],
    machine: Machine,
    questions: Sequence[Question],
    tokens: int,
    repeats: int,
    beat: Callable[[], None],
) -> Iterator[Timing]:
    """Answers of exactly ``tokens`` tokens, one prompt at a time.

    The conditions take turns prompt by prompt, and another one begins each time, so that a machine
    that grows warm or busy is unfair to none. Where memory cannot hold them all they come one
    after another.
    """
    for group in _groups(loads, machine):
        for model in group.values():
            _timed(model, machine, questions[0], min(tokens, _WARM_UP_TOKENS))
        names = list(group)
        turn = 0
        for repeat in range(repeats):
            for question in questions:
                for name in names[turn:] + names[:turn]:
                    beat()
                    clock, peak = _timed(group[name], machine, question, tokens)
                    yield _timing(name, question, repeat, clock, peak)
                turn = (turn + 1) % len(names)
        group.clear()
        gc.collect()


def _groups(loads: dict[str, Load], machine: Machine) -> Iterator[dict[str, Any]]:
    """All conditions at once where they fit, otherwise each alone."""
    names = list(loads)
    free = free_bytes(machine)
    group = {names[0]: loads[names[0]]()}
    together = weight_bytes(group[names[0]]) * len(names) <= _ROOM * free
    for name in names[1:]:
        if not together:
            yield group
            group = {}
        group[name] = loads[name]()
    yield group


def free_bytes(machine: Machine) -> int:
    """Memory where the weights go that nobody uses."""
    if machine.on_gpu:
        return int(torch.cuda.mem_get_info(machine.device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    found = next((line for line in lines if line.startswith("MemAvailable:")), "0 0")
    return int(found.split()[1]) * 1024


@torch.no_grad()
def _timed(
    model: Any, machine: Machine, question: Question, tokens: int
) -> tuple[list[float], int]:
    """The moments of the start and of each token, and the peak of this model's own memory."""
    ids = torch.tensor([question.ids], device=model.device)
    held = 0
    if machine.on_gpu:
        torch.cuda.synchronize(machine.device)
        torch.cuda.reset_peak_memory_stats(machine.device)
        held = torch.cuda.memory_allocated(machine.device)
    clock = _Clock()
    model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        generation_config=GenerationConfig(
            max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0
        ),
        streamer=clock,
    )
    peak = 0
    if machine.on_gpu:
        peak = torch.cuda.max_memory_allocated(machine.device) - held + weight_bytes(model)
    return clock.times, peak


def _timing(
    name: str, question: Question, repeat: int, times: Sequence[float], peak: int
) -> Timing:
    start, first, last = times[0], times[1], times[-1]
    gaps = [later - earlier for earlier, later in pairwise(times[1:])]
    return Timing(
        condition=name,
        prompt=question.id,
        repeat=repeat,
        first=round(first - start, 6),
        total=round(last - start, 6),
        tokens=len(times) - 1,
        prompt_tokens=len(question.ids),
        peak_bytes=peak,
        gaps=[round(gap, 6) for gap in gaps],
    )
