"""`finetui watch`: a line a step and for what else happens; a long run is told from its end."""

import json

import pytest

from finetui.commands import watch
from finetui.errors import UserError
from finetui.jobs import reading
from finetui.jobs.events import EventWriter
from finetui.jobs.folder import create


@pytest.fixture
def job(tmp_path):
    return create(tmp_path / "jobs", "train", "x", {}, {})


def write(job, steps, end=True):
    events = EventWriter(job, 1, clock=iter([1000.0 + n for n in range(10**6)]).__next__)
    events.write("start", total_steps=1000)
    for step in range(1, steps + 1):
        loss = float("nan") if step == 3 else 1.0
        events.write("step", step=step, loss=loss, lr=1e-4, grad_norm=0.5, tokens_per_s=900.0)
        if step == 2:
            events.write("eval", step=2, loss=0.5, probe_loss=2.0)
            events.write("guard", step=2, guard="spike", action="", text="odd \x1b[2J step")
    if end:
        events.write("end", reason="finished")
    events.close()


def told(job, **options):
    lines = []
    watch.steps(job, lines.append, once=True, **options)
    return [line.split("  ", 1)[1] for line in lines]


def test_each_step_has_a_line_between_the_other_things_that_happen(job):
    write(job, 4)
    assert told(job) == [
        "training began: 1,000 steps",
        "step 1/1000  loss 1  lr 0.0001  grad 0.5  900 tokens/s",
        "step 2/1000  loss 1  lr 0.0001  grad 0.5  900 tokens/s  16m38 left",
        "eval loss 0.5 at step 2 (best)",
        "odd ␛[2J step",
        "loss is not a number at step 3",
        "step 3/1000  loss NaN  eval 0.5  probe 2  lr 0.0001  grad 0.5  900 tokens/s  33m14 left",
        "loss is a number again at step 4",
        "step 4/1000  loss 1  eval 0.5  probe 2  lr 0.0001  grad 0.5  900 tokens/s  16m36 left",
        "finished after 7 s",
    ]


def test_of_the_steps_that_are_there_only_the_last_are_told_unless_all_are_wanted(job):
    write(job, 300)
    lines = told(job, before=20)
    assert len(lines) == 20 and lines[-2].startswith("step 300/1000")
    assert len(told(job)) == 300 + 6


def test_a_long_run_is_told_from_its_end_without_reading_all_of_it(job, monkeypatch):
    write(job, 5000, end=False)
    monkeypatch.setattr(reading, "_BLOCKS", 8)
    monkeypatch.setattr(reading, "_BLOCK_BYTES", 1000)
    monkeypatch.setattr(reading, "_END_BYTES", 5000)
    read = []
    monkeypatch.setattr(watch.Teller, "lines", lambda self, event: read.append(event) or ["x  y"])
    told(job, before=20)
    assert 20 < len(read) < 60 and read[-1]["step"] == 5000


def test_every_event_is_one_json_value_a_line(job, capsys):
    write(job, 5)
    watch.events(job, once=True)
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["kind"] for event in found][:3] == ["start", "step", "step"]
    assert len(found) == 9 and all(event["attempt"] == 1 for event in found)


def test_the_live_screen_is_not_for_scripts(tmp_path):
    from finetui.workspace import create as create_workspace

    workspace = create_workspace(tmp_path / "w")
    made = create(workspace.jobs, "train", "x", {}, {})
    wanted = ["last", "--full", "--json", "-w", str(workspace.root)]
    with pytest.raises(UserError, match="--full is a screen"):
        watch.run(watch.parser().parse_args(wanted))
    assert made.path.exists()
