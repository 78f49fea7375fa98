"""The Train screen: the jobs of the workspace, and one of them live."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Container, Horizontal, Vertical
from textual.content import Content
from textual.widgets import ContentSwitcher

from finetui.display import clean
from finetui.jobs.devices import DeviceSample
from finetui.jobs.folder import Job
from finetui.jobs.monitor import EventLine, JobReader, Rank, Snapshot
from finetui.tui import figures
from finetui.tui.actions import Action, register
from finetui.tui.lookout import JobLine
from finetui.tui.messages import OpenJob
from finetui.tui.pacing import Pacer
from finetui.tui.screens import (
    train_again,
    train_batch,
    train_charts,
    train_control,
    train_export,
    train_view,
)
from finetui.tui.screens.train_board import Board
from finetui.tui.screens.train_charts import ChartsPage
from finetui.tui.screens.train_export import ExportPane
from finetui.tui.screens.train_machine import MachinePage
from finetui.tui.screens.train_rows import Repair, RowsPage
from finetui.tui.screens.train_samples import SamplesPage
from finetui.tui.screens.train_watch import DiskSeen, Polled, Watch, WatchEnded
from finetui.tui.widgets.chart import BrailleChart
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import Column, ListSource, VirtualTable
from finetui.tui.widgets.textpanel import TextPanel

LOG_LINES = 200
JOB_COLUMNS = (
    Column("state", 13, tone=True),
    Column("run", weight=2.0, low=14),
    Column("kind", 8),
    Column("started", 12),
    Column("where it stands", weight=3.0, low=16),
)
EVENT_COLUMNS = (Column("time", 5), Column("", 1, tone=True), Column("what happened"))


class TrainPane(ExportPane):
    """Jobs are read from their folders; this screen owns nothing and can be closed at any time."""

    FOCUS = "#jobs"
    BINDINGS: ClassVar = register(
        *train_control.ACTIONS,
        *train_again.ACTIONS,
        *train_export.ACTIONS,
        Action("train.samples", "a", "samples",
               "Answers to the same prompts, side by side over the steps.", show=True),
        Action("train.choose-charts", "C", "charts", "Choose which charts show.", show=True),
        Action("train.curves", "c", "curves", "Show the other small charts.", show=True),
        Action("train.alone", "z", "zoom", "The focused chart alone, and back."),
        Action("train.stubborn", "b", "hard rows",
               "The rows that still have the highest loss after several visits."),
        Action("train.machine", "m", "machine", "Each GPU and who holds its memory; the host."),
        Action("train.queue", "Q", "GPU queue",
               "Who has which GPU of this machine, and who waits."),
        Action("train.log", "L", "log", "Show or hide what the run printed."),
        Action("train.log-scale", "l", "log scale", "Logarithmic axis of the large chart, or not."),
        Action("train.answers", "o", "answers", "Compare base and tuned answers of this run."),
        Action("train.runs", "R", "runs", "Several runs over each other, and their differences."),
        Action("train.list", "escape", "all runs", "Back to the list of runs."),
    )  # fmt: skip
    DEFAULT_CSS = """
    TrainPane ContentSwitcher { height: 1fr; }
    TrainPane #live { height: 1fr; layout: vertical; }
    TrainPane #board { height: 1fr; }
    TrainPane #side { width: 42; }
    TrainPane #events { height: 1fr; min-height: 4; }
    TrainPane #log { height: 40%; display: none; overflow-y: hidden; }
    TrainPane #jobs { height: 1fr; }
    TrainPane #live.-words #side { width: 1fr; }
    TrainPane #live.-words Board, TrainPane #live.-words #scores { display: none; }
    TrainPane #live.-alone #side { display: none; }
    .-narrow TrainPane #side { width: 34; }
    .-short TrainPane #devices { display: none; }
    .-wide TrainPane #side { width: 48; }
    """

    job: Job | None = None
    snapshot: Snapshot | None = None

    def __init__(self) -> None:
        super().__init__()
        self.events: tuple[EventLine, ...] = ()
        self._watch: Watch | None = None
        self._disk_free: int | None = None
        self._opened_one = False

    def compose(self) -> ComposeResult:
        with ContentSwitcher(initial="list"):
            with Vertical(id="list"):
                yield VirtualTable(
                    JOB_COLUMNS,
                    empty="No run yet.\nThe Recipe screen (2) starts one.",
                    id="jobs",
                    classes="panel",
                )
            with Container(id="live"):
                with Horizontal(id="body"):
                    chosen = train_charts.load_chosen()
                    yield Board(chosen, self.shell.settings.ascii, id="board")
                    yield from self._compose_side()
                yield TextPanel(id="log", classes="panel")

    def _compose_side(self) -> ComposeResult:
        with Vertical(id="side"):
            yield TextPanel(id="run", classes="panel")
            yield TextPanel(id="scores", classes="panel")
            yield TextPanel(id="devices", classes="panel")
            yield VirtualTable(EVENT_COLUMNS, empty="nothing yet", header=False, id="events")

    def on_mount(self) -> None:
        for id, title in (("jobs", "runs"), ("scores", "held-out"), ("devices", "machine"),
                          ("events", "events"), ("log", "log")):  # fmt: skip
            self.query_one(f"#{id}").border_title = title
        self.query_one("#events").add_class("panel")
        self.watch(self.app, "jobs", self._jobs_seen)
        self.watch(self.app, "devices", self._devices_seen)

    # -- coming and going ----------------------------------------------------------------------

    def shown(self) -> None:
        if self._watch is not None:
            self._watch.hold(hidden=False)
        self._open_running()
        self.shell.look()
        self.back_from_repair()

    def hidden(self) -> None:
        if self._watch is not None:
            self._watch.hold(hidden=True)

    def on_unmount(self) -> None:
        self._stop_watching()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.stop()

    def receive(self, request: object) -> None:
        if isinstance(request, OpenJob):
            self.open(request.path)

    def open(self, path: Path) -> None:
        """Watch a job: its whole history first, then what comes."""
        self._opened_one = True
        self.job, self.snapshot, self.events = Job(path), None, ()
        self.board.show(None)
        self.query_one("#events", VirtualTable).show(ListSource())
        entitle(self.query_one("#run"), self.job.slug, "")
        self._words_alone(self.job.kind != "train")
        self.query_one(ContentSwitcher).current = "live"
        for id in ("run", "scores", "log"):
            self.query_one(f"#{id}", TextPanel).show(Content.styled("reading…", "$muted"))
        self._show_devices()
        self._begin_watch(self.job)
        self._focus_live()

    def _words_alone(self, alone: bool) -> None:
        """No charts for what has no steps: the words get the room."""
        live = self.query_one("#live")
        if live.has_class("-words") != alone:
            live.set_class(alone, "-words")
            self.call_after_refresh(self._again)
            if self.snapshot is not None and self.active and len(self.app.screen_stack) == 1:
                self._focus_live()

    def _focus_live(self) -> None:
        """The keyboard to the large chart; to the events where there are none."""
        large = None if self.query_one("#live").has_class("-words") else self.board.large
        self.hand_to(self.query_one("#events") if large is None else large)

    def take_focus(self) -> None:
        if self.live and self.last_focus is None:
            self._focus_live()
        else:
            super().take_focus()

    def _begin_watch(self, job: Job) -> None:
        self._stop_watching()
        cache = self.workspace.cache if self.workspace is not None else None
        self._watch = Watch(
            JobReader(job, cache=cache),
            self.post_message,
            lambda: self.pacer.ready,
            self.shell.settings.refresh,
        )
        self._watch.start()

    @property
    def board(self) -> Board:
        return self.query_one(Board)

    @property
    def pacer(self) -> Pacer:
        """The shell's, because only the app hears the terminal's answers."""
        return self.shell.pacer

    @property
    def live(self) -> bool:
        """Whether a job is on screen, and not the list."""
        return self.job is not None and self.query_one(ContentSwitcher).current == "live"

    def action_list(self) -> None:
        if self.query_one("#live").has_class("-alone"):
            self.action_alone()
            return
        self._stop_watching()
        self.query_one(ContentSwitcher).current = "list"
        self.query_one("#jobs").focus(scroll_visible=False)

    # -- the list ------------------------------------------------------------------------------

    def _jobs_seen(self, jobs: tuple[JobLine, ...]) -> None:
        if jobs != self.rows:
            self._list(jobs)
        self.start_waiting()
        if self.active:
            self._open_running()

    def _open_running(self) -> None:
        """The first time, the one run that goes on is what a person wants to see."""
        running = [job for job in self.rows if job.state in train_view.LIVE]
        if len(running) == 1 and not self._opened_one:
            self.open(running[0].path)

    def _list(self, jobs: tuple[JobLine, ...]) -> None:
        """Show the jobs; where only their words are others, only those rows are repainted."""
        table, before = self.query_one("#jobs", VirtualTable), self.rows
        self.rows = jobs
        source = ListSource([train_view.job_row(job) for job in jobs])
        if [job.path for job in before] != [job.path for job in jobs]:
            table.show(source)
            return
        old, table.source = table.source, source
        for place in range(len(jobs)):
            if old.row(place) != source.row(place):
                table.row_changed(place)

    @on(VirtualTable.RowSelected, "#jobs")
    def _job_selected(self, message: VirtualTable.RowSelected) -> None:
        self.open(self.rows[message.row].path)

    def open_job(self) -> Job | None:
        """The job on screen, or the one under the cursor of the list."""
        if self.live:
            return self.job
        if not self.rows:
            self.say("There is no run yet.", "warning")
            return None
        return Job(self.rows[self.query_one("#jobs", VirtualTable).cursor].path)

    # -- one job -------------------------------------------------------------------------------

    @on(Polled)
    def _polled(self, message: Polled) -> None:
        if not self.children:
            return  # the screen is being left, the thread's answer came late
        if self.job is None or message.path != self.job.path or self._watch is None:
            return
        before, self.snapshot = self.snapshot, message.snapshot
        if before is not None and before.attempt != message.snapshot.attempt:
            self.board.show(None)
        self.board.show(message.snapshot)
        self._show_words(message.snapshot)
        if isinstance(self.app.screen, SamplesPage):
            self.app.screen.show(message.snapshot.samples)
        if before is None or (before.state.alive != message.snapshot.state.alive):
            self._show_devices()
        self._tell_end(before, message.snapshot)
        self.pacer.sent()
        self._watch.taken()

    @on(WatchEnded)
    def _watch_ended(self, message: WatchEnded) -> None:
        if self.job is not None and message.path == self.job.path:
            self.complain(message.error)

    def _show_words(self, snapshot: Snapshot) -> None:
        run = self.query_one("#run", TextPanel)
        width = run.content_size.width or 32
        steps = self.job is not None and self.job.kind == "train"
        self._words_alone(not steps or train_view.waits(snapshot))
        run.show(train_view.run_panel(snapshot, width, self.size.height < 30, steps))
        entitle(run, subtitle=snapshot.device)
        self.query_one("#scores", TextPanel).show(train_view.scores_panel(snapshot.scores))
        if snapshot.events != self.events:
            self._show_events(snapshot.events)
        if self.query_one("#log").display:
            self._show_log(snapshot)

    def _show_events(self, events: tuple[EventLine, ...]) -> None:
        """The newest on top; the cursor stays on its event."""
        table = self.query_one("#events", VirtualTable)
        come = len(events) - len(self.events)
        self.events = events
        table.show(ListSource([train_view.event_row(event) for event in reversed(events)]))
        if table.cursor > 0 and come > 0:
            table.go_to(table.cursor + come)

    def _show_log(self, snapshot: Snapshot) -> None:
        panel = self.query_one("#log", TextPanel)
        room = max(1, panel.content_size.height or LOG_LINES)
        panel.show(train_view.log_lines(snapshot.log_tail(room)))

    def _tell_end(self, before: Snapshot | None, now: Snapshot) -> None:
        if before is not None and not before.state.ended and now.state.ended:
            good = now.state.name in ("finished", "stopped")
            name = self.job.slug if self.job else ""
            self.say(f"{name}: {now.state.sentence}.", "" if good else "error")

    def on_resize(self) -> None:
        self.call_after_refresh(self._again)

    def _again(self) -> None:
        """Write the words anew for another width."""
        if self.snapshot is not None:
            self._show_words(self.snapshot)
        self._show_devices()

    # -- the machine ---------------------------------------------------------------------------

    @on(DiskSeen)
    def _disk_seen(self, message: DiskSeen) -> None:
        self._disk_free = message.free

    @property
    def ranks(self) -> tuple[Rank, ...]:
        """The processes of the run on screen, as its newest step told."""
        return self.snapshot.ranks if self.snapshot is not None else ()

    def _devices_seen(self, sample: DeviceSample | None) -> None:
        if sample is None:
            return
        self.board.devices.take(sample, self._disk_free, time.time())
        if isinstance(self.app.screen, MachinePage):
            self.app.screen.show(sample, self._disk_free, self.ranks)
        ended = self.snapshot is not None and self.snapshot.state.ended
        if not ended:  # a run that has ended is read in peace: nothing moves
            self._show_devices()

    def _show_devices(self) -> None:
        if self.active and self.live and self.shell.devices is not None:
            panel = self.query_one("#devices", TextPanel)
            width = panel.content_size.width or 32
            panel.show(
                train_view.devices_panel(self.shell.devices, width, self._disk_free, self.ranks)
            )
            self.board.look()

    def action_queue(self) -> None:
        from finetui.tui.screens.train_queue import QueuePage

        self.app.push_screen(QueuePage(self.rows), self._run_wanted)

    def action_machine(self) -> None:
        self.app.push_screen(MachinePage(self.shell.devices, self._disk_free, self.ranks))

    # -- charts --------------------------------------------------------------------------------

    def action_curves(self) -> None:
        self.board.turn()

    def action_choose_charts(self) -> None:
        series = self.snapshot.series if self.snapshot is not None else {}
        self.app.push_screen(ChartsPage(self.board.chosen, series), self._charts_chosen)

    def _charts_chosen(self, chosen: tuple[str, ...] | None) -> None:
        if chosen is None:
            return
        self.board.choose(chosen)
        try:
            train_charts.keep_chosen(chosen)
        except OSError as error:
            self.say(f"The choice is not kept: {error}.", "warning")

    def action_alone(self) -> None:
        """The chart that has the keyboard over the whole screen, and back."""
        live, focused = self.query_one("#live"), self.screen.focused
        if live.has_class("-alone"):
            self.board.zoom(None)
            live.remove_class("-alone")
        elif self.live and not live.has_class("-words"):
            chart = focused if isinstance(focused, BrailleChart) else self.board.large
            if chart is not None:
                self.board.zoom(self.board.name_of(chart))
                live.add_class("-alone")
                self.hand_to(chart)

    def action_log_scale(self) -> None:
        if self.board.large is not None:
            self.board.large.action_log()

    # -- from a step to its rows ---------------------------------------------------------------

    @on(BrailleChart.StepSelected)
    def _step_selected(self, message: BrailleChart.StepSelected) -> None:
        if message.chart.graph.frame.clock:
            self.say("This chart is over time: choose a step in one of the run's.")
        else:
            self.open_rows(int(message.step))

    @on(VirtualTable.RowSelected, "#events")
    def _event_selected(self, message: VirtualTable.RowSelected) -> None:
        event = self.events[len(self.events) - 1 - message.row]
        if event.step is not None:
            self.board.point_at(event.step)
        if event.rows and event.step is not None:
            self.open_rows(event.step)
        else:
            self.say(f"{figures.clock(event.t)}  {event.text}")

    def open_rows(self, step: int) -> None:
        """The rows that were learned from since the logged step before this one."""
        job, snapshot = self.job, self.snapshot
        if job is None or snapshot is None:
            return
        logged = snapshot.curve("loss")
        place = logged.index_of(step)
        first = int(logged.step(place - 1)) + 1 if place else 1
        first = min(first, step)
        files, workspace = _files(snapshot), self.workspace
        words = f"step {step:,}" if first == step else f"steps {first:,} to {step:,}"
        self._open_page(RowsPage(
            f"{words} of {job.slug}", job, workspace,
            lambda: train_batch.rows_of_steps(job, files, first, step, workspace),
        ))  # fmt: skip

    def action_stubborn(self) -> None:
        job, snapshot = self.job, self.snapshot
        if job is None or snapshot is None or not self.live:
            self.say("Open a run first.")
            return
        files, workspace = _files(snapshot), self.workspace
        self._open_page(RowsPage(
            f"hard rows of {job.slug}", job, workspace,
            lambda: train_batch.stubborn_rows(job, files, workspace), "at first",
        ))  # fmt: skip

    def _open_page(self, page: RowsPage) -> None:
        self.app.push_screen(page, lambda wanted: self._rows_wanted(page.job, wanted))

    def _rows_wanted(self, job: Job, wanted: Repair | None) -> None:
        if wanted is not None:
            self.repair(job, wanted)

    # -- other pages ---------------------------------------------------------------------------

    def action_samples(self) -> None:
        if self.snapshot is None or self.job is None or not self.live:
            self.say("Open a run first.")
            return
        title = f"samples of {clean(self.job.slug)}"
        self.app.push_screen(SamplesPage(title, self.snapshot.samples))

    def action_runs(self) -> None:
        from finetui.tui.screens.runs import RunsPage

        if self.workspace is None:
            self.say("Comparing runs needs a workspace.")
            return
        chosen = self.job.path if self.job is not None and self.live else None
        self.app.push_screen(RunsPage(self.workspace, chosen=chosen), self._run_wanted)

    def _run_wanted(self, wanted: OpenJob | None) -> None:
        if wanted is not None:
            self.open(wanted.path)

    def action_log(self) -> None:
        panel = self.query_one("#log", TextPanel)
        panel.display = not panel.display
        self.call_after_refresh(self._again)

    def action_answers(self) -> None:
        job = self.open_job()
        if job is not None:
            self.go("evaluate", OpenJob(job.path))


def _files(snapshot: Snapshot) -> list[str]:
    """The data files as the run numbers them."""
    found = snapshot.data.get("files")
    return [str(name) for name in found] if isinstance(found, list) else []
