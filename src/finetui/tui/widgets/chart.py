"""A live line chart that repaints only the cells that changed.

Every series is kept in a few thousand buckets of the widget's own, whatever its length. The strong
line is the (smoothed) mean, the dim band its extremes: min and max alone would fill a noisy series
to a solid block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.content import Content
from textual.geometry import Region
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from finetui.display import clean
from finetui.tui.actions import Action, register
from finetui.tui.widgets.plotting import (
    Buckets,
    Canvas,
    Scale,
    Span,
    linear_scale,
    log_scale,
    nice_step,
    smooth,
    tick_text,
    x_per_column,
)

_BAND, _FIRST_LINE = 0, 1
_EDGE_WORDS = {"grid": "┈", "cursor": "│", "point": "●", "bad": "×", "line": "━━"}
_EDGE_ASCII = {"grid": " ", "cursor": "|", "point": "o", "bad": "x", "line": "--"}


class Numbers(Protocol):
    """Steps or values by index; None, NaN and infinite values are gaps."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Line:
    """One series: ``colour`` is a CSS colour or ``$variable``; ``points`` draws single marks."""

    name: str
    colour: str = "$series-1"
    points: bool = False


Cell = tuple[str, str]  # the character, and the name of its style


class BrailleChart(Widget, can_focus=True):
    """Lines over steps. Feed it whole series; it takes what is new and repaints the difference."""

    DEFAULT_CSS = "BrailleChart { height: 1fr; width: 1fr; min-height: 5; }"
    BINDINGS: ClassVar = register(
        Action("chart.log", "l", "log", "Logarithmic or linear y axis.", show=True),
        Action("chart.back", "left,h", "left", "Read the value one column earlier."),
        Action("chart.forward", "right", "right", "Read the value one column later."),
        Action("chart.pick", "enter", "rows", "Open the rows behind the marked step."),
        Action("chart.unpick", "escape", "no mark", "Take the mark away."),
    )

    logarithmic: reactive[bool] = reactive(False, repaint=False, init=False)

    @dataclass
    class StepSelected(Message):
        """Enter on a marked column: the steps it stands for."""

        chart: BrailleChart
        first: int
        last: int

        @property
        def control(self) -> BrailleChart:
            return self.chart

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
        id: str | None = None,
        classes: str | None = "panel",
    ) -> None:
        """``low``/``high`` pin an end of the y axis; ``form`` writes y values (bytes, rates)."""
        super().__init__(id=id, classes=classes)
        self.border_title = Content(clean(title))
        self.ascii, self.smoothed, self.form = ascii, smoothed, form
        self.low, self.high = low, high
        self._signs = _EDGE_ASCII if ascii else _EDGE_WORDS
        self._end: float | None = None
        self._mark: int | None = None
        self._cells: list[list[Cell]] = []
        self._styles: dict[str, Style] = {}
        self._per_column = 1.0
        self._columns = 1
        self.lines: list[Line] = []
        self._series: dict[str, Buckets] = {}
        self._taken: dict[str, int] = {}
        self.set_lines(lines)

    # -- data --------------------------------------------------------------------------------

    def set_lines(self, lines: Sequence[Line]) -> None:
        """Other series (the number of GPUs is known only after the first sample)."""
        self.lines = list(lines)
        for line in lines:
            self._series.setdefault(line.name, Buckets())
            self._taken.setdefault(line.name, 0)
        self._styles.clear()
        self.repaint()

    def feed(self, name: str, steps: Numbers, values: Numbers) -> None:
        """Take what is new in a series that only grows; a shorter one starts again."""
        count = min(len(steps), len(values))
        if count < self._taken[name]:
            self._series[name], self._taken[name] = Buckets(), 0
        buckets = self._series[name]
        for index in range(self._taken[name], count):
            buckets.add(steps[index] or 0.0, values[index])
        if count != self._taken[name]:
            self._taken[name] = count
            self.repaint()

    def add(self, name: str, step: float, value: float | None) -> None:
        """Add one point (live samples that nobody keeps)."""
        self._series[name].add(step, value)
        self._taken[name] += 1
        self.repaint()

    def set_end(self, step: float | None) -> None:
        """The last step that will come, so that the picture shows how far the run is."""
        if step != self._end:
            self._end = step
            self.repaint()

    def clear(self) -> None:
        for name in self._series:
            self._series[name], self._taken[name] = Buckets(), 0
        self._mark = None
        self.repaint()

    # -- repainting --------------------------------------------------------------------------

    def repaint(self) -> None:
        """Draw anew and send only the spans of cells that are other than before."""
        if not self.is_mounted or not self.size.width or not self.display:
            return
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
            variables = self.app.theme_variables
            ground = self.rich_style
            colour = {"text": "", "muted": "$muted", "grid": "$grid", "bad": "$error"}.get(name)
            if colour is None:
                colour = self._line_colour(name)
            colour = variables.get(colour[1:], "") if colour.startswith("$") else colour
            ink = Style(color=Color.parse(colour).rich_color) if colour else Style()
            self._styles[name] = ground + ink
        return self._styles[name]

    def _line_colour(self, name: str) -> str:
        if name == "band":
            return "$band"
        return self.lines[int(name)].colour

    # -- drawing -----------------------------------------------------------------------------

    def _draw(self) -> list[list[Cell]]:
        """All cells of the content: a legend, the plot with its labels, the step labels."""
        width, height = self.size
        if height < 3 or width < 16:
            return [[(" ", "text")] * width for _ in range(height)]
        rows = height - 2
        scale = self._scale(rows)
        labels = self._y_labels(scale, rows)
        margin = max([4, *(cell_len(text) for text in labels.values())]) + 1
        canvas = Canvas(width - margin, rows, self.ascii)
        last = max([0.0, *(self._series[line.name].last_x for line in self.lines)])
        self._per_column = x_per_column(last, canvas.columns, self._end)
        self._columns = canvas.columns
        overlay = self._plot(canvas, scale)
        lines = [self._legend(width)]
        for y in range(rows):
            left = f"{labels.get(y, ''):>{margin - 1}} "
            lines.append(
                [(char, "muted") for char in left] + self._plot_row(canvas, overlay, y, y in labels)
            )
        lines.append(self._x_labels(width, margin, canvas))
        return lines

    def _scale(self, rows: int) -> Scale:
        series = [self._series[line.name] for line in self.lines]
        low = min((found.least for found in series), default=math.inf)
        high = max((found.most for found in series), default=-math.inf)
        if low > high:
            return linear_scale(self.low or 0.0, self.high or 1.0, 3)
        ticks = max(2, min(6, rows // 3 + 1))
        positive = min((found.least_positive for found in series), default=math.inf)
        if self.logarithmic and positive < math.inf:
            return log_scale(positive, max(high, positive), ticks)
        low = min(low, self.low) if self.low is not None else low
        high = max(high, self.high) if self.high is not None else high
        found = linear_scale(low, high, ticks)
        if self.high is not None and high == self.high:
            found = Scale(found.low, high, tuple(t for t in found.ticks if t <= high))
        return found

    def _y_labels(self, scale: Scale, rows: int) -> dict[int, str]:
        labels: dict[int, str] = {}
        for tick in scale.ticks:
            share = scale.place(tick) or 0.0
            y = round((1.0 - share) * (rows - 1))
            if y not in labels:
                labels[y] = self.form(tick) if self.form else tick_text(tick, scale.ticks)
        return labels

    def _plot(self, canvas: Canvas, scale: Scale) -> dict[tuple[int, int], Cell]:
        """Put all lines on the canvas; returns the cells drawn as characters over it."""
        overlay: dict[tuple[int, int], Cell] = {}
        for index, line in enumerate(self.lines):
            spans = self._series[line.name].columns(canvas.columns, self._per_column)
            if line.points:
                self._plot_points(canvas, scale, index, spans, overlay)
            else:
                self._plot_line(canvas, scale, index, spans)
            for column, span in spans.items():
                if span.bad:
                    overlay[(column // canvas.across, canvas.height - 1)] = (
                        self._signs["bad"],
                        "bad",
                    )
        return overlay

    def _plot_points(
        self,
        canvas: Canvas,
        scale: Scale,
        index: int,
        spans: dict[int, Span],
        overlay: dict[tuple[int, int], Cell],
    ) -> None:
        for column, span in spans.items():
            share = scale.place(span.mean) if span.count else None
            if share is not None:
                cell = (column // canvas.across, canvas.row(share) // canvas.down)
                overlay[cell] = (self._signs["point"], str(index))

    def _plot_line(self, canvas: Canvas, scale: Scale, index: int, spans: dict[int, Span]) -> None:
        means = smooth(spans) if self.smoothed else {c: s.mean for c, s in spans.items() if s.count}
        before: tuple[int, int] | None = None
        for column in sorted(spans):
            span = spans[column]
            share = scale.place(means[column]) if column in means else None
            if share is None:
                before = None  # NaN and what a log axis cannot show are gaps
                continue
            here = (column, canvas.row(share))
            canvas.join(before or here, here, index + _FIRST_LINE)
            before = here
            ends = [scale.place(span.low), scale.place(span.high)]
            if self.smoothed and ends[0] is not None and ends[1] is not None:
                canvas.upright(column, canvas.row(ends[0]), canvas.row(ends[1]), _BAND)

    def _plot_row(
        self, canvas: Canvas, overlay: dict[tuple[int, int], Cell], y: int, tick: bool
    ) -> list[Cell]:
        cells: list[Cell] = []
        for x in range(canvas.width):
            if (x, y) in overlay:
                cells.append(overlay[x, y])
            elif (x, y) in canvas.cells:
                owner, bits = canvas.cells[x, y]
                style = "band" if owner == _BAND else str(owner - _FIRST_LINE)
                cells.append((canvas.glyph(bits), style))
            elif self._mark == x:
                cells.append((self._signs["cursor"], "muted"))
            else:
                cells.append((self._signs["grid"] if tick else " ", "grid"))
        return cells

    def _legend(self, width: int) -> list[Cell]:
        """Each line's sign, name and newest value; or the values at the mark."""
        cells: list[Cell] = [(" ", "text")]
        for index, line in enumerate(self.lines):
            sign = self._signs["point"] if line.points else self._signs["line"]
            cells += [(char, str(index)) for char in sign + " "]
            cells += [(char, "muted") for char in clean(line.name) + " "]
            cells += [(char, "text") for char in self._value_text(line) + "   "]
        if self._mark is not None:
            first, last = self._marked_steps()
            words = f"step {first:,}" if first == last else f"steps {first:,} to {last:,}"
            cells += [(char, "muted") for char in words]
        right = "log " if self.logarithmic else ""
        cells = cells[: width - len(right)]
        cells += [(" ", "text")] * (width - len(right) - len(cells))
        return cells + [(char, "muted") for char in right]

    def _value_text(self, line: Line) -> str:
        buckets = self._series[line.name]
        if not self._taken[line.name]:
            return "–"
        value = buckets.last
        if self._mark is not None:
            spans = buckets.columns(self._columns, self._per_column)
            across = 1 if self.ascii else 2
            end = (self._mark + 1) * across
            start = 0 if line.points else self._mark * across  # the newest point until there
            found = [spans[column] for column in range(start, end) if column in spans]
            if not found:
                return "–"
            value = found[-1].mean
        if not math.isfinite(value):
            return "NaN"
        return self.form(value) if self.form else f"{value:.4g}"

    def _x_labels(self, width: int, margin: int, canvas: Canvas) -> list[Cell]:
        span = self._per_column * max(1, canvas.columns - 1)
        step = max(1.0, nice_step(span / max(1, canvas.width // 12)))
        text = [" "] * width
        value, free = 0.0, 0
        while value <= span * 1.0001:
            label = f"{value:,.0f}"
            x = margin + int(value / self._per_column) // canvas.across
            start = min(x, width - len(label))
            if start >= free:
                text[start : start + len(label)] = label
                free = start + len(label) + 2
            value += step
        return [(char, "muted") for char in text]

    # -- reading values ----------------------------------------------------------------------

    def _marked_steps(self) -> tuple[int, int]:
        per = self._per_column * (1 if self.ascii else 2)
        mark = self._mark or 0
        return math.ceil(mark * per), max(math.ceil(mark * per), math.ceil((mark + 1) * per) - 1)

    def action_log(self) -> None:
        self.logarithmic = not self.logarithmic

    def _move_mark(self, by: int) -> None:
        last = max([0.0, *(self._series[line.name].last_x for line in self.lines)])
        most = int(last / (self._per_column * (1 if self.ascii else 2)))
        self._mark = most if self._mark is None else max(0, min(most, self._mark + by))
        self.repaint()

    def action_back(self) -> None:
        self._move_mark(-1)

    def action_forward(self) -> None:
        self._move_mark(1)

    def action_unpick(self) -> None:
        self._mark = None
        self.repaint()

    def action_pick(self) -> None:
        if self._mark is not None:
            self.post_message(self.StepSelected(self, *self._marked_steps()))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return not (action in ("pick", "unpick") and self._mark is None)


def _changed(before: list[Cell], after: list[Cell]) -> tuple[int, int]:
    """First and one-past-last column in which two lines differ."""
    first = next(i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b)
    last = next(i for i in range(len(after), 0, -1) if before[i - 1] != after[i - 1])
    return first, last
