"""Growing series of numbers that can be drawn at any zoom without reading them all.

`MinMaxPyramid` keeps the smallest and largest value of every 16, 256, 4096, ... neighbours. Values
that are not finite stay in place as gaps. One thread appends; others read through a `Series`,
which carries a length and shares the arrays, so a snapshot costs nothing however long the run.
"""

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

_BLOCK = 16
_NAN = float("nan")

Range = tuple[float, float]


class MinMaxPyramid:
    """An append-only series with the extremes of any range in logarithmic time."""

    def __init__(self, values: Iterable[float] = ()) -> None:
        self._values = array("d")
        self._low: list[array[float]] = []
        self._high: list[array[float]] = []
        for value in values:
            self.append(value)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> float:
        return self._values[index]

    def append(self, value: float) -> None:
        """Add one value; NaN or infinite makes a gap."""
        self._values.append(value if math.isfinite(value) else _NAN)
        low = high = self._values
        count, level = len(self._values), 0
        while count % _BLOCK == 0:
            if level == len(self._low):
                self._low.append(array("d"))
                self._high.append(array("d"))
            end = count - _BLOCK
            self._low[level].append(_smallest(low[end:count]))
            self._high[level].append(_largest(high[end:count]))
            low, high = self._low[level], self._high[level]
            count //= _BLOCK
            level += 1

    def range(self, start: int, end: int) -> Range:
        """Return the smallest and largest finite value of [start, end); (nan, nan) for a gap."""
        low = high = self._values
        least, most = math.inf, -math.inf
        level = 0
        while end - start > 2 * _BLOCK and level < len(self._low):
            first, last = -(-start // _BLOCK), end // _BLOCK
            inner_start, inner_end = first * _BLOCK, last * _BLOCK
            least = min(least, _smallest(low[start:inner_start]), _smallest(low[inner_end:end]))
            most = max(most, _largest(high[start:inner_start]), _largest(high[inner_end:end]))
            low, high = self._low[level], self._high[level]
            start, end = first, last
            level += 1
        least = min(least, _smallest(low[start:end]))
        most = max(most, _largest(high[start:end]))
        return (_NAN, _NAN) if least > most else (least, most)


@dataclass(frozen=True)
class Series:
    """A view of the first `length` points: steps (ascending, not always regular) and values."""

    steps: "array[float]"
    values: MinMaxPyramid
    length: int

    def __len__(self) -> int:
        return self.length

    def step(self, index: int) -> float:
        return self.steps[index]

    def value(self, index: int) -> float:
        """Return one value, nan for a gap."""
        return self.values[index]

    @property
    def last(self) -> float:
        """The newest value: nan for a gap or an empty series."""
        return self.values[self.length - 1] if self.length else _NAN

    def index_of(self, step: float) -> int:
        """Return the index of the first point at a step or after it; `length` when past the end."""
        return bisect_left(self.steps, step, 0, self.length)

    def range(self, start: int = 0, end: int | None = None) -> Range:
        """Return the extremes of points [start, end), (nan, nan) when all are gaps."""
        return self.values.range(max(0, start), self._end(end))

    def buckets(self, count: int, start: int = 0, end: int | None = None) -> list[Range]:
        """Return the extremes of `count` even parts of points [start, end).

        Fewer points than parts come back one by one. A gap is (nan, nan).
        """
        stop = self._end(end)
        size = max(0, stop - start)
        if size <= count:
            return [(self.values[i], self.values[i]) for i in range(start, stop)]
        edges = [start + part * size // count for part in range(count + 1)]
        return [self.values.range(a, b) for a, b in pairwise(edges)]

    def by_step(self, count: int, first: float, last: float) -> list[Range]:
        """Return the extremes of `count` even parts of the steps [first, last], for a time axis.

        A part without points is (nan, nan), as a gap is.
        """
        width = (last - first) / count if count else 0.0
        edges = [self.index_of(first + part * width) for part in range(count)]
        edges.append(bisect_left(self.steps, math.nextafter(last, math.inf), 0, self.length))
        return [self.values.range(a, b) for a, b in pairwise(edges)]

    def _end(self, end: int | None) -> int:
        return self.length if end is None else min(end, self.length)


class SeriesBuilder:
    """The writing end of a `Series`."""

    def __init__(self) -> None:
        self._steps = array("d")
        self._values = MinMaxPyramid()

    def append(self, step: float, value: float | None) -> None:
        """Add a point; None makes a gap. A step back drops what it goes back over."""
        if self._steps and step <= self._steps[-1]:
            self._go_back_to(step)
        self._values.append(_NAN if value is None else value)
        self._steps.append(step)

    def view(self) -> Series:
        """Return what is there now; later points leave the view as it is."""
        return Series(self._steps, self._values, len(self._steps))

    def _go_back_to(self, step: float) -> None:
        # New arrays: views of the old ones are still being drawn.
        keep = bisect_left(self._steps, step)
        self._values = MinMaxPyramid(self._values[index] for index in range(keep))
        self._steps = self._steps[:keep]


def _smallest(values: "array[float]") -> float:
    return min((value for value in values if value == value), default=math.inf)


def _largest(values: "array[float]") -> float:
    return max((value for value in values if value == value), default=-math.inf)
