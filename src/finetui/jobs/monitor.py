"""One open job as a frozen snapshot: events in, curves and figures out.

One reader a job, polled at most a few times a second from one thread; the snapshots are plain
values for any thread.
"""

import time
from collections.abc import Callable
from pathlib import Path

from finetui.jobs import digest, logs
from finetui.jobs.digest import Update
from finetui.jobs.folder import Job
from finetui.jobs.liveness import JobState, state
from finetui.jobs.reading import Reading
from finetui.jobs.snapshot import (
    CURVES,
    Checkpoint,
    Control,
    EventLine,
    Guard,
    Progress,
    Rank,
    Rows,
    Sample,
    Score,
    Snapshot,
)

__all__ = [
    "CURVES",
    "Checkpoint",
    "Control",
    "EventLine",
    "Guard",
    "JobReader",
    "Progress",
    "Rank",
    "Rows",
    "Sample",
    "Score",
    "Snapshot",
]

_LOG_LINES = 500
# Less is read on the spot, in about a tenth of a second; more goes through a digest.
SHORT_BYTES = 8 << 20
# How long one poll may go on reading where no digest can be had.
_PATIENCE_S = 0.2


class JobReader:
    """Reads one job's folder as it grows.

    A long history is shown from samples first (`Snapshot.exact` is False) while a process digests
    it into `cache` (a workspace's). Without a cache the reader reads it itself, some at each poll.
    """

    def __init__(
        self, job: Job, clock: Callable[[], float] = time.time, cache: Path | None = None
    ) -> None:
        self.job = job
        self._clock = clock
        self._cache = cache
        self._marks: tuple[object, ...] | None = None
        self._shown: Reading | None = None
        self._whole: Reading | None = None
        """The exact reading, while samples are shown in its place."""
        self._update: Update | None = None
        self._digested_to: dict[int, int] = {}

    def poll(self) -> Snapshot | None:
        """Return a new snapshot, None when nothing changed since the last one."""
        before = self._shown
        if before is None:
            self._open()
        else:
            self._go_on()
        reading = self._reading
        reading.release()
        news = reading.advance()
        found = state(self.job, self._clock)
        log = self.job.log_files()[-1:]
        size = log[0].stat().st_size if log else 0
        marks = (found, size, reading.bad)
        if not news and reading is before and marks == self._marks:
            return None
        self._marks = marks
        return self._snapshot(found)

    def log_tail(self, count: int) -> list[str]:
        """Return the last lines of the newest attempt's log, oldest first, as plain lines."""
        files = self.job.log_files()
        return logs.tail(files[-1], count) if files else []

    # -- opening, and keeping what is in memory short ------------------------------------------

    @property
    def _reading(self) -> Reading:
        assert self._shown is not None
        return self._shown

    def _open(self) -> None:
        """Show what a digest has and what came since; samples where that is too much to read."""
        reading = self._digested() or Reading(self.job)
        self._shown = reading
        if reading.behind() > SHORT_BYTES:
            self._whole = reading
            self._shown = self._digested() or Reading(self.job)
            self._shown.sample()
            self._start_update()
        while reading is self._shown and reading.advance():
            pass

    def _go_on(self) -> None:
        """Take a digest that is ready, start one that is due, or read on where none can be had."""
        if self._update is not None:
            if self._update.over:
                self._update = None
                self._take_digest()
        elif self._whole is not None:
            self._read_on(self._whole)
        elif self._reading.taken > SHORT_BYTES:
            self._digested_to = {}
            self._start_update()

    def _take_digest(self) -> None:
        found = self._digested()
        if found is None or found.positions == self._digested_to:
            self._cache = None  # none to be had: do without from now on
            return
        self._digested_to = found.positions
        if found.behind() > SHORT_BYTES:
            self._start_update()
            return
        while found.advance():
            pass
        self._shown, self._whole = found, None

    def _read_on(self, whole: Reading) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while whole.advance():
            if time.monotonic() > deadline:
                return
        self._shown, self._whole = whole, None

    def _digested(self) -> Reading | None:
        return digest.load(self._cache, self.job) if self._cache is not None else None

    def _start_update(self) -> None:
        if self._cache is None:
            return
        try:
            self._update = Update(self.job, self._cache)
        except OSError:
            self._cache = None

    def _snapshot(self, found: JobState) -> Snapshot:
        reading, now = self._reading, self._clock()
        known = reading.history
        return Snapshot(
            job_id=self.job.id,
            state=found,
            **known.now(),
            eta_s=known.eta() if found.name == "running" else None,
            elapsed_s=known.elapsed(now if found.alive else None),
            series={name: curve.view() for name, curve in known.curves.items()},
            log=tuple(self.log_tail(_LOG_LINES)),
            bad_lines=reading.bad,
            exact=self._whole is None,
        )
