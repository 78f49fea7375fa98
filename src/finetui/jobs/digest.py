"""A long run's history in one file that opens at once, whatever its length.

The file holds the ledger (see `history`) and the numbers of all curves with their pyramids as
they are in memory, so a reader maps it and reads only what it draws. It is a cache: it says how
far into the event files it goes, and one that does not fit them, or is damaged, counts as absent.

`python -m finetui.jobs.digest JOB CACHE` brings a digest up to date, in a process of its own so
that no screen waits for it.
"""

import gc
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import msgspec

from finetui.jobs import locks
from finetui.jobs.folder import Job
from finetui.jobs.history import History, Ledger
from finetui.jobs.reading import Reading
from finetui.jobs.series import Column, Level, Pyramid, SeriesBuilder
from finetui.workspace import new_file

_MAGIC = b"finetui digest 1\n"
_NUMBER = 8
_EDGE_BYTES = 4096
_WAIT_S = 600.0
_NICENESS = 10

Extent = tuple[int, int]
"""Where a column lies: its first number and how many, counted in numbers of 8 bytes."""


class CurvePlan(msgspec.Struct):
    """Where the columns of one curve lie; a level is low, high, total, count."""

    steps: Extent
    values: Extent
    levels: list[tuple[Extent, Extent, Extent, Extent]]


class Header(msgspec.Struct):
    """What a digest begins with. `files` says by attempt how far it goes, and what is there."""

    byte_order: str
    files: dict[int, tuple[int, str]]
    bad: int
    ledger: Ledger
    curves: dict[str, CurvePlan]


def path_of(cache: Path, job: Job) -> Path:
    """Where a job's digest lies in a workspace's cache."""
    return cache / "digests" / f"{job.id}.digest"


def load(cache: Path, job: Job) -> Reading | None:
    """Return the reading that a digest holds, None where there is none that fits the files."""
    try:
        with path_of(cache, job).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        # Drawing jumps from place to place: what lies between need not come to memory.
        mapped.madvise(mmap.MADV_RANDOM)
        header, numbers = _opened(memoryview(mapped))
        if not _fits(job, header):
            return None
        curves = {name: _curve(plan, numbers) for name, plan in header.curves.items()}
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    positions = {attempt: position for attempt, (position, _) in header.files.items()}

    def release() -> None:
        mapped.madvise(mmap.MADV_DONTNEED)

    return Reading(job, History(header.ledger, curves), positions, header.bad, release)


def save(reading: Reading, cache: Path) -> None:
    """Write a reading's digest, whole or not at all; OSError when the disk does not take it."""
    path = path_of(cache, reading.job)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    layout = _Layout()
    header = Header(
        byte_order=sys.byteorder,
        files={
            attempt: (position, _edges(reading.job.events_path(attempt), position))
            for attempt, position in reading.positions.items()
        },
        bad=reading.bad,
        ledger=reading.history.ledger,
        curves={name: layout.plan(curve) for name, curve in reading.history.curves.items()},
    )
    head = msgspec.msgpack.encode(header)
    with new_file(path) as descriptor, os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(_MAGIC + len(head).to_bytes(8, "little") + head)
        file.write(bytes(-file.tell() % _NUMBER))
        for column in layout.columns:
            for chunk in column.raw():
                file.write(chunk)


def update(job: Job, cache: Path) -> None:
    """Bring a job's digest up to date with its event files; one process at a time does it."""
    (cache / "digests").mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = locks.hold(path_of(cache, job).with_suffix(".lock"), _WAIT_S)
    if lock is None:
        return
    try:
        reading = load(cache, job) or Reading(job)
        if reading.behind():
            while reading.advance():
                pass
            save(reading, cache)
    finally:
        os.close(lock)


class Update:
    """An `update` under way in a process of its own."""

    def __init__(self, job: Job, cache: Path) -> None:
        words = [sys.executable, "-m", "finetui.jobs.digest", str(job.path), str(cache)]
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def over(self) -> bool:
        return self._process.poll() is not None


class _Layout:
    """Gives columns their places in the file; equal steps of several curves are kept once."""

    def __init__(self) -> None:
        self.columns: list[Column] = []
        self._size = 0
        self._steps: dict[bytes, Extent] = {}

    def plan(self, curve: SeriesBuilder) -> CurvePlan:
        curve.view()
        return CurvePlan(
            steps=self._shared(curve.steps),
            values=self._place(curve.values.values),
            levels=[
                (
                    self._place(level.low),
                    self._place(level.high),
                    self._place(level.total),
                    self._place(level.count),
                )
                for level in curve.values.levels
            ],
        )

    def _place(self, column: Column) -> Extent:
        extent = (self._size, len(column))
        self.columns.append(column)
        self._size += len(column)
        return extent

    def _shared(self, steps: Column) -> Extent:
        key = blake2b()
        for chunk in steps.raw():
            key.update(chunk)
        if key.digest() not in self._steps:
            self._steps[key.digest()] = self._place(steps)
        return self._steps[key.digest()]


def _opened(data: memoryview) -> tuple[Header, "memoryview[float]"]:
    """Header and numbers of a digest; ValueError or MsgspecError when it is none."""
    at = len(_MAGIC) + 8
    if bytes(data[: len(_MAGIC)]) != _MAGIC:
        raise ValueError("not a digest of this version")
    length = int.from_bytes(data[len(_MAGIC) : at], "little")
    header = msgspec.msgpack.decode(data[at : at + length], type=Header)
    start = at + length
    start += -start % _NUMBER
    end = start + (len(data) - start) // _NUMBER * _NUMBER
    return header, data[start:end].cast("d")


def _fits(job: Job, header: Header) -> bool:
    return header.byte_order == sys.byteorder and all(
        _edges(job.events_path(attempt), position) == mark
        for attempt, (position, mark) in header.files.items()
    )


def _edges(path: Path, position: int) -> str:
    """A mark of an event file's first bytes and of those before a position, "" when too short."""
    size = min(_EDGE_BYTES, position)
    with path.open("rb") as file:
        head = os.pread(file.fileno(), size, 0)
        foot = os.pread(file.fileno(), size, position - size)
    return blake2b(head + foot, digest_size=16).hexdigest() if len(foot) == size else ""


def _curve(plan: CurvePlan, numbers: "memoryview[float]") -> SeriesBuilder:
    columns = iter(_columns(plan, numbers))
    steps, values = next(columns), next(columns)
    levels = [Level(*(next(columns) for _ in range(4))) for _ in plan.levels]
    return SeriesBuilder(steps, Pyramid(values, levels))


def _columns(plan: CurvePlan, numbers: "memoryview[float]") -> Iterator[Column]:
    for start, count in (plan.steps, plan.values, *(e for level in plan.levels for e in level)):
        if not 0 <= start <= start + count <= len(numbers):
            raise ValueError("the digest is cut short")
        yield Column(numbers[start : start + count])


if __name__ == "__main__":
    os.nice(_NICENESS)
    gc.disable()  # nothing here makes cycles, and looking for them costs a third of the time
    update(Job(sys.argv[1]), Path(sys.argv[2]))
