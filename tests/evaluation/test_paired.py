"""Differences on the same rows."""

from __future__ import annotations

from random import Random

import pytest

from finetui.evaluation import paired


def mean(values: object) -> float:
    return sum(values) / len(values)  # type: ignore[arg-type, call-overload]


def test_tango_of_a_published_table() -> None:
    """Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33: 1 against 7 of 21."""
    assert paired.tango(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_tango_is_not_sure_of_no_change() -> None:
    z2 = 1.959963984540054**2
    low, high = paired.tango(0, 0, 50)
    assert high == pytest.approx(z2 / (50 + z2))
    assert low == pytest.approx(-high)
    assert paired.tango(0, 0, 0) == (-1.0, 1.0)


@pytest.mark.parametrize(("fixed", "broken"), [(5, 2), (0, 3), (30, 30), (60, 0), (1, 0)])
def test_tango_turns_with_its_sides_and_holds_the_value(fixed: int, broken: int) -> None:
    low, high = paired.tango(fixed, broken, 60)
    back = paired.tango(broken, fixed, 60)
    assert back == pytest.approx((-high, -low), abs=1e-9)
    assert low <= (fixed - broken) / 60 <= high


def test_tango_covers_the_truth_as_often_as_it_says() -> None:
    random, held = Random(5), 0
    for _ in range(1000):
        moves = random.choices((1, -1, 0), weights=(0.10, 0.04, 0.86), k=80)
        low, high = paired.tango(moves.count(1), moves.count(-1), 80)
        held += low <= 0.06 <= high
    assert 0.93 <= held / 1000 <= 0.975


def test_holm_of_a_worked_example() -> None:
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm([]) == []
    assert paired.holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_same_seed_draws_the_same_rows_for_every_column() -> None:
    once = [float(i) for i in range(30)]
    first = paired.bootstrap({"a": (mean, once), "b": (mean, once)}, 7, 300)
    later = paired.bootstrap({"c": (mean, once)}, 7, 300)
    assert first["a"] == first["b"] == later["c"]
    assert paired.bootstrap({"c": (mean, once)}, 8, 300)["c"] != later["c"]


def test_the_bootstrap_of_a_mean_is_as_wide_as_its_standard_error_says() -> None:
    values = [Random(1).gauss(0, 1) for _ in range(1)] + [Random(i).gauss(0, 1) for i in range(199)]
    drawn = paired.bootstrap({"": (mean, values)}, 0, 1500)[""]
    low, high = paired.interval(drawn, 200)
    middle = mean(values)
    error = (sum((v - middle) ** 2 for v in values) / 200) ** 0.5 / 200**0.5
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_pairing_takes_out_what_both_share() -> None:
    random = Random(3)
    rows = [random.gauss(0, 5) for _ in range(60)]
    after = [value + 0.2 + random.gauss(0, 0.1) for value in rows]
    drawn = paired.bootstrap({"a": (mean, rows), "b": (mean, after)}, 0, 500)
    moves = [b - a for a, b in zip(drawn["a"], drawn["b"], strict=True)]
    low, high = paired.interval(moves, 60)
    assert 0.1 < low < 0.2 < high < 0.3
    assert paired.bootstrap_p(moves, 60) < 1e-6


def test_no_difference_at_all_is_no_evidence() -> None:
    assert paired.bootstrap_p([0.0] * 100, 20) == 1.0


def test_chance_alone_is_called_a_difference_about_one_time_in_twenty() -> None:
    random, called = Random(11), 0
    for trial in range(160):
        once = [random.gauss(0, 1) for _ in range(30)]
        now = [value + random.gauss(0, 1) for value in once]
        drawn = paired.bootstrap({"a": (mean, once), "b": (mean, now)}, trial, 200)
        moves = [b - a for a, b in zip(drawn["a"], drawn["b"], strict=True)]
        called += paired.bootstrap_p(moves, 30) < 0.05
    assert 2 <= called <= 16  # 5 % is 8, its spread 2.8


@pytest.mark.parametrize("n", [5, 12, 200])
def test_p_below_five_percent_is_an_interval_off_zero(n: int) -> None:
    random = Random(n)
    for shift in (0.0, 1.2, 1.9, 2.1, 2.6, 3.5):
        draws = [random.gauss(shift, 1) for _ in range(1000)]
        low, high = paired.interval(draws, n)
        assert (paired.bootstrap_p(draws, n) < 0.05) == (low > 0 or high < 0) or abs(low) < 0.15


def test_few_rows_make_wide_intervals() -> None:
    draws = [Random(i).gauss(0, 1) for i in range(4000)]
    wide, narrow = (paired.interval(draws, n)[1] for n in (6, 10**6))
    assert narrow == pytest.approx(1.96, abs=0.1)
    assert wide == pytest.approx(2.571 * (6 / 5) ** 0.5, abs=0.25)  # Student's, 5 degrees


def test_p_values_go_on_below_one_in_the_number_of_draws() -> None:
    random = Random(2)
    draws = [random.gauss(5, 1) for _ in range(500)]
    assert 1e-9 < paired.bootstrap_p(draws, 10**6) < 1e-4
    assert paired.bootstrap_p([1.0, 2.0] * 100 + [-1.0] * 20, 10**6) == pytest.approx(
        2 * 21 / 221, rel=1e-4
    )


def test_figures_of_sums_are_those_of_the_rows() -> None:
    rows = [[float(i), float(i % 7 + 1)] for i in range(25)]
    added = paired.Added(lambda sums: sums[0] / sums[1])
    plain = lambda rows: sum(r[0] for r in rows) / sum(r[1] for r in rows)  # noqa: E731
    drawn = paired.bootstrap({"added": (added, rows), "plain": (plain, rows)}, 3, 200)
    assert drawn["added"] == pytest.approx(drawn["plain"])


def test_one_row_and_very_many_rows_can_be_drawn() -> None:
    assert set(paired.bootstrap({"": (mean, [2.0])}, 0, 50)[""]) == {2.0}
    assert paired.draws(1_000_000, 2000) == 400
    assert paired.draws(100, 2000) == 2000


def test_quantiles_lie_between_neighbours() -> None:
    assert paired.quantile([1.0, 2.0, 4.0], 0.5) == 2.0
    assert paired.quantile([1.0, 2.0, 4.0], 0.75) == 3.0
    assert paired.quantile([7.0], 0.3) == 7.0
