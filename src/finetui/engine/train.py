"""A whole training job: load, score, train, score again, leave the adapter."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetui.data.tokens import ChatTokenizer
from finetui.engine import checkpoints
from finetui.engine.attention import StopRequested, attend
from finetui.engine.batches import Row, pack, single
from finetui.engine.dataset import (
    TOO_LONG,
    Encoding,
    Prompt,
    encode_files,
    mixed,
    prompts,
    shared_prompts,
)
from finetui.engine.generate import Settings
from finetui.engine.machine import Machine, choose_machine
from finetui.engine.model import add_adapter, load_model, load_tokenizer
from finetui.engine.scoring import score_set
from finetui.engine.trainer import JobTrainer
from finetui.jobs.worker import WorkerSession
from finetui.recipe.schema import Recipe
from finetui.workspace import Workspace

HELD_OUT, SUITE = "held-out", "suite"
_FILES = {HELD_OUT: "outputs", SUITE: "suite"}


@dataclass
class Run:
    """What the stages of one training job share."""

    session: WorkerSession
    recipe: Recipe
    machine: Machine
    tokenizer: ChatTokenizer
    workspace: Workspace | None = None
    sets: dict[str, list[Prompt]] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def stage(self, text: str) -> None:
        self.session.events.write("stage", text=text)
        attend(self.session)

    def warn(self, text: str) -> None:
        self.session.events.write("warning", text=text)

    def say(self, text: str) -> None:
        self.session.events.write("message", text=text)


def train(session: WorkerSession, recipe: Recipe, workspace: Workspace | None = None) -> None:
    """Run a training job to its outcome. Raises what stops it; StopRequested before training."""
    began = time.perf_counter()
    session.events.write("stage", text="loading the model")
    machine = choose_machine(recipe.model.precision, recipe.training.threads)
    tokenizer = load_tokenizer(recipe.model, session.job.path / "tokenizer")
    run = Run(session, recipe, machine, tokenizer, workspace)
    if recipe.data.loss_on != "all" and not tokenizer.end_trained:
        run.warn("the chat template leaves the end of a turn untrained: answers may never end")
    data, held_out = read_data(run)
    model = load_model(recipe.model, machine)
    for name in (HELD_OUT, SUITE):
        (session.job.path / f"{_FILES[name]}-after.jsonl").unlink(missing_ok=True)
    score_all(run, model, "before", 0)
    trainer = build_trainer(run, model, data, held_out)
    fit(run, trainer)
    save(run, trainer)
    try:
        if trainer.end_reason == "stop":
            raise StopRequested
        score_all(run, trainer.model, "after", trainer.state.global_step)
    except StopRequested:
        session.outcome("stopped", metrics=run.metrics, sentence=_stopped_sentence(run, trainer))
        return
    run.metrics["seconds"] = round(time.perf_counter() - began, 1)
    run.metrics["cpu_seconds"] = round(_cpu_seconds(), 1)
    session.outcome("finished", metrics=run.metrics, sentence=_finished_sentence(run, trainer))


def read_data(run: Run) -> tuple[Encoding, Encoding | None]:
    """Training examples (general ones mixed in) and held-out examples; fills ``run.sets``."""
    settings, seed = run.recipe.data, run.recipe.training.seed
    run.stage("reading the data")

    def tell(done: int, total: int) -> None:
        run.session.events.write("progress", done=done, total=total, text="reading rows")
        attend(run.session)

    def encode(paths: Sequence[str]) -> Encoding:
        found = encode_files(paths, run.tokenizer, settings, run.workspace, tell)
        for sentence in found.edits:
            run.say(sentence)
        return found

    data = encode(settings.train)
    _tell_left_out(run, data, "training")
    if settings.general and settings.general_share > 0:
        general = encode([settings.general])
        asked = int(len(data.examples) * settings.general_share)
        data = mixed(data, general, settings.general_share, seed)
        if asked > len(general.examples):
            run.say(f"the general file holds {len(general.examples)} of the {asked} rows asked for")
    held_out = None
    if settings.eval:
        held_out = encode([settings.eval])
        _tell_left_out(run, held_out, "held-out")
    _choose_prompts(run, data)
    return data, held_out


def build_trainer(run: Run, model: Any, data: Encoding, held_out: Encoding | None) -> JobTrainer:
    """A trainer over packed or single rows; says what is in the data."""
    recipe = run.recipe
    rows: list[Row] = (
        pack(data.examples, recipe.data.max_length)
        if recipe.data.packing
        else single(data.examples)
    )
    run.session.events.write(
        "data",
        files=data.files,
        rows=len(data.examples),
        dropped_long=data.left_out[TOO_LONG],
        left_out=dict(data.left_out),
        truncated=data.truncated,
        tokens=data.tokens,
        trained_tokens=data.trained_tokens,
        packed_rows=len(rows) if recipe.data.packing else 0,
        padding_share=_padding_share(rows),
        held_out=len(held_out.examples) if held_out else 0,
    )
    run.stage("putting the adapter on")
    from transformers import set_seed

    set_seed(recipe.training.seed)
    return JobTrainer(
        model=add_adapter(model, recipe.method),
        recipe=recipe,
        machine=run.machine,
        session=run.session,
        data=data,
        rows=rows,
        held_out=held_out,
        pad_id=run.tokenizer.pad_id,
    )


def fit(run: Run, trainer: JobTrainer) -> None:
    """Train, with the held-out loss before and after, and put the best adapter back."""
    if trainer.held_out is not None:
        run.stage("held-out loss before training")
        run.metrics["eval_loss_before"] = trainer.evaluate()["eval_loss"]
    run.stage("training")
    trained = trainer.train()
    run.metrics["steps"] = trainer.state.global_step
    run.metrics["train_loss"] = trained.training_loss
    run.metrics["train_seconds"] = round(trained.metrics["train_runtime"], 1)
    if trainer.end_reason and trainer.end_reason != "stop":
        run.say(trainer.end_reason)
    if trainer.eval_loss is not None:
        run.metrics["eval_loss"] = trainer.eval_loss
    if run.recipe.evaluation.keep_best and trainer.held_out is not None:
        _put_best_back(run, trainer)


def save(run: Run, trainer: JobTrainer) -> None:
    """Publish the adapter folder."""
    run.session.require_newest()
    checkpoints.save_adapter(trainer.model, run.session.job.adapter, _card(run, trainer))
    run.say(f"adapter saved: {run.session.job.adapter}")


def score_all(run: Run, model: Any, when: str, step: int) -> None:
    """Answer and score the held-out rows and the suite; nothing when no rows are asked for."""
    found: dict[str, Any] = {}
    for name, rows in run.sets.items():
        run.stage(f"answering {name} rows {when} training")
        summary = score_set(
            run.session,
            model,
            run.tokenizer,
            rows,
            Settings(max_new_tokens=run.recipe.evaluation.max_new_tokens),
            run.session.job.path / f"{_FILES[name]}-{when}.jsonl",
            when,
            name,
            step,
        )
        found[name] = {key: round(value, 6) for key, value in summary.items()}
    if HELD_OUT in found:
        run.metrics[when] = found[HELD_OUT]
    if SUITE in found:
        run.metrics[f"suite_{when}"] = found[SUITE]


def _choose_prompts(run: Run, data: Encoding) -> None:
    settings, seed = run.recipe.evaluation, run.recipe.training.seed
    if settings.generate == 0:
        return
    for name, path in ((HELD_OUT, run.recipe.data.eval), (SUITE, settings.suite)):
        found = prompts(path, settings.generate, seed, run.workspace) if path else []
        if found:
            run.sets[name] = found
    held_out = run.sets.get(HELD_OUT, [])
    leaked = shared_prompts(data, run.tokenizer, held_out)
    if leaked:
        run.warn(
            f"{leaked} of {len(held_out)} held-out prompts are also trained on: "
            "the scores will look better than they are"
        )


def _tell_left_out(run: Run, data: Encoding, name: str) -> None:
    for reason, count in data.left_out.items():
        run.warn(
            f"{count} {name} row{'s' if count > 1 else ''} left out, {reason}; "
            f"the first is {data.first_left_out[reason]}"
        )
    if data.truncated:
        run.warn(f"{data.truncated} {name} rows cut at max_length: they teach to stop midway")


def _put_best_back(run: Run, trainer: JobTrainer) -> None:
    found = checkpoints.best_adapter(trainer.folder)
    if found is None or trainer.end_reason == "stop":
        return
    path, manifest = found
    run.metrics["best_step"], run.metrics["best_eval_loss"] = (
        manifest["step"],
        manifest["eval_loss"],
    )
    if manifest["step"] == trainer.state.global_step:
        return
    checkpoints.load_best(trainer.model, path)
    run.say(
        f"took the adapter of step {manifest['step']} (eval loss {manifest['eval_loss']:.4f}); "
        f"the last step had {trainer.eval_loss or float('nan'):.4f}"
    )


def _padding_share(rows: Sequence[Row]) -> float:
    """Empty part of the rows if each is filled up to the longest one."""
    lengths = [sum(map(len, row)) for row in rows]
    return round(1 - sum(lengths) / (max(lengths) * len(lengths)), 4)


def _card(run: Run, trainer: JobTrainer) -> str:
    recipe = run.recipe
    name = recipe.name or run.session.job.id
    base = Path(recipe.model.path).name if Path(recipe.model.path).is_dir() else recipe.model.path
    return (
        f"---\nlibrary_name: peft\nbase_model: {base}\n---\n\n# {name}\n\n"
        f"LoRA adapter (rank {recipe.method.rank}, alpha {recipe.method.alpha}) made with finetui: "
        f"{trainer.state.global_step} steps on {len(trainer.data.examples)} rows, "
        f"learning rate {recipe.training.learning_rate:g}, seed {recipe.training.seed}. "
        f"Job {run.session.job.id} holds the whole recipe, the data hashes and the scores.\n"
    )


def _finished_sentence(run: Run, trainer: JobTrainer) -> str:
    before, after = run.metrics.get("before"), run.metrics.get("after")
    steps = f"{trainer.state.global_step} steps"
    if before and after:
        return (
            f"{steps}; held-out format {before['format']:.1%} -> {after['format']:.1%}, "
            f"right {before['accuracy']:.1%} -> {after['accuracy']:.1%}"
        )
    if "eval_loss" in run.metrics:
        return f"{steps}; held-out loss {run.metrics['eval_loss']:.4f}"
    return steps


def _stopped_sentence(run: Run, trainer: JobTrainer) -> str:
    who = "told to end by the system" if run.session.terminated else "stopped on request"
    step, steps = trainer.state.global_step, trainer.state.max_steps
    return f"{who} at step {step:,} of {steps:,}; the adapter is saved, not scored"


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
