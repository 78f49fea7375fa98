"""Where a run stands: its stacks on request, from that process alone, which goes on."""

import os
import signal
import subprocess
import sys

import msgspec
import pytest
from job_workshop import until

from finetui import cli
from finetui.errors import UserError
from finetui.jobs import procfs, stack
from finetui.jobs.folder import create
from finetui.jobs.launch import launch
from finetui.jobs.liveness import state
from finetui.jobs.worker import WorkerSession
from finetui.workspace import create as create_workspace


def stack_file(job):
    return job.path / "stack-a1.txt"


def says(job, **changes) -> None:
    """Let the job's stack file name another process."""
    first, _, rest = stack_file(job).read_bytes().partition(b"\n")
    changed = msgspec.json.encode({**msgspec.json.decode(first), **changes})
    stack_file(job).write_bytes(changed + b"\n" + rest)


def test_a_run_that_hangs_in_a_library_says_where_and_lives_on(workshop):
    job = workshop.start("standing")
    until(lambda: state(job).name == "stalled")
    assert state(job).sentence.endswith(f"left alone; where it stands: finetui stack {job.id}")
    until(lambda: "in wait_in_a_library" in stack.ask(job))
    for _ in range(10):
        told = stack.ask(job)
        assert told.startswith(f"rank 0, process {job.proc().worker.pid} on {procfs.host()}: ")
        first = told.split("\n\n")[0]
        assert "in wait_in_a_library\n    ctypes.CDLL(None).sleep(600)" in first
        assert "in count_for_ever" in told
    assert state(job).name == "stalled" and job.exit() is None


def test_the_command_shows_it_and_refuses_a_job_that_has_ended(workshop, tmp_path, capsys):
    workspace = create_workspace(tmp_path / "work")
    job = create(workspace.jobs, "train", "standing", {"kind": "train"}, {})
    workshop.jobs.append(job)
    launch(job, workshop.command(job, "standing"))
    until(lambda: state(job).name == "stalled")
    until(lambda: "in wait_in_a_library" in stack.ask(job))
    assert cli.run(["stack", job.id, "-w", str(workspace.root)]) == 0
    said = capsys.readouterr()
    assert "in wait_in_a_library" in said.out and f"{job.id}: stalled." in said.err
    pid = job.proc().worker.pid
    os.kill(pid, signal.SIGKILL)
    until(job.exit)
    assert cli.run(["stack", job.id, "-w", str(workspace.root)]) == 2
    assert "has ended" in capsys.readouterr().err


def test_every_rank_of_this_machine_answers_and_others_are_named(workshop):
    job = workshop.job()
    with WorkerSession(job):
        second = stack.listen(job, 1, rank=1)
        second.close()
        here = stack.listen(job, 1)  # the last to register answers for the process
        path = job.path / "stack-a1-r1.txt"
        path.write_bytes(path.read_bytes().replace(b'"host":"', b'"host":"far-'))
        told = stack.ask(job)
        here.close()
    assert told.startswith("rank 0, process ") and "in test_every_rank" in told
    assert f"runs on far-{procfs.host()}; run there: finetui stack {job.path}" in told


def test_only_the_process_that_writes_the_file_is_ever_signalled(workshop):
    job = workshop.job()
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with WorkerSession(job):
            says(job, pid=stranger.pid)
            with pytest.raises(UserError, match="is gone"):
                stack.ask(job)
            until(lambda: procfs.start_time(stranger.pid))
            says(job, start=procfs.start_time(stranger.pid))
            with pytest.raises(UserError, match="does not listen"):
                stack.ask(job)
            says(job, pid=-1)
            with pytest.raises(UserError, match="is gone"):
                stack.ask(job)
            says(job, pid=os.getpid(), boot_id="another")
            with pytest.raises(UserError, match="is gone"):
                stack.ask(job)
            stack_file(job).write_text("no record\n")
            with pytest.raises(UserError, match="does not say whose"):
                stack.ask(job)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.communicate()


def test_a_process_without_the_handler_is_not_ended_by_the_question(workshop):
    job = workshop.job()
    with WorkerSession(job) as session:
        session._listener.close()
        kept = os.open(stack_file(job), os.O_RDONLY)
        with pytest.raises(UserError, match="does not listen"):
            stack.ask(job)
        os.close(kept)


def test_a_stopped_process_is_named_as_stopped(workshop):
    job = workshop.start("standing")
    until(lambda: state(job).name == "stalled")
    pid = job.proc().worker.pid
    os.kill(pid, signal.SIGSTOP)
    until(lambda: procfs.process_state(pid) == "T")
    with pytest.raises(UserError, match=f"stopped by a signal; it goes on with: kill -CONT {pid}"):
        stack.ask(job)


def test_a_job_that_was_never_started_has_nothing_to_ask(workshop):
    with pytest.raises(UserError, match="no process of it can be asked"):
        stack.ask(workshop.job())


def test_a_session_leaves_the_signal_as_it_was(workshop):
    assert not procfs.catches(os.getpid(), stack.SIGNAL)
    with WorkerSession(workshop.job()):
        assert procfs.catches(os.getpid(), stack.SIGNAL)
    assert not procfs.catches(os.getpid(), stack.SIGNAL)
