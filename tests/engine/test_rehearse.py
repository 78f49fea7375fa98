"""A rehearsal: the longest batch of the real engine, and figures that a forecast learns from."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_jobs import chat, events, run_inside, write_rows

from finetui.engine import rehearse as module
from finetui.engine.batches import Example
from finetui.engine.rehearse import longest, shortened
from finetui.jobs import calibration
from finetui.jobs.folder import Job, create
from finetui.recipe.files import to_spec
from finetui.recipe.schema import Recipe, defaults
from finetui.workspace import Workspace


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home for the user's settings of its own: calibration is written there."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


def rehearsal(workspace: Workspace, recipe: Recipe) -> Job:
    spec = {"kind": "rehearse", "workspace": str(workspace.root), "recipe": to_spec(recipe)}
    forecast = {
        "device": "CPU", "method": "lora", "parameters": 1000, "tensors": 2e6,
        "peak_bytes_low": 1e8, "peak_bytes_high": 9e8, "flops_per_token": 4000.0,
    }  # fmt: skip
    return create(workspace.jobs, "rehearse", "try", spec, {"forecast": forecast})


def test_a_rehearsal_reports_peak_pace_and_checkpoint_and_leaves_no_result(
    workspace: Workspace, recipe: Callable[..., Recipe], settings: Path
) -> None:
    write_rows(
        workspace.datasets / "train.jsonl",
        [chat(f"Say {n}", "so " * (n + 1)) for n in range(20)],
    )
    job = rehearsal(workspace, recipe(training={"accumulation": 8}))
    assert run_inside(job) == 0
    outcome = job.outcome()
    assert outcome and outcome["status"] == "finished", outcome
    metrics = outcome["metrics"]
    assert metrics["steps"] == module.UPDATES and metrics["rows"] == 20
    assert metrics["peak_bytes"] > metrics["tensor_bytes"] > 100_000
    assert metrics["step_s"] > 0 and metrics["checkpoint_bytes"] > 10_000
    # Two batches an update, of the longest rows only.
    [data] = events(job, "data")
    assert data["rows"] == 8
    assert "forecast 95.4 MiB to 858.3 MiB" in outcome["sentence"]
    assert "eval" in {event["kind"] for event in events(job)}
    assert not job.adapter.exists() and not (job.path / "checkpoints").exists()
    [kept] = calibration.runs()
    assert kept.job == job.id and kept.peak == metrics["peak_bytes"]
    assert kept.flops == 4000.0 * metrics["tokens"]


def test_a_checkpoint_that_brings_back_something_else_is_an_error(
    workspace: Workspace,
    recipe: Callable[..., Recipe],
    settings: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = module.load_weights

    def spoiled(trainer: module.JobTrainer, path: Path) -> None:
        load(trainer, path)
        with torch.no_grad():
            next(p for p in trainer.model.parameters() if p.requires_grad).add_(1)

    monkeypatch.setattr(module, "load_weights", spoiled)
    job = rehearsal(workspace, recipe())
    assert run_inside(job) == 1
    outcome = job.outcome()
    assert outcome and "does not bring back 1 of" in outcome["sentence"]
    assert calibration.runs() == ()


def test_the_longest_examples_fill_a_packed_update() -> None:
    def of(length: int) -> Example:
        return Example(array("i", range(length)), array("i", range(length)), 0, length)

    items = [of(n) for n in (3, 9, 5, 7)]
    assert [len(one) for one in longest(items, 2)] == [9, 7]
    assert [len(one) for one in longest(items, 1, tokens=17)] == [9, 7, 5]
    assert len(longest(items, 9)) == 4


def test_a_rehearsal_changes_nothing_that_decides_the_memory() -> None:
    short = shortened(defaults())
    assert short.training.batch_size == defaults().training.batch_size
    assert short.method == defaults().method and short.model == defaults().model
    assert short.data.max_length == defaults().data.max_length
    assert short.training.max_steps == module.UPDATES


def test_an_unusable_recipe_fails_with_its_reason(
    workspace: Workspace, recipe: Callable[..., Recipe], settings: Path
) -> None:
    job = rehearsal(workspace, recipe(model={"path": str(workspace.root / "gone")}))
    assert run_inside(job) == 1
    outcome = job.outcome()
    assert outcome and outcome["status"] == "failed" and "gone" in outcome["sentence"]
