"""The order of the rows, the learning rate over the run, and both changed midway."""

from __future__ import annotations

from array import array
from itertools import pairwise
from random import Random

import pytest
import torch

from finetui.engine.batches import Example, Row
from finetui.engine.order import Order, TrainingRows
from finetui.engine.schedule import Schedule
from finetui.recipe.forecast import learning_rate_at
from finetui.recipe.schema import Recipe, defaults, replace


def rows(count: int, packed: int = 1) -> list[Row]:
    lengths = Random(1)
    items = [
        Example(array("i", [1] * lengths.randrange(3, 60)), array("i"), 0, line)
        for line in range(1, count * packed + 1)
    ]
    return [tuple(items[i : i + packed]) for i in range(0, len(items), packed)]


def test_every_row_comes_once_an_epoch_and_the_seed_decides_when():
    made = TrainingRows(rows(50))
    order = Order(made, "random", 4, seed=3)
    first = list(order)
    assert sorted(first) == list(range(50)) and first == list(order)
    order.epoch = 1
    assert sorted(order) == list(range(50)) and list(order) != first
    assert list(Order(made, "random", 4, seed=4)) != first
    assert list(Order(made, "file", 4, seed=3)) == list(range(50))


def test_rows_of_like_length_share_an_update_and_the_longest_come_first():
    made = TrainingRows(rows(403))
    order = list(Order(made, "length", 8, seed=0))
    assert sorted(order) == list(range(403))
    updates = [[made.length(i) for i in order[at : at + 8]] for at in range(0, 400, 8)]
    assert max(updates[0]) == max(map(made.length, range(403)))
    wasted = sum(max(update) * 8 - sum(update) for update in updates)
    drawn = Random(0).sample(range(400), 400)
    plain = [[made.length(i) for i in drawn[at : at + 8]] for at in range(0, 400, 8)]
    assert wasted < 0.2 * sum(max(update) * 8 - sum(update) for update in plain)
    assert [max(update) for update in updates[1:]] != sorted(
        (max(update) for update in updates[1:]), reverse=True
    ), "the updates themselves come in random order"


def test_a_row_taken_out_is_replaced_at_once_and_the_epoch_keeps_its_length():
    made = TrainingRows(rows(10))
    order = iter(Order(made, "random", 2, seed=0))
    seen = [next(order) for _ in range(4)]
    out = next(index for index in range(10) if index not in seen)
    assert made.exclude([[0, out + 1], [0, 999], [5, 1]]) == [[0, out + 1]]
    rest = list(order)
    assert out not in rest and len(seen) + len(rest) == 10
    assert made.exclude([[0, out + 1]]) == [], "it is out already"


def test_an_example_is_taken_out_of_a_packed_row():
    made = TrainingRows(rows(3, packed=3))
    made.exclude([[0, 2]])
    assert [item.line for item in made[0]] == [1, 3] and made.usable(0)
    made.exclude([[0, 1], [0, 3]])
    assert not made.usable(0) and 0 not in list(Order(made, "random", 1, 0))


def test_the_last_row_cannot_be_taken_out():
    made = TrainingRows(rows(2))
    assert made.exclude([[0, 1], [0, 2]]) == []
    assert made.exclude([[0, 1]]) == [[0, 1]] and list(Order(made, "file", 1, 0)) == [1, 1]


def scheduled(recipe: Recipe, total: int, ratio: float = 1.0) -> Schedule:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    rate = recipe.training.learning_rate
    optimizer = torch.optim.SGD(
        [{"params": [weights[0]], "lr": rate}, {"params": [weights[1]], "lr": rate * ratio}],
        lr=rate,
    )
    return Schedule(optimizer, recipe, total)


def rates(schedule: Schedule, steps: int) -> list[float]:
    """The rate of each of the next updates."""
    found = []
    for _ in range(steps):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_the_rate_is_the_one_that_the_forecast_draws(kind):
    recipe = replace(replace(defaults(), "training.schedule", kind), "training.warmup", 0.1)
    schedule = scheduled(recipe, 40)
    expected = [learning_rate_at(recipe, step, 40) for step in range(40)]
    assert rates(schedule, 40) == pytest.approx(expected)


def test_a_new_peak_scales_the_curve_and_keeps_the_ratio_of_the_groups():
    schedule = scheduled(defaults(), 40, ratio=8.0)
    rates(schedule, 20)
    before = [group["lr"] for group in schedule.optimizer.param_groups]
    schedule.set_peak(schedule.peak / 2)
    after = [group["lr"] for group in schedule.optimizer.param_groups]
    assert after == pytest.approx([rate / 2 for rate in before])
    assert after[1] == pytest.approx(8 * after[0])
    assert schedule.peak == defaults().training.learning_rate / 2


@pytest.mark.parametrize("end", [30, 80])
def test_a_moved_end_is_reached_without_a_jump(end):
    schedule = scheduled(defaults(), 40)
    before = rates(schedule, 20)
    schedule.end_at(end)
    after = rates(schedule, end - 20)
    whole = before + after
    steepest = max(abs(a - b) for a, b in pairwise(before[2:]))
    assert abs(after[0] - before[-1]) <= steepest
    assert all(a >= b for a, b in pairwise(whole[5:]))
    assert after[-1] < 0.03 * max(whole), "it settles at the new end"


def test_a_changed_schedule_goes_on_from_a_checkpoint():
    schedule = scheduled(defaults(), 40)
    rates(schedule, 10)
    schedule.set_peak(1e-3)
    schedule.end_at(60)
    state = schedule.state_dict()
    expected = rates(schedule, 30)
    again = scheduled(defaults(), 40)
    again.load_state_dict(state)
    again.apply()
    assert rates(again, 30) == pytest.approx(expected)
