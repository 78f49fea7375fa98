"""Long simulations of the rating's statistics; tests/rating/test_simulations.py has the fast ones.

    python benchmarks/rating_simulations.py [--runs 2000] [--seed 1]

Prints, each with its standard error: false alarms of the report with three correlated raters,
false alarms of the e-processes and the scheduled looks under peeking, power against the
calculator, coverage of the interval, and the balance of sides over keys. Ends with status 1 where
a promise is broken by more than three standard errors.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Callable
from statistics import fmean

from finetui.rating.assignment import Cast, assign
from finetui.rating.power import item_power
from finetui.rating.sequential import StopRule, decide
from finetui.rating.statistics import bootstrap, sign_test

Draw = random.Random


def item_means(
    draw: Draw, items: int, raters: int, share: float, icc: float, ties: float
) -> list[float]:
    """Means of the raters' scores, with votes that correlate by ``icc`` within an item."""
    means = []
    for _ in range(items):
        lean = draw.betavariate(share * (1 - icc) / icc, (1 - share) * (1 - icc) / icc)
        votes = [0.5 if draw.random() < ties else draw.random() < lean for _ in range(raters)]
        means.append(sum(votes) / raters)
    return means


def significant(means: list[float]) -> bool:
    """What the report's test says."""
    return sign_test(sum(m > 0.5 for m in means), sum(m < 0.5 for m in means)) < 0.05


def rate(draw: Draw, runs: int, once: Callable[[Draw], bool]) -> float:
    """How often something happens."""
    return sum(once(draw) for _ in range(runs)) / runs


def report(name: str, found: float, promise: str, runs: int, broken: float) -> bool:
    """Print one line; True where ``broken`` (excess over the promise) is beyond chance."""
    error = math.sqrt(max(found * (1 - found), 1e-6) / runs)
    bad = broken > 3 * error
    print(f"{name:<52} {found:7.2%} +- {error:.2%}   {promise:<18} {'BROKEN' if bad else 'ok'}")
    return bad


def false_alarms(draw: Draw, runs: int) -> list[bool]:
    """The tests of the report when nobody prefers anything."""
    bad = []
    for raters, icc in ((1, 0.3), (3, 0.3), (3, 0.5), (5, 0.5)):
        found = rate(draw, runs, lambda d: significant(item_means(d, 100, raters, 0.5, icc, 0.2)))  # noqa: B023
        name = f"report, {raters} raters an item, icc {icc}"
        bad.append(report(name, found, "<= 5%", runs, found - 0.05))
    rules = [
        StopRule(kind="e-process"),
        StopRule(kind="e-process", process="beta-binomial"),
        StopRule(kind="looks", looks=(50, 100, 150, 200)),
    ]
    fewer = max(1, runs // 4)
    for rule in rules:
        found = rate(
            draw, fewer,
            lambda d: decide(rule, item_means(d, 200, 3, 0.5, 0.4, 0.25)).why == "boundary",  # noqa: B023
        )  # fmt: skip
        name = (
            "scheduled looks" if rule.looks else f"e-process, {rule.process}, every item looked at"
        )
        bad.append(report(name, found, "<= 5%", fewer, found - 0.05))
    return bad


def power(draw: Draw, runs: int) -> list[bool]:
    """The report's power against the calculator's."""
    bad = []
    for items, share, raters, icc in ((210, 0.6, 1, 0.3), (100, 0.62, 3, 0.3), (80, 0.65, 2, 0.5)):
        told = item_power(items, share, raters, 0.25, icc)
        found = rate(
            draw,
            runs,
            lambda d: significant(item_means(d, items, raters, share, icc, 0.25)),  # noqa: B023
        )
        name = f"power, {items} items, {share:.0%}, {raters} raters, icc {icc}"
        bad.append(report(name, found, f"{told:.1%} +- 2 pts", runs, abs(found - told) - 0.02))
    return bad


def coverage(draw: Draw, runs: int) -> list[bool]:
    """How often the bootstrap interval holds the true share."""
    fewer, truth = max(1, runs // 10), 0.25 * 0.5 + 0.75 * 0.6

    def held(d: Draw) -> bool:
        means = item_means(d, 100, 3, 0.6, 0.3, 0.25)
        low, high = bootstrap(means, fmean, resamples=500, seed=d.randrange(1 << 30))
        return low <= truth <= high

    found = rate(draw, fewer, held)
    return [
        report("coverage of the share's interval, 100 items", found, ">= 93%", fewer, 0.93 - found)
    ]


def balance(keys: int) -> list[bool]:
    """The worst imbalance of sides over many keys, a hundred items, two raters."""
    cast = Cast([f"item-{n}" for n in range(100)])
    worst = 0.0
    for number in range(keys):
        key = number.to_bytes(32, "big")
        for slots in assign(key, "s", cast, ("a", "b"), 0.0).values():
            left = sum(slot.candidate_left for slot in slots)
            worst = max(worst, abs(left - len(slots) / 2))
    print(f"{f'worst imbalance of sides over {keys:,} keys':<52} {worst:7.1f}            <= 1")
    return [worst > 1]


def main() -> int:
    """Run everything; status 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    draw, began = Draw(arguments.seed), time.monotonic()
    bad = false_alarms(draw, arguments.runs) + power(draw, arguments.runs)
    bad += coverage(draw, arguments.runs) + balance(arguments.runs)
    print(f"{time.monotonic() - began:.0f} s")
    return int(any(bad))


if __name__ == "__main__":
    sys.exit(main())
