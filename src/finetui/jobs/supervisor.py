"""The parent of one worker: starts it, waits, and writes down how it ended.

    python -m finetui.jobs.supervisor JOBDIR --attempt N -- COMMAND...

One supervisor a run, no daemon. It writes proc.json when the worker is there and exit.json when
it is gone; it survives hang-ups, adopts what the worker leaves behind and ends it. The worker
goes on when the supervisor is killed: each writes a record that covers the other's death.
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

from finetui.jobs import locks, procfs
from finetui.jobs.folder import ExitRecord, Job, Process, ProcRecord
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


def worker_environment(job: Job, attempt: int, given: Mapping[str, str]) -> dict[str, str]:
    """Return a worker's environment: what was given wins over our defaults."""
    own = {FOLDER_VARIABLE: str(job.path), ATTEMPT_VARIABLE: str(attempt)}
    return {**_ENVIRONMENT, **given, **own}


def supervise(job: Job, attempt: int, command: Sequence[str]) -> int:
    """Run the command as the job's worker to its end; returns the code to exit with."""
    lock = locks.hold(job.supervisor_lock, _LOCK_WAIT_S)
    if lock is None:
        print("another supervisor has this folder", file=sys.stderr)
        return BUSY
    _survive_the_terminal()
    before = _MemoryKills.now()
    job.put_away_records()
    try:
        worker = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=worker_environment(job, attempt, os.environ),
        )
    except OSError as error:
        print(f"cannot start {command[0]}: {error}", file=sys.stderr)
        record = ExitRecord(attempt, NOT_STARTED, time.time(), error=str(error))
        job.write_json("exit.json", record)
        return NOT_STARTED
    asked = _forward_termination(worker.pid)
    _write_proc(job, attempt, worker.pid)
    status = _wait_for(worker.pid)
    # Popen must not wait for it again when it is collected.
    worker.returncode = status
    orphans = _end_children()
    job.write_json("exit.json", _exit_record(attempt, status, before, orphans, bool(asked)))
    return 0


def _survive_the_terminal() -> None:
    os.umask(0o077)
    for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    # Data loaders that outlive a killed worker come to us, not to init.
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _forward_termination(worker: int) -> list[float]:
    """Pass SIGTERM on to the worker; returns the list that gains the time of each."""
    asked: list[float] = []

    def forward(number: int, frame: FrameType | None) -> None:
        asked.append(time.time())
        os.kill(worker, signal.SIGTERM)  # unreaped until we wait: the number is still its own

    signal.signal(signal.SIGTERM, forward)
    return asked


def _write_proc(job: Job, attempt: int, worker: int) -> None:
    me = os.getpid()
    record = ProcRecord(
        boot_id=procfs.boot_id(),
        host=procfs.host(),
        supervisor=Process(me, procfs.start_time(me) or 0),
        worker=Process(worker, procfs.start_time(worker) or 0),
        attempt=attempt,
        t=time.time(),
    )
    job.write_json("proc.json", record)


def _wait_for(worker: int) -> int:
    """Wait for the worker, reaping whatever else was re-parented to us meanwhile."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == worker:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            return os.waitstatus_to_exitcode(status)


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
    folder, option, attempt, dashes, *command = arguments
    assert option == "--attempt" and dashes == "--" and command
    return supervise(Job(Path(folder)), int(attempt), command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
