"""Series: the pyramid says what a look at every value would say."""

import math
import random
from itertools import pairwise

import pytest

from finetui.jobs.series import MinMaxPyramid, SeriesBuilder


def slow_range(values):
    finite = [value for value in values if math.isfinite(value)]
    return (min(finite), max(finite)) if finite else (math.nan, math.nan)


def same(a, b):
    return a == b or all(math.isnan(x) for x in (*a, *b))


@pytest.mark.parametrize("gaps", [0.0, 0.1, 0.95])
def test_every_range_has_the_extremes_of_its_finite_values(gaps):
    dice = random.Random(7)
    values = [
        dice.choice([math.nan, math.inf, -math.inf]) if dice.random() < gaps else dice.gauss(0, 1)
        for _ in range(10_000)
    ]
    pyramid = MinMaxPyramid(values)
    for _ in range(500):
        a, b = sorted(dice.sample(range(10_001), 2))
        assert same(pyramid.range(a, b), slow_range(values[a:b])), (a, b)
    assert same(pyramid.range(0, len(values)), slow_range(values))
    assert same(pyramid.range(5, 5), (math.nan, math.nan))


def build(points):
    builder = SeriesBuilder()
    for step, value in points:
        builder.append(step, value)
    return builder


def test_none_is_a_gap_that_keeps_its_place():
    series = build([(5, 1.0), (10, None), (20, 3.0)]).view()
    assert len(series) == 3 and math.isnan(series.value(1)) and series.step(1) == 10
    assert series.range() == (1.0, 3.0) and same(series.range(1, 2), (math.nan, math.nan))
    assert series.last == 3.0 and math.isnan(build([]).view().last)


def test_a_view_stays_as_it_was_while_the_series_grows_and_goes_back():
    builder = build((step, float(step)) for step in range(100))
    view = builder.view()
    builder.append(100, 1e9)
    assert view.range() == (0.0, 99.0) and len(view.buckets(200)) == 100
    builder.append(50, -5.0)
    assert view.range() == (0.0, 99.0)
    now = builder.view()
    assert len(now) == 51 and now.last == -5.0 and now.range(0, 50) == (0.0, 49.0)


def test_buckets_cover_every_point_once():
    series = build((step, float(step)) for step in range(1000)).view()
    buckets = series.buckets(7)
    assert buckets[0][0] == 0.0 and buckets[-1][1] == 999.0
    assert all(left[1] + 1 == right[0] for left, right in pairwise(buckets))
    assert series.buckets(5, 10, 13) == [(10.0, 10.0), (11.0, 11.0), (12.0, 12.0)]


def test_a_time_axis_shows_where_no_steps_were_logged():
    series = build([(0, 1.0), (10, 2.0), (90, 3.0), (100, 4.0)]).view()
    parts = series.by_step(10, 0, 100)
    assert parts[0] == (1.0, 1.0) and parts[1] == (2.0, 2.0) and parts[9] == (3.0, 4.0)
    assert all(math.isnan(low) for low, _ in parts[2:9])
    assert series.index_of(11) == 2 and series.index_of(1000) == 4
