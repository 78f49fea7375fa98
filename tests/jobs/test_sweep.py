"""Sweeps: runs start one after another, without a screen, and are compared in one table."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from job_workshop import Workshop, until

from finetui.errors import UserError
from finetui.jobs import control, locks, sweep_runner
from finetui.jobs.folder import Job
from finetui.jobs.launch import launch
from finetui.jobs.liveness import state
from finetui.jobs.sweep import (
    Sweep,
    create_sweep,
    find_sweep,
    list_sweeps,
    rows,
    run_sweep,
    stop_sweep,
    sweep_state,
)

LOOK_S = 0.01
Program = Callable[[Job], list[str]]


def make(workshop: Workshop, names: str, name: str = "rates") -> Sweep:
    """A sweep of as many queued jobs as there are names."""
    trials = [
        (each, (("training.learning_rate", each),), workshop.job(each)) for each in names.split()
    ]
    return create_sweep(workshop.jobs_dir.parent / "sweeps", name, trials)


def runner(workshop: Workshop, sweep: Sweep, program: str, *arguments: object) -> threading.Thread:
    """The runner in a thread of this process, its jobs being a program of job_programs.py."""

    def start(job: Job) -> None:
        launch(job, workshop.command(job, program, *arguments))

    thread = threading.Thread(target=sweep_runner.run, args=(sweep, LOOK_S, start), daemon=True)
    thread.start()
    return thread


def states(sweep: Sweep) -> list[str]:
    return [trial.state().name for trial in sweep.trials()]


def test_runs_go_one_after_another_to_the_end(workshop: Workshop) -> None:
    sweep = make(workshop, "a b c")
    assert sweep_state(sweep).name == "queued"
    runner(workshop, sweep, "steps", 2, 0).join(60)
    assert states(sweep) == ["finished"] * 3
    found = [trial.job.outcome() for trial in sweep.trials()]
    ends = [outcome["t"] for outcome in found if outcome]
    starts = [proc.t for trial in sweep.trials() if (proc := trial.job.proc())]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
    assert sweep_state(sweep).sentence == "3 of 3 runs ended"


def test_a_run_that_fails_does_not_stop_the_others(workshop: Workshop) -> None:
    sweep = make(workshop, "a b")
    runner(workshop, sweep, "failing").join(60)
    assert states(sweep) == ["failed", "failed"]
    assert sweep_state(sweep).sentence == "2 of 2 runs ended, 2 of them failed"


def test_a_stop_ends_after_the_going_run_and_go_on_takes_up_the_rest(workshop: Workshop) -> None:
    sweep = make(workshop, "a b c")
    going = runner(workshop, sweep, "steps", 10_000, 0.01)
    first = sweep.trials()[0].job
    until(lambda: state(first).name == "running")
    assert sweep_state(sweep).sentence == "0 of 3 runs ended; now a"
    assert stop_sweep(sweep) == f"{sweep.id} ends after {first.id}"
    assert state(first).alive  # not stopped itself
    control.stop(first)
    going.join(60)
    assert states(sweep) == ["stopped", "queued", "queued"]
    assert sweep_state(sweep).name == "stopped"
    sweep.stop_file.unlink()
    runner(workshop, sweep, "steps", 1, 0).join(60)
    assert states(sweep) == ["stopped", "finished", "finished"]
    with pytest.raises(UserError, match="nothing to stop"):
        stop_sweep(sweep)


def test_stop_now_saves_and_stops_the_going_run_too(workshop: Workshop) -> None:
    sweep = make(workshop, "a b")
    going = runner(workshop, sweep, "steps", 10_000, 0.01)
    until(lambda: state(sweep.trials()[0].job).name == "running")
    assert "save and stop" in stop_sweep(sweep, now=True)
    going.join(60)
    assert states(sweep) == ["stopped", "queued"]


def test_two_sweeps_of_a_workspace_take_turns(workshop: Workshop) -> None:
    first, second = make(workshop, "a", "one"), make(workshop, "b", "two")
    one = runner(workshop, first, "steps", 10_000, 0.01)
    until(lambda: state(first.trials()[0].job).alive)
    two = runner(workshop, second, "steps", 1, 0)
    until(lambda: locks.is_held(second.lock))
    assert states(second) == ["queued"]
    control.stop(first.trials()[0].job)
    one.join(60)
    two.join(60)
    assert states(first) + states(second) == ["stopped", "finished"]


def test_a_second_runner_leaves_the_sweep_alone(workshop: Workshop) -> None:
    sweep = make(workshop, "a")
    held = locks.hold(sweep.lock)
    assert held is not None
    try:
        assert sweep_runner.run(sweep, LOOK_S) == sweep_runner.BUSY
        with pytest.raises(UserError, match="running already"):
            run_sweep(sweep)
    finally:
        os.close(held)
    assert states(sweep) == ["queued"]


def test_the_detached_runner_has_a_session_of_its_own_and_outlives_a_bad_run(
    workshop: Workshop,
) -> None:
    sweep = make(workshop, "a b")
    for trial in sweep.trials():
        trial.job.write_json("outcome.json", {"status": "finished", "attempt": 1, "t": 1.0})
    with pytest.raises(UserError, match="every run of this sweep has ended"):
        run_sweep(sweep)
    gone = sweep.trials()[1].job
    (gone.path / "outcome.json").unlink()
    (gone.path / "spec.toml").unlink()  # cannot be launched
    run_sweep(sweep)
    until(lambda: "all runs have ended" in sweep.log.read_text())
    assert "there is no such job" in sweep.log.read_text()
    until(lambda: not locks.is_held(sweep.lock))
    assert sweep_state(sweep).name == "interrupted"
    assert "1 of 2 runs ended" in sweep_state(sweep).sentence


def test_the_table_compares_what_the_runs_said(workshop: Workshop) -> None:
    sweep = make(workshop, "a b c d")
    said = [
        {"eval_loss": 0.9, "best_eval_loss": 0.5, "steps": 10, "seconds": 3.5, "train_loss": 0.4,
         "before": {"accuracy": 0.1}, "after": {"accuracy": 0.8}, "peak_bytes": 1024,
         "suite_before": {"accuracy": 0.9}, "suite_after": {"accuracy": 0.7}},
        {"eval_loss": 0.4, "steps": "ten"},
        {},
    ]  # fmt: skip
    for trial, metrics in zip(sweep.trials(), said, strict=False):
        record = {"status": "finished", "attempt": 1, "t": 1.0, "metrics": metrics}
        trial.job.write_json("outcome.json", record)
    first, second, third, fourth = rows(sweep)
    assert (first.best_eval, first.accuracy_before, first.accuracy) == (0.5, 0.1, 0.8)
    assert first.forgotten == pytest.approx(0.2)
    assert (first.step, first.peak_bytes, first.seconds) == (10, 1024, 3.5)
    assert second.best and not first.best and second.best_eval == 0.4 and second.step is None
    assert third.best_eval is None and third.state.name == "finished"
    assert fourth.state.name == "queued" and fourth.changes == (("training.learning_rate", "d"),)


def test_a_going_run_shows_its_step_in_the_table(workshop: Workshop) -> None:
    sweep = make(workshop, "a")
    going = runner(workshop, sweep, "steps", 10_000, 0.01)
    until(lambda: (rows(sweep)[0].step or 0) >= 2)
    assert rows(sweep)[0].train_loss is not None
    stop_sweep(sweep, now=True)
    going.join(60)


def test_a_run_whose_folder_is_gone_is_missing_and_holds_nothing_up(workshop: Workshop) -> None:
    sweep = make(workshop, "a b")
    gone = sweep.trials()[0].job
    gone.path.rename(gone.path.with_name("elsewhere"))
    runner(workshop, sweep, "steps", 1, 0).join(60)
    assert states(sweep) == ["missing", "finished"]
    assert rows(sweep)[0].best_eval is None


def test_a_workspace_that_was_moved_keeps_its_sweeps(workshop: Workshop, tmp_path: Path) -> None:
    sweep = make(workshop, "a")
    job, moved = sweep.trials()[0].job, tmp_path / "moved"
    moved.mkdir()
    workshop.jobs_dir.rename(moved / "jobs")
    sweep.path.parent.rename(moved / "sweeps")
    [found] = list_sweeps(moved / "sweeps")
    assert found.trials()[0].job.path == moved / "jobs" / job.id


def test_sweeps_are_listed_newest_first_and_found_by_a_part(workshop: Workshop) -> None:
    one, two = make(workshop, "a", "Rate & rank!"), make(workshop, "b", "other")
    root = one.path.parent
    assert one.id.endswith("-rate-rank") and one.name == "Rate & rank!"
    assert list_sweeps(root) == [two, one] and find_sweep(root, "last") == two
    assert find_sweep(root, "rate-rank") == one
    with pytest.raises(UserError, match="no sweep is called"):
        find_sweep(root, "nothing")
    with pytest.raises(UserError, match="fits 2 sweeps"):
        find_sweep(root, "-")
    assert list_sweeps(root / "no") == []
    with pytest.raises(UserError, match="needs a run"):
        create_sweep(root, "empty", [])


def test_a_broken_record_is_an_error_that_names_the_file(workshop: Workshop) -> None:
    sweep = make(workshop, "a")
    (sweep.path / "sweep.json").write_text('{"trials": 3}')
    with pytest.raises(UserError, match=r"cannot be read.*"):
        sweep.trials()
