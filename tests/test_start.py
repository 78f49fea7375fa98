"""Starting a job records what it will work on, so that it can be reproduced."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from finetui import start
from finetui.contenders import systems_of
from finetui.data import gate
from finetui.data.dataset import open_dataset
from finetui.data.split import SplitSpec, near_groups
from finetui.data.versions import write_version
from finetui.errors import UserError
from finetui.jobs.devices import DeviceSample, Gpu
from finetui.jobs.folder import create as create_job
from finetui.rating.burned import burn
from finetui.recipe.files import load
from finetui.recipe.schema import Recipe, with_value
from finetui.workspace import Workspace, create, create_sample


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
        systems_of(workspace, run=job.id)
    job.adapter.mkdir()
    (job.adapter / "adapter_config.json").write_text("{}")
    assert start.trained_job(workspace) == job
    systems = systems_of(workspace)
    with pytest.raises(UserError, match="two systems or more"):
        start.start_prepare(workspace, systems[:1], "blind")
    with pytest.raises(UserError, match="--data FILE"):
        start.start_prepare(workspace, systems, "blind")
    (workspace.ratings / "blind").mkdir()
    with pytest.raises(UserError, match="Choose another name"):
        start.start_prepare(workspace, systems, "blind", data="datasets/chat.jsonl")
    assert [found.kind for found in start.list_jobs(workspace.jobs)] == ["train"]


def test_the_advice_hears_of_the_gpu_that_the_job_will_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gpu(index: int, used: int) -> Gpu:
        return Gpu(index, "H", f"u{index}", 0.0, used, 100, 30, 50.0, 300.0)

    sample = DeviceSample((gpu(0, 90), gpu(1, 20)), "999", "", 10, 64, 5.0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    facts = start.machine_facts(sample)
    assert (facts.gpus, facts.gpu_total, facts.gpu_free, facts.host_free) == (2, 100, 80, 54)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert start.machine_facts(sample).gpu_free == 10, "the first, however full it is"
    without = start.machine_facts(DeviceSample((), None, "no NVIDIA driver found", 10, 64, 5.0))
    assert (without.gpus, without.gpu_free, without.host_free) == (0, None, 54)


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The sample workspace, where jobs are made but never launched."""
    monkeypatch.setattr(start, "launch", lambda job, **_: None)
    return create_sample(tmp_path / "sample")


def recipe(workspace: Workspace, **fields: str) -> Recipe:
    made = load(workspace.recipes / "triage-lora.toml")
    for field, text in fields.items():
        made = with_value(made, field.replace("__", "."), text)
    return made


def test_the_sample_recipe_passes_the_leak_gate(sample: Workspace) -> None:
    job = start.start_training(sample, recipe(sample))
    manifest = job.manifest()
    assert manifest["accepted_leaks"] == [] and manifest["versions"] == {}


def test_a_leak_keeps_a_run_from_starting_until_it_is_accepted_in_writing(
    sample: Workspace,
) -> None:
    leaky = recipe(sample, data__train="datasets/tickets_dirty.jsonl")
    with pytest.raises(UserError, match="6 training rows leak") as caught:
        start.start_training(sample, leaky)
    assert "finetui accept-leak datasets/tickets_dirty.jsonl" in str(caught.value)
    assert start.list_jobs(sample.jobs) == []
    held_out = sample.datasets / "tickets_heldout.jsonl"
    train = sample.datasets / "tickets_dirty.jsonl"
    gate.accept(sample, train, held_out, start.leak_gate(sample, leaky).closed_by, "a drill")
    (word,) = start.start_training(sample, leaky).manifest()["accepted_leaks"]
    assert (word["reason"], word["rows"]) == ("a drill", 6) and word["who"] and word["time"]


def test_a_leak_is_mended_by_leaving_its_rows_out(sample: Workspace) -> None:
    leaky = recipe(sample, data__train="datasets/tickets_dirty.jsonl")
    assert gate.mend(sample, start.leak_gate(sample, leaky).closed_by) == 6
    assert start.start_training(sample, leaky).manifest()["accepted_leaks"] == []


def test_general_rows_and_the_suite_are_guarded_too(sample: Workspace) -> None:
    general = "datasets/copy.jsonl"
    check = (sample.datasets / "general_check.jsonl").read_bytes()
    (sample.datasets / "copy.jsonl").write_bytes(check)
    leaky = recipe(sample, data__general=general)
    with pytest.raises(UserError, match=r"copy\.jsonl:1 is the same row as"):
        start.start_training(sample, leaky)
    unused = recipe(sample, data__general=general, data__general_share="0")
    assert start.leak_gate(sample, unused).open


def test_a_version_knows_the_runs_that_used_it(sample: Workspace) -> None:
    with open_dataset(sample.datasets / "tickets.jsonl", sample) as rows:
        spec, alike = near_groups([rows], SplitSpec(seed=1))
        one = write_version(rows, sample, spec=spec, alike=alike)
        two = write_version(rows, sample, spec=SplitSpec(seed=2))
    files = {
        "data__train": str(one.file("train")),
        "data__eval": sample.relative(one.file("test")),
    }
    job = start.start_training(sample, recipe(sample, **files))
    assert set(job.manifest()["versions"].values()) == {one.id}
    assert start.used_by(sample, one) == [job] and start.used_by(sample, two) == []
    answered = start.start_generation(sample, str(sample.root / "model"), str(two.file("test")))
    assert start.used_by(sample, two) == [answered]


def test_the_side_of_a_run_is_its_base_with_what_it_left(sample: Workspace) -> None:
    made = recipe(sample, method__kind="qlora")
    job = start.start_training(sample, made)
    with pytest.raises(UserError, match="left no adapter or model"):
        start.tuned_side(job)
    job.model.mkdir()
    (job.model / "config.json").write_text("{}")
    side = start.tuned_side(job)
    assert side["tuned"] == str(job.model) and "adapter" not in side
    job.adapter.mkdir()
    (job.adapter / "adapter_config.json").write_text("{}")
    side = start.tuned_side(job)
    assert side["adapter"] == str(job.adapter) and "tuned" not in side
    assert side["method"] == {"kind": "qlora", "quantisation": "nf4", "double_quantisation": True}
    assert Path(side["model"]).is_dir()


def test_later_jobs_take_a_training_run_by_part_of_its_name(sample: Workspace) -> None:
    job = start.start_training(sample, recipe(sample))
    job.adapter.mkdir()
    (job.adapter / "adapter_config.json").write_text("{}")
    exported = start.start_export(sample, job, merge=True)
    assert exported.kind == "export" and exported.spec()["merge"] is True
    assert start.trained_job(sample, job.slug) == job, "the export of the same name is not meant"
    assert start.trained_job(sample) == job
    with pytest.raises(UserError, match="no train job is called"):
        start.trained_job(sample, exported.id)


def test_a_queued_run_is_made_and_not_launched(
    sample: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[object] = []
    monkeypatch.setattr(start, "launch", lambda job, **_: launched.append(job))
    queued = start.queue_training(sample, recipe(sample), "later")
    assert queued.slug == "later" and launched == []
    started = start.start_training(sample, recipe(sample))
    assert launched == [started]


def test_a_template_that_reads_otherwise_in_training_stops_a_run_before_it_starts(
    sample: Workspace,
) -> None:
    template = sample.root / "odd.jinja"
    template.write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}ANSWER:{% endif %}"
    )
    odd = recipe(sample, model__chat_template=str(template))
    with pytest.raises(UserError):
        start.start_training(sample, odd)
    assert start.list_jobs(sample.jobs) == []


def test_a_changed_file_is_hashed_anew(workspace: Workspace) -> None:
    file = workspace.datasets / "chat.jsonl"
    first = start.data_state(workspace, [str(file)])["data"][str(file)]
    file.write_bytes(file.read_bytes() + b"\n")
    second = start.data_state(workspace, [str(file)])["data"][str(file)]
    assert first != second == hashlib.sha256(file.read_bytes()).hexdigest()


def test_held_out_rows_that_became_training_data_are_told(workspace: Workspace) -> None:
    file = workspace.datasets / "chat.jsonl"
    assert start.burned_notes(workspace, [file]) == []
    burn(workspace.ratings, "blind", {"a": [{"role": "user", "content": "hi"}]})
    (note,) = start.burned_notes(workspace, [file])
    assert note.startswith("datasets/chat.jsonl: 1 row (the first is line 1) left as training")
