"""What tests of jobs share: starting worker programs, waiting with a limit, sweeping up."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetui.jobs import procfs
from finetui.jobs.folder import Job, create
from finetui.jobs.launch import launch
from finetui.jobs.liveness import JobState, state
from finetui.jobs.locks import is_held

LIMIT_S = 240.0
PROGRAM = Path(__file__).with_name("job_programs.py")


def until(condition: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
    """Wait for a condition and return its value; AssertionError when the limit passes."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still not so after {limit_s} s"
        time.sleep(0.005)
    return value


class Workshop:
    """Makes and starts jobs in a folder, and ends whatever of them is left."""

    def __init__(self, jobs_dir: Path) -> None:
        self.jobs_dir = jobs_dir
        self.jobs: list[Job] = []

    def job(self, slug: str = "test", kind: str = "train") -> Job:
        """Make a job that is not started."""
        job = create(self.jobs_dir, kind, slug, {"kind": kind}, {})
        self.jobs.append(job)
        return job

    def command(self, job: Job, program: str, *arguments: object) -> list[str]:
        """The command of a program in job_programs.py."""
        return [sys.executable, str(PROGRAM), program, str(job.path), *map(str, arguments)]

    def start(self, program: str, *arguments: object) -> Job:
        """Make a job and start it on a program of job_programs.py."""
        job = self.job(program)
        launch(job, self.command(job, program, *arguments))
        return job

    def sweep(self) -> None:
        """Kill the processes that the jobs recorded, by number and start time."""
        for job in self.jobs:
            proc = job.proc()
            if proc is None or proc.host != procfs.host() or proc.boot_id != procfs.boot_id():
                continue
            for process in (proc.worker, proc.supervisor):
                if process and process.pid != os.getpid():
                    kill_process(process.pid, process.start)


def kill_process(pid: int, start: int) -> None:
    """Send SIGKILL to a process if it is still the recorded one."""
    if procfs.is_alive(pid, start):
        os.kill(pid, signal.SIGKILL)


def ended(job: Job, limit_s: float = LIMIT_S) -> JobState:
    """Wait until a job has ended and return its state."""
    until(lambda: state(job).ended, limit_s)
    return state(job)


def quiet(job: Job) -> JobState:
    """Wait until a job has ended and its processes write no more; returns its state."""
    now = ended(job)
    until(lambda: not (is_held(job.worker_lock) or is_held(job.supervisor_lock)))
    return now


def step_reached(job: Job, step: int) -> bool:
    """Tell whether the worker's heartbeat shows a step."""
    from finetui.jobs import heartbeat

    beat = heartbeat.read(job.heartbeat)
    return beat is not None and beat.step >= step
