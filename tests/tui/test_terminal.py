"""Terminals that cannot show the screens are refused in words; a hang-up ends the process."""

from __future__ import annotations

import io
import os
import sys
import time
from pathlib import Path

import pytest
from pty_harness import Terminal

from finetui.errors import UserError
from finetui.tui import terminal

PROGRAM = """
import pathlib, sys
from finetui.tui.app import FinetuiApp
from finetui.workspace import find
sys.exit(FinetuiApp(find(pathlib.Path(sys.argv[1]))).run_to_exit())
"""
SHELL = [sys.executable, "-c", PROGRAM]


class Tty(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_without_a_cursor_is_refused(term: str) -> None:
    with pytest.raises(UserError, match="cursor"):
        terminal.require_terminal({"TERM": term}, Tty(), Tty())


def test_a_pipe_is_refused() -> None:
    with pytest.raises(UserError, match="need a terminal"):
        terminal.require_terminal({"TERM": "xterm"}, io.StringIO(), Tty())
    with pytest.raises(UserError, match="need a terminal"):
        terminal.require_terminal({"TERM": "xterm"}, Tty(), io.StringIO())


def test_an_output_that_is_not_utf8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    latin = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "__stderr__", latin)
    with pytest.raises(UserError, match="UTF-8"):
        terminal.require_terminal({"TERM": "xterm"}, Tty(), Tty())


def test_a_good_terminal_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "__stderr__", Tty())
    terminal.require_terminal({"TERM": "xterm-256color"}, Tty(), Tty())


def test_sigterm_gives_the_terminal_back(workspace) -> None:
    with Terminal([*SHELL, str(workspace.root)]) as screen:
        screen.wait_for("Jobs")
        os.kill(screen.pid, 15)
        assert screen.wait_exit() == 143
        assert b"\x1b[?1049l" in screen.raw


def test_a_hang_up_ends_the_process_even_when_the_signal_was_ignored(workspace) -> None:
    ignoring = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *SHELL, str(workspace.root)]
    with Terminal(ignoring) as screen:
        screen.wait_for("Jobs")
        screen.hang_up()
        import time

        end = time.monotonic() + 15
        while screen.alive() and time.monotonic() < end:
            time.sleep(0.02)  # there is no terminal left to wait on
        assert not screen.alive()


def test_q_leaves_in_order(workspace) -> None:
    with Terminal([*SHELL, str(workspace.root)]) as screen:
        screen.wait_for("Jobs")
        screen.press("q")
        assert screen.wait_exit() == 0


def test_ctrl_c_stops_nothing_and_says_how_to_leave(workspace) -> None:
    with Terminal([*SHELL, str(workspace.root)]) as screen:
        screen.wait_for("Jobs")
        screen.press("ctrl+c")
        screen.wait_for("q leaves finetui")
        assert screen.alive()


# As under su: a session of its own without a controlling terminal, so that no signal comes; and
# an account that may not look into the workspace.
UNSIGNALLED = """
import os, pathlib, subprocess, sys
child = "import sys; from finetui.tui import lookout; from finetui.workspace import Workspace\\n"
child += "def refuse(*_): raise PermissionError\\n"
child += "lookout.loop_of = refuse\\n"
child += "from finetui.tui.app import FinetuiApp; from finetui.workspace import find\\n"
child += "import pathlib; sys.exit(FinetuiApp(find(pathlib.Path(sys.argv[1]))).run_to_exit())"
process = subprocess.Popen([sys.executable, "-c", child, sys.argv[1]], start_new_session=True)
pathlib.Path(sys.argv[1], "pid").write_text(str(process.pid))
sys.exit(process.wait())
"""


def test_a_terminal_that_goes_without_a_signal_ends_the_process_for_a_rater_too(workspace) -> None:
    with Terminal([sys.executable, "-c", UNSIGNALLED, str(workspace.root)]) as screen:
        screen.wait_for("0 Home")
        child = int((workspace.root / "pid").read_text())
        screen.hang_up()
        end = time.monotonic() + 20
        while Path(f"/proc/{child}/fd/0").exists():
            assert time.monotonic() < end, "it goes on without a terminal"
            time.sleep(0.05)
