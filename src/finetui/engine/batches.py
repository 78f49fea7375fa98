"""Examples into batches: padding, or several examples in a row that cannot see each other."""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Sequence
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


Row: TypeAlias = tuple[Example, ...]


@dataclass(frozen=True)
class Contents:
    """What is in a batch: real and trained tokens, and (file, line) of each example."""

    tokens: int
    trained_tokens: int
    sources: list[list[int]]


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


def pack(examples: Sequence[Example], capacity: int) -> list[Row]:
    """Fill rows of ``capacity`` tokens, longest example first into the fullest row it fits.

    Best-fit decreasing; an example longer than ``capacity`` gets a row of its own.
    """
    open_rows: dict[int, list[list[Example]]] = {}
    rooms: list[int] = []  # sorted; the room left in the open rows, each size once
    rows: list[list[Example]] = []
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


def single(examples: Sequence[Example]) -> list[Row]:
    """One example a row."""
    return [(item,) for item in examples]


@dataclass(frozen=True)
class Collator:
    """Rows into tensors (B, T), T rounded up to ``multiple`` so that few shapes occur.

    Packed rows carry position ids that restart with each example and *no* attention mask:
    transformers then keeps the examples apart, while any mask, even all ones, lets them leak into
    each other (difference in logits 0.476 against 2e-7). The padding behind them counts as an
    example of its own. Rows of one example are right-padded under a mask.
    """

    pad_id: int
    packed: bool = False
    multiple: int = 8

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        longest = max(sum(map(len, row)) for row in rows)
        shape = (len(rows), -(-longest // self.multiple) * self.multiple)
        ids = torch.full(shape, self.pad_id, dtype=torch.long)
        labels = torch.full(shape, IGNORE, dtype=torch.long)
        real = torch.zeros(shape, dtype=torch.long)
        positions = torch.arange(shape[1]).repeat(shape[0], 1)
        for index, row in enumerate(rows):
            start = 0
            for item in row:
                end = start + len(item)
                ids[index, start:end] = torch.tensor(item.ids)
                labels[index, start:end] = torch.tensor(item.labels)
                real[index, start:end] = 1
                positions[index, start:end] -= start
                start = end
            positions[index, start:] -= start
        apart = {"position_ids": positions} if self.packed else {"attention_mask": real}
        return {"input_ids": ids, "labels": labels, **apart, "contents": _contents(rows)}


def _contents(rows: Sequence[Row]) -> Contents:
    items = [item for row in rows for item in row]
    return Contents(
        tokens=sum(map(len, items)),
        trained_tokens=sum(item.trained_tokens for item in items),
        sources=[[item.file, item.line] for item in items],
    )
