"""What the Trainer subclass promises apart from a whole job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_jobs import events, run_inside

from finetui.jobs import checkpoints
from finetui.jobs.folder import Job
from finetui.recipe.schema import Recipe

Build = Callable[..., Recipe]
Make = Callable[[Recipe], Job]
QUIET = {"generate": 0, "every": 0}


def step_figures(job: Job) -> list[tuple[float, float]]:
    assert run_inside(job) == 0, job.outcome()
    return [(event["loss"], event["grad_norm"]) for event in events(job, "step")]


def test_accumulation_equals_one_large_batch(recipe: Build, make_job: Make) -> None:
    whole = step_figures(make_job(recipe(training={"batch_size": 8}, evaluation=QUIET)))
    parts = step_figures(
        make_job(recipe(training={"batch_size": 2, "accumulation": 4}, evaluation=QUIET))
    )
    assert len(whole) == 4
    for one, other in zip(whole, parts, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_the_same_seed_gives_the_same_run(recipe: Build, make_job: Make) -> None:
    settings = {"method": {"dropout": 0.1}, "evaluation": QUIET}
    first = step_figures(make_job(recipe(**settings)))
    again = step_figures(make_job(recipe(**settings)))
    other = step_figures(make_job(recipe(training={"seed": 1}, **settings)))
    assert first == again
    assert first != other


def test_packing_trains_fewer_and_fuller_rows(recipe: Build, make_job: Make) -> None:
    job = make_job(recipe(data={"packing": True}, training={"batch_size": 2}, evaluation=QUIET))
    assert run_inside(job) == 0, job.outcome()
    data = events(job, "data")[0]
    assert 0 < data["packed_rows"] < data["rows"]
    step = events(job, "step")[-1]
    assert step["tokens"] == 2 * data["tokens"], "two epochs over the same tokens"
    assert step["trained_tokens"] == 2 * data["trained_tokens"]


def test_the_rows_of_a_step_are_named(recipe: Build, make_job: Make) -> None:
    job = make_job(recipe(evaluation=QUIET))
    assert run_inside(job) == 0
    files = events(job, "data")[0]["files"]
    assert [Path(file).name for file in files] == ["train.jsonl"]
    one_epoch = [row for event in events(job, "step")[:4] for row in event["rows"]]
    assert sorted(one_epoch) == [[0, line] for line in range(1, 17)]


def test_eval_loss_is_the_mean_over_all_trained_tokens(
    recipe: Build, make_job: Make, model_dir: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from finetui.data.tokens import load_chat_tokenizer
    from finetui.engine.objectives import sft_objective

    job = make_job(recipe(training={"max_steps": 1}, evaluation=QUIET))
    assert run_inside(job) == 0
    told = events(job, "eval")[0]["loss"]
    made = recipe()
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    held_out = sft_objective(made, load_chat_tokenizer(model_dir)).encode([made.data.eval])
    total = 0.0
    for item in held_out.examples:
        labels = torch.tensor(item.labels).long()[None]
        with torch.no_grad():
            mean = model(torch.tensor(item.ids).long()[None], labels=labels).loss
        total += float(mean) * item.trained_tokens
    assert told == pytest.approx(total / held_out.trained_tokens, rel=1e-5)


def test_bf16_trains_on_a_cpu(recipe: Build, make_job: Make) -> None:
    job = make_job(recipe(model={"precision": "bf16"}, training={"max_steps": 2}, evaluation=QUIET))
    assert run_inside(job) == 0, job.outcome()
    assert events(job, "start")[0]["precision"] == "bf16"


def test_pause_waits_for_resume(
    recipe: Build, make_job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetui.jobs.worker import WorkerSession

    held: list[int] = []
    job = make_job(recipe(evaluation=QUIET))

    def hold(session: WorkerSession) -> set[str]:
        held.append(len(events(job, "step")))
        return {"resume"}

    monkeypatch.setattr(WorkerSession, "hold", hold)
    job.write_json("control/resume.json", {"verb": "resume"})

    def ask(session: WorkerSession) -> None:
        job.write_json("control/pause.json", {"verb": "pause"})

    assert run_inside(job, ask) == 0
    assert len(held) == 1


def test_a_checkpoint_without_manifest_does_not_exist(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        draft = checkpoints.draft_folder(tmp_path)
        (draft / "adapter_model.safetensors").write_bytes(b"x" * step)
        checkpoints.publish(draft, tmp_path / f"step-{step}", step=step)
    (tmp_path / "step-30" / checkpoints.MANIFEST).unlink()
    assert [step for step, _ in checkpoints.valid_checkpoints(tmp_path)] == [10, 20]
    (tmp_path / "step-20" / "adapter_model.safetensors").write_bytes(b"torn")
    assert [step for step, _ in checkpoints.valid_checkpoints(tmp_path)] == [10]


def test_rotation_keeps_at_least_two_and_counts_only_valid_ones(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        draft = checkpoints.draft_folder(tmp_path)
        (draft / "weights").write_bytes(b"x")
        checkpoints.publish(draft, tmp_path / f"step-{step}", step=step)
    (tmp_path / "step-4" / checkpoints.MANIFEST).unlink()
    checkpoints.rotate(tmp_path, keep=1)
    assert [step for step, _ in checkpoints.valid_checkpoints(tmp_path)] == [2, 3]


def test_no_pickle_but_the_optimisers_is_left(recipe: Build, make_job: Make) -> None:
    job = make_job(recipe(evaluation=QUIET))
    assert run_inside(job) == 0
    (_, path), *_ = checkpoints.valid_checkpoints(job.path / "checkpoints")
    names = {file.name for file in path.iterdir()}
    assert "training_args.bin" not in names
    assert {"adapter_model.safetensors", "optimizer.pt", "trainer_state.json"} <= names
