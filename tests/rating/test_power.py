"""Sample sizes of the exact sign test against the table that was computed for the design."""

from __future__ import annotations

import random

import pytest

from finetui.rating.power import advice, detectable_share, power, sample_size
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
