"""A panel of ready text that repaints only what changed."""

from __future__ import annotations

from itertools import takewhile, zip_longest

from rich.cells import cell_len
from textual.content import Content
from textual.geometry import Region
from textual.widget import Widget


class TextPanel(Widget):
    """Shows a Content; ``show`` costs nothing when the text is the same as before.

    Lines are cut, not wrapped, so that one line of text is one line of screen; with ``wrap`` the
    text flows and every change repaints the whole panel.
    """

    DEFAULT_CSS = """
    TextPanel { height: auto; width: 1fr; }
    """

    def __init__(
        self,
        text: Content | None = None,
        *,
        wrap: bool = False,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self.text = text or Content("")
        self.wrap = wrap
        self.styles.padding = (0, 1)
        if not wrap:
            self.styles.text_wrap = "nowrap"
            self.styles.text_overflow = "ellipsis"

    def render(self) -> Content:
        return self.text

    def show(self, text: Content) -> None:
        """Show another text; only what differs is sent to the terminal."""
        if text.is_same(self.text):
            return
        old, new = self.text.split("\n"), text.split("\n")
        self.text = text
        if not self.is_attached:
            return
        if self.wrap or len(old) != len(new):
            self.refresh(layout=True)
            return
        width = self.content_size.width
        changed = [
            Region(first, y, last - first, 1)
            for y, (before, after) in enumerate(zip_longest(old, new))
            for first, last in [_changed(before, after, width)]
            if first < last
        ]
        if changed:
            self.refresh(*changed)


def _changed(before: Content | None, after: Content | None, width: int) -> tuple[int, int]:
    """First and one-past-last column in which two lines of a panel differ."""
    if before is not None and after is not None and before.is_same(after):
        return 0, 0
    if before is None or after is None or not (_narrow(before, width) and _narrow(after, width)):
        return 0, width
    old, new = _cells(before), _cells(after)
    start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
    end = max(len(old), len(new))
    while len(old) == len(new) and end > start and old[end - 1] == new[end - 1]:
        end -= 1
    return start, min(width, end)


def _narrow(line: Content, width: int) -> bool:
    """Whether each character has a cell of its own, and all of them fit."""
    return len(line.plain) <= width and cell_len(line.plain) == len(line.plain)


def _cells(line: Content) -> list[tuple[str, tuple[object, ...]]]:
    """Each character with its styles."""
    return [
        (char, tuple(span.style for span in line.spans if span.start <= place < span.end))
        for place, char in enumerate(line.plain)
    ]
