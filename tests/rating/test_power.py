"""Sample sizes of the exact sign test against the table that was computed for the design."""

from __future__ import annotations

import random

import pytest

from finetui.rating.power import (
    advice,
    detectable_share,
    item_power,
    items_needed,
    plan,
    power,
    sample_size,
    verdicts,
)
from finetui.rating.statistics import sign_test


@pytest.mark.parametrize(
    ("share", "at_80", "at_90"),
    [
        (0.55, (786, 820), (1055, 1080)),
        (0.60, (199, 210), (263, 274)),
        (0.65, (90, 97), (114, 121)),
        (0.70, (49, 54), (65, 70)),
        (0.75, (30, 35), (42, 42)),
        (0.80, (20, 23), (28, 30)),
    ],
)
def test_sample_sizes(share: float, at_80: tuple[int, int], at_90: tuple[int, int]) -> None:
    assert sample_size(share) == at_80
    assert sample_size(share, 0.9) == at_90
    assert sample_size(1 - share) == at_80


def test_power_is_that_of_the_sign_test_itself() -> None:
    draw = random.Random(3)
    runs, n, share = 4000, 50, 0.7
    wins = [sum(draw.random() < share for _ in range(n)) for _ in range(runs)]
    seen = sum(sign_test(won, n - won) <= 0.05 for won in wins) / runs
    assert power(n, share) == pytest.approx(seen, abs=0.02)


def test_power_under_no_difference_is_below_alpha() -> None:
    assert all(power(n, 0.5) <= 0.05 for n in range(1, 300))


def test_detectable_share_and_sample_size_fit_together() -> None:
    assert detectable_share(199) == pytest.approx(0.60, abs=0.002)
    assert detectable_share(5) is None


def test_a_share_too_near_one_half_is_refused_at_once() -> None:
    for share in (0.5, 0.501, 1.2):
        with pytest.raises(ValueError, match="needs more than"):
            sample_size(share)


def test_advice_speaks_in_items_and_hours() -> None:
    assert "48 of them decided" in advice(60, tie_rate=0.2)
    assert "3.0 to 5.0 hours" in advice(60, tie_rate=0.2)
    assert "too few" in advice(5)


def test_the_item_power_of_three_correlated_raters_is_that_of_the_report() -> None:
    draw, runs = random.Random(4), 2500
    share, raters, ties, icc, items = 0.65, 3, 0.25, 0.3, 60
    a, b = share * (1 - icc) / icc, (1 - share) * (1 - icc) / icc
    seen = 0
    for _ in range(runs):
        won = lost = 0
        for _ in range(items):
            lean = (1 - ties) * draw.betavariate(a, b)
            votes = [draw.random() for _ in range(raters)]
            ahead = sum((vote < lean) - (lean <= vote < 1 - ties) for vote in votes)
            won, lost = won + (ahead > 0), lost + (ahead < 0)
        seen += sign_test(won, lost) <= 0.05
    assert item_power(items, share, raters, ties, icc) == pytest.approx(seen / runs, abs=0.02)


def test_one_rater_without_ties_is_the_plain_sign_test() -> None:
    assert item_power(60, 0.7, 1, 0.0, 0.3) == pytest.approx(power(60, 0.7))
    assert verdicts(0.7, 1, 0.25) == pytest.approx((0.525, 0.225, 0.25))


def test_more_raters_help_and_correlated_ones_help_less() -> None:
    alone, three = items_needed(0.6), items_needed(0.6, raters=3)
    assert alone is not None
    assert three is not None
    assert three < alone
    assert item_power(100, 0.6, 3, 0.25, 0.0) > item_power(100, 0.6, 3, 0.25, 0.6)
    assert item_power(100, 0.6, 3, 0.25, 1.0 - 1e-9) == pytest.approx(
        item_power(100, 0.6, 1, 0.25**3, 0.0), abs=0.01
    )


def test_a_plan_counts_showings_and_hours_of_every_rater() -> None:
    found = plan(110, raters=2, identical=10, extra=20)
    assert (found.showings, found.hours_each, found.hours_all) == (120, (6, 10), (12, 20))
    assert found.design_effect == pytest.approx(1.3)
    text = " ".join(found.sentences)
    assert "6.0 to 10.0 hours a rater for 120 showings, 12.0 to 20.0 hours in all" in text
    assert "60:40" in text
    assert items_needed(0.501) is None
    assert plan(3).detectable is None
    assert plan(0).power_60 == 0
