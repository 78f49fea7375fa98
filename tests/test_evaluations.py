"""An evaluation is planned from a run, checked before it starts, and frozen when it does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from finetui import evaluations, start
from finetui.errors import UserError
from finetui.evaluation.record import Manifest, SetSpec, Subject, of_job
from finetui.jobs.folder import Job, create
from finetui.workspace import Workspace
from finetui.workspace import create as create_workspace


def rows(file: Path, *questions: str) -> str:
    turns = [
        [{"role": "user", "content": text}, {"role": "assistant", "content": f"Answer to {text}"}]
        for text in questions
    ]
    file.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    return str(file)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(start, "launch", lambda job: None)
    return create_workspace(tmp_path / "work")


def trained(workspace: Workspace, kind: str = "lora", **method: Any) -> Job:
    """A run with two checkpoints, one unfinished one, and what it left."""
    data = {
        "train": [rows(workspace.datasets / "train.jsonl", "first", "second")],
        "eval": rows(workspace.datasets / "held.jsonl", "third"),
    }
    recipe = {
        "model": {"path": "/models/tiny", "revision": "abc", "precision": "fp32"},
        "method": {"kind": kind, "quantisation": "nf4", **method},
        "data": data,
        "evaluation": {"max_new_tokens": 7, "suite": rows(workspace.datasets / "gen.jsonl", "x")},
    }
    job = create(workspace.jobs, "train", "r", {"kind": "train", "recipe": recipe}, {})
    for step in (20, 4):
        folder = job.path / "checkpoints" / f"step-{step}"
        folder.mkdir(parents=True)
        (folder / "MANIFEST.json").write_text('{"files": {}}')
    (job.path / "checkpoints" / "step-30").mkdir()
    left, file = (job.model, "config") if kind == "full" else (job.adapter, "adapter_config")
    left.mkdir()
    (left / f"{file}.json").write_text("{}")
    return job


def test_a_run_is_planned_against_its_base_on_what_it_held_out(workspace: Workspace) -> None:
    job = trained(workspace)
    made = evaluations.plan(workspace, job, checkpoints=True, shots=2, batch_size=3)
    assert [(one.name, one.kind, one.step) for one in made.subjects] == [
        ("base", "base", 0), ("tuned", "adapter", 0), ("base-2-shot", "few-shot", 0),
        ("step-4", "checkpoint", 4), ("step-20", "checkpoint", 20),
    ]  # fmt: skip
    base, tuned, few = made.subjects[:3]
    assert base.loading == tuned.loading and base.loading["revision"] == "abc"
    assert not base.adapter and tuned.adapter == str(job.adapter)
    assert few.few_shot.endswith("train.jsonl") and few.shots == 2
    roles = {spec.name: spec.role for spec in made.sets}
    assert roles == {
        "held": "test", "gen": "suite", "general": "suite", "safety": "safety",
        "drift": "drift", "leak": "leak",
    }  # fmt: skip
    assert (made.base, made.max_new_tokens, made.batch_size) == ("base", 7, 3)


def test_after_full_tuning_the_models_own_files_are_asked(workspace: Workspace) -> None:
    job = trained(workspace, "full")
    base, tuned, first, _ = evaluations.plan(workspace, job, checkpoints=True).subjects
    assert (base.model, tuned.kind, tuned.model) == ("/models/tiny", "model", str(job.model))
    assert "revision" not in tuned.loading and tuned.loading["precision"] == "fp32"
    assert first.model.endswith("step-4") and first.loading["tokenizer"] == str(job.model)


def test_checkpoints_that_stand_on_a_moved_base_are_left_out(workspace: Workspace) -> None:
    assert evaluations.checkpoints_of(trained(workspace, init="pissa")) == []


def test_own_suites_stand_for_the_shipped_ones(workspace: Workspace) -> None:
    job = trained(workspace)
    (workspace.root / "suites").mkdir()
    rows(workspace.root / "suites" / "house.jsonl", "a")
    rows(workspace.root / "suites" / "my-safety.jsonl", "b")
    roles = {spec.name: spec.role for spec in evaluations.sets_of(workspace, job)}
    assert roles["house"] == "suite" and roles["my-safety"] == "safety" and "general" not in roles


def test_a_run_without_held_out_rows_needs_a_set(workspace: Workspace) -> None:
    job = trained(workspace)
    spec = job.path / "spec.toml"
    spec.write_text(spec.read_text().replace("held.jsonl", ""))
    spec.write_text("".join(
        line for line in spec.read_text().splitlines(keepends=True) if not line.startswith("eval =")
    ))  # fmt: skip
    with pytest.raises(UserError, match="no held-out rows"):
        evaluations.plan(workspace, Job(job.path))


def manifest(workspace: Workspace, **changes: Any) -> Manifest:
    made = Manifest(
        name="e",
        subjects=[Subject("base", "base", model="m")],
        sets=[SetSpec("held", path=rows(workspace.datasets / "held.jsonl", "third"))],
    )
    return structs.replace(made, **changes)


def test_a_started_evaluation_is_frozen_with_the_hashes_of_its_files(workspace: Workspace) -> None:
    job = start.start_evaluation(workspace, manifest(workspace, harness=["arc"]), threads=2)
    frozen = of_job(job.path).manifest()
    (path,) = frozen.files
    assert path.endswith("held.jsonl") and len(frozen.files[path]) == 64
    assert frozen.created > 0 and job.manifest()["data"] == frozen.files
    assert job.spec()["libraries"] == ["datasets"] and job.spec()["threads"] == 2


def test_a_second_run_of_a_manifest_says_which_file_has_changed(workspace: Workspace) -> None:
    frozen = of_job(start.start_evaluation(workspace, manifest(workspace)).path).manifest()
    file = rows(workspace.datasets / "held.jsonl", "third", "fourth")
    again = start.start_evaluation(workspace, frozen)
    assert of_job(again.path).manifest().provenance["changed"] == [file]
    assert again.manifest()["warnings"] == [f"{file} is not what it was"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sets": [SetSpec("a", path="nowhere.jsonl")]}, "nowhere.jsonl: is not there"),
        ({"training": ["gone.jsonl"]}, "gone.jsonl: is not there"),
        ({"subjects": [Subject("o", "outputs", outputs="o.jsonl")]}, "o.jsonl: is not there"),
        ({"sets": [SetSpec("a", metrics=["charm"])]}, "charm"),
        ({"sets": [SetSpec("a", scorer="mine.py::score")]}, "mine.py"),
        ({"base": "nobody"}, "nobody"),
    ],
)
def test_what_cannot_be_evaluated_starts_no_job(
    workspace: Workspace, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        start.start_evaluation(workspace, manifest(workspace, **changes))
    assert not list(workspace.jobs.glob("*"))


def test_a_task_that_was_trained_on_is_not_evaluated(workspace: Workspace) -> None:
    leaky = rows(workspace.datasets / "train.jsonl", "other", "third")
    with pytest.raises(UserError, match="leak"):
        start.start_evaluation(workspace, manifest(workspace, training=[leaky]))
    assert not list(workspace.jobs.glob("*"))
