"""Faults of shared machines: hang-ups, kills, forks, full disks: what must happen then."""

import os
import pty
import signal
import sys

import pytest
from job_workshop import ended, kill_process, step_reached, until

from finetui.jobs import launch as launching
from finetui.jobs import locks, procfs
from finetui.jobs.events import EventTail
from finetui.jobs.launch import launch
from finetui.jobs.liveness import state

FEW = 8
LONG = pytest.mark.figures
HANG_UPS = [FEW, pytest.param(40, marks=LONG)]
KILLS = [FEW, pytest.param(200, marks=LONG)]


def kill_worker(job):
    worker = job.proc().worker
    kill_process(worker.pid, worker.start)


def kill_supervisor(job):
    supervisor = job.proc().supervisor
    kill_process(supervisor.pid, supervisor.start)


def launch_from_a_terminal(job, command):
    """Launch in a process that leads a terminal's session; returns (pid, master descriptor)."""
    pid, master = pty.fork()
    if pid:
        return pid, master
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        launch(job, command)
        os.write(1, b"started")
        while True:
            signal.pause()
    finally:
        os._exit(70)


def read_until(master, word):
    seen = b""
    while word not in seen:
        seen += os.read(master, 1024)  # OSError when the child is gone: the test fails


@pytest.mark.slow
@pytest.mark.parametrize("times", HANG_UPS)
def test_closing_the_terminal_or_killing_the_screen_ends_no_run(workshop, times):
    jobs = []
    for number in range(times):
        job = workshop.job("pty")
        screen, master = launch_from_a_terminal(job, workshop.command(job, "steps", 25, 0.04))
        read_until(master, b"started")
        until(lambda job=job: step_reached(job, 1))
        killed = number % 2 == 1
        if killed:
            os.kill(screen, signal.SIGKILL)
        else:
            os.close(master)
        _, status = os.waitpid(screen, 0)
        sign = signal.SIGKILL if killed else signal.SIGHUP
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == sign
        if killed:
            os.close(master)
        jobs.append(job)
    print(f"{times} terminals closed or screens killed: {len(jobs)} runs to finish")
    assert [ended(job).name for job in jobs] == ["finished"] * times
    for job in jobs:
        steps = [event["step"] for event in EventTail(job).read() if event["kind"] == "step"]
        assert steps == list(range(1, 26))


def test_a_leader_that_dies_in_the_middle_of_a_launch_loses_no_run(workshop, monkeypatch):
    """The moment where a double fork loses its child to the hang-up."""
    monkeypatch.setattr(launching, "_wait_for_proc", lambda *arguments: os._exit(0))
    jobs = [workshop.job("leader") for _ in range(6)]
    for job in jobs:
        pid, master = launch_from_a_terminal(job, workshop.command(job, "steps", 5, 0.02))
        os.waitpid(pid, 0)
        os.close(master)
    assert [ended(job).name for job in jobs] == ["finished"] * len(jobs)
    assert {until(job.exit).rc for job in jobs} == {0}


@pytest.mark.slow
@pytest.mark.parametrize("kills", KILLS)
def test_kill_9_of_the_worker_while_logging_loses_no_acknowledged_event(workshop, kills):
    acknowledged_in_all = lost = torn = 0
    for number in range(kills):
        job = workshop.start("acknowledge")
        until(lambda job=job, number=number: step_reached(job, 50 + 97 * (number % 20)))
        kill_worker(job)
        found = ended(job)
        assert found.name == "failed" and "signal 9 (SIGKILL)" in found.sentence
        acknowledged = int((job.path / "acknowledged").read_bytes())
        tail = EventTail(job)
        steps = [event["step"] for event in tail.read()]
        assert steps == list(range(1, len(steps) + 1)) and tail.bad == 0
        acknowledged_in_all += acknowledged
        lost += max(0, acknowledged - len(steps))
        torn += not job.events_path(1).read_bytes().endswith(b"\n")
    print(f"{kills} kills: {lost} lost of {acknowledged_in_all} acknowledged, {torn} torn tails")
    assert lost == 0 and acknowledged_in_all > 0


def test_the_death_of_the_supervisor_alone_does_not_touch_the_run(workshop):
    job = workshop.start("steps", 10, 0.05)
    kill_supervisor(job)
    assert state(job).name in ("starting", "running")
    assert ended(job).name == "finished"
    assert job.exit() is None


def test_worker_and_supervisor_killed_together_is_interrupted(workshop):
    job = workshop.start("steps", 10_000, 0.05)
    kill_supervisor(job)
    kill_worker(job)
    assert ended(job).name == "interrupted"


def test_a_forked_child_keeps_no_lock_when_all_else_is_killed(workshop):
    job = workshop.start("forking")
    child = until(lambda: forked_child(job))
    start = procfs.start_time(child)
    try:
        kill_supervisor(job)
        kill_worker(job)
        assert ended(job).name == "interrupted"
        assert procfs.is_alive(child, start)
        assert locks.is_held(job.worker_lock) is False
    finally:
        kill_process(child, start)


def test_the_supervisor_ends_the_children_of_a_killed_worker_and_counts_them(workshop):
    job = workshop.start("forking")
    child = until(lambda: forked_child(job))
    start = procfs.start_time(child)
    kill_worker(job)
    assert ended(job).name == "failed"
    assert job.exit().orphans == 1
    assert not procfs.is_alive(child, start)


def forked_child(job):
    texts = [event.get("text") for event in EventTail(job).read()]
    return next((int(text) for text in texts if text), None)


def test_sigterm_to_the_supervisor_saves_and_counts_as_preempted(workshop):
    job = workshop.start("steps", 10_000, 0.02)
    until(lambda: step_reached(job, 2))
    os.kill(job.proc().supervisor.pid, signal.SIGTERM)
    found = ended(job)
    assert (found.name, found.sentence) == ("preempted", "told to end by the system, saved")
    assert until(job.exit).stop_asked


def test_a_worker_that_runs_into_a_full_disk_loses_no_event(workshop):
    job = workshop.start("disk_full")
    assert ended(job).name == "finished"
    assert job.outcome()["answers"] == [False, False, True] and job.outcome()["lost"] == 0
    tail = EventTail(job)
    events = tail.read()
    assert [event["step"] for event in events if event["kind"] == "step"] == [1, 2, 3, 4]
    assert tail.bad == 1, "the line that the disk took a part of"


def test_a_worker_that_dies_at_once_is_an_error_of_the_launch_with_the_end_of_its_log(workshop):
    job = workshop.job()
    with pytest.raises(Exception, match="No module named 'not_there'"):
        launch(job, [sys.executable, "-c", "import not_there"])
    assert state(job).name == "failed"


def test_a_program_that_does_not_exist_is_an_error_of_the_launch(workshop):
    job = workshop.job()
    with pytest.raises(Exception, match="could not be started"):
        launch(job, ["/nowhere/python"])
    assert "could not be started" in state(job).sentence
