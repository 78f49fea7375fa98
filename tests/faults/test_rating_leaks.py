"""A rater at a terminal: nothing that the account can see or read tells which side is which."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pty_harness import Terminal

from finetui.rating.ballot import Ballot
from finetui.rating.registration import Registration
from finetui.rating.sealing import Placement
from finetui.rating.session import Item, Session, default_rater, open_session, seal
from finetui.rating.unseal import _open_and_check
from finetui.rating.votes import read_events
from finetui.workspace import Workspace, create

SYSTEMS = ("plainfish-3b", "tunedfish-3b")
KEY = hashlib.sha256(b"a key for this test").digest()
PROVENANCE = {"model": "/models/plainfish-3b", "run": "20260102-train-tunedfish"}
ITEMS = 25


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return create(tmp_path / "place")


@pytest.fixture
def session(workspace: Workspace) -> Session:
    items = [
        Item(
            f"private-row-{n}",
            [{"role": "user", "content": f"question {n}"}],
            f"the reference {n}",
            {SYSTEMS[0]: f"answer A{n}", SYSTEMS[1]: f"answer Z{n} in some more words"},
            meta={"source": f"secret-file:{n}"},
        )
        for n in range(ITEMS)
    ]
    chosen = Registration(raters=(default_rater(), "bob"), practice=1, catches=2, guesses=2)
    return seal(
        workspace.ratings, "trial", items, chosen, systems=SYSTEMS, key=KEY, provenance=PROVENANCE
    )


def secrets(session: Session) -> list[bytes]:
    """Whatever would tell: names, ids, the key, hashes of what one system wrote, the kinds."""
    mapping = _open_and_check(session)
    words = [*SYSTEMS, "plainfish", "tunedfish", "private-row", "secret-file", KEY.hex()]
    for sides in mapping.texts.values():
        for text in sides.values():
            for raw in (text, f"{text}\n"):
                digest = hashlib.sha256(raw.encode()).hexdigest()
                words += [digest, digest[:16]]
    return [KEY, *(word.encode() for word in words)]


def found_in(where: str, content: bytes, words: list[bytes]) -> None:
    for word in words:
        assert word not in content, f"{where} holds {word!r}"


def public_files(session: Session) -> Iterator[Path]:
    for path in session.path.rglob("*"):
        if path.is_file() and session.sealed not in path.parents:
            yield path


def processes(pid: int) -> Iterator[Path]:
    """The folder in /proc of a process and of those that it started."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if int(folder.name) == pid or parent == pid:
                yield folder


def memory_of(folder: Path) -> Iterator[bytes]:
    """What a process may read and write of its own memory."""
    with open(folder / "mem", "rb", buffering=0) as memory:
        for line in (folder / "maps").read_text().splitlines():
            if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line):
                start, end = (int(part, 16) for part in match.groups())
                with contextlib.suppress(OSError, ValueError, OverflowError):
                    memory.seek(start)
                    yield memory.read(end - start)


def look_through(pid: int, words: list[bytes]) -> None:
    seen = 0
    for folder in processes(pid):
        for name in ("cmdline", "environ", "comm"):
            found_in(f"/proc/{name}", (folder / name).read_bytes(), words)
        for link in (folder / "fd").iterdir():
            with contextlib.suppress(OSError):
                target = os.readlink(link)
                assert "/sealed/" not in target and "/.drafts" not in target
        for block in memory_of(folder):
            seen += block.count(b"in some more words")
            found_in("memory", block, words)
    assert seen, "the search of the memory finds what is there"


def test_screen_files_processes_environment_and_memory_tell_nothing(
    workspace: Workspace, session: Session
) -> None:
    words = secrets(session)
    with Ballot(session, "bob") as other:
        while other.current is not None:
            other.vote("L" if other.phase == "guess" else "B", active_ms=1500)
        other.close()
    command = [sys.executable, "-m", "finetui", "rate", "vote", "trial", "-w", str(workspace.root)]
    with Terminal(command) as terminal:
        terminal.wait_for("enter begins")
        terminal.wait(begun)
        for count in range(1, 3):
            answer(terminal, session, count)
        look_through(terminal.pid, words)
        found_in("the screen", terminal.raw, words)
    for path in public_files(session):
        found_in(str(path), path.read_bytes(), words)
        found_in("a file's name", str(path.relative_to(workspace.root)).encode(), words)
    moments = {path.stat().st_mtime for path in (session.path / "packets").iterdir()}
    assert len(moments) == 1


def answered(session: Session) -> int:
    return sum(event.ev == "vote" for event in read_events(session, default_rater()))


def begun(terminal: Terminal) -> bool:
    """Whether a pair is on screen; asks for it where it is not."""
    if not re.search(r"answer [AZ]\d", terminal.text):
        terminal.press("enter")
        terminal.pump(0.3)
    return bool(re.search(r"answer [AZ]\d", terminal.text))


def answer(terminal: Terminal, session: Session, count: int) -> None:
    """Press until the vote is on disk: the first press after a pair may come too soon."""

    def saved(seen: Terminal) -> bool:
        if answered(session) < count:
            seen.press("4", "enter")
            seen.pump(0.3)
        return answered(session) >= count

    terminal.wait(saved)


def test_a_packet_gives_no_order_kind_or_side_away_without_the_key(session: Session) -> None:
    """What an attacker could compute from public files is as likely on either side."""
    truth = _open_and_check(session).placements
    packet = session.packet(default_rater())
    lefts = [first_system(truth[item.pid], item.left) for item in packet if scored(truth[item.pid])]
    assert abs(lefts.count(SYSTEMS[0]) - lefts.count(SYSTEMS[1])) <= 2 + len(lefts) // 10
    pids = [item.pid for item in packet]
    assert len(set(pids)) == len(pids) and all(len(pid) == 16 for pid in pids)
    assert pids != sorted(pids)
    kinds = {place.kind for place in truth.values()}
    assert kinds == {"item", "repeat", "practice", "catch", "guess"}
    shapes = {tuple(sorted(type(part).__name__ for part in (i.pid, i.left, i.right, i.seq)))
              for i in packet}  # fmt: skip
    assert len(shapes) == 1
    manifest = (session.path / "manifest.json").read_bytes()
    for item in packet:
        assert item.pid.encode() not in manifest
    assert open_session(session.path).manifest.items_hash.encode() not in b"".join(
        path.read_bytes() for path in public_files(session) if path.name != "manifest.json"
    )


def scored(place: Placement) -> bool:
    return {place.left, place.right} == set(SYSTEMS)


def first_system(place: Placement, left: str) -> str:
    assert left
    return place.left
