"""``finetui control`` and ``finetui stop`` reach a run that is under way."""

import pytest
from job_workshop import ended, step_reached, until

from finetui import cli
from finetui.jobs.control import VERBS, ControlInbox
from finetui.jobs.events import EventTail, EventWriter
from finetui.jobs.liveness import state
from finetui.workspace import create


@pytest.fixture
def ask(tmp_path):
    create(tmp_path)
    return lambda job, *words: cli.run(["control", job.id, *words, "-w", str(tmp_path)])


def test_a_run_is_paused_resumed_and_stopped_from_the_shell(workshop, ask, tmp_path, capsys):
    job = workshop.start("steps", 10_000, 0.01)
    until(lambda: step_reached(job, 1))
    assert ask(job, "pause") == 0
    until(lambda: state(job).name == "paused")
    assert ask(job, "set", "learning_rate=1e-4", "end_step=20") == 0
    assert ask(job, "resume") == 0
    until(lambda: state(job).name == "running")
    assert cli.run(["stop", "--best", job.id, "-w", str(tmp_path)]) == 0
    assert "keep the best" in capsys.readouterr().err
    cli.run(["stop", job.id, "-w", str(tmp_path)])
    assert ended(job).name == "stopped"
    taken = [event for event in EventTail(job).read() if event["kind"] == "control"]
    assert [event["verb"] for event in taken][:3] == ["pause", "set", "resume"]
    assert taken[1]["fields"] == {"learning_rate": 1e-4, "end_step": 20}
    assert all(event["who"] and event["step"] for event in taken)
    assert ask(job, "save") == cli.CANNOT
    assert "nothing to save: stopped" in capsys.readouterr().err


def test_rows_are_named_by_file_and_line(workshop, ask, capsys):
    job = workshop.job()
    events = EventWriter(job, 1)
    events.write("data", files=["/a/tickets.jsonl", "/b/general.jsonl"])
    events.close()
    assert ask(job, "exclude", "rows=general.jsonl:12,0:3,/a/tickets.jsonl:4") == 0
    inbox = ControlInbox(job.control)
    assert inbox.poll() == {"exclude"}
    assert inbox.fields("exclude") == {"rows": [[1, 12], [0, 3], [0, 4]]}
    assert ask(job, "exclude", "rows=nowhere.jsonl:1") == cli.CANNOT
    assert "FILE:LINE" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["set", "fast"], ["set", "a=1", "a=2"], ["set"], ["pause", "=1"]]
)
def test_words_that_make_no_sense_change_nothing(workshop, ask, capsys, words):
    job = workshop.job()
    assert ask(job, *words) == cli.CANNOT
    assert "finetui: " in capsys.readouterr().err and not list(job.control.iterdir())


def test_help_names_every_request(capsys):
    with pytest.raises(SystemExit):
        cli.run(["control", "--help"])
    told = capsys.readouterr().out
    assert all(f"  {verb} " in told for verb in VERBS) and "learning_rate=1e-4" in told
