"""The report against numbers worked out by hand, from plain votes."""

from __future__ import annotations

import json
import math
import random
import re
from functools import cache
from html.parser import HTMLParser
from typing import Any

import pytest

from finetui.rating.analysis import Design, Opening, Report, analyse
from finetui.rating.figures import pictures
from finetui.rating.guessing import audit
from finetui.rating.html import as_html
from finetui.rating.report import WIDTH, as_json, as_markdown, as_text
from finetui.rating.sequential import StopRule
from finetui.rating.verdict import CATCH, Vote
from finetui.rating.votes import Choice

OLD, NEW = "plainfish", "tunedfish"
TIES = {"G": Choice.BOTH_GOOD, "B": Choice.BOTH_BAD, "S": Choice.SKIP}
OPENING = Opening(by="root", at=1_767_323_045.0, reason="done")


def vote(rater: str, n: int, letter: str, pair: tuple[str, str] = (OLD, NEW), **more: Any) -> Vote:
    """Item ``n`` answered W (new), X (old), G, B or S; raters and items alternate the sides."""
    old, new = pair
    left, right = (new, old) if (n + len(rater)) % 2 else (old, new)
    wanted = new if letter == "W" else old
    choice = TIES.get(letter) or (Choice.LEFT if left == wanted else Choice.RIGHT)
    fields = {"kind": "item", "seq": n + 1, "at": float(n), "active_ms": 2000, **more}
    return Vote(rater=rater, item=f"row-{n}", choice=choice, left=left, right=right, **fields)


def swapped(vote: Vote, choice: Choice) -> Vote:
    """The same item again with the sides changed."""
    return Vote(
        rater=vote.rater, item=vote.item, kind="repeat", choice=choice,
        left=vote.right, right=vote.left, seq=vote.seq + 20,
    )  # fmt: skip


def letters(**raters: str) -> list[Vote]:
    return [vote(rater, n, letter) for rater, own in raters.items() for n, letter in enumerate(own)]


def design(votes: list[Vote], **more: Any) -> Design:
    raters = tuple(dict.fromkeys(vote.rater for vote in votes))
    shown = len({vote.item for vote in votes})
    identical = tuple((item, OLD, NEW) for item in more.pop("identical", ()))
    fields: dict[str, Any] = {
        "session": "trial", "question": "Which is better?", "endpoint": "win share over items",
        "created": "2026-01-02T03:04:05Z", "systems": (OLD, NEW), "raters": raters,
        "packets": {rater: sum(v.rater == rater for v in votes) for rater in raters},
        "items": shown + len(identical), "shown": shown, "identical": identical, "seed": 7,
    }  # fmt: skip
    return Design(**{**fields, **more})


def reported(votes: list[Vote], **more: Any) -> Report:
    return analyse(votes, design(votes, **more), OPENING)


def test_one_rater_by_hand() -> None:
    # 15 items: 3 identical; of the 12 shown 6 wins, 2 losses, 1 both good, 2 both bad, 1 skip.
    found = reported(letters(ann="WWWWWWXXGBBS"), identical=("a", "b", "c"))
    main, tally = found.main, found.tally
    assert (found.items, found.shown, main.identical, main.rated) == (15, 12, 3, 11)
    counts = (tally.wins, tally.losses, tally.ties_good, tally.ties_bad, tally.skips)
    assert counts == (6, 2, 1, 2, 1)
    assert (main.items_won, main.items_lost, main.items_even) == (6, 2, 3)
    assert found.share == pytest.approx((6 + 3 / 2 + 3 / 2) / 14)
    assert found.sign_p == pytest.approx(2 * (1 + 8 + 28) / 2**8)
    assert main.decisive_interval == pytest.approx((0.4093, 0.9285), abs=5e-5)
    assert found.share_interval.low < found.share < found.share_interval.high
    assert found.agreement is None
    assert "No preference shown" in found.verdict
    assert any("Fewer than 20" in note for note in found.notes)
    assert any("1 of 12 shown items have no answer" in note for note in found.notes)


def test_two_raters_by_hand_are_averaged_item_by_item() -> None:
    found = reported(letters(ann="WWWXGS", bobby="WXWXWW"))
    # item means: 1, .5, 1, 0, .75, 1
    assert found.share == pytest.approx(4.25 / 6)
    main = found.main
    assert (main.items_won, main.items_lost, main.items_even) == (4, 1, 1)
    assert found.sign_p == pytest.approx(2 * (1 + 5) / 2**5)
    agreement = found.agreement
    assert agreement is not None
    assert agreement.items == 5
    assert (agreement.answers.same, agreement.answers.pairs) == (3, 5)
    assert (agreement.answers.same_decisive, agreement.answers.pairs_decisive) == (3, 4)
    # Nominal by hand: values W 6, X 3, G 1 of 10; D_o = 4/10; D_e = (6*4 + 3*7 + 1*9)/(10*9).
    assert agreement.alpha_nominal == pytest.approx(1 - 0.4 / (54 / 90))
    # AC1 by hand: observed 3/5; shares of W, X and G averaged over 6 items, one with one vote.
    shares = [(1 + 0.5 + 1 + 0 + 0.5 + 1) / 6, (0.5 + 1) / 6, 0.5 / 6]
    chance = sum(p * (1 - p) for p in shares) / 3
    assert agreement.ac1 == pytest.approx((0.6 - chance) / (1 - chance))
    assert [row.tally.total for row in found.raters] == [6, 6]
    assert [row.against_rest.pairs for row in found.raters] == [5, 5]


def test_a_rater_who_always_takes_the_left_shows_as_side_bias_and_not_as_preference() -> None:
    lefts = [v.__class__(**{**_fields(v), "choice": Choice.LEFT}) for v in letters(ann="W" * 100)]
    lefts += [swapped(first, Choice.LEFT) for first in lefts[:10]]
    found = reported(lefts)
    side = found.side_bias
    assert (side.left, side.decisive) == (100, 100)
    assert side.p < 1e-20
    assert side.gamma > 3
    assert side.gamma_interval.low > 3
    assert found.tally.wins == 50
    assert (found.repeats.pairs, found.repeats.same, found.repeats.same_side) == (10, 0, 10)
    assert any("One side was preferred" in note for note in found.notes)
    assert any("do not agree with themselves" in note for note in found.notes)


def _fields(vote: Vote) -> dict[str, Any]:
    return {name: getattr(vote, name) for name in vote.__struct_fields__}


def test_a_steady_rater_answers_the_repeats_alike_and_shows_no_side_bias() -> None:
    votes = letters(ann="WWWWX" * 8)
    votes += [
        swapped(v, Choice.RIGHT if v.choice is Choice.LEFT else Choice.LEFT) for v in votes[:4]
    ]
    found = reported(votes)
    assert (found.repeats.pairs, found.repeats.same, found.repeats.same_side) == (4, 4, 0)
    assert found.tally.total == 40, "repeats must not count twice"
    assert (found.tally.wins, found.main.items_won) == (32, 32)
    assert found.side_bias.gamma_interval.low < 0 < found.side_bias.gamma_interval.high
    assert f"{NEW} was preferred" in found.verdict


def test_the_reference_can_win_too() -> None:
    found = reported(letters(ann="X" * 12))
    assert f"{OLD} was preferred to {NEW}" in found.verdict
    assert found.share == 0


def test_an_unrated_session_reports_that_there_is_no_result() -> None:
    found = analyse([], design(letters(ann="W" * 12)), OPENING)
    assert math.isnan(found.share)
    for text in (found.verdict, as_text(found), as_markdown(found), as_html(found)):
        assert "no result" in text
    assert json.loads(as_json(found))["main"]["share"] is None


def test_skips_only_leave_an_item_out() -> None:
    found = reported(letters(ann="SSW"))
    assert (found.rated, found.tally.skips, found.share) == (1, 2, 1.0)


def test_from_five_raters_on_the_raters_are_resampled_too() -> None:
    found = reported(
        letters(ann="W" * 24, bobby="W" * 24, cy="W" * 24, dee="X" * 24, elisa="X" * 24)
    )
    assert found.main.resampled == "items and raters"
    assert found.share == pytest.approx(0.6)
    assert found.share_interval.high - found.share_interval.low > 0.5


def test_votes_of_nobody_in_the_design_and_practice_count_for_nothing() -> None:
    votes = letters(ann="WWWX")
    plan = design(votes)
    more = [vote("eve", 0, "X"), vote("ann", 9, "X", kind="practice")]
    assert analyse(votes + more, plan, OPENING).main == analyse(votes, plan, OPENING).main


def test_a_rater_who_misses_the_catches_is_left_out_as_registered() -> None:
    votes = letters(ann="W" * 20, careless="X" * 20)
    votes += [vote("ann", 30 + n, "W", ("catch", "sound"), kind="catch") for n in range(3)]
    votes += [vote("careless", 30 + n, "X", (CATCH, "sound"), kind="catch") for n in range(3)]
    strict, lax = reported(votes, catch_needed=0.7), reported(votes)
    assert (strict.share, lax.share) == (1.0, 0.5)
    by_name = {row.rater: row for row in strict.raters}
    assert (by_name["ann"].catches.passed, by_name["careless"].catches.passed) == (3, 0)
    assert by_name["careless"].left_out
    assert any("careless" in note for note in strict.notes)
    line = next(one for one in strict.sensitivity if one.name == "with raters who failed")
    assert line.share == 0.5


def test_other_choices_of_votes_stand_beside_the_endpoint() -> None:
    votes = letters(ann="W" * 10, owner="W" * 10)
    votes += [vote("owner", n, "X", recognised=n < 12, confidence=3) for n in range(10, 20)]
    flags = {f"row-{n}": ("cut",) for n in range(10, 14)}
    found = reported(votes, interested=("owner",), flags=flags)
    lines = {one.name: one for one in found.sensitivity}
    assert lines["raters without interest"].share == 1.0
    assert lines["items not marked 'cut'"].items == 16
    assert lines["unrecognised only"].votes == 28
    assert lines["sure votes only"].share == 0.0
    assert "decisive votes only" not in lines, "nothing was tied"
    assert next(row for row in found.raters if row.rater == "owner").interested


def test_non_inferiority_asks_the_lower_end_of_the_interval() -> None:
    even = reported(letters(ann="WX" * 60), margin=0.2)
    assert even.test.significant
    assert "is not worse" in even.verdict
    few = reported(letters(ann="WX" * 6), margin=0.05)
    assert not few.test.significant
    assert "was not shown" in few.verdict


def test_an_e_process_reports_its_own_p_and_a_sequence_not_the_sign_test() -> None:
    # Six wins in a row, then nothing but losses: the sign test sees the losses, the process had
    # already stopped.
    found = reported(letters(ann="W" * 9 + "X" * 9), stop=StopRule(kind="e-process"))
    assert found.sign_p == 1
    assert found.test.significant
    assert found.test.p <= 0.05
    assert f"{NEW} was preferred to {OLD}" in found.verdict, "as it stood when it stopped"
    assert "after" in found.verdict
    assert found.test.sequence is not None
    text = as_text(found)
    assert "Confidence sequence" in text
    assert "Always-valid p" in text


def test_scheduled_looks_report_the_boundary() -> None:
    rule = StopRule(kind="looks", looks=(10, 20))
    crossed = reported(letters(ann="W" * 20), stop=rule)
    assert crossed.test.significant
    assert "boundary" in crossed.verdict
    assert not reported(letters(ann="WX" * 10), stop=rule).test.significant


def test_interim_looks_under_a_fixed_rule_are_held_against_the_p_value() -> None:
    votes = letters(ann="W" * 20)
    opening = Opening(by="root", at=0.0, reason="x", looks=2, own_account={"ann": False})
    found = analyse(votes, design(votes), opening)
    assert any("2 interim looks" in note for note in found.notes)
    assert any("tamper-evident" in note for note in found.notes)


def test_the_end_question_tells_whether_the_blind_held() -> None:
    votes = letters(ann="W" * 20)
    votes += [vote("ann", n, "WWWWWWWXSS"[n], kind="guess") for n in range(10)]
    found = reported(votes)
    assert found.blinding is not None
    overall = found.blinding.overall
    assert (overall.correct, overall.incorrect, overall.unsure) == (7, 1, 2)
    assert overall.index == pytest.approx(0.6)
    assert any("could tell the systems apart" in note for note in found.notes)
    assert found.raters[0].bang == overall
    assert "Bang's index" in as_text(found)


def test_thirds_follow_each_raters_own_order() -> None:
    votes = [
        vote("ann", n, "W" if n < 20 else "G", active_ms=60_000 if n < 10 else 5_000)
        for n in range(30)
    ]
    found = reported(votes)
    assert [third.votes for third in found.thirds] == [10, 10, 10]
    assert [third.tie_rate for third in found.thirds] == [0, 0, 1]
    assert [third.median_s for third in found.thirds] == [60, 5, 5]
    assert any("may have tired" in note for note in found.notes)


def test_criteria_and_tags_are_counted_for_the_candidate() -> None:
    votes = [
        vote("ann", n, "W", criteria={"tone": Choice.BOTH_GOOD}, tags=("format",) * (n < 3))
        for n in range(10)
    ]
    found = reported(votes)
    assert [(line.name, line.share) for line in found.criteria] == [("tone", 0.5)]
    assert found.tags["format"].wins == 3


@cache
def three_systems() -> Report:
    draw = random.Random(2)
    pairs = [(OLD, NEW), (OLD, "third"), (NEW, "third")]
    votes = [
        vote(rater, 100 * k + n, draw.choices("WXG", (5 + k, 3, 2))[0], pair)
        for k, pair in enumerate(pairs)
        for n in range(30)
        for rater in ("ann", "bobby")
    ]
    return reported(votes, systems=(OLD, NEW, "third"))


def test_three_systems_are_ranked_and_compared_with_adjusted_p_values() -> None:
    found = three_systems()
    assert found.pair == (OLD, NEW)
    assert len(found.comparisons) == 3
    assert found.comparisons[0] == found.main
    assert all(one.p_holm >= one.sign_p for one in found.comparisons)
    assert found.ranking is not None
    assert found.ranking.places[-1].system == OLD
    assert found.ranking.verdicts == 180
    assert found.tally.total == 60, "the main comparison takes its own votes only"
    for text in (as_text(found), as_markdown(found), as_html(found)):
        assert "Ranking" in text
        assert "third" in text


def test_systems_never_compared_give_a_note_instead_of_a_ranking() -> None:
    found = reported(letters(ann="WX" * 10), systems=(OLD, NEW, "third"))
    assert found.ranking is not None or any("No ranking" in note for note in found.notes)


@cache
def full_report() -> Report:
    draw = random.Random(1)
    votes = [
        vote(
            rater, n, draw.choices("WXGBS", (6, 3, 1, 1, 1))[0],
            active_ms=draw.randrange(1000, 90_000), confidence=draw.randrange(4),
            recognised=n == 3, comment="no", tags=("format",) * (n == 5),
            criteria={"tone": Choice.LEFT},
        )
        for rater in ("ann", "bobby")
        for n in range(30)
    ]  # fmt: skip
    votes += [swapped(v, Choice.LEFT) for v in votes[:5]]
    votes += [vote("ann", n, "WXS"[n % 3], kind="guess") for n in range(10)]
    texts = {
        f"row-{n}": {
            OLD: f"{n} " + "word " * draw.randrange(5, 60),
            NEW: f"{n} **" + "bold** " * draw.randrange(5, 60),
        }
        for n in range(30)
    }
    plan = design(
        votes, identical=("same",), texts=texts, guessability=audit(texts, (OLD, NEW)),
        question="Which | is <b>better</b>?",
    )  # fmt: skip
    opening = Opening(
        by="root", at=1_767_323_045.0, reason="a | reason\nwith *marks* and \x1b[31m", late=2,
        problems=("votes/<script>alert(1)</script>: bad",),
    )  # fmt: skip
    return analyse(votes, plan, opening)


def test_the_text_fits_a_plain_terminal_and_names_every_part() -> None:
    text = as_text(full_report())
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "\x1b" not in text
    for part in (
        f"Win share of {NEW}", "Sign test", "95% Wilson", "Left side", "gamma", "both good",
        "both bad", "cannot judge", "identical", "Repeats", "alpha", "AC1", "ann (1)", "Bang",
        "Net preference", "Third 3", "By style alone", "Length and style", "tone", "format",
        "agrees with others", "After the unsealing",
    ):  # fmt: skip
        assert part in text, part


def test_the_markdown_names_its_formulae_and_keeps_data_out_of_its_markup() -> None:
    page = as_markdown(full_report())
    for name in (
        "sign test", "Wilson", "bootstrap", "Krippendorff", "AC1", "Bradley-Terry", "Davidson",
        "Bang", "Papke and Wooldridge", "O'Brien and Fleming", "seed",
    ):  # fmt: skip
        assert name in page, name
    assert "a \\| reason" in page
    assert "\\*marks\\*" in page
    assert "\x1b" not in page
    for row in (line for line in page.splitlines() if line.startswith("|")):
        assert row.endswith("|")


class Outline(HTMLParser):
    """Tags in order, what is still open, and every attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_escaped_and_loads_nothing() -> None:
    page = as_html(full_report())
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert not {"script", "link", "img", "iframe", "b"} & set(outline.tags)
    assert not [name for name, _ in outline.attributes if name.startswith("on")]
    assert not [name for name, _ in outline.attributes if name in ("src", "href")]
    assert "default-src 'none'" in page
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;better" in page
    assert "\x1b" not in page
    assert outline.tags.count("svg") == len(pictures(full_report()))
    assert "Krippendorff" in page
    places = [float(x) for x in re.findall(r'\b(?:cx|x1|x2|width)="([0-9.]+)"', page)]
    assert places
    assert max(places) <= 800


def test_the_pictures_lie_on_their_axes() -> None:
    for report in (full_report(), three_systems()):
        found = pictures(report)
        assert found[0].title == f"Win share of {NEW}"
        for picture in found:
            assert picture.low < picture.high
            for row in picture.rows:
                assert picture.low <= row.value <= picture.high, (picture.title, row)
    titles = [picture.title for picture in pictures(full_report())]
    for part in ("third", "Left side", "Agreement", "Bang", "style alone"):
        assert any(part in title for title in titles), part


def test_the_json_is_one_valid_object_with_the_same_figures() -> None:
    found = full_report()
    data = json.loads(as_json(found), parse_constant=lambda name: pytest.fail(name))
    assert data["main"]["share"] == found.share
    assert data["main"]["tally"]["wins"] == found.tally.wins
    assert data["verdict"] == found.verdict
    assert data["systems"] == [OLD, NEW]


def test_the_report_is_the_same_every_time() -> None:
    # repr, because what is not defined is not equal to itself
    assert repr(full_report.__wrapped__()) == repr(full_report())
