"""Starting a job records what it will work on, so that it can be reproduced."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from finetui import start
from finetui.data.dataset import open_dataset
from finetui.errors import UserError
from finetui.jobs.devices import DeviceSample, Gpu
from finetui.jobs.folder import create as create_job
from finetui.workspace import Workspace, create


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = create(tmp_path / "work")
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    (made.datasets / "chat.jsonl").write_text(json.dumps({"messages": turns}) + "\n" * 3)
    return made


def test_the_data_state_names_content_and_edits(workspace: Workspace) -> None:
    file = workspace.datasets / "chat.jsonl"
    before = start.data_state(workspace, [str(file), ""])
    assert before == {
        "data": {str(file): hashlib.sha256(file.read_bytes()).hexdigest()},
        "edits": {},
    }
    with open_dataset(file, workspace) as rows:
        rows.build_index()
        rows.drop([0])
    after = start.data_state(workspace, [str(file)])
    assert after["data"] == before["data"], "the source is never touched"
    assert after["edits"] == {str(file): 1}


def test_rating_needs_an_adapter_held_out_data_and_a_free_name(workspace: Workspace) -> None:
    recipe = {"model": {"path": "model"}, "data": {"eval": ""}, "evaluation": {"max_new_tokens": 8}}
    job = create_job(workspace.jobs, "train", "try", {"kind": "train", "recipe": recipe}, {})
    with pytest.raises(UserError, match="no finished training run"):
        start.trained_job(workspace)
    with pytest.raises(UserError, match="no adapter"):
        start.start_prepare(workspace, job, "blind")
    job.adapter.mkdir()
    (job.adapter / "adapter_config.json").write_text("{}")
    assert start.trained_job(workspace) == job
    with pytest.raises(UserError, match="--data FILE"):
        start.start_prepare(workspace, job, "blind")
    (workspace.ratings / "blind").mkdir()
    with pytest.raises(UserError, match="Choose another name"):
        start.start_prepare(workspace, job, "blind", data="datasets/chat.jsonl")
    assert [found.kind for found in start.list_jobs(workspace.jobs)] == ["train"]


def test_the_advice_hears_of_the_gpu_with_the_most_free_memory() -> None:
    def gpu(index: int, used: int) -> Gpu:
        return Gpu(index, "H", f"u{index}", 0.0, used, 100, 30, 50.0, 300.0)

    sample = DeviceSample((gpu(0, 90), gpu(1, 20)), "999", "", 10, 64, 5.0)
    facts = start.machine_facts(sample)
    assert (facts.gpus, facts.gpu_total, facts.gpu_free, facts.host_free) == (2, 100, 80, 54)
    without = start.machine_facts(DeviceSample((), None, "no NVIDIA driver found", 10, 64, 5.0))
    assert (without.gpus, without.gpu_free, without.host_free) == (0, None, 54)
