"""Timed answers as figures: each condition for itself, and against the base on the same prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median

import msgspec

from finetui.evaluation.paired import bootstrap, interval, quantile
from finetui.evaluation.record import Timing


class Latency(msgspec.Struct, frozen=True):
    """One condition. ``first`` and the gaps are seconds, ``first`` and ``tokens_per_s`` medians.

    ``ratio`` is its pace over the base's: the geometric mean over prompts of tokens per second,
    with a 95 % bootstrap interval over prompts; ``first_ratio`` the same of the time to the first
    token. None for the base itself and without common prompts.
    """

    condition: str
    n: int
    first: float
    first_p95: float
    gap: float
    gap_p95: float
    tokens_per_s: float
    peak_bytes: int
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    first_ratio: float | None = None
    first_low: float | None = None
    first_high: float | None = None


def summarise(
    timings: Sequence[Timing], base: str = "", seed: int = 0, resamples: int = 2000
) -> list[Latency]:
    """The conditions in the order they were met; warm-ups (``repeat`` below 0) don't count.

    ``base`` names the condition that the others are compared with, "" the first.
    """
    counted = [timing for timing in timings if timing.repeat >= 0 and timing.total > 0]
    conditions = list(dict.fromkeys(timing.condition for timing in counted))
    if not conditions:
        return []
    against = base if base in conditions else conditions[0]
    rows = {name: [t for t in counted if t.condition == name] for name in conditions}
    return [
        _latency(name, rows[name], rows[against] if name != against else [], seed, resamples)
        for name in conditions
    ]


def pace(timing: Timing) -> float:
    """Tokens per second, the time to the first one included."""
    return timing.tokens / timing.total


def _latency(
    name: str, rows: Sequence[Timing], base: Sequence[Timing], seed: int, resamples: int
) -> Latency:
    firsts = sorted(timing.first for timing in rows)
    gaps = sorted(gap for timing in rows for gap in timing.gaps)
    faster = _ratio(rows, base, pace, seed, resamples)
    sooner = _ratio(rows, base, lambda timing: timing.first, seed, resamples)
    return Latency(
        condition=name,
        n=len(rows),
        first=quantile(firsts, 0.5),
        first_p95=quantile(firsts, 0.95),
        gap=quantile(gaps, 0.5) if gaps else 0.0,
        gap_p95=quantile(gaps, 0.95) if gaps else 0.0,
        tokens_per_s=median(map(pace, rows)),
        peak_bytes=max(timing.peak_bytes for timing in rows),
        ratio=faster[0], low=faster[1], high=faster[2],
        first_ratio=sooner[0], first_low=sooner[1], first_high=sooner[2],
    )  # fmt: skip


def _ratio(
    rows: Sequence[Timing],
    base: Sequence[Timing],
    measure: Callable[[Timing], float],
    seed: int,
    resamples: int,
) -> tuple[float, float, float] | tuple[None, None, None]:
    """Geometric mean of the paired ratios and its interval; a prompt is one draw, however often."""
    ours, theirs = _logs(rows, measure), _logs(base, measure)
    pairs = ours.keys() & theirs.keys()
    by_prompt: dict[str, list[float]] = {}
    for prompt, repeat in sorted(pairs):
        difference = ours[prompt, repeat] - theirs[prompt, repeat]
        by_prompt.setdefault(prompt, []).append(difference)
    means = [sum(values) / len(values) for values in by_prompt.values()]
    if not means:
        return None, None, None
    drawn = bootstrap({"": (_mean, means)}, seed, resamples)[""]
    low, high = interval(drawn, len(means))
    return math.exp(_mean(means)), math.exp(low), math.exp(high)


def _logs(
    rows: Sequence[Timing], measure: Callable[[Timing], float]
) -> dict[tuple[str, int], float]:
    return {
        (timing.prompt, timing.repeat): math.log(value)
        for timing in rows
        if (value := measure(timing)) > 0
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
