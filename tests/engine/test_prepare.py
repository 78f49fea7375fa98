"""Preparing a rating: every system answers alike, and nothing by system is left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tiny_jobs import run_inside

from finetui.engine.dataset import prompts
from finetui.evaluation.record import Subject
from finetui.jobs.folder import Job, create
from finetui.rating.burned import burn
from finetui.rating.drafts import read_draft, seal_draft
from finetui.rating.registration import Registration
from finetui.rating.session import open_session
from finetui.rating.unseal import unseal
from finetui.workspace import Workspace


@pytest.fixture
def held_out(workspace: Workspace) -> Path:
    return workspace.datasets / "held.jsonl"


def outputs(workspace: Workspace, held_out: Path, leave_out: int = 0) -> Subject:
    """Answers that some other program wrote to the prompts."""
    file = workspace.root / "theirs.jsonl"
    rows = prompts(str(held_out), 100, 0)[leave_out:]
    lines = [
        {"prompt": row.messages, "response": f"their answer {n}"} for n, row in enumerate(rows)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Subject("theirs", "outputs", outputs=str(file))


def prepared(workspace: Workspace, systems: list[Subject], held_out: Path, **more: Any) -> Job:
    chosen = msgspec.to_builtins(Registration(raters=("kim",), identity="keep"))
    spec = {
        "kind": "prepare", "workspace": str(workspace.root), "session": "round-1",
        "systems": msgspec.to_builtins(systems),
        "registration": {k: v for k, v in chosen.items() if v is not None},
        "data": str(held_out), "items": 3, "max_new_tokens": 6, "threads": 1, **more,
    }  # fmt: skip
    return create(workspace.jobs, "prepare", "round-1", spec, {})


def base(model_dir: Path) -> Subject:
    return Subject("base", "base", model=str(model_dir))


def test_base_few_shot_and_answers_from_elsewhere_are_sealed_together(
    workspace: Workspace, model_dir: Path, held_out: Path
) -> None:
    training = str(workspace.datasets / "train.jsonl")
    shots = msgspec.structs.replace(
        base(model_dir), name="base-1-shot", kind="few-shot", few_shot=training, shots=1
    )
    systems = [base(model_dir), shots, outputs(workspace, held_out)]
    job = prepared(workspace, systems, held_out)
    assert run_inside(job) == 0, job.outcome()
    sealed = open_session(workspace.ratings / "round-1")
    assert (sealed.manifest.systems, sealed.manifest.items) == (3, 3)
    mapping = unseal(sealed, "test")
    assert mapping.systems == ("base", "base-1-shot", "theirs")
    for sides in mapping.texts.values():
        assert sides["theirs"].startswith("their answer")
    assert {item.finish["theirs"] for item in mapping.items.values()} == {"stop"}
    assert mapping.provenance.provenance["systems"][1]["shots"] == 1
    left = {path.name for path in job.path.rglob("*")}
    assert not any("answers" in name or "outputs" in name for name in left)
    events = "".join(path.read_text() for path in job.events_files())
    assert "their answer" not in events and "theirs" not in events
    assert not (workspace.cache / "answers").exists()


def test_held_answers_wait_for_a_person_and_are_sealed_without_the_models(
    workspace: Workspace, model_dir: Path, held_out: Path
) -> None:
    job = prepared(workspace, [base(model_dir), outputs(workspace, held_out)], held_out, hold=True)
    assert run_inside(job) == 0, job.outcome()
    told = job.outcome() or {}
    assert told["draft"] == "round-1" and told["findings"]
    assert not (workspace.ratings / "round-1").exists()
    chosen = read_draft(workspace.ratings, "round-1").registration
    session = seal_draft(
        workspace.ratings, "round-1", msgspec.structs.replace(chosen, question="Which?")
    )
    assert (session.question, session.raters) == ("Which?", ("kim",))


def test_burned_prompts_are_left_out_and_counted(
    workspace: Workspace, model_dir: Path, held_out: Path
) -> None:
    rows = prompts(str(held_out), 100, 0)
    burn(workspace.ratings, "earlier", {row.id: row.messages for row in rows[:2]})
    job = prepared(workspace, [base(model_dir), outputs(workspace, held_out)], held_out, items=100)
    assert run_inside(job) == 0, job.outcome()
    session = open_session(workspace.ratings / "round-1")
    assert session.manifest.items == len(rows) - 2
    assert (job.outcome() or {})["metrics"]["burned_left_out"] == 2


def test_a_missing_answer_from_elsewhere_is_named(
    workspace: Workspace, model_dir: Path, held_out: Path
) -> None:
    systems = [base(model_dir), outputs(workspace, held_out, leave_out=1)]
    job = prepared(workspace, systems, held_out, items=100)
    assert run_inside(job) == 1
    told = (job.outcome() or {})["sentence"]
    assert "has no answer to 1 prompt" in told and "theirs.jsonl" in told
    assert not (workspace.ratings / "round-1").exists()


def test_a_whole_model_that_answers_as_its_base_does_leaves_nothing_to_rate(
    workspace: Workspace, model_dir: Path, held_out: Path
) -> None:
    whole = Subject("whole", "model", model=str(model_dir))
    job = prepared(workspace, [base(model_dir), whole], held_out)
    assert run_inside(job) == 1
    assert "the same answer to all 3 items" in (job.outcome() or {})["sentence"]
    assert not list(workspace.ratings.rglob("*.json*"))
