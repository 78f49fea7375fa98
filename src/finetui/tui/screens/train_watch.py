"""The watch on one job: a thread that reads its folder as soon as there is news."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from textual.message import Message

from finetui.errors import UserError
from finetui.jobs.monitor import JobReader, Snapshot

_LOOK = 0.1
"""Seconds between two looks whether the event files have grown."""
_STATE = 1.0
"""Seconds after which the rest is looked at too: lock, heartbeat, log, disk."""


@dataclass
class Polled(Message):
    """The newest snapshot of a job; an older one need not be drawn."""

    path: Path
    snapshot: Snapshot

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, Polled)


@dataclass
class DiskSeen(Message):
    """Free bytes of the file system that holds the job; None where it does not tell."""

    free: int | None

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, DiskSeen)


@dataclass
class WatchEnded(Message):
    """The job cannot be read any more; ``error`` says why."""

    path: Path
    error: str


class Watch(threading.Thread):
    """Posts a snapshot whenever something changed, and waits until the screen has drawn it.

    ``ready`` tells whether the terminal can take another frame; ``least`` are the seconds between
    two snapshots.
    """

    def __init__(
        self,
        reader: JobReader,
        post: Callable[[Message], object],
        ready: Callable[[], bool],
        least: float,
    ) -> None:
        super().__init__(name="watch", daemon=True)
        self.reader = reader
        self._post, self._ready, self._least = post, ready, least
        self._drawn = threading.Event()
        self._drawn.set()
        self._shown = threading.Event()
        self._shown.set()
        self._end = threading.Event()
        self._looked = (-1, 0.0)  # bytes of events at the last reading, and when that was
        self._files: list[Path] = []
        self._disk: int | None = -1

    def taken(self) -> None:
        """The last snapshot is on screen; the next may come."""
        self._drawn.set()

    def hold(self, hidden: bool) -> None:
        """Read nothing while the screen is hidden."""
        if hidden:
            self._shown.clear()
        else:
            self._shown.set()
            self._drawn.set()

    def stop(self) -> None:
        self._end.set()
        self._shown.set()

    def run(self) -> None:
        try:
            while not self._end.is_set():
                self._shown.wait()
                self._look()
                self._end.wait(_LOOK)
        except Exception as error:
            words = (
                str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            )
            self._post(WatchEnded(self.reader.job.path, f"the job cannot be read: {words}"))

    def _look(self) -> None:
        if not self._drawn.is_set() or not self._ready():
            return
        now = time.monotonic()
        before, when = self._looked
        if now - when >= _STATE:
            self._files = self.reader.job.events_files()
        size = _size(self._files)
        if now - when < (self._least if size != before else _STATE):
            return
        self._looked = (size, now)
        snapshot = self.reader.poll()
        if snapshot is not None and not self._end.is_set():
            self._drawn.clear()
            if not snapshot.exact:
                self._looked = (-1, now)  # the rest of a long history is still to come
            self._post(Polled(self.reader.job.path, snapshot))
        self._see_disk()

    def _see_disk(self) -> None:
        try:
            found = os.statvfs(self.reader.job.path)
            free: int | None = found.f_bavail * found.f_frsize
        except OSError:
            free = None
        if free != self._disk:
            self._disk = free
            self._post(DiskSeen(free))


def _size(files: list[Path]) -> int:
    total = 0
    for path in files:
        try:
            total += path.stat().st_size
        except OSError:
            continue
    return total
