"""Going on with a run shows first what differs; a waiting run says for what; all ranks show."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from look import finished_job, until, words

from finetui.errors import UserError
from finetui.jobs import control, liveness, stack
from finetui.jobs.devices import DeviceSample, Gpu, GpuProcess
from finetui.jobs.events import EventWriter
from finetui.jobs.folder import Job, create
from finetui.jobs.leases import Lease, Overview, Ticket
from finetui.jobs.liveness import JobState
from finetui.jobs.monitor import Checkpoint, JobReader, Rank, Snapshot
from finetui.resuming import Difference, ResumePreview
from finetui.settings import Cluster, Settings
from finetui.tui.app import FinetuiApp
from finetui.tui.messages import OpenJob
from finetui.tui.screens import recipe_view, resume, train_queue, train_view
from finetui.tui.screens.resume import ResumePage
from finetui.tui.screens.runs import RunsPage
from finetui.tui.screens.train_queue import QueuePage
from finetui.tui.widgets.chart import BrailleChart
from finetui.tui.widgets.dialogs import Confirm, Reading, TextPrompt
from finetui.tui.widgets.table import VirtualTable
from finetui.workspace import Workspace
from finetui.workspace import create as create_workspace

GIB = 2**30
HOSTILE = "\x1b]52;c;aGk=\x07[/b]"


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return create_workspace(tmp_path / "work")


def ended(workspace: Workspace, status: str = "failed", sentence: str = "out of memory") -> Job:
    job = finished_job(workspace)
    job.write_json(
        "outcome.json", {"status": status, "attempt": 1, "t": 1.7e9, "sentence": sentence}
    )
    return job


def previewed(job: Job, **known) -> ResumePreview:
    plain = ResumePreview(
        job.id, "failed", step=12, path=job.path / "checkpoints" / "step-12", t=1.7e9, total=20,
        left=8, lost=3, rates=tuple((step, 1e-3 * (20 - step)) for step in range(12, 20)),
    )  # fmt: skip
    return replace(plain, **known)


class Resuming:
    """Stands in for the real thing, and remembers what was asked of it."""

    def __init__(self, monkeypatch, preview: ResumePreview) -> None:
        self.preview, self.asked = preview, []
        monkeypatch.setattr(resume, "preview", self._preview)
        monkeypatch.setattr(resume, "resume", self._resume)

    def _preview(self, workspace, job, *, changes):
        if "model.path" in changes:
            raise UserError("another model is another run.", "model.path")
        self.changes = dict(changes)
        return self.preview

    def _resume(self, workspace, job, **asked):
        self.asked.append(asked)
        return 2


async def opened(pilot, app, key="r"):
    await until(pilot, lambda: app.pane and app.pane.snapshot)
    await pilot.press(key)
    await until(pilot, lambda: isinstance(app.screen, ResumePage) and app.screen.found)


@pytest.mark.parametrize("size", [(80, 24), (120, 36)])
async def test_what_differs_and_the_rate_that_is_left_show_before_anything_starts(
    workspace, monkeypatch, size
):
    job = ended(workspace)
    differences = (Difference("batch", "8", "4", "warning"),
                   Difference(f"data {HOSTILE}", "a1", "b2", "note"))  # fmt: skip
    asked = Resuming(monkeypatch, previewed(job, differences=differences))
    app = FinetuiApp(workspace, start="train", request=OpenJob(job.path))
    async with app.run_test(size=size) as pilot:
        await opened(pilot, app)
        page = app.screen
        text = page.query_one("#facts").text.plain
        assert "after step 12 of 20" in text and "8 steps, 3 steps of them made again" in text
        assert page.query_one("#differences", VirtualTable).source.row(0).cells[1:] == (
            *("batch", "8", "4"),
        )
        assert len(page.query_one("#rates", BrailleChart).graph.curves["rate"]) == 8
        assert asked.asked == []
        await pilot.press("y")
        await until(pilot, lambda: asked.asked)
        assert asked.asked == [{"changes": {}, "accept": False, "takeover": False}]
        await until(pilot, lambda: not isinstance(app.screen, ResumePage))
        assert app.pane.live


async def test_a_grave_difference_is_accepted_by_name_or_nothing_starts(workspace, monkeypatch):
    job = ended(workspace)
    grave = (Difference("data", "datasets/a.jsonl 1f0c", "changed", "error"),)
    asked = Resuming(monkeypatch, previewed(job, differences=grave))
    app = FinetuiApp(workspace, start="train", request=OpenJob(job.path))
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(pilot, app)
        await pilot.press("y")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("n")
        await until(pilot, lambda: isinstance(app.screen, ResumePage))
        assert asked.asked == []
        await pilot.press("y", "y")
        await until(pilot, lambda: asked.asked)
        assert asked.asked[0]["accept"] is True


async def test_a_problem_is_said_and_nothing_starts(workspace, monkeypatch):
    job = ended(workspace)
    asked = Resuming(monkeypatch, previewed(job, problem="The base model is not there any more."))
    app = FinetuiApp(workspace, start="train", request=OpenJob(job.path))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await opened(pilot, app)
        assert "not there any more" in app.screen.query_one("#facts").text.plain
        await pilot.press("y")
        await pilot.pause()
        assert asked.asked == [] and isinstance(app.screen, ResumePage)


async def test_fields_are_changed_for_the_rest_and_a_wrong_one_changes_nothing(
    workspace, monkeypatch
):
    job = ended(workspace)
    asked = Resuming(monkeypatch, previewed(job))
    app = FinetuiApp(workspace, start="train", request=OpenJob(job.path))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await opened(pilot, app)
        page = app.screen
        for typed, kept in (("training.epochs=3", {"training.epochs": "3"}),
                            ("model.path=other", {"training.epochs": "3"})):  # fmt: skip
            await pilot.press("c")
            await until(pilot, lambda: isinstance(app.screen, TextPrompt))
            app.screen.query_one("Input").value = typed
            await pilot.press("enter")
            await until(pilot, lambda: app.screen is page)
            await until(pilot, lambda wanted=kept: page.changes == wanted)
        assert any("another model" in note.message for note in app._notifications)
        await pilot.press("y")
        await until(pilot, lambda: asked.asked)
        assert asked.asked[0]["changes"] == {"training.epochs": "3"}


async def test_a_run_whose_state_nobody_knows_is_only_taken_over_on_a_persons_word(
    workspace, monkeypatch
):
    job = ended(workspace)
    asked = Resuming(monkeypatch, previewed(job, state="unknown", problem="nobody knows"))
    app = FinetuiApp(workspace, start="train", request=OpenJob(job.path))
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(pilot, app)
        await pilot.press("y")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        assert asked.asked == []
        await pilot.press("y")
        await until(pilot, lambda: asked.asked)
        assert asked.asked[0]["takeover"] is True


async def test_a_run_without_a_checkpoint_begins_again_only_on_a_persons_word(
    workspace, monkeypatch
):
    job = ended(workspace)
    asked = Resuming(monkeypatch, ResumePreview(job.id, "failed", lost=20))
    app = FinetuiApp(workspace, start="train", request=OpenJob(job.path))
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(pilot, app)
        assert "begins again at step 0" in app.screen.query_one("#facts").text.plain
        await pilot.press("y")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: asked.asked)


async def test_the_runs_page_resumes_too_and_then_shows_the_run(workspace, monkeypatch):
    job = ended(workspace, "stopped", "stopped on request, saved")
    asked = Resuming(monkeypatch, previewed(job))
    app = FinetuiApp(workspace, start="train")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.rows)
        await pilot.press("R")
        await until(pilot, lambda: isinstance(app.screen, RunsPage) and app.screen.shown)
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, ResumePage) and app.screen.found)
        await pilot.press("y")
        await until(pilot, lambda: asked.asked and app.pane.live)


async def test_a_run_that_goes_on_is_not_resumed(workspace, monkeypatch):
    job = ended(workspace)
    monkeypatch.setattr(liveness, "state", lambda *_: JobState("running", "at step 3"))
    app = FinetuiApp(workspace, start="train", request=OpenJob(job.path))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, lambda: app.pane and app.pane.rows)
        await pilot.press("r")
        await until(pilot, lambda: any("has not ended" in n.message for n in app._notifications))


@pytest.mark.parametrize("name", ["failed", "interrupted", "preempted", "stopped"])
def test_a_run_that_ended_early_says_how_it_goes_on(name):
    saved = (Checkpoint(1.0, 8), Checkpoint(2.0, 16))
    found = Snapshot("j", JobState(name, "why"), step=20, total_steps=40, checkpoints=saved)
    assert "r resume after step 16" in train_view.run_panel(found, 40).plain
    none = replace(found, checkpoints=())
    assert "no checkpoint" in train_view.run_panel(none, 40, brief=True).plain
    assert "resume" not in train_view.run_panel(
        replace(found, state=JobState("finished", "done")), 40
    ).plain  # fmt: skip


# -- the queue ------------------------------------------------------------------------------------


def gpu(index: int, **known) -> Gpu:
    return Gpu(index, f"H200 {index}", f"GPU-{index:08}", 10.0, 61 * GIB, 140 * GIB, 40.0, 300.0,
               700.0, **known)  # fmt: skip


def ticket(**known) -> Ticket:
    plain = Ticket(1, "ann", "20261122-1-train-hers", 41, 42, 1, (), 100.0)
    return replace(plain, **known)


def test_leases_name_their_holder_and_processes_that_asked_nobody():
    stranger = GpuProcess(77, memory=60 * GIB, user="bob", name="python")
    holder = ticket(holds=("GPU-0",))
    rows = [
        train_queue.lease_row(Lease(gpu(0), True, holder), 160.0),
        train_queue.lease_row(Lease(gpu(1), False, None, (), (stranger,)), 160.0),
        train_queue.lease_row(Lease(gpu(2), False, None), 160.0),
    ]
    assert rows[0].cells[2] == "train hers of ann"
    assert "python 77 of bob" in rows[1].cells[2] and rows[1].tone == "warning"
    assert rows[2].cells[2] == "free"
    waiting = train_queue.waiter_row(1, ticket(wants=2, silent_s=90.0), 160.0)
    assert waiting.cells[1:4] == ("train hers", "ann", "2")
    assert "silent" in waiting.cells[5]


async def test_the_queue_page_shows_all_users_and_opens_ones_own_job(workspace, monkeypatch):
    job = ended(workspace)
    found = Overview((Lease(gpu(0), True, ticket()),), (ticket(job=job.id), ticket(user="bob")))
    monkeypatch.setattr(train_queue, "overview", lambda sample: found)
    app = FinetuiApp(workspace, start="train")
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, lambda: app.pane and app.pane.rows)
        await pilot.press("Q")
        await until(pilot, lambda: isinstance(app.screen, QueuePage) and app.screen.found)
        await pilot.press("enter")
        await until(pilot, lambda: any("not in this" in n.message for n in app._notifications))
        await pilot.press("tab", "enter")
        await until(pilot, lambda: app.pane.live and app.pane.job == job)


async def test_a_waiting_run_is_started_anyway_or_cancelled_on_a_persons_word(
    workspace, monkeypatch
):
    job = ended(workspace)
    sentence = "waits for 1 GPU; GPU 0: 20261122-1-train-hers of ann"
    waiting = JobState("queued", sentence, waits=True)
    monkeypatch.setattr(liveness, "state", lambda *_: waiting)
    monkeypatch.setattr("finetui.jobs.monitor.state", lambda *_: waiting)
    asked = []
    monkeypatch.setattr(control, "request", lambda job, verb: asked.append(verb) or "asked")
    app = FinetuiApp(workspace, start="train", request=OpenJob(job.path))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.snapshot)
        text = words(app, "#run")
        assert "waits for 1 GPU" in text and "w start anyway" in text
        for key, verb in (("w", "share"), ("s", "stop")):
            await pilot.press(key)
            await until(pilot, lambda: isinstance(app.screen, Confirm))
            assert verb not in asked
            await pilot.press("y")
            await until(pilot, lambda wanted=verb: wanted in asked)
            await until(pilot, lambda: not isinstance(app.screen, Confirm))


def test_a_job_in_slurms_queue_can_be_cancelled_but_not_started_anyway():
    state = JobState("requeued", "preempted; Slurm job 12 waits: Priority, 3 before it", waits=True)
    text = train_view.run_panel(Snapshot("j", state), 40).plain
    assert "Slurm job 12 waits" in text and "s cancel" in text and "start anyway" not in text


# -- hang, several GPUs, clusters ------------------------------------------------------------------


async def test_t_shows_where_a_stalled_run_stands_as_plain_text(workspace, monkeypatch):
    job = ended(workspace)
    monkeypatch.setattr(stack, "ask", lambda job: f"rank 0, process 9\n  File train.py {HOSTILE}")
    app = FinetuiApp(workspace, start="train", request=OpenJob(job.path))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.snapshot)
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, Reading))
        shown = str(app.screen.query_one("#about Static").content)
        assert "rank 0, process 9" in shown and "\x1b" not in shown
    frames = (
        'rank 0\n  File "/a/lib/python3.11/site-packages/torch/nn/x.py", line 7 in forward\n    y'
    )
    assert train_view.stack_text(frames).plain == "rank 0\ntorch/nn/x.py:7 forward\n    y"
    stalled = Snapshot("j", JobState("stalled", "no sign of life for 5 min"))
    assert "t where it stands" in train_view.run_panel(stalled, 40, brief=True).plain


def test_every_rank_is_shown_with_its_gpu_also_those_of_other_machines(workspace):
    job = create(workspace.jobs, "train", "wide", {"kind": "train"}, {})
    with_ranks = [
        {"rank": 0, "host": "node1.site", "gpu": "GPU-00000003", "memory_bytes": 61 * GIB,
         "memory_peak_bytes": 70 * GIB},
        {"rank": 1, "host": "node2.site", "gpu": 1, "memory_bytes": 64 * GIB,
         "memory_peak_bytes": None},
    ]  # fmt: skip
    events = EventWriter(job, 1)
    events.write("step", step=1, loss=1.0, ranks=with_ranks)
    events.write("step", step=2, loss=1.0, ranks="nonsense")
    events.close()
    found = JobReader(job).poll()
    assert found is not None
    assert found.ranks == (Rank(0, "node1.site", "GPU-00000003", 61 * GIB, 70 * GIB),
                           Rank(1, "node2.site", "1", 64 * GIB, None))  # fmt: skip
    sample = DeviceSample((gpu(3),), "570", "", None, None, None)
    text = train_view.devices_panel(sample, 40, None, found.ranks).plain
    assert "node1:3  61.0  70.0" in text and "node2:1  64.0     –" in text
    assert "2 on 2 hosts · 61.0 GiB to 64.0 GiB" in train_view.run_panel(found, 40, True).plain
    alone = replace(found, ranks=found.ranks[:1])
    assert "rank" not in train_view.devices_panel(sample, 40, None, alone.ranks).plain
    many = [replace(found.ranks[0], rank=number) for number in range(64)]
    assert "and 56 more ranks: m" in train_view.devices_panel(sample, 40, None, many).plain


def test_a_cluster_is_named_with_what_is_asked_of_it():
    cluster = Cluster(partition="gpu", gpus=4, nodes=2, time="4:00:00")
    words = recipe_view.place_words("slurm:big", cluster)
    assert words == ("slurm:big: partition gpu, up to 4 GPUs, on up to 2 machines, "
                     "at most 4:00:00")  # fmt: skip
    assert "own defaults" in recipe_view.place_words("slurm", None)


async def test_the_form_asks_where_only_when_there_is_a_choice(workspace, monkeypatch):
    from finetui.tui.screens.recipe_launch import LaunchPane

    for clusters, count in (({}, 1), ({"big": Cluster()}, 2)):
        monkeypatch.setattr("finetui.tui.screens.recipe_launch.shutil.which", lambda _: None)
        pane = SimpleNamespace(shell=SimpleNamespace(settings=Settings(cluster=clusters)))
        assert len(LaunchPane._places(pane)) == count
