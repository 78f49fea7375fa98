"""One picture of a chart as character cells: legend, plot, labels. Plain values, no widget."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len

from finetui.display import clean, moment
from finetui.tui.widgets.plotting import (
    NO_POINTS,
    Canvas,
    Columns,
    Curve,
    Part,
    Scale,
    View,
    Window,
    linear_scale,
    log_scale,
    means,
    nice_step,
    smooth,
    tick_text,
    time_step,
    x_per_column,
)

Cell = tuple[str, str]
"""The character, and the name of its style: a tone, or the number of a line."""

_BAND, _FIRST_LINE = 0, 1
_SIGNS = {"grid": "┈", "cursor": "│", "point": "●", "bad": "×", "line": "━━", "cross": "┼"}
_PLAIN_SIGNS = {"grid": " ", "cursor": "|", "point": "o", "bad": "x", "line": "--", "cross": "+"}
_WAYS = ((9, 4), (9, 3), (1, 3), (0, 3))
_PICKED_WAYS = ((9, 4), (1, 4), (0, 4), (0, 3))
"""Words of a name and digits of a value in a legend, tried in turn until it fits."""
_LEAST_STEPS, _LEAST_SECONDS = 8.0, 20.0
"""How far one can zoom in."""
_LOOKED_AT = 20_000
"""The most points of one column among which the one to point at is looked for."""


@dataclass(frozen=True, slots=True)
class Line:
    """One series: ``colour`` is a CSS colour or ``$variable``; ``points`` draws single marks,
    ``band`` the extremes behind a smoothed line."""

    name: str
    colour: str = "$series-1"
    points: bool = False
    band: bool = True


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at an x: a sign of one cell, its tone (good, warning, error, info,
    muted), the same sign in plain ASCII, and words."""

    x: float
    sign: str
    tone: str
    text: str
    plain: str = "^"


@dataclass(slots=True)
class Frame:
    """What never changes while data arrive. ``low``/``high`` pin an end of the y axis, ``form``
    writes y values; with ``clock`` x is Unix time, with ``binary`` y are bytes."""

    ascii: bool = False
    smoothed: bool = True
    low: float | None = None
    high: float | None = None
    form: Callable[[float], str] | None = None
    clock: bool = False
    binary: bool = False

    @property
    def signs(self) -> Mapping[str, str]:
        return _PLAIN_SIGNS if self.ascii else _SIGNS

    def value_text(self, value: float, digits: int = 4) -> str:
        if not math.isfinite(value):
            return "NaN"
        return self.form(value) if self.form else f"{value:.{digits}g}"

    def x_text(self, x: float) -> str:
        return _clock(x) if self.clock else f"{x:,.0f}"


@dataclass
class Graph:
    """What is drawn: lines with their curves, marks, and where a person looks."""

    frame: Frame
    lines: list[Line] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    marks: Sequence[Mark] = ()
    end: float | None = None
    """The last x that will come, where it is known."""
    logarithmic: bool = False
    view: View | None = None
    """The stretch that a person zoomed to; None is all of it."""
    pick: float | None = None
    """The x of the point under the cross-hair."""
    window: Window = field(default_factory=lambda: Window(0.0, 1.0))
    count: int = 1
    """Dot columns of the last picture."""
    _columns: dict[str, Columns] = field(default_factory=dict)
    _margin: int = 5

    def curve(self, line: Line) -> Curve:
        return self.curves.get(line.name, NO_POINTS)

    @property
    def across(self) -> int:
        """Dot columns of a cell."""
        return 1 if self.frame.ascii else 2

    @property
    def first_x(self) -> float:
        found = [curve.step(0) for curve in map(self.curve, self.lines) if len(curve)]
        return min(found, default=0.0) if self.frame.clock else 0.0

    @property
    def last_x(self) -> float:
        return max([self.first_x, *(self.curve(line).last_step for line in self.lines)])

    # -- the picture -------------------------------------------------------------------------

    def draw(self, width: int, height: int) -> list[list[Cell]]:
        """All cells: a legend, the plot with its y labels, the x labels."""
        if height < 3 or width < 16:
            return [[(" ", "text")] * width for _ in range(height)]
        rows = height - 2
        for _ in range(3):  # the labels' width decides how many columns there are
            canvas = Canvas(width - self._margin, rows, self.frame.ascii)
            spans = self._look(canvas.columns)
            scale = self._scale(rows, spans)
            labels = self._y_labels(scale, rows)
            margin = max([4, *(cell_len(text) for text in labels.values())]) + 1
            if margin == self._margin:
                break
            self._margin = margin
        overlay = self._plot(canvas, scale, spans)
        plot = self._plot_rows(canvas, overlay, labels)
        cells = [self._legend(width)]
        for y in range(rows):
            left = f"{labels.get(y, ''):>{width - canvas.width - 1}} "
            cells.append([(char, "muted") for char in left] + plot[y])
        cells.append(self._x_labels(width, canvas))
        return cells

    def _look(self, count: int) -> list[dict[int, Part]]:
        """The columns of each line in the window that is to be drawn."""
        self.count = count
        self.window = self._window(count)
        return [
            self._columns.setdefault(line.name, Columns()).look(
                self.curve(line), self.window, count
            )
            for line in self.lines
        ]

    def _window(self, count: int) -> Window:
        if self.view is not None:
            self.view = self.view.at(self.last_x)
            return Window(self.view.first, self.view.span / count)
        return self._whole(count)

    def _whole(self, count: int) -> Window:
        """All of the run so far."""
        first = self.first_x
        end = None if self.end is None else self.end - first
        return Window(first, x_per_column(self.last_x - first, count, end))

    def _scale(self, rows: int, spans: Sequence[Mapping[int, Part]]) -> Scale:
        """The y axis of what is in the window."""
        full = [part for columns in spans for part in columns.values() if part.count]
        low = min((part.low for part in full), default=math.inf)
        high = max((part.high for part in full), default=-math.inf)
        frame = self.frame
        if low > high:
            bottom = frame.low or 0.0
            return linear_scale(bottom, frame.high or bottom + 1.0, 3, frame.binary)
        ticks = max(2, min(6, rows // 3 + 1))
        positive = min((part.low for part in full if part.low > 0), default=math.inf)
        if self.logarithmic and positive < math.inf:
            return log_scale(positive, max(high, positive), ticks)
        low = min(low, frame.low) if frame.low is not None else low
        high = max(high, frame.high) if frame.high is not None else high
        found = linear_scale(low, high, ticks, frame.binary)
        if frame.high is not None and high == frame.high:
            found = Scale(found.low, high, tuple(t for t in found.ticks if t <= high))
        return found

    def _y_labels(self, scale: Scale, rows: int) -> dict[int, str]:
        labels: dict[int, str] = {}
        for tick in scale.ticks:
            share = scale.place(tick) or 0.0
            y = round((1.0 - share) * (rows - 1))
            if y not in labels:
                form = self.frame.form
                labels[y] = form(tick) if form else tick_text(tick, scale.ticks)
        return labels

    def _plot(
        self, canvas: Canvas, scale: Scale, spans: Sequence[Mapping[int, Part]]
    ) -> dict[tuple[int, int], Cell]:
        """Put all lines on the canvas; returns the cells drawn as characters over it."""
        overlay: dict[tuple[int, int], Cell] = {}
        signs = self.frame.signs
        for index, (line, columns) in enumerate(zip(self.lines, spans, strict=True)):
            if line.points:
                self._plot_points(canvas, scale, index, columns, overlay)
            else:
                self._plot_line(canvas, scale, index, columns)
            for column, part in columns.items():
                if part.bad:
                    overlay[column // canvas.across, canvas.height - 1] = (signs["bad"], "error")
        self._plot_marks(canvas, overlay)
        self._plot_pick(canvas, scale, overlay)
        return overlay

    def _plot_points(
        self,
        canvas: Canvas,
        scale: Scale,
        index: int,
        columns: Mapping[int, Part],
        overlay: dict[tuple[int, int], Cell],
    ) -> None:
        for column, mean in means(columns).items():
            share = scale.place(mean)
            if share is not None:
                cell = (column // canvas.across, canvas.row(share) // canvas.down)
                overlay[cell] = (self.frame.signs["point"], str(index))

    def _plot_line(
        self, canvas: Canvas, scale: Scale, index: int, columns: Mapping[int, Part]
    ) -> None:
        middles = smooth(columns) if self.frame.smoothed else means(columns)
        band = self.frame.smoothed and self.lines[index].band
        before: tuple[int, int] | None = None
        for column in sorted(columns):
            share = scale.place(middles[column]) if column in middles else None
            if share is None:
                before = None  # NaN and what a log axis cannot show are gaps
                continue
            here = (column, canvas.row(share))
            canvas.join(before or here, here, index + _FIRST_LINE)
            before = here
            ends = [scale.place(columns[column].low), scale.place(columns[column].high)]
            if band and ends[0] is not None and ends[1] is not None:
                canvas.upright(column, canvas.row(ends[0]), canvas.row(ends[1]), _BAND)

    def _plot_marks(self, canvas: Canvas, overlay: dict[tuple[int, int], Cell]) -> None:
        """Signs along the upper edge; a later mark hides an earlier one of the same cell."""
        for mark in self.marks:
            column = self.window.column(mark.x)
            if 0 <= column < canvas.columns:
                sign = mark.plain if self.frame.ascii else mark.sign
                overlay[column // canvas.across, 0] = (sign, mark.tone)

    def _plot_pick(
        self, canvas: Canvas, scale: Scale, overlay: dict[tuple[int, int], Cell]
    ) -> None:
        cell = self.pick_cell
        values = [] if cell is None else [self.exact(line) for line in self.lines]
        value = next((value for value in values if value is not None), math.nan)
        share = scale.place(value) if math.isfinite(value) else None
        if cell is not None and share is not None:
            overlay[cell, canvas.row(share) // canvas.down] = (self.frame.signs["cross"], "text")

    def _plot_rows(
        self, canvas: Canvas, overlay: Mapping[tuple[int, int], Cell], labels: Mapping[int, str]
    ) -> list[list[Cell]]:
        """The cells of the plot: grid, cross-hair, lines, and over them the single characters."""
        signs, picked = self.frame.signs, self.pick_cell
        empty, grid = (" ", "grid"), (signs["grid"], "grid")
        rows = [[grid if y in labels else empty] * canvas.width for y in range(canvas.height)]
        if picked is not None and picked < canvas.width:
            for row in rows:
                row[picked] = (signs["cursor"], "muted")
        for (x, y), (owner, bits) in canvas.cells.items():
            style = "band" if owner == _BAND else str(owner - _FIRST_LINE)
            rows[y][x] = (canvas.glyph(bits), style)
        for (x, y), cell in overlay.items():
            rows[y][x] = cell
        return rows

    def _x_labels(self, width: int, canvas: Canvas) -> list[Cell]:
        first, span = self.window.first, self.window.per * max(1, canvas.columns - 1)
        rough = span / max(1, canvas.width // (14 if self.frame.clock else 12))
        step = time_step(rough) if self.frame.clock else max(1.0, nice_step(rough))
        text = [" "] * width
        value, free = math.ceil(first / step - 1e-9) * step, 0
        while value <= first + span * 1.0001:
            label = self.frame.x_text(value)
            x = self._margin + max(0, self.window.column(value)) // canvas.across
            start = min(x, width - len(label))
            if start >= free:
                text[start : start + len(label)] = label
                free = start + len(label) + 2
            value += step
        return [(char, "muted") for char in text]

    # -- the legend --------------------------------------------------------------------------

    def _legend(self, width: int) -> list[Cell]:
        """Each line's sign, name and newest value, or the values at the cross-hair; in fewer
        words where there is little room."""
        right = " log " if self.logarithmic else ""
        ways = _WAYS if self.pick is None else _PICKED_WAYS
        for words, digits in ways:
            cells = self._told(words if len(self.lines) > 1 else 0, digits)
            if len(cells) <= width - len(right):
                break
        cells = cells[: width - len(right)]
        cells += [(" ", "text")] * (width - len(right) - len(cells))
        return cells + [(char, "muted") for char in right]

    def _told(self, words: int, digits: int) -> list[Cell]:
        """The legend with so many words of each line's name; values keep their places when they
        get shorter, as long as all of them fit."""
        cells: list[Cell] = [(" ", "text")]
        if self.pick is not None:
            cells += [(char, "accent") for char in self.pick_text + "  "]
        for index, line in enumerate(self.lines):
            sign = self.frame.signs["point" if line.points else "line"]
            cells += [(char, str(index)) for char in sign + " "]
            name = " ".join(clean(line.name).split()[:words])
            cells += [(char, "muted") for char in name + " "] if name else []
            value = self.value_text(line, digits).ljust(digits + 3 if words > 1 else 0)
            cells += [(char, "text") for char in value + "  "]
        return cells[:-1] if self.lines else cells

    def value_text(self, line: Line, digits: int = 4) -> str:
        """A line's newest value, or the one at the cross-hair (the last before it, with its x)."""
        curve = self.curve(line)
        if not len(curve):
            return "–"
        if self.pick is None:
            return self.frame.value_text(curve.last, digits)
        exact = self.exact(line)
        if exact is not None:
            return self.frame.value_text(exact, digits)
        index = curve.index_of(self.pick)
        if index == 0:
            return "–"
        value = self.frame.value_text(curve.value(index - 1), digits)
        return f"{value} at {self.frame.x_text(curve.step(index - 1))}"

    def exact(self, line: Line) -> float | None:
        """A line's value at the very x of the cross-hair; None when it has no point there."""
        curve = self.curve(line)
        if self.pick is None:
            return None
        index = curve.index_of(self.pick)
        there = index < len(curve) and curve.step(index) == self.pick
        return curve.value(index) if there else None

    @property
    def pick_text(self) -> str:
        """Which x the cross-hair stands on."""
        assert self.pick is not None
        words = self.frame.x_text(self.pick)
        return words if self.frame.clock else f"step {words}"

    @property
    def picked_marks(self) -> list[Mark]:
        """What happened in the column of the cross-hair, at its own step first."""
        cell = self.pick_cell
        if cell is None:
            return []
        found = [mark for mark in self.marks if self._cell(mark.x) == cell]
        return sorted(found, key=lambda mark: mark.x != self.pick)

    # -- pointing at values ------------------------------------------------------------------

    def _cell(self, x: float) -> int:
        return self.window.column(x) // self.across

    @property
    def pick_cell(self) -> int | None:
        """The character column of the cross-hair; None when it is out of the picture."""
        if self.pick is None:
            return None
        cell = self._cell(self.pick)
        return cell if 0 <= cell < math.ceil(self.count / self.across) else None

    def full_cells(self) -> list[int]:
        """The character columns that hold a point, from left to right."""
        looked = [self._columns[line.name].spans for line in self.lines]
        return sorted({column // self.across for spans in looked for column in spans})

    def point_in(self, cell: int) -> float | None:
        """The x of the point of a character column that one wants to see: one that is not finite,
        or the one farthest from the column's mean."""
        start, end = (self.window.x((cell + more) * self.across) for more in (0, 1))
        for line in sorted(self.lines, key=lambda line: line.points):
            curve = self.curve(line)
            first, last = curve.index_of(start), curve.index_of(end)
            if last > first:
                return curve.step(_outlier(curve, first, min(last, first + _LOOKED_AT)))
        return None

    def moved_pick(self, by: int) -> float | None:
        """Where the cross-hair comes to when it goes so many full columns on."""
        cells = self.full_cells()
        if not cells:
            return self.pick
        here = self.pick_cell
        if here is None:
            place = len(cells) - 1
        else:
            place = bisect_left(cells, here)
            if by > 0 and place < len(cells) and cells[place] != here:
                by -= 1
            place = max(0, min(len(cells) - 1, place + by))
        return self.point_in(cells[place])

    # -- zoom --------------------------------------------------------------------------------

    def zoom(self, factor: float) -> None:
        """Show less (below 1) or more around the cross-hair, or else of the newest end."""
        whole = self._whole(self.count).per * self.count
        view = self.view or View(self.window.first, whole)
        least = min(whole, _LEAST_SECONDS if self.frame.clock else _LEAST_STEPS)
        span = max(least, view.span * factor)
        if span >= whole:
            self.view = None
        elif self.pick is not None and view.first <= self.pick <= view.first + view.span:
            share = (self.pick - view.first) / view.span
            self.view = View(max(self.first_x, self.pick - share * span), span)
        elif self.view is not None and not self.view.follow:
            self.view = View(max(self.first_x, view.first + (view.span - span) / 2), span)
        else:
            self.view = View(-math.inf, span, follow=True).at(self.last_x)

    def pan(self, by: float) -> None:
        """Move a zoomed view by a part of its width; at the newest end it follows again."""
        if self.view is None:
            return
        span = self.view.span
        newest = max(self.first_x, self.last_x - span / 2)
        first = min(max(self.first_x, self.view.first + by * span), newest)
        self.view = View(first, span, follow=by > 0 and first + span > self.last_x)

    def pan_to(self, x: float) -> None:
        """Move a zoomed view so that an x is in it."""
        if self.view is not None and not self.view.first <= x < self.view.first + self.view.span:
            self.view = View(max(self.first_x, x - self.view.span / 2), self.view.span)


def _outlier(curve: Curve, first: int, last: int) -> int:
    values = [curve.value(index) for index in range(first, last)]
    for place, value in enumerate(values):
        if not math.isfinite(value):
            return first + place
    mean = math.fsum(values) / len(values)
    return first + max(range(len(values)), key=lambda place: abs(values[place] - mean))


def _clock(when: float) -> str:
    return moment(when, "%H:%M:%S")
