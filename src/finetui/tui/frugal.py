"""Fewer bytes for partial repaints: a changed span is sent from where it begins.

Textual sends a span from the left edge of its widget, so one changed cell at the right end of a
chart costs the whole line.
"""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Console
from rich.control import Control
from textual._compositor import ChopsUpdate
from textual.strip import Strip


def install() -> None:
    """Put it into Textual's partial updates; calling it twice changes nothing."""
    ChopsUpdate.render_segments = _render_segments  # type: ignore[method-assign]


def _render_segments(self: ChopsUpdate, console: Console) -> str:
    """Textual's own, with both ends of a span cut to what is dirty."""
    found: list[str] = []
    for y, first, last in self.spans:
        for end, (x, strip) in zip(self.chop_ends[y], self.chops[y].items(), strict=False):
            if strip is None or x >= last or end <= first:
                continue
            start, piece = _cut(strip, x, max(x, first), min(end, last))
            found.append(Control.move_to(start, y).segment.text)
            found.append(piece.render(console))
    return "".join(found)


def _cut(strip: Strip, x: int, first: int, last: int) -> tuple[int, Strip]:
    """The part of a strip that stands in [first, last), and where it begins: the whole strip where
    an end could cut a wide character in two."""
    whole = first == x and last == x + strip.cell_length
    if whole or cell_len(strip.text) != len(strip.text):
        return x, strip
    return first, strip.crop(first - x, last - x)
