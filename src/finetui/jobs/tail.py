"""The complete lines that a growing file gained since the last look, from any byte on."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

READ_BYTES = 4 << 20
"""What one look takes in at most unless told otherwise: about 20 ms of reading lines."""


class LineTail:
    """Reads a file that only grows; one that was replaced or cut is read from its start.

    `position` is the byte after the last complete line that was handed out.
    """

    def __init__(self, path: Path, position: int = 0) -> None:
        self.path = path
        self.position = position
        self._inode = 0

    @property
    def behind(self) -> int:
        """How many bytes have not been handed out."""
        try:
            return max(0, self.path.stat().st_size - self.position)
        except OSError:
            return 0

    def read(self, limit: int = READ_BYTES) -> list[bytes]:
        """Return complete lines, at least one where there is one and about `limit` bytes."""
        try:
            found = self.path.stat()
        except OSError:
            return []
        if not stat.S_ISREG(found.st_mode):
            return []
        if (self._inode and found.st_ino != self._inode) or found.st_size < self.position:
            self.position = 0
        self._inode = found.st_ino
        if found.st_size == self.position:
            return []
        data = self._complete(limit)
        self.position += len(data)
        return [line for line in data.split(b"\n") if line]

    def skim(self, count: int, size: int, end: int) -> Iterator[list[bytes]]:
        """Yield the complete lines of `count` blocks of `size` bytes spread evenly over what is
        left but for its last `end` bytes, and go on there. Nothing where that is no shortcut."""
        start, stop = self.position, self.position + self.behind - end
        if stop - start <= count * size:
            return
        with self.path.open("rb") as file:
            for number in range(count):
                at = start + number * (stop - start - size) // max(1, count - 1)
                data = os.pread(file.fileno(), size, at)
                first = 0 if at == start else data.find(b"\n") + 1
                last = data.rfind(b"\n") + 1
                self.position = at + max(first, last)
                yield [line for line in data[first:last].split(b"\n") if line]

    def _complete(self, limit: int) -> bytes:
        """The bytes from here to the last newline within the limit, or to the next after it."""
        with self.path.open("rb") as file:
            file.seek(self.position)
            data = file.read(limit)
            end = data.rfind(b"\n")
            if end < 0 and len(data) == limit:
                data += file.readline()
                end = len(data) - 1 if data.endswith(b"\n") else -1
        return data[: end + 1]
