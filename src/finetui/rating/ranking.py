"""Bradley-Terry and Davidson models: three or more systems from pairwise verdicts.

P(i better) : P(j better) : P(tie) = exp(s_i + g/2) : exp(s_j - g/2) : nu exp((s_i + s_j)/2), where
i stood on the left and g is the pull of the left side (Bradley and Terry 1952, Davidson 1970,
Davidson and Beaver 1977). Fitted by Newton's method; errors are robust to correlation of the
verdicts on one item.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import msgspec

from finetui.rating.algebra import Matrix, Singular, inverse, sandwich, solve
from finetui.rating.statistics import Interval

STEPS = 100
SMOOTHING = 0.5  # imagined wins each way for each compared pair, where no finite estimate exists
ELO = 400 / math.log(10)


class Match(NamedTuple):
    """``weight`` verdicts alike: ``score`` is 1 if the left one won, 0 the right one, 1/2 a tie."""

    left: str
    right: str
    score: float
    cluster: Hashable = None
    weight: float = 1.0


class Place(msgspec.Struct, frozen=True):
    """One system: ``strength`` is its log odds against the mean system.

    ``share`` is its expected share against the mean system without ties and sides; ``best`` and
    ``worst`` are the ranks that its intervals against the others allow.
    """

    system: str
    strength: float
    interval: Interval
    share: float
    best: int
    worst: int


class Ranking(msgspec.Struct, frozen=True):
    """The fitted model, best system first.

    ``nu`` is the pull of a tie between equals (0 without ties); ``gamma`` the log odds of the left
    side. ``smoothed``: no finite estimate existed, so half a win each way was added to each pair.
    """

    model: str
    places: list[Place]
    nu: float
    gamma: float
    gamma_interval: Interval
    deviance: float
    smoothed: bool
    verdicts: int


class Disconnected(ArithmeticError):
    """Some systems were never compared, not even through others."""


class Estimate(NamedTuple):
    """Maximum likelihood: log strengths with sum 0, and their covariance (``systems`` order)."""

    systems: list[str]
    strengths: list[float]
    covariance: Matrix
    nu: float
    gamma: float
    gamma_error: float
    deviance: float
    steps: int

    def difference_error(self, i: int, j: int) -> float:
        """Standard error of strength i less strength j."""
        cov = self.covariance
        return math.sqrt(max(0.0, cov[i][i] + cov[j][j] - 2 * cov[i][j]))


def components(systems: Iterable[str], beats: Mapping[str, set[str]]) -> list[set[str]]:
    """The groups of systems that reach each other both ways (strongly connected components)."""
    reach = {}
    for system in systems:
        seen, todo = {system}, [system]
        while todo:
            for other in beats.get(todo.pop(), set()) - seen:
                seen.add(other)
                todo.append(other)
        reach[system] = seen
    groups: list[set[str]] = []
    for system in reach:
        if not any(system in group for group in groups):
            groups.append({other for other in reach[system] if system in reach[other]})
    return groups


def win_graph(matches: Iterable[Match]) -> dict[str, set[str]]:
    """Who beat whom; a tie counts both ways."""
    beats: dict[str, set[str]] = {}
    for match in matches:
        if match.score > 0:
            beats.setdefault(match.left, set()).add(match.right)
        if match.score < 1:
            beats.setdefault(match.right, set()).add(match.left)
    return beats


def rank(matches: Sequence[Match], *, side: bool = True, confidence: float = 0.95) -> Ranking:
    """The Davidson model with a side effect, intervals and possible ranks.

    Where no finite estimate exists (some group of systems never lost to the rest) each compared
    pair gets half a win each way. Raises Disconnected when the systems fall into groups without any
    comparison between them.
    """
    systems = sorted({name for match in matches for name in (match.left, match.right)})
    smoothed = len(components(systems, win_graph(matches))) > 1
    played = list(matches)
    if smoothed:
        pairs = {tuple(sorted((match.left, match.right))) for match in matches}
        played += [Match(a, b, s, ("", a, b), SMOOTHING) for a, b in pairs for s in (0.0, 1.0)]
        if len(components(systems, win_graph(played))) > 1:
            raise Disconnected("some systems were never compared with the others")
    sides = {frozenset((m.left, m.right)): {m.left} for m in matches}
    for match in matches:
        sides[frozenset((match.left, match.right))].add(match.left)
    found = estimate(played, side=side and any(len(lefts) > 1 for lefts in sides.values()))
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    return Ranking(
        model="Davidson" if found.nu else "Bradley-Terry",
        places=sorted(_places(found, z), key=lambda place: -place.strength),
        nu=found.nu,
        gamma=found.gamma,
        gamma_interval=_around(found.gamma, z * found.gamma_error),
        deviance=found.deviance,
        smoothed=smoothed,
        verdicts=round(sum(match.weight for match in matches)),
    )


def _around(middle: float, half: float) -> Interval:
    return Interval(middle - half, middle + half)


def _places(found: Estimate, z: float) -> list[Place]:
    places = []
    for i, system in enumerate(found.systems):
        better = worse = 0
        for j, other in enumerate(found.strengths):
            gap, half = found.strengths[i] - other, z * found.difference_error(i, j)
            better += i != j and gap < -half
            worse += i != j and gap > half
        strength, error = found.strengths[i], math.sqrt(max(0.0, found.covariance[i][i]))
        share = 1 / (1 + math.exp(-strength))
        span = _around(strength, z * error)
        places.append(
            Place(system, strength, span, share, 1 + better, len(found.strengths) - worse)
        )
    return places


def estimate(
    matches: Sequence[Match], *, side: bool = False, robust: bool = True, halves: bool = False
) -> Estimate:
    """Fit by Newton's method; ``halves`` takes a tie as half a win each way (Bradley-Terry).

    ``robust`` takes the covariance from the verdicts' clusters (None: each verdict its own), else
    from the information matrix. Raises Singular when no finite estimate exists.
    """
    systems = sorted({name for match in matches for name in (match.left, match.right)})
    model = _Model(systems, matches, side, halves)
    at = model.start()
    for steps in range(1, STEPS + 1):
        gradient, information, value = model.derivatives(at)
        move = solve(information, gradient)
        scale = 1.0
        while scale > 1e-6 and model.value(_moved(at, move, scale)) < value - 1e-9:
            scale /= 2
        at = _moved(at, move, scale)
        if max(map(abs, move)) < 1e-11:
            return model.result(at, steps, robust)
    raise Singular("the strengths grow without end")


def _moved(at: Sequence[float], move: Sequence[float], scale: float) -> list[float]:
    return [a + scale * m for a, m in zip(at, move, strict=True)]


class _Model:
    """Parameters: strengths of all systems but the first, then log nu, then gamma, where used."""

    def __init__(
        self, systems: list[str], matches: Sequence[Match], side: bool, halves: bool
    ) -> None:
        self.systems = systems
        self.matches = matches
        self.place = {system: k - 1 for k, system in enumerate(systems)}
        self.halves = halves
        self.ties = not halves and any(match.score == 0.5 for match in matches)
        self.nu_at = len(systems) - 1 if self.ties else -1
        self.gamma_at = len(systems) - 1 + self.ties if side else -1
        self.size = len(systems) - 1 + self.ties + side

    def start(self) -> list[float]:
        return [0.0] * self.size

    def outcomes(self, match: Match) -> list[tuple[float, dict[int, float]]]:
        """(observed weight, linear predictor) of left better, right better and tie."""
        left: dict[int, float] = {}
        right: dict[int, float] = {}
        tie: dict[int, float] = {}
        for system, own in ((match.left, left), (match.right, right)):
            if (k := self.place[system]) >= 0:
                own[k] = 1.0
                tie[k] = 0.5
        if self.gamma_at >= 0:
            left[self.gamma_at], right[self.gamma_at] = 0.5, -0.5
        won, lost = (match.score, 1 - match.score) if self.halves else (
            float(match.score == 1), float(match.score == 0)
        )  # fmt: skip
        found = [(won * match.weight, left), (lost * match.weight, right)]
        if self.ties:
            tie[self.nu_at] = 1.0
            found.append((match.weight * (match.score == 0.5), tie))
        return found

    def chances(
        self, outcomes: Sequence[tuple[float, dict[int, float]]], at: Sequence[float]
    ) -> tuple[list[float], float]:
        """(probabilities, log of the normalising sum)."""
        pulls = [sum(at[k] * x for k, x in terms.items()) for _, terms in outcomes]
        top = max(pulls)
        total = sum(math.exp(pull - top) for pull in pulls)
        return [math.exp(pull - top) / total for pull in pulls], top + math.log(total)

    def value(self, at: Sequence[float]) -> float:
        """The log likelihood."""
        total = 0.0
        for match in self.matches:
            outcomes = self.outcomes(match)
            _, norm = self.chances(outcomes, at)
            for weight, terms in outcomes:
                if weight:
                    total += weight * (sum(at[k] * x for k, x in terms.items()) - norm)
        return total

    def score(self, match: Match, at: Sequence[float]) -> tuple[dict[int, float], Matrix]:
        """The gradient of one match, and the covariance of its predictor."""
        outcomes = self.outcomes(match)
        chances, _ = self.chances(outcomes, at)
        mean: dict[int, float] = {}
        gradient: dict[int, float] = {}
        for (weight, terms), chance in zip(outcomes, chances, strict=True):
            for k, x in terms.items():
                mean[k] = mean.get(k, 0.0) + chance * x
                gradient[k] = gradient.get(k, 0.0) + weight * x
        for k, x in mean.items():
            gradient[k] = gradient.get(k, 0.0) - match.weight * x
        keys = sorted(mean)
        spread = [[-mean[a] * mean[b] for b in keys] for a in keys]
        for (_, terms), chance in zip(outcomes, chances, strict=True):
            for i, a in enumerate(keys):
                for j, b in enumerate(keys):
                    spread[i][j] += chance * terms.get(a, 0.0) * terms.get(b, 0.0)
        return gradient, spread

    def derivatives(self, at: Sequence[float]) -> tuple[list[float], Matrix, float]:
        gradient = [0.0] * self.size
        information = [[0.0] * self.size for _ in range(self.size)]
        for match in self.matches:
            own, spread = self.score(match, at)
            for i, a in enumerate(keys := sorted(own)):
                gradient[a] += own[a]
                for j, b in enumerate(keys):
                    information[a][b] += match.weight * spread[i][j]
        return gradient, information, self.value(at)

    def result(self, at: Sequence[float], steps: int, robust: bool) -> Estimate:
        _, information, value = self.derivatives(at)
        covariance = inverse(information)
        if robust:
            covariance = sandwich(covariance, self._cluster_scores(at))
        raw = [0.0, *at[: len(self.systems) - 1]]
        mean = sum(raw) / len(raw)
        gamma = at[self.gamma_at] if self.gamma_at >= 0 else 0.0
        error = covariance[self.gamma_at][self.gamma_at] if self.gamma_at >= 0 else 0.0
        return Estimate(
            systems=self.systems,
            strengths=[strength - mean for strength in raw],
            covariance=_centred(covariance, len(raw)),
            nu=math.exp(at[self.nu_at]) if self.ties else 0.0,
            gamma=gamma,
            gamma_error=math.sqrt(max(0.0, error)),
            deviance=2 * (self._saturated() - value),
            steps=steps,
        )

    def _cluster_scores(self, at: Sequence[float]) -> list[list[float]]:
        sums: dict[Hashable, list[float]] = {}
        for n, match in enumerate(self.matches):
            own, _ = self.score(match, at)
            alone = match.cluster is None
            total = sums.setdefault(("match", n) if alone else match.cluster, [0.0] * self.size)
            # Independent verdicts that are alike: w squares of score/w, as one square.
            share = math.sqrt(match.weight) if alone else 1.0
            for k, x in own.items():
                total[k] += x / share
        return list(sums.values())

    def _saturated(self) -> float:
        """The log likelihood of a model with its own shares for each ordered pair."""
        tables: dict[tuple[str, str], list[float]] = {}
        for match in self.matches:
            cells = tables.setdefault((match.left, match.right), [0.0] * (2 + self.ties))
            for k, (weight, _) in enumerate(self.outcomes(match)):
                cells[k] += weight
        return sum(n * math.log(n / sum(cells)) for cells in tables.values() for n in cells if n)


def _centred(covariance: Matrix, count: int) -> Matrix:
    """Covariance of the strengths less their mean, from that of all but the first."""
    full = [[0.0] * count] + [[0.0, *row[: count - 1]] for row in covariance[: count - 1]]
    rows = [sum(row) / count for row in full]
    mean = sum(rows) / count
    return [[full[i][j] - rows[i] - rows[j] + mean for j in range(count)] for i in range(count)]
