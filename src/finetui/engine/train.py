"""A whole training job: load, score, train, score again, leave the adapter or the model."""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch

from finetui.data.tokens import ChatTokenizer
from finetui.display import plural
from finetui.engine import sharding
from finetui.engine.adapters import is_adapter, make_trainable, reference
from finetui.engine.attention import StopRequested, attend
from finetui.engine.batches import Row
from finetui.engine.cards import card
from finetui.engine.checkpoints import load_best, save_result
from finetui.engine.dataset import TOO_LONG, Encoding, Prompt, mixed, prompts, shared_prompts
from finetui.engine.evaluator import HeldOut, Samples
from finetui.engine.generate import Settings
from finetui.engine.machine import Machine, choose_machine
from finetui.engine.model import load_model, load_tokenizer
from finetui.engine.objectives import Objective, objective_of, sft_objective
from finetui.engine.ranks import ALONE, Ranks, join, leave
from finetui.engine.restoring import Point, find
from finetui.engine.scoring import score_set
from finetui.engine.sharding import put_together, require_shardable, shard
from finetui.engine.silent import introduce
from finetui.engine.sizes import weights_bytes
from finetui.engine.steering import GuardError
from finetui.engine.trainer import JobTrainer, peak_bytes
from finetui.engine.varlen import flattens
from finetui.errors import UserError
from finetui.jobs.calibration import keep
from finetui.jobs.checkpoints import best_result, valid_checkpoints
from finetui.jobs.worker import UnsavedError, WorkerSession
from finetui.recipe.schema import Recipe
from finetui.workspace import Workspace, write_atomic

HELD_OUT, SUITE = "held-out", "suite"
_FILES = {HELD_OUT: "outputs", SUITE: "suite"}
# Objectives whose rows are single examples, so that general ones can be mixed in.
_MIXED = ("sft", "pretrain")
# Between the seeds of two ranks.
_APART = 1_000_003


@dataclass
class Run:
    """What the stages of one training job share."""

    session: WorkerSession
    recipe: Recipe
    machine: Machine
    tokenizer: ChatTokenizer
    workspace: Workspace | None = None
    point: Point | None = None
    ranks: Ranks = ALONE
    sets: dict[str, list[Prompt]] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def resumes(self) -> bool:
        """Whether the run goes on from a checkpoint."""
        return self.point is not None and self.point.checkpoint is not None

    def stage(self, text: str) -> None:
        self.session.events.write("stage", text=text)
        attend(self.session)

    def warn(self, text: str) -> None:
        self.session.events.write("warning", text=text)

    def say(self, text: str) -> None:
        self.session.events.write("message", text=text)

    def progress(self, done: int, total: int, text: str = "reading rows") -> None:
        self.session.events.write("progress", done=done, total=total, text=text)
        attend(self.session)


@dataclass
class Material:
    """Everything that is read before training. ``general`` are rows of everyday use, encoded as
    plain answers; they are mixed into ``data`` already where the objective allows it."""

    data: Encoding
    held_out: Encoding | None = None
    general: Encoding | None = None
    probe: Encoding | None = None


def train(session: WorkerSession, recipe: Recipe, workspace: Workspace | None = None) -> None:
    """Run a training job to its outcome; attempts after the first go on from a checkpoint.

    Raises what stops it; StopRequested before training.
    """
    began = time.perf_counter()
    ranks = join(recipe.training.processes, recipe.training.sharding == "fsdp")
    point = ranks.first_then_all(partial(find, session))
    session.events.write("stage", text="loading the model")
    machine = choose_machine(recipe.model.precision, recipe.training.threads, ranks)
    if ranks.several:
        introduce(session.job, session.attempt, machine.gpu)
    tokenizer = load_tokenizer(recipe.model, _scratch(session, ranks))
    run = Run(session, recipe, machine, tokenizer, workspace, point, ranks)
    material = read_data(run)
    require_shardable(recipe, machine, ranks)
    # What is shared out need not fit one GPU: it comes from the host, layer by layer.
    place = replace(machine, device=torch.device("cpu")) if ranks.sharded else machine
    model = load_model(recipe.model, place, recipe.method, packed=recipe.data.packing)
    if ranks.first:
        for name in (HELD_OUT, SUITE):
            (session.job.path / f"{_FILES[name]}-after.jsonl").unlink(missing_ok=True)
    model = put_training_on(run, model)
    if ranks.sharded:
        shard(model, machine, ranks)
        _leave_answers_out(run)
    if run.resumes:
        _carry_on(run)
    else:
        ranks.first_does(partial(_score_start, run, model))
    trainer = build_trainer(run, model, material)
    fit(run, trainer)
    if ranks.sharded:
        put_together(trainer.model, keep=ranks.first)
    if ranks.first:
        conclude(run, trainer, began)
    leave(session.job)


def _scratch(session: WorkerSession, ranks: Ranks) -> Path:
    """Where a converted tokenizer goes: for each rank a folder of its own."""
    name = "tokenizer" if ranks.first else f"ranks/tokenizer-r{ranks.rank}"
    return session.job.path / name


def _leave_answers_out(run: Run) -> None:
    """Nobody answers with a share of a model: its loss is measured, its answers are not."""
    if run.sets or run.recipe.evaluation.samples:
        run.sets.clear()
        run.warn("answers are not written while the model is shared out: finetui evaluate does it")


def _score_start(run: Run, model: Any) -> None:
    with _as_it_starts(model):
        score_all(run, model, "before", 0)


def _carry_on(run: Run) -> None:
    """Take over what was measured before training, so that it is not measured again."""
    assert run.point is not None
    run.metrics |= run.point.state["metrics"] | {"resumed_from": run.point.step}


def read_data(run: Run) -> Material:
    """Training, held-out and general examples; fills ``run.sets``."""
    recipe = run.recipe
    settings, seed = recipe.data, recipe.training.seed
    run.stage("reading the data")
    general = None
    if settings.general and (settings.general_share > 0 or recipe.training.kl_weight > 0):
        general = _encoded(run, sft_objective(recipe, run.tokenizer), [settings.general])
    objective = objective_of(recipe, run.tokenizer, general.examples if general else ())
    data = _encoded(run, objective, settings.train)
    _tell_left_out(run, data, "training")
    if general is not None and settings.general_share > 0:
        data = _mixed(run, data, general, seed)
    material = Material(data, general=general)
    if settings.eval:
        material.held_out = _encoded(run, objective, [settings.eval])
        _tell_left_out(run, material.held_out, "held-out")
        material.probe = _probe(run, general)
    _choose_prompts(run, material.data)
    return material


def put_training_on(run: Run, model: Any) -> Any:
    """The model with what is trained on it, from the recipe's seed."""
    from transformers import set_seed

    run.stage("putting the adapter on" if run.recipe.method.kind != "full" else "freeing weights")
    set_seed(run.recipe.training.seed)
    model = make_trainable(model, run.recipe, run.machine)
    if not run.ranks.first:
        # The same start, but not the same dropout.
        set_seed((run.recipe.training.seed + _APART * run.ranks.rank) % 2**32)
    return model


def build_trainer(run: Run, model: Any, material: Material) -> JobTrainer:
    """A trainer over the objective's rows; says what is in the data."""
    recipe, data = run.recipe, material.data
    general = material.general.examples if material.general else ()
    objective = objective_of(recipe, run.tokenizer, general, flat=flattens(model))
    if objective.needs_reference:
        run.stage("measuring the answers before training")
    for encoding in filter(None, (data, material.held_out)):
        objective.prepare(model, encoding, run.machine, partial(run.progress, text="answers"))
    rows = objective.rows(data.examples)
    _tell_data(run, material, rows)
    plain = sft_objective(recipe, run.tokenizer)
    return JobTrainer(
        model=model,
        recipe=recipe,
        machine=run.machine,
        session=run.session,
        data=data,
        rows=rows,
        objective=objective,
        held_out=_held_out(run, material.held_out, objective),
        probe=_held_out(run, material.probe, plain),
        samples=_samples(run),
        point=run.point,
        metrics=run.metrics,
        ranks=run.ranks,
    )


def fit(run: Run, trainer: JobTrainer) -> None:
    """Train, with the held-out loss before and after."""
    if trainer.held_out is not None and not run.resumes:
        run.stage("held-out loss before training")
        run.metrics["eval_loss_before"] = trainer.evaluate()["eval_loss"]
    run.stage("training")
    # accelerate collects garbage before the first step: without looking at all that was loaded
    # for good it takes a tenth of the time, and every later collection as well.
    gc.freeze()
    trained = trainer.train()
    gc.unfreeze()
    if trainer.row_file is not None:
        trainer.row_file.close()
    totals = trainer.totals
    run.metrics |= {
        "steps": trainer.state.global_step,
        "train_loss": totals.loss / totals.updates if totals.updates else None,
        "train_seconds": round(trainer.spent + trained.metrics["train_runtime"], 1),
        **cost(run.machine, trainer),
    }
    if trainer.eval_loss is not None:
        run.metrics["eval_loss"] = trainer.eval_loss


def cost(machine: Machine, trainer: JobTrainer) -> dict[str, Any]:
    """What a forecast is held against: peak memory (bytes) and the pace of the steps (seconds)."""
    totals = trainer.totals
    found: dict[str, Any] = {"peak_bytes": peak_bytes(machine), "tokens": totals.tokens}
    if totals.step_s:
        found["step_s"] = round(median(totals.step_s), 6)
    if totals.seconds:
        found["tokens_per_s"] = round(totals.tokens / totals.seconds, 3)
    if machine.on_gpu:
        found["peak_reserved_bytes"] = torch.cuda.max_memory_reserved(machine.device)
    return found


def conclude(run: Run, trainer: JobTrainer, began: float) -> None:
    """Save, score and write the outcome, each as the end of the training allows.

    Raises GuardError when a guard ended it as a fault; what was learned before is saved.
    """
    ending = trainer.ending
    if ending is not None and ending.kind == "early":
        run.say(ending.text)
    if ending is None or ending.kind != "stop":
        _put_best_back(run, trainer)
    if ending is not None and ending.kind == "fault":
        raise GuardError(ending, _salvage(run, trainer))
    try:
        result = save(run, trainer)
    except UnsavedError as error:
        _end(run, "stopped", _unsaved_sentence(run, trainer, error))
        return
    try:
        if ending is not None and ending.kind == "stop":
            raise StopRequested
        score_all(run, trainer.model, "after", trainer.state.global_step)
        _write_card(run, result)
    except StopRequested:
        _end(run, "stopped", _stopped_sentence(run, trainer))
        return
    run.metrics["seconds"] = round(trainer.spent + time.perf_counter() - began, 1)
    run.metrics["cpu_seconds"] = round(_cpu_seconds(), 1)
    sentence = _finished_sentence(run, trainer)
    if ending is None or ending.kind == "early":
        _end(run, "finished", sentence)
    else:
        guard = ending.sight.guard if ending.sight else ""
        _end(run, "stopped", f"{ending.text}; {sentence}", guard)


def save(run: Run, trainer: JobTrainer) -> Path:
    """Publish the result folder, paused while the disk is full. Raises UnsavedError."""
    run.session.require_newest()
    job, model, ending = run.session.job, trainer.model, trainer.ending
    adapter = is_adapter(model)
    path = run.session.until_saved(
        "the adapter" if adapter else "the model",
        job.path,
        weights_bytes(model, None if adapter else run.machine.dtype),
        lambda: save_result(model, job, card(job, run.metrics), run.tokenizer, run.machine),
        hold=trainer.steering.wait_for,
        patient=ending is None or ending.kind != "stop",
    )
    run.say(f"{path.name} saved: {path}")
    return path


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


def _encoded(run: Run, objective: Objective, paths: Sequence[str]) -> Encoding:
    found = objective.encode(paths, run.workspace, run.progress)
    for sentence in found.edits:
        run.say(sentence)
    return found


def _mixed(run: Run, data: Encoding, general: Encoding, seed: int) -> Encoding:
    objective, share = run.recipe.method.objective, run.recipe.data.general_share
    if objective not in _MIXED:
        run.warn(f"general rows are not mixed in: {objective} learns from pairs or labels only")
        return data
    asked = int(len(data.examples) * share)
    if asked > len(general.examples):
        run.say(f"the general file holds {len(general.examples)} of the {asked} rows asked for")
    return mixed(data, general, share, seed)


def _probe(run: Run, general: Encoding | None) -> Encoding | None:
    """The rows of the general probe: of the general check, else of the general data."""
    settings = run.recipe.evaluation
    path = settings.suite or run.recipe.data.general
    if not settings.probe or not path:
        return None
    if general is None or settings.suite:
        try:
            general = _encoded(run, sft_objective(run.recipe, run.tokenizer), [path])
        except UserError as error:
            run.warn(f"no general probe: {error}")
            return None
    count = min(settings.probe, len(general.examples))
    return replace(
        general, examples=Random(run.recipe.training.seed).sample(general.examples, count)
    )


def _held_out(run: Run, encoding: Encoding | None, objective: Objective) -> HeldOut | None:
    size = run.recipe.training.batch_size
    return HeldOut(encoding, objective, size) if encoding is not None else None


def _samples(run: Run) -> Samples | None:
    settings, path = run.recipe.evaluation, run.recipe.data.eval
    if not settings.samples or not path or run.ranks.sharded:
        return None
    rows = run.sets.get(HELD_OUT) or prompts(
        path, settings.samples, run.recipe.training.seed, run.workspace
    )
    chosen = rows[: settings.samples]
    answer = Settings(max_new_tokens=settings.max_new_tokens)
    return Samples(chosen, run.tokenizer, answer) if chosen else None


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
        first = data.first_left_out[reason]
        run.warn(f"{plural(count, f'{name} row')} left out, {reason}; the first is {first}")
    if data.truncated:
        run.warn(
            f"{plural(data.truncated, f'{name} row')} cut at max_length: a cut answer stops midway"
        )
    if data.split:
        run.say(f"{plural(data.split, f'{name} row')} longer than max_length, trained in pieces")
    if data.joined:
        run.warn(
            f"{plural(data.joined, f'{name} row')} where the answer's first letters share a token "
            "with the prompt: it is trained in other tokens than the model will write"
        )


def _tell_data(run: Run, material: Material, rows: Sequence[Row]) -> None:
    data, held_out = material.data, material.held_out
    run.session.events.write(
        "data",
        files=data.files,
        rows=len(data.examples),
        dropped_long=data.left_out[TOO_LONG],
        left_out=dict(data.left_out),
        truncated=data.truncated,
        split=data.split,
        joined=data.joined,
        tokens=data.tokens,
        trained_tokens=data.trained_tokens,
        packed_rows=len(rows) if run.recipe.data.packing else 0,
        padding_share=_padding_share(rows),
        held_out=len(held_out.examples) if held_out else 0,
        probe=len(material.probe.examples) if material.probe else 0,
    )


def _as_it_starts(model: Any) -> AbstractContextManager[None]:
    """Inside, the model is what training begins from, without the cost of an idle adapter."""
    return reference(model) if is_adapter(model) else nullcontext()


def _put_best_back(run: Run, trainer: JobTrainer) -> None:
    found = best_result(trainer.folder)
    if found is None or not run.recipe.evaluation.keep_best or trainer.held_out is None:
        return
    path, manifest = found
    run.metrics["best_step"], run.metrics["best_eval_loss"] = (
        manifest["step"],
        manifest["eval_loss"],
    )
    if manifest["step"] == trainer.state.global_step:
        return
    (sharding.fill if run.ranks.sharded else load_best)(trainer.model, path)
    last = trainer.eval_loss if trainer.evaluated_at == trainer.state.global_step else None
    run.say(
        f"took the weights of step {manifest['step']} (eval loss {manifest['eval_loss']:.4f})"
        + (f"; the last step had {last:.4f}" if last is not None else "")
    )


def _salvage(run: Run, trainer: JobTrainer) -> str:
    """Save what was learned before a fault, where there is anything sound; says what."""
    trained = [one for one in trainer.model.parameters() if one.requires_grad]
    sound = all(bool(torch.isfinite(one).all()) for one in trained)
    if not trainer.totals.updates or not sound:
        return ""
    try:
        saved = save(run, trainer)
    except UnsavedError as error:
        return str(error)
    best = run.metrics.get("best_step")
    step = f"step {best}" if best else f"the {trainer.totals.updates} updates before"
    return f"{saved.name}/ has the weights of {step}"


def _padding_share(rows: Sequence[Row]) -> float:
    """Empty part of the rows if each is filled up to the longest one."""
    lengths = [sum(map(len, row)) for row in rows]
    return round(1 - sum(lengths) / (max(lengths) * len(lengths)), 4)


def _end(run: Run, status: str, sentence: str, guard: str = "") -> None:
    more = {"reason": guard} if guard else {}
    run.session.outcome(status, metrics=run.metrics, sentence=sentence, **more)
    if not run.ranks.several:  # its pace tells nothing of one process, which forecasts go by
        keep(run.session.job)


def _finished_sentence(run: Run, trainer: JobTrainer) -> str:
    before, after = run.metrics.get("before"), run.metrics.get("after")
    steps = f"{trainer.state.global_step} steps"
    if before and after:
        return (
            f"{steps}; held-out format {before['format']:.1%} -> {after['format']:.1%}, "
            f"right {before['accuracy']:.1%} -> {after['accuracy']:.1%}"
        )
    metrics = run.metrics
    if "best_step" in metrics:
        best = f"{metrics['best_eval_loss']:.4f} at step {metrics['best_step']:,}"
        return f"{steps}; held-out loss {best}"
    if "eval_loss" in metrics:
        return f"{steps}; held-out loss {metrics['eval_loss']:.4f}"
    return steps


def _stopped_sentence(run: Run, trainer: JobTrainer) -> str:
    who = "told to end by the system" if run.session.terminated else "stopped on request"
    step, steps = trainer.state.global_step, trainer.state.max_steps
    what = "adapter" if is_adapter(trainer.model) else "model"
    return f"{who} at step {step:,} of {steps:,}; the {what} is saved, not scored"


def _unsaved_sentence(run: Run, trainer: JobTrainer, error: UnsavedError) -> str:
    """How a run ended that was told to stop while its result found no room."""
    who = "told to end by the system" if run.session.terminated else "stopped on request"
    step, steps = trainer.state.global_step, trainer.state.max_steps
    kept = valid_checkpoints(trainer.folder)
    left = (
        f"the newest checkpoint is of step {kept[-1][0]:,}: make room and resume it"
        if kept
        else "there is no checkpoint either"
    )
    return f"{who} at step {step:,} of {steps:,}; {error}; {left}"


def _write_card(run: Run, result: Path) -> None:
    text = card(run.session.job, run.metrics)
    run.session.until_saved(
        "the card", result, len(text), lambda: write_atomic(result / "README.md", text)
    )


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
