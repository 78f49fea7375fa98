"""Small dense linear algebra for the models of this room: a dozen unknowns, no numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence

Matrix = list[list[float]]


class Singular(ArithmeticError):
    """The matrix has no inverse: some direction is not determined by the data."""


def cholesky(matrix: Sequence[Sequence[float]]) -> Matrix:
    """The lower factor of a symmetric positive definite matrix. Raises Singular for any other."""
    size = len(matrix)
    lower = [[0.0] * size for _ in range(size)]
    for i in range(size):
        row = lower[i]
        for j in range(i + 1):
            other = lower[j]
            rest = matrix[i][j] - sum(map(_times, row[:j], other[:j]))
            if i != j:
                row[j] = rest / other[j]
            elif rest > 1e-12 * max(1e-300, abs(matrix[i][i])):
                row[i] = math.sqrt(rest)
            else:
                raise Singular(f"direction {i}")
    return lower


def solve(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """x of ``matrix`` x = ``right``, symmetric positive definite. Raises Singular."""
    return _substitute(cholesky(matrix), right)


def inverse(matrix: Sequence[Sequence[float]]) -> Matrix:
    """The inverse of a symmetric positive definite matrix. Raises Singular."""
    lower, size = cholesky(matrix), len(matrix)
    return [_substitute(lower, [float(i == j) for i in range(size)]) for j in range(size)]


def sandwich(bread: Matrix, scores: Sequence[Sequence[float]]) -> Matrix:
    """bread · sum of outer products of the scores · bread, for a symmetric ``bread``.

    With one summed score a cluster, times c/(c - 1), this is the cluster-robust covariance (Liang
    and Zeger 1986).
    """
    half = [[sum(map(_times, row, score)) for row in bread] for score in scores]
    small = len(scores) / max(1, len(scores) - 1)
    columns = list(zip(*half, strict=True))
    return [[small * sum(map(_times, a, b)) for b in columns] for a in columns]


def _substitute(lower: Matrix, right: Sequence[float]) -> list[float]:
    size = len(lower)
    found: list[float] = []
    for i in range(size):
        found.append((right[i] - sum(map(_times, lower[i][:i], found))) / lower[i][i])
    for i in reversed(range(size)):
        rest = sum(lower[j][i] * found[j] for j in range(i + 1, size))
        found[i] = (found[i] - rest) / lower[i][i]
    return found


def _times(a: float, b: float) -> float:
    return a * b
