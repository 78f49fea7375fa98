"""The ranks above 0 of a run: a session that says nothing, and what a rank leaves in the folder.

No torch here: this is known before it is loaded.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Self

from finetui.jobs import procfs, stack
from finetui.jobs.folder import Job, read_json
from finetui.jobs.worker import ATTEMPT_VARIABLE, WorkerSession

FOLDER = "ranks"


def several() -> bool:
    """Whether this process is one of several that torchrun started."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1


def rank_here() -> int:
    """The rank of this process; 0 for one alone."""
    return int(os.environ["RANK"]) if several() else 0


class LostRankError(Exception):
    """Another rank is gone: that one has the reason."""


class _NoEvents:
    lost = 0

    def write(self, kind: str, **fields: Any) -> bool:
        return True

    def close(self) -> None:
        pass


class _NoHeart:
    phase, step, patience, limit = "running", 0, 0.0, 0.0

    def beat(self) -> None:
        pass

    stage = begun = close = beat

    def stepped(self, step: int, seconds: float | None) -> None:
        pass


class _NoControl:
    def __init__(self, session: SilentSession) -> None:
        self._session = session

    def poll(self) -> set[str]:
        return set()

    def keep(self, verbs: set[str]) -> None:
        pass

    def fields(self, verb: str) -> dict[str, Any]:
        return {}

    def terminate(self) -> None:
        self._session.terminated = True


class SilentSession(WorkerSession):
    """A WorkerSession for the ranks above 0: it takes no lock, writes nothing and says nothing."""

    def __enter__(self) -> Self:
        self._umask = os.umask(0o077)
        number = os.environ.get(ATTEMPT_VARIABLE, "")
        self.attempt = int(number) if number.isdigit() else max(1, self.job.next_attempt() - 1)
        self.events: Any = _NoEvents()
        self.control: Any = _NoControl(self)
        self._heart: Any = _NoHeart()
        self._listener = stack.listen(self.job, self.attempt, rank_here())
        self._old_handler = None
        if threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGTERM, self._on_termination)
        return self

    def __exit__(self, *_: object) -> None:
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler)
        os.umask(self._umask)

    def beat(self) -> None:
        pass

    def hold(self, *_: Any, **__: Any) -> set[str]:
        return set()

    def expect_steps_within(self, seconds: float) -> None:
        pass

    def outcome(self, status: str, **fields: Any) -> None:
        pass

    def _on_termination(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.terminated = True


def session_of(folder: Path) -> WorkerSession:
    """The session of this process: rank 0's, or a silent one."""
    return WorkerSession(folder) if rank_here() == 0 else SilentSession(folder)


# -- what a rank leaves in the folder ------------------------------------------------------------


def introduce(job: Job, attempt: int, gpu: str = "") -> None:
    """Write ranks/r<RANK>.json: host, pid with its start, GPU; for viewers and for signals."""
    (job.path / FOLDER).mkdir(mode=0o700, exist_ok=True)
    pid = os.getpid()
    record = {
        "rank": rank_here(),
        "attempt": attempt,
        "host": procfs.host(),
        "pid": pid,
        "start": procfs.start_time(pid) or 0,
        "gpu": gpu,
    }
    job.write_json(_who(rank_here()), record)


def take_leave(job: Job) -> None:
    """This rank has done its part: that it is gone is no fault."""
    if several():
        (job.path / _who(rank_here())).unlink(missing_ok=True)


def note_failure(
    job: Job, attempt: int, said: Mapping[str, Any], lost: bool, rank: int | None = None
) -> None:
    """Leave word of why a rank (this one) fails; torchrun's process makes one outcome of all."""
    (job.path / FOLDER).mkdir(mode=0o700, exist_ok=True)
    rank = rank_here() if rank is None else rank
    record = {**said, "rank": rank, "host": procfs.host(), "lost": lost, "t": time.time()}
    job.write_json(f"{FOLDER}/failed-a{attempt}-r{rank}.json", record)


def failures(job: Job, attempt: int) -> list[dict[str, Any]]:
    """The words that failing ranks left, oldest first."""
    found = []
    for path in (job.path / FOLDER).glob(f"failed-a{attempt}-r*.json"):
        note = read_json(path)
        if note and isinstance(note.get("rank"), int) and isinstance(note.get("t"), float):
            found.append(note)
    return sorted(found, key=lambda note: note["t"])


def listen_for_loss(session: WorkerSession) -> None:
    """Tell torchrun's SIGTERM after a rank failed from one that asks the run to stop."""
    usual = signal.getsignal(signal.SIGTERM)

    def end(number: int, frame: FrameType | None) -> None:
        if others_failed(session.job, session.attempt):
            raise LostRankError("another rank is gone")
        if callable(usual):
            usual(number, frame)

    signal.signal(signal.SIGTERM, end)


def others_failed(job: Job, attempt: int) -> bool:
    """Whether another rank of this attempt left word of a failure, or died on this machine."""
    if any(note["rank"] != rank_here() for note in failures(job, attempt)):
        return True
    for path in (job.path / FOLDER).glob("r*.json"):
        who = read_json(path) or {}
        mine = who.get("attempt") == attempt and who.get("host") == procfs.host()
        if mine and not procfs.is_alive(int(who.get("pid", 0)), int(who.get("start", 0))):
            return True
    return False


def _who(rank: int) -> str:
    return f"{FOLDER}/r{rank}.json"
