"""The loss of each row at each step: fixed-size records, appended by the worker, read by anyone.

    rows-a<N>.bin   16 bytes of head, then 24 bytes a row and step:
                    line u32, file u32 | step u32, items u32 | loss f32, flags u32   (little-endian)

`file` counts in the files of the job's data event, `line` is 1-based, `loss` is summed over
`items`: the row's trained tokens, or 1 for a pair. Steps never go down within a file. The layout
is three words of eight bytes, so that a file is searched without unpacking it.
"""

import math
import mmap
import os
import struct
import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetui.jobs.folder import Job, attempt_of

_HEAD = b"finetui rows 1\n\0"
_RECORD = struct.Struct("<IIIIfI")
_KEY = struct.Struct("<II")
_STEP = struct.Struct("<I")
_STEP_AT = 8
_WORDS = _RECORD.size // 8
_SKIPPED = 1
_KEPT_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class RowLoss:
    """One row in one update. `skipped` is True when the update was not made."""

    step: int
    file: int
    line: int
    items: int
    loss: float
    skipped: bool = False

    @property
    def mean(self) -> float:
        """The loss of a trained token, or of the pair."""
        return self.loss / max(self.items, 1)


@dataclass(frozen=True, slots=True)
class Stubborn:
    """A row that was trained on several times: its mean loss at first and now."""

    file: int
    line: int
    visits: int
    first: float
    newest: float


class RowLossWriter:
    """The one writer of an attempt's file. Never raises for a full disk.

    Records that find no room wait in memory, up to some megabytes, and go before the next ones.
    """

    def __init__(self, job: Job, attempt: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(path_of(job, attempt), flags, 0o600)
        size = os.fstat(self._file).st_size
        torn = size if size < len(_HEAD) else (size - len(_HEAD)) % _RECORD.size
        if torn:
            os.ftruncate(self._file, size - torn)
        self._rest = b"" if size - torn else _HEAD

    def append(
        self,
        step: int,
        sources: Sequence[Sequence[int]],
        losses: Sequence[float],
        items: Sequence[int],
        skipped: bool = False,
    ) -> bool:
        """Add the rows of one update, (file, line) each; True when the kernel has all of it."""
        flags = _SKIPPED if skipped else 0
        return self._append(
            b"".join(
                _RECORD.pack(line, file, step, count, loss, flags)
                for (file, line), loss, count in zip(sources, losses, items, strict=True)
            )
        )

    def close(self) -> None:
        self._append(b"")
        os.close(self._file)

    def _append(self, data: bytes) -> bool:
        if len(self._rest) + len(data) <= _KEPT_BYTES:
            self._rest += data
        try:
            # A disk that fills up takes a part: the rest goes first, or all is displaced.
            self._rest = self._rest[os.write(self._file, self._rest) :]
        except OSError:
            return False
        return not self._rest


class RowLosses:
    """Looks into a job's row losses; nothing is kept open, so a growing file is seen as it is."""

    def __init__(self, job: Job) -> None:
        self._job = job

    @property
    def last_step(self) -> int | None:
        """The newest step that was recorded, None where nothing was."""
        steps = [_step(view, count - 1) for view, count in self._views() if count]
        return steps[-1] if steps else None

    def rows_at(self, step: int) -> list[RowLoss]:
        """The rows of one update, highest mean loss first; [] when it was not recorded."""
        return self.rows_between(step, step)

    def rows_between(self, first: int, last: int) -> list[RowLoss]:
        """The rows of the updates from `first` to `last`, highest mean loss first.

        A step that a later attempt made again counts as that attempt made it.
        """
        found: dict[int, list[RowLoss]] = {}
        for view, count in self._views():
            mine: dict[int, list[RowLoss]] = {}
            for index in range(_first_at(view, first), min(count, _first_at(view, last + 1))):
                row = _row(view, index)
                mine.setdefault(row.step, []).append(row)
            found |= mine
        return sorted((row for rows in found.values() for row in rows), key=_badness, reverse=True)

    def history(self, file: int, line: int) -> list[RowLoss]:
        """Every visit to one row, oldest first; those that were made again once."""
        wanted = _KEY.pack(line, file)
        return [
            _row(view, index)
            for view, count in self._views()
            for index in _places(view, wanted)
            if index < count
        ]

    def stubborn(self, count: int, visits: int = 2) -> list[Stubborn]:
        """The rows with the highest newest mean loss of those seen at least `visits` times.

        One pass over the newest attempt's file: about 1.5 s a million records.
        """
        for view, count_here in reversed(list(self._views())):
            if count_here:
                return _stubborn(view, count, visits)
        return []

    def _views(self) -> Iterator[tuple[mmap.mmap, int]]:
        """Each attempt's file with how many of its records count: an attempt makes all steps from
        its first one on again."""
        paths = sorted(self._job.path.glob("rows-a*.bin"), key=attempt_of)
        views = [view for path in paths if (view := _mapped(path)) is not None]
        firsts = [_step(view, 0) if _count(view) else sys.maxsize for view in views]
        for place, view in enumerate(views):
            again = min(firsts[place + 1 :], default=sys.maxsize)
            yield view, _count(view) if again == sys.maxsize else _first_at(view, again)


def path_of(job: Job, attempt: int) -> Path:
    """The file of one attempt."""
    return job.path / f"rows-a{attempt}.bin"


def _mapped(path: Path) -> mmap.mmap | None:
    try:
        with path.open("rb") as file:
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # gone, or still empty
        return None
    return view if view[: len(_HEAD)] == _HEAD else None


def _count(view: mmap.mmap) -> int:
    return (len(view) - len(_HEAD)) // _RECORD.size


def _place(index: int) -> int:
    return len(_HEAD) + index * _RECORD.size


def _step(view: mmap.mmap, index: int) -> int:
    step: int = _STEP.unpack_from(view, _place(index) + _STEP_AT)[0]
    return step


def _row(view: mmap.mmap, index: int) -> RowLoss:
    line, file, step, items, loss, flags = _RECORD.unpack_from(view, _place(index))
    return RowLoss(step, file, line, items, loss, bool(flags & _SKIPPED))


def _first_at(view: mmap.mmap, step: int) -> int:
    """The first record of `step` or a later one; the count of records when there is none."""
    low, high = 0, _count(view)
    while low < high:
        middle = (low + high) // 2
        if _step(view, middle) < step:
            low = middle + 1
        else:
            high = middle
    return low


def _places(view: mmap.mmap, wanted: bytes) -> Iterator[int]:
    """The records that begin with `wanted`, found as bytes and then held to their places."""
    place, end = view.find(wanted, len(_HEAD)), _place(_count(view))
    while 0 <= place < end:
        index, rest = divmod(place - len(_HEAD), _RECORD.size)
        if rest == 0:
            yield index
        place = view.find(wanted, place + 1)


def _stubborn(view: mmap.mmap, count: int, visits: int) -> list[Stubborn]:
    words = array("Q", view[len(_HEAD) : _place(_count(view))])
    if sys.byteorder == "big":
        words.byteswap()
    keys = words[::_WORDS]
    times = Counter(keys)
    newest = dict(zip(keys, range(len(keys)), strict=True))
    first = dict(zip(reversed(keys), range(len(keys) - 1, -1, -1), strict=True))
    often = [key for key, seen in times.items() if seen >= visits]
    worst = sorted((_row(view, newest[key]) for key in often), key=_badness, reverse=True)[:count]
    found = []
    for row in worst:
        key = int.from_bytes(_KEY.pack(row.line, row.file), "little")
        began = _row(view, first[key]).mean
        found.append(Stubborn(row.file, row.line, times[key], began, row.mean))
    return found


def _badness(row: RowLoss) -> float:
    """What rows are sorted by: a loss that is no number is worse than any."""
    return math.inf if math.isnan(row.mean) else row.mean
