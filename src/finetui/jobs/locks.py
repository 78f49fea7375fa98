"""Locks that die with their holder: flock on a small file in the job folder.

flock, not fcntl locks: any close() of the file anywhere in a process would drop an fcntl lock.
The lock belongs to the open file, so a forked child would keep it alive: see WorkerLock.
"""

import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path

# What a supervisor hands its worker: "descriptor:device:inode", separated by commas.
INHERITED_VARIABLE = "FINETUI_LEASE_FDS"

_RETRY_S = 0.01


def hold(path: Path, wait_s: float = 0.0) -> int | None:
    """Take the lock and return its descriptor, or None when another process has it.

    A reader that probes the lock holds it for microseconds, so a caller that must not
    be refused by a mere reader gives a `wait_s`.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(lock)
                return None
            time.sleep(_RETRY_S)


def is_held(path: Path) -> bool | None:
    """Tell whether a living process holds the lock; None when the file system cannot say."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        # Shared, so that two readers never mistake each other for a holder.
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(lock)


class WorkerLock:
    """The lock of a job's worker: closed in forked children, so it tells of the worker alone."""

    def __init__(self, path: Path, wait_s: float) -> None:
        self._lock = hold(path, wait_s)
        os.register_at_fork(after_in_child=self.release)
        _keep_from_children(os.environ.get(INHERITED_VARIABLE, ""))

    @property
    def held(self) -> bool:
        return self._lock is not None

    def release(self) -> None:
        """Give the lock up; the file stays."""
        if self._lock is not None:
            lock, self._lock = self._lock, None
            os.close(lock)


def described(descriptors: Sequence[int]) -> str:
    """The value of INHERITED_VARIABLE for locks that a child process is to hold too."""
    found = [(descriptor, os.fstat(descriptor)) for descriptor in descriptors]
    return ",".join(f"{number}:{file.st_dev}:{file.st_ino}" for number, file in found)


def _keep_from_children(told: str) -> None:
    """Hold inherited locks ourselves but let no child do: it might outlive us and keep them."""
    ours = [number for number in map(_inherited, told.split(",")) if number is not None]

    def drop() -> None:
        while ours:
            os.close(ours.pop())

    for number in ours:
        os.set_inheritable(number, False)
    os.register_at_fork(after_in_child=drop)


def _inherited(told: str) -> int | None:
    """The descriptor that is told, None when it is another file by now."""
    try:
        number, device, inode = map(int, told.split(":"))
        file = os.fstat(number)
    except (ValueError, OSError):
        return None
    return number if (file.st_dev, file.st_ino) == (device, inode) else None
