"""What the screen has shown as saved outlives a kill -9 of the screen."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pty_harness import LIMIT, Terminal

from finetui.data.dataset import open_dataset
from finetui.rating.registration import Registration
from finetui.rating.session import Item, Session, default_rater, seal
from finetui.rating.votes import read_events
from finetui.workspace import Workspace, create

ROWS, ITEMS, VOTES_A_KILL = 8_000, 700, 2
EDITING = """
import pathlib, sys
from finetui.tui.app import FinetuiApp
from finetui.workspace import find
sys.exit(FinetuiApp(find(pathlib.Path(sys.argv[1])), start="data").run_to_exit())
"""
KILLS = [3, pytest.param(200, marks=pytest.mark.figures)]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return create(tmp_path / "place")


@pytest.fixture
def rows(workspace: Workspace) -> Path:
    path = workspace.datasets / "rows.jsonl"
    lines = (
        {
            "messages": [
                {"role": "user", "content": f"question {number}"},
                {"role": "assistant", "content": f"answer {number}"},
            ]
        }
        for number in range(ROWS)
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def session(workspace: Workspace) -> Session:
    items = [
        Item(
            f"row-{number}",
            [{"role": "user", "content": f"question {number}"}],
            outputs={"old": f"answer A{number}", "new": f"answer Z{number}"},
        )
        for number in range(ITEMS)
    ]
    chosen = Registration(raters=(default_rater(),), practice=0, catches=0, repeats=0, guesses=0)
    return seal(workspace.ratings, "trial", items, chosen, systems=("old", "new"))


@pytest.mark.slow
@pytest.mark.parametrize("kills", KILLS)
def test_no_edit_that_was_shown_is_lost(workspace: Workspace, rows: Path, kills: int) -> None:
    draw, on_disk, shown_in_all = random.Random(1), 0, 0
    for _ in range(kills):
        shown = edit_and_kill(workspace, draw, on_disk)
        with open_dataset(rows, workspace) as data:
            data.build_index()
            dropped = [row for row in range(data.rows) if not data.state(row).kept]
        assert len(dropped) >= shown, f"{shown} edits shown, {len(dropped)} kept"
        shown_in_all += shown - on_disk
        on_disk = len(dropped)
    print(f"{kills} kills of a screen while editing: 0 of {shown_in_all} shown edits lost")
    assert shown_in_all > kills


def edit_and_kill(workspace: Workspace, draw: random.Random, before: int) -> int:
    """Drop rows from the end of the earlier ones on; returns how many drops were shown in all."""
    with Terminal([sys.executable, "-c", EDITING, str(workspace.root)], size=(110, 30)) as screen:
        screen.wait_for(f"{ROWS:,} rows")
        if before:
            screen.wait(lambda one: dropped_on(one) == before)
        screen.press("j" * before)
        wanted = before + draw.randint(2, 6)
        end = time.monotonic() + LIMIT
        while dropped_on(screen) < wanted:
            assert time.monotonic() < end, screen.text
            screen.press("d")
            screen.pump(0.05)
        screen.press("d", "d")
        screen.pump(draw.random() * 0.03)
        shown = dropped_on(screen)
        kill(screen)
        return max(shown, dropped_on(screen))


def dropped_on(screen: Terminal) -> int:
    """Drops as the title counts them."""
    found = re.search(r"rows · ([\d,]+) dropped", screen.text)
    return int(found[1].replace(",", "")) if found else 0


@pytest.mark.slow
@pytest.mark.parametrize("kills", KILLS)
def test_no_vote_that_was_shown_as_saved_is_lost(
    workspace: Workspace, session: Session, kills: int
) -> None:
    draw, shown_in_all = random.Random(2), 0
    for _ in range(kills):
        before = answered(session)
        shown = vote_and_kill(workspace, draw, before)
        assert answered(session) >= shown, f"{shown} votes shown as saved"
        shown_in_all += shown - before
    print(f"{kills} kills of a screen while voting: 0 of {shown_in_all} shown votes lost")
    assert shown_in_all >= VOTES_A_KILL


def vote_and_kill(workspace: Workspace, draw: random.Random, before: int) -> int:
    """Rate from the first open item on; returns how many votes were shown as saved in all."""
    command = [sys.executable, "-m", "finetui", "rate", "vote", "trial", "-w", str(workspace.root)]
    with Terminal(command, size=(110, 30)) as screen:
        press_until(screen, "enter", lambda: bool(re.search(r"answer [AZ]\d", screen.text)))
        screen.wait_for("2 right")  # its keys count from here on
        for votes in range(before + 1, before + VOTES_A_KILL + 1):
            press_until(screen, "2", lambda votes=votes: saved_on(screen) >= votes)
        screen.pump(0.6 + draw.random() * 0.3)  # presses that come too soon are not taken
        screen.press("1")
        screen.pump(draw.random() * 0.03)
        kill(screen)
        return saved_on(screen)


def press_until(screen: Terminal, key: str, seen: Callable[[], bool]) -> None:
    """Press again only after a while: what comes steadily counts as a key held down."""
    end = time.monotonic() + LIMIT
    while not seen():
        assert time.monotonic() < end, screen.text
        screen.press(key)
        patience = time.monotonic() + 1.0
        while not seen() and time.monotonic() < patience:
            screen.pump(0.05)


def saved_on(screen: Terminal) -> int:
    """Votes that the screen says are on disk: one less than the number of the open item."""
    found = re.search(r"item (\d+) of \d+ · saved", screen.text)
    return int(found[1]) - 1 if found else 0


def kill(screen: Terminal) -> None:
    """SIGKILL, then read what it had sent before."""
    os.kill(screen.pid, signal.SIGKILL)
    while screen.pump(1.0):
        pass
    screen.wait_exit()


def answered(session: Session) -> int:
    return sum(event.ev == "vote" for event in read_events(session, default_rater()))
