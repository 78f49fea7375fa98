"""A run that is watched and steered: every guard's action and every request, in a real run."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_jobs import chat, events, run_inside, write_rows

from finetui.engine import trainer
from finetui.jobs import checkpoints
from finetui.jobs.events import EventTail
from finetui.jobs.folder import Job
from finetui.jobs.rowlosses import RowLosses
from finetui.jobs.worker import WorkerSession
from finetui.recipe.schema import Recipe
from finetui.workspace import Workspace

Build = Callable[..., Recipe]
Make = Callable[[Recipe], Job]
Ask = Callable[..., None]
QUIET = {"generate": 0, "every": 0, "samples": 0}


def column(job: Job, name: str, kind: str = "step") -> list[Any]:
    return [event[name] for event in events(job, kind)]


def told(job: Job, kind: str = "message") -> str:
    return " | ".join(column(job, "text", kind))


@pytest.fixture
def broken_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float], None]:
    """Let the loss of one update be multiplied: by nan, by a thousand, by 0."""
    real = trainer.JobTrainer.compute_loss

    def break_at(step: int, factor: float) -> None:
        def broken(self: trainer.JobTrainer, model: Any, inputs: Any, *args: Any, **kw: Any) -> Any:
            loss = self.objective.loss
            if self.state.global_step + 1 == step:
                self.objective = _times(self.objective, factor)
            try:
                return real(self, model, inputs, *args, **kw)
            finally:
                self.objective = _times(self.objective, 1.0, loss)

        monkeypatch.setattr(trainer.JobTrainer, "compute_loss", broken)

    return break_at


def _times(objective: Any, factor: float, loss: Any = None) -> Any:
    from dataclasses import replace

    plain = loss or objective.loss

    def scaled(model: Any, batch: Any, items: float) -> Any:
        total, what = plain(model, batch, items)
        return total * factor, replace(what, rows=what.rows * factor)

    return replace(objective, loss=plain if loss else scaled)


# -- guards ----------------------------------------------------------------------------------------


def test_a_skipped_update_changes_no_weight_and_the_run_goes_on(
    recipe: Build, make_job: Make, broken_at: Callable[[int, float], None]
) -> None:
    broken_at(3, math.nan)
    job = make_job(recipe(guards={"nonfinite": "skip"}, evaluation=QUIET))
    weights: dict[int, torch.Tensor] = {}
    real = trainer.JobTrainer.step_ended

    def remember(self: trainer.JobTrainer) -> Any:
        trained = [p.detach().flatten().clone() for p in self.model.parameters() if p.requires_grad]
        weights[self.state.global_step] = torch.cat(trained)
        return real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.JobTrainer, "step_ended", remember)
        assert run_inside(job) == 0, job.outcome()
    assert torch.equal(weights[2], weights[3]) and not torch.equal(weights[3], weights[4])
    (guard,) = events(job, "guard")
    assert (guard["guard"], guard["action"], guard["step"]) == ("nonfinite", "skip", 3)
    assert "train.jsonl:" in guard["text"] and guard["rows"] == column(job, "rows")[2]
    losses = column(job, "loss")
    assert losses[2] is None and all(isinstance(loss, float) for loss in losses[:2] + losses[3:])
    outcome = job.outcome()
    assert outcome is not None and math.isfinite(outcome["metrics"]["train_loss"])
    rows = RowLosses(job).rows_at(3)
    assert len(rows) == 4 and all(row.skipped and math.isnan(row.loss) for row in rows)


def test_a_fault_late_in_a_run_leaves_what_was_learned(
    recipe: Build, make_job: Make, broken_at: Callable[[int, float], None]
) -> None:
    broken_at(6, math.nan)
    job = make_job(recipe(evaluation=QUIET | {"every": 2}))
    assert run_inside(job) == 1
    outcome = job.outcome()
    assert outcome is not None
    assert (outcome["status"], outcome["reason"], outcome["step"]) == ("failed", "nonfinite", 6)
    assert "adapter/ has the weights of step 4" in outcome["sentence"]
    kept = checkpoints.best_result(job.path / "checkpoints")
    assert kept is not None
    assert (job.adapter / "adapter_model.safetensors").read_bytes() == (
        kept[0] / "adapter_model.safetensors"
    ).read_bytes()


def test_a_loss_of_exactly_zero_ends_the_run_as_failed(
    recipe: Build, make_job: Make, broken_at: Callable[[int, float], None]
) -> None:
    broken_at(2, 0.0)
    job = make_job(recipe(evaluation=QUIET))
    assert run_inside(job) == 1
    outcome = job.outcome()
    assert outcome is not None and outcome["reason"] == "zero"
    assert "exactly 0 at step 2" in outcome["sentence"] and "loss_on" in outcome["sentence"]


@pytest.mark.parametrize("action", ["skip", "lower", "stop"])
def test_a_spike_names_its_worst_rows_and_does_what_the_recipe_says(
    recipe: Build, make_job: Make, broken_at: Callable[[int, float], None], action: str
) -> None:
    broken_at(23, 40.0)
    settings: dict[str, Any] = {
        "training": {"epochs": 6.0, "schedule": "constant", "warmup": 0.0, "learning_rate": 1e-3},
        "guards": {"spike": action},
        "evaluation": QUIET | {"every": 20, "suite": ""},
    }
    job = make_job(recipe(**settings))
    assert run_inside(job) == 0, job.outcome()
    (guard,) = [event for event in events(job, "guard") if event["guard"] == "spike"]
    assert (guard["action"], guard["step"]) == (action, 23)
    worst = RowLosses(job).rows_at(23)
    assert guard["rows"] == [[row.file, row.line] for row in worst]
    rates = column(job, "lr")
    after = {"skip": [1e-3], "lower": [5e-4], "stop": []}
    assert rates[23:] == after[action]
    assert worst[0].skipped == (action in ("skip", "stop"))
    outcome = job.outcome()
    assert outcome is not None
    assert outcome["status"] == ("stopped" if action == "stop" else "finished")
    if action == "stop":
        assert outcome["reason"] == "spike" and "above the last" in outcome["sentence"]
        assert column(job, "step", "eval")[-1] == 23, "it is evaluated before the best is chosen"


def test_a_rate_far_too_high_is_seen_to_diverge(
    recipe: Build, make_job: Make, ask_at_step: Ask
) -> None:
    constant = {"epochs": 20.0, "schedule": "constant", "warmup": 0.0, "learning_rate": 5e-3}
    job = make_job(
        recipe(
            training=constant,
            method={"kind": "full"},
            guards={"divergence": "stop", "spike": "off", "plateau": "off"},
            data={"eval": ""},
            evaluation=QUIET,
        )
    )
    ask_at_step(job, 20, ("set", {"learning_rate": 1.0}))
    assert run_inside(job) == 0, job.outcome()
    outcome = job.outcome()
    assert outcome is not None and outcome["status"] == "stopped", column(job, "loss")
    assert outcome["reason"] == "divergence" and "rate is likely too high" in outcome["sentence"]
    assert column(job, "step")[-1] < 80


# -- requests --------------------------------------------------------------------------------------


def test_stop_best_ends_with_the_best_weights_scored(
    recipe: Build, make_job: Make, workspace: Workspace, ask_at_step: Ask
) -> None:
    write_rows(workspace.datasets / "held.jsonl", [chat("?", "purple candle") for _ in range(4)])
    settings = {"learning_rate": 0.05, "epochs": 4.0, "schedule": "constant", "warmup": 0.0}
    job = make_job(recipe(training=settings, evaluation={"every": 1, "generate": 2, "samples": 0}))
    ask_at_step(job, 6, "stop_best")
    assert run_inside(job) == 0
    outcome = job.outcome()
    assert outcome is not None and outcome["status"] == "stopped"
    losses = {event["step"]: event["loss"] for event in events(job, "eval") if event["step"]}
    assert max(losses) == 6 and outcome["metrics"]["best_step"] == min(losses, key=losses.get)
    assert column(job, "when", "score") == ["before", "after"]
    assert "stopped on request" in outcome["sentence"]


def test_set_changes_rate_cadence_and_end_from_the_next_step_on(
    recipe: Build, make_job: Make, ask_at_step: Ask
) -> None:
    constant = {"schedule": "constant", "warmup": 0.0, "learning_rate": 1e-3}
    job = make_job(recipe(training=constant, evaluation=QUIET))
    fields = {"learning_rate": 2e-3, "eval_every": 5, "save_every": 4, "end_step": 12}
    ask_at_step(job, 3, ("set", fields))
    ask_at_step(job, 7, ("set", {"end_step": 2}))
    assert run_inside(job) == 0, job.outcome()
    assert column(job, "step") == list(range(1, 13)), "past the two planned epochs"
    assert column(job, "total_steps") == [8] * 2 + [12] * 10
    assert column(job, "lr") == pytest.approx([1e-3] * 3 + [2e-3] * 9)
    assert column(job, "step", "eval") == [0, 5, 10, 12]
    assert column(job, "step", "checkpoint") == [4, 8, 12]
    first, _ = events(job, "control")
    assert first["fields"] == fields and first["who"] and "learning_rate 0.002" in first["text"]
    assert "end step 2 is behind step 7" in told(job, "warning")


def test_an_end_brought_forward_settles_there(
    recipe: Build, make_job: Make, ask_at_step: Ask
) -> None:
    settings = {"schedule": "linear", "warmup": 0.0, "learning_rate": 1e-3, "epochs": 5.0}
    job = make_job(recipe(training=settings, evaluation=QUIET))
    ask_at_step(job, 10, ("set", {"end_step": 15}))
    assert run_inside(job) == 0
    rates = column(job, "lr")
    assert len(rates) == 15
    assert rates[:11] == pytest.approx([1e-3 * (1 - step / 20) for step in range(11)])
    assert rates[10:] == pytest.approx([1e-4 * (5 - step) for step in range(5)])


def test_rows_that_somebody_takes_out_are_trained_on_no_more(
    recipe: Build, make_job: Make, ask_at_step: Ask
) -> None:
    job = make_job(recipe(training={"epochs": 4.0}, evaluation=QUIET))
    ask_at_step(job, 5, ("exclude", {"rows": [[0, 3], [0, 4]]}))
    assert run_inside(job) == 0
    seen = column(job, "rows")
    assert [0, 3] in [row for rows in seen[:4] for row in rows] and len(seen) == 16
    assert all(row not in rows for rows in seen[5:] for row in ([0, 3], [0, 4]))
    assert all(len(rows) == 4 for rows in seen), "other rows take their places"
    assert "2 rows left out from now on: train.jsonl:3, train.jsonl:4" in told(job)


def test_what_was_taken_out_stays_out_of_the_next_attempt(
    recipe: Build, make_job: Make, ask_at_step: Ask
) -> None:
    job = make_job(recipe(training={"max_steps": 5}, evaluation=QUIET))
    ask_at_step(job, 2, ("exclude", {"rows": [[0, 3]]}))
    assert run_inside(job) == 0
    (job.path / "outcome.json").unlink()
    shutil.rmtree(job.path / "checkpoints")
    assert run_inside(job) == 0
    second = [event for event in EventTail(job).read() if event["attempt"] == 2]
    rows = [row for event in second if event["kind"] == "step" for row in event["rows"]]
    assert len(rows) == 20 and [0, 3] not in rows


def test_requests_made_before_training_wait_for_it(recipe: Build, make_job: Make) -> None:
    from finetui.jobs.control import request

    job = make_job(recipe(evaluation=QUIET))

    def ask(session: WorkerSession) -> None:
        request(job, "save")
        request(job, "set", end_step=3)

    assert run_inside(job, ask) == 0
    assert column(job, "step") == [1, 2, 3]
    assert column(job, "step", "checkpoint") == [1, 3]
    assert len(events(job, "control")) == 2


def test_verbs_asked_for_during_a_pause_are_obeyed_after_it(
    recipe: Build, make_job: Make, ask_at_step: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetui.jobs import worker
    from finetui.jobs.control import request

    naps: list[float] = []
    job = make_job(recipe(evaluation=QUIET))

    def nap(seconds: float) -> None:
        naps.append(seconds)
        request(job, ["save", "pause", "resume"][len(naps) - 1])

    monkeypatch.setattr(worker.time, "sleep", nap)
    ask_at_step(job, 3, ("pause", {"release": True}))
    assert run_inside(job) == 0
    assert len(naps) == 3 and column(job, "step", "checkpoint") == [3, 8]
    assert [event["verb"] for event in events(job, "control")] == [
        "pause", "save", "pause", "resume",
    ]  # fmt: skip


# -- what is recorded ------------------------------------------------------------------------------


def test_row_losses_add_up_to_the_loss_of_the_step(recipe: Build, make_job: Make) -> None:
    job = make_job(recipe(training={"batch_size": 2, "accumulation": 2}, evaluation=QUIET))
    assert run_inside(job) == 0
    for event in events(job, "step"):
        rows = RowLosses(job).rows_at(event["step"])
        assert sorted([row.file, row.line] for row in rows) == sorted(event["rows"])
        mean = sum(row.loss for row in rows) / sum(row.items for row in rows)
        assert mean == pytest.approx(event["loss"], rel=1e-5)
    assert len(RowLosses(job).history(0, 5)) == 2, "once an epoch"
    quiet = make_job(recipe(evaluation=QUIET, logging={"row_losses": False}))
    assert run_inside(quiet) == 0 and RowLosses(quiet).last_step is None


def test_each_evaluation_tells_probe_and_samples_and_leaves_the_run_as_it_was(
    recipe: Build, make_job: Make, workspace: Workspace
) -> None:
    general = str(workspace.datasets / "general.jsonl")
    dropout = {"dropout": 0.1, "rank": 4}
    looked = {"generate": 0, "every": 2, "samples": 2, "probe": 3, "suite": general}
    job = make_job(recipe(method=dropout, evaluation=looked))
    assert run_inside(job) == 0, job.outcome()
    assert column(job, "step", "eval") == [0, 2, 4, 6, 8]
    probes = column(job, "probe_loss", "eval")
    assert all(0 < probe < 20 for probe in probes) and len(set(probes)) > 1
    samples = events(job, "sample")
    assert [event["step"] for event in samples] == [0, 0, 2, 2, 4, 4, 6, 6, 8, 8]
    assert {event["id"] for event in samples} == {event["id"] for event in samples[:2]}
    assert all(event["reference"].startswith("It is") for event in samples)
    plain = make_job(recipe(method=dropout, evaluation=QUIET))
    assert run_inside(plain) == 0
    assert column(job, "loss") == column(plain, "loss"), "looking must not change the run"


def test_cost_figures_for_the_forecast_are_in_the_outcome(recipe: Build, make_job: Make) -> None:
    job = make_job(recipe(evaluation=QUIET))
    assert run_inside(job) == 0
    outcome = job.outcome()
    assert outcome is not None
    metrics, steps = outcome["metrics"], events(job, "step")
    assert metrics["peak_bytes"] >= max(column(job, "rss_bytes")) * 0.9
    assert min(column(job, "step_s")) <= metrics["step_s"] <= max(column(job, "step_s"))
    assert metrics["tokens"] == steps[-1]["tokens"]
    assert steps[-1]["memory_peak_bytes"] <= metrics["peak_bytes"]


@pytest.mark.parametrize(
    ("name", "words"), [("nowhere", "nothing is known"), ("mlflow", "mlflow is not installed")]
)
def test_a_report_that_cannot_be_made_stops_before_training(
    recipe: Build, make_job: Make, name: str, words: str
) -> None:
    job = make_job(recipe(evaluation=QUIET, logging={"report_to": [name]}))
    assert run_inside(job) == 1
    outcome = job.outcome()
    assert outcome is not None and words in outcome["sentence"]
    assert events(job, "step") == []


def test_figures_go_to_the_reports_that_are_asked_for(
    recipe: Build, make_job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import TrainerCallback

    seen: list[tuple[int, dict[str, float]]] = []

    class Board(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            seen.append((state.global_step, logs))

    monkeypatch.setattr(trainer, "reports", lambda recipe, job: [Board])
    job = make_job(recipe(evaluation=QUIET, logging={"report_to": ["tensorboard"]}))
    assert run_inside(job) == 0, job.outcome()
    steps = [(step, logs) for step, logs in seen if "loss" in logs]
    assert [step for step, _ in steps] == list(range(1, 9))
    assert [logs["loss"] for _, logs in steps] == column(job, "loss")
    assert [logs["eval_loss"] for _, logs in seen if "eval_loss" in logs] == column(
        job, "loss", "eval"
    )


def test_only_the_libraries_that_a_recipe_asks_for_are_let_in(
    recipe: Build, make_job: Make, tmp_path: Path
) -> None:
    from finetui.engine.__main__ import needed_libraries

    assert needed_libraries(make_job(recipe()).path) == set()
    in_few_bits = make_job(recipe(method={"kind": "qlora"}, logging={"report_to": ["wandb"]}))
    assert needed_libraries(in_few_bits.path) == {"bitsandbytes", "wandb"}
    small_states = make_job(recipe(training={"optimizer": "adamw_8bit"}))
    assert needed_libraries(small_states.path) == {"bitsandbytes"}
    shutil.rmtree(small_states.path)
    assert needed_libraries(small_states.path) == set()
