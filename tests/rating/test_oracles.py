"""Our routines against other people's: frozen figures, and the libraries where installed."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from finetui.rating.agreement import kappas, krippendorff_alpha
from finetui.rating.logistic import fit
from finetui.rating.power import _beta_binomial, power
from finetui.rating.ranking import Match, estimate
from finetui.rating.statistics import holm, sign_test, wilson

SIDES = [0.5, -0.5] * 6
X = [-1.2, 0.4, 0.9, -0.3, 1.5, -0.8, 0.1, 2.0, -1.7, 0.6, -0.5, 1.1]
Y = [0.0, 1.0, 1.0, 0.5, 1.0, 0.0, 1.0, 0.5, 0.0, 0.0, 1.0, 0.0]
CLUSTERS = [n // 3 for n in range(12)]
ROWS = [[1.0, side, x] for side, x in zip(SIDES, X, strict=True)]


def test_the_fractional_logit_with_robust_errors_is_that_of_statsmodels() -> None:
    # statsmodels 0.15, GLM binomial, cov_type cluster without correction, errors times sqrt(4/3).
    found = fit(ROWS, Y, CLUSTERS)
    assert found.coefficients == pytest.approx([-0.15464637, 2.73873706, 1.28388447], abs=5e-9)
    errors = [found.error(k) for k in range(3)]
    assert errors == pytest.approx([0.40417312, 1.76662089, 0.22425464], abs=5e-9)


def test_the_beta_binomial_is_that_of_scipy() -> None:
    chances = [_beta_binomial(5, k, 0.6, 0.3) for k in range(6)]
    expected = [0.09021888, 0.12801328, 0.1562196, 0.18107271, 0.20604826, 0.23842727]
    assert chances == pytest.approx(expected, abs=5e-9)


def test_one_share_by_scipy() -> None:
    assert sign_test(37, 54) == pytest.approx(0.09294694311794119, rel=1e-12)
    assert wilson(37, 91) == pytest.approx((0.311447855709545, 0.5093056395299163), rel=1e-12)


def test_scipy_agrees_on_tests_intervals_and_power() -> None:
    stats: Any = pytest.importorskip("scipy.stats")
    draw = random.Random(1)
    for _ in range(40):
        n = draw.randrange(1, 300)
        k = draw.randrange(n + 1)
        oracle = stats.binomtest(k, n)
        interval = oracle.proportion_ci(method="wilson")
        assert sign_test(k, n - k) == pytest.approx(oracle.pvalue, rel=1e-9)
        assert wilson(k, n) == pytest.approx((interval.low, interval.high), abs=1e-12)
    chances = stats.binom(57, 0.6).pmf(range(58))
    significant = [stats.binomtest(k, 57).pvalue <= 0.05 for k in range(58)]
    told = sum(chance for chance, yes in zip(chances, significant, strict=True) if yes)
    assert power(57, 0.6) == pytest.approx(told, abs=1e-10)


def test_statsmodels_agrees_on_kappas_and_holm() -> None:
    raters: Any = pytest.importorskip("statsmodels.stats.inter_rater")
    multitest: Any = pytest.importorskip("statsmodels.stats.multitest")
    draw = random.Random(2)
    units = [[draw.choice((0, 0, 1, 2)) for _ in range(4)] for _ in range(25)]
    table, _ = raters.aggregate_raters(units)
    assert kappas(units).fleiss == pytest.approx(raters.fleiss_kappa(table), abs=1e-12)
    p_values = [draw.random() ** 3 for _ in range(6)]
    assert holm(p_values) == pytest.approx(multitest.multipletests(p_values, method="holm")[1])


def test_choix_agrees_on_bradley_terry() -> None:
    choix: Any = pytest.importorskip("choix")
    draw = random.Random(3)
    games = [
        (i, j) for i in range(4) for j in range(4) if i != j for _ in range(draw.randrange(1, 9))
    ]
    oracle = choix.ilsr_pairwise(4, games)
    found = estimate([Match(str(i), str(j), 1.0) for i, j in games], robust=False)
    assert found.strengths == pytest.approx([x - sum(oracle) / 4 for x in oracle], abs=1e-6)


def test_evalica_agrees_on_ties_and_alpha() -> None:
    evalica: Any = pytest.importorskip("evalica")
    frames: Any = pytest.importorskip("pandas")
    draw = random.Random(4)
    words = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    matches = [
        Match(*draw.sample("abcd", 2), draw.choice((1.0, 1.0, 0.0, 0.5)))  # type: ignore[misc]
        for _ in range(200)
    ]
    oracle = evalica.newman(
        [m.left for m in matches], [m.right for m in matches], [words[m.score] for m in matches],
        tolerance=1e-12, limit=100_000,
    )  # fmt: skip
    found = estimate(matches, robust=False)
    logs = [math.log(oracle.scores[system]) for system in found.systems]
    assert found.strengths == pytest.approx([x - sum(logs) / 4 for x in logs], abs=1e-8)
    assert found.nu == pytest.approx(2 * oracle.v, abs=1e-8)
    units = [[draw.choice((0.0, 0.5, 1.0, None)) for _ in range(4)] for _ in range(25)]
    table = frames.DataFrame(units, dtype=float).T
    for level in ("nominal", "ordinal", "interval"):
        told = evalica.alpha(table, distance=level).alpha
        assert krippendorff_alpha(units, level) == pytest.approx(told, abs=1e-12)
