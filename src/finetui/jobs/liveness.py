"""The state of a job, derived from the evidence in its folder; "running" is stored nowhere.

    outcome.json                          finished, stopped, preempted or failed, as it says
    exit.json without an outcome          failed: signal, out-of-memory evidence
    proc.json of another machine          unknown, never taken for dead
    worker lock held, heartbeat fresh     starting, running or paused
    worker lock held, heartbeat old       stalled: say so, kill nothing
    worker lock free, other boot          interrupted by a restart of the machine
    worker lock free, nobody alive        interrupted: worker and supervisor were both killed

Records count for the newest attempt only.
"""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetui.display import span
from finetui.jobs import heartbeat, locks, procfs
from finetui.jobs.folder import ExitRecord, Job, ProcRecord, read_json

_ENDED = frozenset({"finished", "stopped", "preempted", "failed", "interrupted"})
# A supervisor takes a second to write proc.json; a launcher may have died meanwhile.
_START_S = 30.0
OUTCOMES = ("finished", "stopped", "preempted", "failed")


@dataclass(frozen=True)
class JobState:
    """A state's name, a sentence for people (no full stop), and since when (unix time)."""

    name: str
    sentence: str
    since: float | None = None

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
    if found is not None:
        return found
    found = _by_processes(job, job.proc(), clock)
    if found.name == "interrupted":
        # The last word may have been written between the two looks.
        return recorded_end(job) or found
    return found


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
        return JobState("failed", _exit_sentence(job, ended), ended.t)
    return None


def _by_processes(job: Job, proc: ProcRecord | None, clock: Callable[[], float]) -> JobState:
    if locks.is_held(job.launch_lock):
        return JobState("starting", "being started")
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
            f"no sign of life for {span(silence)} at step {beat.step}; "
            "the process still exists and was left alone"
        )
        return JobState("stalled", text, beat.t)
    step = f"at step {beat.step}" if beat.step else "at work"
    sentence = {
        "starting": "the worker is getting ready",
        "paused": f"paused {step}",
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


def _exit_sentence(job: Job, ended: ExitRecord) -> str:
    if ended.error:
        return f"the worker could not be started: {ended.error}"
    if ended.signal is None:
        return f"the worker ended with code {ended.rc} and left no outcome; the log may say why"
    killed = read_json(job.path / "killed.json")
    if killed is not None and killed.get("attempt") == ended.attempt:
        return f"killed on request of {killed.get('user')}"
    sentence = f"killed by signal {ended.signal}{_signal_name(ended.signal)}"
    if ended.signal == signal.SIGKILL:
        sentence += f"; {_memory_evidence(ended)}"
    return sentence


def _memory_evidence(ended: ExitRecord) -> str:
    if ended.cgroup_oom_kills:
        return f"its memory limit (cgroup) was hit {ended.cgroup_oom_kills} times meanwhile"
    if ended.oom_kills:
        return f"the kernel's out-of-memory counter rose by {ended.oom_kills} meanwhile"
    if ended.oom_kills is None:
        return "whether memory ran out is not known"
    return "the kernel's out-of-memory counter did not rise"


def _signal_name(number: int) -> str:
    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:
        return ""
