"""The monitor: events add up to one frozen picture, and nothing is made prettier than it is."""

import dataclasses
import math

import pytest

from finetui.jobs.events import EventWriter
from finetui.jobs.folder import create
from finetui.jobs.monitor import JobReader


class Run:
    """A job whose events are written at times of our choosing."""

    def __init__(self, tmp_path):
        self.job = create(tmp_path, "train", "x", {}, {})
        self.now = 1000.0
        self.reader = JobReader(self.job, clock=lambda: self.now)
        self.writer = EventWriter(self.job, 1, clock=lambda: self.now)

    def write(self, kind, *, after=0.0, **fields):
        self.now += after
        self.writer.write(kind, **fields)

    def attempt(self, number):
        self.writer.close()
        self.writer = EventWriter(self.job, number, clock=lambda: self.now)

    def running(self, monkeypatch):
        """Let the job count as running without a process."""
        from finetui.jobs import monitor
        from finetui.jobs.liveness import JobState

        monkeypatch.setattr(monitor, "state", lambda job, clock: JobState("running", "at work"))


@pytest.fixture
def run(tmp_path):
    made = Run(tmp_path)
    yield made
    made.writer.close()


def texts(snapshot):
    return [line.text for line in snapshot.events]


def test_a_snapshot_has_the_figures_of_the_newest_step(run):
    run.write("start", total_steps=100, epochs=2.0, parameters=3_000, trainable=30, device="cpu")
    run.write("step", step=5, epoch=0.1, loss=2.5, lr=1e-4, grad_norm=0.5, tokens=1000)
    run.write(
        "step",
        step=10,
        epoch=0.2,
        loss=1.5,
        lr=2e-4,
        grad_norm=0.4,
        tokens=2000,
        trained_tokens=820,
        tokens_per_s=900.0,
        step_s=0.1,
        memory_bytes=5 << 30,
        rss_bytes=1 << 30,
    )
    run.write("eval", step=10, loss=1.75, seconds=2.0)
    seen = run.reader.poll()
    assert (seen.step, seen.total_steps, seen.epoch, seen.loss) == (10, 100, 0.2, 1.5)
    assert (seen.eval_loss, seen.lr, seen.grad_norm) == (1.75, 2e-4, 0.4)
    assert seen.supervised_share == pytest.approx(0.41)
    assert (seen.memory, seen.memory_peak, seen.rss) == (5 << 30, 5 << 30, 1 << 30)
    loss = seen.curve("loss")
    assert [(loss.step(i), loss.value(i)) for i in range(len(loss))] == [(5, 2.5), (10, 1.5)]
    assert seen.curve("eval_loss").last == 1.75 and len(seen.curve("nothing")) == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        seen.step = 3


def test_nothing_new_is_no_snapshot(run):
    assert run.reader.poll() is not None
    assert run.reader.poll() is None
    run.write("message", text="hello")
    assert texts(run.reader.poll()) == ["hello"]
    assert run.reader.poll() is None
    run.job.log_path(1).write_text("new line\n")
    assert run.reader.poll().log_tail(5) == ("new line",)


def test_a_loss_that_is_not_a_number_is_a_gap_and_is_said_once_in_words(run):
    for step, loss in ((10, 2.0), (11, 1.0), (12, math.nan), (13, math.inf), (14, 0.5)):
        run.write("step", step=step, loss=loss)
    run.write("step", step=15, loss=0.4, grad_norm=math.nan)
    run.write("eval", step=15, loss=math.nan)
    seen = run.reader.poll()
    loss = seen.curve("loss")
    assert [math.isnan(loss.value(i)) for i in range(6)] == [False, False, True, True, False, False]
    assert texts(seen) == [
        "loss is not a number at step 12",
        "loss is a number again at step 14",
        "gradient norm is not a number at step 15",
        "eval loss is not a number at step 15",
    ]
    assert [line.level for line in seen.events] == ["error", "info", "error", "error"]
    assert math.isnan(seen.grad_norm) and seen.loss == 0.4 and math.isnan(seen.eval_loss)


def test_a_loss_that_is_not_a_number_now_is_shown_as_such(run):
    run.write("step", step=1, loss=1.0)
    run.write("step", step=2, loss=math.nan)
    assert math.isnan(run.reader.poll().loss)


def test_the_time_left_follows_the_recent_pace_and_not_one_slow_step(run, monkeypatch):
    run.running(monkeypatch)
    run.write("start", total_steps=1000)
    assert run.reader.poll().eta_s is None
    for step in range(5, 205, 5):
        run.write("step", after=60.0 if step == 50 else 10.0, step=step, loss=1.0)
    assert run.reader.poll().eta_s == pytest.approx((1000 - 200) * 2.0)


def test_a_job_that_has_ended_has_no_time_left(run):
    run.write("start", total_steps=10)
    run.write("step", after=1, step=1)
    run.write("step", after=1, step=2)
    run.job.write_json("outcome.json", {"status": "stopped", "attempt": 1, "t": run.now})
    seen = run.reader.poll()
    assert seen.state.name == "stopped" and seen.eta_s is None and seen.elapsed_s == 2.0


def test_a_stage_without_steps_has_progress_and_a_time_left(run, monkeypatch):
    run.running(monkeypatch)
    run.write("stage", text="answering held-out prompts")
    run.write("progress", done=0, total=150, text="answers")
    run.write("progress", after=10, done=50, total=150, text="answers")
    seen = run.reader.poll()
    assert seen.stage == "answering held-out prompts"
    assert (seen.progress.done, seen.progress.total) == (50, 150)
    assert seen.eta_s == pytest.approx(20.0)


def test_a_second_attempt_goes_on_from_its_checkpoint(run):
    for step in range(1, 11):
        run.write("step", after=1, step=step, loss=float(step))
    run.now += 3600
    run.attempt(2)
    run.write("start", total_steps=20)
    run.write("step", after=1, step=6, loss=0.6)
    run.write("step", after=1, step=7, loss=0.7)
    seen = run.reader.poll()
    loss = seen.curve("loss")
    assert [loss.value(i) for i in range(len(loss))] == [1, 2, 3, 4, 5, 0.6, 0.7]
    assert seen.attempt == 2 and "attempt 2 began" in texts(seen)
    assert seen.elapsed_s == 9 + 2


def test_what_is_made_again_counts_as_it_was_made_last(run):
    for step in range(1, 8):
        run.write("step", step=step, loss=float(step), tokens=10 * step, trained_tokens=5 * step)
        run.write("eval", step=step, loss=1 / step)
        run.write("sample", step=step, prompt="p", answer=str(step))
        run.write("checkpoint", step=step, path="")
        run.write("guard", step=step, guard="spike", action="warn", text=f"at {step}")
    run.attempt(2)
    run.write("resume", step=4, path="checkpoints/step-4", text="goes on", tokens=40,
              trained_tokens=20)  # fmt: skip
    snapshot = run.reader.poll()
    assert (snapshot.step, snapshot.eval_loss, snapshot.best_eval_loss) == (4, 0.25, 0.25)
    assert snapshot.best_eval_step == 4 and snapshot.curve("loss").last_step == 4
    for kept in (snapshot.samples, snapshot.checkpoints, snapshot.guards):
        assert [one.step for one in kept] == [1, 2, 3, 4]
    run.write("step", step=5, loss=9.0, tokens=60, trained_tokens=40)
    snapshot = run.reader.poll()
    curve, share = snapshot.curve("loss"), snapshot.curve("supervised_share")
    assert [curve.value(at) for at in range(len(curve))] == [1, 2, 3, 4, 9]
    assert share.last == 1.0, "20 of the 20 tokens since step 4"
    run.attempt(3)
    run.write("resume", step=0, path="", text="begun anew")
    snapshot = run.reader.poll()
    assert len(snapshot.curve("loss")) == len(snapshot.curve("eval_loss")) == 0
    assert snapshot.step == 0 and snapshot.best_eval_loss is None and snapshot.samples == ()
    assert "begun anew" in texts(snapshot)


def test_scores_samples_and_the_best_eval_loss_are_kept(run):
    run.write("score", when="before", set="held-out", format=0.0, accuracy=0.0, n=150, seconds=9)
    run.write("eval", step=50, loss=0.9)
    run.write("eval", step=100, loss=0.95)
    run.write("sample", step=100, prompt="p", answer="a", reference="r")
    run.write("score", when="after", set="held-out", format=1.0, accuracy=0.97, n=150)
    seen = run.reader.poll()
    assert (seen.eval_loss, seen.best_eval_loss) == (0.95, 0.9)
    assert [score.when for score in seen.scores] == ["before", "after"]
    assert seen.samples[0].answer == "a"
    assert texts(seen)[-1] == "after tuning on held-out: format 100%, accuracy 97% (150 rows)"
    assert "eval loss 0.9 at step 50 (best)" in texts(seen)


@pytest.mark.parametrize(
    "event",
    [
        {"kind": "step"},
        {"kind": "step", "step": "x", "loss": "y", "tokens": [], "step_s": {}},
        {"kind": "eval", "loss": True},
        {"kind": "progress", "done": None},
        {"kind": "score"},
        {"kind": "data", "rows": "many"},
        {"kind": "sample"},
        {"kind": "__init__"},
        {"kind": "start", "total_steps": "ten"},
        {"kind": "step", "step": 1, "nonfinite": 3},
    ],
)
def test_odd_events_do_not_stop_the_reader(run, event):
    kind = event.pop("kind")
    run.write(kind, **event)
    run.write("message", text="still here")
    assert texts(run.reader.poll())[-1] == "still here"


def test_the_share_of_supervised_tokens_is_known_before_the_first_step(run):
    run.write("data", rows=1200, tokens=10_000, trained_tokens=800, dropped_long=3, truncated=0)
    seen = run.reader.poll()
    assert seen.supervised_share == pytest.approx(0.08) and seen.data["dropped_long"] == 3
    assert texts(seen) == ["data: 1,200 rows, 10,000 tokens, 3 too long, dropped"]


def test_the_figures_of_an_objective_have_curves_of_their_own(run):
    run.write("step", step=1, loss=1.0, figures={"kl": 0.1})
    run.write("step", step=2, loss=1.0, figures={"kl": math.nan, "margin": 0.5})
    run.write("eval", step=2, loss=1.0, probe_loss=2.5, figures={"accuracy": 0.75})
    run.write("eval", step=4, loss=0.5, probe_loss=math.nan)
    seen = run.reader.poll()
    kl = seen.curve("figures.kl")
    assert kl.value(0) == 0.1 and math.isnan(kl.value(1)) and math.isnan(seen.figures["kl"])
    assert seen.figures["margin"] == 0.5 and seen.eval_figures == {"accuracy": 0.75}
    assert seen.curve("eval_figures.accuracy").last == 0.75
    assert math.isnan(seen.probe_loss) and len(seen.curve("probe_loss")) == 2
    assert (seen.best_eval_loss, seen.best_eval_step) == (0.5, 4)


def test_guards_and_requests_are_marks_and_lines_with_step_and_rows(run):
    run.write("step", step=7, loss=1.0)
    run.write("guard", step=7, guard="spike", action="skip", text="loss 9 is a spike",
              rows=[[0, 12], [1, 3], "odd"], value=9.0)  # fmt: skip
    run.write("guard", step=8, guard="plateau", action="", text="no better for long")
    run.write("control", verb="set", step=8, fields={"learning_rate": 1e-5}, who="ann@host",
              text="learning rate 1e-05")  # fmt: skip
    run.write("control", verb="save")
    run.write("checkpoint", step=8)
    seen = run.reader.poll()
    spike, plateau = seen.guards
    assert (spike.step, spike.guard, spike.action, spike.value) == (7, "spike", "skip", 9.0)
    assert spike.rows == ((0, 12), (1, 3)) and plateau.value is None
    line = seen.events[0]
    assert (line.level, line.text, line.step, line.rows) == (
        "error", "loss 9 is a spike", 7, spike.rows)  # fmt: skip
    assert seen.events[1].level == "warning"
    change, save = seen.controls
    assert (change.verb, change.fields, change.who) == ("set", {"learning_rate": 1e-5}, "ann@host")
    assert save.step == 7 and texts(seen)[2] == "learning rate 1e-05 (ann@host)"
    assert [checkpoint.step for checkpoint in seen.checkpoints] == [8]


def test_the_supervised_share_curve_is_that_of_each_window(run):
    run.write("step", step=1, tokens=100, trained_tokens=50)
    run.write("step", step=2, tokens=200, trained_tokens=60)
    run.attempt(2)
    run.write("step", step=2, tokens=100, trained_tokens=90)
    seen = run.reader.poll()
    share = seen.curve("supervised_share")
    assert [share.value(i) for i in range(len(share))] == pytest.approx([0.5, 0.9])
    assert seen.supervised_share == pytest.approx(0.9) and seen.tokens == 100


def test_samples_over_a_long_run_are_thinned_but_keep_first_and_last(run):
    for step in range(0, 3000, 10):
        for name in range(5):
            run.write("sample", step=step, id=f"q{name}", prompt="p", answer=f"{step}")
    samples = run.reader.poll().samples
    steps = sorted({sample.step for sample in samples})
    assert len(samples) <= 1000 and steps[0] == 0 and steps[-1] == 2990
    assert all(len([s for s in samples if s.step == step]) == 5 for step in (0, 2990))


def test_the_newest_step_says_how_many_steps_there_will_be(run):
    run.write("start", total_steps=100)
    run.write("step", step=1, total_steps=100)
    run.write("step", step=2, total_steps=40)
    assert run.reader.poll().total_steps == 40
