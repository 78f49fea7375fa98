"""The board: the chosen charts of a run, the first one large, as many as have room."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual import on
from textual.containers import Container

from finetui.tui.screens import train_charts
from finetui.tui.screens.train_charts import ChartKind
from finetui.tui.screens.train_devices import DeviceCurves
from finetui.tui.widgets.chart import BrailleChart
from finetui.tui.widgets.drawing import Mark

if TYPE_CHECKING:
    from finetui.jobs.monitor import Snapshot

_WIDTH, _HEIGHT = 36, 8
"""The least cells of a small chart."""
_LARGE = 12
"""The least height of the large one."""
_MOST_ROWS = 2


class Board(Container):
    """Charts of one run; zoom and cross-hair are the same in all that have steps."""

    DEFAULT_CSS = """
    Board { layout: grid; height: 1fr; width: 1fr; grid-gutter: 0; }
    Board BrailleChart { height: 100%; width: 100%; }
    Board BrailleChart.-off { display: none; }
    """

    def __init__(self, chosen: Sequence[str], ascii: bool, id: str | None = None) -> None:
        super().__init__(id=id)
        self.chosen = list(chosen)
        self.charts: dict[str, BrailleChart] = {}
        self.devices = DeviceCurves()
        self._ascii = ascii
        self._page = 0
        self._alone: str | None = None
        self._snapshot: Snapshot | None = None
        self._marks: tuple[Mark, ...] = ()

    # -- which charts ------------------------------------------------------------------------

    @property
    def shown(self) -> dict[str, BrailleChart]:
        """The charts on screen by their names."""
        return {n: chart for n, chart in self.charts.items() if not chart.has_class("-off")}

    @property
    def large(self) -> BrailleChart | None:
        return next(iter(self.query(BrailleChart).exclude(".-off")), None)

    def name_of(self, chart: BrailleChart) -> str:
        return next(name for name, found in self.charts.items() if found is chart)

    def choose(self, names: Sequence[str]) -> None:
        """Show other charts, in another order."""
        self.chosen, self._page, self._alone = list(names), 0, None
        self.lay_out()

    def turn(self) -> None:
        """Show the next small charts."""
        self._page += 1
        self.lay_out()

    def zoom(self, name: str | None) -> None:
        """Show one chart alone; None shows all again."""
        self._alone = name
        self.lay_out()

    def on_mount(self) -> None:
        self.lay_out()

    def on_resize(self) -> None:
        self.lay_out()

    def lay_out(self) -> None:
        """Lay out what fits: the large chart over the width, the small ones in rows below."""
        if not self.size.width:  # not on screen yet: the large one can take the keyboard
            self._show_only(self.chosen[:1])
            return
        across, rows = self._room()
        names = self._names(across * rows)
        rows = -(-(len(names) - 1) // across) if len(names) > 1 else 0
        self._show_only(names)
        self.styles.grid_size_columns = across
        self.styles.grid_size_rows = 1 + rows
        self.styles.grid_rows = " ".join(["5fr", *["4fr" if rows < 2 else "3fr"] * rows])
        rest = (len(names) - 1) % across
        for place, name in enumerate(names):
            last = place == len(names) - 1 and place and rest
            self.charts[name].styles.column_span = (
                across if not place else across - rest + 1 if last else 1
            )
        self.call_after_refresh(self.draw)

    def _room(self) -> tuple[int, int]:
        """How many small charts stand beside each other, and in how many rows."""
        width, height = self.size
        return max(1, width // _WIDTH), max(0, min(_MOST_ROWS, (height - _LARGE) // _HEIGHT))

    def _names(self, room: int) -> list[str]:
        usable = [name for name in self.chosen if self._has_something(name)] or self.chosen[:1]
        if self._alone is not None:
            return [self._alone]
        if not room:
            return [usable[self._page % len(usable)]]
        large, *small = usable
        if len(small) <= room:
            return usable
        start = self._page * room % len(small)
        return [large, *(small + small)[start : start + room]]

    def _has_something(self, name: str) -> bool:
        """Charts of a machine's parts that it does not have, and of a run's figures that it does
        not log, give their place to the others."""
        kind = train_charts.kind_of(name)
        if kind is None:
            return False
        if kind.device:
            return bool(self.devices.lines(name))
        known = self._snapshot.series if self._snapshot is not None else {}
        return not name.startswith(train_charts.FIGURES) or any(c in known for _, c in kind.lines)

    def _show_only(self, names: Sequence[str]) -> None:
        for name, chart in self.charts.items():
            chart.set_class(name not in names, "-off")
        for name in names:
            if name not in self.charts:
                self.charts[name] = self._made(name)
                self.mount(self.charts[name])
        for before, after in itertools.pairwise(self.charts[name] for name in names):
            self.move_child(after, after=before)

    def _made(self, name: str) -> BrailleChart:
        kind = train_charts.kind_of(name)
        assert kind is not None
        return BrailleChart(
            kind.title,
            [line for line, _ in kind.lines],
            ascii=self._ascii,
            smoothed=kind.smoothed,
            low=kind.low,
            high=kind.high,
            form=kind.form,
            clock=kind.device,
            binary=kind.form is train_charts.size_label,
            id=name if name in train_charts.KINDS else None,
        )

    # -- what they show ----------------------------------------------------------------------

    def show(self, snapshot: Snapshot | None) -> None:
        """Draw a newer state of the run; None clears all charts of steps."""
        before, self._snapshot = self._snapshot, snapshot
        if snapshot is None:
            self._marks = ()
            for chart in self.charts.values():
                if not chart.graph.frame.clock:
                    chart.clear()
            return
        self._marks = train_charts.marks_of(snapshot)
        if before is None or before.series.keys() != snapshot.series.keys():
            self.lay_out()
        self.draw()

    def look(self) -> None:
        """Draw the newest samples of the machine."""
        usable = {name for name in self.chosen if self._has_something(name)}
        if self._alone is None and not self.shown.keys() <= usable | {self.chosen[0]}:
            self.lay_out()
        self.draw(device=True)

    def draw(self, device: bool | None = None) -> None:
        """Give the charts on screen what they draw; with ``device`` only those of one side."""
        for name, chart in self.shown.items():
            kind = train_charts.kind_of(name)
            if kind is None or device not in (None, kind.device):
                continue
            if kind.device:
                chart.set_lines(self.devices.lines(kind.id))
                chart.show_together(self.devices.curves(kind.id))
            elif self._snapshot is not None:
                self._draw_steps(chart, kind, self._snapshot)

    def _draw_steps(self, chart: BrailleChart, kind: ChartKind, snapshot: Snapshot) -> None:
        curves = {line.name: snapshot.curve(curve) for line, curve in kind.lines}
        known = [line for line, _ in kind.lines if len(curves[line.name])]
        chart.set_lines(known or [line for line, _ in kind.lines[:1]])
        curves = {line.name: curves[line.name] for line in chart.graph.lines}
        end = float(snapshot.total_steps) if snapshot.total_steps else None
        chart.show_together(curves, end, self._marks)

    # -- looking -----------------------------------------------------------------------------

    def point_at(self, step: float) -> None:
        """Put the cross-hair of all charts of steps on a step."""
        for chart in self.charts.values():
            if not chart.graph.frame.clock:
                chart.point_at(step)

    @on(BrailleChart.Moved)
    def _moved(self, message: BrailleChart.Moved) -> None:
        message.stop()
        for chart in self.charts.values():
            if chart is not message.chart and self._alike(chart, message.chart):
                chart.look_like(message.chart)

    def _alike(self, one: BrailleChart, other: BrailleChart) -> bool:
        return one.graph.frame.clock == other.graph.frame.clock
