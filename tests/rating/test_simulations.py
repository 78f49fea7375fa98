"""The report under no difference, and under a known one, many times over.

Fast versions; benchmarks/rating_simulations.py runs them at length.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from finetui.rating.analysis import compare
from finetui.rating.assignment import Cast, assign
from finetui.rating.power import item_power
from finetui.rating.sequential import StopRule, decide, finished
from finetui.rating.statistics import sign_test
from finetui.rating.verdict import Vote, item_table
from finetui.rating.votes import Choice

PAIR = ("old", "new")


def votes(
    draw: random.Random, items: int, raters: int, share: float, *, icc: float, ties: float = 0.25
) -> Iterator[Vote]:
    """Votes that correlate by ``icc`` within an item; sides alternate."""
    for item in range(items):
        lean = draw.betavariate(share * (1 - icc) / icc, (1 - share) * (1 - icc) / icc)
        for rater in range(raters):
            left = "new" if (item + rater) % 2 else "old"
            if draw.random() < ties:
                choice = draw.choice((Choice.BOTH_GOOD, Choice.BOTH_BAD))
            else:
                choice = Choice.LEFT if (draw.random() < lean) == (left == "new") else Choice.RIGHT
            yield Vote(
                rater=f"r{rater}", item=f"i{item}", kind="item", choice=choice,
                left=left, right="old" if left == "new" else "new", at=item * raters + rater,
            )  # fmt: skip


def signs(found: list[Vote]) -> tuple[int, int]:
    """(items won, items lost) as the report counts them."""
    table = item_table(found, "new")
    means = [sum(row.values()) / len(row) for row in table.values()]
    return sum(mean > 0.5 for mean in means), sum(mean < 0.5 for mean in means)


def test_three_correlated_raters_an_item_raise_no_more_false_alarms_than_alpha() -> None:
    draw, runs = random.Random(12), 500
    alarms = naive = 0
    for _ in range(runs):
        found = list(votes(draw, 60, 3, 0.5, icc=0.5, ties=0.0))
        alarms += sign_test(*signs(found)) < 0.05
        wins = sum(vote.winner == "new" for vote in found)
        naive += sign_test(wins, len(found) - wins) < 0.05
    assert alarms / runs <= 0.05
    assert naive / runs > 0.08, "a test over votes must show what the items protect from"


def test_the_report_finds_a_preference_as_often_as_the_calculator_says() -> None:
    draw, runs, items = random.Random(3), 500, 80
    hits = sum(
        sign_test(*signs(list(votes(draw, items, 2, 0.66, icc=0.3)))) < 0.05 for _ in range(runs)
    )
    # Two standard errors of this many runs are four points.
    assert abs(hits / runs - item_power(items, 0.66, 2, 0.25, 0.3)) < 0.04


def test_stopping_at_any_item_raises_no_more_false_alarms_than_alpha() -> None:
    draw, runs, rule = random.Random(8), 200, StopRule(kind="e-process", cap=100)
    raters_of = {f"i{n}": ("r0", "r1", "r2") for n in range(100)}
    alarms = 0
    for _ in range(runs):
        found = list(votes(draw, 100, 3, 0.5, icc=0.4))
        alarms += decide(rule, finished(found, raters_of, "new")).why == "boundary"
    assert alarms / runs <= 0.05


def test_the_bootstrap_interval_holds_the_true_share_about_as_often_as_it_says() -> None:
    draw, runs = random.Random(6), 60
    hits = 0
    for seed in range(runs):
        found = compare(list(votes(draw, 60, 3, 0.6, icc=0.3)), PAIR, seed=seed, resamples=200)
        hits += found.interval.low <= 0.25 * 0.5 + 0.75 * 0.6 <= found.interval.high
    assert hits / runs >= 0.85


def test_sides_are_out_of_balance_by_one_at_most() -> None:
    cast = Cast([f"i{n}" for n in range(100)])
    for number in range(40):
        key = number.to_bytes(32, "big")
        for slots in assign(key, "trial", cast, ("ann", "bob"), 0.0).values():
            left = sum(slot.candidate_left for slot in slots)
            assert abs(left - (len(slots) - left)) <= 2
            assert abs(left - 50) <= 1
