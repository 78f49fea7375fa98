"""The worker's side of a job folder: lock, heartbeat, events, requests, and the last word."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

from finetui.errors import UserError
from finetui.jobs import control, locks, procfs, room, stack
from finetui.jobs.control import ControlInbox, Fields
from finetui.jobs.events import EventWriter
from finetui.jobs.folder import Job, Process, ProcRecord
from finetui.jobs.heartbeat import Heart
from finetui.jobs.liveness import OUTCOMES
from finetui.jobs.room import Want
from finetui.jobs.scrubbing import Scrubber

ATTEMPT_VARIABLE = "FINETUI_ATTEMPT"
FOLDER_VARIABLE = "FINETUI_JOB"
# "slurm" where a batch script stands in for the supervisor.
BACKEND_VARIABLE = "FINETUI_BACKEND"

_LOCK_WAIT_S = 5.0
# A file server may keep the lock of a machine that failed for a minute and a half.
_SLURM_LOCK_WAIT_S = 120.0
_POLL_S = 0.2
_ENDS = frozenset({"resume", "stop", "stop_best"})
_RECORDS_BYTES = 64 << 10
# Between tries that fail although there seems to be room.
_DOUBT_S, _MOST_DOUBT_S = 15.0, 600.0

_Result = TypeVar("_Result")


class SupersededError(UserError):
    """A newer attempt owns the folder: this worker must publish nothing more and end."""


class StopRequested(Exception):
    """Somebody asked the job to stop outside the training loop: there is nothing to save."""


class UnsavedError(StopRequested):
    """Somebody asked the job to stop, by `verbs`, while it waited for room on the disk."""

    def __init__(self, want: Want, verbs: set[str]) -> None:
        self.want, self.verbs = want, verbs
        super().__init__(f"{want.sentence()}; it is not saved")


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
        self._stopped_by_person = False
        self._clock = clock
        self._said: str | None = None
        self._want: Want | None = None

    def __enter__(self) -> Self:
        self._umask = os.umask(0o077)
        self._process = os.getpid()
        supervised = os.environ.get(FOLDER_VARIABLE) == str(self.job.path)
        backend = os.environ.get(BACKEND_VARIABLE, "local") if supervised else "local"
        wait_s = _LOCK_WAIT_S if backend == "local" else _SLURM_LOCK_WAIT_S
        self._lock = locks.WorkerLock(self.job.worker_lock, wait_s)
        if not self._lock.held:
            os.umask(self._umask)
            raise UserError("another worker is at work in this folder.", self.job.id)
        number = os.environ.get(ATTEMPT_VARIABLE, "") if supervised else ""
        self.attempt = int(number) if number.isdigit() else self.job.next_attempt()
        if not number.isdigit() or backend != "local":
            self.job.put_away_records()
            self._write_proc(backend)
        self._heart = Heart(self.job.heartbeat, self.attempt, self._clock)
        self.events = EventWriter(self.job, self.attempt, self._noticed, self._clock)
        self.control = ControlInbox(self.job.control, self._heart.beat, self._taken, self._lacks)
        room.lay_ballast(self.job)
        self._waiting = room.WaitingNote(self.job, self.attempt)
        self._listener = stack.listen(self.job, self.attempt)
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
        room.drop_ballast(self.job, word=True)
        self.events.close()
        self._waiting.close()
        self._listener.close()
        self._heart.close()
        self._lock.release()
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler)
        os.umask(self._umask)

    def beat(self) -> None:
        """Say "alive" where neither events nor polls come for a minute (about 1 microsecond)."""
        self._heart.beat()

    def hold(self, want: Want | None = None) -> set[str]:
        """Stay paused until somebody asks to go on or to stop; returns all verbs asked for.

        With a `want` it goes on by itself as well, as "resume", once the disk has room for it,
        unless a person asked for a pause meanwhile. Events that wait for room are wanted anyway.
        """
        want = want or self._wanted_by_events()
        before, self._heart.phase = self._heart.phase, "paused"
        verbs: set[str] = set()
        self._say_waiting(want)
        try:
            while not verbs & _ENDS:
                time.sleep(_POLL_S)
                verbs |= self.control.poll()
                if want is not None and self._got(want):
                    want = None
                    if "pause" not in verbs:
                        verbs.add("resume")
        finally:
            self._say_waiting(None)
            self._heart.phase = before
            self._heart.beat()
        return verbs

    def until_saved(
        self,
        what: str,
        folder: Path,
        need: int,
        save: Callable[[], _Result],
        *,
        hold: Callable[[Want], set[str]] | None = None,
        patient: bool = True,
    ) -> _Result:
        """Do what writes into `folder`, again each time that a full disk refused it.

        `need` is its size in bytes, as well as it is known. Between the tries the run is paused;
        requests that come meanwhile are kept for the next poll. Raises UnsavedError when a stop
        was asked for, or at once where `patient` is False, and any error but a full disk.
        """
        doubt_s = 0.0
        while True:
            try:
                return save()
            except Exception as error:
                if not room.is_full(error, folder, need):
                    raise
                want = Want(what, folder, need, room.is_quota(error))
            if not patient:
                raise UnsavedError(want, set())
            if want.met():
                # Others may have made room this moment, or the figures are not the whole truth.
                if not doubt_s:
                    doubt_s = _DOUBT_S
                    continue
                want = replace(want, after=time.monotonic() + doubt_s)
                doubt_s = min(2 * doubt_s, _MOST_DOUBT_S)
            verbs = (hold or self.hold)(want)
            stops = verbs & {"stop", "stop_best"}
            self.control.keep(verbs - {"resume"} - stops)
            if stops:
                raise UnsavedError(want, stops)

    def append(self, descriptor: int, data: bytes, what: str) -> None:
        """Append all of `data` to an open file, paused while the disk is full.

        Raises UnsavedError as `until_saved`; the file then may end in the middle of a line.
        """
        folder = Path(os.readlink(f"/proc/self/fd/{descriptor}")).parent
        left = memoryview(data)

        def write() -> None:
            nonlocal left
            while left:
                left = left[os.write(descriptor, left) :]

        self.until_saved(what, folder, len(data), write)

    def reached(self, step: int) -> None:
        """The worker is at the edge of this step: requests and signs of life name it."""
        self._heart.step = step

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
        for, by SIGTERM or the request "preempt", is recorded as preempted unless a person asked
        as well. Raises SupersededError.
        """
        if status not in OUTCOMES:
            raise ValueError(f"an outcome is one of {OUTCOMES}, not {status!r}")
        self.require_newest()
        if status == "stopped" and self.terminated and not self._stopped_by_person:
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
        room.last_word(self.job, "outcome.json", Scrubber().texts(record))

    def _outcome_of(self, error: BaseException) -> None:
        if self._said is not None or _is_clean_exit(error):
            return
        self.outcome("failed", error=type(error).__name__, sentence=explain(error))

    def _lacks(self) -> bool:
        """Whether a poll is to ask for a pause by itself: events wait, and nobody is told yet."""
        return self._want is None and self.events.waiting > 0 and not self.events.flush()

    def _wanted_by_events(self) -> Want | None:
        waiting = self.events.waiting
        if not waiting:
            return None
        return Want("the record of the run", self.job.path, waiting + _RECORDS_BYTES)

    def _got(self, want: Want) -> bool:
        if not want.met() or not room.has_ballast_or_room(self.job) or not self.events.flush():
            self._say_waiting(want)
            return False
        self._say_waiting(None)
        room.lay_ballast(self.job)
        self.events.write("message", text=f"there is room again for {want.what}")
        return True

    def _say_waiting(self, want: Want | None) -> None:
        """Tell viewers what is waited for; None when nothing is any more."""
        told, self._want = self._want, want
        sentence = want.sentence() if want is not None else ""
        if want is not None and told is None:
            self.events.write("warning", text=f"paused: {sentence}")
        self._waiting.say(sentence)

    def _write_proc(self, backend: str) -> None:
        me = Process(self._process, procfs.start_time(self._process) or 0)
        record = ProcRecord(
            procfs.boot_id(), procfs.host(), None, me, self.attempt, self._clock(), backend
        )
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
        if verb == "preempt":
            self.terminated = True
        elif verb in control.STOPS and who != control.SYSTEM:
            self._stopped_by_person = True
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
    if room.is_full(error):
        named = getattr(error, "filename", None)
        return f"the disk is full ({named or 'no file named'})"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted from the keyboard"
    return f"{name}: {text}" if text else name


def _is_clean_exit(error: BaseException) -> bool:
    return isinstance(error, SystemExit) and error.code in (None, 0)


def _as_seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
