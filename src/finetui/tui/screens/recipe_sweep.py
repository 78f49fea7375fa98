"""The page of a sweep: one recipe as many runs, by a grid or a list, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Input

from finetui.display import clean, plural
from finetui.errors import UserError
from finetui.recipe.advice import advise
from finetui.recipe.facts import Facts
from finetui.recipe.forecast import Plan, plan
from finetui.recipe.schema import Recipe, field
from finetui.recipe.sweep import Trial, axis, grid, listed
from finetui.tui import figures
from finetui.tui.actions import Action, register
from finetui.tui.screens.page import Page
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import Column, ListSource, TableRow, VirtualTable
from finetui.tui.widgets.textpanel import TextPanel


@dataclass(frozen=True, slots=True)
class Run:
    """One run as the page shows it: its forecast, and how many errors stand against it."""

    trial: Trial
    plan: Plan
    errors: int

    @classmethod
    def of(cls, trial: Trial, facts: Facts) -> Run:
        remarks = advise(trial.recipe, facts)
        errors = sum(found.severity == "error" for found in remarks)
        return cls(trial, plan(trial.recipe, facts), errors)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The runs that a person wants to start."""

    name: str
    trials: tuple[Trial, ...]


class SweepPage(Page[Wanted | None]):
    """Dismisses with the runs to start, or None."""

    PARTS = ("line", "axes", "trials")
    KEYS = "enter add · tab parts · x take a line out · s start · esc close"
    BINDINGS: ClassVar = register(
        Action(
            "sweep.start",
            "s",
            "start",
            "Start these runs, one after another.",
            show=True,
            writes=True,
        ),
        Action("sweep.remove", "x,delete", "take out", "Take this line out of the sweep."),
    )
    DEFAULT_CSS = """
    SweepPage #line { padding: 0 1; width: 1fr; }
    SweepPage #line.part, SweepPage.-short #line.part { display: block; height: 1; }
    SweepPage #told { height: auto; max-height: 3; }
    SweepPage #axes { height: 1fr; min-height: 5; }
    SweepPage #trials { height: 3fr; min-height: 5; }
    SweepPage.-short .part { display: block; }
    """

    def __init__(self, recipe: Recipe, facts: Facts, first: str = "") -> None:
        """``first`` is the field whose name the line begins with."""
        super().__init__(f"sweep of {recipe.name or 'this recipe'}")
        self.recipe, self.facts, self.first = recipe, facts, first
        self.lines: list[str] = []
        self.runs: list[Run] = []

    def body(self) -> ComposeResult:
        line = Input(
            self.first, id="line", placeholder="learning_rate=1e-4,2e-4,4e-4", compact=True
        )
        line.cursor_blink = False
        yield line
        yield TextPanel(wrap=True, id="told")
        yield VirtualTable(
            [Column("", weight=1)], header=False, id="axes", classes="panel",
            empty="field=a,b,c   every combination of such lines is a run⏎"
            "field=a field=b   a line with two fields is one run",
        )  # fmt: skip
        yield VirtualTable(
            [Column("", 1, tone=True), Column("run", weight=3, low=24), Column("steps", 8, "right"),
             Column("peak", 10, "right"), Column("", weight=2, low=10, tone=True)],
            id="trials", classes="panel", empty="no runs yet",
        )  # fmt: skip

    def on_mount(self) -> None:
        entitle(self.query_one("#axes"), "what changes")
        line = self.query_one("#line", Input)
        line.cursor_position = len(line.value)
        self._show("")

    # -- lines -----------------------------------------------------------------------------------

    @on(Input.Changed, "#line")
    def _typed(self, event: Input.Changed) -> None:
        text = event.value.strip()
        self._tell(_fault(text) if "=" in text and not text.endswith("=") else "")

    @on(Input.Submitted, "#line")
    def _settled(self, event: Input.Submitted) -> None:
        text = event.value.strip()
        if not text:
            self.turn_to("trials")
            return
        fault = _fault(text)
        if not fault:
            fault = self._try([*self.lines, text])
        if fault:
            self._tell(fault)
        else:
            event.input.value = ""

    def action_remove(self) -> None:
        row = self.table("axes").cursor
        if self.lines and row < len(self.lines):
            self._try([line for index, line in enumerate(self.lines) if index != row])

    def _try(self, lines: list[str]) -> str:
        """Take these lines when they make runs; else what is wrong with them."""
        try:
            trials = runs_of(self.recipe, lines)
        except UserError as error:
            return str(error)
        self.lines = lines
        self.runs = [Run.of(trial, self.facts) for trial in trials]
        self._show("")
        return ""

    # -- what is shown ---------------------------------------------------------------------------

    def _show(self, fault: str) -> None:
        self.table("axes").show(ListSource([TableRow((line,)) for line in self.lines]))
        self.table("trials").show(ListSource([_row(run) for run in self.runs]))
        entitle(self.query_one("#trials"), plural(len(self.runs), "run"), self._time())
        self._tell(fault)

    def _time(self) -> str:
        spent = [run.plan.seconds_high for run in self.runs]
        if not spent or None in spent:
            return "one after another"
        return f"one after another: ≈ {figures.duration(sum(s for s in spent if s is not None))}"

    def _tell(self, fault: str) -> None:
        style = "$error" if fault else "$muted"
        words = clean(fault) or "field=a,b,c and enter adds a line; x takes one out; s starts."
        self.query_one("#told", TextPanel).show(Content.styled(words, style))

    def action_start(self) -> None:
        if not self.runs:
            self._tell("There is no run yet: write field=a,b,c and press enter.")
        elif any(run.errors for run in self.runs):
            self.turn_to("trials")
            self._tell("Some of these runs cannot start: their row says ✗.")
        else:
            trials = tuple(run.trial for run in self.runs)
            self.dismiss(Wanted(self.recipe.name or "sweep", trials))


def _row(run: Run) -> TableRow:
    words = ", ".join(f"{field(id).label} {value}" for id, value in run.trial.changes)
    peak = figures.size(run.plan.peak_bytes_high)
    cells = (words or run.trial.name, figures.count(run.plan.steps), peak)
    if run.errors:
        return TableRow(("✗", *cells, plural(run.errors, "error")), "error")
    return TableRow(("✓", *cells, ""), "good")


def runs_of(recipe: Recipe, lines: Sequence[str]) -> list[Trial]:
    """The runs of these lines: a list where a line sets two fields, else a grid of all lines.

    Raises UserError with one sentence.
    """
    if not lines:
        return []
    if any(line.count("=") > 1 for line in lines):
        return listed(recipe, lines)
    return grid(recipe, [axis(line) for line in lines])


def _fault(line: str) -> str:
    """What is wrong with one line; empty when nothing is."""
    try:
        if line.count("=") <= 1:
            axis(line)
    except UserError as error:
        return str(error)
    return ""
