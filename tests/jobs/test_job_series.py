"""Series: the pyramid says what a look at every value would say."""

import math
import random
from itertools import pairwise

import pytest

from finetui.jobs.series import Column, Pyramid, SeriesBuilder


def slow_part(values):
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (math.inf, -math.inf)
    return low, high, pytest.approx(sum(finite)), len(finite), len(values) - len(finite)


def same(a, b):
    return a == b or all(math.isnan(x) for x in (*a, *b))


def build(points):
    builder = SeriesBuilder()
    for step, value in points:
        builder.append(step, value)
    return builder


def noise(count, gaps, seed=7):
    dice = random.Random(seed)
    odd = [math.nan, math.inf, -math.inf, None]
    return [dice.choice(odd) if dice.random() < gaps else dice.gauss(0, 1) for _ in range(count)]


@pytest.mark.parametrize("gaps", [0.0, 0.1, 0.99])
def test_every_stretch_has_the_extremes_the_sum_and_the_gaps_of_its_values(gaps):
    values = noise(10_000, gaps)
    pyramid = build(enumerate(values)).view().values
    plain = [math.nan if value is None else value for value in values]
    dice = random.Random(8)
    for _ in range(300):
        a, b = sorted(dice.sample(range(10_001), 2))
        assert tuple(pyramid.part(a, b)) == slow_part(plain[a:b]), (a, b)
    assert tuple(pyramid.part(0, len(plain))) == slow_part(plain)
    assert tuple(pyramid.part(5, 5)) == (math.inf, -math.inf, 0.0, 0, 0)


def test_none_is_a_gap_that_keeps_its_place():
    series = build([(5, 1.0), (10, None), (20, 3.0)]).view()
    assert len(series) == 3 and math.isnan(series.value(1)) and series.step(1) == 10
    assert series.range() == (1.0, 3.0) and same(series.range(1, 2), (math.nan, math.nan))
    assert series.last == 3.0 and series.last_step == 20
    nothing = build([]).view()
    assert math.isnan(nothing.last) and nothing.last_step == 0
    assert [part.count for part in nothing.parts(0, 1, 3)] == [0, 0, 0]


def test_a_view_stays_as_it_was_while_the_series_grows_and_goes_back():
    builder = build((step, float(step)) for step in range(5000))
    view = builder.view()
    builder.append(5000, 1e9)
    grown = builder.view()
    assert view.range() == (0.0, 4999.0) and len(view) == 5000
    assert grown.source is view.source  # what was drawn of it stays right
    builder.append(500, -5.0)
    now = builder.view()
    assert view.range() == (0.0, 4999.0) and grown.range() == (0.0, 1e9)
    assert len(now) == 501 and now.last == -5.0 and now.range(0, 500) == (0.0, 499.0)
    assert now.source is not view.source


def test_going_back_keeps_the_sums_of_the_blocks_that_stay():
    values = noise(20_000, 0.05)
    builder = build(enumerate(values))
    builder.view()
    builder.append(9_999, 3.0)
    for step in range(10_000, 12_000):
        builder.append(step, 1.0)
    now = builder.view()
    plain = [math.nan if value is None else value for value in values[:9_999]]
    assert tuple(now.values.part(0, len(now))) == slow_part([*plain, 3.0, *[1.0] * 2_000])


def test_columns_cover_every_point_once_and_show_where_no_steps_were_logged():
    series = build([(0, 1.0), (10, 2.0), (90, 3.0), (100, 4.0)]).view()
    parts = series.parts(0, 10.0, 11)
    assert [part.count for part in parts] == [1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1]
    assert parts[1][:3] == (2.0, 2.0, 2.0)
    assert series.index_of(11) == 2 and series.index_of(1000) == 4
    long = build((step, float(step)) for step in range(1000)).view()
    parts = long.parts(0, 1000 / 7, 7)
    assert sum(part.count for part in parts) == 1000
    assert all(left.high + 1 == right.low for left, right in pairwise(parts))
    assert long.parts(250, 1.0, 2)[0].total == 250.0


def test_frozen_and_fresh_numbers_read_as_one():
    from array import array

    numbers = [float(number) for number in range(100)]
    column = Column(memoryview(array("d", numbers[:60])), numbers[60:])
    assert len(column) == 100 and [column[at] for at in (0, 59, 60, 99)] == [0, 59, 60, 99]
    for start, end in ((0, 10), (50, 70), (60, 100), (70, 70), (0, 100)):
        assert list(column.part(start, end)) == numbers[start:end]
    for number in (-1.0, 0.0, 30.5, 59.0, 59.5, 60.0, 98.2, 99.0, 200.0):
        assert column.find(number, 0, 100) == sum(value < number for value in numbers)
    for length in (0, 30, 60, 61, 100):
        assert list(column.cut(length).part(0, length)) == numbers[:length]
    short = column.cut(61)
    short.append(-1.0)
    assert column[61] == 61.0 and short[61] == -1.0


def test_many_points_at_once_are_as_many_one_by_one():
    from array import array

    one, many = build(enumerate([1.0, 2.0])), build(enumerate([1.0, 2.0]))
    values = noise(1000, 0.0)
    for step, value in enumerate(values, 2):
        one.append(step, value)
    many.extend(array("d", range(2, 1002)), array("d", values))
    assert one.view().parts(0, 100.0, 11) == many.view().parts(0, 100.0, 11)
    many.append(500, None)
    assert many.view().last_step == 500


def test_a_pyramid_of_nothing_has_nothing():
    assert Pyramid().part(0, 0).count == 0
