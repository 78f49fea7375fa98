"""Keys that arrive in one piece, as on a slow line, go where they were meant to go."""

from __future__ import annotations

import sys

from desk import until
from pty_harness import Terminal
from textual import events

from finetui.tui.app import FinetuiApp
from finetui.workspace import Workspace

PROGRAM = """
import pathlib, sys
from finetui.tui.app import FinetuiApp
from finetui.workspace import find
app = FinetuiApp(find(pathlib.Path(sys.argv[1])), start="data")
sys.exit(app.run_to_exit())
"""


def test_a_filter_typed_in_one_piece_is_a_filter(workspace: Workspace) -> None:
    with Terminal([sys.executable, "-c", PROGRAM, str(workspace.root)]) as terminal:
        terminal.wait_for("40 rows")
        terminal.type("/question 12")
        terminal.wait_for("1 of 40 · /question 12")
        assert "dropped" not in terminal.text


def test_digits_and_keys_after_them_reach_the_new_mode(workspace: Workspace) -> None:
    with Terminal([sys.executable, "-c", PROGRAM, str(workspace.root)]) as terminal:
        terminal.wait_for("40 rows")
        terminal.type("01dd")
        terminal.wait_for("2 dropped")


def test_a_dialog_gets_what_was_typed_ahead_for_it(workspace: Workspace) -> None:
    with Terminal([sys.executable, "-c", PROGRAM, str(workspace.root)]) as terminal:
        terminal.wait_for("40 rows")
        terminal.type("onowhere\r")
        terminal.wait_for("there is no file nowhere")
        terminal.wait_for("nowhere")


async def test_a_key_whose_widget_is_gone_does_not_hold_the_next(workspace: Workspace) -> None:
    app = FinetuiApp(workspace)
    async with app.run_test(size=(80, 24)):
        await until(lambda: app.mode == "home")
        app._under_way_until = float("inf")  # as if the answer never came
        app.post_message(events.Key("1", "1"))
        await until(lambda: app._waiting)
        app._under_way_until = 0.0
        await until(lambda: app.mode == "data")
