"""A run starts only where what it will write fits on the disk."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from finetui import start
from finetui.errors import UserError
from finetui.jobs import room
from finetui.jobs.folder import list_jobs
from finetui.recipe.files import load
from finetui.recipe.schema import Recipe
from finetui.recipe.sweep import Trial
from finetui.workspace import Workspace, create_sample


@pytest.fixture
def sample(tmp_path: Path) -> Workspace:
    return create_sample(tmp_path / "sample")


@pytest.fixture
def recipe(sample: Workspace) -> Recipe:
    return load(sample.recipes / "triage-lora.toml")


def need(sample: Workspace, recipe: Recipe) -> int:
    found, _ = start.check_recipe(sample, recipe)
    return int(start.foreseen(recipe, found)["disk_bytes"])


def asked(sample: Workspace, recipe: Recipe, times: int = 1) -> int:
    """The free bytes with which a start is just allowed."""
    return round(1.2 * times * need(sample, recipe)) + room.BALLAST_BYTES + (64 << 10)


def test_a_run_is_refused_before_it_has_a_folder_where_its_files_will_not_fit(
    sample: Workspace, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    enough = asked(sample, recipe)
    monkeypatch.setattr(room, "free", lambda folder: enough - 1)
    with pytest.raises(UserError, match=r"the run needs about .* on disk; .* is free") as caught:
        start.queue_training(sample, recipe)
    assert "checkpoints.keep" in str(caught.value) and list_jobs(sample.jobs) == []
    monkeypatch.setattr(room, "free", lambda folder: enough)
    assert start.queue_training(sample, recipe).path.is_dir()


def test_a_quota_counts_although_the_disk_has_room(
    sample: Workspace, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def over(descriptor: int, count: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(room, "_allocate", over)
    with pytest.raises(UserError, match="your quota there allows less"):
        start.queue_training(sample, recipe)


def test_a_sweep_needs_room_for_what_all_its_runs_leave(
    sample: Workspace, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = [Trial(name, (), recipe) for name in ("a", "b", "c")]
    enough = asked(sample, recipe, times=3)
    monkeypatch.setattr(room, "free", lambda folder: enough - 1)
    monkeypatch.setattr(start, "run_sweep", lambda made: None)
    with pytest.raises(UserError, match="the sweep of 3 runs needs about"):
        start.start_sweep(sample, "sizes", trials)
    assert list_jobs(sample.jobs) == []
    monkeypatch.setattr(room, "free", lambda folder: enough)
    start.start_sweep(sample, "sizes", trials)
    assert len(list_jobs(sample.jobs)) == 3
