"""Handing in, asking, cancelling, with stand-ins for Slurm's commands."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from job_workshop import Workshop, until

from finetui.errors import UserError
from finetui.jobs import control, slurm, slurm_queue
from finetui.jobs.folder import Job, Process, ProcRecord
from finetui.jobs.heartbeat import Heart
from finetui.jobs.launch import launch
from finetui.jobs.liveness import JobState, state
from finetui.jobs.slurm_note import Submission, submission
from finetui.jobs.slurm_queue import Answer, Desk, Entry, parse, place_of
from finetui.jobs.slurm_state import slurm_state
from finetui.jobs.worker import WorkerSession
from finetui.settings import Cluster, Settings

ONE = Settings(cluster={"cpu": Cluster(gpus=0, time="60", partition="main")})
NOW = 1_000_000.0


@pytest.fixture(autouse=True)
def _asked_anew() -> None:
    slurm_queue.DESK.forget()


class Programs:
    """sbatch, squeue and scancel as shell scripts that PATH names first."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        self("sbatch", "echo 42")
        self("squeue", "exit 0")
        self("scancel", "exit 0")

    def __call__(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(f'#!/bin/bash\necho "$@" >>{self.folder}/{name}.txt\n{text}\n')
        path.chmod(0o700)
        slurm_queue.DESK.forget()

    def queue(self, job: Job, status: str, reason: str = "None", nodes: str = "") -> None:
        """Let squeue list the job so."""
        self("squeue", f"echo '42|{status}|{reason}|main|10|N/A|{nodes}|{job.id}'")

    def said(self, name: str) -> list[str]:
        path = self.folder / f"{name}.txt"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    return Programs(tmp_path / "bin", monkeypatch)


def test_a_job_is_handed_in_waits_and_is_taken_out_again(
    workshop: Workshop, programs: Programs
) -> None:
    job = workshop.job()
    found = slurm.submit(job, "cpu", ONE)
    assert (found.id, found.profile, found.attempt) == ("42", "cpu", 1)
    assert submission(job) == found
    said = programs.said("sbatch")[0]
    assert f"--chdir={job.path}" in said and str(job.path / "slurm.sh") in said
    programs.queue(job, "PENDING", "Resources")
    now = state(job)
    assert (now.name, now.ended, now.alive, now.waits) == ("queued", False, False, True)
    assert "free machines" in now.sentence and "place 1 of 1 in main" in now.sentence
    with pytest.raises(UserError, match="in Slurm"):
        slurm.submit(job, "cpu", ONE)
    programs("scancel", f"sed -i s/PENDING/CANCELLED/ {programs.folder}/squeue")
    assert "took Slurm job 42 out of the queue" in control.request(job, "stop")
    assert programs.said("scancel") == ["42"]
    now = state(job)
    assert now.name == "stopped" and "while it waited" in now.sentence
    # Should Slurm start it after all, its script finds another token.
    assert (left := submission(job)) is not None and left.token != found.token


def test_a_job_that_waits_in_slurm_is_not_started_here(
    workshop: Workshop, programs: Programs
) -> None:
    job = workshop.job()
    slurm.submit(job, "cpu", ONE)
    programs.queue(job, "PENDING", "Priority")
    with pytest.raises(UserError, match="Slurm"):
        launch(job, workshop.command(job, "steps", 1, 0))
    assert not job.log_files()


def test_what_slurm_refuses_is_said_and_can_be_tried_again(
    workshop: Workshop, programs: Programs
) -> None:
    job = workshop.job()
    programs("sbatch", 'echo "sbatch: error: Invalid account or account/partition" >&2; exit 1')
    with pytest.raises(UserError, match="refused the job: Invalid account") as error:
        slurm.submit(job, "cpu", ONE)
    assert "finetui resume" in str(error.value)
    assert state(job).name == "failed" and "Invalid account" in state(job).sentence
    programs("sbatch", 'echo "42;cluster2"')
    assert slurm.submit(job, "cpu", ONE).cluster == "cluster2"
    programs.queue(job, "PENDING")
    assert state(job).name == "queued"
    assert "--clusters=cluster2" in programs.said("squeue")[-1]


def test_silence_while_handing_in_is_no_refusal(workshop: Workshop, programs: Programs) -> None:
    job = workshop.job()
    programs("sbatch", 'echo "sbatch: error: Unable to contact slurm controller" >&2; exit 1')
    with pytest.raises(UserError, match="not known"):
        slurm.submit(job, "cpu", ONE)
    programs.queue(job, "PENDING")
    assert state(job).name == "queued", "it is found by its name"


def test_no_key_reaches_sbatch(
    workshop: Workshop, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 30)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("SBATCH_EXPORT", "ALL")
    monkeypatch.setenv("SBATCH_PARTITION", "other")
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    programs("sbatch", f"env >{programs.folder}/env.txt; echo 42")
    job = workshop.job()
    slurm.submit(job, "cpu", ONE)
    seen = (programs.folder / "env.txt").read_text()
    for word in ("HF_TOKEN=", "WANDB", "SBATCH_EXPORT", "SBATCH_PARTITION"):
        assert word not in seen
    assert "SBATCH_ACCOUNT=mine" in seen, "the profile names no account"
    assert any("HF_TOKEN" in note for note in slurm.notes(os.environ | {"HF_TOKEN_PATH": "/no"}))


def test_places_are_profiles_by_name() -> None:
    assert slurm.place("", ONE) is None and slurm.place("here", ONE) is None
    for text in ("slurm", "slurm:cpu"):
        found = slurm.place(text, ONE)
        assert found is not None and found.profile == "cpu"
    plain = slurm.place("slurm", Settings())
    assert plain is not None and plain.profile == "" and plain.cluster == Cluster()
    two = Settings(cluster={"a": Cluster(), "b": Cluster()})
    for text, settings, why in (
        ("slurm:other", ONE, "no profile 'other'"), ("cpu", ONE, "slurm:cpu"),
        ("slurm", two, "One of: a, b"), ("slurm:x", Settings(), "none yet"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=why):
            slurm.place(text, settings)


def beating(job: Job, attempt: int, ago: float, step: int = 7) -> None:
    job.write_json(
        "proc.json", ProcRecord("b", "node9", None, Process(1, 1), attempt, NOW - 500, "slurm")
    )
    heart = Heart(job.heartbeat, attempt, lambda: NOW - ago)
    heart.stepped(step, 1.0)
    heart.beat()
    heart.close()


NOTED = Submission("42", "", "cpu", NOW - 1000, 1, "name", "cafe", "me")
SILENT = Answer(problem="Slurm did not answer", t=NOW)
PREEMPTED = JobState("preempted", "saved at step 7", NOW - 20)


def answered(status: str, reason: str = "None", nodes: str = "") -> Answer:
    entry = Entry("42", status, reason, "main", 10, "", nodes, "name")
    return Answer(entry, known=True, t=NOW)


@pytest.mark.parametrize(
    ("beat", "answer", "recorded", "name", "words"),
    [
        (1.0, None, None, "running", "at step 7 on node9"),
        (30.0, SILENT, None, "running", "at step 7"),
        (30.0, answered("RUNNING"), None, "running", "at step 7"),
        (30.0, answered("PENDING", "BeginTime"), None, "requeued", "its start time"),
        (30.0, answered("NODE_FAIL"), None, "interrupted", "its machine failed"),
        (300.0, answered("RUNNING", nodes="node9"), None, "stalled", "left alone"),
        (300.0, SILENT, None, "unknown", "last sign of life"),
        (None, SILENT, None, "unknown", "did not answer"),
        (None, answered("PENDING", "QOSMaxJobsPerUserLimit"), None, "queued", "a limit of the"),
        (None, answered("PENDING", "Strange"), None, "queued", "Slurm says Strange"),
        (None, answered("RUNNING", nodes="node9"), None, "starting", "on node9"),
        (None, answered("FAILED", "NonZeroExitCode"), None, "interrupted", "NonZeroExitCode"),
        (None, answered("OUT_OF_MEMORY"), None, "interrupted", "more memory"),
        (None, Answer(known=True, t=NOW), None, "interrupted", "no more"),
        (30.0, answered("PENDING"), PREEMPTED, "requeued", "waits"),
        (30.0, answered("COMPLETING"), PREEMPTED, "running", "is ending"),
        (30.0, answered("CANCELLED"), PREEMPTED, "preempted", "saved at step 7"),
        (30.0, Answer(known=True, t=NOW), PREEMPTED, "preempted", "saved at step 7"),
        (30.0, SILENT, PREEMPTED, "unknown", "its last word: saved"),
    ],
)
def test_states_follow_files_first_and_silence_is_never_death(
    workshop: Workshop, beat: float | None, answer: Answer | None,
    recorded: JobState | None, name: str, words: str,
) -> None:  # fmt: skip
    job = workshop.job()
    if beat is not None:
        beating(job, 1, beat)

    def ask(number: str, cluster: str, name: str) -> Answer:
        assert answer is not None, "a run that beats is not asked about"
        return answer

    found = slurm_state(job, NOTED, recorded, lambda: NOW, Desk(ask))
    assert found.name == name and words in found.sentence, found


def test_an_old_answer_does_not_count_against_a_newer_heartbeat(workshop: Workshop) -> None:
    job = workshop.job()
    beating(job, 1, 8.0)
    entry = answered("PENDING").entry
    old = Desk(lambda *_: Answer(entry, known=True, t=NOW - 30))
    assert slurm_state(job, NOTED, None, lambda: NOW, old).name == "running"


def test_an_attempt_of_an_earlier_hand_in_says_nothing_of_this_one(workshop: Workshop) -> None:
    job = workshop.job()
    beating(job, 1, 1.0)
    second = Submission("43", "", "cpu", NOW, 2, "name", "beef", "me")
    desk = Desk(lambda *_: answered("PENDING"))
    assert slurm_state(job, second, None, lambda: NOW, desk).name == "queued"


def test_a_job_started_here_since_is_no_longer_slurms(workshop: Workshop) -> None:
    job = workshop.job()
    job.write_json("slurm.json", NOTED)
    assert submission(job) == NOTED
    beating(job, 1, 1.0)
    assert submission(job) == NOTED
    job.write_json("proc.json", ProcRecord("b", "here", None, Process(1, 1), 2, NOW))
    assert submission(job) is None
    (job.path / "slurm.json").write_text('{"id": [')
    assert submission(job) is None


def test_killing_a_run_of_slurm_has_slurm_end_it(workshop: Workshop, programs: Programs) -> None:
    job = workshop.job()
    slurm.submit(job, "cpu", ONE)
    proc = ProcRecord("b", "node9", None, Process(1, 1), 1, time.time(), "slurm")
    job.write_json("proc.json", proc)
    Heart(job.heartbeat, 1).close()
    programs.queue(job, "RUNNING", nodes="node9")
    assert "asked" in slurm.cancel(job) and not programs.said("scancel")
    assert "cancelled Slurm job 42" in control.kill(job)
    assert programs.said("scancel") == ["42"]


def test_a_folder_from_elsewhere_cancels_nothing_of_ours(
    workshop: Workshop, programs: Programs
) -> None:
    job = workshop.job()
    for number, name in (("--user=me", job.id), ("42", job.id), ("42", "my-other-job")):
        job.write_json("slurm.json", Submission(number, "", "", time.time(), 1, name, "x", "you"))
        programs("squeue", "echo '42|PENDING|None|main|1|N/A||my-other-job'")
        with pytest.raises(UserError):
            slurm.cancel(job)
    assert not programs.said("scancel")


def test_squeues_lines_are_read_and_others_left_out() -> None:
    mine, other = "7|PENDING|Resources|main|10|N/A||a|b", "8|RUNNING|None|m|x|2026|n1|c"
    first, second = parse(f"{mine}\nslurm_load_jobs error: x\n\n{other}\n")
    assert (first.name, first.priority, first.start) == ("a|b", 10, "")
    assert (second.priority, second.nodes, second.start) == (0, "n1", "2026")


def test_the_place_counts_those_that_wait_for_their_turn() -> None:
    waiting = [
        Entry("1", "PENDING", "Priority", "m", 5), Entry("2", "PENDING", "Resources", "m", 9),
        Entry("3", "PENDING", "JobHeldUser", "m", 99), Entry("4", "PENDING", "Priority", "m", 5),
    ]  # fmt: skip
    assert place_of("2", waiting) == (1, 3)
    assert place_of("4", waiting) == (3, 3)
    assert place_of("9", waiting) == (None, 3)


def test_a_number_that_names_another_job_is_not_ours(programs: Programs) -> None:
    programs("squeue", "echo '42|RUNNING|None|main|1|N/A|n1|somebody-elses'")
    answer = slurm_queue.look("42", name="ours")
    assert answer.known and answer.entry is None


def test_a_job_that_slurm_forgot_differs_from_a_controller_that_is_away(programs: Programs) -> None:
    programs("squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    assert slurm_queue.look("42").known
    programs("squeue", 'echo "Unable to contact slurm controller" >&2; exit 1')
    gone = slurm_queue.look("42")
    assert not gone.known and "Unable to contact" in gone.problem


def test_no_screen_waits_for_slurm_and_each_job_is_asked_about_seldom() -> None:
    asked: list[str] = []
    free = threading.Event()

    def slow(number: str, cluster: str, name: str) -> Answer:
        asked.append(number)
        free.wait(20)
        return Answer(known=True)

    clock = [0.0]
    desk = Desk(slow, every_s=10, wait_s=0.01, clock=lambda: clock[0])
    began = time.monotonic()
    assert "not answered yet" in desk.answer("1").problem
    assert "not answered yet" in desk.answer("1").problem
    assert time.monotonic() - began < 5 and asked == ["1"]
    free.set()
    until(lambda: desk.answer("1").known)
    clock[0] = 9.0
    assert desk.answer("1").known and asked == ["1"]
    clock[0] = 11.0
    assert desk.answer("1").known, "the old answer, while a new one is fetched"
    until(lambda: asked == ["1", "1"])


def test_an_answer_that_breaks_us_is_no_answer() -> None:
    def broken(number: str, cluster: str, name: str) -> Answer:
        raise ValueError("what is this")

    desk = Desk(broken)
    until(lambda: "what is this" in desk.answer("1").problem)


def test_a_worker_that_is_asked_to_make_way_is_preempted_unless_a_person_stopped_it(
    workshop: Workshop,
) -> None:
    for asked, status in ((["preempt"], "preempted"), (["stop", "preempt"], "stopped"),
                          (["preempt", "stop"], "stopped"), (["stop"], "stopped")):  # fmt: skip
        job = workshop.job()
        with WorkerSession(job) as session:
            for verb in asked:
                control.request(job, verb)
                assert "stop" in session.control.poll()
            session.outcome("stopped")
        assert (job.outcome() or {})["status"] == status, asked
