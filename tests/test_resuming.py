"""What resuming a run would do, and its start: on checkpoints made by hand, without an engine."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from finetui import cli, resuming, start
from finetui.errors import UserError
from finetui.jobs import checkpoints
from finetui.jobs.folder import Job, create
from finetui.jobs.manifest import package_versions
from finetui.recipe.files import from_spec, to_spec
from finetui.recipe.forecast import learning_rate_at
from finetui.recipe.schema import Recipe, defaults
from finetui.workspace import Workspace, create_sample

STEPS, AT, ROWS = 120, 40, 600


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return create_sample(tmp_path / "work")


def recipe(workspace: Workspace, **training: Any) -> Recipe:
    spec = to_spec(defaults())
    spec["model"]["path"] = str(workspace.root / "model")
    spec["data"]["train"] = [str(workspace.datasets / "tickets.jsonl")]
    spec["data"]["eval"] = str(workspace.datasets / "tickets_heldout.jsonl")
    spec["training"] |= {"batch_size": 5, "epochs": 1.0, "learning_rate": 1e-3} | training
    return from_spec(spec)


@pytest.fixture
def job(workspace: Workspace) -> Job:
    """A run that was killed 13 steps after its checkpoint of step 40."""
    made = recipe(workspace)
    spec = {"kind": "train", "workspace": str(workspace.root), "recipe": to_spec(made)}
    found = create(workspace.jobs, "train", "test", spec, {})
    save(workspace, found, made, AT)
    (found.path / "events-a1.jsonl").write_text("")
    found.heartbeat.write_text(f"{time.time()} 1 running 53 60.0".ljust(63) + "\n")
    end(found, "failed")
    return found


def end(job: Job, status: str) -> None:
    job.write_json("outcome.json", {"status": status, "attempt": 1, "t": 1.0, "sentence": "so"})


def save(workspace: Workspace, job: Job, made: Recipe, step: int, **facts: Any) -> Path:
    folder = checkpoints.folder_of(job)
    draft = checkpoints.draft_folder(folder)
    (draft / "adapter_model.safetensors").write_bytes(b"weights" * step)
    data = start.data_state(workspace, [*made.data.train, made.data.eval])
    told = {
        "step": step, "attempt": 1, "best": 0, "total_steps": STEPS,
        "rows": {"count": ROWS, "digest": "0"},
        "position": {"epoch": 0, "consumed": 5 * step},
        "curve": {"total": STEPS, "end": STEPS, "peak": 1e-3, "turn": 0, "place": 0.0},
        "recipe": to_spec(made), **data,
        "weights": checkpoints.weight_marks(made.model.path), "packages": package_versions(),
    }  # fmt: skip
    target = folder / f"step-{step}"
    checkpoints.publish(draft, target, **told | facts)
    return target


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    started: list[Job] = []

    def launch(job: Job, **_: Any) -> int:
        started.append(job)
        return job.next_attempt()

    monkeypatch.setattr(resuming, "launch", launch)
    return started


def differences(found: resuming.ResumePreview) -> dict[str, tuple[str, str, str]]:
    return {one.what: (one.severity, one.then, one.now) for one in found.differences}


def test_a_preview_says_where_it_goes_on_and_what_is_left(workspace: Workspace, job: Job) -> None:
    found = resuming.preview(workspace, job)
    assert (found.step, found.total, found.left, found.lost) == (40, 120, 80, 13)
    assert found.path == checkpoints.folder_of(job) / "step-40" and found.t is not None
    assert found.differences == () and found.problem == ""
    steps = [step for step, _ in found.rates]
    assert (steps[0], steps[-1], len(steps)) == (41, 120, 80)
    rates = [rate for _, rate in found.rates]
    assert rates == sorted(rates, reverse=True) and rates[-1] < 1e-5


def test_a_checkpoint_that_is_cut_short_is_none(workspace: Workspace, job: Job) -> None:
    newer = save(workspace, job, recipe(workspace), 50)
    (newer / "adapter_model.safetensors").write_bytes(b"cut")
    assert resuming.preview(workspace, job).step == 40
    shutil.rmtree(checkpoints.folder_of(job))
    found = resuming.preview(workspace, job)
    assert (found.path, found.step, found.lost, found.problem) == (None, 0, 53, "")
    assert "begins anew" in resuming.tell(found)


@pytest.mark.parametrize(
    ("changes", "total", "last"),
    [
        ({"training.max_steps": "200"}, 200, 200),
        ({"training.epochs": "2"}, 240, 240),
        # 400 rows are left of 600: 40 updates of 10.
        ({"batch_size": "10"}, 80, 80),
        ({"training.accumulation": "4", "training.epochs": "2"}, 40 + 20 + 30, 90),
    ],
)
def test_a_changed_length_moves_the_end_and_the_rate(
    workspace: Workspace, job: Job, changes: Mapping[str, str], total: int, last: int
) -> None:
    found = resuming.preview(workspace, job, changes=changes)
    assert (found.total, found.left) == (total, total - 40)
    steps, rates = zip(*found.rates, strict=True)
    assert steps[-1] == last and rates[-1] < rates[0] / 10, "it settles at the new end"
    if set(changes) == {"batch_size"}:
        before = resuming.preview(workspace, job).rates[0][1]
        assert rates[0] == pytest.approx(before), "without a jump"
    else:
        planned = learning_rate_at(recipe(workspace), 40, total)
        assert rates[0] == pytest.approx(planned), "as a run that was planned so"
    assert {one.severity for one in found.differences} == {"warning"}


def test_a_changed_rate_scales_the_rest_and_looks_are_only_noted(
    workspace: Workspace, job: Job
) -> None:
    before = resuming.preview(workspace, job).rates
    changes = {"learning_rate": "2e-3", "evaluation.every": "7"}
    found = resuming.preview(workspace, job, changes=changes)
    assert [rate for _, rate in found.rates] == pytest.approx([2 * rate for _, rate in before])
    told = differences(found)
    assert told["training.learning_rate"] == ("warning", "0.001", "0.002")
    assert told["evaluation.every"][0] == "note"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method.rank": "4"}, "method.rank: cannot change on resuming"),
        ({"model.path": "other"}, "cannot change"),
        ({"data.max_length": "64"}, "cannot change"),
        ({"training.seed": "1"}, "cannot change"),
        ({"training.optimizer": "adamw_8bit"}, "cannot change"),
        ({"training.batch_size": "0"}, "batch"),
        ({"trainig.epochs": "1"}, "training.epochs"),
    ],
)
def test_what_no_checkpoint_can_be_resumed_with_is_refused(
    workspace: Workspace, job: Job, launched: list[Job], changes: Mapping[str, str], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        resuming.resume(workspace, job, changes=changes)
    assert launched == [] and not list(job.path.glob("resume-*"))


def test_changed_data_must_be_accepted(workspace: Workspace, job: Job, launched: list[Job]) -> None:
    train = workspace.datasets / "tickets.jsonl"
    held_out = workspace.datasets / "tickets_heldout.jsonl"
    for path in (train, held_out):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    found = resuming.preview(workspace, job)
    told = differences(found)
    assert told["datasets/tickets.jsonl"][0] == "error"
    assert told["datasets/tickets_heldout.jsonl"][0] == "warning"
    assert [one.what for one in found.errors] == ["datasets/tickets.jsonl"]
    with pytest.raises(UserError, match="datasets/tickets.jsonl.*accept"):
        resuming.resume(workspace, job)
    assert launched == []
    assert resuming.resume(workspace, job, accept=True) == 2
    (note,) = checkpoints.resume_notes(job)
    assert (
        note["accept"] is True
        and note["data"][str(train)]
        == start.data_state(workspace, [str(train)])["data"][str(train)]
    )


def test_an_edit_of_the_journal_and_replaced_weights_are_seen(
    workspace: Workspace, job: Job
) -> None:
    from finetui.data.dataset import open_dataset

    with open_dataset(workspace.datasets / "tickets.jsonl", workspace) as rows:
        rows.drop([0])
    weights = workspace.root / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    told = differences(resuming.preview(workspace, job))
    assert told["datasets/tickets.jsonl"] == ("error", "unedited", "edited up to number 1")
    assert told["weights in model"][0] == "error"


def test_other_versions_are_said_with_what_they_mean(workspace: Workspace, job: Job) -> None:
    packages = package_versions()
    known = {name: version for name, version in packages.items() if name != "torch"}
    older = {**known, "transformers": "4.0.0", "msgspec": "0.1", "apex": "1"}
    save(workspace, job, recipe(workspace), 45, packages=older, python="3.9.1", device="H999")
    told = differences(resuming.preview(workspace, job))
    assert told["transformers"] == ("warning", "4.0.0", packages["transformers"])
    assert told["msgspec"][0] == told["Python"][0] == "note"
    assert told["device"][0] == "warning" and "apex" not in told


@pytest.mark.parametrize("status", ["failed", "stopped", "preempted"])
def test_a_run_that_ended_early_is_resumed_and_its_changes_add_up(
    workspace: Workspace, job: Job, launched: list[Job], status: str
) -> None:
    end(job, status)
    spec = (job.path / "spec.toml").read_bytes()
    changes = {"batch_size": "10", "evaluation.every": "9"}
    assert resuming.resume(workspace, job, changes=changes) == 2
    (job.path / "events-a2.jsonl").write_text("")
    assert resuming.resume(workspace, job, changes={"training.epochs": "2"}) == 3
    assert launched == [job, job]
    now = checkpoints.spec_of_attempt(job)["recipe"]
    assert (now["training"]["batch_size"], now["training"]["epochs"]) == (10, 2.0)
    second = checkpoints.spec_of_attempt(job, 2)["recipe"]
    assert (second["training"]["epochs"], second["evaluation"]["every"]) == (1.0, 9)
    assert (job.path / "spec.toml").read_bytes() == spec, "the spec is frozen"
    first, other = checkpoints.resume_notes(job)
    assert first["changes"] == {"training.batch_size": "10", "evaluation.every": "9"}
    assert other["attempt"] == 3 and other["who"]


def test_a_finished_run_has_nothing_left_until_its_length_is_raised(
    workspace: Workspace, job: Job, launched: list[Job]
) -> None:
    save(workspace, job, recipe(workspace), STEPS, position={"epoch": 0, "consumed": ROWS})
    end(job, "finished")
    found = resuming.preview(workspace, job)
    assert "all its 120 steps are made" in found.problem and found.left == 0
    with pytest.raises(UserError, match="training.epochs"):
        resuming.resume(workspace, job)
    changes = {"training.epochs": "2"}
    longer = resuming.preview(workspace, job, changes=changes)
    assert longer.left == 120 and longer.rates[0][1] > 1e-4, "the rate does not stay at its end"
    assert resuming.resume(workspace, job, changes=changes) == 2


def test_a_run_that_runs_or_was_never_started_is_no_case(
    workspace: Workspace, job: Job, launched: list[Job]
) -> None:
    from finetui.jobs import locks

    (job.path / "outcome.json").unlink()
    (job.path / "events-a1.jsonl").unlink()
    assert "never started" in resuming.preview(workspace, job).problem
    held = locks.WorkerLock(job.worker_lock, 1.0)
    try:
        found = resuming.preview(workspace, job)
        assert "it is running" in found.problem and "step 53" in found.problem
        with pytest.raises(UserError, match="cannot be resumed"):
            resuming.resume(workspace, job)
    finally:
        held.release()
    other = create(workspace.jobs, "prepare", "x", {"kind": "prepare"}, {})
    with pytest.raises(UserError, match="only training runs"):
        resuming.preview(workspace, other)


def test_a_start_that_fails_leaves_no_changes_behind(
    workspace: Workspace, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(job: Job, **_: Any) -> int:
        raise UserError("no.", job.id)

    monkeypatch.setattr(resuming, "launch", refuse)
    with pytest.raises(UserError):
        resuming.resume(workspace, job, changes={"training.epochs": "2"})
    assert checkpoints.resume_notes(job) == []


def test_the_command_says_it_all_and_starts_nothing_on_a_dry_run(
    workspace: Workspace, job: Job, launched: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["-w", str(workspace.root)]
    assert cli.run(["resume", "test", "--dry-run", "--set", "epochs=2", *where]) == 0
    told = capsys.readouterr().out
    assert "goes on from step 40, 200 of 240 left; 13 steps made after it are made again" in told
    assert "warning: training.epochs: 1 then, 2 now" in told and "at step 240" in told
    assert cli.run(["resume", "test", "--dry-run", "--json", *where]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["step"], value["left"], value["problem"]) == (40, 80, "")
    train = workspace.datasets / "tickets.jsonl"
    train.write_text(train.read_text() + "\n")
    assert cli.run(["resume", "test", "--dry-run", *where]) == 1
    assert "--yes" in capsys.readouterr().err
    assert cli.run(["resume", "test", "--detach", *where]) == 2 and launched == []
    assert cli.run(["resume", "test", "--detach", "--yes", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["attempt"] == 2 and launched == [job]
