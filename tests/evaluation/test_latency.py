"""Timed answers as figures."""

from __future__ import annotations

from random import Random

import pytest

from finetui.evaluation.latency import summarise
from finetui.evaluation.record import Timing


def timings(slower: float, prompts: int = 20) -> list[Timing]:
    """Base and adapter in turn; the adapter takes ``slower`` times as long, prompts differ much."""
    random, found = Random(1), []
    for n in range(prompts):
        length = random.uniform(0.5, 4)
        for repeat in (-1, 0, 1):
            for condition, factor in (("base", 1.0), ("adapter", slower)):
                total = length * factor * random.uniform(0.98, 1.02) * (9 if repeat < 0 else 1)
                found.append(Timing(condition, f"p{n}", repeat, total / 10, total, 64,
                                    peak_bytes=100, gaps=[total / 64] * 3))  # fmt: skip
    return found


def test_pairs_show_what_medians_hide() -> None:
    base, adapter = summarise(timings(1.10))
    assert base.ratio is None and base.n == 40
    assert adapter.ratio is not None and adapter.low is not None and adapter.high is not None
    assert adapter.low < 1 / 1.10 < adapter.high
    assert adapter.high - adapter.low < 0.02
    assert adapter.first_ratio == pytest.approx(1.10, rel=0.01)


def test_warm_up_does_not_count() -> None:
    assert max(row.first_p95 for row in summarise(timings(1.0))) < 0.5


def test_no_timings_and_no_common_prompts() -> None:
    assert summarise([]) == []
    apart = [Timing("base", "a", 0, 0.1, 1.0, 10), Timing("merged", "b", 0, 0.1, 1.0, 10)]
    assert [row.ratio for row in summarise(apart)] == [None, None]


def test_the_base_is_the_one_that_is_named() -> None:
    found = {row.condition: row.ratio for row in summarise(timings(1.2), "adapter")}
    assert found["adapter"] is None
    assert found["base"] == pytest.approx(1.2, rel=0.01)
