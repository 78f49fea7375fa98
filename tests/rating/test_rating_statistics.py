"""The published figures, and figures that follow from a closed form."""

from __future__ import annotations

import math
import random
from statistics import fmean

import pytest

from finetui.rating.agreement import gwet_ac1, kappas, krippendorff_alpha
from finetui.rating.statistics import (
    bootstrap,
    bootstrap_two_way,
    holm,
    position_effect,
    sign_test,
    wilson,
)

_ = None
# Krippendorff, "Computing Krippendorff's alpha-reliability": 4 observers, 12 units, gaps.
KRIPPENDORFF_4X12 = list(
    zip(
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
        strict=True,
    )
)
# The example of the Wikipedia article: 3 coders, 15 units.
WIKIPEDIA_3X15 = list(
    zip(
        [_, _, _, _, _, 3, 4, 1, 2, 1, 1, 3, 3, _, 3],
        [1, _, 2, 1, 3, 3, 4, 3, _, _, _, _, _, _, _],
        [_, _, 2, 1, 3, 4, 4, _, 2, 1, 1, 3, 3, _, 4],
        strict=True,
    )
)
# Krippendorff's binary example: 2 observers, 10 units.
BINARY_2X10 = list(zip([0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0], strict=True))


@pytest.mark.parametrize(
    ("level", "alpha"),
    [("nominal", 0.7434), ("ordinal", 0.8154), ("interval", 0.8491), ("ratio", 0.7974)],
)
def test_krippendorffs_table_with_gaps(level, alpha: float) -> None:
    assert krippendorff_alpha(KRIPPENDORFF_4X12, level) == pytest.approx(alpha, abs=5e-5)


def test_krippendorff_on_the_wikipedia_example() -> None:
    assert krippendorff_alpha(WIKIPEDIA_3X15) == pytest.approx(0.691358, abs=5e-7)
    assert krippendorff_alpha(WIKIPEDIA_3X15, "interval") == pytest.approx(0.810845, abs=5e-7)


def test_krippendorffs_binary_example() -> None:
    assert krippendorff_alpha(BINARY_2X10) == pytest.approx(0.0952, abs=5e-5)


def test_agreement_without_a_comparison_is_not_a_number() -> None:
    assert math.isnan(krippendorff_alpha([[1, None], [2]]))
    assert math.isnan(krippendorff_alpha([[1, 1], [1, 1]]))
    assert math.isnan(gwet_ac1([[1, None]]))


def test_the_kappas_of_the_same_table() -> None:
    # Gwet's copy of the table has the last unit's only rating with the third observer.
    gwet = [*KRIPPENDORFF_4X12[:-1], (_, _, 3, _)]
    found = kappas(gwet)
    assert found.ac1 == gwet_ac1(KRIPPENDORFF_4X12) == pytest.approx(0.77544, abs=5e-6)
    assert found.observed == pytest.approx(0.81818, abs=5e-6)
    assert found.fleiss == pytest.approx(0.76117, abs=5e-6)
    assert found.conger == pytest.approx(0.76282, abs=5e-6)
    assert found.brennan_prediger == pytest.approx(0.77273, abs=5e-6)


# Fleiss 1971: ten subjects, fourteen raters, five categories; counts of each category.
FLEISS_COUNTS = [
    (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
]  # fmt: skip


def test_fleiss_kappa_of_ten_subjects_and_fourteen_raters() -> None:
    units = [[k for k, n in enumerate(counts) for _ in range(n)] for counts in FLEISS_COUNTS]
    assert kappas(units).fleiss == pytest.approx(0.2099307, abs=5e-8)


@pytest.mark.parametrize(
    ("table", "kappa"),
    [
        ((20, 5, 10, 15), 0.4),
        ((45, 15, 25, 15), 0.1304),
        ((25, 35, 5, 35), 0.2593),
        ((118, 5, 2, 0), -0.0234),
    ],
)
def test_cohens_kappa_is_congers_of_two_raters(table: tuple[int, ...], kappa: float) -> None:
    cells = ((0, 0), (0, 1), (1, 0), (1, 1))
    units = [cell for cell, n in zip(cells, table, strict=True) for _ in range(n)]
    assert kappas(units).conger == pytest.approx(kappa, abs=5e-5)


def test_ac1_stays_high_where_kappa_collapses() -> None:
    units = [(0, 0)] * 118 + [(0, 1)] * 5 + [(1, 0)] * 2
    assert gwet_ac1(units) == pytest.approx(0.9408, abs=5e-5)


@pytest.mark.parametrize(
    ("units", "level", "alpha"),
    [
        ([[0, 1], [0, 1], [1, 0], [1, 0]], "nominal", -0.75),
        ([[1, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, 1]], "nominal", 1 - 132 / 420),
        ([[1, 1, 0], [0, 0]], "nominal", 1 / 3),
        ([[1, 2], [3, 4], [1, 1]], "interval", 19 / 24),
        ([[1, 1], [3, 4], [5, 5]], "ordinal", 94 / 99),
    ],
)
def test_alpha_of_small_tables_is_an_exact_fraction(units, level, alpha: float) -> None:
    # The tables of Inspect AI's tests.
    assert krippendorff_alpha(units, level) == pytest.approx(alpha, rel=1e-12)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("k", "n", "confidence", "low", "high"),
    [
        (3, 10, 0.95, 0.1077913, 0.6032219),  # R's prop.test, as in scipy's tests
        (0, 10, 0.95, 0.0, 0.2775328),
        (10, 10, 0.95, 0.7224672, 1.0),
        (3, 10, 0.99, 0.0795663, 0.6799753),
        (81, 263, 0.95, 0.2553, 0.3662),  # Newcombe 1998, table I
        (15, 148, 0.95, 0.0624, 0.1605),
        (0, 20, 0.95, 0.0, 0.1611),
        (1, 29, 0.95, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals(k: int, n: int, confidence: float, low: float, high: float) -> None:
    precision = 5e-8 if n == 10 else 5e-5
    assert wilson(k, n, confidence) == pytest.approx((low, high), abs=precision)


def test_wilson_without_trials_says_nothing() -> None:
    assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize(
    ("wins", "n", "p"),
    [(60, 100, 0.056888), (120, 200, 0.005685), (9, 10, 0.021484), (15, 20, 0.041389)],
)
def test_sign_test(wins: int, n: int, p: float) -> None:
    assert sign_test(wins, n - wins) == pytest.approx(p, abs=5e-7)
    assert sign_test(n - wins, wins) == sign_test(wins, n - wins)


def test_sign_test_at_its_edges() -> None:
    assert sign_test(0, 0) == 1
    assert sign_test(5, 5) == 1
    assert sign_test(1500, 1500) == 1


def test_position_effect_separates_side_from_preference() -> None:
    only_side = position_effect(30, 10, 10, 30)
    assert only_side.theta == pytest.approx(0)
    assert only_side.gamma == pytest.approx(math.log(30.5 / 10.5))
    only_preference = position_effect(30, 10, 30, 10)
    assert only_preference.gamma == pytest.approx(0)
    assert only_preference.theta == pytest.approx(math.log(30.5 / 10.5))


def test_bootstrap_is_seeded_and_near_the_normal_interval() -> None:
    values = [1.0] * 60 + [0.0] * 40
    found = bootstrap(values, fmean, seed=1)
    assert found == bootstrap(values, fmean, seed=1)
    assert found == pytest.approx((0.504, 0.696), abs=0.015)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = random.Random(7)
    hits = 0
    for trial in range(100):
        values = [float(draw.random() < 0.6) for _ in range(80)]
        low, high = bootstrap(values, fmean, resamples=200, seed=trial)
        hits += low <= 0.6 <= high
    assert hits >= 86


def test_drawing_raters_too_widens_the_interval_when_they_differ() -> None:
    table = {
        f"i{n}": {f"r{k}": float(k < 3) for k in range(5)} for n in range(40)
    }  # every item 0.6, raters all one way
    items_only = bootstrap([0.6] * 40, fmean)
    low, high = bootstrap_two_way(table, seed=3)
    assert items_only == pytest.approx((0.6, 0.6))
    assert low <= 0.2 + 1e-9
    assert high >= 0.95


def test_fixed_items_pull_the_two_way_mean_to_one_half() -> None:
    table = {f"i{n}": {"a": 1.0} for n in range(10)}
    low, high = bootstrap_two_way(table, fixed=30, seed=3)
    assert low < 0.625 < high
