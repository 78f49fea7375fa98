"""queue.json: what a job waits for, kept by its supervisor for as long as it waits.

The state of a waiting job is derived like any other: the file counts while its supervisor holds
its lock, and no longer once proc.json names a worker of the same attempt.
"""

import contextlib
import os
import time
from pathlib import Path

import msgspec

from finetui.errors import BROKEN
from finetui.jobs import procfs
from finetui.jobs.folder import Job, ProcRecord

# The supervisor touches the file at least so often; across machines that is its sign of life.
BEAT_S = 10.0


class QueueRecord(msgspec.Struct, frozen=True):
    """What an attempt waits for, as a sentence; `t` is the unix time since when.

    ``wants`` GPUs of ``among`` (their numbers on this machine); ``ahead`` jobs wait before it.
    """

    attempt: int
    host: str
    t: float
    sentence: str
    wants: int = 1
    among: tuple[int, ...] = ()
    ahead: int = 0


def path_of(job: Job) -> Path:
    return job.path / "queue.json"


def publish(job: Job, record: QueueRecord) -> None:
    job.write_json("queue.json", record)


def beat(job: Job) -> None:
    """Say that the wait goes on."""
    with contextlib.suppress(OSError):
        os.utime(path_of(job))


def clear(job: Job) -> None:
    path_of(job).unlink(missing_ok=True)


def read(job: Job) -> QueueRecord | None:
    try:
        return msgspec.json.decode(path_of(job).read_bytes(), type=QueueRecord)
    except (OSError, *BROKEN):
        return None


def newest(job: Job, proc: ProcRecord | None) -> QueueRecord | None:
    """The record of an attempt that has no worker yet; None when there is none."""
    record = read(job)
    if record is None or (proc is not None and proc.attempt >= record.attempt):
        return None
    return record


def silence(job: Job) -> float:
    """Seconds since the last sign of a waiting supervisor."""
    try:
        return max(0.0, time.time() - path_of(job).stat().st_mtime)
    except OSError:
        return 0.0


def is_here(record: QueueRecord) -> bool:
    return record.host == procfs.host()
