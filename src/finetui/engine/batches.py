"""Examples into batches: padding, or several examples in a row that cannot see each other."""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from finetui.data.tokens import Encoded
from finetui.engine.losses import IGNORE


@dataclass(frozen=True)
class Example:
    """One encoded row. ``file`` counts in the list of data files, ``line`` is 1-based.

    ``labels`` is the token where it is trained and IGNORE elsewhere; the first one is always
    IGNORE, as nothing comes before it that could predict it.
    """

    ids: array[int]
    labels: array[int]
    file: int
    line: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def trained_tokens(self) -> int:
        return len(self.labels) - self.labels.count(IGNORE)

    @property
    def sequences(self) -> tuple[Example, ...]:
        return (self,)


@dataclass(frozen=True)
class Pair:
    """A prompt with the answer that was chosen and the one that was not.

    ``reference`` has both answers' log-probabilities (nats) under the model before training.
    """

    chosen: Example
    rejected: Example
    reference: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.chosen) + len(self.rejected)

    @property
    def file(self) -> int:
        return self.chosen.file

    @property
    def line(self) -> int:
        return self.chosen.line

    @property
    def trained_tokens(self) -> int:
        return self.chosen.trained_tokens + self.rejected.trained_tokens

    @property
    def sequences(self) -> tuple[Example, ...]:
        return (self.chosen, self.rejected)


@dataclass(frozen=True)
class Labelled:
    """An answer that is good or bad, and the same prompt with the answer of another row.

    ``reference`` has the log-probabilities (nats) of both before training.
    """

    answer: Example
    mismatched: Example
    good: bool
    reference: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.answer)

    @property
    def file(self) -> int:
        return self.answer.file

    @property
    def line(self) -> int:
        return self.answer.line

    @property
    def trained_tokens(self) -> int:
        return self.answer.trained_tokens

    @property
    def sequences(self) -> tuple[Example, ...]:
        return (self.answer,)


AnyExample: TypeAlias = Example | Pair | Labelled
Row: TypeAlias = tuple[AnyExample, ...]


@dataclass(frozen=True)
class Contents:
    """What is in a batch: real and trained tokens, and (file, line) of each example.

    ``row_items`` has, in the order of ``sources``, what a row's loss is a sum over: its trained
    tokens, or 1 for a pair or a labelled answer. An ``idle`` batch counts for nothing: a process
    that has no rows left goes through it for the sake of the others.
    """

    tokens: int
    trained_tokens: int
    sources: list[list[int]]
    row_items: list[int]
    idle: bool = False


NOTHING = Contents(0, 0, [], [], idle=True)


def example(encoded: Encoded, file: int, line: int) -> Example:
    """An encoded chat as an example to train on."""
    labels = array(
        "i",
        (
            token if trained else IGNORE
            for token, trained in zip(encoded.ids, encoded.trained, strict=True)
        ),
    )
    if labels:
        labels[0] = IGNORE
    return Example(array("i", encoded.ids), labels, file, line)


def pieces(whole: Example, length: int) -> list[Example]:
    """A long document as examples of at most ``length`` tokens, one behind the other."""
    if len(whole) <= length:
        return [whole]
    found = []
    for start in range(0, len(whole), length):
        labels = whole.labels[start : start + length]
        labels[0] = IGNORE
        found.append(Example(whole.ids[start : start + length], labels, whole.file, whole.line))
    return found


def pack(examples: Iterable[AnyExample], capacity: int) -> list[Row]:
    """Fill rows of ``capacity`` tokens, longest example first into the fullest row it fits.

    Best-fit decreasing; an example longer than ``capacity`` gets a row of its own.
    """
    open_rows: dict[int, list[list[AnyExample]]] = {}
    rooms: list[int] = []  # sorted; the room left in the open rows, each size once
    rows: list[list[AnyExample]] = []
    for item in sorted(examples, key=len, reverse=True):
        place = bisect.bisect_left(rooms, len(item))
        if place == len(rooms):
            row, room = [item], capacity - len(item)
            rows.append(row)
        else:
            size = rooms[place]
            row = open_rows[size].pop()
            if not open_rows[size]:
                del open_rows[size], rooms[place]
            row.append(item)
            room = size - len(item)
        if room > 0:
            if room not in open_rows:
                open_rows[room] = []
                bisect.insort(rooms, room)
            open_rows[room].append(row)
    return [tuple(row) for row in rows]


def pack_in_order(examples: Iterable[AnyExample], capacity: int) -> list[Row]:
    """Fill one row after the other and keep the order of the examples (next fit)."""
    rows: list[list[AnyExample]] = []
    room = 0
    for item in examples:
        if not rows or len(item) > room:
            rows.append([])
            room = capacity
        rows[-1].append(item)
        room -= len(item)
    return [tuple(row) for row in rows]


def single(examples: Iterable[AnyExample]) -> list[Row]:
    """One example a row."""
    return [(item,) for item in examples]


@dataclass(frozen=True)
class Collator:
    """Rows into tensors (B, T), T rounded up to ``multiple`` so that few shapes occur.

    Packed rows carry position ids that restart with each sequence and *no* attention mask:
    transformers then keeps the sequences apart, while any mask, even all ones, lets them leak into
    each other (difference in logits 0.476 against 2e-7). The padding behind them counts as a
    sequence of its own. Rows that are not packed put each sequence on a line of its own,
    right-padded under a mask. ``flat`` puts everything on one line, for attention without padding.

    What the losses need is worked out here, on the CPU, so that a GPU never waits for it. N is
    the number of trained tokens, S of sequences (a pair has two: chosen, then rejected)::

        columns (K,)  positions of which some row predicts a trained token
        places  (N,)  where each trained token is predicted, counted in the (B, K) grid
        targets (N,)  the trained tokens
        owners  (N,)  the sequence that each belongs to
        trained (S,)  trained tokens of each sequence
    """

    pad_id: int
    packed: bool = False
    multiple: int = 8
    flat: bool = False

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        return self.tensors(rows) | {"contents": _contents(rows)}

    def tensors(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The tensors alone, without what is in them."""
        lines = self._lines(rows)
        longest = max(sum(map(len, line)) for line in lines)
        shape = (len(lines), -(-longest // self.multiple) * self.multiple)
        ids = torch.full(shape, self.pad_id, dtype=torch.long)
        labels = torch.full(shape, IGNORE, dtype=torch.long)
        owners = torch.full(shape, -1, dtype=torch.long)
        positions = torch.arange(shape[1]).repeat(shape[0], 1)
        number = 0
        for index, line in enumerate(lines):
            start = 0
            for item in line:
                end = start + len(item)
                ids[index, start:end] = torch.tensor(item.ids)
                labels[index, start:end] = torch.tensor(item.labels)
                owners[index, start:end] = number
                positions[index, start:end] -= start
                start, number = end, number + 1
            positions[index, start:] -= start
        together = self.packed or self.flat
        apart = (
            {"position_ids": positions} if together else {"attention_mask": (owners >= 0).long()}
        )
        return {"input_ids": ids, "labels": labels, **apart, **_predictions(labels, owners, number)}

    def _lines(self, rows: Sequence[Row]) -> list[list[Example]]:
        """The sequences of each line of the batch."""
        groups = [[one for item in row for one in item.sequences] for row in rows]
        if self.flat:
            return [[one for group in groups for one in group]]
        return groups if self.packed else [[one] for group in groups for one in group]


Collate: TypeAlias = Callable[[Sequence[Row]], dict[str, Any]]


def on_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch's tensors on ``device``, those of the batches inside it too."""
    return {
        name: on_device(part, device) if isinstance(part, Mapping) else part.to(device)
        for name, part in batch.items()
        if name != "contents"
    }


def _predictions(
    labels: torch.Tensor, owners: torch.Tensor, sequences: int
) -> dict[str, torch.Tensor]:
    """Where the trained tokens are predicted, and whose they are."""
    wanted = labels[:, 1:] != IGNORE
    columns = wanted.any(dim=0).nonzero()[:, 0]
    if columns.numel() == 0:
        columns = columns.new_zeros(1)
    chosen = wanted[:, columns]
    whose = owners[:, 1:][:, columns][chosen]
    return {
        "columns": columns,
        "places": chosen.flatten().nonzero()[:, 0],
        "targets": labels[:, 1:][:, columns][chosen],
        "owners": whose,
        "trained": torch.bincount(whose, minlength=sequences),
    }


def _contents(rows: Sequence[Row]) -> Contents:
    items = [item for row in rows for item in row]
    return Contents(
        tokens=sum(map(len, items)),
        trained_tokens=sum(item.trained_tokens for item in items),
        sources=[[item.file, item.line] for item in items],
        row_items=[item.trained_tokens if isinstance(item, Example) else 1 for item in items],
    )
