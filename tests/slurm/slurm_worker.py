"""A worker in plain Python for tests under Slurm: slurm_worker.py JOB STEPS EVERY SECONDS [FAULT].

It goes on from its newest checkpoint and keeps a hash of all samples so far, which is the same
with and without interruptions if none is lost, repeated or taken in another order.
FAULT "die:N" kills the process with SIGKILL before it does step N.
"""

import hashlib
import os
import signal
import sys
import time
from pathlib import Path

from finetui.jobs import checkpoints
from finetui.jobs.folder import Job
from finetui.jobs.worker import WorkerSession


def grown(order: str, step: int) -> str:
    """The hash of all samples up to a step."""
    return hashlib.sha256(f"{order}:{step * 7919 % 1000}".encode()).hexdigest()[:16]


def save(job: Job, step: int, order: str, attempt: int) -> None:
    folder = checkpoints.folder_of(job)
    draft = checkpoints.draft_folder(folder)
    (draft / "order").write_text(order)
    checkpoints.publish(draft, folder / f"step-{step}", step=step, attempt=attempt)


def begin(job: Job) -> tuple[int, str]:
    found = checkpoints.newest(job)
    return (found.step, (found.path / "order").read_text()) if found else (0, "")


def work(folder: str, steps: int, every: int, seconds: float, fault: str) -> None:
    with WorkerSession(folder) as session:
        step, order = begin(session.job)
        session.events.write("start", total_steps=steps, step=step)
        saved = step
        while step < steps:
            if fault == f"die:{step + 1}":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(seconds)
            step, order = step + 1, grown(order, step + 1)
            session.events.write("step", step=step, loss=1 / step, order=order, step_s=seconds)
            stop = "stop" in session.control.poll()
            if stop or step % every == 0 or step == steps:
                session.require_newest()
                save(session.job, step, order, session.attempt)
                saved = step
            if stop:
                session.outcome("stopped", saved=saved)
                return
        session.outcome("finished", order=order)


if __name__ == "__main__":
    if os.environ.get("SLURM_PROCID", "0") != "0":
        # The machine that only stands for one: gone when the first one is done.
        outcome = Path(sys.argv[1]) / "outcome.json"
        while not outcome.exists():
            time.sleep(0.05)
        sys.exit(0)
    work(sys.argv[1], *map(int, sys.argv[2:4]), float(sys.argv[4]), "".join(sys.argv[5:]))
