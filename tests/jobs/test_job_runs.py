"""Runs beside each other: figures from outcomes and events, a filter, an order, stable places."""

import pytest

from finetui.errors import UserError
from finetui.jobs import monitor
from finetui.jobs.events import EventWriter
from finetui.jobs.folder import create
from finetui.jobs.runs import SLOTS, matching, ordered, runs, slots


def make(root, name, *, rank=16, steps=10, loss=1.0, outcome=True, **metrics):
    spec = {"kind": "train", "recipe": {"name": name, "method": {"rank": rank}}}
    job = create(root, "train", name, spec, {"created": 1000.0 + len(list(root.glob("2*")))})
    events = EventWriter(job, 1, clock=iter([float(n) for n in range(1000)]).__next__)
    events.write("start", total_steps=2 * steps)
    for step in range(1, steps + 1):
        events.write("step", step=step, loss=loss, tokens_per_s=100.0 * step, memory_bytes=step)
    events.write("eval", step=steps, loss=loss)
    events.close()
    if outcome:
        job.write_json("outcome.json", {"status": "finished", "attempt": 1, "t": 1.0,
                                        "metrics": metrics})  # fmt: skip
    return job


@pytest.fixture
def root(tmp_path):
    (tmp_path / "jobs").mkdir()
    return tmp_path / "jobs"


def test_a_run_has_its_figures_from_the_outcome_and_else_from_the_events(root):
    make(root, "told", best_eval_loss=0.5, peak_bytes=99, after={"format": 1.0, "accuracy": 0.75})
    make(root, "going", outcome=False)
    create(root, "prepare", "other", {}, {})
    going, told = runs(root, None)
    assert (told.best_eval, told.peak, told.format, told.accuracy) == (0.5, 99, 1.0, 0.75)
    assert (going.best_eval, going.best_step, going.peak, going.accuracy) == (1.0, 10, 10, None)
    assert (going.steps, going.total_steps, going.tokens_per_s) == (10, 20, 550.0)
    assert going.seconds == 11.0 and going.exact and told.state.name == "finished"


def test_a_run_whose_files_are_broken_is_still_listed(root):
    job = make(root, "broken")
    (job.path / "spec.toml").write_text("= no toml")
    (job.path / "outcome.json").write_text("[")
    job.events_path(1).write_bytes(b"\xff\n{}\n[1]\n")
    [run] = runs(root, None)
    assert run.best_eval is None and run.steps == 0 and run.text.startswith(job.id)


def test_a_long_run_is_listed_from_samples_and_says_so(root, monkeypatch):
    make(root, "long", steps=400)
    monkeypatch.setattr(monitor, "SHORT_BYTES", 1000)
    [run] = runs(root, None)
    assert not run.exact and run.steps == 400


def test_the_filter_is_a_regular_expression_over_name_state_and_recipe(root):
    for rank in (8, 16, 32):
        make(root, f"rank-{rank}", rank=rank)
    found = runs(root, None)
    assert [run.job.slug for run in matching(found, r"method.rank=(8|16)$")] == [
        "rank-16",
        "rank-8",
    ]
    assert len(matching(found, "FINISHED")) == 3 and matching(found, "nothing") == []
    with pytest.raises(UserError, match="regular expression"):
        matching(found, "(")


def test_the_best_come_first_and_the_unknown_last(root):
    make(root, "a", best_eval_loss=0.5, after={"accuracy": 0.2})
    make(root, "b", best_eval_loss=0.25, after={"accuracy": 0.9})
    make(root, "c", best_eval_loss=0.75)
    found = runs(root, None)
    names = {by: [r.job.slug for r in ordered(found, by)] for by in ("", "best_eval", "accuracy")}
    assert names == {"": ["c", "b", "a"], "best_eval": ["b", "a", "c"], "accuracy": ["b", "a", "c"]}


def test_a_run_keeps_its_place_whatever_is_beside_it(root):
    jobs = [make(root, f"run-{number}", steps=1) for number in range(SLOTS + 2)]
    found = runs(root, None)
    by_name = {run.job.slug: run for run in found}
    alone = slots(found, [by_name["run-3"]])
    beside = slots(found, [by_name["run-1"], by_name["run-3"], by_name["run-5"]])
    assert alone[jobs[3].path] == beside[jobs[3].path] == 3
    rivals = slots(found, [by_name["run-1"], by_name[f"run-{SLOTS + 1}"]])
    assert rivals[jobs[1].path] == 1 and rivals[jobs[SLOTS + 1].path] == 2
    assert len(set(slots(found, found).values())) == SLOTS
