"""Interim looks: logged, and nothing but go on or stop."""

from __future__ import annotations

from pathlib import Path

import pytest
from rating_cases import by_system, make_items, make_session, vote_by

from finetui.errors import UserError
from finetui.rating import audit
from finetui.rating.ballot import Ballot
from finetui.rating.sequential import StopRule
from finetui.rating.session import Session
from finetui.rating.unseal import look, report, unseal

CLEAR = dict.fromkeys((item.id for item in make_items(40)), "W")
EVEN = {item.id: "WX"[n % 2] for n, item in enumerate(make_items(40))}


def watched(folder: Path, **rule: object) -> Session:
    stop = StopRule(**{"kind": "e-process", **rule})  # type: ignore[arg-type]
    return make_session(folder, 40, repeats=0.0, stop=stop)


def test_a_look_says_go_on_or_stop_and_is_logged_with_the_state_of_the_votes(
    tmp_path: Path,
) -> None:
    session = watched(tmp_path)
    assert not look(session).stop
    vote_by(session, "ann", by_system(session, CLEAR))
    assert look(session, "half way").stop
    entries = audit.entries(session)
    assert [(e.event, e.decision, e.reason) for e in entries[1:]] == [
        ("look", "continue", "interim look"),
        ("look", "stop", "half way"),
    ]
    assert [sum(head.lines for head in e.heads.values()) for e in entries[1:]] == [0, 41]
    assert audit.verify(session) == []


def test_a_look_tells_no_number_and_no_direction(tmp_path: Path) -> None:
    told = set()
    for folder, answers in (("a", CLEAR), ("b", dict.fromkeys(CLEAR, "X"))):
        session = watched(tmp_path / folder)
        vote_by(session, "ann", by_system(session, answers))
        told.add(look(session))
        assert b"betting" not in session.audit_log.read_bytes()
    assert len(told) == 1
    assert not any(letter.isdigit() for letter in next(iter(told)).sentence)


def test_an_even_session_goes_on_until_its_cap(tmp_path: Path) -> None:
    session = watched(tmp_path)
    vote_by(session, "ann", by_system(session, EVEN))
    assert not look(session).stop
    capped = watched(tmp_path / "capped", cap=30)
    vote_by(capped, "ann", by_system(capped, EVEN))
    assert look(capped).stop


def test_once_stopped_it_stays_so(tmp_path: Path) -> None:
    session = watched(tmp_path)
    vote_by(session, "ann", by_system(session, CLEAR))
    assert look(session).stop
    with Ballot(session, "ann") as ballot:
        for _ in range(38):
            ballot.undo()
    assert look(session).stop


def test_looks_are_refused_where_none_were_registered_and_after_the_unsealing(
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match="without interim looks"):
        look(make_session(tmp_path / "fixed", 12))
    session = watched(tmp_path)
    vote_by(session, "ann", by_system(session, CLEAR))
    unseal(session, "done")
    with pytest.raises(UserError, match="unsealed already"):
        look(session)
    assert report(session).test.significant
