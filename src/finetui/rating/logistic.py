"""Logistic regression by Newton's method, with a ridge and cluster-robust errors."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from finetui.rating.algebra import Matrix, Singular, inverse, sandwich, solve

STEPS = 30
LARGEST = 15.0  # a linear predictor beyond this on standardised columns means separation


class NoFit(ArithmeticError):
    """No finite estimate exists: the columns are collinear or separate the outcomes."""


class Fit(NamedTuple):
    """Coefficients with their covariance; ``steps`` of Newton's method were taken."""

    coefficients: list[float]
    covariance: Matrix
    steps: int

    def error(self, k: int) -> float:
        """The standard error of coefficient ``k``."""
        return math.sqrt(max(0.0, self.covariance[k][k]))


def sigmoid(x: float) -> float:
    """1/(1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def estimate(
    rows: Sequence[Sequence[float]],
    outcomes: Sequence[float],
    ridge: Sequence[float] | None = None,
    start: Sequence[float] | None = None,
) -> tuple[list[float], Matrix, int]:
    """(coefficients, information matrix, steps) that maximise the penalised likelihood.

    ``outcomes`` lie in [0, 1]; a half is a fractional response (Papke and Wooldridge 1996).
    ``ridge`` is one penalty a column, 1/2 ridge b². Raises NoFit.
    """
    width = len(rows[0]) if rows else 0
    penalty = list(ridge or [0.0] * width)
    found = list(start or [0.0] * width)
    for step in range(1, STEPS + 1):
        score, information = _derivatives(rows, outcomes, found, penalty)
        try:
            move = solve(information, score)
        except Singular as error:
            raise NoFit(str(error)) from error
        longest = max(map(abs, move), default=0.0)
        scale = min(1.0, 4.0 / longest) if longest else 1.0
        found = [b + scale * d for b, d in zip(found, move, strict=True)]
        if max(map(abs, found), default=0.0) > LARGEST and not any(penalty):
            raise NoFit("the outcomes are separated")
        if longest < 1e-8:
            return found, _derivatives(rows, outcomes, found, penalty)[1], step
    raise NoFit("no convergence")


def _derivatives(
    rows: Sequence[Sequence[float]],
    outcomes: Sequence[float],
    at: Sequence[float],
    penalty: Sequence[float],
) -> tuple[list[float], Matrix]:
    width = len(at)
    score = [-p * b for p, b in zip(penalty, at, strict=True)]
    information = [[0.0] * width for _ in range(width)]
    for row, y in zip(rows, outcomes, strict=True):
        p = sigmoid(sum(b * x for b, x in zip(at, row, strict=True)))
        rest, weight = y - p, p * (1 - p)
        for i, x in enumerate(row):
            if x:
                score[i] += rest * x
                scaled, line = weight * x, information[i]
                for j in range(i + 1):
                    line[j] += scaled * row[j]
    for i in range(width):
        information[i][i] += penalty[i]
        for j in range(i):
            information[j][i] = information[i][j]
    return score, information


def fit(
    rows: Sequence[Sequence[float]], outcomes: Sequence[float], clusters: Sequence[Hashable]
) -> Fit:
    """Maximum likelihood with a covariance that is robust to correlation within clusters.

    Raises NoFit when no finite estimate exists.
    """
    found, information, steps = estimate(rows, outcomes)
    sums: dict[Hashable, list[float]] = {}
    for row, y, cluster in zip(rows, outcomes, clusters, strict=True):
        rest = y - sigmoid(sum(b * x for b, x in zip(found, row, strict=True)))
        total = sums.setdefault(cluster, [0.0] * len(row))
        for k, x in enumerate(row):
            total[k] += rest * x
    try:
        bread = inverse(information)
    except Singular as error:
        raise NoFit(str(error)) from error
    return Fit(found, sandwich(bread, list(sums.values())), steps)
