"""The rater at work: votes are on disk before the next pair, whatever happens to the process."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from rating_cases import make_session

from finetui.errors import UserError
from finetui.rating import audit
from finetui.rating.ballot import Ballot
from finetui.rating.chain import ChainWriter, read_chain
from finetui.rating.session import Session
from finetui.rating.votes import Choice, fold, progress, read_events

# Votes for ever (answers, then amends) and says each one after it was acknowledged.
VOTER = """
import os, sys
from pathlib import Path
from finetui.rating.ballot import Ballot
from finetui.rating.session import open_session
ballot = Ballot(open_session(Path(sys.argv[1])), "ann")
leave_after = int(sys.argv[2])
n = 0
while True:
    item = ballot.current or ballot.go(ballot.items[n % len(ballot.items)].pid)
    choice = "LRGBS"[n % 5]
    ballot.vote(choice)
    os.write(1, f"{item.pid} {choice}\\n".encode())
    n += 1
    if n == leave_after:
        os._exit(9)
"""


def voter(session: Session, leave_after: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", VOTER, str(session.path), str(leave_after)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def saved(session: Session) -> list[tuple[str, str]]:
    events = read_events(session, "ann")
    return [(e.pid, str(e.choice)) for e in events if e.ev in ("vote", "amend")]


def test_a_process_that_dies_after_a_vote_loses_none_and_the_next_resumes(tmp_path: Path) -> None:
    session = make_session(tmp_path, 12)
    process = voter(session, leave_after=5)
    told = [tuple(line.split()) for line in process.communicate(timeout=60)[0].splitlines()]
    assert process.returncode == 9
    assert saved(session) == told
    ballot = Ballot(session, "ann")
    assert ballot.position == (6, 12)
    assert ballot.answered == 5


def test_a_tail_torn_at_any_place_is_moved_away_and_rating_goes_on(tmp_path: Path) -> None:
    session = make_session(tmp_path, 12)
    with Ballot(session, "ann") as ballot:
        for choice in "LRGB":
            ballot.vote(choice)
    (file,) = (session.ratings / "ann").glob("*.jsonl")
    whole = file.read_bytes()
    draw = random.Random(4)
    for _ in range(25):
        for other in (session.ratings / "ann").iterdir():
            other.unlink()
        cut = draw.randrange(len(whole) + 1)
        file.write_bytes(whole[:cut])
        lines = whole[:cut].count(b"\n")
        with Ballot(session, "ann") as ballot:
            assert ballot.answered == max(0, lines - 1)  # the first line is the opening
            ballot.vote("S")
        assert Path(f"{file}.torn").exists() == (not whole[:cut].endswith(b"\n") and cut > 0)
        assert audit.verify(session) == []


def test_the_next_open_item_follows_and_the_end_is_said(tmp_path: Path) -> None:
    session = make_session(tmp_path, 3)
    ballot = Ballot(session, "ann")
    first = ballot.current
    assert first is not None
    assert ballot.position == (1, 3)
    second = ballot.vote("L")
    assert second == ballot.current != first
    ballot.vote("S")
    assert ballot.vote(Choice.BOTH_BAD) is None
    assert ballot.done
    assert ballot.current is None
    assert ballot.position == (3, 3)
    assert progress(session, "ann") == (3, 3, False)
    with pytest.raises(UserError, match="every item has an answer"):
        ballot.vote("L")


def test_undo_goes_back_item_by_item_and_keeps_what_was_said(tmp_path: Path) -> None:
    session = make_session(tmp_path, 4)
    ballot = Ballot(session, "ann")
    seen = []
    for choice in "LRG":
        assert ballot.current is not None
        seen.append(ballot.current.pid)
        ballot.vote(choice)
    assert [ballot.undo().pid, ballot.undo().pid] == [seen[2], seen[1]]  # type: ignore[union-attr]
    assert ballot.answered == 1
    ballot.vote("B")
    assert ballot.current is not None
    assert ballot.current.pid == seen[2]
    ballot.leave()
    again = Ballot(session, "ann")
    assert again.judgement(seen[1]).choice == "B"
    assert again.undo().pid == seen[1]  # type: ignore[union-attr]
    assert [e.ev for e in read_events(session, "ann")].count("undo") == 3
    assert [e.choice for e in read_events(session, "ann") if e.ev == "vote"] == ["L", "R", "G", "B"]


def test_undo_with_nothing_to_take_back_does_nothing(tmp_path: Path) -> None:
    ballot = Ballot(make_session(tmp_path, 3), "ann")
    assert ballot.undo() is None
    assert ballot.position == (1, 3)


def test_going_back_and_voting_again_amends_without_losing_the_first_answer(tmp_path: Path) -> None:
    session = make_session(tmp_path, 3)
    ballot = Ballot(session, "ann")
    pid = ballot.items[0].pid
    ballot.vote("L")
    ballot.back()
    assert ballot.judgement().choice == "L"
    assert ballot.vote("R") == ballot.items[1]
    assert ballot.judgement(pid).choice == "R"
    assert ballot.judgement(pid).changes == 1
    assert [e.ev for e in read_events(session, "ann") if e.pid] == ["vote", "amend"]


def test_comment_confidence_and_recognition_stay_with_their_item(tmp_path: Path) -> None:
    session = make_session(tmp_path, 3)
    ballot = Ballot(session, "ann")
    ballot.comment("left is odd \ud800 ⟨")
    ballot.recognised()
    ballot.confidence(2)
    ballot.vote("L")
    ballot.comment("later thought", ballot.items[0].pid)
    ballot.leave()
    found = fold(read_events(session, "ann"))[ballot.items[0].pid]
    assert (found.comment, found.recognised, found.confidence) == ("later thought", True, 2)
    assert Ballot(session, "ann").judgement().comment == ""
    with pytest.raises(UserError, match="longer than"):
        ballot.comment("x" * 5000)


def test_an_event_holds_the_displayed_side_and_how_it_was_shown(tmp_path: Path) -> None:
    session = make_session(tmp_path, 3)
    clock = iter(range(1000, 2000)).__next__
    with Ballot(session, "ann", clock=clock) as ballot:
        ballot.vote(
            "R", shown_at=1.5, voted_at=2.5, active_ms=900, cols=120, rows=36, layout="side",
            seen_right=False, confidence=3, client="0.1",
        )  # fmt: skip
    event = next(e for e in read_events(session, "ann") if e.ev == "vote")
    assert (event.choice, event.shown_at, event.voted_at, event.active_ms) == ("R", 1.5, 2.5, 900)
    assert (event.cols, event.rows, event.layout, event.confidence) == (120, 36, "side", 3)
    assert (event.seen_left, event.seen_right, event.client) == (True, False, "0.1")
    opened = next(e for e in read_events(session, "ann") if e.ev == "open")
    assert (opened.rater, opened.uid) == ("ann", os.getuid())


def test_handing_in_gives_a_receipt_and_ends_all_change(tmp_path: Path) -> None:
    session = make_session(tmp_path, 3)
    ballot = Ballot(session, "ann")
    ballot.vote("L")
    receipt = ballot.close()
    assert receipt == read_chain(ballot._writer.path, session.manifest_hash).head
    for change in (lambda: ballot.vote("L"), ballot.undo, lambda: ballot.comment("x")):
        with pytest.raises(UserError, match="handed in"):
            change()
    again = Ballot(session, "ann")
    assert again.closed
    with pytest.raises(UserError, match="handed in"):
        again.vote("R")
    assert progress(session, "ann") == (1, 3, True)


def test_two_windows_of_one_rater_write_two_files_and_the_last_word_counts(tmp_path: Path) -> None:
    session = make_session(tmp_path, 3)
    one = Ballot(session, "ann")
    one.vote("L")
    two = Ballot(session, "ann")
    two.go(two.items[0].pid)
    two.vote("R")
    assert len(list((session.ratings / "ann").glob("*.jsonl"))) == 2
    assert fold(read_events(session, "ann"))[one.items[0].pid].choice == "R"
    assert audit.verify(session) == []


def test_order_survives_a_clock_that_goes_backwards(tmp_path: Path) -> None:
    session = make_session(tmp_path, 3)
    with Ballot(session, "ann", clock=lambda: 2_000_000_000.0) as ballot:
        pid = ballot.items[0].pid
        ballot.vote("L")
    with Ballot(session, "ann", clock=lambda: 1_000_000_000.0) as ballot:
        ballot.go(pid)
        ballot.vote("G")
    assert Ballot(session, "ann").judgement(pid).choice == "G"


def test_a_vote_the_disk_refuses_is_not_taken_for_given(tmp_path: Path, monkeypatch) -> None:
    ballot = Ballot(make_session(tmp_path, 3), "ann")
    current = ballot.current

    def refuse(writer: ChainWriter, record: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ChainWriter, "append", refuse)
    with pytest.raises(UserError, match=r"NOT saved.*No space left"):
        ballot.vote("L")
    assert ballot.current == current
    assert ballot.answered == 0
    monkeypatch.undo()
    ballot.vote("L")
    assert ballot.answered == 1


def test_a_closed_ballot_refuses_to_vote(tmp_path: Path) -> None:
    ballot = Ballot(make_session(tmp_path, 3), "ann")
    ballot.leave()
    ballot.leave()
    with pytest.raises(UserError, match="NOT saved"):
        ballot.vote("L")


def test_wrong_answers_and_wrong_raters_are_refused(tmp_path: Path) -> None:
    session = make_session(tmp_path, 3)
    ballot = Ballot(session, "ann")
    with pytest.raises(UserError, match="is no answer"):
        ballot.vote("X")
    with pytest.raises(UserError, match="no confidence"):
        ballot.confidence(7)
    with pytest.raises(UserError, match="no such item"):
        ballot.go("0123456789abcdef")
    with pytest.raises(UserError, match=r"no packet for the rater 'eve'.*ann"):
        Ballot(session, "eve")


def test_an_edited_vote_is_detected_and_does_not_count(tmp_path: Path) -> None:
    session = make_session(tmp_path, 3)
    with Ballot(session, "ann") as ballot:
        ballot.vote("L")
        ballot.vote("L")
        ballot.vote("L")
    (file,) = (session.ratings / "ann").glob("*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"choice":"L"', b'"choice":"R"')
    file.write_bytes(b"".join(lines))
    assert audit.verify(session) == [
        f"ratings/ann/{file.name}: line 3 was changed after it was written"
    ]
    assert len(saved(session)) == 1


def test_lines_cut_off_the_end_are_detected_once_a_later_file_names_them(tmp_path: Path) -> None:
    session = make_session(tmp_path, 4)
    with Ballot(session, "ann") as ballot:
        ballot.vote("L")
        ballot.vote("L")
    (file,) = (session.ratings / "ann").glob("*.jsonl")
    with Ballot(session, "ann") as ballot:
        ballot.vote("R")
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    (problem,) = audit.verify(session)
    assert f"ratings/ann/{file.name}: line 3 is not the one" in problem
    file.unlink()
    (problem,) = audit.verify(session)
    assert "is gone" in problem


def test_an_event_of_a_newer_version_is_passed_over(tmp_path: Path) -> None:
    session = make_session(tmp_path, 3)
    with Ballot(session, "ann") as ballot:
        ballot.vote("L")
        ballot._writer.append(
            msgspec.structs.replace(read_events(session, "ann")[-1], ev="break", n=9)
        )
        ballot._writer.append(
            msgspec.structs.replace(read_events(session, "ann")[1], choice="Z", n=10)
        )
    assert Ballot(session, "ann").answered == 1
