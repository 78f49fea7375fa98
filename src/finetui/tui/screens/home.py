"""Home: where the loop stands, the next sensible step, the jobs and the machine."""

from __future__ import annotations

from typing import Any

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from finetui.display import clean, size
from finetui.tui import figures
from finetui.tui.actions import Action, register
from finetui.tui.lookout import JobLine
from finetui.tui.loop import Loop, Step
from finetui.tui.messages import OpenJob
from finetui.tui.pane import ModePane
from finetui.tui.widgets.table import Column, ListSource, TableRow, Tone, VirtualTable

STEP_SIGNS: dict[str, tuple[str, Tone]] = {
    "done": ("✓", "good"),
    "now": ("●", "info"),
    "bad": ("✗", "error"),
    "open": ("○", "muted"),
}
JOB_SIGNS: dict[str, tuple[str, Tone]] = {
    "starting": ("●", "info"),
    "running": ("●", "info"),
    "paused": ("‖", "warning"),
    "queued": ("…", "muted"),
    "requeued": ("…", "warning"),
    "stalled": ("!", "warning"),
    "finished": ("✓", "good"),
    "stopped": ("■", "muted"),
    "preempted": ("!", "warning"),
    "failed": ("✗", "error"),
    "interrupted": ("!", "warning"),
    "unknown": ("?", "muted"),
}
_JOB_MODE = {"train": "train", "evaluate": "evaluate", "generate": "evaluate", "prepare": "rate"}
_LOOP_COLUMNS = [Column("", 1, tone=True), Column("", 1), Column("", 9), Column("", weight=1)]
_JOB_COLUMNS = [
    Column("", 1, tone=True),
    Column("state", 11, tone=True),
    Column("started", 12),
    Column("kind", 8),
    Column("name", weight=1, low=12),
    Column("what happened", weight=2, low=12),
]


class HomePane(ModePane):
    """The first screen. ``enter`` on a line goes to where it can be worked on."""

    FOCUS = "#loop"
    BINDINGS = register(
        Action("home.next", "space", "next", "Do the next sensible step.", show=True),
        Action("home.look", "r", "look", "Look at jobs and machine again now."),
    )
    DEFAULT_CSS = """
    HomePane #top { height: 9; }
    HomePane #loop { width: 3fr; height: 9; }
    HomePane #machine { width: 2fr; height: 9; padding: 0 1; }
    HomePane #jobs { height: 1fr; }
    .-narrow HomePane #top { height: 14; layout: vertical; }
    .-narrow HomePane #loop { width: 1fr; }
    .-narrow HomePane #machine { width: 1fr; height: 5; }
    """

    loop: Loop | None = None
    jobs: tuple[JobLine, ...] = ()

    def compose(self) -> ComposeResult:
        loop = VirtualTable(_LOOP_COLUMNS, header=False, id="loop", classes="panel")
        loop.border_title = "The loop"
        machine = Static(Content("looking …"), id="machine", classes="panel")
        machine.border_title = "Machine"
        jobs = VirtualTable(
            _JOB_COLUMNS,
            empty="No job yet. A run that is started in the recipe screen shows here.",
            id="jobs",
            classes="panel",
        )
        jobs.border_title = "Jobs"
        with Horizontal(id="top"):
            yield loop
            yield machine
        yield jobs

    def on_mount(self) -> None:
        self.watch(self.app, "loop", self._loop_seen)
        self.watch(self.app, "devices", self._devices_seen)
        self.watch(self.app, "jobs", self._jobs_seen)

    def shown(self) -> None:
        self.shell.look()

    # -- what the lookout saw ----------------------------------------------------------------

    def _loop_seen(self, loop: Loop | None) -> None:
        if loop is None or loop == self.loop:
            return
        first = self.loop is None
        self.loop = loop
        table = self.query_one("#loop", VirtualTable)
        rows = [_step_row(step) for step in loop.steps]
        rows += [TableRow(("", "", "", "")), TableRow(("→", "", "Next", loop.advice), "edited")]
        table.show(ListSource(rows))
        if first:
            table.go_to(len(rows) - 1)

    def _jobs_seen(self, jobs: tuple[JobLine, ...]) -> None:
        if jobs == self.jobs:
            return
        self.jobs = jobs
        table = self.query_one("#jobs", VirtualTable)
        table.show(ListSource([_job_row(job) for job in jobs]))
        table.border_subtitle = f"{len(jobs):,}" if jobs else ""

    def _devices_seen(self, sample: Any) -> None:
        if sample is not None and self.active:
            panel = self.query_one("#machine", Static)
            width = max(20, panel.content_size.width)
            short = panel.content_size.height <= 3
            words = machine_words(sample, width, short)
            if words != panel.content:
                panel.update(words)

    # -- going on ----------------------------------------------------------------------------

    @on(VirtualTable.RowSelected, "#loop")
    def _step_chosen(self, message: VirtualTable.RowSelected) -> None:
        if self.loop is None:
            return
        if message.row >= len(self.loop.steps):
            self.action_next()
        else:
            step = self.loop.steps[message.row]
            self.go(step.mode, step.request)

    @on(VirtualTable.RowSelected, "#jobs")
    def _job_chosen(self, message: VirtualTable.RowSelected) -> None:
        job = self.jobs[message.row]
        self.go(_JOB_MODE.get(job.kind, "train"), OpenJob(job.path))

    def action_next(self) -> None:
        if self.loop is not None:
            self.go(self.loop.mode, self.loop.request)

    def action_look(self) -> None:
        self.shell.look()


def _step_row(step: Step) -> TableRow:
    sign, tone = STEP_SIGNS[step.state]
    key = {"data": "1", "recipe": "2", "train": "3", "evaluate": "4", "rate": "5"}[step.mode]
    return TableRow((sign, key, step.title, step.sentence), tone)


def _job_row(job: JobLine) -> TableRow:
    sign, tone = JOB_SIGNS.get(job.state, ("?", "muted"))
    started = figures.day(job.created) if isinstance(job.created, float | int) else "–"
    return TableRow((sign, job.state, started, job.kind, job.slug, job.sentence), tone)


def machine_words(sample: Any, width: int, short: bool = False) -> Content:
    """The devices as lines of meters; every missing figure is a dash."""
    lines: list[Content] = []
    for gpu in sample.gpus[: 1 if short else 3]:
        name = clean(gpu.name or "GPU")
        lines.append(Content.assemble((f"GPU{gpu.index} ", "bold"), (name, "$muted")))
        lines.append(
            _meter("memory", gpu.memory_used, gpu.memory_total, width)
            if not gpu.problem
            else Content.styled(clean(gpu.problem), "$warning")
        )
        if not short:
            lines.append(_percent("busy", gpu.utilisation, width, _heat(gpu)))
    if not sample.gpus:
        words = clean(sample.problem or "no GPU")
        tail = "" if short else ": runs use the CPU"
        lines.append(Content.assemble(("○ ", "$muted"), (words + tail, "$muted")))
    lines.append(_meter("RAM", sample.host_memory_used, sample.host_memory_total, width))
    if not short or not sample.gpus:
        lines.append(_percent("CPU", sample.cpu_percent, width))
    return Content("\n").join(lines)


def _heat(gpu: Any) -> str:
    words = []
    if gpu.temperature is not None:
        words.append(f"{gpu.temperature:.0f} °C")
    if gpu.power_w is not None:
        words.append(f"{gpu.power_w:.0f} W")
    return "  ".join(words)


def _meter(label: str, used: float | None, total: float | None, width: int) -> Content:
    if used is None or not total:
        return Content.assemble((f"{label:<7}", "$muted"), "–")
    return _bar(label, used / total, f"{size(used)} / {size(total)}", width)


def _percent(label: str, value: float | None, width: int, tail: str = "") -> Content:
    if value is None:
        return Content.assemble((f"{label:<7}", "$muted"), "–")
    return _bar(label, value / 100, f"{value:.0f} %  {tail}".rstrip(), width, scarce=False)


def _bar(label: str, share: float, words: str, width: int, scarce: bool = True) -> Content:
    """``RAM    ━━━━──────  4.2 GiB / 23.5 GiB``; what is scarce warns when it is nearly full."""
    room = max(6, min(24, width - 7 - 24))
    full = round(max(0.0, min(1.0, share)) * room)
    colour = "$error" if share > 0.95 else "$warning" if share > 0.85 else "$accent"
    colour = colour if scarce else "$accent"
    return Content.assemble(
        (f"{label:<7}", "$muted"),
        ("━" * full, colour),
        ("━" * (room - full), "$line"),
        f"  {words}",
    )
