"""A seeded draw from rows that stream by."""

from __future__ import annotations

from typing import Generic, TypeVar

import xxhash

T = TypeVar("T")


class Draw(Generic[T]):
    """At most ``size`` of the rows offered: those whose numbers have the lowest hashes, so the
    same rows are drawn every time, and a longer file keeps most of a shorter one's draw."""

    def __init__(self, size: int) -> None:
        self._size, self._limit = size, 1 << 64
        self._kept: list[tuple[int, int, T]] = []
        self.offered = 0

    def offer(self, row: int, item: T) -> None:
        self.offered += 1
        rank = xxhash.xxh3_64_intdigest(row.to_bytes(8, "little"))
        if rank < self._limit:
            self._kept.append((rank, row, item))
            if len(self._kept) >= 2 * self._size:
                self._shrink()

    def _shrink(self) -> None:
        self._kept.sort(key=lambda entry: entry[0])
        del self._kept[self._size :]
        if len(self._kept) == self._size:
            self._limit = self._kept[-1][0]

    def in_file_order(self) -> list[T]:
        self._shrink()
        return [item for _, _, item in sorted(self._kept, key=lambda entry: entry[1])]

    def shuffled(self) -> list[T]:
        """In an order that has nothing to do with the file's: any stretch is a fair part."""
        self._shrink()
        return [item for _, _, item in self._kept]
