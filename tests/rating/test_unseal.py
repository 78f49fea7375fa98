"""Unsealing: logged before it is shown, refused when anything was changed, final for the votes."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from rating_cases import CANDIDATE, REFERENCE, by_system, make_items, make_session, vote_by

from finetui.errors import UserError
from finetui.rating import audit
from finetui.rating.ballot import Ballot
from finetui.rating.session import Session, open_session
from finetui.rating.unseal import report, unseal

EVERY = dict.fromkeys((item.id for item in make_items(12)), "W")


def voted(folder: Path) -> Session:
    session = make_session(folder, 12)
    vote_by(session, "ann", by_system(session, EVERY))
    return session


def test_the_report_is_refused_before_and_the_message_names_the_command(tmp_path: Path) -> None:
    session = voted(tmp_path)
    with pytest.raises(UserError, match="finetui rate unseal trial --reason"):
        report(session)


def test_unsealing_is_logged_with_reason_and_heads_before_the_map_is_returned(
    tmp_path: Path,
) -> None:
    session = voted(tmp_path)
    mapping = unseal(session, "all items rated")
    created, opened = audit.entries(session)
    assert (created.event, opened.event, opened.reason) == ("create", "unseal", "all items rated")
    assert (opened.uid, opened.manifest) == (os.getuid(), session.manifest_hash)
    (head,) = opened.heads.values()
    assert head.lines == 13
    assert mapping.systems == (REFERENCE, CANDIDATE)
    packet = {item.pid: item for item in session.packet("ann")}
    for pid, place in mapping.placements.items():
        assert packet[pid].left == mapping.texts[place.item][place.left]
        assert packet[pid].right == mapping.texts[place.item][place.right]


def test_without_a_log_there_is_no_map(tmp_path: Path, monkeypatch) -> None:
    session = voted(tmp_path)

    def refuse(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audit, "append_shared", refuse)
    with pytest.raises(UserError, match="audit log cannot be written"):
        unseal(session, "please")
    monkeypatch.undo()
    with pytest.raises(UserError, match="is sealed"):
        report(session)


def test_a_reason_is_needed(tmp_path: Path) -> None:
    session = voted(tmp_path)
    with pytest.raises(UserError, match="needs a reason"):
        unseal(session, "  ")
    assert audit.unsealing(session) is None


def _edit(name: str, old: bytes, new: bytes):
    def change(session: Session) -> None:
        file = session.path / name
        data = file.read_bytes()
        assert old in data
        file.write_bytes(data.replace(old, new))

    return change


def _swap_map(session: Session) -> None:
    file = session.sealed / "map.jsonl"
    left, right = f'"left":"{REFERENCE}"'.encode(), f'"left":"{CANDIDATE}"'.encode()
    data = file.read_bytes().replace(left, b"?").replace(right, left).replace(b"?", right)
    file.write_bytes(data)


def _swap_systems(session: Session) -> None:
    file = session.sealed / "provenance.json"
    found = msgspec.json.decode(file.read_bytes())
    file.write_bytes(msgspec.json.encode({**found, "systems": found["systems"][::-1]}))


@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param(_edit("manifest.json", b'"alpha": 0.05', b'"alpha": 0.5'), id="alpha"),
        pytest.param(_edit("manifest.json", b"better, all", b"worse, all"), id="question"),
        pytest.param(_edit("sealed/key", b"00", b"ff"), id="key"),
        pytest.param(_edit("sealed/key", b"00", b"zz"), id="unreadable key"),
        pytest.param(_edit("sealed/items.jsonl", b"second wording", b"2nd wording"), id="outputs"),
        pytest.param(_edit("sealed/items.jsonl", b"answer 3", b"answer 4"), id="references"),
        pytest.param(_swap_map, id="map"),
        pytest.param(_swap_systems, id="labels"),
    ],
)
def test_whatever_is_changed_after_the_sealing_stops_the_unsealing(tmp_path: Path, tamper) -> None:
    session = voted(tmp_path)
    tamper(session)
    with pytest.raises(UserError, match="changed after it was sealed"):
        unseal(open_session(session.path), "try")
    assert audit.unsealing(session) is None


def test_a_changed_audit_log_stops_the_unsealing(tmp_path: Path) -> None:
    session = voted(tmp_path)
    log = session.audit_log
    log.write_bytes(log.read_bytes().replace(b"sealed 12", b"sealed 99"))
    with pytest.raises(UserError, match="audit log was changed"):
        unseal(session, "try")
    assert "audit/log.jsonl: line 1 was changed after it was written" in audit.verify(session)


def test_votes_after_the_unsealing_are_counted_apart_and_change_nothing(tmp_path: Path) -> None:
    session = make_session(tmp_path, 12)
    ballot = Ballot(session, "ann")
    decide = by_system(session, EVERY)
    for _ in range(4):
        assert ballot.current is not None
        ballot.vote(decide(ballot.current))
    unseal(session, "a look")
    before = report(session)
    ballot.undo()
    while ballot.current is not None:
        ballot.vote("L")
    ballot.leave()
    Ballot(session, "ann").undo()
    after = report(session)
    assert (before.rated, before.post_unblind) == (4, 0)
    assert (after.rated, after.tally, after.share) == (4, before.tally, before.share)
    assert after.post_unblind == 11  # undo, nine answers, undo
    assert after.problems == []


def test_a_second_unsealing_is_logged_and_moves_nothing(tmp_path: Path) -> None:
    session = make_session(tmp_path, 12)
    unseal(session, "first")
    vote_by(session, "ann", lambda item: "L")
    unseal(session, "second")
    found = report(session)
    assert (found.rated, found.post_unblind, found.unsealed_reason) == (0, 12, "first")


def test_votes_cut_away_after_the_unsealing_show(tmp_path: Path) -> None:
    session = voted(tmp_path)
    unseal(session, "done")
    (file,) = audit.vote_files(session)
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-2]))
    (problem,) = report(session).problems
    assert "line 13 is not the one that audit/log.jsonl (unseal) wrote down" in problem


def test_votes_of_somebody_who_was_not_asked_are_named_and_not_counted(tmp_path: Path) -> None:
    session = voted(tmp_path)
    (session.ratings / "eve").mkdir()
    (file,) = audit.vote_files(session)
    (session.ratings / "eve" / file.name).write_bytes(file.read_bytes())
    unseal(session, "done")
    found = report(session)
    assert found.tally.total == 12
    assert found.problems == ["ratings/eve: votes of nobody named in the manifest, not counted"]


def test_a_lost_audit_log_is_a_problem_and_seals_the_report_again(tmp_path: Path) -> None:
    session = voted(tmp_path)
    unseal(session, "done")
    session.audit_log.unlink()
    assert audit.verify(session) == ["audit/log.jsonl: the entry of the sealing is missing"]
    with pytest.raises(UserError, match="is sealed"):
        report(session)
