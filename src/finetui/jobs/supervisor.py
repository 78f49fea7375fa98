"""The parent of one worker: starts it, waits, and writes down how it ended.

    python -m finetui.jobs.supervisor JOBDIR --attempt N [--share] -- COMMAND...

One supervisor a run, no daemon. It waits for the GPUs that the job needs and leases them for the
worker's life; the worker holds the leases too. It writes proc.json when the worker is there and
exit.json when it is gone; it survives hang-ups, adopts what the worker leaves behind and ends it.
The worker goes on when the supervisor is killed: each writes a record that covers the other's
death.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import msgspec

from finetui.errors import UserError
from finetui.jobs import locks, procfs, queued, room
from finetui.jobs.folder import ExitRecord, Job, Process, ProcRecord
from finetui.jobs.waiting import Grant, StoppedWaiting, take_gpus
from finetui.jobs.worker import ATTEMPT_VARIABLE, FOLDER_VARIABLE

BUSY = 75  # EX_TEMPFAIL: another supervisor has the folder
NOT_STARTED = 127

_LOCK_WAIT_S = 5.0
_SET_CHILD_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER in linux/prctl.h
_ROUND_S = 0.02
_POLITE_ROUNDS = 25
_ROUNDS = 250

_ENVIRONMENT = {
    # Threads that spin between operations would take the core that the screen needs.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class _MemoryKills:
    """The kernel's out-of-memory counters at one moment, None where it does not tell."""

    machine: int | None
    cgroup: int | None

    @classmethod
    def now(cls) -> "_MemoryKills":
        return cls(procfs.oom_kills(), procfs.cgroup_oom_kills())


def worker_environment(
    job: Job, attempt: int, given: Mapping[str, str], grant: Grant | None = None
) -> dict[str, str]:
    """Return a worker's environment: what was given wins over our defaults, its GPUs over that."""
    own = {FOLDER_VARIABLE: str(job.path), ATTEMPT_VARIABLE: str(attempt)}
    if grant is not None and grant.visible is not None:
        own["CUDA_VISIBLE_DEVICES"] = grant.visible
    if grant is not None and grant.descriptors:
        own[locks.INHERITED_VARIABLE] = locks.described(grant.descriptors)
    return {**_ENVIRONMENT, **given, **own}


class _Termination:
    """SIGTERM to the supervisor: noted while it waits, passed on once there is a worker."""

    def __init__(self) -> None:
        self.asked = False
        self._worker = 0
        signal.signal(signal.SIGTERM, self._on_signal)

    def pass_on_to(self, worker: int) -> None:
        self._worker = worker
        if self.asked:
            os.kill(worker, signal.SIGTERM)

    def ignore(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self._worker:
            os.kill(self._worker, signal.SIGTERM)  # unreaped until we wait: the number is its own


def supervise(job: Job, attempt: int, command: Sequence[str], share: bool = False) -> int:
    """Run the command as the job's worker to its end, once its GPUs are free.

    Returns the code to exit with. ``share`` takes GPUs that others use.
    """
    lock = locks.hold(job.supervisor_lock, _LOCK_WAIT_S)
    if lock is None:
        print("another supervisor has this folder", file=sys.stderr)
        return BUSY
    _survive_the_terminal()
    termination = _Termination()
    job.put_away_records()
    try:
        grant = take_gpus(job, attempt, share=share, terminated=lambda: termination.asked)
    except StoppedWaiting as stopped:
        return _left_the_queue(job, attempt, stopped)
    except UserError as error:
        why = str(UserError(error.what, error.where)).rstrip(".")
        return _not_started(job, attempt, why, error.fix)
    except OSError as error:
        return _not_started(job, attempt, str(error))
    try:
        if termination.asked:
            told = StoppedWaiting("told to end by the system before it started", by_system=True)
            return _left_the_queue(job, attempt, told)
        return _work(job, attempt, command, grant, termination)
    finally:
        grant.give_back()


def _work(
    job: Job, attempt: int, command: Sequence[str], grant: Grant, termination: _Termination
) -> int:
    before = _MemoryKills.now()
    try:
        worker = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=worker_environment(job, attempt, os.environ, grant),
            pass_fds=grant.descriptors,
        )
    except OSError as error:
        return _not_started(job, attempt, f"cannot start {command[0]}: {error}")
    try:
        grant.name_worker(worker.pid)
        _write_proc(job, attempt, worker.pid, grant.keys)
    except OSError as error:
        # Nobody could tell that it runs.
        worker.kill()
        worker.wait()
        return _not_started(job, attempt, f"its records cannot be written: {error}")
    termination.pass_on_to(worker.pid)
    queued.clear(job)
    status, peak = _wait_for(worker.pid, termination)
    # Popen must not wait for it again when it is collected.
    worker.returncode = status
    orphans = _end_children()
    grant.give_back()
    record = _exit_record(attempt, status, before, orphans, termination.asked)
    room.last_word(job, "exit.json", msgspec.structs.replace(record, peak_rss=peak))
    return 0


def _left_the_queue(job: Job, attempt: int, stopped: StoppedWaiting) -> int:
    """Write the last word for a worker that never was."""
    print(stopped.sentence, flush=True)
    status = "preempted" if stopped.by_system else "stopped"
    outcome = {"status": status, "attempt": attempt, "t": time.time(), "sentence": stopped.sentence}
    room.last_word(job, "outcome.json", outcome)
    queued.clear(job)
    return 0


def _not_started(job: Job, attempt: int, why: str, fix: str = "") -> int:
    print(f"{why}. {fix}", file=sys.stderr, flush=True)
    queued.clear(job)  # goes on a full disk too
    record = ExitRecord(attempt, NOT_STARTED, time.time(), error=why)
    room.last_word(job, "exit.json", record)
    return NOT_STARTED


def _survive_the_terminal() -> None:
    os.umask(0o077)
    for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    # Data loaders that outlive a killed worker come to us, not to init.
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _write_proc(job: Job, attempt: int, worker: int, gpus: tuple[str, ...]) -> None:
    me = os.getpid()
    record = ProcRecord(
        boot_id=procfs.boot_id(),
        host=procfs.host(),
        supervisor=Process(me, procfs.start_time(me) or 0),
        worker=Process(worker, procfs.start_time(worker) or 0),
        attempt=attempt,
        t=time.time(),
        gpus=gpus,
    )
    job.write_json("proc.json", record)


def _wait_for(worker: int, termination: _Termination) -> tuple[int, int]:
    """Wait for the worker, reaping whatever else was re-parented to us meanwhile.

    Returns how it ended and the most main memory that it held, in bytes.
    """
    while True:
        pid, status, usage = os.wait4(-1, 0)
        if pid == worker:
            termination.ignore()
            return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024


def _end_children() -> int:
    """End what the worker left behind, politely first; returns how many there were."""
    seen: set[int] = set()
    for number in range(_ROUNDS):
        _reap()
        left = procfs.children(os.getpid())
        if not left:
            break
        seen.update(left)
        sign = signal.SIGTERM if number < _POLITE_ROUNDS else signal.SIGKILL
        for pid in left:
            os.kill(pid, sign)  # our own children: unreaped, so the numbers are theirs
        time.sleep(_ROUND_S)
    return len(seen)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _exit_record(
    attempt: int, status: int, before: _MemoryKills, orphans: int, asked: bool
) -> ExitRecord:
    after = _MemoryKills.now()
    return ExitRecord(
        attempt=attempt,
        rc=status,
        t=time.time(),
        signal=-status if status < 0 else None,
        oom_kills=_rise(before.machine, after.machine),
        cgroup_oom_kills=_rise(before.cgroup, after.cgroup),
        orphans=orphans,
        stop_asked=asked,
    )


def _rise(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(0, after - before)


def main(arguments: Sequence[str]) -> int:
    split = list(arguments).index("--")
    (folder, option, attempt, *shares), command = arguments[:split], arguments[split + 1 :]
    assert option == "--attempt" and shares in ([], ["--share"]) and command
    return supervise(Job(Path(folder)), int(attempt), command, bool(shares))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
