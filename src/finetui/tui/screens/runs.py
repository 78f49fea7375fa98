"""Runs over each other: one curve of several, what they came to, and where their recipes differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.message import Message

from finetui.display import clean, plural
from finetui.errors import UserError
from finetui.jobs.monitor import CURVES, JobReader, Snapshot
from finetui.jobs.runs import ORDERS, SLOTS, Run, matching, ordered, runs, slots
from finetui.recipe.compare import Difference, differences, recipe_of_run
from finetui.tui import figures
from finetui.tui.actions import Action, register
from finetui.tui.messages import OpenJob
from finetui.tui.screens.lines import MARKS
from finetui.tui.screens.page import Page
from finetui.tui.widgets.chart import BrailleChart, Line
from finetui.tui.widgets.dialogs import TextPrompt
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import Column, ListSource, TableRow, VirtualTable
from finetui.workspace import Workspace

_LETTERS = "ABCDEF"
_COLOURS = ("$series-1", "$series-2", "$series-3", "$series-4", "$success", "$error")
_FIRST = 3
"""How many of the newest runs are over each other when nothing was chosen."""
_LOOK_EVERY_S = 1.0
_TITLES = {
    "loss": "training loss",
    "eval_loss": "eval loss",
    "probe_loss": "probe loss",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_s": "tokens a second",
    "step_s": "seconds a step",
    "supervised_share": "supervised share",
    "memory": "device memory",
    "rss": "host memory",
}
_ORDER_WORDS = ("newest first", "by best eval loss", "by format", "by right answers",
                "by tokens a second", "by peak memory", "by time")  # fmt: skip
_LOSSES = ("loss", "eval_loss", "probe_loss")
_FORMS: dict[str, Callable[[float], str]] = {
    "memory": figures.size,
    "rss": figures.size,
    "supervised_share": figures.percent,
}
COLUMNS = (
    Column("", 1),
    Column("run", weight=2.0, low=16),
    Column("state", 11, tone=True),
    Column("best eval", 10, "right"),
    Column("format", 6, "right"),
    Column("right", 6, "right"),
    Column("steps", 9, "right"),
    Column("tok/s", 7, "right"),
    Column("peak", 9, "right"),
    Column("time", 7, "right"),
)


@dataclass
class Overlaid:
    """One run on the chart: its place, its reader and what that saw last."""

    run: Run
    slot: int
    reader: JobReader
    snapshot: Snapshot | None = None

    @property
    def letter(self) -> str:
        return _LETTERS[self.slot]


@dataclass
class Listed(Message):
    """The runs of the workspace."""

    runs: list[Run] = field(default_factory=list)


@dataclass
class Seen(Message):
    """New snapshots of runs on the chart, by path."""

    snapshots: dict[Path, Snapshot] = field(default_factory=dict)


class RunsPage(Page["OpenJob | None"]):
    """Dismisses with a run to open, or None. Nothing is polled but the runs on the chart."""

    PARTS = ("runs", "overlay", "differences")
    KEYS = "space overlay · c curve · / filter · r resume · tab next part · enter open"
    BINDINGS: ClassVar = register(
        Action("runs.overlay", "space", "overlay", "Put the run on the chart, or take it off."),
        Action("runs.curve", "c", "next curve", "Another curve of the runs on the chart."),
        Action("runs.curve-back", "C", "curve before", "The curve before this one."),
        Action("runs.filter", "slash", "filter",
               "Only runs that fit a regular expression over name, state and recipe: rank=16."),
        Action("runs.order", "s", "sort", "Newest first, or by one of the figures."),
        Action("runs.only", "o", "only this", "Take all other runs off the chart."),
        Action("runs.resume", "r", "resume",
               "Go on with a run that ended early; shows first what differs.", writes=True),
    )  # fmt: skip
    DEFAULT_CSS = """
    RunsPage #runs { height: 1fr; min-height: 5; }
    RunsPage #overlay { height: 2fr; }
    RunsPage #differences { height: 1fr; min-height: 4; }
    """

    def __init__(self, workspace: Workspace, chosen: Path | None = None) -> None:
        super().__init__("runs")
        self.workspace = workspace
        self.all: list[Run] = []
        self.shown: list[Run] = []
        self.pattern = ""
        self.order = ""
        self.overlaid: dict[Path, Overlaid] = {}
        self.curve = "eval_loss"
        self.found: tuple[Difference, ...] = ()
        self._chosen = chosen
        self._reading = False

    def body(self) -> ComposeResult:
        yield VirtualTable(COLUMNS, id="runs", classes="panel", empty="reading the runs…")
        plain = self.app.settings.ascii  # type: ignore[attr-defined]
        yield BrailleChart("", ascii=plain, id="overlay")
        yield VirtualTable(id="differences", classes="panel", empty="one run, nothing to compare")

    def on_mount(self) -> None:
        # Runs differ where their losses are small, long after the first evaluation.
        self.query_one("#overlay", BrailleChart).logarithmic = self.curve in _LOSSES
        self._list()
        self.set_interval(_LOOK_EVERY_S, self._look)

    # -- the runs ----------------------------------------------------------------------------

    @work(thread=True, group="runs", exit_on_error=False)
    def _list(self) -> None:
        self.post_message(Listed(runs(self.workspace.jobs, self.workspace.cache)))

    @on(Listed)
    def _listed(self, message: Listed) -> None:
        self.all = message.runs
        first = [run for run in self.all if run.job.path == self._chosen] or self.all
        self._show_runs()
        self._put(first[:1] if self._chosen else first[:_FIRST])
        places = [run.job.path for run in self.shown]
        if self._chosen in places:
            self.table("runs").go_to(places.index(self._chosen))

    def _show_runs(self) -> None:
        current, table = self._current(), self.table("runs")
        self.shown = ordered(matching(self.all, self.pattern), self.order)
        table.empty = "no run fits the filter" if self.all else "no training run yet"
        table.show(ListSource([self._row(run) for run in self.shown]))
        if current in self.shown:
            table.go_to(self.shown.index(current))
        words = plural(len(self.shown), "run")
        if self.pattern:
            words = f"{words} of {len(self.all)} with {self.pattern}"
        words = f"{words}, {_ORDER_WORDS[ORDERS.index(self.order)]}"
        entitle(table, words, f"{len(self.overlaid)} on the chart" if self.overlaid else "")

    def _row(self, run: Run) -> TableRow:
        over = self.overlaid.get(run.job.path)
        sign, _ = MARKS.get(run.state.name, ("?", ""))
        about = "" if run.exact else "≈"
        best = figures.number(run.best_eval)
        steps = figures.compact(run.steps)
        if run.total_steps and run.total_steps != run.steps:
            steps += f"/{figures.compact(run.total_steps)}"
        cells = (
            over.letter if over else "",
            run.job.slug,
            f"{sign} {run.state.name}",
            about + best if run.best_eval is not None else best,
            figures.percent(run.format),
            figures.percent(run.accuracy),
            steps.replace(" ", ""),
            figures.compact(run.tokens_per_s),
            figures.size(run.peak),
            figures.duration(run.seconds),
        )
        tone = {"finished": "good", "failed": "error", "interrupted": "error"}
        return TableRow(cells, tone.get(run.state.name, "warning"))  # type: ignore[arg-type]

    def _current(self) -> Run | None:
        place = self.table("runs").cursor
        return self.shown[place] if place < len(self.shown) else None

    @on(VirtualTable.RowSelected, "#runs")
    def _opened(self) -> None:
        run = self._current()
        if run is not None:
            self.dismiss(OpenJob(run.job.path))

    def action_resume(self) -> None:
        run = self._current()
        if run is None:
            return
        if not run.state.ended and run.state.name != "unknown":
            self.say("It has not ended.")
            return
        from finetui.tui.screens.resume import ResumePage

        def resumed(attempt: int | None) -> None:
            if attempt is not None:
                self.dismiss(OpenJob(run.job.path))

        self.app.push_screen(ResumePage(self.workspace, run.job), resumed)

    def action_filter(self) -> None:
        hint = "A regular expression over name, state and recipe, such as rank=(8|16) or finished."
        self.app.push_screen(
            TextPrompt("show runs that fit", self.pattern, hint, self._fault), self._filtered
        )

    def _fault(self, pattern: str) -> str:
        try:
            matching([], pattern)
        except UserError as error:
            return str(error)
        return ""

    def _filtered(self, pattern: str | None) -> None:
        if pattern is not None:
            self.pattern = pattern
            self._show_runs()

    def action_order(self) -> None:
        self.order = ORDERS[(ORDERS.index(self.order) + 1) % len(ORDERS)]
        self._show_runs()

    # -- the chart ---------------------------------------------------------------------------

    def action_overlay(self) -> None:
        run = self._current()
        if run is None:
            return
        wanted = [over.run for over in self.overlaid.values() if over.run.job != run.job]
        if run.job.path not in self.overlaid:
            if len(wanted) == SLOTS:
                self.say(f"{SLOTS} runs are as many as can be told apart; take one off first.")
                return
            wanted.append(run)
        self._put(wanted)

    def action_only(self) -> None:
        run = self._current()
        if run is not None:
            self._put([run])

    def _put(self, wanted: Sequence[Run]) -> None:
        """Have these runs on the chart, each in its own colour."""
        places = slots(self.all, wanted)
        before = self.overlaid
        self.overlaid = {}
        for run in wanted:
            path = run.job.path
            over = before.get(path) or Overlaid(
                run, 0, JobReader(run.job, cache=self.workspace.cache)
            )
            over.slot = places[path]
            self.overlaid[path] = over
        self._show_runs()
        self._show_differences()
        self._draw()
        self._look(first=True)

    def _look(self, first: bool = False) -> None:
        """Read on, in a thread: a run may grow, or go on after it had ended."""
        due = list(self.overlaid.values())
        if due and not self._reading and (first or self.app.pacer.ready):  # type: ignore[attr-defined]
            self._reading = True
            self._read(due)

    @work(thread=True, group="overlay", exit_on_error=False)
    def _read(self, due: Sequence[Overlaid]) -> None:
        found = {}
        try:
            for over in due:
                if (snapshot := over.reader.poll()) is not None:
                    found[over.run.job.path] = snapshot
        finally:
            self._reading = False
        self.post_message(Seen(found))

    @on(Seen)
    def _seen(self, message: Seen) -> None:
        for path, snapshot in message.snapshots.items():
            if path in self.overlaid:
                self.overlaid[path].snapshot = snapshot
        if message.snapshots:
            self._draw()
            self.app.pacer.sent()  # type: ignore[attr-defined]
        if any(over.snapshot is None for over in self.overlaid.values()):
            self._look(first=True)

    @property
    def curves(self) -> list[str]:
        """The curves that any of the runs on the chart has, in the order of the house."""
        seen = [over.snapshot for over in self.overlaid.values() if over.snapshot is not None]
        names = {name for found in seen for name, series in found.series.items() if len(series)}
        own = sorted(names - set(CURVES))
        return [name for name in ("eval_loss", *CURVES) if name in names] + own

    def _turn(self, by: int) -> None:
        known = list(dict.fromkeys(self.curves))
        if known:
            place = known.index(self.curve) if self.curve in known else -by
            self.curve = known[(place + by) % len(known)]
            chart = self.query_one("#overlay", BrailleChart)
            chart.clear()
            chart.logarithmic = self.curve in _LOSSES
            self._draw()

    def action_curve(self) -> None:
        self._turn(1)

    def action_curve_back(self) -> None:
        self._turn(-1)

    def _draw(self) -> None:
        chart = self.query_one("#overlay", BrailleChart)
        chart.graph.frame.form = _FORMS.get(self.curve)
        by_slot = sorted(self.overlaid.values(), key=lambda over: over.slot)
        names = {over.run.job.path: f"{over.letter} {clean(over.run.job.slug)}" for over in by_slot}
        chart.set_lines(
            [Line(names[over.run.job.path], _COLOURS[over.slot], band=False) for over in by_slot]
        )
        known = [over for over in by_slot if over.snapshot is not None]
        chart.show_together(
            {names[over.run.job.path]: over.snapshot.curve(self.curve) for over in known},  # type: ignore[union-attr]
            max((float(over.snapshot.total_steps or 0) for over in known), default=0.0) or None,  # type: ignore[union-attr]
        )
        rough = [over.letter for over in known if not over.snapshot.exact]  # type: ignore[union-attr]
        title = _TITLES.get(self.curve, self.curve.replace("_", " ").replace(".", ": "))
        entitle(chart, title + (f"  ≈ {' '.join(rough)} read in samples" if rough else ""))

    # -- the recipes -------------------------------------------------------------------------

    def _show_differences(self) -> None:
        by_slot = sorted(self.overlaid.values(), key=lambda over: over.slot)
        table, recipes, unknown = self.table("differences"), [], []
        for over in by_slot:
            try:
                recipes.append(recipe_of_run(over.run.job.spec()))
            except UserError:
                unknown.append(over.letter)
        letters = [over.letter for over in by_slot if over.letter not in unknown]
        self.found = differences(recipes, self.workspace.root) if len(recipes) > 1 else ()
        found = [one for one in self.found if one.field not in ("name", "notes")]
        columns = [Column("field", 22), *(Column(letter, low=10) for letter in letters)]
        rows = [TableRow((one.label, *one.values)) for one in found]
        table.empty = "the recipes are the same" if len(letters) > 1 else "space adds another run"
        table.show(ListSource(rows), columns)
        words = f"where {' '.join(letters)} differ" if len(letters) > 1 else "differences"
        entitle(table, words, f"no recipe: {' '.join(unknown)}" if unknown else "")
