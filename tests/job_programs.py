"""Workers for tests, in plain Python: python job_programs.py PROGRAM JOBDIR ARGUMENTS..."""

import ctypes
import os
import resource
import sys
import threading
import time
from multiprocessing import get_context
from pathlib import Path

from finetui.jobs.worker import WorkerSession


def steps(job: str, count: str, interval_s: str) -> None:
    """Log steps and finish; obey stop and pause."""
    with WorkerSession(job) as session:
        session.events.write("start", total_steps=int(count))
        for step in range(1, int(count) + 1):
            print(f"step {step}")
            session.events.write("step", step=step, loss=1 / step, step_s=float(interval_s))
            verbs = session.control.poll()
            if "pause" in verbs:
                verbs |= session.hold()
            if "stop" in verbs:
                session.outcome("stopped")
                return
            time.sleep(float(interval_s))
        session.outcome("finished", loss=1 / int(count))


def acknowledge(job: str) -> None:
    """Log as fast as it goes; write the number of each event once its write has returned."""
    acknowledged = os.open(Path(job) / "acknowledged", os.O_WRONLY | os.O_CREAT, 0o600)
    with WorkerSession(job) as session:
        step = 0
        while True:
            step += 1
            if session.events.write("step", step=step, loss=0.5, note="x" * 60):
                os.pwrite(acknowledged, b"%012d" % step, 0)


def forking(job: str) -> None:
    """Leave a forked child that would keep the lock open, as a data loader does."""
    with WorkerSession(job) as session:
        child = get_context("fork").Process(target=time.sleep, args=(300,))
        child.start()
        session.events.write("message", text=str(child.pid))
        while True:
            session.events.write("step", step=1)
            time.sleep(0.02)


def failing(job: str) -> None:
    with WorkerSession(job) as session:
        session.events.write("step", step=3, loss=float("nan"))
        raise ValueError("the shapes (3,) and (4,)\ndo not fit")


def silent(job: str) -> None:
    """End well without a word."""
    with WorkerSession(job):
        pass


def disk_full(job: str) -> None:
    """Run into a limit of file size in the middle of a line, then be given room again."""
    with WorkerSession(job) as session:
        path = session.job.events_path(session.attempt)
        session.events.write("step", step=1)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 30, hard))
        answers = [session.events.write("step", step=step) for step in (2, 3)]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        answers.append(session.events.write("step", step=4))
        session.outcome("finished", answers=answers, lost=session.events.lost)


def standing(job: str) -> None:
    """Hang in C on the main thread, beside a thread that is busy."""
    with WorkerSession(job) as session:
        session.expect_steps_within(0.2)
        threading.Thread(target=count_for_ever, daemon=True).start()
        session.events.write("step", step=1)
        wait_in_a_library()


def count_for_ever() -> None:
    while True:
        sum(range(1000))


def wait_in_a_library() -> None:
    while True:  # a signal wakes it
        ctypes.CDLL(None).sleep(600)


def memory_eater(job: str) -> None:
    """Take more and more memory, as a batch that is too large does."""
    with WorkerSession(job) as session:
        session.events.write("step", step=1)
        taken = []
        while True:
            taken.append(b"\1" * (8 << 20))


def kill_me(job: str, number: str) -> None:
    with WorkerSession(job):
        os.kill(os.getpid(), int(number))
        time.sleep(60)


_ALL = (steps, acknowledge, forking, failing, silent, disk_full, standing, memory_eater, kill_me)
PROGRAMS = {program.__name__: program for program in _ALL}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
