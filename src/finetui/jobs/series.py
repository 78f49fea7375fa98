"""Growing series of numbers that can be drawn at any zoom without reading them all.

A `Pyramid` keeps extremes, sum and number of the finite values of every 64, 4096, 262144, ...
neighbours. Values that are not finite stay in place as gaps. One thread appends; others read
through a `Series`, which carries a length and shares the numbers, so a snapshot costs nothing
however long the run. The numbers of a long run lie in a digest's mapped file (see `digest`);
only what came since is in memory.
"""

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

_BLOCK = 64
_NAN = float("nan")

Range = tuple[float, float]
_NOTHING_FROZEN = memoryview(array("d"))


class Part(NamedTuple):
    """What fell into a stretch: extremes, sum and number of its finite values, number of others.

    `low` is inf and `high` -inf where `count` is 0.
    """

    low: float
    high: float
    total: float
    count: int  # type: ignore[assignment]
    bad: int


_NOTHING = Part(math.inf, -math.inf, 0.0, 0, 0)


class Column:
    """Numbers that only grow: a frozen beginning, and what was added since."""

    __slots__ = ("_fresh", "_frozen", "_since", "append", "extend")

    def __init__(
        self, frozen: "memoryview[float] | None" = None, fresh: Iterable[float] = ()
    ) -> None:
        self._frozen = _NOTHING_FROZEN if frozen is None else frozen
        self._since = len(self._frozen)
        self._fresh = array("d", fresh)
        self.append = self._fresh.append
        self.extend = self._fresh.extend

    def __len__(self) -> int:
        return self._since + len(self._fresh)

    def __getitem__(self, index: int) -> float:
        if index < self._since:
            return self._frozen[index]
        return self._fresh[index - self._since]

    def part(self, start: int, end: int) -> Sequence[float]:
        """Return the numbers of [start, end), a plain sequence."""
        since = self._since
        if start >= since:
            return self._fresh[start - since : end - since]
        if end <= since:
            return self._frozen[start:end].tolist()
        return self._frozen[start:].tolist() + self._fresh[: end - since].tolist()

    def find(self, number: float, start: int, end: int) -> int:
        """Return the place of the first that is not below `number`, for ascending numbers."""
        since = self._since
        if start < since and (end <= since or self._frozen[since - 1] >= number):
            return bisect_left(self._frozen, number, start, min(end, since))
        return since + bisect_left(self._fresh, number, max(0, start - since), end - since)

    def cut(self, length: int) -> "Column":
        """Return a column of its own with the first numbers of this one."""
        since = min(length, self._since)
        frozen = cast("memoryview[float]", self._frozen[:since])
        return Column(frozen, self._fresh[: length - since])

    def raw(self) -> "tuple[memoryview[int], memoryview[int]]":
        """Return the bytes of the frozen and of the fresh numbers, for writing them out."""
        return self._frozen.cast("B"), memoryview(self._fresh).cast("B")


@dataclass
class Level:
    """Extremes, sum and number of finite values of equal blocks of a series."""

    low: Column = field(default_factory=Column)
    high: Column = field(default_factory=Column)
    total: Column = field(default_factory=Column)
    count: Column = field(default_factory=Column)

    def __len__(self) -> int:
        return len(self.low)

    def columns(self) -> tuple[Column, Column, Column, Column]:
        return self.low, self.high, self.total, self.count

    def part(self, start: int, end: int) -> Part:
        """Return what blocks [start, end) have together; `bad` is left to who knows the length."""
        if end <= start:
            return _NOTHING
        return Part(
            min(self.low.part(start, end)),
            max(self.high.part(start, end)),
            sum(self.total.part(start, end)),
            int(sum(self.count.part(start, end))),
            0,
        )

    def add(self, part: Part) -> None:
        self.low.append(part.low)
        self.high.append(part.high)
        self.total.append(part.total)
        self.count.append(part.count)

    def cut(self, length: int) -> "Level":
        return Level(*(column.cut(length) for column in self.columns()))


class Pyramid:
    """An append-only series with the extremes and the mean of any range in logarithmic time."""

    def __init__(self, values: Column | None = None, levels: Sequence[Level] = ()) -> None:
        self.values = Column() if values is None else values
        self.levels = list(levels)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> float:
        return self.values[index]

    def settle(self) -> None:
        """Sum up the blocks that became full; `part` knows what was there at the last call."""
        self._fill(0, len(self.values) // _BLOCK)
        level = 0
        while level < len(self.levels) and len(self.levels[level]) >= _BLOCK:
            self._fill(level + 1, len(self.levels[level]) // _BLOCK)
            level += 1

    def part(self, start: int, end: int) -> Part:
        """Return what is in values [start, end)."""
        first, last = -(-start // _BLOCK), end // _BLOCK
        if not self.levels or last <= first:
            return self._raw(start, end)
        parts = [self._raw(start, first * _BLOCK), self._raw(last * _BLOCK, end)]
        level = 0
        while level + 1 < len(self.levels) and last - first > 2 * _BLOCK:
            above, below = -(-first // _BLOCK), last // _BLOCK
            here = self.levels[level]
            parts += here.part(first, above * _BLOCK), here.part(below * _BLOCK, last)
            first, last, level = above, below, level + 1
        parts.append(self.levels[level].part(first, last))
        low, high, total, count, _ = zip(*parts, strict=True)
        found = sum(count)
        return Part(min(low), max(high), sum(total), found, end - start - found)

    def cut(self, length: int) -> "Pyramid":
        """Return a pyramid of its own with the first values of this one."""
        counts = [length]
        while counts[-1] >= _BLOCK:
            counts.append(counts[-1] // _BLOCK)
        levels = [level.cut(count) for level, count in zip(self.levels, counts[1:], strict=False)]
        return Pyramid(self.values.cut(length), levels)

    def _raw(self, start: int, end: int) -> Part:
        if end <= start:
            return _NOTHING
        values = self.values.part(start, end)
        total = sum(values)
        if total != total:
            values = [value for value in values if value == value]
            total = sum(values)
        if not values:
            return Part(math.inf, -math.inf, 0.0, 0, end - start)
        return Part(min(values), max(values), total, len(values), end - start - len(values))

    def _fill(self, number: int, count: int) -> None:
        """Bring a level to `count` blocks, from the values or from the level below it."""
        if number == len(self.levels) and count:
            self.levels.append(Level())
        if not count:
            return
        source = self._raw if number == 0 else self.levels[number - 1].part
        level = self.levels[number]
        for block in range(len(level), count):
            level.add(source(block * _BLOCK, (block + 1) * _BLOCK))


@dataclass(frozen=True)
class Series:
    """A view of the first `length` points: steps (ascending, not always regular) and values."""

    steps: Column
    values: Pyramid
    length: int

    def __len__(self) -> int:
        return self.length

    @property
    def source(self) -> object:
        """The same object as long as old points stay as they were; another after a step back."""
        return self.values

    def step(self, index: int) -> float:
        return self.steps[index]

    def value(self, index: int) -> float:
        """Return one value, nan for a gap."""
        return self.values[index]

    @property
    def last(self) -> float:
        """The newest value: nan for a gap or an empty series."""
        return self.values[self.length - 1] if self.length else _NAN

    @property
    def last_step(self) -> float:
        """The newest step: 0 for an empty series."""
        return self.steps[self.length - 1] if self.length else 0.0

    def index_of(self, step: float) -> int:
        """Return the index of the first point at a step or after it; `length` when past the end."""
        return self.steps.find(step, 0, self.length)

    def range(self, start: int = 0, end: int | None = None) -> Range:
        """Return the extremes of points [start, end), (nan, nan) when all are gaps."""
        stop = self.length if end is None else min(end, self.length)
        part = self.values.part(max(0, start), stop)
        return (part.low, part.high) if part.count else (_NAN, _NAN)

    def parts(self, start: float, width: float, count: int) -> list[Part]:
        """Return what fell into each of `count` columns of `width` steps, the first from `start`.

        A point at a column's end belongs to the next one.
        """
        found = []
        here = self.index_of(start)
        for column in range(1, count + 1):
            if here == self.length:
                found.append(_NOTHING)
                continue
            end = self.steps.find(start + column * width, here, self.length)
            found.append(self.values.part(here, end) if end > here else _NOTHING)
            here = end
        return found


class SeriesBuilder:
    """The writing end of a `Series`."""

    def __init__(self, steps: Column | None = None, values: Pyramid | None = None) -> None:
        self.steps = Column() if steps is None else steps
        self.values = Pyramid() if values is None else values
        self._last = self.steps[len(self.steps) - 1] if len(self.steps) else -math.inf

    def append(self, step: float, value: float | None) -> None:
        """Add a point; None makes a gap. A step back drops what it goes back over."""
        if step <= self._last:
            self._go_back_to(step)
        self._last = step
        # Infinity times zero is nan, as nan is: only a finite number passes.
        finite = value is not None and value * 0.0 == 0.0
        self.values.values.append(value if finite else _NAN)  # type: ignore[arg-type]
        self.steps.append(step)

    def extend(self, steps: "array[float]", values: "array[float]") -> None:
        """Add points whose steps ascend from the newest on, and whose values are all finite."""
        self._last = steps[-1]
        self.values.values.extend(values)
        self.steps.extend(steps)

    def rewind(self, step: float) -> None:
        """Drop the points past `step`: they are made again."""
        if self._last > step:
            self._go_back_to(math.nextafter(step, math.inf))
            self._last = self.steps[len(self.steps) - 1] if len(self.steps) else -math.inf

    def view(self) -> Series:
        """Return what is there now; later points leave the view as it is."""
        self.values.settle()
        return Series(self.steps, self.values, len(self.steps))

    def _go_back_to(self, step: float) -> None:
        # New numbers: views of the old ones are still being drawn.
        self.values.settle()
        keep = self.steps.find(step, 0, len(self.steps))
        self.steps = self.steps.cut(keep)
        self.values = self.values.cut(keep)


EMPTY = Series(Column(), Pyramid(), 0)
