"""The Train screen: the jobs of the workspace, and one of them live."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Container, Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import ContentSwitcher

from finetui.display import clean
from finetui.errors import UserError
from finetui.jobs import control
from finetui.jobs.devices import DeviceSample
from finetui.jobs.folder import Job
from finetui.jobs.monitor import EventLine, JobReader, Snapshot
from finetui.tui import figures
from finetui.tui.actions import Action, register
from finetui.tui.lookout import JobLine
from finetui.tui.messages import OpenJob
from finetui.tui.pacing import Pacer
from finetui.tui.pane import ModePane
from finetui.tui.screens import train_view
from finetui.tui.widgets.chart import BrailleChart, Line
from finetui.tui.widgets.dialogs import Confirm
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
CURVES = (
    ("loss", "train", "loss"),
    ("loss", "eval", "eval_loss"),
    ("rate", "now", "lr"),
    ("gradient", "now", "grad_norm"),
    ("speed", "now", "tokens_per_s"),
    ("memory", "now", "memory"),
)
"""(chart, line in it, curve of the snapshot)."""
SMALL = ("rate", "gradient", "speed", "memory")
"""The small charts below the loss; as many as fit show, `c` goes on to the next."""


class TrainPane(ModePane):
    """Jobs are read from their folders; this screen owns nothing and can be closed at any time."""

    FOCUS = "#jobs"
    BINDINGS: ClassVar = register(
        Action("train.stop", "s", "stop", "Save and stop the run after this step (asks first).",
               show=True),
        Action("train.save", "S", "save now", "Write a checkpoint after this step.", show=True),
        Action("train.curves", "c", "curves", "Show the other small charts.", show=True),
        Action("train.log", "L", "log", "Show or hide what the run printed.", show=True),
        Action("train.log-scale", "l", "log scale", "Logarithmic loss axis, and back."),
        Action("train.evaluate", "o", "answers", "Compare base and tuned answers of this run.",
               show=True),
        Action("train.pause", "P", "pause", "Pause the run after this step, or let it go on."),
        Action("train.look", "e", "evaluate now", "Take the held-out loss after this step."),
        Action("train.list", "escape", "all runs", "Back to the list of runs."),
    )  # fmt: skip
    DEFAULT_CSS = """
    TrainPane ContentSwitcher { height: 1fr; }
    TrainPane #live { height: 1fr; layout: vertical; }
    TrainPane #board { height: 1fr; }
    TrainPane #curves { width: 1fr; }
    TrainPane #small { height: 38%; min-height: 7; }
    TrainPane #side { width: 42; }
    TrainPane #events { height: 1fr; min-height: 4; }
    TrainPane #log { height: 40%; display: none; overflow-y: hidden; }
    TrainPane #jobs { height: 1fr; }
    TrainPane .-off { display: none; }
    TrainPane #live.-words #side { width: 1fr; }
    TrainPane #live.-words #curves, TrainPane #live.-words #scores { display: none; }
    .-narrow TrainPane #side { width: 34; }
    .-short TrainPane #devices { display: none; }
    .-wide TrainPane #side { width: 48; }
    """

    @dataclass
    class Polled(Message):
        """The newest snapshot of the open job; an older one need not be drawn."""

        path: Path
        snapshot: Snapshot

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, TrainPane.Polled)

    @dataclass
    class Answered(Message):
        """What became of a request to the run."""

        text: str
        failed: bool = False

    job: Job | None = None
    snapshot: Snapshot | None = None

    def __init__(self) -> None:
        super().__init__()
        self.rows: tuple[JobLine, ...] = ()
        self.events: tuple[EventLine, ...] = ()
        self._reader: JobReader | None = None
        self._reading: JobReader | None = None
        self._first = 0
        self._chosen = False

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
                with Horizontal(id="board"):
                    yield from self._compose_curves()
                    yield from self._compose_side()
                yield TextPanel(id="log", classes="panel")

    def _compose_curves(self) -> ComposeResult:
        plain = self.shell.settings.ascii
        size, rate = train_view.size_label, train_view.rate_label
        with Vertical(id="curves"):
            both = [Line("train"), Line("eval", "$series-2", points=True)]
            yield BrailleChart("loss", both, ascii=plain, id="loss")
            with Horizontal(id="small"):
                yield self._small("rate", "learning rate", "$series-3", low=0.0)
                yield self._small("gradient", "gradient norm", "$series-1", low=0.0)
                yield self._small("speed", "tokens a second", "$series-3", low=0.0, form=rate)
                yield self._small("memory", "device memory", "$series-4", low=0.0, form=size)

    def _small(self, id: str, title: str, colour: str, **options: object) -> BrailleChart:
        line, plain = Line("now", colour), self.shell.settings.ascii
        return BrailleChart(title, [line], ascii=plain, smoothed=False, id=id, **options)  # type: ignore[arg-type]

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
        self._choose_small()
        self.watch(self.app, "jobs", self._jobs_seen)
        self.watch(self.app, "devices", self._devices_seen)
        self._timer = self.set_interval(max(1.0, self.shell.settings.refresh), self.poll)

    # -- coming and going ----------------------------------------------------------------------

    def shown(self) -> None:
        self._timer.resume()
        self.shell.look()
        self.poll()

    def hidden(self) -> None:
        self._timer.pause()

    def receive(self, request: object) -> None:
        if isinstance(request, OpenJob):
            self.open(request.path)

    def open(self, path: Path) -> None:
        """Watch a job: its whole history first, then what comes."""
        self._chosen = True
        self.job = Job(path)
        self.snapshot = None
        self.events = ()
        self._reader = JobReader(self.job)
        for chart in self.query(BrailleChart):
            chart.clear()
        self.query_one("#events", VirtualTable).show(ListSource())
        entitle(self.query_one("#run"), self.job.slug, "")
        self.query_one("#live").set_class(self.job.kind != "train", "-words")
        self.query_one(ContentSwitcher).current = "live"
        for id in ("run", "scores", "log"):
            self.query_one(f"#{id}", TextPanel).show(Content.styled("reading…", "$muted"))
        self._devices_seen(self.shell.devices)
        self.query_one("#events").focus(scroll_visible=False)
        self.poll(first=True)

    @property
    def pacer(self) -> Pacer:
        """The shell's, because only the app hears the terminal's answers."""
        return self.shell.pacer

    @property
    def live(self) -> bool:
        """Whether a job is on screen, and not the list."""
        return self.job is not None and self.query_one(ContentSwitcher).current == "live"

    def action_list(self) -> None:
        self.query_one(ContentSwitcher).current = "list"
        self.query_one("#jobs").focus(scroll_visible=False)

    # -- the list ------------------------------------------------------------------------------

    def _jobs_seen(self, jobs: tuple[JobLine, ...]) -> None:
        if jobs != self.rows:
            self.rows = jobs
            source = ListSource([train_view.job_row(job) for job in jobs])
            self.query_one("#jobs", VirtualTable).show(source)
        running = [job for job in jobs if job.state in train_view.LIVE]
        if len(running) == 1 and not self._chosen and self.active:
            self.open(running[0].path)

    @on(VirtualTable.RowSelected, "#jobs")
    def _job_selected(self, message: VirtualTable.RowSelected) -> None:
        self.open(self.rows[message.row].path)

    # -- one job -------------------------------------------------------------------------------

    def poll(self, first: bool = False) -> None:
        """Look for news in a thread, unless the last look or the last frame is under way."""
        if self._reader is None or not (self.active and self.live):
            return
        if self._reading is not self._reader and (first or self.pacer.ready):
            self._reading = self._reader
            self._poll_in_thread(self._reader)

    @work(thread=True, exit_on_error=False, group="poll")
    def _poll_in_thread(self, reader: JobReader) -> None:
        try:
            snapshot = reader.poll()
        finally:
            if self._reading is reader:
                self._reading = None
        if snapshot is not None:
            self.post_message(self.Polled(reader.job.path, snapshot))

    @on(Polled)
    def _polled(self, message: Polled) -> None:
        if not self.children:
            return  # the screen is being left, the thread's answer came late
        if self.job is None or message.path != self.job.path:
            return
        before, snapshot = self.snapshot, message.snapshot
        self.snapshot = snapshot
        if before is not None and before.attempt != snapshot.attempt:
            for chart in self.query(BrailleChart):
                chart.clear()
        self._show_curves(snapshot)
        self._show_words(snapshot)
        self._tell_end(before, snapshot)
        self.pacer.sent()

    def _show_curves(self, snapshot: Snapshot) -> None:
        end = float(snapshot.total_steps) if snapshot.total_steps else None
        for id, line, curve in CURVES:
            chart = self.query_one(f"#{id}", BrailleChart)
            series = snapshot.curve(curve)
            chart.feed(line, series.steps, series.values)
            chart.set_end(end)

    def _show_words(self, snapshot: Snapshot) -> None:
        run = self.query_one("#run", TextPanel)
        width = run.content_size.width or 32
        steps = self.job is not None and self.job.kind == "train"
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
        if before is not None and before.state.alive and now.state.ended:
            good = now.state.name in ("finished", "stopped")
            name = self.job.slug if self.job else ""
            self.say(f"{name}: {now.state.sentence}.", "" if good else "error")

    def _devices_seen(self, sample: DeviceSample | None) -> None:
        if self.active and self.live:
            panel = self.query_one("#devices", TextPanel)
            panel.show(train_view.devices_panel(sample, panel.content_size.width or 32))

    def on_resize(self) -> None:
        self.call_after_refresh(self._again)

    def _again(self) -> None:
        """Write the words anew for another width."""
        self._choose_small()
        if self.snapshot is not None:
            self._show_words(self.snapshot)
        self._devices_seen(self.shell.devices)

    # -- what a person can do --------------------------------------------------------------------

    @on(VirtualTable.RowSelected, "#events")
    def _event_selected(self, message: VirtualTable.RowSelected) -> None:
        event = self.events[len(self.events) - 1 - message.row]
        self.say(f"{figures.clock(event.t)}  {event.text}")

    @on(BrailleChart.StepSelected)
    def _step_selected(self, message: BrailleChart.StepSelected) -> None:
        first, last = message.first, message.last
        steps = f"Step {first:,}" if first == last else f"Steps {first:,} to {last:,}"
        self.say(f"{steps}: the rows of a step are not recorded yet.")

    def action_stop(self) -> None:
        job = self._open_job()
        if job is None:
            return
        detail = "It saves what it has learned and ends after this step."
        self.app.push_screen(
            Confirm(f"Stop {clean(job.slug)}?", detail, yes="stop it", danger=True),
            lambda yes: self._ask("stop") if yes else None,
        )

    def action_save(self) -> None:
        self._ask("save")

    def action_look(self) -> None:
        self._ask("evaluate")

    def action_pause(self) -> None:
        paused = self.snapshot is not None and self.snapshot.state.name == "paused"
        self._ask("resume" if paused else "pause")

    def _ask(self, verb: str) -> None:
        job = self._open_job()
        if job is not None:
            self._ask_in_thread(job, verb)

    @work(thread=True, exit_on_error=False, group="ask")
    def _ask_in_thread(self, job: Job, verb: str) -> None:
        try:
            self.post_message(self.Answered(control.request(job, verb)))
        except UserError as error:
            self.post_message(self.Answered(str(error), failed=True))

    @on(Answered)
    def _answered(self, message: Answered) -> None:
        self.say(message.text, "warning" if message.failed else "information")
        self.poll()

    def _open_job(self) -> Job | None:
        """The job on screen, or the one under the cursor of the list."""
        if self.live:
            return self.job
        if not self.rows:
            self.say("There is no run yet.", "warning")
            return None
        return Job(self.rows[self.query_one("#jobs", VirtualTable).cursor].path)

    def action_curves(self) -> None:
        self._first += self._fitting()
        self._choose_small()

    def _fitting(self) -> int:
        """How many small charts have room beside each other."""
        return 1 if self.size.width < 100 else 2 if self.size.width < 150 else len(SMALL)

    def _choose_small(self) -> None:
        start = self._first % len(SMALL)
        shown = (SMALL + SMALL)[start : start + self._fitting()]
        for chart in self.query("#small BrailleChart"):
            chart.set_class(chart.id not in shown, "-off")

    def action_log(self) -> None:
        panel = self.query_one("#log", TextPanel)
        panel.display = not panel.display
        self.call_after_refresh(self._again)

    def action_log_scale(self) -> None:
        self.query_one("#loss", BrailleChart).action_log()

    def action_evaluate(self) -> None:
        job = self._open_job()
        if job is not None:
            self.go("evaluate", OpenJob(job.path))
