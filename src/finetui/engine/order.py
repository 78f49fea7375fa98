"""What is trained on next: rows in the recipe's order, less those that somebody took out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from random import Random

from torch.utils.data import Dataset, Sampler

from finetui.engine.batches import Row

# Batches of like length are made within so many batches, so that epochs still differ.
_POOL = 50


class TrainingRows(Dataset[Row]):
    """The rows of a run. Examples can be taken out while it trains, also out of packed rows."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = list(rows)
        self._out: set[tuple[int, int]] = set()

    def __len__(self) -> int:
        """The number of rows, whatever was taken out: the length of an epoch stays."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        row = self._rows[index]
        return tuple(item for item in row if self._has(item.file, item.line)) if self._out else row

    @property
    def all(self) -> Sequence[Row]:
        """The rows as they were at first."""
        return self._rows

    def length(self, index: int) -> int:
        """Tokens of a row."""
        return sum(map(len, self._rows[index]))

    def usable(self, index: int) -> bool:
        """Whether anything is left of a row."""
        return not self._out or any(self._has(one.file, one.line) for one in self._rows[index])

    def exclude(self, sources: Iterable[Sequence[int]]) -> list[list[int]]:
        """Take (file, line) out from now on and return those of them that were there.

        Nothing is taken out when nothing would be left: the answer is then empty.
        """
        before = set(self._out)
        there = {(item.file, item.line) for row in self._rows for item in row} - before
        found = [list(source) for source in sources if tuple(source) in there]
        self._out |= {(file, line) for file, line in found}
        if any(self.usable(index) for index in range(len(self))):
            return found
        self._out = before
        return []

    @property
    def out(self) -> list[list[int]]:
        """What was taken out, (file, line) each."""
        return [list(source) for source in sorted(self._out)]

    def _has(self, file: int, line: int) -> bool:
        return (file, line) not in self._out


@dataclass(frozen=True)
class Position:
    """How far an epoch is: rows handed out, and where in which pass over the rows that was.

    ``update`` is the rows of one update by which the epoch was ordered. A second pass is begun
    where rows that were taken out are replaced.
    """

    epoch: int = 0
    consumed: int = 0
    passes: int = 0
    place: int = 0
    update: int = 1


class Order(Sampler[int]):
    """The rows of one epoch: ``random``, ``length`` (rows of like length together), or ``file``.

    Depends on the seed and the epoch alone, so a run that goes on sees the same rows. ``length``
    begins with the longest rows: memory runs out at once or never. Where a row was taken out,
    another one of the epoch takes its place. ``position`` is where it is; `go_to` sets where the
    next iteration begins.
    """

    def __init__(self, rows: TrainingRows, how: str, update: int, seed: int) -> None:
        """``update`` is the number of rows of one update, over all processes."""
        self._rows, self._how, self._update, self._seed = rows, how, update, seed
        self.epoch = 0
        self.position = Position(update=update)
        self._next: Position | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def left(self) -> int:
        """Rows of this epoch that are still to come."""
        return len(self._rows) - (self._next or self.position).consumed

    @property
    def epochs(self) -> float:
        """Epochs that were gone through."""
        return self.position.epoch + self.position.consumed / max(1, len(self._rows))

    def begin(self, epoch: int) -> None:
        """The next iteration goes through ``epoch``, from its start unless `go_to` said more."""
        self.epoch = epoch
        if self._next is not None and self._next.epoch != epoch:
            self._next = None
        self.position = self._next or Position(epoch, update=self._update)

    def go_to(self, position: Position) -> None:
        """Begin the next iteration behind ``position``; at an epoch's end, with the next epoch."""
        if position.consumed >= len(self._rows):
            position = Position(position.epoch + 1, update=self._update)
        self._next = self.position = position
        self.epoch = position.epoch

    def __iter__(self) -> Iterator[int]:
        at, self._next = self._next or Position(self.epoch, update=self._update), None
        left, passes, start = len(self._rows) - at.consumed, at.passes, at.place
        while left > 0:
            for place, index in enumerate(self._places(at.update)):
                if place >= start and left > 0 and self._rows.usable(index):
                    left -= 1
                    self.position = Position(
                        at.epoch, len(self._rows) - left, passes, place + 1, at.update
                    )
                    yield index
            passes, start = passes + 1, 0

    def _places(self, update: int) -> list[int]:
        places = list(range(len(self._rows)))
        if self._how == "file":
            return places
        random = Random(f"{self._seed} {self.epoch}")
        random.shuffle(places)
        return self._by_length(places, random, update) if self._how == "length" else places

    def _by_length(self, places: list[int], random: Random, update: int) -> list[int]:
        """Updates of rows of like length, in random order, the longest first."""
        pool = _POOL * update
        updates: list[list[int]] = []
        for start in range(0, len(places), pool):
            near = sorted(places[start : start + pool], key=self._rows.length, reverse=True)
            updates += [near[i : i + update] for i in range(0, len(near), update)]
        *whole, last = updates
        random.shuffle(whole)
        if whole:
            longest = max(range(len(whole)), key=lambda i: self._rows.length(whole[i][0]))
            whole[0], whole[longest] = whole[longest], whole[0]
        return [index for update in [*whole, last] for index in update]


class Updates(Sampler[list[int]]):
    """The batches of one process, cut from whole updates of the order.

    Every process takes the rows of all, so that what is taken out at the edge of a step is out at
    the same place everywhere. Of each ``batch`` x ``world`` rows, process ``rank`` has its part.
    """

    def __init__(
        self, order: Order, batch: int, accumulation: int, world: int = 1, rank: int = 0
    ) -> None:
        self.order, self._accumulation = order, accumulation
        self._batch, self._world, self._rank = batch, world, rank
        self._idle: list[bool] = []

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self.batches(len(self.order))

    def batches(self, rows: int) -> int:
        """Batches that so many rows make."""
        return -(-rows // (self._batch * self._world))

    def updates(self, rows: int) -> int:
        """Updates that so many rows make."""
        return -(-self.batches(rows) // self._accumulation)

    def __iter__(self) -> Iterator[list[int]]:
        together = self._batch * self._world
        rows = iter(self.order)
        while update := list(islice(rows, together * self._accumulation)):
            for start in range(0, len(update), together):
                yield self._mine(update[start : start + together])

    def taken(self, count: int) -> list[bool]:
        """Of each of the last ``count`` batches, whether it is idle: no rows were left for it."""
        taken, self._idle = self._idle[-count:] if count else [], []
        return taken

    def _mine(self, rows: list[int]) -> list[int]:
        mine = rows[self._rank * self._batch : (self._rank + 1) * self._batch]
        self._idle.append(not mine)
        # All processes go through the model equally often: another one's row serves.
        return mine or rows[:1]


@dataclass
class Ordered:
    """A short hash over the rows of all updates so far, in order.

    Two runs with the same hash at a step were trained on the same rows in the same updates. The
    rows of one update are sorted: how many processes shared them does not count.
    """

    digest: str = ""

    def add(self, sources: Sequence[Sequence[int]]) -> None:
        """Take in the (file, line) of the rows of one update."""
        text = f"{self.digest} {sorted(map(list, sources))}"
        self.digest = blake2b(text.encode(), digest_size=8).hexdigest()
