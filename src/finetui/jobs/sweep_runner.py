"""The detached process of a sweep: starts one job after another and waits for its end.

    python -m finetui.jobs.sweep_runner SWEEPDIR

Its runs go through the queue for the machine's GPUs like all others. Where there is no GPU to
queue for, the sweeps of one workspace take turns. The runner holds no truth: killed, it loses
nothing, and another goes on with the jobs that have not ended.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from finetui.errors import UserError
from finetui.jobs import locks
from finetui.jobs.folder import Job
from finetui.jobs.launch import launch
from finetui.jobs.sweep import Sweep, SweepTrial
from finetui.jobs.waiting import leases_serve

_LOOK_S = 0.5
_LOCK_WAIT_S = 1.0
Start = Callable[[Job], object]

BUSY = 75  # EX_TEMPFAIL: another runner has the folder


def run(sweep: Sweep, look_s: float = _LOOK_S, start: Start = launch) -> int:
    """Run what is left of a sweep; returns the code to exit with. ``start`` launches a job."""
    own = locks.hold(sweep.lock, _LOCK_WAIT_S)
    if own is None:
        print("another runner has this sweep", flush=True)
        return BUSY
    turn = None if leases_serve() else _take_turn(sweep, look_s)
    try:
        trials = sweep.trials()
        for number, trial in enumerate(trials, 1):
            if sweep.stop_file.exists():
                print("stopped on request", flush=True)
                break
            _run_one(trial, f"run {number} of {len(trials)}: {trial.name}", look_s, start)
        else:
            print("all runs have ended", flush=True)
    finally:
        if turn is not None:
            os.close(turn)
        os.close(own)
    return 0


def _take_turn(sweep: Sweep, look_s: float) -> int | None:
    """Wait until no other sweep of the workspace runs; None when asked to stop meanwhile."""
    queue = sweep.path.parent / "queue.lock"
    turn = locks.hold(queue)
    if turn is None:
        print("waiting for another sweep", flush=True)
    while turn is None and not sweep.stop_file.exists():
        time.sleep(look_s)
        turn = locks.hold(queue)
    return turn


def _run_one(trial: SweepTrial, title: str, look_s: float, start: Start) -> None:
    """Start a run unless it is done or goes on already, and wait for its end."""
    if trial.done or trial.state().name == "unknown":
        return
    print(title, flush=True)
    found = trial.state()
    if not found.alive and not found.waits:
        try:
            start(trial.job)
        except UserError as error:
            print(f"{title}: {error}", flush=True)
            return
    while trial.job.path.is_dir() and not trial.state().ended:
        time.sleep(look_s)


def main(arguments: list[str]) -> int:
    """Entry of ``python -m``."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return run(Sweep(Path(arguments[0])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
