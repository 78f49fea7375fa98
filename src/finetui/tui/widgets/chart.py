"""A live line chart that repaints only the cells that changed.

It draws from whole series and asks them only for the columns that are new, so that a long run
costs the same as a short one. The strong line is the (smoothed) mean, the dim band its extremes:
min and max alone would fill a noisy series to a solid block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.color import Color
from textual.content import Content
from textual.geometry import Region
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from finetui.display import clean
from finetui.tui.actions import Action, register
from finetui.tui.widgets.drawing import Cell, Frame, Graph, Line, Mark
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.plotting import NO_POINTS, Curve, Points

__all__ = ["BrailleChart", "Line", "Mark"]

_TONES = {
    "text": "",
    "muted": "$muted",
    "grid": "$grid",
    "band": "$band",
    "accent": "$accent",
    "info": "$accent",
    "good": "$success",
    "warning": "$warning",
    "error": "$error",
}
_PAN = 0.25
_ZOOM = 0.5


class BrailleChart(Widget, can_focus=True):
    """Lines over steps or over time, with a zoom and a cross-hair that stay while data arrive."""

    DEFAULT_CSS = "BrailleChart { height: 1fr; width: 1fr; min-height: 5; }"
    BINDINGS: ClassVar = register(
        Action("chart.back", "left,h", "left", "Read the value one column earlier."),
        Action("chart.forward", "right", "right", "Read the value one column later."),
        Action("chart.page-back", "pageup", "far left", "Ten columns earlier."),
        Action("chart.page-forward", "pagedown", "far right", "Ten columns later."),
        Action("chart.first", "home", "first", "The first value on screen."),
        Action("chart.last", "end", "newest", "The newest value."),
        Action("chart.pick", "enter", "rows", "Open the rows behind the marked step.", show=True),
        Action("chart.closer", "up,plus,equals_sign", "zoom in", "Half as many steps.", show=True),
        Action("chart.wider", "down,minus", "zoom out", "Twice as many steps."),
        Action("chart.pan-back", "left_square_bracket,shift+left", "pan left",
               "Earlier steps of a zoomed chart."),
        Action("chart.pan-forward", "right_square_bracket,shift+right", "pan right",
               "Later steps; at the end it follows the run again."),
        Action("chart.fit", "f", "whole run", "Show all steps again."),
        Action("chart.log", "l", "log", "Logarithmic or linear y axis.", show=True),
        Action("chart.next-mark", "n", "next mark",
               "To the next guard, checkpoint or request."),
        Action("chart.previous-mark", "N", "mark before", "To the mark before this one."),
        Action("chart.unpick", "escape", "no mark", "Take the cross-hair away, then the zoom."),
    )  # fmt: skip

    logarithmic: reactive[bool] = reactive(False, repaint=False, init=False)

    @dataclass
    class StepSelected(Message):
        """Enter at the cross-hair: the step it stands on."""

        chart: BrailleChart
        step: float

        @property
        def control(self) -> BrailleChart:
            return self.chart

    @dataclass
    class Moved(Message):
        """The zoom or the cross-hair is another; charts of the same axis may follow."""

        chart: BrailleChart

        @property
        def control(self) -> BrailleChart:
            return self.chart

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, BrailleChart.Moved) and message.chart is self.chart

    def __init__(
        self,
        title: str,
        lines: Sequence[Line] = (),
        *,
        ascii: bool = False,
        smoothed: bool = True,
        low: float | None = None,
        high: float | None = None,
        form: Callable[[float], str] | None = None,
        clock: bool = False,
        binary: bool = False,
        id: str | None = None,
        classes: str | None = "panel",
    ) -> None:
        """See drawing.Frame for the options."""
        super().__init__(id=id, classes=classes)
        self.border_title = Content(clean(title))
        frame = Frame(ascii, smoothed, low, high, form, clock, binary)
        self.graph = Graph(frame, list(lines))
        self._cells: list[list[Cell]] = []
        self._styles: dict[str, Style] = {}

    # -- data --------------------------------------------------------------------------------

    def set_lines(self, lines: Sequence[Line]) -> None:
        """Other series (the number of GPUs is known only after the first sample)."""
        if list(lines) == self.graph.lines:
            return
        self.graph.lines = list(lines)
        names = {line.name for line in lines}
        self.graph.curves = {n: curve for n, curve in self.graph.curves.items() if n in names}
        self._styles.clear()
        self.repaint()

    def show(self, name: str, curve: Curve) -> None:
        """Draw a newer view of one series."""
        self.show_together({name: curve}, self.graph.end, self.graph.marks)

    def show_together(
        self, curves: Mapping[str, Curve], end: float | None = None, marks: Sequence[Mark] = ()
    ) -> None:
        """Draw newer views of several series at once, with the last x to come and the marks."""
        graph = self.graph
        if self._news(curves) or end != graph.end or marks != graph.marks:
            graph.curves |= curves
            graph.end, graph.marks = end, marks
            self.repaint()

    def _news(self, curves: Mapping[str, Curve]) -> bool:
        known = self.graph.curves
        return any(
            len(curve) != len(known.get(name, NO_POINTS))
            or curve.source is not known.get(name, NO_POINTS).source
            for name, curve in curves.items()
        )

    def feed(
        self, name: str, steps: Iterable[float | None], values: Iterable[float | None]
    ) -> None:
        """Draw a short series given as plain lists."""
        self.show(name, Points(steps, values))

    def set_end(self, x: float | None) -> None:
        """The last x that will come, so that the picture shows how far the run is."""
        if x != self.graph.end:
            self.graph.end = x
            self.repaint()

    def clear(self) -> None:
        """Forget all series, and where a person looked."""
        graph = self.graph
        graph.curves, graph.marks, graph.end = {}, (), None
        graph.pick = graph.view = None
        self.repaint()

    # -- repainting --------------------------------------------------------------------------

    def repaint(self) -> None:
        """Draw anew and send only the spans of cells that are other than before."""
        if not self.is_mounted or not self.size.width or not self.display:
            return
        self._tell()
        old, new = self._cells, self._draw()
        self._cells = new
        if len(old) != len(new) or (old and len(old[0]) != len(new[0])):
            self.refresh()
            return
        regions = [
            Region(first, y, last - first, 1)
            for y, (before, after) in enumerate(zip(old, new, strict=False))
            if before != after
            for first, last in [_changed(before, after)]
        ]
        if regions:
            self.refresh(*regions)

    def _draw(self) -> list[list[Cell]]:
        self.graph.logarithmic = self.logarithmic
        return self.graph.draw(*self.size)

    def _tell(self) -> None:
        """The lower border says what happened at the cross-hair, or how far it is zoomed; where
        several charts look at the same, the one with the keyboard says it for all."""
        graph, words = self.graph, ""
        if self.has_focus:
            words = "  ".join(f"{mark.sign} {mark.text}" for mark in graph.picked_marks)
        if self.has_focus and not words and graph.view is not None:
            span = f"{graph.view.span:,.0f} {'s' if graph.frame.clock else 'steps'}"
            words = f"{span}, follows · f all" if graph.view.follow else f"{span} · f all"
        entitle(self, subtitle=words)

    def on_resize(self) -> None:
        self._cells = []
        self.repaint()

    def on_show(self) -> None:
        self.repaint()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._styles.clear()
        self._cells = []

    def watch_logarithmic(self) -> None:
        self.repaint()

    def watch_has_focus(self, focus: bool) -> None:
        super().watch_has_focus(focus)
        self._tell()

    def render_line(self, y: int) -> Strip:
        if not self._cells:
            self._cells = self._draw()
        width = self.size.width
        if y >= len(self._cells):
            return Strip([Segment(" " * width, self.rich_style)], width)
        return Strip(list(self._segments(self._cells[y])), width)

    def _segments(self, cells: list[Cell]) -> list[Segment]:
        found: list[Segment] = []
        start = 0
        for place in range(1, len(cells) + 1):
            if place == len(cells) or cells[place][1] != cells[start][1]:
                text = "".join(char for char, _ in cells[start:place])
                found.append(Segment(text, self._style(cells[start][1])))
                start = place
        return found

    def _style(self, name: str) -> Style:
        if name not in self._styles:
            tone = _TONES.get(name)
            colour = self.graph.lines[int(name)].colour if tone is None else tone
            if colour.startswith("$"):
                colour = self.app.theme_variables.get(colour[1:], "")
            ink = Style(color=Color.parse(colour).rich_color) if colour else Style()
            self._styles[name] = self.rich_style + ink
        return self._styles[name]

    # -- looking -----------------------------------------------------------------------------

    def look_like(self, other: BrailleChart) -> None:
        """Take over another chart's zoom and cross-hair."""
        mine, its = self.graph, other.graph
        if (mine.view, mine.pick) != (its.view, its.pick):
            mine.view, mine.pick = its.view, its.pick
            self.repaint()

    def point_at(self, x: float | None) -> None:
        """Put the cross-hair on an x, and tell it."""
        self.graph.pick = x
        if x is not None:
            self.graph.pan_to(x)
        self._moved()

    def _moved(self) -> None:
        self.repaint()
        self._tell()
        self.post_message(self.Moved(self))

    def _move(self, by: int) -> None:
        """Move the cross-hair; at the edge of a zoomed view the view goes along."""
        before = self.graph.pick
        self.graph.pick = self.graph.moved_pick(by)
        if before is not None and self.graph.pick == before and self.graph.view is not None:
            self.graph.pan(_PAN if by > 0 else -_PAN)
            self.repaint()
            self.graph.pick = self.graph.moved_pick(by)
        self._moved()

    def action_back(self) -> None:
        self._move(-1)

    def action_forward(self) -> None:
        self._move(1)

    def action_page_back(self) -> None:
        self._move(-10)

    def action_page_forward(self) -> None:
        self._move(10)

    def action_first(self) -> None:
        cells = self.graph.full_cells()
        self.point_at(self.graph.point_in(cells[0]) if cells else None)

    def action_last(self) -> None:
        cells = self.graph.full_cells()
        self.point_at(self.graph.point_in(cells[-1]) if cells else None)

    def action_closer(self) -> None:
        self.graph.zoom(_ZOOM)
        self._moved()

    def action_wider(self) -> None:
        self.graph.zoom(1 / _ZOOM)
        self._moved()

    def action_pan_back(self) -> None:
        self.graph.pan(-_PAN)
        self._moved()

    def action_pan_forward(self) -> None:
        self.graph.pan(_PAN)
        self._moved()

    def action_fit(self) -> None:
        self.graph.view = None
        self._moved()

    def action_log(self) -> None:
        self.logarithmic = not self.logarithmic

    def action_next_mark(self) -> None:
        here = self.graph.pick
        after = [mark.x for mark in self.graph.marks if here is None or mark.x > here]
        if after:
            self.point_at(min(after))

    def action_previous_mark(self) -> None:
        here = self.graph.pick
        before = [mark.x for mark in self.graph.marks if here is None or mark.x < here]
        if before:
            self.point_at(max(before))

    def action_unpick(self) -> None:
        if self.graph.pick is not None:
            self.graph.pick = None
        else:
            self.graph.view = None
        self._moved()

    def action_pick(self) -> None:
        if self.graph.pick is not None:
            self.post_message(self.StepSelected(self, self.graph.pick))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        graph = self.graph
        if action == "pick":
            return graph.pick is not None
        if action == "unpick":
            return graph.pick is not None or graph.view is not None
        return True

    def on_click(self, event: events.Click) -> None:
        left = self.gutter.left + self.size.width - self.graph.count // self.graph.across
        x = self.graph.point_in(event.x - left)
        if x is not None:
            self.point_at(x)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.action_closer()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.action_wider()


def _changed(before: list[Cell], after: list[Cell]) -> tuple[int, int]:
    """First and one-past-last column in which two lines differ."""
    first = next(i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b)
    last = next(i for i in range(len(after), 0, -1) if before[i - 1] != after[i - 1])
    return first, last
