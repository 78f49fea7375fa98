"""The arithmetic of the chart: nothing is lost, scales hold still, gaps stay gaps."""

from __future__ import annotations

import math
import random

import pytest

from finetui.tui.widgets import plotting
from finetui.tui.widgets.plotting import (
    Canvas,
    Columns,
    Part,
    Points,
    Window,
    linear_scale,
    log_scale,
)


def filled(values: list[float | None], count: int, per: float) -> dict[int, Part]:
    return Columns().look(Points(range(len(values)), values), Window(0.0, per), count)


@pytest.mark.parametrize("count", [1, 7, 4096, 9000])
def test_columns_hold_the_extremes_and_the_mean_of_every_point(count: int) -> None:
    values = [random.Random(number).uniform(-5, 5) for number in range(count)]
    spans = filled(values, 100, plotting.x_per_column(count - 1, 100, None))
    assert sum(span.count for span in spans.values()) == count
    assert min(span.low for span in spans.values()) == min(values)
    assert max(span.high for span in spans.values()) == max(values)
    total = sum(span.total for span in spans.values())
    assert total / count == pytest.approx(sum(values) / count, abs=1e-9)
    assert max(spans) < 100


class Growing(Points):
    """More points of the same series at each look."""

    same = object()

    def __init__(self, values: list[float]) -> None:
        super().__init__(range(len(values)), values)
        self.source = self.same


def test_columns_summed_up_bit_by_bit_are_those_summed_up_at_once() -> None:
    chance = random.Random(5)
    values = [chance.choice([chance.uniform(-1, 1), math.nan]) for _ in range(3000)]
    window, grown = Window(0.0, 25.6), Columns()
    for count in range(1, 3000, 37):
        grown.look(Growing(values[:count]), window, 120)
    whole = Columns().look(Growing(values), window, 120)
    assert grown.look(Growing(values), window, 120) == whole


def test_another_source_is_summed_up_anew() -> None:
    looked, window = Columns(), Window(0.0, 1.0)
    looked.look(Points([0, 1, 2], [1.0, 1.0, 1.0]), window, 10)
    again = looked.look(Points([0, 1], [5.0, 5.0]), window, 10)
    assert [again[column].high for column in sorted(again)] == [5.0, 5.0]


def test_nan_none_and_infinity_are_counted_and_never_drawn() -> None:
    spans = filled([1.0, math.nan, None, math.inf, 2.0], 100, 1.0)
    assert [spans[column].count for column in range(5)] == [1, 0, 0, 0, 1]
    assert [spans[column].bad for column in range(5)] == [0, 1, 1, 1, 0]
    assert spans[4].high == 2.0


@pytest.mark.parametrize("last", [1.0, 3.0, 99.0, 100.0, 1_000.0, 12_345.0, 1e6])
def test_without_an_end_the_picture_fills_half_to_all_of_the_width(last: float) -> None:
    per = plotting.x_per_column(last, 100, None)
    assert 0.45 <= last / per / 99 <= 1.02


@pytest.mark.parametrize("last", [1.0, 74.0, 900.0, 7_000.0, 14_070.0])
def test_with_a_known_end_half_of_the_picture_is_full_at_least(last: float) -> None:
    per = plotting.x_per_column(last, 100, 14_070.0)
    assert last <= per * 99.001
    assert last >= per * 99 / 2.001 or per * 99 < 32


def test_a_picture_holds_still_while_the_points_are_in_one_half_of_it() -> None:
    wide = {plotting.x_per_column(last, 100, 10_000.0) for last in range(2_501, 5_000, 100)}
    assert len(wide) == 1


def test_axes_of_bytes_have_binary_steps() -> None:
    scale = linear_scale(0, 450 * 2**20, 3, binary=True)
    assert scale.ticks == (0.0, 256.0 * 2**20, 512.0 * 2**20)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.3, 2.7), (-1, 1), (5, 5), (0, 0), (1e-9, 3e-9), (1e8, 9e8)]
)
def test_a_scale_holds_all_data_between_nice_ends(low: float, high: float) -> None:
    scale = linear_scale(low, high, 5)
    assert scale.low <= low <= high <= scale.high
    assert 2 <= len(scale.ticks) <= 7
    assert scale.place(scale.low) == 0.0
    assert scale.place(scale.high) == 1.0


def test_a_little_more_data_does_not_move_the_scale() -> None:
    assert linear_scale(0.31, 2.62, 5) == linear_scale(0.33, 2.7, 5)


@pytest.mark.parametrize(("low", "high"), [(1e-6, 10), (0.2, 3), (1, 1), (3, 4)])
def test_a_log_scale_holds_all_data(low: float, high: float) -> None:
    scale = log_scale(low, high, 5)
    assert scale.low <= low * 1.000001
    assert scale.high >= high * 0.999999
    assert len(scale.ticks) >= 2
    assert scale.place(0.0) is None
    assert scale.place(-1.0) is None


@pytest.mark.parametrize(
    ("value", "ticks", "text"),
    [
        (0.5, (0.0, 0.5, 1.0), "0.5"),
        (2.0, (0.0, 1.0, 2.0), "2"),
        (0.25, (0.0, 0.25, 0.5), "0.25"),
        (0.0001, (0.0, 0.0001), "1e-4"),
        (2.5e-5, (0.0, 2.5e-5), "2.5e-5"),
        (12_000.0, (0.0, 12_000.0), "12,000"),
        (0.0, (0.0, 1.0), "0"),
    ],
)
def test_labels_have_the_digits_they_need(value: float, ticks: tuple, text: str) -> None:
    assert plotting.tick_text(value, ticks) == text


def test_a_few_points_are_not_smoothed_and_many_are() -> None:
    few = filled([0.0, 10.0, 0.0, 10.0], 100, 1.0)
    assert list(plotting.smooth(few).values()) == [0.0, 10.0, 0.0, 10.0]
    many = filled([0.0, 10.0] * 100, 200, 1.0)
    middle = [plotting.smooth(many)[column] for column in range(20, 180)]
    assert all(3.0 < value < 7.0 for value in middle)


def test_the_highest_layer_owns_a_cell() -> None:
    canvas = Canvas(1, 1)
    canvas.dot(0, 0, 1)
    canvas.dot(1, 3, 0)
    assert canvas.cells[0, 0] == (1, 0x01)
    canvas.dot(1, 3, 2)
    assert canvas.cells[0, 0] == (2, 0x80)


def test_ascii_dots_use_plain_characters() -> None:
    canvas = Canvas(3, 1, ascii=True)
    canvas.upright(0, 0, 1, 1)
    canvas.dot(1, 0, 1)
    canvas.dot(2, 1, 1)
    assert [canvas.glyph(canvas.cells[x, 0][1]) for x in range(3)] == [":", "'", "."]


def test_a_steep_line_has_no_holes() -> None:
    canvas = Canvas(10, 10)
    canvas.join((0, 0), (5, 39), 1)
    rows = {y for (_, y) in canvas.cells}
    assert rows == set(range(10))
