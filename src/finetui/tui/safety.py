"""The second wall: whatever a widget lets through, no control byte of a text is written.

``finetui.display.clean`` at every widget's entry is the first wall. This one sits where Textual
turns a strip into terminal bytes, so a widget that forgot to clean is harmless too.
"""

from __future__ import annotations

from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style
from textual.strip import Strip

from finetui.display import UNSAFE

# One cell for one character: the layout was measured before this wall.
_ONE_CELL = {code: mark if len(mark) == 1 else "�" for code, mark in UNSAFE.items()}


def harmless(text: str) -> str:
    """``text`` with every control, bidi and invisible character replaced."""
    return text if text.isascii() and text.isprintable() else text.translate(_ONE_CELL)


def install() -> None:
    """Put the wall into Textual's strips; calling it twice changes nothing."""
    Strip.render_style = classmethod(_render_style)  # type: ignore[method-assign,assignment]
    Strip.render = _render  # type: ignore[method-assign]


def _render_style(cls: type[Strip], style: Style, text: str, color_system: ColorSystem) -> str:
    """Textual's own, with clean text and without OSC 8 links, which only data could ask for."""
    ansi = style._ansi
    if ansi is None:
        ansi = cls.render_ansi(style, color_system)
    text = harmless(text)
    return f"\x1b[{ansi}m{text}\x1b[0m" if ansi else text


def _render(self: Strip, console: Console) -> str:
    if self._render_cache is None:
        system = console._color_system or ColorSystem.TRUECOLOR
        self._render_cache = "".join(
            harmless(text) if style is None else self.render_style(style, text, system)
            for text, style, _ in self._segments
        )
    return self._render_cache
