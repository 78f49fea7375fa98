"""Requests reach the worker once; a kill reaches the recorded process or nobody."""

import os
import subprocess
import sys

import msgspec
import pytest
from job_workshop import ended, step_reached, until

from finetui.errors import UserError
from finetui.jobs import control, procfs
from finetui.jobs.control import ControlInbox
from finetui.jobs.folder import Process


def test_a_request_is_taken_once_with_its_fields(workshop):
    job = workshop.job()
    control.request(job, "pause", release="yes")
    control.request(job, "evaluate")
    control.request(job, "evaluate")
    inbox = ControlInbox(job.control)
    assert inbox.poll() == {"pause", "evaluate"}
    assert inbox.fields("pause") == {"release": True} and inbox.fields("stop") == {}
    assert inbox.poll() == set()
    control.request(job, "pause")
    assert inbox.poll() == {"pause"} and inbox.fields("pause") == {}


def test_requests_with_values_add_up_until_the_worker_looks(workshop):
    job = workshop.job()
    control.request(job, "set", learning_rate="1e-4", end_step="200")
    control.request(job, "set", learning_rate=2e-4)
    control.request(job, "exclude", rows="0:12,1:3")
    control.request(job, "exclude", rows=[[0, 40]])
    told = []
    inbox = ControlInbox(job.control, taken=lambda *what: told.append(what))
    assert inbox.poll() == {"set", "exclude"}
    assert inbox.fields("set") == {"learning_rate": 2e-4, "end_step": 200}
    assert inbox.fields("exclude") == {"rows": [[0, 12], [1, 3], [0, 40]]}
    assert [verb for verb, _, _ in told] == ["set", "set", "exclude", "exclude"]
    assert all(who for _, _, who in told)
    control.request(job, "set", eval_every=0)
    assert inbox.poll() == {"set"} and inbox.fields("set") == {"eval_every": 0}


def test_a_kept_verb_comes_again_without_a_second_word(workshop):
    job = workshop.job()
    control.request(job, "set", end_step=9)
    told = []
    inbox = ControlInbox(job.control, taken=lambda *what: told.append(what))
    inbox.keep(inbox.poll())
    assert inbox.poll() == {"set"} and inbox.fields("set") == {"end_step": 9}
    assert len(told) == 1 and inbox.poll() == set()


@pytest.mark.parametrize(
    ("verb", "fields", "words"),
    [
        ("set", {}, "Name one of learning_rate"),
        ("set", {"learning_rate": "fast"}, "set learning_rate: it is a number, not 'fast'"),
        ("set", {"learning_rate": 1.5}, "at most 1"),
        ("set", {"learning_rate": float("nan")}, "it is a number"),
        ("set", {"end_step": 0}, "1 or more"),
        ("set", {"end_step": True}, "it is a number"),
        ("set", {"rank": 8}, 'no field "rank". Choose one of learning_rate'),
        ("save", {"now": True}, 'save takes no field "now"'),
        ("pause", {"release": "maybe"}, "true or false"),
        ("exclude", {"rows": "12"}, "FILE:LINE"),
        ("exclude", {"rows": [[0, 0]]}, "FILE:LINE"),
        ("exclude", {"rows": []}, "FILE:LINE"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_where_it_is_asked(workshop, verb, fields, words):
    job = workshop.job()
    with pytest.raises(UserError) as caught:
        control.request(job, verb, **fields)
    assert words in str(caught.value)
    assert list(job.control.iterdir()) == []


def test_a_foreign_request_with_a_bad_value_reaches_nobody(workshop):
    job = workshop.job()
    job.write_json("control/set-1.json", {"fields": {"learning_rate": -1}})
    job.write_json("control/exclude.json", {"fields": [1]})
    inbox = ControlInbox(job.control)
    assert inbox.poll() == set() and list(job.control.iterdir()) == []


def test_a_half_written_or_foreign_file_is_no_request(workshop):
    job = workshop.job()
    (job.control / ".stop.json.x.tmp").write_text("{")
    (job.control / "explode.json").write_text("{}")
    assert ControlInbox(job.control).poll() == set()
    assert ControlInbox(job.path / "nowhere").poll() == set()


def test_a_termination_is_a_request_to_stop(workshop):
    inbox = ControlInbox(workshop.job().control)
    inbox.terminate()
    assert inbox.poll() == {"stop"}
    assert inbox.poll() == set()


def test_requests_that_make_no_sense_are_refused_in_words(workshop):
    job = workshop.start("steps", 1, 0)
    ended(job)
    with pytest.raises(UserError, match="nothing to stop: finished"):
        control.stop(job)
    with pytest.raises(UserError, match="Choose one of stop"):
        control.request(job, "explode")


def test_a_request_left_over_is_not_meant_for_the_next_attempt(workshop):
    from finetui.jobs.launch import launch

    job = workshop.start("failing")
    ended(job)
    (job.control / "stop.json").write_text("{}")
    launch(job, workshop.command(job, "steps", 2, 0))
    assert ended(job).name == "finished"


def test_stop_ends_a_run_after_its_step_and_says_so(workshop):
    job = workshop.start("steps", 10_000, 0.01)
    until(lambda: step_reached(job, 1))
    assert job.id in control.stop(job)
    assert ended(job).sentence == "stopped on request, saved"


def test_kill_ends_the_worker_and_the_state_names_who_asked(workshop):
    job = workshop.start("steps", 10_000, 0.01)
    assert "killed process" in control.kill(job)
    found = ended(job)
    assert found.name == "failed" and found.sentence.startswith("killed on request of ")
    until(job.exit)
    with pytest.raises(UserError, match="is gone"):
        control.kill(job)


def test_kill_does_not_reach_a_stranger_with_the_same_number(workshop):
    job = workshop.start("steps", 1, 0)
    ended(job)
    until(job.exit)
    stranger = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        reused = Process(stranger.pid, procfs.start_time(stranger.pid) - 1)
        record = msgspec.structs.replace(job.proc(), worker=reused)
        job.write_json("proc.json", record)
        with pytest.raises(UserError, match="is gone"):
            control.kill(job)
        here = Process(stranger.pid, procfs.start_time(stranger.pid))
        for changed in ({"boot_id": "other"}, {"host": "elsewhere"}):
            job.write_json("proc.json", msgspec.structs.replace(record, worker=here, **changed))
            with pytest.raises(UserError):
                control.kill(job)
        assert stranger.poll() is None
    finally:
        os.kill(stranger.pid, 9)
        stranger.wait()
