"""Numbers read the same everywhere, and an unknown one is a dash."""

import math

import pytest

from finetui.tui import figures


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0 B"), (7_235_174, "6.9 MiB"), (None, "–"), (math.nan, "–")]
)
def test_an_unknown_size_is_a_dash(value, shown):
    assert figures.size(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.38, "0.4 s"), (45, "45 s"), (4320, "1h12"), (math.inf, "–"), (None, "–")],
)
def test_an_unknown_duration_is_a_dash(seconds, shown):
    assert figures.duration(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(940, "940"), (12_400, "12.4 k"), (3_450_000, "3.45 M"), (7e9, "7 B")]
)
def test_compact_counts(value, shown):
    assert figures.compact(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.81234, "0.8123"),
        (2e-4, "2e-4"),
        (0, "0"),
        (math.nan, "NaN"),
        (math.inf, "infinite"),
        (None, "–"),
    ],
)
def test_numbers_keep_their_figures_and_say_nan(value, shown):
    assert figures.number(value) == shown


def test_percentages():
    assert figures.percent(0.9567) == "96 %"
    assert figures.percent(None) == "–"
