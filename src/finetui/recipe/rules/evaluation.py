"""Rules on evaluation, checkpoints and logging: will the run show and keep what it should."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from finetui.display import duration
from finetui.recipe.field import quote, show_number
from finetui.recipe.rule import Advice, Case, advice, error, rule, warning
from finetui.recipe.sources import GUIDES, HOUSE, TRAINER

_LONG_RUN = 1_000  # steps
_DAY = 86_400  # seconds
# Any of its packages makes a tracker work.
_TRACKERS = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
    "mlflow": ("mlflow",),
}


def evaluates(case: Case) -> bool:
    """Whether the held-out loss is measured while training."""
    return bool(case.recipe.evaluation.every and case.recipe.data.eval)


@rule("early-stopping-blind")
def early_stopping_blind(case: Case) -> Iterator[Advice]:
    if case.recipe.evaluation.early_stopping and not evaluates(case):
        lacks = "held-out data" if not case.recipe.data.eval else "evaluation while training"
        yield error(
            "evaluation.early_stopping",
            f"Early stopping needs {lacks}.",
            "It stops when the held-out loss no longer improves, so that must be measured.",
            "transformers docs, EarlyStoppingCallback",
        )


@rule("keep-best-blind")
def keep_best_blind(case: Case) -> Iterator[Advice]:
    if case.recipe.evaluation.keep_best and case.recipe.data.train and not evaluates(case):
        yield advice(
            "evaluation.keep_best",
            "Without evaluation on the way there is no best: the last adapter is kept.",
            "The best is the one with the lowest held-out loss.",
            TRAINER,
        )


@rule("evaluation-only-at-end")
def evaluation_only_at_end(case: Case) -> Iterator[Advice]:
    every, steps = case.recipe.evaluation.every, case.plan.steps
    if every == 0 and case.recipe.data.eval:
        yield advice(
            "evaluation.every",
            "The held-out loss is not measured while training.",
            "Overfitting shows as a held-out loss that rises again.",
            GUIDES,
        )
    elif evaluates(case) and steps and every > steps:
        yield warning(
            "evaluation.every",
            f"The run has {steps} steps: it is evaluated only at its end.",
            f"Try every {max(1, steps // 5)} steps, five times a run.",
            HOUSE,
        )


@rule("evaluation-costly")
def evaluation_costly(case: Case) -> Iterator[Advice]:
    times, held, plan = case.plan.evaluations, case.facts.eval_rows, case.plan
    if not (times and held and plan.rows_per_epoch and plan.epochs):
        return
    # A row evaluated costs about a third of a row trained: no backward pass.
    cost = times * held / 3
    if cost > plan.rows_per_epoch * plan.epochs:
        yield advice(
            "evaluation.every",
            f"{times} evaluations of {held:,} rows take longer than the training.",
            "Evaluate less often, or hold out fewer rows.",
            HOUSE,
        )


@rule("patience-too-long")
def patience_too_long(case: Case) -> Iterator[Advice]:
    patience, times = case.recipe.evaluation.early_stopping, case.plan.evaluations
    if patience and times is not None and patience >= times > 0:
        yield advice(
            "evaluation.early_stopping",
            f"A patience of {patience} cannot run out in {times} evaluations.",
            "Evaluate more often, or lower it.",
            HOUSE,
        )


@rule("no-scores")
def no_scores(case: Case) -> Iterator[Advice]:
    wanted, held = case.recipe.evaluation.generate, case.facts.eval_rows
    if case.objective == "pretrain":
        return
    if wanted == 0 and case.recipe.data.eval:
        yield advice(
            "evaluation.generate",
            "Nothing is generated: no scores before and after.",
            "Loss alone does not show whether answers are right and well formed.",
            HOUSE,
        )
    elif 0 < wanted < 30 and (held is None or held > wanted):
        yield advice(
            "evaluation.generate",
            f"{wanted} answers give a rough score.",
            f"It is uncertain by up to {98 / wanted**0.5:.0f} points either way.",
            "binomial interval",
        )


@rule("save-and-evaluate")
def save_and_evaluate(case: Case) -> Iterator[Advice]:
    saves, looks = case.recipe.checkpoints.every, case.recipe.evaluation.every
    if saves and evaluates(case) and case.recipe.evaluation.keep_best and saves % looks:
        yield advice(
            "checkpoints.every",
            f"Saving every {saves} does not fall on evaluations (every {looks}).",
            "A run that is resumed then starts from a step whose held-out loss is unknown; take "
            f"a multiple of {looks}.",
            TRAINER,
        )


@rule("checkpoints")
def checkpoints(case: Case) -> Iterator[Advice]:
    saves, steps = case.recipe.checkpoints.every, case.plan.steps
    if steps is None:
        return
    if (saves == 0 or saves > steps) and steps >= _LONG_RUN:
        yield warning(
            "checkpoints.every",
            f"{steps:,} steps without a checkpoint: a reboot loses them all.",
            f"Saving every {max(1, steps // 10):,} steps costs little for an adapter.",
            HOUSE,
        )


@rule("logging-sparse")
def logging_sparse(case: Case) -> Iterator[Advice]:
    every, steps = case.recipe.logging.every, case.plan.steps
    if steps and every > 1 and every > steps / 10:
        yield advice(
            "logging.every",
            f"The loss curve will have {steps // every} points.",
            "Too few to see a spike or a plateau.",
            HOUSE,
        )


@rule("best-is-not-saved")
def best_is_not_saved(case: Case) -> Iterator[Advice]:
    evaluation, epochs = case.recipe.evaluation, case.plan.epochs
    if evaluates(case) and not evaluation.keep_best and epochs is not None and epochs > 3:
        yield advice(
            "evaluation.keep_best",
            f"After {show_number(round(epochs, 1))} passes the last adapter is kept, not the best.",
            "An overfitted end is then what you get.",
            TRAINER,
        )


@rule("guards-off")
def guards_off(case: Case) -> Iterator[Advice]:
    guards = case.recipe.guards
    watched = (guards.spike, guards.divergence, guards.overfitting, guards.plateau)
    if all(choice == "off" for choice in watched):
        yield warning(
            "guards.divergence",
            "Nothing is watched for: no spike, no divergence, no overfitting, no plateau.",
            "A warning costs nothing and stops nothing.",
            HOUSE,
        )


@rule("spike-size")
def spike_size(case: Case) -> Iterator[Advice]:
    guards = case.recipe.guards
    if guards.spike == "off" or 5 <= guards.spike_size <= 15:
        return
    low = guards.spike_size < 5
    acts = low and guards.spike in ("skip", "lower", "stop")
    yield (warning if acts else advice)(
        "guards.spike_size",
        f"A spike size of {show_number(guards.spike_size)} is "
        + ("low: ordinary noise will count." if low else "high: real spikes will pass."),
        "5 to 15 is usual, in robust standard deviations.",
        HOUSE,
    )


@rule("report-to")
def report_to(case: Case) -> Iterator[Advice]:
    """Trackers: known, installed, and whether they send figures away."""
    for name in case.recipe.logging.report_to:
        if name not in _TRACKERS:
            near = difflib.get_close_matches(name.lower(), _TRACKERS, 1)
            yield error(
                "logging.report_to",
                f"{quote(name)} is no tracker." + (f" Did you mean {near[0]}?" if near else ""),
                f"There are {', '.join(_TRACKERS)}.",
                TRAINER,
            )
        elif all(case.lacks(package) for package in _TRACKERS[name]):
            yield error(
                "logging.report_to",
                f"{name} is not installed here.",
                f"pip install {_TRACKERS[name][0]}, or take it out of the list.",
                TRAINER,
            )
        elif name != "tensorboard":
            yield warning(
                "logging.report_to",
                f"{name} may send figures, settings and file names to a server.",
                "finetui itself sends nothing. Look at its own settings first.",
                HOUSE,
            )


@rule("long-run")
def long_run(case: Case) -> Iterator[Advice]:
    seconds = case.plan.seconds_low
    if seconds is not None and seconds > 2 * _DAY and not case.recipe.checkpoints.every:
        yield warning(
            "checkpoints.every",
            f"The run takes ≈ {duration(seconds)} and more, and saves nothing on the way.",
            "Save a few times a day at least: a reboot loses all since the last one.",
            HOUSE,
        )
