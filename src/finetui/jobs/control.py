"""Requests from people to a running worker: small files, published by rename, polled at step edges.

Files work across Slurm and network file systems, and outlive the screen that wrote them.
"""

import getpass
import math
import os
import signal
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetui.display import clean
from finetui.errors import UserError
from finetui.jobs import procfs
from finetui.jobs.folder import Job, ProcRecord, read_json
from finetui.jobs.liveness import state
from finetui.jobs.room import is_full
from finetui.jobs.slurm_note import submission

Fields = dict[str, Any]


@dataclass(frozen=True)
class Verb:
    """A request: what it does, what is answered when it was left, and the checks of its fields.

    Requests of a verb with fields add up until the worker looks; others replace one another.
    A verb for `waiting` jobs is for those that wait for a GPU.
    """

    help: str
    answer: str
    fields: Mapping[str, Callable[[object], object]] = field(default_factory=dict)
    needs_field: bool = False
    waiting: bool = False


def _rate(value: object) -> float:
    number = _number(value)
    if not 0 < number <= 1:
        raise ValueError("a learning rate is above 0 and at most 1")
    return number


def _steps(least: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        number = _number(value)
        if number != int(number) or number < least:
            raise ValueError(f"it is a whole number of steps, {least} or more")
        return int(number)

    return check


def _number(value: object) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError("it is a number")
    return number


def _flag(value: object) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    found = words.get(str(value).lower())
    if found is None:
        raise ValueError("it is true or false")
    return found


def _rows(value: object) -> list[list[int]]:
    """[[file, line], ...], or text such as ``0:12,0:40``; file counts in the job's data files."""
    try:
        pairs = [one.split(":") for one in value.split(",")] if isinstance(value, str) else value
        rows = [[int(file), int(line)] for file, line in pairs]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        rows = []
    if not rows or any(file < 0 or line < 1 for file, line in rows):
        raise ValueError("it names rows as FILE:LINE, such as 0:12,0:40")
    return rows


VERBS: Mapping[str, Verb] = {
    "stop": Verb(
        "save and end after the current step",
        "asked {id} to stop: it saves and ends after the current step",
    ),
    "stop_best": Verb(
        "end after the current step with the best weights so far, scored as usual",
        "asked {id} to stop and keep the best: it ends after the current step",
    ),
    "save": Verb(
        "save a checkpoint after the current step",
        "asked {id} to save a checkpoint after the current step",
    ),
    "evaluate": Verb(
        "evaluate after the current step", "asked {id} to evaluate after the current step"
    ),
    "pause": Verb(
        "wait after the current step; release=true gives the GPU memory back meanwhile",
        "asked {id} to pause after the current step",
        {"release": _flag},
    ),
    "resume": Verb("go on after a pause", "asked {id} to go on"),
    "set": Verb(
        "change learning_rate (at its peak), eval_every, save_every or end_step",
        "asked {id} for new settings after the current step",
        {
            "learning_rate": _rate,
            "eval_every": _steps(0),
            "save_every": _steps(0),
            "end_step": _steps(1),
        },
        needs_field=True,
    ),
    "exclude": Verb(
        "leave rows out from now on: rows=FILE:LINE,FILE:LINE",
        "asked {id} to leave rows out from the next step on",
        {"rows": _rows},
        needs_field=True,
    ),
    "preempt": Verb(
        "save and end after the current step to make way; in Slurm it is started again",
        "asked {id} to save and make way after the current step",
    ),
    "share": Verb(
        "start a job that waits for a GPU now, beside what is at work there",
        "asked {id} to start now, beside what is at work on the GPU",
        waiting=True,
    ),
}


STOPS = ("stop", "stop_best")
SYSTEM = "the system"


def request(job: Job, verb: str, **fields: Any) -> str:
    """Leave a request for the worker and return what was done as a sentence.

    Raises UserError for an unknown verb or field, for a value out of bounds, and for a job that
    no worker will ever poll for.
    """
    checked = check(verb, fields)
    found = state(job)
    if verb in STOPS and found.name in ("queued", "requeued"):
        from finetui.jobs import slurm

        if slurm.submission(job) is not None:
            return slurm.cancel(job)
    if found.ended:
        raise UserError(f"there is nothing to {verb}: {found.sentence}.", job.id)
    if VERBS[verb].waiting and (not found.waits or submission(job) is not None):
        raise UserError(f"it waits for no GPU of a machine: {found.sentence}.", job.id)
    job.control.mkdir(mode=0o700, exist_ok=True)
    name = verb if not VERBS[verb].needs_field else f"{verb}-{time.time_ns()}-{os.getpid()}"
    note = {"verb": verb, "t": time.time(), "who": _user(), "fields": checked}
    _leave(job, name, note)
    if found.waits and verb in STOPS:
        return f"asked {job.id} to stop: it leaves the queue for the GPUs"
    return VERBS[verb].answer.format(id=job.id)


def _leave(job: Job, name: str, note: Mapping[str, Any]) -> None:
    """Publish a request. One that says nothing but its name needs no room on a full disk."""
    try:
        job.write_json(f"control/{name}.json", note)
    except OSError as error:
        if not is_full(error):
            raise
        if note["fields"]:
            raise UserError("the disk is full.", str(job.path), "Make room first.") from error
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        os.close(os.open(job.control / f"{name}.json", flags, 0o600))


def take(job: Job, verbs: Collection[str]) -> tuple[str, str] | None:
    """Take one of these requests from a job that has no worker yet: (verb, who asked) or None."""
    for name in _asked(job.control):
        verb = _verb_of(name)
        if verb in verbs:
            note = read_json(job.control / name) or {}
            (job.control / name).unlink(missing_ok=True)
            return verb, clean(str(note.get("who") or "somebody"))
    return None


def check(verb: str, fields: Mapping[str, object]) -> Fields:
    """The fields of a request as they count, text made into values. Raises UserError."""
    known = VERBS.get(verb)
    if known is None:
        raise UserError(f'"{verb}" is no request.', fix=f"Choose one of {', '.join(VERBS)}.")
    names = ", ".join(known.fields)
    checked: Fields = {}
    for name, value in fields.items():
        if name not in known.fields:
            fix = f"Choose one of {names}." if names else ""
            raise UserError(f'{verb} takes no field "{name}".', fix=fix)
        try:
            checked[name] = known.fields[name](value)
        except ValueError as error:
            raise UserError(f"{error}, not {value!r}.", f"{verb} {name}") from error
    if known.needs_field and not checked:
        raise UserError(f"{verb} needs something to {verb}.", fix=f"Name one of {names}.")
    return checked


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
    if proc.backend == "slurm":
        from finetui.jobs import slurm

        return slurm.cancel(job, hard=True)
    if proc.host != procfs.host():
        raise UserError(f"the job runs on {proc.host}.", job.id, "Kill it there.")
    note = {"t": time.time(), "attempt": proc.attempt, "user": _user()}
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

    `beat` is called at every poll, `taken` with verb, fields and who asked for every verb that a
    poll returns. While `lacks` says so, a poll returns "pause": the worker lacks room on the disk.
    """

    def __init__(
        self,
        folder: Path,
        beat: Callable[[], None] = lambda: None,
        taken: Callable[[str, Fields, str], None] = lambda verb, fields, who: None,
        lacks: Callable[[], bool] = lambda: False,
    ) -> None:
        self._folder = folder
        self._beat = beat
        self._taken = taken
        self._lacks = lacks
        self._fields: dict[str, Fields] = {}
        self._kept: set[str] = set()
        self._terminated = False

    def poll(self) -> set[str]:
        """Return the verbs asked for since the last call (about 5 microseconds)."""
        self._beat()
        verbs, self._kept = self._kept, set()
        if self._take_termination():
            verbs.add("stop")
            self._taken("stop", {}, SYSTEM)
        for verb, note in self._notes():
            found = _checked(verb, note.get("fields"))
            if found is None:
                continue
            kept = self._fields.get(verb, {}) if verb in verbs else {}
            self._fields[verb] = _added(kept, found)
            verbs.add(verb)
            self._taken(verb, found, str(note.get("who") or "somebody"))
        if "preempt" in verbs:
            verbs.add("stop")
        if self._lacks() and "pause" not in verbs:
            self._fields["pause"] = {}
            verbs.add("pause")
        return verbs

    def _notes(self) -> list[tuple[str, Fields]]:
        """Take the requests out of the folder, oldest first."""
        found = []
        for name in _asked(self._folder):
            path = self._folder / name
            note = read_json(path) or {}
            path.unlink(missing_ok=True)
            t = note.get("t")
            found.append((t if isinstance(t, int | float) else 0.0, _verb_of(name), note))
        return [(verb, note) for _, verb, note in sorted(found, key=lambda one: one[0])]

    def keep(self, verbs: set[str]) -> None:
        """Let the next poll return verbs again that nobody could obey yet."""
        self._kept |= verbs

    def fields(self, verb: str) -> Fields:
        """Return what came with the newest requests of a verb, {} before any."""
        return self._fields.get(verb, {})

    def terminate(self) -> None:
        """Turn a SIGTERM into a request to stop (safe in a signal handler)."""
        self._terminated = True

    def _take_termination(self) -> bool:
        taken, self._terminated = self._terminated, False
        return taken


def clear(job: Job) -> None:
    """Drop requests that were meant for an earlier attempt."""
    for name in _asked(job.control):
        (job.control / name).unlink(missing_ok=True)


def describe(verb: str, fields: Fields, who: str) -> str:
    """One request in words, for the run's record."""
    parts = [f"{name} {_plain(value)}" for name, value in fields.items()]
    return f"{verb.replace('_', ' ')}{': ' + ', '.join(parts) if parts else ''} (asked by {who})"


def _plain(value: object) -> str:
    if isinstance(value, list):
        return " ".join(":".join(map(str, row)) for row in value[:8]) + (
            f" and {len(value) - 8} more" if len(value) > 8 else ""
        )
    return f"{value:g}" if isinstance(value, float) else str(value)


def _asked(folder: Path) -> list[str]:
    """The names of the request files."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_file()]
    except OSError:
        return []
    return [name for name in names if _verb_of(name) in VERBS]


def _verb_of(name: str) -> str:
    """The verb of a file's name: ``stop.json``, ``set-1700000000-42.json``."""
    stem, dot, kind = name.partition(".")
    return stem.partition("-")[0] if dot and kind == "json" else ""


def _checked(verb: str, fields: object) -> Fields | None:
    """The fields as they count; None for a request that no worker can take."""
    try:
        return check(verb, fields if isinstance(fields, dict) else {})
    except UserError:
        return None


def _added(old: Fields, new: Fields) -> Fields:
    """Both requests as one: lists add up, the newer of two values counts."""
    lists = {name: old[name] + value for name, value in new.items()
             if isinstance(value, list) and name in old}  # fmt: skip
    return {**old, **new, **lists}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return f"user {os.getuid()}"


def _no_process(job: Job, proc: ProcRecord) -> UserError:
    return UserError(f"the worker process {proc.worker.pid} is gone.", job.id)
