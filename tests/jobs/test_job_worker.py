"""The worker's session: one at a time, fenced, and with a last word whatever happens."""

import errno
import os
import signal

import pytest
from job_workshop import ended, step_reached, until

from finetui.errors import UserError
from finetui.jobs import heartbeat, locks, worker
from finetui.jobs.events import EventTail
from finetui.jobs.folder import Job
from finetui.jobs.launch import launch
from finetui.jobs.liveness import state
from finetui.jobs.worker import SupersededError, WorkerSession, explain


@pytest.fixture(autouse=True)
def no_supervisor(monkeypatch):
    monkeypatch.delenv(worker.FOLDER_VARIABLE, raising=False)
    monkeypatch.delenv(worker.ATTEMPT_VARIABLE, raising=False)


def test_a_session_holds_the_lock_and_leaves_everything_as_it_was(workshop):
    job = workshop.job()
    handler, umask = signal.getsignal(signal.SIGTERM), os.umask(0o022)
    with WorkerSession(job) as session:
        assert locks.is_held(job.worker_lock)
        assert state(job).name == "starting"
        session.events.write("step", step=1)
        assert state(job).name == "running"
        session.outcome("finished", loss=0.5)
    assert locks.is_held(job.worker_lock) is False
    assert state(job).name == "finished" and job.outcome()["loss"] == 0.5
    assert not (job.path / "ballast").exists()
    assert signal.getsignal(signal.SIGTERM) == handler
    assert os.umask(umask) == 0o022


def test_two_workers_cannot_be_in_one_folder(workshop, monkeypatch):
    monkeypatch.setattr(worker, "_LOCK_WAIT_S", 0.0)
    job = workshop.job()
    with (
        WorkerSession(job),
        pytest.raises(UserError, match="another worker"),
        WorkerSession(job),
    ):
        pass


def test_an_exception_becomes_a_failed_outcome_in_words_and_the_log_has_the_rest(workshop):
    job = workshop.start("failing")
    found = ended(job)
    assert found.name == "failed"
    assert found.sentence == "ValueError: the shapes (3,) and (4,) do not fit"
    assert job.outcome()["error"] == "ValueError" and job.outcome()["step"] == 3
    assert until(job.exit).rc == 1
    assert "Traceback" in job.log_path(1).read_text()


def test_a_worker_that_ends_without_a_word_has_failed(workshop):
    job = workshop.job()
    launch(job, workshop.command(job, "silent"))
    assert ended(job).name == "failed" and "left no outcome" in state(job).sentence


def test_an_overtaken_attempt_publishes_nothing(workshop):
    job = workshop.job()
    with pytest.raises(SupersededError), WorkerSession(job) as session:
        session.require_newest()
        record = job.proc()
        job.write_json("proc.json", {**_plain(record), "attempt": session.attempt + 1})
        assert session.superseded()
        session.outcome("finished")
    assert job.outcome() is None


def test_an_error_of_an_overtaken_attempt_is_no_outcome_either(workshop):
    job = workshop.job()
    with pytest.raises(KeyError), WorkerSession(job) as session:
        job.write_json("proc.json", {**_plain(job.proc()), "attempt": session.attempt + 1})
        raise KeyError("late")
    assert job.outcome() is None


def _plain(record):
    import msgspec

    return msgspec.to_builtins(record)


def test_the_last_word_finds_room_on_a_full_disk(workshop, monkeypatch):
    job = workshop.job()
    real = Job.write_json

    def full_until_the_ballast_goes(self, name, value):
        if (self.path / "ballast").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, name, value)

    with WorkerSession(job) as session:
        assert (job.path / "ballast").stat().st_blocks * 512 >= 1 << 20
        monkeypatch.setattr(Job, "write_json", full_until_the_ballast_goes)
        session.outcome("failed", sentence="the disk is full")
    assert state(job).sentence == "the disk is full"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("the model is missing.", "a/b", "Choose one."), "a/b: the model is missing. "),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), "the GPU ran out of memory"),
        (MemoryError(), "the machine ran out of memory"),
        (OSError(errno.ENOSPC, "No space", "/x"), "the disk is full (/x)"),
        (ValueError("a\n  b"), "ValueError: a b"),
        (KeyboardInterrupt(), "interrupted from the keyboard"),
    ],
)
def test_errors_are_explained_to_people(error, sentence):
    assert explain(error).startswith(sentence)


def test_starting_a_running_job_a_second_time_is_refused(workshop):
    job = workshop.start("steps", 10_000, 0.02)
    with pytest.raises(UserError, match="running already"):
        launch(job, workshop.command(job, "steps", 1, 0))
    assert job.proc().attempt == 1 and len(job.log_files()) == 1


def test_a_second_attempt_has_its_own_files_and_keeps_the_first_ones_records(workshop):
    job = workshop.start("failing")
    assert ended(job).name == "failed"
    assert launch(job, workshop.command(job, "steps", 2, 0)) == 2
    assert ended(job).name == "finished"
    names = {path.name for path in job.path.iterdir()}
    assert {"events-a1.jsonl", "events-a2.jsonl", "log-a2.txt", "outcome-a1.json"} <= names
    assert [event["attempt"] for event in EventTail(job).read()][-1] == 2


def test_a_job_of_another_machine_is_not_started_over_unless_taken_over(workshop):
    job = workshop.start("steps", 1, 0)
    ended(job)
    until(lambda: job.exit() and not locks.is_held(job.supervisor_lock))
    (job.path / "outcome.json").unlink()
    (job.path / "exit.json").unlink()
    job.write_json("proc.json", {**_plain(job.proc()), "host": "elsewhere"})
    with pytest.raises(UserError, match="elsewhere"):
        launch(job, workshop.command(job, "steps", 1, 0))
    assert launch(job, workshop.command(job, "steps", 1, 0), takeover=True) == 2


def test_a_job_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such job"):
        launch(Job(_made(tmp_path / "x")))


def _made(path):
    path.mkdir()
    return path


def test_the_worker_gets_the_environment_of_a_good_neighbour(tmp_path):
    from finetui.jobs.supervisor import worker_environment

    made = worker_environment(Job(tmp_path), 3, {"OMP_WAIT_POLICY": "ACTIVE", "HOME": "/h"})
    assert made["OMP_WAIT_POLICY"] == "ACTIVE" and made["HOME"] == "/h"
    assert made["GOMP_SPINCOUNT"] == "0" and made["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert (made["FINETUI_JOB"], made["FINETUI_ATTEMPT"]) == (str(tmp_path), "3")


def test_a_file_in_the_job_folder_is_not_imported_as_a_module(workshop):
    job = workshop.job()
    (job.path / "finetui.py").write_text("raise SystemExit(9)")
    (job.path / "fcntl.py").write_text("raise SystemExit(9)")
    launch(job, workshop.command(job, "steps", 1, 0))
    assert ended(job).name == "finished"


def test_the_stall_limit_follows_the_pace_of_the_steps(tmp_path):
    heart = heartbeat.Heart(tmp_path / "heartbeat", 1, clock=lambda: 5.0)
    assert heartbeat.read(tmp_path / "heartbeat").limit == heartbeat.STAGE_STALL_S
    heart.stepped(1, 0.5)
    heart.beat()
    assert heartbeat.read(tmp_path / "heartbeat") == heartbeat.Beat(5.0, 1, "running", 1, 60.0)
    for step in range(2, 9):
        heart.stepped(step, 30.0)
    heart.beat()
    assert heartbeat.read(tmp_path / "heartbeat").limit == 300.0
    heart.stage()
    heart.beat()
    assert heartbeat.read(tmp_path / "heartbeat").limit == 600.0
    heart.close()
    assert (tmp_path / "heartbeat").stat().st_size == 64


def test_a_paused_worker_says_so_and_goes_on_when_told(workshop):
    from finetui.jobs import control

    job = workshop.start("steps", 10_000, 0.01)
    until(lambda: step_reached(job, 1))
    control.request(job, "pause")
    until(lambda: state(job).name == "paused")
    control.request(job, "resume")
    until(lambda: state(job).name == "running")
    control.stop(job)
    assert ended(job).name == "stopped"
    verbs = [event["verb"] for event in EventTail(job).read() if event["kind"] == "control"]
    assert verbs == ["pause", "resume", "stop"]


def test_how_long_a_silence_is_a_stall_can_be_said(workshop):
    job = workshop.job()
    with WorkerSession(job) as session:
        session.expect_steps_within(900.0)
        session.events.write("step", step=1, step_s=0.5)
        assert heartbeat.read(job.heartbeat).limit == 900.0
        session.expect_steps_within(float("inf"))
        session.events.write("step", step=2, step_s=0.5)
        assert heartbeat.read(job.heartbeat).limit == float("inf"), "never"
        session.outcome("finished")
