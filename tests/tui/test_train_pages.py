"""From a step to its rows, samples over time, the machine, requests to a run, and its watch."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import pytest
from desk import chat, write_rows
from look import HOSTILE, until
from textual.pilot import Pilot
from textual.screen import Screen

from finetui.data.dataset import open_dataset
from finetui.jobs.control import ControlInbox
from finetui.jobs.devices import DeviceSample, Gpu, GpuProcess
from finetui.jobs.folder import Job, create
from finetui.jobs.monitor import JobReader
from finetui.jobs.rowlosses import RowLossWriter
from finetui.jobs.snapshot import Sample
from finetui.jobs.worker import WorkerSession
from finetui.tui.app import FinetuiApp
from finetui.tui.messages import OpenJob
from finetui.tui.screens import train_batch, train_charts, train_control
from finetui.tui.screens.train import TrainPane
from finetui.tui.screens.train_charts import ChartsPage
from finetui.tui.screens.train_devices import DeviceCurves
from finetui.tui.screens.train_machine import MachinePage, machine_text
from finetui.tui.screens.train_rows import RowsPage
from finetui.tui.screens.train_samples import SamplesPage
from finetui.tui.screens.train_watch import Polled, Watch
from finetui.tui.widgets.chart import BrailleChart
from finetui.tui.widgets.dialogs import Choose, Confirm, TextPrompt
from finetui.tui.widgets.textpanel import TextPanel
from finetui.workspace import Workspace

GIB = 2**30


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def data(workspace: Workspace) -> Path:
    """Four lines, one of them blank, one that tries to reach the terminal."""
    path = workspace.datasets / "train.jsonl"
    write_rows(path, [chat("one", "1"), "", chat(f"two {HOSTILE}", "bad"), chat("three", "3")])
    return path


@pytest.fixture
def run(workspace: Workspace, data: Path) -> Any:
    """A run at work: a worker session of this process, three steps, a spike at step 3."""
    recipe = {"training": {"learning_rate": 2e-4}, "evaluation": {"every": 50}}
    job = create(workspace.jobs, "train", "live", {"kind": "train", "recipe": recipe}, {})
    with WorkerSession(job) as session:
        write = session.events.write
        write("data", files=[str(data)], rows=3, tokens=300, trained_tokens=100)
        write("start", total_steps=90, parameters=10, trainable=1, device="CPU")
        losses = RowLossWriter(job, 1)
        for step, loss in ((1, 1.0), (2, 0.9), (3, 7.5)):
            write("step", step=step, loss=loss, lr=1e-4, grad_norm=1.0, tokens=100 * step,
                  trained_tokens=30 * step, tokens_per_s=500.0, step_s=0.1)  # fmt: skip
            losses.append(step, [(0, 1), (0, 3)], [2.0, loss * 10], [10, 10])
        losses.close()
        write("guard", step=3, guard="spike", action="warn", text="loss 7.5 is a spike",
              rows=[[0, 3]], value=7.5)  # fmt: skip
        yield session


def _text(page: Screen[Any], selector: str) -> str:
    return page.query_one(selector, TextPanel).text.plain


async def opened(pilot: Pilot[Any], app: FinetuiApp) -> TrainPane:
    await until(pilot, lambda: app.pane and getattr(app.pane, "snapshot", None))
    assert isinstance(app.pane, TrainPane)
    return app.pane


async def rows_page(pilot: Pilot[Any], app: FinetuiApp, step: int = 3) -> RowsPage:
    pane = await opened(pilot, app)
    pane.open_rows(step)
    await until(pilot, lambda: isinstance(app.screen, RowsPage) and app.screen.rows)
    assert isinstance(app.screen, RowsPage)
    return app.screen


# -- from a step to its rows -------------------------------------------------------------------


async def test_enter_on_a_spike_shows_the_rows_of_the_step_the_worst_first(
    workspace: Workspace, run: WorkerSession
) -> None:
    app = FinetuiApp(workspace, start="train", request=OpenJob(run.job.path))
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot, app)
        await pilot.press("end", "enter")
        await until(pilot, lambda: isinstance(app.screen, RowsPage) and app.screen.rows)
        rows = app.screen.rows
        assert [(row.name, row.row) for row in rows] == [("train.jsonl:3", 2), ("train.jsonl:1", 0)]
        assert rows[0].mean == pytest.approx(7.5)
        assert rows[0].before == pytest.approx(0.95)
        assert "two" in _text(app.screen, "#text")


async def test_drop_and_go_on_leaves_the_row_out_of_the_data_set_and_of_the_run(
    workspace: Workspace, run: WorkerSession, data: Path
) -> None:
    app = FinetuiApp(workspace, start="train", request=OpenJob(run.job.path))
    async with app.run_test(size=(120, 36)) as pilot:
        page = await rows_page(pilot, app)
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: page.rows and page.rows[0].out == "dropped")
    with open_dataset(data, workspace) as found:
        found.build_index()
        assert [found.state(row).dropped for row in range(4)] == [False, False, True, False]
    inbox = ControlInbox(run.job.control)
    assert inbox.poll() == {"exclude"}
    assert inbox.fields("exclude")["rows"] == [[0, 3]]


async def test_repair_goes_to_the_rows_and_asks_on_the_way_back_to_run_again(
    workspace: Workspace, run: WorkerSession
) -> None:
    app = FinetuiApp(workspace, start="train", request=OpenJob(run.job.path))
    async with app.run_test(size=(120, 36)) as pilot:
        await rows_page(pilot, app)
        await pilot.press("space", "space", "r")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        await pilot.press("enter")
        await until(pilot, lambda: app.mode == "data" and getattr(app.pane, "source", None))
        await until(pilot, lambda: app.pane.source.chosen is not None)
        assert list(app.pane.source.chosen) == [0, 2]
        await pilot.press("3")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("n")
        await until(pilot, lambda: not isinstance(app.screen, Confirm))
        assert app.pane.repairing is None


async def test_a_guard_in_the_events_leads_to_its_step_and_its_rows(
    workspace: Workspace, run: WorkerSession
) -> None:
    app = FinetuiApp(workspace, start="train", request=OpenJob(run.job.path))
    async with app.run_test(size=(120, 36)) as pilot:
        pane = await opened(pilot, app)
        assert [mark.sign for mark in pane.board.charts["loss"].graph.marks] == ["!"]
        pane.query_one("#events").focus()
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RowsPage))
        assert {c.graph.pick for c in pane.board.shown.values()} == {3}


def test_runs_without_row_losses_tell_the_rows_that_the_event_names(
    workspace: Workspace, run: WorkerSession, data: Path
) -> None:
    (run.job.path / "rows-a1.bin").unlink()
    run.events.write("step", step=4, loss=1.0, rows=[[0, 4], [0, 9]])
    rows = train_batch.rows_of_steps(run.job, [str(data)], 4, 4, workspace)
    assert [(row.line, row.row, row.mean) for row in rows] == [(4, 3, None), (9, None, None)]


def test_data_of_a_workspace_that_was_moved_is_found_again(workspace: Workspace) -> None:
    here = workspace.datasets / "small.jsonl"
    assert train_batch.located("/elsewhere/desk/datasets/small.jsonl", workspace) == here
    assert train_batch.located("/elsewhere/desk/datasets/gone.jsonl", workspace) is None


# -- charts --------------------------------------------------------------------------------------


async def test_the_chosen_charts_are_kept_for_the_next_time(
    workspace: Workspace, run: WorkerSession
) -> None:
    app = FinetuiApp(workspace, start="train", request=OpenJob(run.job.path))
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot, app)
        await pilot.press("C")
        await until(pilot, lambda: isinstance(app.screen, ChartsPage))
        await pilot.press("down", "space", "J", "enter")
        await until(pilot, lambda: not isinstance(app.screen, ChartsPage))
    chosen = train_charts.load_chosen()
    assert "gradient" not in chosen
    again = FinetuiApp(workspace, start="train", request=OpenJob(run.job.path))
    async with again.run_test(size=(120, 36)) as pilot:
        pane = await opened(pilot, again)
        assert tuple(pane.board.chosen) == chosen
        await until(pilot, lambda: len(pane.board.shown) > 1)
        assert "gradient" not in pane.board.shown


@pytest.mark.parametrize("text", ["", "{", '["nonsense"]', "[1]"])
def test_a_choice_that_cannot_be_read_is_the_usual_one(text: str) -> None:
    path = train_charts.chosen_file()
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert train_charts.load_chosen() == train_charts.DEFAULT


@pytest.mark.parametrize(("width", "least"), [(80, 2), (120, 5), (170, 6)])
async def test_as_many_charts_show_as_have_room_and_c_brings_the_others(
    workspace: Workspace, run: WorkerSession, width: int, least: int
) -> None:
    app = FinetuiApp(workspace, start="train", request=OpenJob(run.job.path))
    async with app.run_test(size=(width, 36 if width > 80 else 24)) as pilot:
        pane = await opened(pilot, app)
        await until(pilot, lambda: len(pane.board.shown) >= least)
        before = list(pane.board.shown)
        assert before[0] == "loss"
        await pilot.press("c")
        assert len(pane.board.shown) == len(before)
        assert next(iter(pane.board.shown)) == "loss"


async def test_one_chart_alone_and_back(workspace: Workspace, run: WorkerSession) -> None:
    app = FinetuiApp(workspace, start="train", request=OpenJob(run.job.path))
    async with app.run_test(size=(120, 36)) as pilot:
        pane = await opened(pilot, app)
        await pilot.press("z")
        await until(pilot, lambda: list(pane.board.shown) == ["loss"])
        await until(pilot, lambda: pane.board.charts["loss"].size.width > 100)
        await pilot.press("escape")
        await until(pilot, lambda: len(pane.board.shown) > 1)
        assert pane.live


async def test_the_cross_hair_and_the_zoom_are_the_same_in_all_charts_of_steps(
    workspace: Workspace, run: WorkerSession
) -> None:
    app = FinetuiApp(workspace, start="train", request=OpenJob(run.job.path))
    async with app.run_test(size=(120, 36)) as pilot:
        pane = await opened(pilot, app)
        await pilot.press("end", "left", "up")
        charts = [c for c in pane.query(BrailleChart) if not c.graph.frame.clock and c.display]
        assert len(charts) > 1
        await until(pilot, lambda: len({(c.graph.pick, c.graph.view) for c in charts}) == 1)
        assert charts[0].graph.pick == 2


def test_figures_of_an_objective_have_a_chart_with_their_evaluations() -> None:
    names = train_charts.offered(["loss", "figures.kl", "eval_figures.kl", "eval_figures.margin"])
    assert [name for name in names if name.startswith("figures.")] == [
        "figures.kl", "figures.margin",
    ]  # fmt: skip
    kind = train_charts.kind_of("figures.kl")
    assert kind is not None
    assert [curve for _, curve in kind.lines] == ["figures.kl", "eval_figures.kl"]


def test_samples_of_the_machine_become_curves_with_gaps() -> None:
    curves = DeviceCurves()
    gpu = Gpu(0, "H200", None, 90.0, 61 * GIB, 140 * GIB, None, None, None)
    silent = Gpu(0, None, None, None, None, None, None, None, None, (), "lost")
    for now, one in ((1.0, gpu), (2.0, silent), (2.0, gpu), (3.0, gpu)):
        curves.take(DeviceSample((one,), None, "", 4 * GIB, 8 * GIB, None), 5 * GIB, now)
    memory = curves.curves("gpu-memory")["0"]
    assert len(memory) == 3
    assert memory.value(0) == 61 * GIB
    assert math.isnan(memory.value(1))
    assert curves.lines("gpu-heat") == []
    assert curves.curves("disk")["disk"].last == 5 * GIB


# -- requests ------------------------------------------------------------------------------------


async def test_every_request_can_be_made_from_one_list(
    workspace: Workspace, run: WorkerSession
) -> None:
    app = FinetuiApp(workspace, start="train", request=OpenJob(run.job.path))
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot, app)
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        await pilot.press(*["down"] * 4, "enter")
        await until(pilot, lambda: isinstance(app.screen, TextPrompt))
        await pilot.press("ctrl+u", *"*0.5", "enter")
        await until(pilot, lambda: any(run.job.control.glob("set*.json")))
        assert run.control.poll() == {"set"}
        assert run.control.fields("set") == {"learning_rate": pytest.approx(1e-4)}


@pytest.mark.parametrize(
    ("field", "typed", "fault"),
    [("learning_rate", "2", "at most 1"), ("learning_rate", "1e-5", ""),
     ("end_step", "0", "1 or more"), ("eval_every", "ten", "number"), ("end_step", "/2", "")],
)  # fmt: skip
def test_a_value_out_of_bounds_is_refused_while_typing(field: str, typed: str, fault: str) -> None:
    found = train_control.fault_of(field, typed, "100")
    assert fault in found
    assert bool(found) == bool(fault)


async def test_pausing_with_memory_freed_is_in_the_palette(
    workspace: Workspace, run: WorkerSession
) -> None:
    from finetui.tui.actions import ACTIONS

    app = FinetuiApp(workspace, start="train", request=OpenJob(run.job.path))
    async with app.run_test(size=(120, 36)) as pilot:
        pane = await opened(pilot, app)
        assert {"train.pause-free", "train.rate", "train.end-step", "train.eval-every",
                "train.stop-best"} <= set(ACTIONS)  # fmt: skip
        await app.run_action(ACTIONS["train.pause-free"].method, pane)
        await until(pilot, lambda: (run.job.control / "pause.json").exists())
        assert run.control.poll() == {"pause"}
        assert run.control.fields("pause") == {"release": True}


# -- samples and machine ---------------------------------------------------------------------------


def _samples(steps: int) -> list[Sample]:
    return [
        Sample(step, f"prompt {name}", f"{name} at {step}", f"{name} at {10 * (steps - 1)}", name)
        for step in range(0, 10 * steps, 10)
        for name in ("a", f"b {HOSTILE}")
    ]


async def test_answers_stand_side_by_side_with_the_first_one_at_the_left(
    workspace: Workspace,
) -> None:
    app = FinetuiApp(workspace)
    async with app.run_test(size=(120, 36)) as pilot:
        page = SamplesPage("samples", _samples(6))
        await app.push_screen(page)

        def shown() -> list[str]:
            panels = page.query(".answer")
            return [str(p.border_title) for p in panels if not p.has_class("-off")]

        await until(pilot, lambda: shown() == ["step 0", "step 40", "step 50"])
        await pilot.press("left", "left")
        await until(pilot, lambda: shown() == ["step 0", "step 20", "step 30"])
        page.show(_samples(7))
        assert len(page.answers) == 7
        await pilot.press("down")
        assert page.answers[0].id.startswith("b")


def test_the_machine_page_names_who_holds_the_memory() -> None:
    holders = (GpuProcess(41, 50 * GIB, "ann", "python"), GpuProcess(77, None, None, None))
    gpu = Gpu(0, "H200", "GPU-1", 98.0, 61 * GIB, 140 * GIB, 55, 512.0, 700.0, holders)
    lost = Gpu(1, None, None, None, None, None, None, None, None, (), "the GPU is lost")
    sample = DeviceSample((gpu, lost), "570", "", 4 * GIB, 8 * GIB, 10.0)
    text = machine_text(sample, 2 * GIB, 70).plain
    for words_ in ("50.0 GiB", "ann  python", "in another container", "512 W of 700 W",
                   "free   79.0 GiB", "the GPU is lost", "2.0 GiB free"):  # fmt: skip
        assert words_ in text


async def test_the_machine_page_shows_newer_samples(workspace: Workspace) -> None:
    app = FinetuiApp(workspace)
    async with app.run_test(size=(80, 24)) as pilot:
        page = MachinePage(None, None)
        await app.push_screen(page)
        page.show(DeviceSample((), None, "no NVIDIA driver", 4 * GIB, 8 * GIB, None), None)
        await until(pilot, lambda: "4.0 GiB of 8.0 GiB" in _text(page, "#machine"))


# -- the watch -------------------------------------------------------------------------------------


class Posted:
    """Collects what a watch posts."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.come = threading.Event()

    def __call__(self, message: Any) -> None:
        if isinstance(message, Polled):
            self.seen.append(message.snapshot.step)
            self.come.set()

    def wait(self) -> bool:
        found = self.come.wait(10.0)
        self.come.clear()
        return found


def test_the_watch_brings_news_and_waits_until_they_are_drawn(run: WorkerSession) -> None:
    posted = Posted()
    watch = Watch(JobReader(run.job), posted, lambda: True, 0.05)
    watch.start()
    try:
        assert posted.wait()
        for step in (4, 5):
            run.events.write("step", step=step, loss=1.0)
        assert not posted.come.wait(0.3), "a second frame was sent before the first was drawn"
        watch.taken()
        assert posted.wait()
        assert posted.seen == [3, 5]
    finally:
        watch.stop()


def test_the_watch_reads_nothing_while_the_terminal_is_busy_or_the_screen_hidden(
    run: WorkerSession,
) -> None:
    posted, ready = Posted(), threading.Event()
    watch = Watch(JobReader(run.job), posted, ready.is_set, 0.05)
    watch.hold(hidden=True)
    watch.start()
    try:
        ready.set()
        assert not posted.come.wait(0.2)
        ready.clear()
        watch.hold(hidden=False)
        assert not posted.come.wait(0.2)
        ready.set()
        assert posted.wait()
    finally:
        watch.stop()


def test_a_job_that_cannot_be_read_is_said(workspace: Workspace) -> None:
    said: list[str] = []
    broken = JobReader(Job(workspace.jobs / "none"))
    broken.poll = lambda: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    watch = Watch(broken, lambda message: said.append(getattr(message, "error", "")),
                  lambda: True, 0.05)  # fmt: skip
    watch.start()
    watch.join(10.0)
    assert not watch.is_alive()
    assert "cannot be read" in said[0]


async def test_a_result_is_exported_in_the_chosen_form_and_a_run_without_one_is_not(
    workspace: Workspace, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[bool, str]] = []

    def start_export(_: Workspace, job: Job, *, merge: bool, gguf: str) -> Job:
        asked.append((merge, gguf))
        return job

    monkeypatch.setattr("finetui.start.start_export", start_export)
    app = FinetuiApp(workspace, start="train", request=OpenJob(run.job.path))
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(pilot, app)
        await pilot.press("X")
        assert not isinstance(app.screen, Choose), "there is nothing to export yet"
        run.job.adapter.mkdir()
        (run.job.adapter / "adapter_config.json").write_text("{}")
        await pilot.press("X")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        await pilot.press("down", "down", "enter")
        await until(pilot, lambda: asked)
        assert asked == [(True, "q8_0")]
