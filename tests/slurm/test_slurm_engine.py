"""The real engine under Slurm: preempted, requeued, resumed: the same run as one that was not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from job_workshop import ended, step_reached, until
from slurm_cluster import TestCluster

from finetui import start
from finetui.jobs.folder import Job
from finetui.jobs.liveness import state
from finetui.recipe.files import load
from finetui.recipe.schema import Recipe, with_value
from finetui.workspace import create_sample

LIMIT_S = 300.0
PROFILE = '[cluster.test]\ngpus = 0\ncpus = 1\ntime = "30"\n'
SMALL = {
    "training.max_steps": "8", "training.batch_size": "2", "training.accumulation": "2",
    "training.threads": "1", "data.general_share": "0", "data.eval": "", "evaluation.suite": "",
    "evaluation.every": "0", "evaluation.generate": "0", "evaluation.samples": "0",
    "checkpoints.every": "3", "logging.every": "1",
}  # fmt: skip


def small(root: Path) -> Recipe:
    recipe = load(next((root / "recipes").glob("*.toml")))
    for name, text in SMALL.items():
        recipe = with_value(recipe, name, text)
    return recipe


def told(job: Job) -> dict[int, tuple[str, float]]:
    """step -> (hash of the samples, loss), the newest attempt's word for steps made twice."""
    found = {}
    for path in job.events_files():
        for event in map(json.loads, path.read_text().splitlines()):
            if event["kind"] == "step":
                found[event["step"]] = (event["order"], event["loss"])
    return found


@pytest.mark.torch
def test_a_preempted_run_is_the_run_that_was_not_preempted(
    cluster: TestCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "finetui").mkdir()
    (tmp_path / "finetui" / "settings.toml").write_text(PROFILE)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    workspace = create_sample(cluster.folder / "sample")
    recipe = small(workspace.root)
    job = start.start_training(workspace, recipe, "preempted", on="slurm:test")
    plain = start.start_training(workspace, recipe, "plain")
    until(lambda: step_reached(job, 2), LIMIT_S)
    cluster.run("scancel", "--batch", "--signal=USR1", cluster.number(job))
    said = cluster.requeued(job, 1)
    assert "saved before the time limit" in said.sentence
    assert ended(job, LIMIT_S).name == "finished", state(job)
    assert ended(plain, LIMIT_S).name == "finished"
    proc = job.proc()
    assert proc is not None and (proc.attempt, proc.backend) == (2, "slurm")
    assert sorted(told(job)) == list(range(1, 9))
    assert told(job) == told(plain)
