"""The second wall: no widget of any kind sends a control byte of its text to the terminal."""

from __future__ import annotations

import io

import pytest
from desk import HOSTILE
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from finetui.tui import safety

safety.install()
CONSOLE = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor")


@pytest.mark.parametrize("style", [None, Style(), Style(color="red", bold=True)])
def test_a_strip_never_renders_a_control_character_of_its_text(style: Style | None) -> None:
    own = Strip([Segment("x", style)]).render(CONSOLE)
    sent = Strip([Segment(HOSTILE, style)]).render(CONSOLE)
    allowed = own.count("\x1b")
    assert sent.count("\x1b") == allowed
    for char in "\x07\x00\x7f\x9b‮​\U000e0041":
        assert char not in sent


def test_a_link_in_a_style_is_not_sent() -> None:
    sent = Strip([Segment("x", Style(link="http://evil\x1b]52;c;x"))]).render(CONSOLE)
    assert "]8;" not in sent
    assert "]52" not in sent


def test_the_wall_keeps_the_number_of_characters() -> None:
    assert len(safety.harmless(HOSTILE)) == len(HOSTILE)


def test_plain_text_passes_as_it_is() -> None:
    for text in ("plain", "café 你好 ├─┤ ⠿ ✓ ● →", ""):
        assert safety.harmless(text) == text
