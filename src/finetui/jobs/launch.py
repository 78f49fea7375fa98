"""Start a job's detached processes, and be sure that they are there.

The supervisor gets a session of its own before this process can go: a classic double fork loses
the race against the hang-up when the screen leads the terminal's session. Its output goes
straight to the log file, never through a pipe to us.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from finetui.errors import UserError
from finetui.jobs import control, locks, procfs, queued, room, slurm
from finetui.jobs.engine_command import engine_command
from finetui.jobs.folder import Job
from finetui.jobs.liveness import recorded_end, state
from finetui.jobs.logs import tail
from finetui.workspace import refuse_unsafe

START_LIMIT_S = 30.0
SETTLE_S = 5.0
_LEAVE_S = 5.0
_POLL_S = 0.01
_QUOTED_LINES = 5


def launch(
    job: Job,
    command: Sequence[str] | None = None,
    *,
    takeover: bool = False,
    settle_s: float = SETTLE_S,
    share: bool = False,
) -> int:
    """Start the next attempt of a job; returns its number once its worker is there or it waits.

    The default command is the engine on the folder. Where its GPUs are taken the job is queued: its
    supervisor starts the worker when they are free, or at once with `share`, beside whoever has
    them. Else waits for proc.json, then up to `settle_s` for the worker to take its lock, so that
    a worker which dies at once is an error here, with the end of its log. `takeover` starts also
    where the state is unknown: fencing keeps the other worker from publishing. Raises UserError,
    among others when the job runs already.
    """
    if job.path.is_dir():
        refuse_unsafe(job.path)  # its spec says what is run with our rights
    if not takeover:
        slurm.refuse_if_waiting(job)
    held = locks.hold(job.launch_lock)
    if held is None:
        raise UserError("the job is being started already.", job.id)
    try:
        _refuse_if_busy(job, takeover)
        room.require(job.path, 0, "a start")
        attempt = job.next_attempt()
        control.clear(job)
        queued.clear(job)
        process = _start_supervisor(job, attempt, command or engine_command(job), share)
        waits = _wait_for_proc(job, attempt, process)
    finally:
        os.close(held)
    if not waits:
        _wait_for_life(job, attempt, settle_s)
    return attempt


def _refuse_if_busy(job: Job, takeover: bool) -> None:
    if not (job.path / "spec.toml").is_file():
        raise UserError("there is no such job.", str(job.path), "See: finetui jobs")
    deadline = time.monotonic() + _LEAVE_S
    while locks.is_held(job.worker_lock) or locks.is_held(job.supervisor_lock):
        # The processes of an ended attempt may still be on their way out.
        if recorded_end(job) is None or time.monotonic() > deadline:
            raise UserError("the job is running already.", job.id, "Stop it first.")
        time.sleep(_POLL_S)
    proc = job.proc()
    # Not through state(): the launch lock that we hold would read as "starting".
    if proc is None or proc.host == procfs.host() or takeover or recorded_end(job):
        return
    raise UserError(
        f"the job was started on {proc.host}, and whether it still runs there is not known.",
        job.id,
        "Stop it there first.",
    )


def _start_supervisor(
    job: Job, attempt: int, command: Sequence[str], share: bool
) -> "subprocess.Popen[bytes]":
    # -P: a file in the working folder must not be imported instead of a module of the same name.
    supervisor = [sys.executable, "-P", "-m", "finetui.jobs.supervisor"]
    options = ["--share"] if share else []
    arguments = [str(job.path), "--attempt", str(attempt), *options, "--", *command]
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    log = os.open(job.log_path(attempt), flags, 0o600)
    try:
        process = subprocess.Popen(
            supervisor + arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=job.path,
        )
    except OSError as error:
        raise UserError(f"the supervisor cannot be started ({error.strerror}).", job.id) from error
    finally:
        os.close(log)
    # Reaps it, should it end before this process.
    threading.Thread(target=process.wait, name="supervisor-reaper", daemon=True).start()
    return process


def _wait_for_proc(job: Job, attempt: int, process: "subprocess.Popen[bytes]") -> bool:
    """Wait for the worker's proc.json; returns True when the job waits for its GPUs instead."""
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        gone = process.poll() is not None
        proc = job.proc()
        if proc is not None and proc.attempt == attempt:
            return False
        record = queued.newest(job, proc)
        if record is not None and record.attempt == attempt:
            return True
        if gone and (job.outcome() or {}).get("attempt") == attempt:
            return True  # told to stop before it had a worker
        if gone:
            raise _died(job, attempt, "the job could not be started.")
        if time.monotonic() > deadline:
            raise _died(job, attempt, f"the job did not start within {START_LIMIT_S:.0f} s.")
        time.sleep(_POLL_S)


def _wait_for_life(job: Job, attempt: int, settle_s: float) -> None:
    deadline = time.monotonic() + settle_s
    while time.monotonic() < deadline:
        if locks.is_held(job.worker_lock) or job.outcome() is not None:
            return
        ended = job.exit()
        if ended is not None and ended.attempt == attempt:
            if job.outcome() is None and ended.rc != 0:
                raise _died(job, attempt, f"the worker died at once: {state(job).sentence}.")
            return
        time.sleep(_POLL_S)


def _died(job: Job, attempt: int, what: str) -> UserError:
    lines = [line for line in tail(job.log_path(attempt), 40) if line.strip()]
    said = " | ".join(lines[-_QUOTED_LINES:])
    fix = f"Its log ends: {said}" if said else "Its log is empty."
    return UserError(what, job.id, fix)
