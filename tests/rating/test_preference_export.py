"""Votes given back to the data: pairs, labels, and prompts that are burned from then on."""

from __future__ import annotations

import json
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
from finetui.rating.burned import burned, prompt_hash
from finetui.rating.export import export
from finetui.rating.session import Session
from finetui.rating.unseal import unseal


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
