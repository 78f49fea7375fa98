"""The worker's side of a job folder: lock, heartbeat, events, requests, and the last word."""

import contextlib
import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from finetui.errors import UserError
from finetui.jobs import control, locks, procfs
from finetui.jobs.control import ControlInbox, Fields
from finetui.jobs.events import EventWriter
from finetui.jobs.folder import Job, Process, ProcRecord
from finetui.jobs.heartbeat import Heart
from finetui.jobs.liveness import OUTCOMES

ATTEMPT_VARIABLE = "FINETUI_ATTEMPT"
FOLDER_VARIABLE = "FINETUI_JOB"

_LOCK_WAIT_S = 5.0
_POLL_S = 0.2
_BALLAST_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class SupersededError(UserError):
    """A newer attempt owns the folder: this worker must publish nothing more and end."""


class WorkerSession:
    """The context that a worker does all its work in.

    Entering takes worker.lock (UserError when another worker has it) and starts the event file;
    leaving by an exception writes a failed outcome with its class and one sentence. Outside a
    supervisor it numbers its attempt and writes proc.json itself.

        with WorkerSession(folder) as session:
            session.events.write("start", total_steps=100)
            ...
            if "stop" in session.control.poll(): ...
            session.outcome("finished", loss=0.4)
    """

    job: Job
    attempt: int
    events: EventWriter
    control: ControlInbox

    def __init__(self, job_dir: Job | Path | str, clock: Callable[[], float] = time.time) -> None:
        self.job = job_dir if isinstance(job_dir, Job) else Job(job_dir)
        self.terminated = False
        self._clock = clock
        self._said: str | None = None

    def __enter__(self) -> Self:
        self._umask = os.umask(0o077)
        self._process = os.getpid()
        self._lock = locks.WorkerLock(self.job.worker_lock, _LOCK_WAIT_S)
        if not self._lock.held:
            os.umask(self._umask)
            raise UserError("another worker is at work in this folder.", self.job.id)
        supervised = os.environ.get(FOLDER_VARIABLE) == str(self.job.path)
        number = os.environ.get(ATTEMPT_VARIABLE, "") if supervised else ""
        self.attempt = int(number) if number.isdigit() else self.job.next_attempt()
        if not number.isdigit():
            self.job.put_away_records()
            self._write_proc()
        self._heart = Heart(self.job.heartbeat, self.attempt, self._clock)
        self.events = EventWriter(self.job, self.attempt, self._noticed, self._clock)
        self.control = ControlInbox(self.job.control, self._heart.beat, self._taken)
        self._lay_ballast()
        self._catch_termination()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if os.getpid() != self._process:
            return
        if error is not None and not isinstance(error, SupersededError):
            with contextlib.suppress(OSError, SupersededError):
                self._outcome_of(error)
        self._drop_ballast()
        self.events.close()
        self._heart.close()
        self._lock.release()
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler)
        os.umask(self._umask)

    def beat(self) -> None:
        """Say "alive" where neither events nor polls come for a minute (about 1 microsecond)."""
        self._heart.beat()

    def hold(self) -> set[str]:
        """Stay paused until somebody asks to go on or to stop; returns all verbs asked for."""
        before, self._heart.phase = self._heart.phase, "paused"
        verbs: set[str] = set()
        try:
            while not verbs & {"resume", "stop", "stop_best"}:
                time.sleep(_POLL_S)
                verbs |= self.control.poll()
        finally:
            self._heart.phase = before
            self._heart.beat()
        return verbs

    def expect_steps_within(self, seconds: float) -> None:
        """From now on a silence of `seconds` between two steps is a stall; infinity for never."""
        self._heart.patience = seconds

    def superseded(self) -> bool:
        """Tell whether a newer attempt has taken the folder over."""
        proc = self.job.proc()
        return proc is not None and proc.attempt > self.attempt

    def require_newest(self) -> None:
        """Raise SupersededError unless this attempt may still publish; call before a checkpoint."""
        if self.superseded():
            raise SupersededError(
                f"attempt {self.attempt} was overtaken by a newer one; it publishes nothing.",
                self.job.id,
            )

    def outcome(self, status: str, **fields: Any) -> None:
        """Write the last word: finished, stopped, preempted or failed, and plain fields.

        `sentence` says it for people, `error` names an error class. A stop that the system asked
        for by SIGTERM is recorded as preempted. Raises SupersededError.
        """
        if status not in OUTCOMES:
            raise ValueError(f"an outcome is one of {OUTCOMES}, not {status!r}")
        self.require_newest()
        if status == "stopped" and self.terminated:
            status = "preempted"
        self._said = status
        self.events.write("end", reason=status)
        record = {
            "status": status,
            "attempt": self.attempt,
            "t": self._clock(),
            "step": self._heart.step,
            **fields,
        }
        self._publish("outcome.json", record)

    def _outcome_of(self, error: BaseException) -> None:
        if self._said is not None or _is_clean_exit(error):
            return
        self.outcome("failed", error=type(error).__name__, sentence=explain(error))

    def _publish(self, name: str, record: Mapping[str, Any]) -> None:
        try:
            self.job.write_json(name, record)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._drop_ballast()
            self.job.write_json(name, record)

    def _lay_ballast(self) -> None:
        """Keep a mebibyte aside: on a full disk it makes room for the last word."""
        with contextlib.suppress(OSError):
            ballast = os.open(self.job.path / "ballast", os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(ballast, 0, _BALLAST_BYTES)
            finally:
                os.close(ballast)

    def _drop_ballast(self) -> None:
        with contextlib.suppress(OSError):
            (self.job.path / "ballast").unlink()

    def _write_proc(self) -> None:
        me = Process(self._process, procfs.start_time(self._process) or 0)
        record = ProcRecord(procfs.boot_id(), procfs.host(), None, me, self.attempt, self._clock())
        self.job.write_json("proc.json", record)

    def _catch_termination(self) -> None:
        self._old_handler = None
        if threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGTERM, self._on_termination)

    def _on_termination(self, number: int, frame: FrameType | None) -> None:
        # A second SIGTERM ends the worker at once: the first was not obeyed.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.terminated = True
        self.control.terminate()

    def _noticed(self, kind: str, fields: Mapping[str, Any]) -> None:
        heart = self._heart
        if kind == "step":
            seconds = fields.get("step_s")
            heart.stepped(int(fields.get("step", heart.step)), _as_seconds(seconds))
        elif kind in ("start", "progress"):
            heart.begun()
        elif kind == "stage":
            heart.stage()
        heart.beat()

    def _taken(self, verb: str, fields: Fields, who: str) -> None:
        """Acknowledge a request, so that viewers see that it arrived and who made it."""
        text = control.describe(verb, fields, who)
        self.events.write(
            "control", verb=verb, fields=fields, who=who, text=text, step=self._heart.step
        )


def explain(error: BaseException) -> str:
    """Return one sentence on what stopped a worker, for somebody who reads no tracebacks."""
    if isinstance(error, UserError):
        return str(error)
    name, text = type(error).__name__, " ".join(str(error).split())[:300]
    if name == "OutOfMemoryError":
        return f"the GPU ran out of memory; a smaller batch or length needs less ({text})"
    if isinstance(error, MemoryError):
        return "the machine ran out of memory"
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"the disk is full ({error.filename or 'no file named'})"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted from the keyboard"
    return f"{name}: {text}" if text else name


def _is_clean_exit(error: BaseException) -> bool:
    return isinstance(error, SystemExit) and error.code in (None, 0)


def _as_seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
