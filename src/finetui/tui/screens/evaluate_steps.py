"""The figures of an evaluation over the checkpoints of a run, one metric at a time."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult

from finetui.evaluation.catalogue import metric, shown
from finetui.evaluation.figures import over_steps
from finetui.evaluation.results import Estimate
from finetui.tui import figures
from finetui.tui.actions import Action, register
from finetui.tui.screens.evaluate_rows import View
from finetui.tui.screens.page import Page
from finetui.tui.widgets.chart import BrailleChart
from finetui.tui.widgets.drawing import Line
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.plotting import Points
from finetui.tui.widgets.table import Column, ListSource, TableRow, VirtualTable

_LINES = (
    Line("value", "$series-1", band=False),
    Line("95 % low", "$muted", band=False),
    Line("95 % high", "$muted", band=False),
)
_COLUMNS = (
    Column("step", 8, "right"),
    Column("figure", 10, "right"),
    Column("95 %", 22, "right"),
    Column("rows", 8, "right"),
)


def has_steps(view: View) -> bool:
    """Whether somebody stands at a step of training."""
    return view.manifest is not None and any(one.step for one in view.manifest.subjects)


class StepsPage(Page[None]):
    """Plots what was already computed; nothing is read or taken here."""

    PARTS = ("chart", "values")
    KEYS = "c next figure · t next set · tab next part · esc close"
    BINDINGS: ClassVar = register(
        Action("checkpoints.metric", "c", "next figure", "Another figure over the checkpoints."),
        Action("checkpoints.metric-back", "C", "figure before", "The figure before this one."),
        Action("checkpoints.set", "t", "next set", "The same for another set."),
    )
    DEFAULT_CSS = """
    StepsPage #chart { height: 2fr; }
    StepsPage #values { height: 1fr; min-height: 4; }
    """

    def __init__(self, job: Path, view: View) -> None:
        super().__init__(f"over the checkpoints · {job.name.split('-', 3)[-1]}")
        self.view, self.set = view, view.look.set
        self.figure = view.figures.main.get(self.set, "") if view.figures else ""

    def body(self) -> ComposeResult:
        plain = self.app.settings.ascii  # type: ignore[attr-defined]
        yield BrailleChart("", _LINES, ascii=plain, smoothed=False, id="chart")
        yield VirtualTable(_COLUMNS, id="values", classes="panel")

    def on_mount(self) -> None:
        self._show()

    @property
    def names(self) -> list[str]:
        """The metrics that this set has, in the order of the catalogue."""
        assert self.view.figures is not None
        known: dict[str, None] = {}
        for sets in self.view.figures.summaries.values():
            known.update(dict.fromkeys(sets.get(self.set, {})))
        return list(known)

    def _points(self) -> list[tuple[int, Estimate]]:
        manifest, found = self.view.manifest, self.view.figures
        assert manifest is not None and found is not None
        return over_steps(manifest, found, self.set, self.figure)

    def _show(self) -> None:
        entry, found = metric(self.figure), self._points()
        steps = [float(step) for step, _ in found]
        chart = self.query_one("#chart", BrailleChart)
        chart.graph.frame.form = lambda value: shown(entry, value)
        chart.clear()
        sides = ([e.value for _, e in found], [e.low for _, e in found], [e.high for _, e in found])
        chart.show_together(
            {line.name: Points(steps, side) for line, side in zip(_LINES, sides, strict=True)}
        )
        better = {"higher": "higher is better", "lower": "lower is better"}.get(entry.better, "")
        entitle(chart, f"{self.set} · {entry.title}", better)
        rows = [
            TableRow((
                figures.count(step), shown(entry, e.value),
                f"{shown(entry, e.low)} to {shown(entry, e.high)}", figures.count(e.n),
            ))
            for step, e in found
        ]  # fmt: skip
        self.table("values").show(ListSource(rows))
        entitle(self.table("values"), "by step; 0 is the base")

    def _turn(self, by: int) -> None:
        names = self.names
        if names:
            place = names.index(self.figure) if self.figure in names else -by
            self.figure = names[(place + by) % len(names)]
            self._show()

    def action_metric(self) -> None:
        self._turn(1)

    def action_metric_back(self) -> None:
        self._turn(-1)

    def action_set(self) -> None:
        place = self.view.sets.index(self.set)
        self.set = self.view.sets[(place + 1) % len(self.view.sets)]
        assert self.view.figures is not None
        if self.figure not in self.names:
            self.figure = self.view.figures.main.get(self.set, self.figure)
        self._show()
