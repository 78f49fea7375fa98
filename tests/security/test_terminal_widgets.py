"""The second wall over every kind of widget, on a real terminal; and what the test can see."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from terminal_bytes import HOSTILE, intruders, record

PROGRAM = Path(__file__).with_name("widgets_on_terminal.py")
WITHOUT_WALL = """
import runpy, sys
from finetui.tui import safety
safety.install = lambda: None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_no_kind_of_widget_lets_a_byte_through(tmp_path: Path) -> None:
    """Also after a resize, in tooltips, notices, dialogs, the palette, and as a title."""
    found = record([sys.executable, str(PROGRAM), str(tmp_path)], limit=600)
    assert found.status == 0, found.end
    assert intruders(found.raw) == []
    for word in ("SGR", "OSC52", "RIS", "bidi", "tag", "[@click=app.quit]x[/]", "link"):
        assert word.encode() in found.raw, f"{word} was never on screen"


@pytest.mark.figures
def test_the_same_widgets_without_the_wall_are_seen_to_leak(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_WALL, str(PROGRAM), str(tmp_path)]
    found = record(command, limit=600)
    assert len(intruders(found.raw)) > 10


def test_the_search_knows_our_own_output_from_what_a_text_brings() -> None:
    text = "café ⠿".encode()
    own = b"\x1b[?1049h\x1b[1;1H\x1b[38;2;1;2;3m" + text + b"\x1b[0m\x1b]22;default\x07\r\n"
    assert intruders(own) == []
    for word in HOSTILE.split(" "):
        hostile = word.encode()
        bad = any(byte < 0x20 or byte == 0x7F for byte in hostile) or not word.isprintable()
        assert bool(intruders(b"text " + hostile + b" text")) == bad, word
