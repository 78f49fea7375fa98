"""Votes given back to the data: pairs, labels, and prompts that are burned from then on."""

from __future__ import annotations

import json
from itertools import combinations
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

from finetui.errors import UserError
from finetui.rating import audit
from finetui.rating.burned import FILE, burn, burned, burned_among, prompt_hash
from finetui.rating.export import export
from finetui.rating.session import PacketItem, Session
from finetui.rating.unseal import unseal
from finetui.rating.verdict import CATCH


def rated(folder: Path, count: int, **letters: str) -> Session:
    session = make_session(folder / "ratings", count, raters=tuple(letters))
    for rater, own in letters.items():
        vote_by(session, rater, by_system(session, {f"row-{n}": c for n, c in enumerate(own)}))
    unseal(session, "done")
    return session


def read(path: Path) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        found.setdefault(record["meta"]["item"], []).append(record)
    return found


def test_decisive_votes_become_pairs_and_ties_become_labels(tmp_path: Path) -> None:
    session = rated(tmp_path, 5, ann="WXGBS")
    done = export(session, tmp_path / "out")
    assert (done.pairs, done.labels, done.burned) == (2, 4, 4)
    pairs = read(done.preferences)
    assert set(pairs) == {"row-0", "row-1"}
    (won,) = pairs["row-0"]
    assert won["prompt"] == [{"role": "user", "content": "question 0"}]
    assert won["chosen"] == [{"role": "assistant", "content": "second wording 0"}]
    assert won["rejected"] == [{"role": "assistant", "content": "first wording 0"}]
    assert won["meta"] == {
        "session": "trial",
        "item": "row-0",
        "burned": True,
        "raters": 1,
        "agreement": 1.0,
        "source": {"line": 1},
        "chosen_system": CANDIDATE,
        "rejected_system": REFERENCE,
    }
    assert pairs["row-1"][0]["chosen"][0]["content"] == "first wording 1"
    labels = read(done.unpaired)
    assert set(labels) == {"row-2", "row-3"}
    assert [record["label"] for record in labels["row-2"]] == [True, True]
    assert [record["label"] for record in labels["row-3"]] == [False, False]
    assert {r["completion"][0]["content"] for r in labels["row-3"]} == {
        "first wording 3",
        "second wording 3",
    }


def test_raters_must_agree_by_two_thirds(tmp_path: Path) -> None:
    session = rated(tmp_path, 4, ann="WWWG", bob="WXWG", cy="WGXG")
    done = export(session, tmp_path / "out")
    pairs = read(done.preferences)
    assert {item: p[0]["meta"]["agreement"] for item, p in pairs.items()} == {
        "row-0": 1.0,
        "row-2": 0.6667,
    }
    assert set(read(done.unpaired)) == {"row-3"}
    assert export(session, tmp_path / "more", min_raters=4).pairs == 0


def test_an_item_answered_differently_when_it_came_again_gives_nothing(tmp_path: Path) -> None:
    session = make_session(tmp_path / "ratings", 40)
    truth = placements(session)
    vote_by(session, "ann", lambda item: "L")
    unseal(session, "done")
    done = export(session, tmp_path / "out")
    repeated = {place.item for place in truth.values() if place.kind == "repeat"}
    assert len(repeated) == 4
    assert set(read(done.preferences)) == {item.id for item in make_items(40)} - repeated


def test_prompts_that_leave_are_burned_once_and_for_ever(tmp_path: Path) -> None:
    assert burned(tmp_path / "ratings") == frozenset()
    session = rated(tmp_path, 5, ann="WXGBS")
    export(session, tmp_path / "out")
    export(session, tmp_path / "again")
    gone = burned(tmp_path / "ratings")
    assert gone == {prompt_hash(item.prompt) for item in make_items(4)}
    assert len((tmp_path / "ratings" / "burned.jsonl").read_text().splitlines()) == 4
    assert [e.event for e in audit.entries(session)] == ["create", "unseal", "export", "export"]


def test_a_sealed_session_gives_nothing_away(tmp_path: Path) -> None:
    session = make_session(tmp_path, 5)
    with pytest.raises(UserError, match="is sealed"):
        export(session, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_all_labels_also_come_from_the_pairs_and_both_bad_is_kept(tmp_path: Path) -> None:
    session = rated(tmp_path, 3, ann="WBG")
    done = export(session, tmp_path / "out", all_labels=True)
    assert (done.pairs, done.labels) == (1, 6)
    labels = read(done.unpaired)
    assert {r["meta"]["system"]: r["label"] for r in labels["row-0"]} == {
        CANDIDATE: True,
        REFERENCE: False,
    }
    assert [r["label"] for r in labels["row-1"]] == [False, False]


def test_provenance_says_from_which_session_by_whom_and_by_which_rule(tmp_path: Path) -> None:
    session = rated(tmp_path, 3, ann="WBG")
    told = json.loads(export(session, tmp_path / "out").provenance.read_text())
    assert told["manifest"] == session.manifest_hash
    assert told["commitment"] == session.manifest.commitment
    assert told["unsealed"]["why"] == "done"
    assert told["systems"] == [REFERENCE, CANDIDATE]
    assert (told["pairs"], told["labels"], told["burned"]) == (1, 4, 3)


def test_practice_catches_and_guesses_give_nothing_and_failed_raters_neither(
    tmp_path: Path,
) -> None:
    extras = {"practice": 3, "catches": 3, "guesses": 5}
    session = make_session(tmp_path / "ratings", 40, raters=("ann", "bob"), repeats=0.0, **extras)
    truth = placements(session)

    def careful(item: PacketItem) -> str:
        place = truth[item.pid]
        if place.kind == "catch":
            return "L" if place.right == CATCH else "R"
        return "L" if place.left == CANDIDATE else "R"

    def blind(item: PacketItem) -> str:
        place = truth[item.pid]
        if place.kind in ("catch", "item"):
            return "L" if place.left in (CATCH, REFERENCE) else "R"
        return "L"

    vote_by(session, "ann", careful)
    vote_by(session, "bob", blind)
    unseal(session, "done")
    done = export(session, tmp_path / "out")
    pairs = read(done.preferences)
    assert done.pairs == len(pairs) == session.manifest.shown == 34
    assert {p["meta"]["chosen_system"] for rows in pairs.values() for p in rows} == {CANDIDATE}
    assert {p["meta"]["raters"] for rows in pairs.values() for p in rows} == {1}


def test_three_systems_give_pairs_of_those_that_met(tmp_path: Path) -> None:
    items = make_items(9)
    for item in items:
        item.outputs["third"] = f"third {item.id}"
    systems = (REFERENCE, CANDIDATE, "third")
    session = make_session(
        tmp_path / "ratings", items=items, systems=systems, pairing="each", repeats=0.0
    )
    truth = placements(session)
    vote_by(session, "ann", lambda item: "L" if truth[item.pid].left == "third" else "R")
    unseal(session, "done")
    done = export(session, tmp_path / "out")
    assert (done.pairs, done.burned) == (27, 9)
    for rows in read(done.preferences).values():
        met = {(r["meta"]["chosen_system"], r["meta"]["rejected_system"]) for r in rows}
        assert {frozenset(pair) for pair in met} == {
            frozenset(pair) for pair in combinations(systems, 2)
        }
        assert all("third" not in pair or pair[0] == "third" for pair in met)


def test_a_burned_prompt_is_known_again_whatever_blanks_surround_it(tmp_path: Path) -> None:
    asked = [[{"role": "user", "content": f"question {n}"}] for n in range(3)]
    burn(tmp_path, "s", {"a": asked[1]})
    loose = [[{"role": "user", "content": f" {turns[0]['content']}\n", "name": "x"}]
             for turns in asked]  # fmt: skip
    assert burned_among(tmp_path, loose) == [1]


def test_a_torn_line_of_the_burned_list_is_cut_and_a_broken_one_is_said(tmp_path: Path) -> None:
    one, two = ([{"role": "user", "content": text}] for text in ("one", "two"))
    burn(tmp_path, "s", {"a": one})
    with (tmp_path / FILE).open("ab") as log:
        log.write(b'{"prompt_hash":"00')
    assert burned(tmp_path) == {prompt_hash(one)}
    burn(tmp_path, "s", {"b": two, "a": one})
    assert burned(tmp_path) == {prompt_hash(one), prompt_hash(two)}
    assert len((tmp_path / FILE).read_bytes().splitlines()) == 2
    (tmp_path / FILE).write_bytes(b"{}\n")
    with pytest.raises(UserError, match="does not read"):
        burned(tmp_path)
