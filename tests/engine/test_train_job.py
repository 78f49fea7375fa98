"""A whole training job on a tiny model: what it leaves, what it says, how it is stopped."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_jobs import chat, events, run_inside, write_rows

from finetui.errors import UserError
from finetui.evaluation.compare import compare_job, read_outputs
from finetui.jobs import checkpoints
from finetui.jobs.control import kill
from finetui.jobs.folder import Job
from finetui.jobs.launch import launch
from finetui.jobs.liveness import state
from finetui.recipe.schema import Recipe
from finetui.workspace import Workspace

Build = Callable[..., Recipe]
Make = Callable[[Recipe], Job]


def wait_for(condition: Callable[[], bool], limit: float = 240.0) -> None:
    """Poll until the condition holds; fail after ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


@pytest.fixture
def detached() -> Iterator[Callable[[Job], None]]:
    """Start a job in its own processes; whatever a failed test leaves running is ended."""
    started: list[Job] = []

    def start(job: Job) -> None:
        started.append(job)
        launch(job)

    yield start
    for job in started:
        with contextlib.suppress(UserError):
            kill(job)


def test_a_job_leaves_adapter_scores_events_and_outcome(
    recipe: Build, make_job: Make, detached: Callable[[Job], None]
) -> None:
    job = make_job(recipe(checkpoints={"every": 2, "keep": 2}))
    detached(job)
    wait_for(lambda: state(job).ended)
    outcome = job.outcome()
    assert outcome is not None and outcome["status"] == "finished", job.log_files()[0].read_text()
    left = {path.name for path in job.adapter.iterdir()}
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= left
    steps = events(job, "step")
    assert [event["step"] for event in steps] == list(range(1, 9))
    for name in ("loss", "lr", "grad_norm", "tokens_per_s", "step_s"):
        assert all(math.isfinite(event[name]) for event in steps), name
    assert steps[-1]["tokens"] > steps[-1]["trained_tokens"] > 0
    assert steps[-1]["memory_bytes"] > 1 << 20
    assert [event["step"] for event in events(job, "eval")] == [0, 4, 8]
    assert [event["step"] for event in events(job, "checkpoint")] == [2, 4, 6, 8]
    assert [step for step, _ in checkpoints.valid_checkpoints(job.path / "checkpoints")] == [6, 8]
    assert [(event["when"], event["n"]) for event in events(job, "score")] == [
        ("before", 4), ("after", 4),
    ]  # fmt: skip
    metrics = outcome["metrics"]
    assert metrics["eval_loss"] < metrics["eval_loss_before"]
    assert metrics["steps"] == 8
    assert {"before", "after", "seconds", "cpu_seconds", "train_loss"} <= metrics.keys()
    comparison = compare_job(job.path)
    assert comparison is not None and comparison.unpaired == 0
    assert events(job, "end")[-1]["reason"] == "finished"
    assert events(job, "start")[0]["total_steps"] == 8


def test_the_learning_rate_told_is_the_one_of_that_step(recipe: Build, make_job: Make) -> None:
    job = make_job(
        recipe(
            training={"warmup": 4.0, "schedule": "linear", "learning_rate": 1e-3},
            evaluation={"generate": 0},
        )
    )
    assert run_inside(job) == 0
    rates = [event["lr"] for event in events(job, "step")]
    assert rates == pytest.approx([0, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_logging_every_few_steps_keeps_first_and_last(recipe: Build, make_job: Make) -> None:
    job = make_job(recipe(logging={"every": 3}, evaluation={"generate": 0, "every": 0}))
    assert run_inside(job) == 0
    assert [event["step"] for event in events(job, "step")] == [1, 3, 6, 8]


def test_generate_zero_scores_nothing(recipe: Build, make_job: Make) -> None:
    job = make_job(recipe(evaluation={"generate": 0}))
    assert run_inside(job) == 0
    assert events(job, "score") == []
    assert not (job.path / "outputs-before.jsonl").exists()


def test_stop_saves_and_ends(
    recipe: Build, make_job: Make, ask_at_step: Callable[..., None]
) -> None:
    job = make_job(recipe(evaluation={"generate": 0, "every": 0}))
    ask_at_step(job, 3, "stop")
    assert run_inside(job) == 0
    outcome = job.outcome()
    assert outcome is not None and outcome["status"] == "stopped"
    assert events(job, "step")[-1]["step"] == 3
    assert [step for step, _ in checkpoints.valid_checkpoints(job.path / "checkpoints")] == [3]
    assert (job.adapter / "adapter_model.safetensors").is_file()


def test_a_stop_while_scoring_keeps_the_adapter(
    recipe: Build, make_job: Make, ask_at_step: Callable[..., None]
) -> None:
    job = make_job(recipe(training={"max_steps": 2}))
    ask_at_step(job, 3, "stop")  # step 3 never comes: the request is found behind the last step
    assert run_inside(job) == 0
    outcome = job.outcome()
    assert outcome is not None and outcome["status"] == "stopped"
    assert "adapter is saved" in outcome["sentence"]
    assert (job.adapter / "adapter_model.safetensors").is_file()


def test_save_and_evaluate_on_request_and_go_on(
    recipe: Build, make_job: Make, ask_at_step: Callable[..., None]
) -> None:
    job = make_job(recipe(evaluation={"generate": 0, "every": 0}))
    ask_at_step(job, 3, "save", "evaluate")
    assert run_inside(job) == 0
    assert [event["step"] for event in events(job, "checkpoint")] == [3, 8]
    assert [event["step"] for event in events(job, "eval")] == [0, 3, 8]
    assert {event["verb"] for event in events(job, "control")} == {"evaluate", "save"}


def test_sigterm_saves_before_it_ends(
    recipe: Build, make_job: Make, detached: Callable[[Job], None]
) -> None:
    job = make_job(recipe(training={"epochs": 500.0}, evaluation={"generate": 0, "every": 0}))
    detached(job)
    wait_for(lambda: len(events(job, "step")) >= 3)
    proc = job.proc()
    assert proc is not None
    os.kill(proc.worker.pid, signal.SIGTERM)
    wait_for(lambda: state(job).ended)
    outcome = job.outcome()
    assert outcome is not None and outcome["status"] == "preempted"
    assert checkpoints.valid_checkpoints(job.path / "checkpoints")
    assert (job.adapter / "adapter_model.safetensors").is_file()


def test_a_loss_that_is_no_number_is_said_and_ends_the_run(
    recipe: Build, make_job: Make, model_dir: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(model_dir, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    job = make_job(
        recipe(model={"path": str(broken)}, data={"eval": ""}, evaluation={"generate": 0})
    )
    assert run_inside(job) == 1
    outcome = job.outcome()
    assert outcome is not None
    assert (outcome["status"], outcome["reason"]) == ("failed", "nonfinite")
    assert "train.jsonl:" in outcome["sentence"]
    (step,) = events(job, "step")
    assert step["loss"] is None and "loss" in step["nonfinite"]
    (guard,) = events(job, "guard")
    assert guard["action"] == "stop" and "not a number at step 1" in guard["text"]
    assert len(guard["rows"]) == 4 and not job.adapter.exists(), "nothing was learned to save"


def test_the_best_adapter_is_kept_when_the_run_gets_worse(
    recipe: Build, make_job: Make, workspace: Workspace
) -> None:
    # Held-out answers share no word with the trained ones: learning makes them less likely.
    write_rows(workspace.datasets / "held.jsonl", [chat("?", "purple candle") for _ in range(4)])
    settings = {
        "training": {"learning_rate": 0.05, "epochs": 4.0, "schedule": "constant", "warmup": 0.0},
        "evaluation": {"generate": 0, "every": 1, "early_stopping": 3},
    }
    job = make_job(recipe(**settings))
    assert run_inside(job) == 0
    losses = {event["step"]: event["loss"] for event in events(job, "eval") if event["step"]}
    best = min(losses, key=lambda step: losses[step])
    assert max(losses) == best + 3, "early stopping after three worse evaluations"
    outcome = job.outcome()
    assert outcome is not None and outcome["metrics"]["best_step"] == best
    kept = checkpoints.best_result(job.path / "checkpoints")
    assert kept is not None
    mine = (job.adapter / "adapter_model.safetensors").read_bytes()
    assert mine == (kept[0] / "adapter_model.safetensors").read_bytes()
    assert any(f"weights of step {best}" in event["text"] for event in events(job, "message"))
    assert checkpoints.valid_checkpoints(job.path / "checkpoints")[-1][0] == best + 3


def test_rows_that_cannot_be_trained_on_are_named(
    recipe: Build, make_job: Make, workspace: Workspace
) -> None:
    path = write_rows(
        workspace.datasets / "train.jsonl",
        [chat("short", "yes")] * 5 + [chat("long " * 200, "no")],
    )
    with path.open("a") as file:
        file.write('{"messages": [{"role": "user"\n\n')
    job = make_job(recipe(evaluation={"generate": 0}))
    assert run_inside(job) == 0
    data = events(job, "data")[0]
    assert (data["rows"], data["dropped_long"]) == (5, 1)
    warnings = " ".join(event["text"] for event in events(job, "warning"))
    assert "train.jsonl:6" in warnings and "train.jsonl:7" in warnings


def test_a_held_out_prompt_that_is_trained_on_is_said(
    recipe: Build, make_job: Make, workspace: Workspace
) -> None:
    write_rows(workspace.datasets / "held.jsonl", [chat("What is 3 plus one?", "It is 4.")])
    job = make_job(recipe(training={"max_steps": 1}))
    assert run_inside(job) == 0
    assert any("1 of 1 held-out" in event["text"] for event in events(job, "warning"))


def test_general_rows_are_mixed_in(recipe: Build, make_job: Make, workspace: Workspace) -> None:
    general = str(workspace.datasets / "general.jsonl")
    job = make_job(
        recipe(
            data={"general": general, "general_share": 0.125},
            evaluation={"generate": 0, "suite": general},
        )
    )
    assert run_inside(job) == 0
    assert events(job, "data")[0]["rows"] == 18


def test_edits_of_the_journal_are_trained_on(
    recipe: Build, make_job: Make, workspace: Workspace
) -> None:
    from finetui.data.dataset import open_dataset

    with open_dataset(workspace.datasets / "train.jsonl", workspace) as rows:
        rows.drop([0, 1])
        rows.edit(2, json.dumps(chat("Edited?", "Yes.")))
    job = make_job(recipe(training={"max_steps": 1}, evaluation={"generate": 0}))
    assert run_inside(job) == 0
    assert events(job, "data")[0]["rows"] == 14
    assert any("1 edited and 2 dropped" in event["text"] for event in events(job, "message"))


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"model": {"path": "/nowhere/model"}}, "no such model folder"),
        ({"model": {"path": ""}}, "no model is named"),
        ({"method": {"target_modules": ["nothing_proj"]}}, "q_proj"),
        ({"data": {"train": ["/nowhere/data.jsonl"]}}, "no such file"),
        ({"data": {"max_length": 16}}, "no row can be trained on"),
        ({"model": {"precision": "fp16"}}, "fp16 needs a GPU"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    recipe: Build, make_job: Make, sections: Any, words: str
) -> None:
    job = make_job(recipe(**sections))
    assert run_inside(job) == 1
    outcome = job.outcome()
    assert outcome is not None
    assert (outcome["status"], outcome["reason"]) == ("failed", "user")
    assert words in outcome["sentence"]
    assert "\n" not in outcome["sentence"]


def test_out_of_memory_names_the_one_change(
    recipe: Build, make_job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from finetui.engine import trainer

    def explode(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(trainer.JobTrainer, "training_step", explode)
    job = make_job(recipe(data={"eval": ""}, evaluation={"generate": 0}))
    assert run_inside(job) == 1
    outcome = job.outcome()
    assert outcome is not None and outcome["reason"] == "cuda_oom"
    assert "batch_size to 2" in outcome["sentence"]
    assert "accumulation to 2" in outcome["sentence"]


def test_an_answer_file_goes_on_where_it_was_cut(recipe: Build, make_job: Make) -> None:
    job = make_job(recipe(training={"max_steps": 1}))
    assert run_inside(job) == 0
    file = job.path / "outputs-before.jsonl"
    whole = read_outputs(file)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1][:-9])
    (job.path / "outcome.json").unlink()
    shutil.rmtree(job.path / "checkpoints")
    assert run_inside(job) == 0
    assert {output.id: output for output in read_outputs(file)} == {o.id: o for o in whole}


def test_a_disk_that_is_said_to_have_room_and_has_none_is_tried_again(
    recipe: Build, make_job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from finetui.engine.trainer import JobTrainer
    from finetui.jobs import worker

    write, left = JobTrainer._write_checkpoint, [3]

    def full(*arguments: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*arguments)

    monkeypatch.setattr(JobTrainer, "_write_checkpoint", full)
    monkeypatch.setattr(worker, "_DOUBT_S", 0.01)
    job = make_job(recipe(evaluation={"generate": 0}, checkpoints={"every": 2}))
    assert run_inside(job) == 0
    said = [event["text"] for event in events(job, "warning")]
    assert len(said) == 2 and all("step 2 needs" in text and "tried again" in text for text in said)
    assert [event["step"] for event in events(job, "checkpoint")] == [2, 4, 6, 8]


def test_the_engine_refuses_what_is_no_job(tmp_path: Path) -> None:
    from finetui.engine.__main__ import main

    assert main([str(tmp_path)]) == 2
    assert main([]) == 2


def test_an_unknown_kind_is_a_failed_job(workspace: Workspace) -> None:
    from finetui.jobs.folder import create

    job = create(workspace.jobs, "train", "odd", {"kind": "dance"}, {})
    assert run_inside(job) == 1
    outcome = job.outcome()
    assert outcome is not None and "dance" in outcome["sentence"]
