"""The event files: one JSON object a line, appended by the worker, tailed by any reader.

A line counts once its newline is there. Every event is one os.write on an O_APPEND descriptor,
so it outlives the process from that moment on; a thread makes it outlive the machine about a
second later. Numbers that are not finite are written as null and named in "nonfinite".
"""

import contextlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from finetui.errors import BROKEN
from finetui.jobs.folder import Job, attempt_of
from finetui.jobs.scrubbing import Scrubber
from finetui.jobs.tail import LineTail

SYNC_S = 1.0
# A run pauses when its events find no room, so hardly more than one step's wait here.
_KEPT_BYTES = 4 << 20
# The kind of an event stands behind its time.
_KIND_WITHIN = 64

Event = dict[str, Any]


class EventWriter:
    """The one writer of one attempt's event file. Never raises for a full disk.

    Events that find no room wait in memory, `waiting` bytes of them, and are written before the
    next one. `lost` counts those for which even that was too much; a warning tells the number.
    """

    def __init__(
        self,
        job: Job,
        attempt: int,
        notice: Callable[[str, Mapping[str, Any]], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        path = job.events_path(attempt)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._torn = _ends_torn(self._file)
        self._notice = notice
        self._clock = clock
        self._scrubber = Scrubber()
        self._lock = threading.Lock()
        self._dirty = threading.Event()
        self._closed = threading.Event()
        self._kept: deque[bytes] = deque()
        self._untold = 0
        self.waiting = 0
        self.lost = 0
        self._syncer = threading.Thread(target=self._sync_loop, name="event-sync", daemon=True)
        self._syncer.start()

    def write(self, kind: str, **fields: Any) -> bool:
        """Append one event and return True when the kernel has all of it."""
        event = {"t": round(self._clock(), 3), "kind": kind, **self._scrubber.texts(fields)}
        line = encode(event)
        with self._lock:
            written = self._append_kept() and self._append(line)
            if not written:
                self._keep(line)
        if self._notice is not None:
            self._notice(kind, fields)
        return written

    def flush(self) -> bool:
        """Write what waits; True when nothing waits any more."""
        with self._lock:
            return self._append_kept()

    def sync(self) -> None:
        """Make everything written so far survive a power cut."""
        self._dirty.clear()
        with contextlib.suppress(OSError):
            os.fdatasync(self._file)

    def close(self) -> None:
        """Sync and close; a second call does nothing."""
        if self._closed.is_set():
            return
        self._closed.set()
        self.flush()
        self._syncer.join(timeout=2 * SYNC_S)
        self.sync()
        if not self._syncer.is_alive():
            os.close(self._file)

    def _keep(self, line: bytes) -> None:
        if self.waiting + len(line) > _KEPT_BYTES:
            self.lost += 1
            self._untold += 1
            return
        self._kept.append(line)
        self.waiting += len(line)

    def _append_kept(self) -> bool:
        """Write the lines that found no room, oldest first."""
        while self._kept:
            if not self._append(self._kept[0]):
                return False
            self.waiting -= len(self._kept.popleft())
        if self._untold:
            text = f"{self._untold} events could not be written"
            told = {"t": round(self._clock(), 3), "kind": "warning", "text": text}
            if not self._append(encode(told)):
                return False
            self._untold = 0
        return True

    def _append(self, line: bytes) -> bool:
        # A disk that fills up takes a part of a line: the next line must not be glued to it.
        data = b"\n" + line if self._torn else line
        try:
            count = os.write(self._file, data)
        except OSError:
            return False
        self._torn = count < len(data)
        self._dirty.set()
        return count == len(data)

    def _sync_loop(self) -> None:
        while not self._closed.wait(SYNC_S):
            if self._dirty.is_set():
                self.sync()


class EventTail:
    """Reads a job's event files as they grow, oldest attempt first.

    `bad` counts complete lines that are no event, such as a line torn by a full disk.
    """

    def __init__(self, job: Job, positions: Mapping[int, int] | None = None) -> None:
        """`positions` says by attempt how many bytes are to be passed over."""
        self._job = job
        self._files: dict[int, LineTail] = {
            attempt: LineTail(job.events_path(attempt), position)
            for attempt, position in (positions or {}).items()
        }
        self.bad = 0

    def read(self) -> list[Event]:
        """Return events since the last call, each with its "attempt" added: [] when there are no
        more, and at most some megabytes of each file at once."""
        events: list[Event] = []
        for path in self._job.events_files():
            attempt = attempt_of(path)
            tail = self._files.setdefault(attempt, LineTail(path))
            for line in tail.read():
                event = _decode(line)
                if event is None:
                    self.bad += 1
                else:
                    event["attempt"] = attempt
                    events.append(event)
        return events


def of_kind(job: Job, kind: str) -> Iterator[Event]:
    """All events of one kind, oldest first, each with its "attempt"; the others cost little."""
    mark = b'"kind":"%s"' % kind.encode()
    for path in job.events_files():
        tail = LineTail(path)
        while lines := tail.read():
            for line in lines:
                event = _decode(line) if mark in line[:_KIND_WITHIN] else None
                if event is not None and event["kind"] == kind:
                    yield event | {"attempt": attempt_of(path)}


def encode(event: Mapping[str, Any]) -> bytes:
    """Return one event as a JSON line, with "nonfinite" naming what became null."""
    bad: list[str] = []
    plain = {name: _plain(value, name, bad) for name, value in event.items()}
    if bad:
        plain["nonfinite"] = bad
    try:
        return msgspec.json.encode(plain) + b"\n"
    except UnicodeEncodeError:
        return msgspec.json.encode(_without_surrogates(plain)) + b"\n"


def _plain(value: Any, name: str, bad: list[str]) -> Any:
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        bad.append(name)
        return None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}.{key}", bad) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}.{index}", bad) for index, item in enumerate(value)]
    # A scalar of an array library, without knowing the library.
    if callable(getattr(value, "item", None)):
        return _plain(value.item(), name, bad)
    return str(value)


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    return value


def _decode(line: bytes) -> Event | None:
    try:
        event = msgspec.json.decode(line)
    except BROKEN:
        return None
    if isinstance(event, dict) and isinstance(event.get("kind"), str):
        return event
    return None


def _ends_torn(file: int) -> bool:
    size = os.fstat(file).st_size
    return size > 0 and os.pread(file, 1, size - 1) != b"\n"
