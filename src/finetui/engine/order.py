"""What is trained on next: rows in the recipe's order, less those that somebody took out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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

    def _has(self, file: int, line: int) -> bool:
        return (file, line) not in self._out


class Order(Sampler[int]):
    """The rows of one epoch: ``random``, ``length`` (rows of like length together), or ``file``.

    Depends on the seed and the epoch alone, so a run that goes on sees the same rows. ``length``
    begins with the longest rows: memory runs out at once or never. Where a row was taken out,
    another one of the epoch takes its place.
    """

    def __init__(self, rows: TrainingRows, how: str, update: int, seed: int) -> None:
        """``update`` is the number of rows of one update."""
        self._rows, self._how, self._update, self._seed = rows, how, update, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[int]:
        left = len(self._rows)
        while left:
            for index in self._places():
                if left and self._rows.usable(index):
                    left -= 1
                    yield index

    def _places(self) -> list[int]:
        places = list(range(len(self._rows)))
        if self._how == "file":
            return places
        random = Random(f"{self._seed} {self.epoch}")
        random.shuffle(places)
        return self._by_length(places, random) if self._how == "length" else places

    def _by_length(self, places: list[int], random: Random) -> list[int]:
        """Updates of rows of like length, in random order, the longest first."""
        pool = _POOL * self._update
        updates: list[list[int]] = []
        for start in range(0, len(places), pool):
            near = sorted(places[start : start + pool], key=self._rows.length, reverse=True)
            updates += [near[i : i + self._update] for i in range(0, len(near), self._update)]
        *whole, last = updates
        random.shuffle(whole)
        if whole:
            longest = max(range(len(whole)), key=lambda i: self._rows.length(whole[i][0]))
            whole[0], whole[longest] = whole[longest], whole[0]
        return [index for update in [*whole, last] for index in update]
