"""Requests from people to a running worker: small files, published by rename, polled at step edges.

Files work across Slurm and network file systems, and outlive the screen that wrote them.
"""

import getpass
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finetui.errors import UserError
from finetui.jobs import procfs
from finetui.jobs.folder import Job, ProcRecord, read_json
from finetui.jobs.liveness import state

VERBS = ("stop", "save", "evaluate", "pause", "resume")

_ANSWERS = {
    "stop": "asked {id} to stop: it saves and ends after the current step",
    "save": "asked {id} to save a checkpoint after the current step",
    "evaluate": "asked {id} to evaluate after the current step",
    "pause": "asked {id} to pause after the current step",
    "resume": "asked {id} to go on",
}


def request(job: Job, verb: str, **fields: Any) -> str:
    """Leave a request for the worker and return what was done as a sentence.

    A second request of the same verb replaces the first while it is unread. Raises UserError
    for an unknown verb and for a job that no worker will ever poll for.
    """
    if verb not in VERBS:
        raise UserError(f'"{verb}" is no request.', fix=f"Choose one of {', '.join(VERBS)}.")
    found = state(job)
    if found.ended:
        raise UserError(f"there is nothing to {verb}: {found.sentence}.", job.id)
    job.control.mkdir(mode=0o700, exist_ok=True)
    job.write_json(f"control/{verb}.json", {"verb": verb, "t": time.time(), **fields})
    return _ANSWERS[verb].format(id=job.id)


def stop(job: Job) -> str:
    """Ask a job to save and end after the current step; returns a sentence."""
    return request(job, "stop")


def kill(job: Job) -> str:
    """End a job's worker at once, unsaved, and return what was done as a sentence.

    The process is reached through a pidfd whose start time was compared, never by number
    alone: a number can be used again. Raises UserError when there is no such process here.
    """
    proc = job.proc()
    if proc is None:
        raise UserError("the job has no process.", job.id)
    if proc.host != procfs.host():
        raise UserError(f"the job runs on {proc.host}.", job.id, "Kill it there.")
    note = {"t": time.time(), "attempt": proc.attempt, "user": getpass.getuser()}
    try:
        handle = os.pidfd_open(proc.worker.pid)
    except OSError as error:
        raise _no_process(job, proc) from error
    try:
        if proc.boot_id != procfs.boot_id() or not procfs.is_alive(
            proc.worker.pid, proc.worker.start
        ):
            raise _no_process(job, proc)
        job.write_json("killed.json", note)
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError as error:
        raise _no_process(job, proc) from error
    finally:
        os.close(handle)
    return f"killed process {proc.worker.pid} of {job.id}; work since the last save is lost"


class ControlInbox:
    """The worker's end: takes each request once.

    `beat` is called at every poll, `taken` with every verb that a poll returns.
    """

    def __init__(
        self,
        folder: Path,
        beat: Callable[[], None] = lambda: None,
        taken: Callable[[str], None] = lambda verb: None,
    ) -> None:
        self._folder = folder
        self._beat = beat
        self._taken = taken
        self._fields: dict[str, Mapping[str, Any]] = {}
        self._terminated = False

    def poll(self) -> set[str]:
        """Return the verbs asked for since the last call (about 5 microseconds)."""
        self._beat()
        verbs = {"stop"} if self._take_termination() else set()
        for verb in _asked(self._folder):
            path = self._folder / f"{verb}.json"
            self._fields[verb] = read_json(path) or {}
            path.unlink(missing_ok=True)
            verbs.add(verb)
        for verb in sorted(verbs):
            self._taken(verb)
        return verbs

    def fields(self, verb: str) -> Mapping[str, Any]:
        """Return what came with the newest request of a verb, {} before any."""
        return self._fields.get(verb, {})

    def terminate(self) -> None:
        """Turn a SIGTERM into a request to stop (safe in a signal handler)."""
        self._terminated = True

    def _take_termination(self) -> bool:
        taken, self._terminated = self._terminated, False
        return taken


def clear(job: Job) -> None:
    """Drop requests that were meant for an earlier attempt."""
    for verb in VERBS:
        (job.control / f"{verb}.json").unlink(missing_ok=True)


def _asked(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except OSError:
        return []
    return [verb for verb in VERBS if f"{verb}.json" in names] if names else []


def _no_process(job: Job, proc: ProcRecord) -> UserError:
    return UserError(f"the worker process {proc.worker.pid} is gone.", job.id)
