"""The guards see what they promise to see, once, and keep quiet about the noise of a good run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from random import Random

import pytest

from finetui.engine.guards import (
    PATIENCE,
    Divergence,
    Guards,
    NonFinite,
    Overfitting,
    Plateau,
    Sight,
    Spike,
    Zero,
    divergence_over,
)
from finetui.recipe.schema import defaults, replace

NAN = math.nan


def fed(
    judge: Callable[[int, float], Sight | None], losses: Iterable[float], first: int = 1
) -> list[tuple[int, Sight]]:
    """(step, what was seen) over a run of losses."""
    found = [(step, judge(step, loss)) for step, loss in enumerate(losses, first)]
    return [(step, sight) for step, sight in found if sight is not None]


def noisy(steps: int, start: float = 2.0, end: float = 0.5, noise: float = 0.1) -> list[float]:
    """A run that learns: an exponential fall with noise that shrinks with the loss."""
    random = Random(7)
    rate = math.log(start / end) / steps
    levels = (start * math.exp(-rate * step) for step in range(steps))
    return [level * (1 + random.gauss(0, noise)) for level in levels]


@pytest.mark.parametrize(
    ("loss", "norm", "what"), [(NAN, 1.0, "the loss"), (1.0, math.inf, "the gradient")]
)
def test_a_number_that_is_none_stops_the_run_at_once(loss, norm, what):
    sight = NonFinite("stop").judge(3, loss, norm)
    assert sight is not None and sight.action == "stop"
    assert sight.text.startswith(f"{what} is not a number at step 3")


def test_skipped_updates_stop_the_run_when_they_do_not_end():
    guard = NonFinite("skip")
    actions = [guard.judge(step, NAN, 1.0).action for step in range(1, PATIENCE + 1)]
    assert actions == ["skip"] * (PATIENCE - 1) + ["stop"]
    assert guard.judge(30, 1.0, 1.0) is None
    assert guard.judge(31, NAN, 1.0).action == "skip", "a good step begins the count anew"


def test_the_overflows_of_fp16_are_by_design_until_they_do_not_end():
    guard = NonFinite("stop", fp16=True)
    seen = [guard.judge(step, 1.0, math.inf) for step in range(1, PATIENCE + 1)]
    assert seen[:-1] == [None] * (PATIENCE - 1) and seen[-1].action == "stop"
    assert NonFinite("stop", fp16=True).judge(1, NAN, 1.0) is not None


def test_exactly_zero_and_nothing_to_train_on_are_told_apart():
    assert "exactly 0" in Zero().judge(1, 0.0, 50).text
    assert "nothing is trained on" in Zero().judge(1, 0.0, 0).text
    assert Zero().judge(1, 1e-9, 50) is None
    assert Zero(may_be_zero=True).judge(1, 0.0, 50) is None, "hinge reaches 0 when all is well"


def test_a_zero_warning_comes_once_a_streak():
    guard = Zero("warn")
    seen = [guard.judge(step, loss, 9) is not None for step, loss in enumerate([0, 0, 1, 0, 0])]
    assert seen == [True, False, False, True, False]


def test_a_spike_is_seen_and_its_step_named():
    losses = noisy(200)
    losses[120] = 6.0
    ((step, sight),) = fed(Spike("warn", 8.0).judge, losses)
    assert step == 121 and "6 at step 121" in sight.text and sight.value == 6.0


@pytest.mark.parametrize("seed", range(5))
def test_a_run_that_learns_has_no_spike(seed):
    random = Random(seed)
    losses = [
        (2 * math.exp(-step / 60) + 0.05) * random.lognormvariate(0, 0.3) for step in range(600)
    ]
    assert fed(Spike("warn", 8.0).judge, losses) == []


def test_losses_that_hardly_differ_make_no_spike_of_a_hair():
    losses = [0.5] * 40 + [0.56] + [0.5] * 10
    assert fed(Spike("warn", 8.0).judge, losses) == []
    assert len(fed(Spike("warn", 8.0).judge, [0.5] * 40 + [0.7])) == 1


def test_a_warning_comes_once_while_the_loss_stays_up_and_a_skip_each_time():
    losses = [1.0, 1.1] * 20 + [9.0] * 5 + [1.0] * 5 + [9.0]
    assert [step for step, _ in fed(Spike("warn", 8.0).judge, losses)] == [41, 51]
    assert len(fed(Spike("skip", 8.0).judge, losses)) == 6


def test_a_level_that_stays_is_the_new_middle_and_no_spike_for_ever():
    seen = fed(Spike("skip", 8.0).judge, [1.0, 1.1] * 30 + [9.0, 9.1] * 60)
    assert 30 <= len(seen) <= 40, "until half of the recent steps are at the new level"


def test_the_first_steps_and_losses_that_are_no_number_are_no_spike():
    assert fed(Spike("warn", 8.0).judge, [1.0] * 10 + [50.0]) == []
    assert fed(Spike("warn", 8.0).judge, [1.0] * 30 + [NAN, math.inf]) == []


def test_a_loss_that_climbs_and_stays_up_diverges_once():
    losses = noisy(150) + [0.5 + 0.02 * step for step in range(200)]
    ((step, sight),) = fed(Divergence("stop", 20).judge, losses)
    assert 160 < step < 260 and sight.action == "stop"


def test_a_run_that_only_gets_worse_diverges_too():
    ((step, _),) = fed(Divergence("warn", 20).judge, [2 + 0.1 * step for step in range(80)])
    assert step < 60


@pytest.mark.parametrize("steps", [30, 80, 300, 5000])
def test_a_run_that_learns_and_ends_flat_does_not_diverge(steps):
    losses = noisy(steps // 2, noise=0.2) + noisy(steps // 2, 0.5, 0.49, noise=0.2)
    assert fed(divergence_over("warn", steps).judge, losses) == []


def test_a_short_run_that_diverges_is_told_before_it_is_over():
    losses = [3.2] * 50 + [8.0] * 30
    ((step, _),) = fed(divergence_over("stop", 80).judge, losses)
    assert step <= 65


def test_overfitting_is_three_rises_of_eval_loss_while_training_loss_falls():
    guard = Overfitting("warn")
    found = []
    for step, (train, held_out) in enumerate(
        [(2.0, 1.0), (1.5, 0.9), (1.2, 0.95), (1.0, 1.0), (0.8, 1.1), (0.6, 1.2)]
    ):
        guard.add(train)
        found.append(guard.judge(step, held_out))
    assert [sight is not None for sight in found] == [False] * 4 + [True, False]
    assert "rose 3 times running to 1.1" in found[4].text and "(from 0.9)" in found[4].text


def test_eval_and_training_loss_up_together_are_no_overfitting():
    guard = Overfitting("warn")
    for step, loss in enumerate([1.0, 1.1, 1.2, 1.3, 1.4]):
        guard.add(loss)
        assert guard.judge(step, loss) is None


def test_a_third_of_the_run_without_a_lower_loss_is_a_plateau_told_once():
    random = Random(3)
    flat = [0.5 + random.gauss(0, 0.05) for _ in range(400)]
    ((step, sight),) = fed(Plateau("stop", 20).judge, noisy(200) + flat)
    assert 380 <= step <= 440 and sight.action == "stop"


@pytest.mark.parametrize("steps", [100, 300, 3000])
def test_a_run_that_learns_to_its_end_has_no_plateau(steps):
    assert fed(Plateau("warn", steps // 30).judge, noisy(steps)) == []


def test_a_guard_that_is_off_says_nothing():
    losses = [1.0] * 100 + [50.0] * 300
    for guard in (Spike("off", 8.0), Divergence("off", 20), Plateau("off", 10)):
        assert fed(guard.judge, losses) == []
    guard = Overfitting("off")
    assert [guard.judge(step, step) for step in range(9)] == [None] * 9


def test_the_recipe_decides_what_is_done():
    recipe = defaults()
    for name, action in {"nonfinite": "skip", "zero": "warn", "spike": "lower"}.items():
        recipe = replace(recipe, f"guards.{name}", action)
    guards = Guards(recipe, 300)
    for step in range(40):
        assert guards.before_update(step, 1.0 + step % 3 * 0.1, 1.0, 9) is None
    assert guards.before_update(41, NAN, 1.0, 9).action == "skip"
    assert guards.before_update(42, 0.0, 1.0, 9).action == "warn"
    assert guards.before_update(43, 30.0, 1.0, 9).action == "lower"


@pytest.mark.parametrize("seed", range(5))
def test_small_batches_near_the_end_of_learning_make_no_spikes(seed):
    random = Random(seed)
    losses = [0.02 * random.lognormvariate(0, 1.0) for _ in range(300)]
    assert fed(Spike("warn", 8.0).judge, losses) == []
    losses.append(30.0)
    assert [step for step, _ in fed(Spike("warn", 8.0).judge, losses)] == [301]


def test_guards_remember_over_a_restart() -> None:
    """Guards that were restored midway say what those say that went through all of it."""
    import json
    from random import Random

    recipe = defaults()
    for id, value in (("guards.spike", "warn"), ("guards.divergence", "warn"),
                      ("guards.plateau", "warn"), ("guards.overfitting", "warn")):  # fmt: skip
        recipe = replace(recipe, id, value)
    random = Random(1)
    losses = [2.0 / (1 + step / 30) + random.gauss(0, 0.05) for step in range(200)]
    losses += [5.0 if step % 40 == 0 else 1.5 + step / 100 for step in range(200)]

    def told(guards: Guards, start: int, end: int) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        for step in range(start, end):
            loss = losses[step]
            sights = [guards.before_update(step, loss, 1.0, 8.0), *guards.after_update(step, loss)]
            if step % 20 == 0:
                sights.append(guards.after_evaluation(step, 1 + step / 100))
            found += [(step, sight.text) for sight in sights if sight]
        return found

    whole = told(Guards(recipe, 400), 0, 400)
    assert {text.split()[0] for _, text in whole} >= {"loss", "the"} and len(whole) > 4
    for at in (7, 150, 230, 333):
        first, second = Guards(recipe, 400), Guards(recipe, 400)
        before = told(first, 0, at)
        second.restore(json.loads(json.dumps(first.state())))
        assert before + told(second, at, 400) == whole
