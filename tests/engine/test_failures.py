"""Why a run failed, in one sentence with the evidence and the one change that would help."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_jobs import events, run_inside

from finetui.engine import failures, generate, model
from finetui.engine.failures import describe
from finetui.errors import UserError
from finetui.jobs.checkpoints import valid_checkpoints
from finetui.jobs.folder import Job
from finetui.recipe import schema
from finetui.recipe.files import from_spec, to_spec

TORCH_SAYS = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.25 GiB of "
    "which 1.06 GiB is free. {others}Including non-PyTorch memory, this process has 77.90 GiB "
    "memory in use. Of the allocated memory 70.11 GiB is allocated by PyTorch, and {split} is "
    "reserved by PyTorch but unallocated. If reserved but unallocated memory is large try setting "
    "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)


class OutOfMemoryError(RuntimeError):
    """torch's has this name wherever it is defined."""


def recipe_with(**sections: dict[str, Any]) -> schema.Recipe:
    spec: dict[str, Any] = to_spec(schema.defaults())
    spec["training"] |= {"batch_size": 8, "accumulation": 2}
    for name, values in sections.items():
        spec[name] |= values
    return from_spec(spec)


def told(error: BaseException, recipe: schema.Recipe | None = None) -> tuple[str, str]:
    found = describe(error, recipe)
    return found["reason"], found["sentence"]


def out_of_memory(others: str = "", split: str = "100.00 MiB") -> OutOfMemoryError:
    return OutOfMemoryError(TORCH_SAYS.format(others=others, split=split))


def test_a_full_gpu_is_told_with_its_figures_and_the_change_that_costs_nothing() -> None:
    assert told(out_of_memory(), recipe_with()) == (
        "cuda_oom",
        "the GPU ran out of memory: 2.00 GiB more was asked for, 1.06 GiB of 79.25 GiB was free, "
        "this process held 77.90 GiB; set training.batch_size to 4 (now 8) and "
        "training.accumulation to 4 (now 2): the updates stay the same",
    )


def test_other_peoples_memory_is_named_first(monkeypatch: pytest.MonkeyPatch) -> None:
    others = "Process 4711 has 40.00 GiB memory in use. "
    _, sentence = told(out_of_memory(others), recipe_with())
    assert sentence.endswith(
        "process 4711 holds 40.00 GiB of it: wait for it to end, or take another GPU"
    )
    mine = f"Process {os.getpid()} has 77.90 GiB memory in use. "
    assert "training.batch_size" in told(out_of_memory(mine), recipe_with())[1]


def test_memory_in_pieces_is_named_unless_the_allocator_is_set_already(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    error = out_of_memory(split="7.00 GiB")
    assert told(error, recipe_with())[1].endswith("expandable_segments:True")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    assert "training.batch_size" in told(error, recipe_with())[1]


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "HIP out of memory. Tried to allocate 20.00 MiB",
    ],
)
def test_libraries_that_say_it_otherwise_are_understood(text: str) -> None:
    reason, sentence = told(RuntimeError(text), recipe_with())
    assert reason == "cuda_oom" and "training.batch_size to 4" in sentence


def raised_in(module: Any, error: BaseException) -> BaseException:
    """The error as a function of this module raises it."""
    code = compile("def act(error):\n    raise error\n", module.__file__, "exec")
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  (a frame of that file)
    try:
        names["act"](error)
    except BaseException as caught:
        return caught
    raise AssertionError


def test_where_it_happened_decides_what_would_help() -> None:
    loading = raised_in(model, out_of_memory())
    assert "set method.kind to qlora (now lora)" in told(loading, recipe_with())[1]
    assert (
        "set method.kind to lora (now full)"
        in told(loading, recipe_with(method={"kind": "full"}))[1]
    )
    answering = raised_in(generate, out_of_memory())
    evaluation = {"max_new_tokens": 300}
    assert told(answering, recipe_with(evaluation=evaluation))[1].endswith(
        "set evaluation.max_new_tokens to 150 (now 300)"
    )
    assert "max_new_tokens" in told(out_of_memory())[1], "a job without a recipe"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "the machine ran out of memory; set training.batch_size to 4"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "the machine ran out of memory; set"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate "
                "memory: you tried to allocate 8589934592 bytes. Error code 12"
            ),
            "the machine ran out of memory: 8.00 GiB more was asked for; set training.batch_size",
        ),
    ],
)
def test_a_full_main_memory_is_told_with_a_change(error: BaseException, words: str) -> None:
    reason, sentence = told(error, recipe_with())
    assert reason == "host_oom" and sentence.startswith(words)


def test_shared_memory_and_disks_have_their_own_words() -> None:
    loader = RuntimeError("DataLoader worker (pid 12) is killed by signal: Bus error. It is ...")
    assert told(loader)[0] == "shared_memory" and "/dev/shm" in told(loader)[1]
    assert told(OSError(errno.ENOSPC, "No space", "/x")) == ("disk_full", "the disk is full (/x)")
    assert told(UserError("is not there.", "a"))[0] == "user"
    assert told(ValueError("x"))[0] == "error"


def test_a_step_that_runs_out_of_memory_ends_the_run_and_leaves_its_checkpoints(
    recipe: Callable[..., schema.Recipe],
    make_job: Callable[[schema.Recipe], Job],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    from finetui.engine.trainer import JobTrainer

    step = JobTrainer.training_step

    def explode(trainer: JobTrainer, *arguments: Any, **named: Any) -> Any:
        if trainer.state.global_step == 3:
            raise torch.OutOfMemoryError(TORCH_SAYS.format(others="", split="1.00 MiB"))
        return step(trainer, *arguments, **named)

    monkeypatch.setattr(JobTrainer, "training_step", explode)
    quiet = {"every": 0, "generate": 0}
    job = make_job(recipe(evaluation=quiet, checkpoints={"every": 2}))
    assert run_inside(job) == 1
    outcome = job.outcome()
    assert outcome is not None and (outcome["reason"], outcome["step"]) == ("cuda_oom", 3)
    assert "2.00 GiB more was asked for" in outcome["sentence"]
    assert "training.batch_size to 2 (now 4)" in outcome["sentence"]
    assert [found for found, _ in valid_checkpoints(job.path / "checkpoints")] == [2]
    assert [event["step"] for event in events(job, "step")] == [1, 2, 3]


def test_the_modules_that_are_looked_for_are_there() -> None:
    folder = Path(failures.__file__).parent
    assert {Path(model.__file__), Path(generate.__file__)} <= set(folder.iterdir())
