"""The state of a job, derived from the evidence in its folder; "running" is stored nowhere.

    outcome.json                          finished, stopped, preempted or failed, as it says
    exit.json without an outcome          failed: signal, out-of-memory evidence
    proc.json of another machine          unknown, never taken for dead
    worker lock held, heartbeat fresh     starting, running or paused
    worker lock held, heartbeat old       stalled: say so, kill nothing
    worker lock free, other boot          interrupted by a restart of the machine
    worker lock free, nobody alive        interrupted: worker and supervisor were both killed
    queue.json, supervisor lock held      queued: it waits for a GPU
    slurm.json                            what the heartbeat and Slurm say: see slurm_state

Records count for the newest attempt only.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetui.display import span
from finetui.jobs import deaths, heartbeat, locks, procfs, queued, room
from finetui.jobs.folder import Job, ProcRecord
from finetui.jobs.queued import QueueRecord

_ENDED = frozenset({"finished", "stopped", "preempted", "failed", "interrupted"})
# A supervisor takes a second to write proc.json; a launcher may have died meanwhile.
_START_S = 30.0
_SILENT_WAIT_S = 60.0
OUTCOMES = ("finished", "stopped", "preempted", "failed")


@dataclass(frozen=True)
class JobState:
    """A state's name, a sentence for people (no full stop), and since when (unix time).

    ``waits`` is true for a job whose supervisor waits for GPUs: queued, but started.
    """

    name: str
    sentence: str
    since: float | None = None
    waits: bool = False

    @property
    def ended(self) -> bool:
        """True when no worker will do more without a new start."""
        return self.name in _ENDED

    @property
    def alive(self) -> bool:
        """True when a worker process is there."""
        return self.name in ("starting", "running", "paused", "stalled")


def state(job: Job, clock: Callable[[], float] = time.time) -> JobState:
    """Derive a job's state from its files and, on the same machine, from its processes."""
    found = recorded_end(job)
    if found is None or found.name in ("preempted", "failed"):
        found = _in_slurm(job, found, clock) or found
    if found is not None:
        return found
    if hidden := _hidden(job):
        return JobState("unknown", f"your permissions do not let you read its {hidden}")
    found = _by_processes(job, job.proc(), clock)
    if found.name == "interrupted":
        # The last word may have been written between the two looks.
        return recorded_end(job) or found
    return found


def _in_slurm(job: Job, found: JobState | None, clock: Callable[[], float]) -> JobState | None:
    """The state of a job that Slurm has; what ended there may be waiting for its next turn."""
    if not os.path.exists(job.path / "slurm.json"):
        return None
    from finetui.jobs.slurm_note import submission
    from finetui.jobs.slurm_state import slurm_state, starts_again

    noted = submission(job)
    if found is not None and found.name == "failed" and not starts_again(job):
        return None
    return slurm_state(job, noted, found, clock) if noted is not None else None


def _hidden(job: Job) -> str:
    """The record of another person's job that may not be read, which is no evidence then."""
    records = ("outcome.json", "exit.json", "proc.json", job.worker_lock.name)
    there = (name for name in records if os.access(job.path / name, os.F_OK))
    return next((name for name in there if not os.access(job.path / name, os.R_OK)), "")


def recorded_end(job: Job) -> JobState | None:
    """Return the state that outcome.json or exit.json records for the newest attempt, if any."""
    proc = job.proc()
    attempt = proc.attempt if proc else 0
    outcome = job.outcome()
    if outcome is not None and outcome.get("status") in OUTCOMES:
        number = outcome.get("attempt")
        if isinstance(number, int) and number >= attempt:
            return _from_outcome(outcome)
    ended = job.exit()
    if ended is not None and ended.attempt >= attempt:
        return JobState("failed", deaths.exit_sentence(job, ended), ended.t)
    return None


def _by_processes(job: Job, proc: ProcRecord | None, clock: Callable[[], float]) -> JobState:
    if locks.is_held(job.launch_lock):
        return JobState("starting", "being started")
    if (record := queued.newest(job, proc)) is not None:
        return _in_the_queue(job, record)
    if proc is None:
        return _without_proc(job, clock)
    if proc.host != procfs.host():
        return _elsewhere(job, proc, clock)
    held = locks.is_held(job.worker_lock)
    if held:
        return _by_heartbeat(job, proc, clock)
    if held is None:
        text = "this file system cannot tell whether the worker lives"
        return JobState("unknown", text, proc.t)
    return _lock_is_free(proc)


def _in_the_queue(job: Job, record: QueueRecord) -> JobState:
    """A job whose newest attempt waits for GPUs, or did when its supervisor died."""
    if not queued.is_here(record):
        sentence = f"on {record.host} it {record.sentence}"
        if queued.silence(job) < _SILENT_WAIT_S:
            return JobState("queued", sentence, record.t, waits=True)
        last = f"; last sign of life {span(queued.silence(job))} ago"
        return JobState("unknown", sentence + last, record.t)
    held = locks.is_held(job.supervisor_lock)
    if held is None:
        text = "this file system cannot tell whether it still waits for a GPU"
        return JobState("unknown", text, record.t)
    if held:
        return JobState("queued", record.sentence, record.t, waits=True)
    text = "its supervisor was killed while it waited for a GPU; it never started"
    return JobState("interrupted", text, record.t)


def _without_proc(job: Job, clock: Callable[[], float]) -> JobState:
    if locks.is_held(job.worker_lock):
        return _by_heartbeat(job, None, clock)
    if locks.is_held(job.supervisor_lock):
        return JobState("starting", "its supervisor is starting the worker")
    logs = job.log_files()
    if logs and clock() - logs[-1].stat().st_mtime < _START_S:
        return JobState("starting", "its supervisor is starting")
    if logs:
        return JobState("failed", "it ended before its worker was started; the log may say why")
    return JobState("queued", "made, not started yet", job.created)


def _elsewhere(job: Job, proc: ProcRecord, clock: Callable[[], float]) -> JobState:
    beat = heartbeat.read(job.heartbeat)
    seen = f"; last sign of life {span(clock() - beat.t)} ago" if beat else ""
    text = f"it was started on {proc.host}, which cannot be asked from here{seen}"
    return JobState("unknown", text, proc.t)


def _by_heartbeat(job: Job, proc: ProcRecord | None, clock: Callable[[], float]) -> JobState:
    since = proc.t if proc else None
    beat = heartbeat.read(job.heartbeat)
    if beat is None or (proc is not None and beat.attempt < proc.attempt):
        return JobState("starting", "the worker is starting", since)
    silence = clock() - beat.t
    if silence > beat.limit:
        text = (
            f"no sign of life for {span(silence)} at step {beat.step}; the process still exists "
            f"and was left alone; where it stands: finetui stack {job.id}"
        )
        return JobState("stalled", text, beat.t)
    step = f"at step {beat.step}" if beat.step else "at work"
    wanted = room.waited_for(job, beat.attempt) if beat.phase == "paused" else ""
    sentence = {
        "starting": "the worker is getting ready",
        "paused": f"paused {step}{': ' + wanted if wanted else ''}",
    }.get(beat.phase, step)
    return JobState(beat.phase, sentence, since)


def _lock_is_free(proc: ProcRecord) -> JobState:
    if proc.boot_id != procfs.boot_id():
        return JobState("interrupted", "the machine was restarted while it ran", proc.t)
    if procfs.is_alive(proc.worker.pid, proc.worker.start):
        text = f"worker process {proc.worker.pid} has not begun its work yet"
        return JobState("starting", text, proc.t)
    leader = proc.supervisor
    if leader is not None and procfs.is_alive(leader.pid, leader.start):
        return JobState("running", "the worker has ended; how is being written down", proc.t)
    text = "its processes are gone without a word: killed together, or by a logout that ends all"
    return JobState("interrupted", text, proc.t)


def _from_outcome(outcome: dict[str, Any]) -> JobState:
    status = str(outcome["status"])
    said = outcome.get("sentence")
    sentence = said if isinstance(said, str) and said else _OUTCOME_SENTENCES[status]
    t = outcome.get("t")
    return JobState(status, sentence, float(t) if isinstance(t, int | float) else None)


_OUTCOME_SENTENCES = {
    "finished": "finished",
    "stopped": "stopped on request, saved",
    "preempted": "told to end by the system, saved",
    "failed": "failed",
}
