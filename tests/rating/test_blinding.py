"""Indices of a blind that held or did not."""

from __future__ import annotations

import math

import pytest

from finetui.rating.blinding import Bang, james_index

# Bang, Ni and Davis 2004, table 7: guesses of the two arms.
TREATED, PLACEBO = Bang(82, 25, 170), Bang(29, 27, 83)


def test_bangs_table() -> None:
    assert TREATED.index == pytest.approx(0.2058, abs=5e-5)
    assert TREATED.error == pytest.approx(0.0352, abs=5e-5)
    assert PLACEBO.index == pytest.approx(0.0144, abs=5e-5)
    assert PLACEBO.error == pytest.approx(0.0538, abs=5e-5)


def test_james_index_of_the_same_table() -> None:
    assert james_index((TREATED, PLACEBO)) == pytest.approx(0.7479, abs=5e-5)


def test_the_ends_of_the_scales() -> None:
    assert Bang(10, 0, 0).index == 1
    assert Bang(0, 10, 0).index == -1
    assert Bang(5, 5, 0).index == 0
    assert james_index((Bang(10, 0, 0), Bang(10, 0, 0))) == pytest.approx(0)
    assert james_index((Bang(5, 5, 0), Bang(5, 5, 0))) == pytest.approx(0.5)
    assert james_index((Bang(0, 0, 5), Bang(0, 0, 5))) == 1


def test_no_guess_is_no_index() -> None:
    assert math.isnan(Bang(0, 0, 0).index)
    assert math.isnan(james_index((Bang(0, 0, 0), Bang(0, 0, 0))))


def test_the_interval_stays_on_the_scale() -> None:
    assert Bang(10, 0, 0).interval() == (1, 1)
    low, high = Bang(7, 2, 1).interval()
    assert low < 0.5 < high <= 1
