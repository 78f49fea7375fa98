"""The state of a job on a Slurm cluster: its own files first, then what Slurm says.

outcome.json: finished, stopped, failed    as it says (liveness looks before us)
newest attempt's heartbeat is new          starting, running or paused; Slurm is not asked
heartbeat is not yet old                   the same, unless Slurm says that it has ended
squeue: waiting, nothing ran yet           queued, with reason and place
squeue: waiting, an attempt ran            requeued, the same
squeue: running, heartbeat old             stalled: say so, kill nothing
squeue: ended, or knows it no more         preempted as the outcome says, else interrupted
Slurm does not answer                      unknown, never taken for dead
"""

import time
from collections.abc import Callable

from finetui.display import span
from finetui.jobs import heartbeat
from finetui.jobs.folder import Job, read_json
from finetui.jobs.heartbeat import Beat
from finetui.jobs.liveness import JobState
from finetui.jobs.slurm_note import Submission
from finetui.jobs.slurm_queue import DESK, Answer, Desk, Entry

# A network file system may show a file as it was a minute ago.
_LATE_S = 60.0
_HAND_IN_S = 60.0
_JUST_NOW_S = 5.0

_WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"})
_GOING = frozenset({"RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SIGNALING", "RESIZING",
                    "SUSPENDED", "STOPPED"})  # fmt: skip

_REASONS = {
    "None": "Slurm has not looked at it yet",
    "Resources": "it waits for free machines",
    "Priority": "others come first",
    "BeginTime": "its start time has not come",
    "Dependency": "it waits for another job",
    "JobHeldUser": "its user holds it back",
    "JobHeldAdmin": "an administrator holds it back",
    "Reservation": "it waits for its reservation",
    "ReqNodeNotAvail": "the machines it needs are down or reserved",
    "NodeDown": "a machine it needs is down",
    "PartitionDown": "the partition is down",
    "PartitionTimeLimit": "its time limit is above the partition's",
    "PartitionNodeLimit": "it wants more machines than the partition gives",
    "AssociationJobLimit": "the account's limit of jobs is reached",
    "Licenses": "it waits for licences",
    "BadConstraints": "no machine is as it wants them",
    "launch failed requeued held": "its start failed, and Slurm holds it back",
}
_ENDS = {
    "BOOT_FAIL": "its machine could not be started",
    "CANCELLED": "it was cancelled in Slurm",
    "COMPLETED": "its Slurm job ended without a last word",
    "DEADLINE": "its deadline passed",
    "FAILED": "its Slurm job failed without a last word",
    "NODE_FAIL": "its machine failed",
    "OUT_OF_MEMORY": "it used more memory than it asked Slurm for",
    "PREEMPTED": "the cluster needed the machine",
    "TIMEOUT": "its time limit passed before it could save",
}


def slurm_state(
    job: Job,
    noted: Submission,
    recorded: JobState | None = None,
    clock: Callable[[], float] = time.time,
    desk: Desk = DESK,
) -> JobState:
    """Derive the state of a job that was handed in to Slurm; `recorded` is a preempted end."""
    proc = job.proc()
    attempt = max(proc.attempt if proc else 0, noted.attempt)
    beat = heartbeat.read(job.heartbeat)
    if beat is not None and (beat.attempt < attempt or _made_way(job, beat.attempt)):
        beat = None
    beat_t = beat.t if beat else 0.0
    alive = None
    if recorded is None and beat is not None:
        if clock() - beat.t <= beat.limit:
            alive = _by_heartbeat(beat, proc.host if proc else "", proc.t if proc else None)
        if alive is not None and clock() - beat.t <= _JUST_NOW_S:
            return alive
    answer = desk.answer(noted.id, noted.cluster, noted.name)
    going = answer.entry is not None and answer.entry.state in _GOING
    if alive is not None and (going or answer.problem or answer.t < beat_t):
        return alive
    if answer.problem:
        return _unanswered(noted, recorded, beat, answer, clock)
    entry = answer.entry
    if entry is None:
        return _forgotten(noted, recorded, clock)
    if entry.state in _WAITING:
        ran = proc is not None and proc.attempt >= noted.attempt
        return _waiting(job, noted, entry, ran)
    if entry.state in _GOING:
        return _going(job, noted, entry, recorded, beat, clock)
    return _ended(job, noted, entry, recorded)


def starts_again(job: Job) -> bool:
    """Whether the script had Slurm requeue the job after the attempt that its outcome tells of."""
    note = read_json(job.path / "slurm-end.json") or {}
    told = _number((job.outcome() or {}).get("attempt"))
    return note.get("again") is True and _number(note.get("attempt")) == told > 0


def _made_way(job: Job, attempt: int) -> bool:
    """Whether the script has seen the worker of an attempt end, whatever its heartbeat says."""
    note = read_json(job.path / "slurm-end.json") or {}
    return _number(note.get("attempt")) >= max(1, attempt)


def _by_heartbeat(beat: Beat, host: str, since: float | None) -> JobState:
    step = f"at step {beat.step}" if beat.step else "at work"
    where = f" on {host} (Slurm)" if host else " in Slurm"
    sentence = {
        "starting": f"the worker is getting ready{where}",
        "paused": f"paused {step}{where}",
    }.get(beat.phase, step + where)
    return JobState(beat.phase, sentence, since)


def _unanswered(
    noted: Submission,
    recorded: JobState | None,
    beat: Beat | None,
    answer: Answer,
    clock: Callable[[], float],
) -> JobState:
    """Silence is no evidence of anything."""
    seen = f"; last sign of life {span(clock() - beat.t)} ago" if beat else ""
    if recorded is not None:
        seen = f"; its last word: {recorded.sentence}"
    text = (
        f"how Slurm's job {noted.id or '(number not known)'} stands is not known: {answer.problem}"
    )
    return JobState("unknown", text + seen, noted.t)


def _forgotten(
    noted: Submission, recorded: JobState | None, clock: Callable[[], float]
) -> JobState:
    if recorded is not None:
        return recorded
    if not noted.id:
        if clock() - noted.t < _HAND_IN_S:
            return JobState("queued", "being handed in to Slurm", noted.t, waits=True)
        return JobState("interrupted", "it was never taken by Slurm", noted.t)
    text = f"Slurm knows its job {noted.id} no more, and it left no last word"
    return JobState("interrupted", text, noted.t)


def _waiting(job: Job, noted: Submission, entry: Entry, ran: bool) -> JobState:
    parts = [_reason(entry.reason)]
    if entry.place is not None:
        parts.append(f"place {entry.place} of {entry.waiting} in {entry.partition}")
    if entry.start:
        parts.append(f"Slurm expects it at {entry.start.replace('T', ' ')}")
    name, before = "queued", ""
    if ran:
        name, before = "requeued", f"{_why(job) or 'put back into the queue'}; "
    sentence = f"{before}Slurm job {entry.id} waits: {', '.join(parts)}"
    return JobState(name, sentence, noted.t, waits=True)


def _why(job: Job) -> str:
    """Why the last attempt made way, in the script's words."""
    proc, note = job.proc(), read_json(job.path / "slurm-end.json") or {}
    same = proc is not None and note.get("attempt") == proc.attempt
    return str(note.get("why", "")).partition(";")[0] if same else ""


def _reason(word: str) -> str:
    if word in _REASONS:
        return f"{_REASONS[word]} ({word})" if word != "None" else _REASONS[word]
    if word.startswith(("QOS", "Assoc")):
        return f"a limit of the account or its quality of service is reached ({word})"
    return f"Slurm says {word}"


def _begun_since(job: Job) -> bool:
    """Whether the script of a later attempt than the recorded one runs."""
    begun = read_json(job.path / "slurm-attempt.json") or {}
    return _number(begun.get("attempt")) > _number((job.outcome() or {}).get("attempt"))


def _number(value: object) -> int:
    """A number from a file that anybody may have written; 0 for anything else."""
    return value if isinstance(value, int) else 0


def _going(
    job: Job,
    noted: Submission,
    entry: Entry,
    recorded: JobState | None,
    beat: Beat | None,
    clock: Callable[[], float],
) -> JobState:
    where = f"Slurm job {entry.id} on {entry.nodes}" if entry.nodes else f"Slurm job {entry.id}"
    if entry.state == "SUSPENDED":
        return JobState("paused", f"{where} is suspended by Slurm", noted.t)
    if recorded is not None and not _begun_since(job):
        return JobState("running", f"{recorded.sentence}; {where} is ending", recorded.since)
    if beat is None:
        return JobState("starting", f"{where}; the worker is starting", noted.t)
    silence = clock() - beat.t
    if silence <= beat.limit + _LATE_S:
        return JobState(beat.phase, f"at step {beat.step}; {where}", noted.t)
    text = f"no sign of life for {span(silence)} at step {beat.step}; {where} was left alone"
    return JobState("stalled", text, beat.t)


def _stays(job: Job, entry: Entry) -> str:
    """Why a preempted run was not started again, as far as that is known."""
    note = read_json(job.path / "slurm-end.json") or {}
    if note.get("again"):
        return f"; Slurm ended the next attempt before it began ({entry.state}, {entry.reason})"
    return f"; {note['why']}" if note.get("why") and entry.state == "COMPLETED" else ""


def _ended(job: Job, noted: Submission, entry: Entry, recorded: JobState | None) -> JobState:
    cancelled = read_json(job.path / "slurm-cancel.json") or {}
    who = cancelled.get("who") if cancelled.get("token") == noted.token else None
    if recorded is not None:
        if who and entry.state == "CANCELLED":
            return JobState("stopped", f"cancelled by {who}, saved", recorded.since)
        return JobState(recorded.name, f"{recorded.sentence}{_stays(job, entry)}", recorded.since)
    said = _ENDS.get(entry.state, f"Slurm ended it ({entry.state})")
    if who and entry.state == "CANCELLED":
        said = f"cancelled by {who} before it could save"
    detail = f" (Slurm: {entry.state}, {entry.reason})" if entry.reason not in ("None", "") else ""
    return JobState("interrupted", said + detail, noted.t)
