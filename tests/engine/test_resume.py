"""A run that was killed and goes on is the run that was never interrupted: bit for bit."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Any

import pytest
from tiny_jobs import chat, events, run_inside, write_rows

from finetui import cli, resuming
from finetui.engine import trainer
from finetui.jobs import checkpoints
from finetui.jobs.events import EventTail
from finetui.jobs.folder import Job
from finetui.jobs.launch import launch
from finetui.jobs.liveness import state
from finetui.jobs.monitor import JobReader
from finetui.jobs.worker import SupersededError
from finetui.recipe.schema import Recipe
from finetui.workspace import Workspace

Build = Callable[..., Recipe]
Make = Callable[[Recipe], Job]
Ask = Callable[..., None]
Kill = Callable[[Job, int], None]
QUIET = {"generate": 0, "every": 0, "samples": 0}
# What must be the same in every step event; times and memory may differ.
STEP = ("step", "loss", "lr", "grad_norm", "tokens", "trained_tokens", "epoch", "order", "rows",
        "figures", "total_steps")  # fmt: skip


@pytest.fixture
def kill_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kill]:
    """Run a job and end it as kill -9 does, behind the edge of a step: no word, no outcome."""
    real = trainer.JobTrainer.step_ended

    def run(job: Job, step: int) -> None:
        def killed(self: trainer.JobTrainer) -> Any:
            if self.state.global_step == step + 1:
                raise SupersededError("killed")
            return real(self)

        with monkeypatch.context() as patch:
            patch.setattr(trainer.JobTrainer, "step_ended", killed)
            with pytest.raises(SupersededError):
                run_inside(job)
        assert job.outcome() is None

    yield run


def timeline(job: Job, kind: str, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The events of a kind as they count: steps that were made again, as the last attempt did."""
    found: list[dict[str, Any]] = []
    for event in EventTail(job).read():
        if event["kind"] == "resume":
            kept = event["step"] if event["path"] else -1
            found = [one for one in found if one["step"] <= kept]
        if event["kind"] == kind:
            found.append({name: event.get(name) for name in names})
    return found


def assert_same_run(job: Job, unbroken: Job) -> None:
    steps = timeline(unbroken, "step", STEP)
    assert timeline(job, "step", STEP) == steps and steps
    names = ("step", "loss", "probe_loss", "figures")
    assert timeline(job, "eval", names) == timeline(unbroken, "eval", names)
    mine, theirs = job.outcome(), unbroken.outcome()
    assert mine is not None and theirs is not None and mine["status"] == theirs["status"]
    same = ("steps", "train_loss", "tokens", "eval_loss", "eval_loss_before", "best_step",
            "best_eval_loss", "before", "after")  # fmt: skip
    assert {name: mine["metrics"].get(name) for name in same} == {
        name: theirs["metrics"].get(name) for name in same
    }
    assert job.result is not None and unbroken.result is not None
    name = "adapter_model.safetensors" if job.result == job.adapter else "model.safetensors"
    assert (job.result / name).read_bytes() == (unbroken.result / name).read_bytes()


def pairs(workspace: Workspace) -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What is {n} plus one?"}],
            "chosen": [{"role": "assistant", "content": f"It is {n + 1}."}],
            "rejected": [{"role": "assistant", "content": f"No idea, {n}?"}],
        }
        for n in range(16)
    ]
    write_rows(workspace.datasets / "train.jsonl", rows[:13])
    write_rows(workspace.datasets / "held.jsonl", rows[13:])


# 16 rows: an epoch of unequal updates where the sizes do not divide it.
CASES: dict[str, dict[str, Any]] = {
    "dropout": {"method": {"dropout": 0.1}, "training": {"epochs": 3.0}},
    "full": {"method": {"kind": "full"},
             "training": {"batch_size": 3, "accumulation": 2, "epochs": 3.0}},
    "packing": {"data": {"packing": True}, "training": {"batch_size": 1, "epochs": 4.0}},
    "length": {"data": {"order": "length"}, "training": {"batch_size": 2, "epochs": 1.5},
               "logging": {"every": 3}},
    "dpo": {"method": {"objective": "dpo", "dropout": 0.05}, "logging": {"every": 2}},
    "kto": {"method": {"objective": "kto"}},
    "kl": {"training": {"kl_weight": 0.5}, "method": {"init": "pissa"}},
}  # fmt: skip
_SAMPLED = ("full", "packing", "length", "dpo", "kl")


@pytest.mark.parametrize(
    "case",
    [name if name in _SAMPLED else pytest.param(name, marks=pytest.mark.figures) for name in CASES],
)
def test_a_killed_run_that_goes_on_is_the_unbroken_one(
    case: str, recipe: Build, make_job: Make, workspace: Workspace, kill_after: Kill
) -> None:
    settings = {name: dict(values) for name, values in CASES[case].items()}
    if case in ("dpo", "kto"):
        pairs(workspace)
    if case == "kl":
        settings["data"] = {"general": str(workspace.datasets / "general.jsonl")}
    made = recipe(**settings, evaluation={"generate": 0, "every": 2, "samples": 1},
                  checkpoints={"every": 3})  # fmt: skip
    unbroken, job = make_job(made), make_job(made)
    assert run_inside(unbroken) == 0, unbroken.outcome()
    kill_after(job, 5)
    assert run_inside(job) == 0, job.outcome()
    assert [event["step"] for event in events(job, "resume")] == [3]
    assert_same_run(job, unbroken)


def test_what_was_asked_for_past_the_checkpoint_is_done_again_at_its_step(
    recipe: Build, make_job: Make, ask_at_step: Ask, kill_after: Kill
) -> None:
    made = recipe(
        training={"epochs": 3.0}, evaluation=QUIET, checkpoints={"every": 4}, data={"eval": ""}
    )
    unbroken, job = make_job(made), make_job(made)
    for one in (unbroken, job):
        ask_at_step(one, 3, ("set", {"learning_rate": 1e-3}), ("exclude", {"rows": [[0, 2]]}))
        ask_at_step(one, 6, ("set", {"end_step": 14, "save_every": 5}))
        ask_at_step(one, 7, ("exclude", {"rows": [[0, 5], [0, 6]]}))
    assert run_inside(unbroken) == 0
    kill_after(job, 8)
    assert run_inside(job) == 0
    assert_same_run(job, unbroken)
    again = [event["text"] for event in events(job, "message") if "as at step" in event["text"]]
    assert [text[:13] for text in again] == ["as at step 6 ", "as at step 7 "]
    assert len(events(job, "control")) == 4, "they are told once"


def test_a_new_request_counts_more_than_one_that_would_be_repeated(
    recipe: Build, make_job: Make, ask_at_step: Ask, kill_after: Kill
) -> None:
    constant = {"epochs": 3.0, "schedule": "constant", "warmup": 0.0, "learning_rate": 1e-3}
    job = make_job(
        recipe(training=constant, evaluation=QUIET, checkpoints={"every": 2}, data={"eval": ""})
    )
    ask_at_step(job, 8, ("set", {"learning_rate": 5e-4, "save_every": 1}))
    kill_after(job, 8)
    checkpoints.go_back_to(checkpoints.folder_of(job), 6)
    ask_at_step(job, 8, ("set", {"learning_rate": 2e-3}))
    assert run_inside(job) == 0
    rates = {one["step"]: one["lr"] for one in timeline(job, "step", ("step", "lr"))}
    assert rates[8] == 1e-3 and {rates[step] for step in range(9, 13)} == {2e-3}
    assert [step for step, _ in checkpoints.valid_checkpoints(job.path / "checkpoints")] == [11, 12]


def test_a_damaged_checkpoint_is_passed_over_and_rests_of_saves_are_removed(
    recipe: Build, make_job: Make, kill_after: Kill
) -> None:
    made = recipe(evaluation=QUIET, checkpoints={"every": 2})
    unbroken, job = make_job(made), make_job(made)
    assert run_inside(unbroken) == 0
    kill_after(job, 6)
    folder = checkpoints.folder_of(job)
    weights = folder / "step-6" / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-20] ^= 1
    weights.write_bytes(data)
    for name in (".partial", "step-7"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "adapter_model.safetensors").write_bytes(b"half")
    assert run_inside(job) == 0
    told = " | ".join(event["text"] for event in events(job, "warning"))
    assert "step 6 is passed over: adapter_model.safetensors is not what was saved" in told
    assert [event["step"] for event in events(job, "resume")] == [4]
    assert any("2 rests of a broken save" in event["text"] for event in events(job, "message"))
    assert_same_run(job, unbroken)
    snapshot = JobReader(job).poll()
    assert snapshot is not None and snapshot.attempt == 2
    losses = [one["loss"] for one in timeline(unbroken, "step", ("loss",))]
    curve = snapshot.curve("loss")
    assert [curve.value(at) for at in range(len(curve))] == losses, "the screens show one curve"


def test_without_a_checkpoint_a_run_begins_anew_and_says_so(
    recipe: Build, make_job: Make, kill_after: Kill
) -> None:
    made = recipe(evaluation={"every": 2, "generate": 0})
    unbroken, job = make_job(made), make_job(made)
    assert run_inside(unbroken) == 0
    kill_after(job, 5)
    assert (checkpoints.folder_of(job) / "best-4").is_dir()
    assert run_inside(job) == 0
    (event,) = events(job, "resume")
    assert event["step"] == 0 and "begun anew" in event["text"]
    assert_same_run(job, unbroken)


def test_scores_before_training_are_not_measured_again(
    recipe: Build, make_job: Make, kill_after: Kill
) -> None:
    made = recipe(checkpoints={"every": 2}, evaluation={"every": 2})
    unbroken, job = make_job(made), make_job(made)
    assert run_inside(unbroken) == 0
    kill_after(job, 5)
    assert run_inside(job) == 0
    assert [event["when"] for event in events(job, "score")] == ["before", "after"]
    assert [event["step"] for event in events(job, "eval")].count(0) == 1
    assert_same_run(job, unbroken)


def test_a_run_that_died_while_it_concluded_only_concludes(
    recipe: Build, make_job: Make, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(workspace.datasets / "held.jsonl", [chat("?", "purple candle") for _ in range(4)])
    settings = {
        "training": {"learning_rate": 0.05, "epochs": 4.0, "schedule": "constant", "warmup": 0.0},
        "evaluation": {"generate": 0, "every": 1, "early_stopping": 2, "samples": 0},
    }
    made = recipe(**settings)
    unbroken, job = make_job(made), make_job(made)
    assert run_inside(unbroken) == 0
    with monkeypatch.context() as patch:
        patch.setattr("finetui.engine.train.conclude", _die)
        with pytest.raises(SupersededError):
            run_inside(job)
    assert run_inside(job) == 0
    assert all(event["attempt"] == 1 for event in _of_attempts(job, "step")), "no step was made"
    mine, theirs = job.outcome(), unbroken.outcome()
    assert mine is not None and theirs is not None
    assert mine["metrics"]["best_step"] == theirs["metrics"]["best_step"]
    assert_same_run(job, unbroken)


def _die(*_: Any) -> None:
    raise SupersededError("killed")


def _of_attempts(job: Job, kind: str) -> list[dict[str, Any]]:
    return [event for event in EventTail(job).read() if event["kind"] == kind]


def test_other_rows_are_refused_unless_somebody_accepted_them(
    recipe: Build, make_job: Make, workspace: Workspace, kill_after: Kill
) -> None:
    job = make_job(recipe(evaluation=QUIET, checkpoints={"every": 2}))
    kill_after(job, 5)
    rows = [chat(f"What is {n} plus two?", f"It is {n + 2}.") for n in range(12)]
    write_rows(workspace.datasets / "train.jsonl", rows)
    assert run_inside(job) == 1
    outcome = job.outcome()
    assert outcome is not None and "not those of step 4" in outcome["sentence"]
    assert "finetui resume" in outcome["sentence"]
    note = {"attempt": 3, "t": 0.0, "changes": {}, "recipe": {}, "accept": True}
    job.write_json("resume-a3.json", note)
    assert run_inside(job) == 0, job.outcome()
    assert any("that was accepted" in event["text"] for event in events(job, "warning"))
    steps = [event["step"] for event in _of_attempts(job, "step") if event["attempt"] == 3]
    assert steps == list(range(5, 8)), "3 updates an epoch: one epoch of 3 behind step 4"


def test_batch_and_length_may_change_and_every_row_still_comes_once_an_epoch(
    recipe: Build, make_job: Make, kill_after: Kill
) -> None:
    made = recipe(training={"batch_size": 2, "epochs": 1.0}, evaluation=QUIET,
                  checkpoints={"every": 3}, data={"eval": ""})  # fmt: skip
    job = make_job(made)
    kill_after(job, 4)
    changed = {"training": {"batch_size": 3, "accumulation": 2, "epochs": 2.0}}
    note = {"attempt": 2, "t": 0.0, "changes": {"training.epochs": "2"}, "recipe": changed}
    job.write_json("resume-a2.json", note)
    assert run_inside(job) == 0, job.outcome()
    found = timeline(job, "step", ("step", "rows", "lr", "epoch"))
    # 10 rows of the first epoch are left: 6 and 4; then 6, 6 and 4.
    assert [len(one["rows"]) for one in found] == [2, 2, 2, 6, 4, 6, 6, 4]
    first = [tuple(row) for one in found[:5] for row in one["rows"]]
    assert sorted(first) == [(0, line) for line in range(1, 17)]
    assert found[4]["epoch"] == 1.0 and found[-1]["epoch"] == 2.0
    assert found[-1]["lr"] < found[2]["lr"] / 4, "the rate settles at the new end"


# -- the figures ----------------------------------------------------------------------------------


def resumed_at(step: int, every: int, unbroken: Job, job: Job, kill_after: Kill) -> None:
    kill_after(job, step)
    assert run_inside(job) == 0
    assert [event["step"] for event in events(job, "resume")] == [step // every * every]
    assert_same_run(job, unbroken)


def _long(recipe: Build) -> Recipe:
    return recipe(
        training={"epochs": 5.0, "batch_size": 3, "accumulation": 2},
        method={"dropout": 0.1},
        evaluation={"generate": 0, "every": 5, "samples": 0},
        checkpoints={"every": 1},
        logging={"every": 2},
    )


@pytest.mark.figures
def test_resume_at_20_random_steps(recipe: Build, make_job: Make, kill_after: Kill) -> None:
    made = _long(recipe)
    unbroken = make_job(made)
    assert run_inside(unbroken) == 0
    steps = [Random(6).randrange(1, 15) for _ in range(20)]
    for step in steps:
        resumed_at(step, 1, unbroken, make_job(made), kill_after)
    print(f"resumed at {len(steps)} random steps: losses, order and adapter equal in all")


def test_a_run_that_is_killed_again_and_again_comes_to_the_same_end(
    recipe: Build, make_job: Make, kill_after: Kill
) -> None:
    made = _long(recipe)
    unbroken, job = make_job(made), make_job(made)
    assert run_inside(unbroken) == 0
    for step in (3, 11):
        kill_after(job, step)
    assert run_inside(job) == 0
    assert [event["step"] for event in events(job, "resume")] == [3, 11]
    assert_same_run(job, unbroken)


def kill_worker(job: Job) -> None:
    """kill -9 of the worker of a run that another process supervises, and wait for its end."""
    proc = job.proc()
    assert proc is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(proc.worker.pid, signal.SIGKILL)
    wait_for(lambda: state(job).ended)


def wait_for(condition: Callable[[], bool], limit: float = 240.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


@pytest.mark.slow
def test_the_command_goes_on_with_a_killed_worker(
    recipe: Build, make_job: Make, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    made = recipe(
        training={"epochs": 20.0}, evaluation=QUIET, data={"eval": ""}, checkpoints={"every": 10}
    )
    job = make_job(made)
    launch(job)
    wait_for(lambda: checkpoints.newest(job) is not None)
    kill_worker(job)
    assert state(job).name in ("failed", "interrupted")
    where = ["-w", str(workspace.root)]
    assert cli.run(["resume", "test", *where]) == 0
    told = capsys.readouterr()
    assert "goes on from the checkpoint of step" in told.out and "attempt 2" in told.err
    unbroken = make_job(made)
    assert run_inside(unbroken) == 0
    assert_same_run(job, unbroken)
    assert cli.run(["resume", job.id, *where]) == 2
    assert "all its 80 steps are made" in capsys.readouterr().err


def _is_past(job: Job, step: int) -> bool:
    found = checkpoints.newest(job)
    return found is not None and found.step > step


@pytest.mark.figures
def test_kill_9_of_the_real_worker_20_times(
    recipe: Build, make_job: Make, workspace: Workspace
) -> None:
    made = recipe(
        training={"epochs": 150.0, "batch_size": 8}, method={"dropout": 0.1}, data={"eval": ""},
        evaluation=QUIET, checkpoints={"every": 1}, logging={"every": 50},
    )  # fmt: skip
    job, random, told = make_job(made), Random(20), 0
    launch(job)
    for _ in range(20):
        wait_for(partial(_is_past, job, told + 3))
        time.sleep(random.uniform(0.0, 0.1))
        kill_worker(job)
        found = checkpoints.newest(job)
        assert found is not None and found.step > told and checkpoints.damage(found) == ""
        told = found.step
        resuming.resume(workspace, job)
    wait_for(lambda: state(job).ended, limit=900)
    unbroken = make_job(made)
    assert run_inside(unbroken) == 0
    assert_same_run(job, unbroken)
    print("kill -9 of a real worker that saves every step, 20 times: resumed 20, end equal")
