"""Bradley-Terry and Davidson against published tables, and their guards."""

from __future__ import annotations

import math
import random

import pytest

from finetui.rating.algebra import Singular
from finetui.rating.ranking import ELO, Disconnected, Match, estimate, rank


def table(*rows: tuple[object, ...]) -> list[Match]:
    """Rows of left, right, wins, losses and perhaps ties."""
    found = []
    for left, right, *counts in rows:
        for score, count in zip((1.0, 0.0, 0.5), counts, strict=False):
            if count:
                found.append(Match(str(left), str(right), score, None, float(str(count))))
    return found


def test_the_worked_example_of_wikipedia() -> None:
    found = estimate(
        table(("A", "B", 2, 3), ("A", "D", 1, 4), ("B", "C", 5, 3), ("C", "D", 1, 3)), robust=False
    )
    worths = [math.exp(strength) for strength in found.strengths]
    assert worths == pytest.approx([0.640, 1.043, 0.660, 2.270], abs=5e-4)


# Agresti, Categorical Data Analysis, table 10.10: home team's wins and losses, 1987.
TEAMS = ("Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore")
AT_HOME = """
    4-3 4-2 4-3 6-1 4-2 6-0   3-3 4-2 4-3 6-0 6-1 4-3   2-5 4-3 2-4 4-3 4-2 6-0
    3-3 5-1 2-5 4-3 4-2 6-1   5-1 2-5 3-3 4-2 5-2 6-0   2-5 3-3 3-4 4-3 4-2 2-4
    2-5 1-5 1-6 2-4 1-6 3-4
"""


def baseball() -> list[Match]:
    scores = iter(AT_HOME.split())
    return table(
        *(
            (home, away, *map(int, next(scores).split("-")))
            for home in TEAMS
            for away in TEAMS
            if home != away
        )
    )


def test_agrestis_baseball_without_and_with_the_home_field() -> None:
    plain, home = (estimate(baseball(), side=side, robust=False) for side in (False, True))
    base = plain.strengths[plain.systems.index("Baltimore")]
    order = ("Cleveland", "Boston", "New York", "Toronto", "Detroit", "Milwaukee")
    against = [plain.strengths[plain.systems.index(team)] - base for team in order]
    assert against == pytest.approx([0.68, 1.11, 1.25, 1.29, 1.44, 1.58], abs=5e-3)
    errors = [plain.difference_error(k, 0) for k in range(1, 7)]
    assert plain.systems[0] == "Baltimore"
    assert all(0.3 < error < 0.35 for error in errors)
    assert plain.deviance == pytest.approx(44.053, abs=5e-4)
    assert home.deviance == pytest.approx(38.643, abs=5e-4)
    assert home.gamma == pytest.approx(0.302, abs=5e-4)
    assert home.gamma_error == pytest.approx(0.1309, abs=5e-5)
    worths = [math.exp(strength) for strength in home.strengths]
    shares = sorted(worth / sum(worths) for worth in worths)
    assert shares == pytest.approx([0.044, 0.088, 0.137, 0.157, 0.164, 0.190, 0.220], abs=5e-4)


def test_stiglers_citations_between_journals() -> None:
    found = estimate(
        table(
            ("Biometrika", "CommStat", 730, 33), ("Biometrika", "JASA", 498, 320),
            ("Biometrika", "JRSS-B", 221, 284), ("CommStat", "JASA", 68, 813),
            ("CommStat", "JRSS-B", 17, 276), ("JASA", "JRSS-B", 142, 325),
        ),
        robust=False,
    )  # fmt: skip
    against = [strength - found.strengths[0] for strength in found.strengths[1:]]
    assert against == pytest.approx([-2.9491, -0.4796, 0.2690], abs=5e-5)


# Davidson 1970, example 2: brands of chocolate pudding; preferred, not preferred, no preference.
PUDDING = """
    12:19-22-16 13:16-19-12 23:19-19-10 14:18-23-13 24:23-19-9 34:19-20-15 15:13-19-18 25:16-20-12
    35:16-15-17 45:17-14-16 16:18-21-12 26:22-20-12 36:13-18-10 46:14-19-18 56:11-21-12
"""


def test_davidsons_pudding() -> None:
    rows = [(cell[0], cell[1], *map(int, cell[3:].split("-"))) for cell in PUDDING.split()]
    found = estimate(table(*rows), robust=False)
    worths = [math.exp(strength) for strength in found.strengths]
    shares = [worth / sum(worths) for worth in worths]
    assert shares == pytest.approx([0.13880, 0.17300, 0.16175, 0.16537, 0.15869, 0.20239], abs=5e-6)
    assert found.nu == pytest.approx(0.74682, abs=5e-6)


ARENA = (("base", "ft1", 30, 55, 15), ("base", "ft2", 25, 60, 20), ("ft1", "ft2", 40, 45, 25))


def test_an_arena_table_with_ties_as_half_wins() -> None:
    found = estimate(table(*ARENA), halves=True, robust=False)
    elo = [1000 + ELO * strength for strength in found.strengths]
    assert elo == pytest.approx([930.2738, 1024.5887, 1045.1375], abs=5e-5)


def test_two_systems_have_a_closed_form() -> None:
    davidson = estimate(table(("a", "b", 70, 40, 30)), robust=False)
    assert davidson.strengths[0] - davidson.strengths[1] == pytest.approx(math.log(70 / 40))
    assert davidson.strengths[0] - davidson.strengths[1] == pytest.approx(0.559616, abs=5e-7)
    assert davidson.nu == pytest.approx(0.566947, abs=5e-7)
    half = estimate(table(("a", "b", 70, 40, 30)), halves=True, robust=False)
    assert half.strengths[0] - half.strengths[1] == pytest.approx(0.435318, abs=5e-7)


def test_the_ranking_says_which_ranks_the_intervals_allow() -> None:
    found = rank(table(*ARENA))
    assert [place.system for place in found.places] == ["ft2", "ft1", "base"]
    assert (found.places[2].best, found.places[2].worst) == (3, 3)
    assert (found.places[0].best, found.places[1].worst) == (1, 2)
    assert found.model == "Davidson"
    assert found.verdicts == 315
    assert not found.smoothed


def test_a_system_that_never_lost_gets_half_a_loss_and_a_note() -> None:
    found = rank(table(("a", "b", 10, 0), ("b", "c", 6, 4), ("a", "c", 9, 0)))
    assert found.smoothed
    assert found.places[0].system == "a"
    assert math.isfinite(found.places[0].strength)
    with pytest.raises(Singular):
        estimate(table(("a", "b", 10, 0)))


def test_systems_that_were_never_compared_are_not_ranked() -> None:
    with pytest.raises(Disconnected):
        rank(table(("a", "b", 3, 2), ("c", "d", 1, 4)))


def test_votes_on_one_item_that_repeat_each_other_do_not_shrink_the_intervals() -> None:
    draw = random.Random(5)
    once = []
    for item in range(60):
        left, right = draw.sample("abc", 2)
        ahead = left if draw.random() < 0.6 else right
        once.append(Match(left, right, float(ahead == left), item))
    thrice = [match for match in once for _ in range(3)]
    alone, together = estimate(once, robust=True), estimate(thrice, robust=True)
    naive = estimate(thrice, robust=False)
    assert together.difference_error(0, 1) == pytest.approx(alone.difference_error(0, 1))
    assert naive.difference_error(0, 1) < 0.7 * together.difference_error(0, 1)


def test_a_pull_to_the_left_is_not_taken_for_strength() -> None:
    found = rank(table(("a", "b", 30, 10), ("b", "a", 30, 10)))
    assert found.gamma == pytest.approx(math.log(3), abs=1e-6)
    assert found.places[0].strength == pytest.approx(0, abs=1e-6)
    one_way = rank(table(("a", "b", 30, 10)))
    assert one_way.gamma == 0, "with one order only, side and strength are one"
