"""On a real terminal: whatever a data set holds, none of its control bytes arrives there."""

from __future__ import annotations

import sys

import pytest
from desk import PAYLOADS
from pty_harness import Terminal

from finetui.workspace import Workspace

PROGRAM = """
import pathlib, sys
from finetui.tui.app import FinetuiApp
from finetui.workspace import find
app = FinetuiApp(find(pathlib.Path(sys.argv[1])), start="data")
sys.exit(app.run_to_exit())
"""


def check(terminal: Terminal) -> None:
    for payload in PAYLOADS:
        assert payload not in terminal.raw, payload


@pytest.mark.parametrize("size", [(120, 36), (80, 24)])
def test_no_payload_reaches_the_terminal(hostile: Workspace, size: tuple[int, int]) -> None:
    command = [sys.executable, "-c", PROGRAM, str(hostile.root)]
    with Terminal(command, size=size) as terminal:
        terminal.wait_for("· chat · 5 rows")
        terminal.wait_for("⟨U+202E⟩override")  # the first wall shows it, in words
        terminal.wait_for("[@click=app.quit]x[/]")
        for key in "jjjj":  # every record, also the one that is no JSON
            terminal.press(key)
        terminal.wait_for("line 5")
        terminal.press("c")
        terminal.press("shift+tab")
        terminal.wait_for("malformed-json")
        terminal.press("enter")  # the rows of one finding
        terminal.wait_for("of 5 ·")
        terminal.press("esc")
        terminal.wait_gone("of 5 ·")
        terminal.press("g")
        terminal.wait_for("line 1")
        terminal.press("e")  # the turns to choose from, then the edit dialog
        terminal.wait_for("the whole row as JSON")
        terminal.press("G", "enter")
        terminal.wait_for("F2 save")
        terminal.wait_for("\\u202e")
        terminal.press("esc")
        terminal.wait_gone("F2 save")
        terminal.press("/")
        terminal.type("override")
        terminal.wait_for("· /override")
        terminal.press("enter", "d")
        terminal.press("u")
        terminal.wait_for("Undid")  # a notice
        terminal.press("?")
        terminal.wait_for("Edit a turn, or")
        terminal.press("?")
        terminal.wait_gone("Edit a turn, or")
        terminal.press(":")
        terminal.wait_for("Data: edit")
        terminal.press("esc")
        terminal.wait_gone("Data: edit")
        terminal.press("w")  # a prompt with the file's name in it
        terminal.wait_for("A name to know it by")
        terminal.press("esc")
        terminal.wait_gone("A name to know it by")
        terminal.press("0")
        terminal.wait_for("The loop")
        check(terminal)
        terminal.press("q")
        assert terminal.wait_exit() == 0
        check(terminal)


def test_wide_text_keeps_the_panel_borders_in_line(hostile: Workspace) -> None:
    command = [sys.executable, "-c", PROGRAM, str(hostile.root)]
    with Terminal(command, size=(120, 36)) as terminal:
        terminal.wait_for("你好世界")
        terminal.wait_for("line 1")
        for y in range(2, 34):
            assert terminal.screen.buffer[y][119].data in "│╮╯", terminal.lines[y]
