"""The arithmetic of the live chart: columns, scales, ticks, dots. Plain values, no widget."""

from __future__ import annotations

import itertools
import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

_BRAILLE = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_NOBODY = (-1, 0)
_Masks = Sequence[Sequence[Sequence[int]]]


def _masks_of(sides: Sequence[Sequence[int]]) -> _Masks:
    """The bits of the dots from one row to another of a cell, by side, first and last row."""
    return [
        [[sum(bits[first : last + 1]) for last in range(len(bits))] for first in range(len(bits))]
        for bits in sides
    ]


_BRAILLE_MASKS = _masks_of(_BRAILLE)
_PLAIN_MASKS = _masks_of(((1, 2),))
_NICE = (1.0, 2.0, 2.5, 5.0, 10.0)
_EDGE = 1e-7
_LEAST_X = 16.0
"""x units that a picture spans at least."""


class Part(Protocol):
    """What fell into one column: extremes and sum of the finite values, their number, and the
    number of values that are not finite (``count`` and ``bad`` are 0 in an empty column)."""

    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def total(self) -> float: ...
    @property
    def count(self) -> int: ...
    @property
    def bad(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Sum:
    """A Part made from plain values."""

    low: float = math.inf
    high: float = -math.inf
    total: float = 0.0
    count: int = 0
    bad: int = 0


class Curve(Protocol):
    """One series over an ascending x (steps or seconds); a view of it never changes.

    ``source`` is the same object (``is``) as long as later views only add points at the end.
    """

    @property
    def source(self) -> object: ...
    @property
    def last(self) -> float: ...
    @property
    def last_step(self) -> float: ...
    def __len__(self) -> int: ...
    def step(self, index: int, /) -> float: ...
    def value(self, index: int, /) -> float:
        """NaN where the value is not finite."""

    def index_of(self, step: float, /) -> int:
        """The first point at an x or after it."""

    def parts(self, start: float, width: float, count: int, /) -> Sequence[Part]:
        """What fell into each of ``count`` columns of ``width``, the first from ``start`` on."""


class Points:
    """A short curve from plain lists; None, NaN and infinite values are gaps."""

    def __init__(
        self, steps: Iterable[float | None] = (), values: Iterable[float | None] = ()
    ) -> None:
        self._steps = array("d", (step or 0.0 for step in steps))
        self._values = array("d", (_finite(value) for value in values))
        self.source = object()

    def __len__(self) -> int:
        return min(len(self._steps), len(self._values))

    @property
    def last(self) -> float:
        return self._values[len(self) - 1] if len(self) else math.nan

    @property
    def last_step(self) -> float:
        return self._steps[len(self) - 1] if len(self) else 0.0

    def step(self, index: int) -> float:
        return self._steps[index]

    def value(self, index: int) -> float:
        return self._values[index]

    def index_of(self, step: float) -> int:
        return bisect_left(self._steps, step, 0, len(self))

    def parts(self, start: float, width: float, count: int) -> list[Sum]:
        edges = [self.index_of(start + column * width) for column in range(count + 1)]
        return [_part(self._values[a:b]) for a, b in itertools.pairwise(edges)]


def _finite(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else math.nan


def _part(values: Sequence[float]) -> Sum:
    good = [value for value in values if value == value]
    bad = len(values) - len(good)
    return Sum(min(good), max(good), math.fsum(good), len(good), bad) if good else Sum(bad=bad)


NO_POINTS = Points()


@dataclass(frozen=True, slots=True)
class Window:
    """The stretch of the x axis that is drawn: its first x, and the x units of a dot column."""

    first: float
    per: float

    def column(self, x: float) -> int:
        """The dot column of an x (outside of the picture too)."""
        return math.floor((x - self.first) / self.per + _EDGE)

    def x(self, column: float) -> float:
        """Where a dot column begins: a hair before its first step, so that rounding puts no step
        on the other side."""
        return self.first + (column - _EDGE) * self.per


@dataclass(frozen=True, slots=True)
class View:
    """A stretch of x that a person zoomed to; with ``follow`` it goes along with new points."""

    first: float
    span: float
    follow: bool = False

    def at(self, last: float) -> View:
        """Where a view that follows stands for the newest x: it jumps by quarters of itself, so
        that the picture holds still in between."""
        if not self.follow or self.first <= last < self.first + self.span:
            return self
        quarter = self.span / 4
        return replace(self, first=max(0.0, math.floor(last / quarter) * quarter - 2 * quarter))


class Columns:
    """A curve summed up in the columns of a window; later looks sum up only what is new."""

    def __init__(self) -> None:
        self.spans: dict[int, Part] = {}
        self._for: tuple[object, ...] = ()
        self._until = 0

    def look(self, curve: Curve, window: Window, count: int) -> dict[int, Part]:
        """The columns that hold something."""
        wanted = (window, count)
        if self._for[1:] != wanted or self._for[0] is not curve.source:
            self.spans, self._until = {}, 0
            self._for = (curve.source, *wanted)
        start = min(self._until, count)
        for column in range(start, count):
            self.spans.pop(column, None)
        for place, part in enumerate(curve.parts(window.x(start), window.per, count - start)):
            if part.count or part.bad:
                self.spans[start + place] = part
        self._until = max(0, window.column(curve.last_step)) if len(curve) else 0
        return self.spans


def x_per_column(last_x: float, columns: int, end: float | None) -> float:
    """x units a column, such that the picture stays put and is half full at least: a power of
    two, or where the end is known the end, halved until the points are past its middle."""
    if end:
        whole = max(end, last_x, 1.0)
        while whole / 2 >= max(last_x, _LEAST_X):
            whole /= 2
        return whole / max(1, columns - 1)
    per = 2.0 ** math.ceil(math.log2(max(last_x, 1.0) / max(1, columns - 1)))
    return per if last_x / per < columns else per * 2


def smooth(spans: Mapping[int, Part]) -> dict[int, float]:
    """A centred, count-weighted mean over neighbouring columns; as it is where they are few."""
    columns = sorted(column for column, span in spans.items() if span.count)
    reach = min(6, len(columns) // 30)
    if not reach:
        return means(spans)
    totals, counts = [0.0], [0]
    for column in columns:
        totals.append(totals[-1] + spans[column].total)
        counts.append(counts[-1] + spans[column].count)
    found = {}
    for place, column in enumerate(columns):
        first, last = max(0, place - reach), min(len(columns), place + reach + 1)
        found[column] = (totals[last] - totals[first]) / (counts[last] - counts[first])
    return found


def means(spans: Mapping[int, Part]) -> dict[int, float]:
    """The mean of each column that has a finite value."""
    return {column: span.total / span.count for column, span in spans.items() if span.count}


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values to 0..1; in log mode of their decimal logarithm."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, value: float) -> float | None:
        """0 at the bottom, 1 at the top; None for a value that a log axis has no place for."""
        if self.log:
            if value <= 0:
                return None
            value = math.log10(value)
            low, high = math.log10(self.low), math.log10(self.high)
        else:
            low, high = self.low, self.high
        return min(1.0, max(0.0, (value - low) / (high - low)))


def linear_scale(low: float, high: float, most_ticks: int, binary: bool = False) -> Scale:
    """A range rounded outwards to a nice step, so that it holds still while data wiggle; to a
    power of two for bytes."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - (pad if low else 0.0), high + pad
    rough = (high - low) / max(1, most_ticks - 1)
    step = 2.0 ** math.ceil(math.log2(rough) - 1e-9) if binary else nice_step(rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(_tidy(index * step) for index in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks)


def log_scale(low: float, high: float, most_ticks: int) -> Scale:
    """Whole decades, or 1-2-5 steps where there are too few of them."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    decades = [10.0**power for power in range(first, last + 1)]
    if len(decades) <= 3:
        steps = [m * 10.0**p for p in range(first, last + 1) for m in (1, 2, 5)]
        below = [value for value in steps if value <= low * (1 + 1e-9)]
        above = [value for value in steps if value >= high * (1 - 1e-9)]
        bottom = below[-1] if below else decades[0]
        top = above[0] if above else decades[-1]
        if top <= bottom:
            top = bottom * 10
        ticks = [value for value in steps if bottom <= value <= top]
        return Scale(bottom, top, tuple(ticks), True)
    every = max(1, math.ceil(len(decades) / max(2, most_ticks)))
    return Scale(decades[0], decades[-1], tuple(decades[::every]), True)


_TIMES = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)


def time_step(rough: float) -> float:
    """Seconds between two labels of a time axis: the least round span not below ``rough``."""
    return float(next((step for step in _TIMES if step >= rough), math.ceil(rough / 86400) * 86400))


def nice_step(rough: float) -> float:
    """The least of 1, 2, 2.5, 5 times a power of ten that is not below ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in _NICE if m * power >= rough * (1 - 1e-9))


def _tidy(value: float) -> float:
    return float(f"{value:.12g}")


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """A tick's label with as many digits as the step between ticks needs."""
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        mantissa, _, power = f"{value:.3g}".partition("e")
        if not power:
            mantissa, _, power = f"{value:.2e}".partition("e")
            mantissa = mantissa.rstrip("0").rstrip(".")
        return f"{mantissa}e{int(power)}"
    step = min((b - a for a, b in itertools.pairwise(ticks)), default=abs(value))
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 2
    if digits and not float(f"{step * 10**digits:.6g}").is_integer():
        digits += 1
    return f"{value:,.{min(digits, 6)}f}"


class Canvas:
    """Dots on character cells: 2 x 4 braille dots a cell, or 1 x 2 in plain ASCII.

    ``cells`` holds (owner, bits) by (x, y). Each cell has one owner, the highest layer that set a
    dot in it; dots of lower layers vanish there, because a cell has one colour and a thick line
    would be a lie.
    """

    def __init__(self, width: int, height: int, ascii: bool = False) -> None:
        self.width, self.height, self.ascii = width, height, ascii
        self.across, self.down = (1, 2) if ascii else (2, 4)
        self.columns, self.rows = width * self.across, height * self.down
        self.cells: dict[tuple[int, int], tuple[int, int]] = {}
        self._masks = _PLAIN_MASKS if ascii else _BRAILLE_MASKS

    def row(self, share: float) -> int:
        """The dot row of a share of the height; 0 is the top."""
        return round((1.0 - share) * (self.rows - 1))

    def dot(self, column: int, row: int, layer: int) -> None:
        self.upright(column, row, row, layer)

    def upright(self, column: int, first: int, last: int, layer: int) -> None:
        """Dots one above the other, a whole cell at a time."""
        top, bottom = (first, last) if first <= last else (last, first)
        top = top if top > 0 else 0
        bottom = bottom if bottom < self.rows else self.rows - 1
        if not 0 <= column < self.columns or top > bottom:
            return
        x, side = divmod(column, self.across)
        down, masks, cells = self.down, self._masks[side], self.cells
        upper, lower = top // down, bottom // down
        for y in range(upper, lower + 1):
            low = top - y * down if y == upper else 0
            high = bottom - y * down if y == lower else down - 1
            owner, bits = cells.get((x, y), _NOBODY)
            if layer > owner:
                cells[x, y] = (layer, masks[low][high])
            elif layer == owner:
                cells[x, y] = (owner, bits | masks[low][high])

    def join(self, start: tuple[int, int], end: tuple[int, int], layer: int) -> None:
        """A line from dot to dot, without holes also where it is steep."""
        (x0, y0), (x1, y1) = start, end
        if x1 - x0 <= 1:
            middle = (y0 + y1) // 2
            self.upright(x0, y0, middle, layer)
            self.upright(x1, middle, y1, layer)
            return
        last = y0
        for x in range(x0, x1 + 1):
            y = y0 + round((y1 - y0) * (x - x0) / (x1 - x0))
            self.upright(x, last, y, layer)
            last = y

    def glyph(self, bits: int) -> str:
        if self.ascii:
            return " '.:"[bits]
        return chr(0x2800 + bits)
