"""Which settings of a run may change when it goes on from a checkpoint, and how long it then is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from finetui.errors import UserError
from finetui.recipe.curve import Curve
from finetui.recipe.field import FieldError
from finetui.recipe.schema import FIELDS, Recipe, field, get, with_value

# A checkpoint holds what these decided: other rows or weights are another run.
_FIXED_TABLES = ("model", "data", "method", "preference")
_FIXED = ("training.seed", "training.optimizer")
_FREE = ("model.precision", "model.attention", "model.tf32", "method.dropout")
# What changes how a run is written down, looked at or guarded, and no weight.
_HARMLESS_TABLES = ("", "checkpoints", "evaluation", "guards", "logging")


@dataclass(frozen=True)
class Reached:
    """Where a checkpoint is: updates made, the epoch and the rows handed out in it.

    ``rows`` is the length of an epoch (packed rows count as one) and ``rows_then`` what it was when
    the checkpoint was saved, ``total`` the updates that were planned then.
    """

    step: int
    epoch: int
    consumed: int
    rows: int
    total: int
    rows_then: int


def is_fixed(id: str) -> bool:
    """Whether a field must stay as it was when the checkpoint was saved."""
    table = id.rpartition(".")[0]
    return (table in _FIXED_TABLES or id in _FIXED) and id not in _FREE


def is_harmless(id: str) -> bool:
    """Whether a change of the field leaves every update as it would have been."""
    return id.rpartition(".")[0] in _HARMLESS_TABLES


def changed_on_resume(recipe: Recipe, changes: Mapping[str, str]) -> Recipe:
    """The recipe with changes that were typed, field by text. Raises UserError."""
    for name, text in changes.items():
        try:
            id = field(name).id
            if is_fixed(id):
                raise UserError(
                    "cannot change on resuming: the checkpoint was made with it.", id,
                    "Start a new run; model.adapter lets it go on from this one's adapter.",
                )  # fmt: skip
            recipe = with_value(recipe, id, text)
        except FieldError as error:
            raise UserError(error.what, name, error.fix) from error
    return recipe


def fields_changed(then: Recipe, now: Recipe) -> tuple[str, ...]:
    """The ids of the fields that differ."""
    return tuple(one.id for one in FIELDS if get(then, one.id) != get(now, one.id))


def update_rows(recipe: Recipe) -> int:
    """Rows of one update, over all processes."""
    training = recipe.training
    return training.batch_size * training.accumulation * training.processes


def length_changed(then: Recipe, now: Recipe, reached: Reached) -> bool:
    """Whether the run has another number of updates than when the checkpoint was saved."""
    if _planned(then) != _planned(now):
        return True
    other_rows = update_rows(then) != update_rows(now) or reached.rows != reached.rows_then
    return other_rows and not now.training.max_steps


def total_steps(then: Recipe, now: Recipe, reached: Reached) -> int:
    """Updates of the whole run as it goes on: those that were made, and those that are left.

    As planned where nothing about its length changed; else by ``max_steps``, or by what is left
    of the epochs.
    """
    if not length_changed(then, now, reached):
        return reached.total
    if now.training.max_steps:
        return now.training.max_steps
    rest = max(0, reached.rows - reached.consumed)
    per_epoch = updates_of(reached.rows, now)
    begun = reached.epoch + (1 if reached.consumed else 0)
    # The last epoch may be a part of one: its updates are counted as in a run from the start.
    whole = math.ceil(now.training.epochs * per_epoch)
    if begun * per_epoch <= whole:
        left = (updates_of(rest, now) if reached.consumed else 0) + whole - begun * per_epoch
    else:
        share = now.training.epochs - reached.epoch
        left = updates_of(math.ceil(share * reached.rows) - reached.consumed, now)
    return reached.step + max(0, left)


def curve_on_resume(curve: Curve, then: Recipe, now: Recipe, reached: Reached, total: int) -> Curve:
    """The learning rate from here on.

    With another number of epochs or steps that of a run which was planned so long: nothing could
    be stretched where the rate has come to its end. Where only updates became larger or smaller,
    what is left of the curve goes over the updates that are left, without a jump.
    """
    if _planned(then) != _planned(now):
        curve = Curve(total, total, curve.peak)
    elif length_changed(then, now, reached) and total > reached.step:
        curve = curve.ending(reached.step, total)
    if then.training.learning_rate != now.training.learning_rate:
        curve = curve.with_peak(now.training.learning_rate)
    return curve


def _planned(recipe: Recipe) -> tuple[float, int]:
    return recipe.training.epochs, recipe.training.max_steps


def updates_of(rows: int, recipe: Recipe) -> int:
    """Updates that so many rows make; the last one may be smaller."""
    if rows <= 0:
        return 0
    training = recipe.training
    batches = math.ceil(rows / (training.batch_size * training.processes))
    return math.ceil(batches / training.accumulation)
