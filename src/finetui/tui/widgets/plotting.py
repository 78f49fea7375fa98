"""The arithmetic of the live chart: buckets, scales, ticks, dots. Plain values, no widget."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import add

BUCKETS = 4096
"""More than twice the dot columns of any terminal, so every width can be made of whole buckets."""

_BRAILLE = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_NICE = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(slots=True)
class Span:
    """What fell into one column: extremes, sum and number of finite values, number of others."""

    low: float = math.inf
    high: float = -math.inf
    total: float = 0.0
    count: int = 0
    bad: int = 0

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan

    def add(self, low: float, high: float, total: float, count: int, bad: int) -> None:
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.total += total
        self.count += count
        self.bad += bad


class Buckets:
    """A whole series in at most BUCKETS buckets of a power-of-two width; O(1) an added point.

    x is a step or a time, not negative; it may come back to earlier values (a resumed run).
    ``least``, ``most`` and ``least_positive`` are over all finite values; infinite while there
    are none.
    """

    def __init__(self) -> None:
        self.width = 1.0
        self.low = array("d")
        self.high = array("d")
        self.total = array("d")
        self.count = array("l")
        self.bad = array("l")
        self.last_x = 0.0
        self.last = math.nan
        self.least = math.inf
        self.most = -math.inf
        self.least_positive = math.inf
        self._spans: dict[int, Span] = {}
        self._spans_for = (0, 0.0)
        self._fresh_from = 0

    def add(self, x: float, y: float | None) -> None:
        index = self._reach(max(0.0, x))
        self._fresh_from = min(self._fresh_from, index)
        self.last_x = max(self.last_x, x)
        if y is None or not math.isfinite(y):
            self.bad[index] += 1
            self.last = math.nan
            return
        self.last = y
        self.count[index] += 1
        self.total[index] += y
        if y < self.low[index]:
            self.low[index] = y
            self.least = min(self.least, y)
            if y > 0:
                self.least_positive = min(self.least_positive, y)
        if y > self.high[index]:
            self.high[index] = y
            self.most = max(self.most, y)
        if 0 < y < self.least_positive:
            self.least_positive = y

    def _reach(self, x: float) -> int:
        """The bucket of an x; makes the buckets up to it, or makes all of them wider."""
        index = int(x / self.width)
        if index < len(self.low):
            return index
        while x / self.width >= BUCKETS:
            self._halve()
        index = int(x / self.width)
        self._lengthen(index + 1 - len(self.low))
        return index

    def _lengthen(self, missing: int) -> None:
        if missing > 0:
            self.low.extend([math.inf] * missing)
            self.high.extend([-math.inf] * missing)
            self.total.extend([0.0] * missing)
            self.count.extend([0] * missing)
            self.bad.extend([0] * missing)

    def _halve(self) -> None:
        """Join neighbours: half the buckets, twice as wide."""
        self._lengthen(len(self.low) % 2)
        self.low = array("d", map(min, self.low[::2], self.low[1::2]))
        self.high = array("d", map(max, self.high[::2], self.high[1::2]))
        self.total = array("d", map(add, self.total[::2], self.total[1::2]))
        self.count = array("l", map(add, self.count[::2], self.count[1::2]))
        self.bad = array("l", map(add, self.bad[::2], self.bad[1::2]))
        self.width *= 2
        self._fresh_from = 0

    def columns(self, count: int, per_column: float) -> dict[int, Span]:
        """The series in columns of ``per_column`` x units; only columns that hold something.

        Columns that no point came to since the last call are not summed up again.
        """
        if self._spans_for != (count, per_column):
            self._spans_for = (count, per_column)
            self._spans, self._fresh_from = {}, 0
        start = min(count - 1, int(self._fresh_from * self.width / per_column))
        for column in [column for column in self._spans if column >= start]:
            del self._spans[column]
        for index in range(int(start * per_column / self.width), len(self.low)):
            column = min(count - 1, int(index * self.width / per_column))
            if column >= start and (self.count[index] or self.bad[index]):
                self._add_to(column, index)
        self._fresh_from = len(self.low)
        return self._spans

    def _add_to(self, column: int, index: int) -> None:
        span = self._spans.get(column)
        if span is None:
            span = self._spans[column] = Span()
        span.add(
            self.low[index], self.high[index], self.total[index], self.count[index], self.bad[index]
        )


def x_per_column(last_x: float, columns: int, end: float | None) -> float:
    """x units a column. Without a known end it is a power of two, so that the picture stays put
    and fills half to all of the width."""
    if end:
        return max(end, last_x, 1.0) / max(1, columns - 1)
    per = 2.0 ** math.ceil(math.log2(max(last_x, 1.0) / max(1, columns - 1)))
    return per if last_x / per < columns else per * 2


def smooth(spans: dict[int, Span]) -> dict[int, float]:
    """A centred, count-weighted mean over neighbouring columns; as it is where they are few."""
    columns = sorted(column for column, span in spans.items() if span.count)
    reach = min(6, len(columns) // 30)
    if not reach:
        return {column: spans[column].mean for column in columns}
    totals, counts = [0.0], [0]
    for column in columns:
        totals.append(totals[-1] + spans[column].total)
        counts.append(counts[-1] + spans[column].count)
    found = {}
    for place, column in enumerate(columns):
        first, last = max(0, place - reach), min(len(columns), place + reach + 1)
        found[column] = (totals[last] - totals[first]) / (counts[last] - counts[first])
    return found


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


def linear_scale(low: float, high: float, most_ticks: int) -> Scale:
    """A range rounded outwards to a nice step, so that it holds still while data wiggle."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - (pad if low else 0.0), high + pad
    step = nice_step((high - low) / max(1, most_ticks - 1))
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


@dataclass
class Canvas:
    """Dots on character cells: 2 x 4 braille dots a cell, or 1 x 2 in plain ASCII.

    Each cell has one owner, the highest layer that set a dot in it; dots of lower layers vanish
    there, because a cell has one colour and a thick line would be a lie.
    """

    width: int
    height: int
    ascii: bool = False
    cells: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)

    @property
    def across(self) -> int:
        return 1 if self.ascii else 2

    @property
    def down(self) -> int:
        return 2 if self.ascii else 4

    @property
    def columns(self) -> int:
        return self.width * self.across

    @property
    def rows(self) -> int:
        return self.height * self.down

    def row(self, share: float) -> int:
        """The dot row of a share of the height; 0 is the top."""
        return round((1.0 - share) * (self.rows - 1))

    def dot(self, column: int, row: int, layer: int) -> None:
        if not (0 <= column < self.columns and 0 <= row < self.rows):
            return
        key = (column // self.across, row // self.down)
        bit = self._bit(column % self.across, row % self.down)
        owner, bits = self.cells.get(key, (-1, 0))
        if layer > owner:
            self.cells[key] = (layer, bit)
        elif layer == owner:
            self.cells[key] = (owner, bits | bit)

    def _bit(self, x: int, y: int) -> int:
        return 1 << y if self.ascii else _BRAILLE[x][y]

    def upright(self, column: int, first: int, last: int, layer: int) -> None:
        for row in range(min(first, last), max(first, last) + 1):
            self.dot(column, row, layer)

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
