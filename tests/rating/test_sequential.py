"""Always-valid stopping and scheduled looks: published figures and exact error rates."""

from __future__ import annotations

import math
import random

import pytest

from finetui.rating.sequential import (
    BETS,
    StopRule,
    beta_binomial,
    betting,
    boundaries,
    confidence_sequence,
    crossing,
    decide,
    expected,
    finished,
    mean_sequence,
    spent,
)
from finetui.rating.statistics import sign_test
from finetui.rating.verdict import Vote
from finetui.rating.votes import Choice

ANY_TIME = StopRule(kind="e-process", process="beta-binomial")
BETTING = StopRule(kind="e-process")


@pytest.mark.parametrize(
    ("wins", "n", "prior", "value"),
    [
        (15, 20, 1, 3.220601),
        (70, 100, 5, 540.1697),
        (120, 200, 5, 10.02827),
        (180, 300, 1, 29.71628),
    ],
)
def test_e_values(wins: int, n: int, prior: float, value: float) -> None:
    assert beta_binomial(wins, n - wins, prior) == pytest.approx(value, rel=5e-7)
    assert beta_binomial(n - wins, wins, prior) == pytest.approx(value, rel=5e-7)


def test_the_closed_form_with_a_uniform_prior() -> None:
    assert beta_binomial(7, 3, 1) == pytest.approx(2**10 / (11 * math.comb(10, 7)))


def test_confidence_sequences() -> None:
    assert confidence_sequence(70, 30, 1) == pytest.approx((0.5428, 0.8306), abs=5e-5)
    assert confidence_sequence(180, 120, 5) == pytest.approx((0.5099, 0.6858), abs=5e-5)
    assert confidence_sequence(0, 0) == (0, 1)


@pytest.mark.parametrize(("cap", "power"), [(200, 0.55), (300, 0.76), (400, 0.88)])
def test_the_power_of_the_capped_process_at_60_to_40(cap: int, power: float) -> None:
    assert expected(ANY_TIME, 0.6, cap).power == pytest.approx(power, abs=5e-3)


def test_mean_items_until_the_process_stops() -> None:
    for share, items in ((0.6, 215), (0.65, 94), (0.7, 55), (0.8, 26)):
        assert expected(ANY_TIME, share, 1000).mean_items == pytest.approx(items, abs=1.5)


@pytest.mark.parametrize("prior", [0.5, 1, 5, 10])
def test_looking_after_every_item_keeps_the_level(prior: float) -> None:
    rule = StopRule(kind="e-process", process="beta-binomial", prior=prior)
    assert 0.02 < expected(rule, 0.5, 1000).power <= 0.05


def test_looking_at_the_plain_sign_test_raises_false_alarms_in_three_of_ten_sessions() -> None:
    counts = list(range(1, 301))
    limits, limit = [], -1
    for n in counts:
        while sign_test(limit + 1, n - limit - 1) <= 0.05:
            limit += 1
        limits.append(limit if n >= 10 else -1)
    assert crossing(counts, limits, 0.5).power == pytest.approx(0.294, abs=0.02)


def test_obrien_flemings_classical_boundaries() -> None:
    # Normal boundaries with the constants 2.024 and 2.040 on 210 decisive answers, exact.
    for looks, constant, level, mean in ((4, 2.024, 0.051, 169), (5, 2.040, 0.053, 164)):
        counts = [210 * k // looks for k in range(1, looks + 1)]
        limits = [
            math.floor((n - constant * math.sqrt(looks / k * n)) / 2)
            for k, n in enumerate(counts, 1)
        ]
        assert crossing(counts, limits, 0.5).power == pytest.approx(level, abs=2e-3)
        at_60 = crossing(counts, limits, 0.6)
        assert at_60.power == pytest.approx(0.827, abs=5e-3)
        assert at_60.mean_items == pytest.approx(mean, abs=2.5)


@pytest.mark.parametrize("counts", [[52, 105, 157, 210], [10, 20, 30], [7, 7, 40], [0, 25]])
def test_our_boundaries_never_exceed_what_may_be_spent(counts: list[int]) -> None:
    fractions = [(k + 1) / len(counts) for k in range(len(counts))]
    limits = boundaries(counts, fractions)
    for k, fraction in enumerate(fractions, 1):
        assert crossing(counts[:k], limits[:k], 0.5).power <= spent(fraction) + 1e-9
    assert spent(1) == pytest.approx(0.05)


def test_one_look_at_the_end_is_the_sign_test() -> None:
    (limit,) = boundaries([40], [1.0])
    assert sign_test(40 - limit, limit) <= 0.05 < sign_test(39 - limit, limit + 1)


def test_bettors_ignore_ties_and_gain_from_a_preference() -> None:
    assert betting([0.5] * 10)[-1] == pytest.approx(1)
    assert betting([1.0] * 10) == pytest.approx(betting([0.0] * 10))
    with_ties = betting([1, 0.5, 1, 0.5, 0.5, 1])
    assert with_ties[-1] == pytest.approx(betting([1, 1, 1])[-1])
    assert betting([1.0])[0] == pytest.approx(1), "one item says nothing about its own side"
    squares = sum(bet * bet for bet in BETS) / len(BETS)
    assert betting([1.0, 1.0])[1] == pytest.approx(1 + squares)


def test_the_bettors_interval_holds_what_was_not_ruled_out() -> None:
    scores = [1, 1, 0, 1, 0.5, 2 / 3] * 20
    low, high = mean_sequence(scores)
    assert low < sum(scores) / len(scores) < high
    for mean, out in ((low - 0.005, True), (low + 0.005, False), (high + 0.005, True)):
        assert (betting(scores, mean)[-1] >= 20) is out
    assert mean_sequence([]) == (0, 1)
    assert mean_sequence([1.0] * 30).high == pytest.approx(1)


def test_peeking_at_item_means_of_three_correlated_raters_keeps_the_level() -> None:
    draw, runs, alarms = random.Random(11), 400, 0
    for _ in range(runs):
        scores = []
        for _ in range(120):
            lean = draw.betavariate(0.75, 0.75)
            votes = [0.5 if draw.random() < 0.25 else float(draw.random() < lean) for _ in range(3)]
            scores.append(sum(votes) / 3)
        alarms += decide(BETTING, scores).stop
    assert alarms / runs <= 0.05


def test_a_decision_stays_what_it_was_and_the_cap_ends_the_rating() -> None:
    clear = [1.0] * 30
    stopped = decide(BETTING, clear)
    assert stopped.stop
    assert stopped.why == "boundary"
    assert decide(BETTING, clear + [0.0] * 200)[:3] == stopped[:3]
    capped = StopRule(kind="e-process", cap=20)
    assert decide(capped, [1.0, 0.0] * 9).stop is False
    assert decide(capped, [1.0, 0.0] * 10)[:3] == (True, "cap", 20)
    assert decide(capped, [1.0, 0.0] * 10 + [1.0] * 50).why == "cap", "the cap was registered"
    assert decide(StopRule(), clear).stop is False


def test_looks_happen_when_they_were_registered_and_not_between() -> None:
    rule = StopRule(kind="looks", looks=(20, 40))
    assert not decide(rule, [1.0] * 19).stop
    assert decide(rule, [1.0] * 20)[:3] == (True, "boundary", 20)
    even = [1.0, 0.0] * 20
    assert decide(rule, even[:30]).stop is False
    assert decide(rule, even)[:3] == (True, "planned end", 40)
    assert not decide(rule, [0.5] * 20).stop, "ties alone cross nothing"


def vote(rater: str, item: str, choice: str, at: float) -> Vote:
    return Vote(
        rater=rater, item=item, kind="item", choice=Choice(choice), left="new", right="old", at=at
    )


def test_only_items_that_all_their_raters_answered_count_in_the_order_of_finishing() -> None:
    votes = [
        vote("ann", "a", "L", 1), vote("ann", "b", "R", 2), vote("ann", "c", "S", 3),
        vote("bob", "b", "L", 4), vote("bob", "a", "L", 5), vote("bob", "c", "S", 6),
        vote("ann", "d", "L", 7), vote("ann", "e", "G", 8),
    ]  # fmt: skip
    raters = {"a": "ab", "b": "ab", "c": "ab", "d": "ab", "e": "a"}
    names = {"a": "ann", "b": "bob"}
    raters_of = {item: [names[k] for k in keys] for item, keys in raters.items()}
    assert finished(votes, raters_of, "new") == [0.5, 1.0, 0.5]
    assert finished(votes, raters_of, "old") == [0.5, 0.0, 0.5]


def test_the_rule_says_itself_in_words() -> None:
    assert StopRule().sentence.startswith("fixed")
    assert "at most 300 items" in StopRule(kind="e-process", cap=300).sentence
    assert "50, 100" in StopRule(kind="looks", looks=(50, 100)).sentence
