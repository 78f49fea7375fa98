"""Which settings may change on resuming, and how long a run is that goes on."""

from __future__ import annotations

import pytest

from finetui.errors import UserError
from finetui.recipe.curve import Curve
from finetui.recipe.forecast import learning_rate_at
from finetui.recipe.resumption import (
    Reached,
    changed_on_resume,
    fields_changed,
    is_fixed,
    is_harmless,
    length_changed,
    total_steps,
)
from finetui.recipe.schema import FIELDS, Recipe, defaults, replace


def recipe(**training: object) -> Recipe:
    made = defaults()
    for name, value in training.items():
        made = replace(made, f"training.{name}", value)
    return made


def total(then: Recipe, now: Recipe, step: int, rows: int, planned: int) -> int:
    """The length of a run that is at ``step`` of a plain run over ``rows``."""
    size = then.training.batch_size * then.training.accumulation * then.training.processes
    per_epoch = -(-rows // size)
    epoch, done = divmod(step, per_epoch)
    return total_steps(then, now, Reached(step, epoch, done * size, rows, planned, rows))


def test_every_field_is_either_fixed_free_or_harmless() -> None:
    fixed = {one.id for one in FIELDS if is_fixed(one.id)}
    assert {"model.path", "method.rank", "data.train", "training.seed"} <= fixed
    free = {one.id for one in FIELDS} - fixed
    assert {"training.learning_rate", "training.batch_size", "training.epochs",
            "training.processes", "model.precision", "method.dropout"} <= free  # fmt: skip
    harmless = {id for id in free if is_harmless(id)}
    assert {"checkpoints.keep", "evaluation.every", "guards.spike", "notes"} <= harmless
    assert not any(id.startswith("training.") for id in harmless)


def test_a_short_name_is_one_field_and_a_fixed_one_is_refused() -> None:
    made = changed_on_resume(defaults(), {"epochs": "5", "checkpoints.keep": "4"})
    assert fields_changed(defaults(), made) == ("training.epochs", "checkpoints.keep")
    with pytest.raises(UserError, match="method.rank"):
        changed_on_resume(defaults(), {"rank": "2"})


@pytest.mark.parametrize("step", [0, 1, 24, 25, 26, 60, 74, 75])
def test_an_unchanged_run_keeps_its_length_whatever_was_set_meanwhile(step: int) -> None:
    made = recipe(batch_size=4, epochs=3.0)
    assert total(made, made, step, 100, 75) == 75
    assert total(made, made, step, 100, 90) == 90, "its end was moved while it ran"


@pytest.mark.parametrize("step", [0, 1, 24, 25, 26, 60, 74])
@pytest.mark.parametrize("epochs", [3.5, 4.0, 6.0])
def test_more_epochs_end_where_a_run_of_so_many_would_end(step: int, epochs: float) -> None:
    then, now = recipe(batch_size=4, epochs=3.0), recipe(batch_size=4, epochs=epochs)
    assert total(then, now, step, 99, 75) == -(-25 * epochs // 1)


def test_another_batch_goes_through_the_rows_that_are_left() -> None:
    then, now = recipe(batch_size=4, epochs=2.0), recipe(batch_size=5, accumulation=2, epochs=2.0)
    # 10 updates made; 60 rows of the first epoch and 100 of the second are left, in tens.
    assert total(then, now, 10, 100, 50) == 10 + 6 + 10
    assert total(then, recipe(batch_size=4, epochs=2.0, processes=2), 10, 100, 50) == 10 + 8 + 13
    assert total(then, recipe(batch_size=8, max_steps=70), 10, 100, 50) == 70
    fewer = recipe(batch_size=4, epochs=1.0)
    assert total(then, fewer, 40, 100, 50) == 40, "nothing is left of one epoch"


def test_as_many_rows_an_update_is_the_same_length() -> None:
    then, now = recipe(batch_size=8), recipe(batch_size=2, accumulation=2, processes=2)
    assert not length_changed(then, now, Reached(1, 0, 8, 100, 39, 100))
    assert length_changed(then, now, Reached(1, 0, 8, 90, 39, 100))


def test_the_points_of_a_curve_are_the_rates_of_its_steps() -> None:
    made = recipe(warmup=0.1)
    curve = Curve.of(made, 100)
    points = curve.points(made, 40)
    assert points[0] == (41, pytest.approx(learning_rate_at(made, 40, 100)))
    assert points[-1][0] == 100 and len(points) == 60
    assert len(curve.ending(40, 5000).points(made, 40)) == 200
    assert curve.ending(40, 5000).points(made, 40)[-1][0] == 5000
    assert curve.points(made, 100) == ()
