"""Sweeps as folders: jobs that wait, and a detached runner that starts one after another.

    sweeps/<time>-<name>/sweep.json   what was asked for: the trials and their jobs, in order
                         runner.lock  held by the runner: it dies with it
                         stop         asked to end after the run that is going on
                         log.txt      what the runner said

As with jobs, "running" is stored nowhere: ``sweep_state`` derives it.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from finetui.errors import UserError
from finetui.jobs import control, locks
from finetui.jobs.folder import Job, read_json
from finetui.jobs.liveness import JobState, state
from finetui.jobs.logs import tail
from finetui.jobs.monitor import JobReader
from finetui.workspace import write_atomic

_START_S = 20.0
_POLL_S = 0.02
_SLUG_LIMIT = 40

# States of a run that the runner leaves alone; one that was interrupted is started again.
_DONE = frozenset({"finished", "stopped", "failed", "missing"})

Changes = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class SweepTrial:
    """One run that a sweep asks for: its changes as (field id, value as typed), and its job."""

    name: str
    changes: Changes
    job: Job

    def state(self) -> JobState:
        """The state of its job, "missing" where somebody removed the folder."""
        try:
            there = self.job.path.is_dir()
        except OSError:  # a name that no file system takes
            there = False
        if not there:
            return JobState("missing", "its folder is gone")
        return state(self.job)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do for it; an interrupted run can go on."""
        return self.state().name in _DONE


@dataclass(frozen=True, slots=True)
class Row:
    """One trial in the comparing table; None where the run has not said it (yet).

    ``best_eval`` is the lowest held-out loss. ``accuracy`` and ``accuracy_before`` are shares (0
    to 1) of held-out rows that were right; ``forgotten`` is what the general check lost, before
    less after. Bytes and seconds.
    """

    name: str
    job: str
    changes: Changes
    state: JobState
    step: int | None = None
    best_eval: float | None = None
    train_loss: float | None = None
    accuracy_before: float | None = None
    accuracy: float | None = None
    forgotten: float | None = None
    tokens_per_s: float | None = None
    peak_bytes: int | None = None
    seconds: float | None = None
    best: bool = False


class Sweep:
    """One sweep folder. Reads what is there; remembers nothing that can change."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()

    def __repr__(self) -> str:
        return f"Sweep({self.id!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sweep) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def lock(self) -> Path:
        return self.path / "runner.lock"

    @property
    def stop_file(self) -> Path:
        return self.path / "stop"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def name(self) -> str:
        return str(self._record().get("name") or self.id)

    @property
    def created(self) -> float:
        value = self._record().get("created")
        return float(value) if isinstance(value, (int, float)) and abs(value) < 1e15 else 0.0

    def trials(self) -> list[SweepTrial]:
        """The trials in order; raises UserError when sweep.json cannot be read."""
        written = self._record().get("trials")
        if not isinstance(written, list):
            raise UserError("the sweep cannot be read.", str(self.path / "sweep.json"))
        return [self._trial(item) for item in written if isinstance(item, Mapping)]

    def _trial(self, item: Mapping[str, Any]) -> SweepTrial:
        try:
            changes = tuple((str(field), str(value)) for field, value in item.get("changes", ()))
            job = Job(os.path.normpath(self.path / str(item.get("job", ""))))
        except (TypeError, ValueError):
            raise UserError(
                "a run of the sweep does not read.", str(self.path / "sweep.json")
            ) from None
        return SweepTrial(str(item.get("name", "")), changes, job)

    def _record(self) -> dict[str, Any]:
        return read_json(self.path / "sweep.json") or {}


def create_sweep(
    root: Path, name: str, trials: Sequence[tuple[str, Sequence[tuple[str, str]], Job]]
) -> Sweep:
    """Make the folder of a sweep under ``root`` (the workspace's ``sweeps``); starts nothing.

    A trial is (name, changes as (field id, typed value), its queued job). Raises UserError when
    there are none, or the folder cannot be written.
    """
    if not trials:
        raise UserError("a sweep needs a run at least.", name)
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        path = _new_folder(root, name)
        written = [
            {"name": title, "changes": changes, "job": os.path.relpath(job.path, path)}
            for title, changes, job in trials
        ]
        record = {"name": name, "created": time.time(), "trials": written}
        write_atomic(path / "sweep.json", msgspec.json.encode(record) + b"\n")
    except OSError as error:
        raise UserError(f"the sweep cannot be written ({error.strerror}).", str(root)) from error
    return Sweep(path)


def _new_folder(root: Path, name: str) -> Path:
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_SLUG_LIMIT].rstrip("-")
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{plain or 'sweep'}"
    number = 1
    while True:
        path = root / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir(mode=0o700)
            return path
        except FileExistsError:
            number += 1


def run_sweep(sweep: Sweep) -> None:
    """Start the detached runner, also to go on after a stop or a reboot.

    Returns when the runner has its lock. Raises UserError when one is there already, nothing is
    left to run, or it cannot start.
    """
    if locks.is_held(sweep.lock):
        raise UserError("the sweep is running already.", sweep.id)
    if all(trial.done for trial in sweep.trials()):
        raise UserError("every run of this sweep has ended.", sweep.id, "Start a new sweep.")
    sweep.stop_file.unlink(missing_ok=True)
    runner = _start_runner(sweep)
    deadline = time.monotonic() + _START_S
    while not locks.is_held(sweep.lock):
        if runner.poll() is not None and runner.returncode == 0:
            return  # it had little to do
        if runner.poll() is not None or time.monotonic() > deadline:
            said = " ".join(tail(sweep.log, 3))
            raise UserError("the sweep's runner could not be started.", sweep.id, said)
        time.sleep(_POLL_S)


def _start_runner(sweep: Sweep) -> subprocess.Popen[bytes]:
    # A session of its own, output straight to the file: it outlives the screen and its terminal.
    command = [sys.executable, "-P", "-m", "finetui.jobs.sweep_runner", str(sweep.path)]
    log = os.open(sweep.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        runner = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=sweep.path,
        )
    except OSError as error:
        raise UserError(f"the runner cannot be started ({error.strerror}).", sweep.id) from error
    finally:
        os.close(log)
    threading.Thread(target=runner.wait, name="sweep-reaper", daemon=True).start()
    return runner


def stop_sweep(sweep: Sweep, now: bool = False) -> str:
    """End after the run that is going on, or with ``now`` stop (and save) that one too.

    Returns what was done as a sentence; raises UserError when nothing is left to stop.
    """
    found = sweep_state(sweep)
    if found.ended:
        raise UserError(f"there is nothing to stop: {found.sentence}.", sweep.id)
    write_atomic(sweep.stop_file, "")
    states = ((trial.job, trial.state()) for trial in sweep.trials())
    going = next((job for job, found in states if found.alive or found.waits), None)
    if going is None:
        return f"{sweep.id} starts no further run"
    if now:
        control.stop(going)
        return f"asked {going.id} to save and stop; {sweep.id} starts no further run"
    return f"{sweep.id} ends after {going.id}"


def sweep_state(sweep: Sweep) -> JobState:
    """running, finished, stopped, interrupted, queued or unknown, with a sentence.

    While the runner waits (for another sweep of this workspace) the sentence says so.
    """
    trials = sweep.trials()
    states = [trial.state() for trial in trials]
    left = sum(found.name not in _DONE for found in states)
    held = locks.is_held(sweep.lock)
    done = f"{len(states) - left} of {len(states)} runs ended"
    if held:
        return JobState("running", f"{done}; {_doing(sweep, trials, states)}", sweep.created)
    if not left:
        failed = sum(found.name in ("failed", "missing") for found in states)
        return JobState("finished", done + (f", {failed} of them failed" if failed else ""))
    if held is None:
        return JobState("unknown", f"{done}; this file system cannot tell whether it runs")
    if sweep.stop_file.exists():
        return JobState("stopped", f"{done}, stopped on request")
    if not sweep.log.exists():
        return JobState("queued", "made, not started yet", sweep.created)
    return JobState("interrupted", f"{done}; its runner is gone and can be started again")


def _doing(sweep: Sweep, trials: Sequence[SweepTrial], states: Sequence[JobState]) -> str:
    """The run that goes on, else the runner's last word."""
    pairs = zip(trials, states, strict=True)
    going = next((pair for pair in pairs if pair[1].alive or pair[1].waits), None)
    if going is not None:
        trial, found = going
        return f"now {trial.name}, which {found.sentence}" if found.waits else f"now {trial.name}"
    said = tail(sweep.log, 1)
    return said[0] if said else "starting"


def list_sweeps(root: Path) -> list[Sweep]:
    """The sweeps of a workspace, newest first; [] where there is no such folder."""
    if not root.is_dir():
        return []
    found = [Sweep(path) for path in root.iterdir() if (path / "sweep.json").is_file()]
    return sorted(found, key=lambda sweep: (sweep.created, sweep.id), reverse=True)


def find_sweep(root: Path, text: str) -> Sweep:
    """By id, a unique part of it, or "last"; raises UserError."""
    sweeps = list_sweeps(root)
    if text in ("last", "latest") and sweeps:
        return sweeps[0]
    found = [sweep for sweep in sweeps if sweep.id == text]
    found = found or [sweep for sweep in sweeps if text in sweep.id]
    if not text or not found:
        raise UserError(f'no sweep is called "{text}".', str(root), "See: finetui sweep --list")
    if len(found) > 1:
        names = ", ".join(sweep.id for sweep in found[:3])
        raise UserError(f'"{text}" fits {len(found)} sweeps ({names}).', fix="Write more of it.")
    return found[0]


def rows(sweep: Sweep) -> list[Row]:
    """The comparing table, in the order of the trials; ``best`` marks the lowest held-out loss."""
    found = [_row(trial) for trial in sweep.trials()]
    known = [row for row in found if row.best_eval is not None]
    best = min(known, key=lambda row: row.best_eval or 0.0, default=None)
    return [dataclasses.replace(row, best=True) if row is best else row for row in found]


def _row(trial: SweepTrial) -> Row:
    now = trial.state()
    blank = Row(trial.name, trial.job.id, trial.changes, now)
    metrics = (trial.job.outcome() or {}).get("metrics")
    if isinstance(metrics, Mapping) and metrics:
        return _ended(blank, metrics)
    return blank if now.name in ("queued", "missing") else _going(blank, trial.job)


def _ended(blank: Row, metrics: Mapping[str, Any]) -> Row:
    """A row from the last word of its run."""
    before, after = _accuracy(metrics, "suite_before"), _accuracy(metrics, "suite_after")
    steps, peak = _figure(metrics, "steps"), _figure(metrics, "peak_bytes")
    best = _figure(metrics, "best_eval_loss")
    return dataclasses.replace(
        blank,
        step=None if steps is None else int(steps),
        best_eval=_figure(metrics, "eval_loss") if best is None else best,
        train_loss=_figure(metrics, "train_loss"),
        accuracy_before=_accuracy(metrics, "before"),
        accuracy=_accuracy(metrics, "after"),
        forgotten=None if before is None or after is None else before - after,
        tokens_per_s=_figure(metrics, "tokens_per_s"),
        peak_bytes=None if peak is None else int(peak),
        seconds=_figure(metrics, "seconds"),
    )


def _going(blank: Row, job: Job) -> Row:
    """A row from the events of a run that goes on, or that ended without a word."""
    snapshot = JobReader(job).poll()
    if snapshot is None:
        return blank
    return dataclasses.replace(
        blank,
        step=snapshot.step,
        best_eval=snapshot.best_eval_loss,
        train_loss=snapshot.loss,
        tokens_per_s=snapshot.tokens_per_s,
        peak_bytes=snapshot.memory_peak,
        seconds=snapshot.elapsed_s,
    )


def _accuracy(metrics: Mapping[str, Any], name: str) -> float | None:
    scores = metrics.get(name)
    return _figure(scores, "accuracy") if isinstance(scores, Mapping) else None


def _figure(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
