"""Practice, catches, repeats, the end question, and more than two systems: what a packet holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import pytest
from rating_cases import CANDIDATE, REFERENCE, make_items, make_session, placements, vote_by

from finetui.errors import UserError
from finetui.rating.assignment import Cast, assign
from finetui.rating.ballot import BREAK_ANSWERS, Ballot
from finetui.rating.registration import Registration, recommended
from finetui.rating.sealing import SOUND
from finetui.rating.session import Item, Session, seal
from finetui.rating.unseal import read_mapping, unseal
from finetui.rating.verdict import CATCH
from finetui.rating.votes import fold, read_events

EXTRAS = {"practice": 5, "catches": 4, "guesses": 10}
KEYS = [n.to_bytes(32) for n in range(2000)]


def full_session(folder: Path, count: int = 60, **options: object) -> Session:
    return make_session(folder, count, raters=("ann", "bob"), **{**EXTRAS, **options})


def test_a_packet_begins_with_practice_and_ends_with_the_end_question(tmp_path: Path) -> None:
    session = full_session(tmp_path)
    manifest = session.manifest
    assert (manifest.items, manifest.shown) == (51, 51)
    assert (manifest.practice, manifest.catch_items, manifest.guesses) == (5, 4, 10)
    truth = placements(session)
    for rater in session.raters:
        kinds = [truth[item.pid].kind for item in session.packet(rater)]
        assert kinds[:5] == ["practice"] * 5
        assert kinds[-10:] == ["guess"] * 10
        assert Counter(kinds[5:-10]) == {"item": 51, "repeat": 5, "catch": 4}


def test_practice_and_catches_take_prompts_that_are_not_rated(tmp_path: Path) -> None:
    by_kind: dict[str, set[str]] = {}
    for place in placements(full_session(tmp_path)).values():
        by_kind.setdefault(place.kind, set()).add(place.item)
    assert not by_kind["item"] & (by_kind["practice"] | by_kind["catch"])
    assert not by_kind["practice"] & by_kind["catch"]
    assert by_kind["repeat"] < by_kind["item"]
    assert by_kind["guess"] < by_kind["item"]


def test_a_catch_shows_a_sound_answer_against_that_of_another_prompt(tmp_path: Path) -> None:
    session = full_session(tmp_path)
    truth = placements(session)
    caught = [item for item in session.packet("ann") if truth[item.pid].kind == "catch"]
    for item in caught:
        place = truth[item.pid]
        assert {place.left, place.right} == {SOUND, CATCH}
        texts = {place.left: item.left, place.right: item.right}
        number = place.item.removeprefix("row-")
        assert texts[SOUND] == f"answer {number}"
        assert texts[CATCH].startswith("answer ") and texts[CATCH] != texts[SOUND]


def test_a_catch_takes_prompts_that_nobody_would_see_first(tmp_path: Path) -> None:
    session = full_session(tmp_path, 40, identical=(1, 2, 3, 4))
    assert (session.manifest.items, session.manifest.shown, session.manifest.identical) == (
        35,
        31,
        4,
    )
    caught = {place.item for place in placements(session).values() if place.kind == "catch"}
    assert caught == {"row-1", "row-2", "row-3", "row-4"}


def test_where_all_answers_are_alike_a_catch_shuffles_the_words(tmp_path: Path) -> None:
    words = "one two three four five six"
    items = [
        Item(f"i{n}", [{"role": "user", "content": f"q{n}"}], words, {"a": f"x{n}", "b": f"y{n}"})
        for n in range(6)
    ]
    chosen = Registration(raters=("ann",), catches=1)
    session = seal(tmp_path, "trial", items, chosen, systems=("a", "b"))
    (place,) = (p for p in placements(session).values() if p.kind == "catch")
    (shown,) = (item for item in session.packet("ann") if item.pid == place.pid)
    spoilt = shown.left if place.left == CATCH else shown.right
    assert sorted(spoilt.split()) == sorted(words.split()) and spoilt != words


def test_sides_differ_by_at_most_one_over_2000_keys_in_every_kind() -> None:
    cast = Cast([f"i{n}" for n in range(7)], ["p"], ["c", "d"], ["i1", "i2", "i3"])
    for key in KEYS:
        for slots in assign(key, "s", cast, ["ann"], 0.0).values():
            balance: Counter[str] = Counter()
            for slot in slots:
                balance[slot.kind] += 1 if slot.candidate_left else -1
            assert max(map(abs, balance.values())) <= 1


def test_the_second_rater_sees_every_kind_from_the_other_side(tmp_path: Path) -> None:
    sides: dict[tuple[str, str], dict[str, str]] = {}
    for place in placements(full_session(tmp_path, repeats=0.0)).values():
        sides.setdefault((place.kind, place.item), {})[place.rater] = place.left
    assert all(own["ann"] != own["bob"] for own in sides.values())


def test_two_raters_meet_catches_and_guesses_in_their_own_order(tmp_path: Path) -> None:
    truth = placements(full_session(tmp_path))
    orders = [
        [(p.kind, p.item) for p in truth.values() if p.rater == rater and p.kind != "repeat"]
        for rater in ("ann", "bob")
    ]
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]


def three(folder: Path, count: int, pairing: str, **options: object) -> Session:
    items = [
        msgspec.structs.replace(
            item, outputs={**item.outputs, "thirdfish": f"third wording {item.id}"}
        )
        for item in make_items(count)
    ]
    systems = (REFERENCE, CANDIDATE, "thirdfish")
    return make_session(
        folder, items=items, systems=systems, pairing=pairing, repeats=0.0, **options
    )


def test_three_systems_spread_deals_every_pair_as_often(tmp_path: Path) -> None:
    session = three(tmp_path, 31, "spread", raters=("ann", "bob"))
    met = {
        rater: Counter(
            frozenset((p.left, p.right))
            for p in placements(session).values()
            if p.rater == rater and p.kind == "item"
        )
        for rater in session.raters
    }
    assert met["ann"] == met["bob"]
    assert sorted(met["ann"].values()) == [10, 10, 11]
    assert (session.manifest.systems, session.manifest.shown) == (3, 31)


def test_three_systems_each_shows_every_pair_of_every_item(tmp_path: Path) -> None:
    session = three(tmp_path, 12, "each")
    found = {(p.item, frozenset((p.left, p.right))) for p in placements(session).values()}
    assert len(found) == 36
    assert len(session.packet("ann")) == 36


def test_of_three_systems_only_the_pairs_that_are_alike_count_as_ties(tmp_path: Path) -> None:
    items = make_items(4)
    for item in items:
        item.outputs["thirdfish"] = item.outputs[CANDIDATE]
    systems = (REFERENCE, CANDIDATE, "thirdfish")
    session = make_session(tmp_path, items=items, systems=systems, pairing="each", repeats=0.0)
    vote_by(session, "ann", lambda item: "L")
    mapping = unseal(session, "done")
    assert sorted(mapping.identical) == [(f"row-{n}", CANDIDATE, "thirdfish") for n in range(4)]
    assert len(mapping.placements) == 8
    assert read_mapping(session) == mapping


def test_the_end_question_takes_a_side_or_dont_know(tmp_path: Path) -> None:
    session = full_session(tmp_path, 24, practice=1, catches=0, guesses=2)
    with Ballot(session, "ann") as ballot:
        assert (ballot.phase, ballot.question) == ("practice", session.question)
        ballot.vote("G")
        while ballot.phase == "rating":
            ballot.vote("B")
        assert ballot.question == session.manifest.end_question
        assert ballot.criteria == ()
        with pytest.raises(UserError, match="asks for a side"):
            ballot.vote("G")
        ballot.vote("L")
        assert ballot.vote("S") is None
        assert (ballot.phase, ballot.done) == ("guess", True)


def test_criteria_and_tags_stay_with_their_item(tmp_path: Path) -> None:
    session = make_session(tmp_path, 3, criteria=("shorter?", "safer?"))
    with Ballot(session, "ann") as ballot:
        assert ballot.criteria == ("shorter?", "safer?")
        ballot.criterion("shorter?", "L")
        ballot.tag(["tone", "format", "tone"])
        ballot.vote("R", criteria={"safer?": "G"})
        with pytest.raises(UserError, match="not asked in this session"):
            ballot.criterion("louder?", "L")
        with pytest.raises(UserError, match="'nice' is no tag"):
            ballot.tag(["nice"])
        with pytest.raises(UserError, match="is no answer"):
            ballot.vote("L", criteria={"safer?": "X"})
    again = Ballot(session, "ann")
    found = fold(read_events(session, "ann"))[again.items[0].pid]
    assert found.criteria == {"shorter?": "L", "safer?": "G"}
    assert (found.choice, found.tags) == ("R", ("tone", "format"))
    again.go(found.pid)
    again.vote("L", tags=())
    assert again.judgement(found.pid).tags == ()


def test_a_break_is_due_after_twenty_answers_or_45_minutes_and_is_recorded(tmp_path: Path) -> None:
    session = make_session(tmp_path, 30, repeats=0.0)
    with Ballot(session, "ann") as ballot:
        for _ in range(BREAK_ANSWERS):
            assert ballot.break_due == ""
            ballot.vote("L")
        assert "20 answers" in ballot.break_due
        ballot.take_break()
        assert ballot.on_break
        ballot.resume()
        assert ballot.break_due == ""
        ballot.vote("L", active_ms=45 * 60_000)
        assert "45 minutes" in ballot.break_due
    events = [event.ev for event in read_events(session, "ann")]
    assert events[BREAK_ANSWERS + 1 :] == ["break", "resume", "vote"]


def test_what_suits_a_session_grows_with_it_and_leaves_a_short_one_alone() -> None:
    assert recommended(12) == Registration()
    assert (recommended(20).practice, recommended(20).catches, recommended(20).guesses) == (
        5,
        3,
        10,
    )
    assert recommended(150).catches == 10


def test_criteria_and_margin_are_in_the_public_manifest_and_words_are_not(tmp_path: Path) -> None:
    session = make_session(
        tmp_path, 6, criteria=("safer?",), margin=0.1, interested=("ann",), words=("secretfish",)
    )
    manifest = session.manifest
    assert (manifest.criteria, manifest.margin, manifest.interested) == (("safer?",), 0.1, ["ann"])
    assert b"secretfish" not in (session.path / "manifest.json").read_bytes()
