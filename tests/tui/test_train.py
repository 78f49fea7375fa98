"""The Train screen shows a whole history, says NaN in words, and asks before it stops a run."""

import math

import pytest
from look import finished_job, until, words

from finetui.jobs import control, liveness
from finetui.jobs.devices import DeviceSample, Gpu
from finetui.jobs.liveness import JobState
from finetui.jobs.monitor import JobReader, Progress, Score, Snapshot
from finetui.tui.app import FinetuiApp
from finetui.tui.messages import OpenJob
from finetui.tui.screens import train_view
from finetui.tui.widgets.chart import BrailleChart
from finetui.tui.widgets.dialogs import Confirm
from finetui.tui.widgets.table import VirtualTable
from finetui.workspace import create

RUNNING = JobState("running", "at step 124")
GIB = 2**30


def snapshot(**figures) -> Snapshot:
    return Snapshot(job_id="j", state=figures.pop("state", RUNNING), **figures)


def test_a_running_job_says_how_far_it_is_and_how_long_it_takes():
    text = train_view.run_panel(
        snapshot(step=1240, total_steps=3000, eta_s=4320, elapsed_s=60, stage="training"), 40
    ).plain
    assert "● running  step 1,240 of 3,000" in text
    assert "41 %" in text
    assert "ETA ≈ 1h12" in text
    assert "training" in text


def test_a_stage_without_steps_shows_its_own_progress():
    found = snapshot(total_steps=100, progress=Progress(40, 150, "answering held-out, before"))
    text = train_view.run_panel(found, 40).plain
    assert "40 of 150" in text
    assert "answering held-out, before" in text


def test_a_loss_that_is_not_a_number_is_said():
    assert "NaN" in train_view.run_panel(snapshot(loss=math.nan), 40).plain


def test_a_failed_run_says_why_instead_of_what_it_does():
    state = JobState("failed", "killed by signal 9 (SIGKILL)")
    text = train_view.run_panel(snapshot(state=state, stage="training"), 60).plain
    assert "✗ failed" in text
    assert "killed by signal 9" in text
    assert "ETA" not in text


def test_scores_stand_before_and_after_side_by_side():
    scores = [
        Score("before", "held-out", 0.0, 0.0, 150, 9.0),
        Score("after", "held-out", 1.0, 0.97, 150, 9.0),
        Score("before", "suite", 0.97, 0.61, 117, 9.0),
    ]
    lines = train_view.scores_panel(scores).plain.splitlines()
    assert lines[1].split() == ["held-out", "form", "0", "%", "100", "%"]
    assert lines[2].split() == ["held-out", "right", "0", "%", "97", "%"]
    assert lines[4].split() == ["general", "right", "61", "%", "–"]


def test_a_machine_without_a_driver_says_so_and_shows_the_host():
    sample = DeviceSample((), None, "no NVIDIA driver", 6 * GIB, 24 * GIB, 40.0)
    text = train_view.devices_panel(sample, 40).plain
    assert text.startswith("no NVIDIA driver")
    assert "6.0 GiB of 24.0 GiB" in text


def test_a_gpu_that_tells_little_is_shown_with_dashes():
    gpu = Gpu(0, "H200", None, None, 61 * GIB, 140 * GIB, None, None, None)
    text = train_view.devices_panel(DeviceSample((gpu,), "570", "", None, None, None), 44).plain
    assert "GPU0 H200" in text
    assert "61.0 GiB of 140.0 GiB" in text
    assert "CPU   –" in text


@pytest.fixture
def workspace(tmp_path):
    return create(tmp_path / "work")


async def test_an_opened_job_shows_its_whole_history(workspace):
    job = finished_job(workspace)
    app = FinetuiApp(workspace, start="train", request=OpenJob(job.path))
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.snapshot)
        assert len(app.pane.query_one("#loss", BrailleChart).graph.curves["train"]) == 20
        assert "finished" in words(app, "#run")
        assert "100 %" in words(app, "#scores")
        events = app.pane.query_one("#events", VirtualTable)
        told = [events.source.row(i).cells[2] for i in range(events.row_count)]
        assert any("loss is not a number at step 10" in text for text in told)


async def test_nothing_is_read_again_when_nothing_has_changed(workspace):
    job = finished_job(workspace)
    reader = JobReader(job)
    assert reader.poll() is not None
    assert reader.poll() is None


async def test_the_log_is_shown_without_its_escape_sequences(workspace):
    job = finished_job(workspace)
    app = FinetuiApp(workspace, start="train", request=OpenJob(job.path))
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.snapshot)
        await pilot.press("L")
        await until(pilot, lambda: "last line" in words(app, "#log"))
        assert "\x1b" not in words(app, "#log")
        assert "[/b]" in words(app, "#log")


async def test_stopping_is_asked_for_once_and_then_requested(workspace, monkeypatch):
    job = finished_job(workspace)
    asked = []
    monkeypatch.setattr(control, "request", lambda job, verb: asked.append(verb) or f"{verb}: ok")
    app = FinetuiApp(workspace, start="train", request=OpenJob(job.path))
    async with app.run_test(size=(120, 36), notifications=True) as pilot:
        await until(pilot, lambda: app.pane and app.pane.snapshot)
        await pilot.press("s")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("n")
        await until(pilot, lambda: not isinstance(app.screen, Confirm))
        assert asked == []
        await pilot.press("s")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: asked == ["stop"])


async def test_escape_leads_to_the_list_and_enter_back_to_the_run(workspace):
    finished_job(workspace)
    app = FinetuiApp(workspace, start="train")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.rows)
        await pilot.press("enter")
        await until(pilot, lambda: app.pane.snapshot)
        assert app.pane.live
        await pilot.press("escape")
        await until(pilot, lambda: not app.pane.live)


async def test_a_run_that_goes_on_is_opened_by_itself(workspace, monkeypatch):
    finished_job(workspace)
    monkeypatch.setattr(liveness, "state", lambda *_: RUNNING)
    app = FinetuiApp(workspace, start="train")
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.live)


async def test_l_makes_the_loss_axis_logarithmic_and_back(workspace):
    job = finished_job(workspace)
    app = FinetuiApp(workspace, start="train", request=OpenJob(job.path))
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.snapshot)
        chart = app.pane.query_one("#loss", BrailleChart)
        await pilot.press("l")
        assert chart.logarithmic
        await pilot.press("l")
        assert not chart.logarithmic
