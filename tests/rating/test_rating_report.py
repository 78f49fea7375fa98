"""The report against numbers worked out by hand."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from rating_cases import (
    CANDIDATE,
    REFERENCE,
    by_system,
    make_items,
    make_session,
    placements,
    vote_by,
)

from finetui.rating.analysis import Report
from finetui.rating.ballot import Ballot
from finetui.rating.report import WIDTH, as_json, as_markdown, as_text
from finetui.rating.session import Session
from finetui.rating.statistics import sign_test
from finetui.rating.unseal import report, unseal


def answers(letters: str) -> dict[str, str]:
    """row-0 gets the first letter, and so on: W candidate, X reference, G, B, S."""
    return {f"row-{n}": letter for n, letter in enumerate(letters)}


def rated(session: Session, **letters: str) -> Report:
    for rater, own in letters.items():
        vote_by(session, rater, by_system(session, answers(own)))
    unseal(session, "test")
    return report(session)


def test_one_rater_by_hand(tmp_path: Path) -> None:
    # 15 items: 3 identical; of the 12 shown 6 wins, 2 losses, 1 both good, 2 both bad, 1 skip.
    session = make_session(tmp_path, 15, identical=(12, 13, 14))
    found = rated(session, ann="WWWWWWXXGBBS...")
    assert (found.items, found.shown, found.identical, found.rated) == (15, 12, 3, 11)
    tally = found.tally
    assert (tally.wins, tally.losses, tally.ties_good, tally.ties_bad, tally.skips) == (
        6,
        2,
        1,
        2,
        1,
    )
    assert (found.items_won, found.items_lost, found.items_even) == (6, 2, 3)
    assert found.share == pytest.approx((6 + 3 / 2 + 3 / 2) / 14)
    assert found.sign_p == pytest.approx(2 * (1 + 8 + 28) / 2**8)
    assert found.decisive_interval == pytest.approx((0.4093, 0.9285), abs=5e-5)
    assert found.share_interval.low < found.share < found.share_interval.high
    assert found.agreement is None
    assert "No preference shown" in found.verdict
    assert any("Fewer than 20" in note for note in found.notes)
    assert any("1 of 12 shown items have no answer" in note for note in found.notes)
    assert any("tamper-evident" in note for note in found.notes)


def test_two_raters_by_hand_are_averaged_item_by_item(tmp_path: Path) -> None:
    session = make_session(tmp_path, 6, raters=("ann", "bob"))
    found = rated(session, ann="WWWXGS", bob="WXWXWW")
    # item means: 1, .5, 1, 0, .75, 1
    assert found.share == pytest.approx(4.25 / 6)
    assert (found.items_won, found.items_lost, found.items_even) == (4, 1, 1)
    assert found.sign_p == pytest.approx(2 * (1 + 5) / 2**5)
    agreement = found.agreement
    assert agreement is not None
    assert agreement.items == 5
    assert (agreement.same, agreement.pairs) == (3, 5)
    assert (agreement.same_decisive, agreement.pairs_decisive) == (3, 4)
    # Nominal by hand: values W 6, X 3, G 1 of 10; D_o = 4/10; D_e = (6*4 + 3*7 + 1*9)/(10*9).
    assert agreement.alpha_nominal == pytest.approx(1 - 0.4 / (54 / 90))
    # AC1 by hand: observed 3/5; shares of W, X and G averaged over 6 items, one with one vote.
    shares = [(1 + 0.5 + 1 + 0 + 0.5 + 1) / 6, (0.5 + 1) / 6, 0.5 / 6]
    chance = sum(p * (1 - p) for p in shares) / 3
    assert agreement.ac1 == pytest.approx((0.6 - chance) / (1 - chance))
    assert [row.tally.total for row in found.raters] == [6, 6]


def test_a_rater_who_always_takes_the_left_shows_as_side_bias_and_not_as_preference(
    tmp_path: Path,
) -> None:
    session = make_session(tmp_path, 100)
    vote_by(session, "ann", lambda item: "L")
    unseal(session, "test")
    found = report(session)
    side = found.side_bias
    assert (side.left, side.decisive) == (100, 100)
    assert side.p < 1e-20
    assert side.gamma > 3
    assert side.gamma_interval.low > 3
    assert abs(found.tally.wins - 50) <= 1
    assert found.repeats.pairs == 10
    assert found.repeats.same == 0
    assert found.repeats.same_side == 10


def test_a_steady_rater_answers_the_repeats_alike_and_shows_no_side_bias(tmp_path: Path) -> None:
    session = make_session(tmp_path, 40)
    found = rated(session, ann="WWWX" * 10)
    assert (found.repeats.pairs, found.repeats.same, found.repeats.same_side) == (4, 4, 0)
    assert found.tally.total == 40, "repeats must not count twice"
    assert (found.tally.wins, found.items_won) == (30, 30)
    assert found.side_bias.gamma_interval.low < 0 < found.side_bias.gamma_interval.high
    assert f"{CANDIDATE} was preferred" in found.verdict


def test_the_reference_can_win_too(tmp_path: Path) -> None:
    found = rated(make_session(tmp_path, 12), ann="X" * 12)
    assert f"{REFERENCE} was preferred to {CANDIDATE}" in found.verdict
    assert found.share == 0


def test_an_unrated_session_reports_that_there_is_no_result(tmp_path: Path) -> None:
    session = make_session(tmp_path, 12)
    unseal(session, "too early")
    found = report(session)
    assert math.isnan(found.share)
    assert "no result" in found.verdict
    assert "no result" in as_text(found)
    assert json.loads(as_json(found))["share"] is None


def test_skips_only_leave_an_item_out(tmp_path: Path) -> None:
    found = rated(make_session(tmp_path, 3), ann="SSW")
    assert (found.rated, found.tally.skips, found.share) == (1, 2, 1.0)


def test_from_five_raters_on_the_raters_are_resampled_too(tmp_path: Path) -> None:
    raters = ("ann", "bob", "cy", "dee", "eli")
    session = make_session(tmp_path, 24, raters=raters)
    found = rated(session, ann="W" * 24, bob="W" * 24, cy="W" * 24, dee="X" * 24, eli="X" * 24)
    assert found.resampled == "items and raters"
    assert found.share == pytest.approx(0.6)
    assert found.share_interval.high - found.share_interval.low > 0.5


def test_three_correlated_raters_an_item_do_not_raise_false_alarms() -> None:
    # Under no difference, votes correlated within items: the item-level test keeps its level.
    draw = random.Random(12)
    alarms = 0
    for _ in range(2000):
        won = lost = 0
        for _ in range(60):
            lean = draw.random() < 0.5
            votes = [(lean if draw.random() < 0.7 else draw.random() < 0.5) for _ in range(3)]
            won += sum(votes) > 1
            lost += sum(votes) < 2
        alarms += sign_test(won, lost) < 0.05
    assert alarms / 2000 <= 0.06


def full_report(folder: Path) -> Report:
    session = make_session(folder, 30, raters=("ann", "bob"), identical=(1,))
    truth = placements(session)
    draw = random.Random(1)
    for rater in session.raters:
        with Ballot(session, rater) as ballot:
            ballot.recognised()
            while ballot.current is not None:
                left = truth[ballot.current.pid].left == CANDIDATE
                likes = draw.random() < 0.75
                choice = draw.choices(["G", "B", "S", "L" if left == likes else "R"], [1, 1, 1, 9])[
                    0
                ]
                ballot.vote(choice, active_ms=draw.randrange(1000, 90000))
    unseal(session, "a | reason\nwith *marks* and \x1b[31m")
    return report(session)


def test_the_text_fits_a_plain_terminal_and_names_every_part(tmp_path: Path) -> None:
    text = as_text(full_report(tmp_path))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "\x1b" not in text
    for part in (
        f"Win share of {CANDIDATE}", "Sign test", "95% Wilson", "Left side", "gamma", "both good",
        "both bad", "cannot judge", "identical", "Repeats", "alpha", "AC1", "ann (1)", "Bang",
    ):  # fmt: skip
        assert part in text, part


def test_the_markdown_names_its_formulae_and_keeps_data_out_of_its_markup(tmp_path: Path) -> None:
    page = as_markdown(full_report(tmp_path))
    for name in (
        "sign test",
        "Wilson",
        "bootstrap",
        "Krippendorff",
        "AC1",
        "Bradley-Terry",
        "seed",
    ):
        assert name in page
    assert "a \\| reason" in page
    assert "\\*marks\\*" in page
    assert "\x1b" not in page
    for row in (line for line in page.splitlines() if line.startswith("|")):
        assert row.endswith("|")


def test_the_json_is_one_valid_object_with_the_same_figures(tmp_path: Path) -> None:
    found = full_report(tmp_path)
    data = json.loads(as_json(found), parse_constant=lambda name: pytest.fail(name))
    assert data["share"] == found.share
    assert data["tally"]["wins"] == found.tally.wins
    assert data["verdict"] == found.verdict
    assert data["systems"] == [REFERENCE, CANDIDATE]


def test_the_report_is_the_same_every_time(tmp_path: Path) -> None:
    session = make_session(tmp_path, 24)
    first = rated(session, ann="WX" * 12)
    assert report(session) == first
    assert len(make_items(24)) == first.items
