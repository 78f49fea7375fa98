"""A panel of ready text that repaints only the lines that changed."""

from __future__ import annotations

from itertools import zip_longest

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
            Region(0, y, width, 1)
            for y, (before, after) in enumerate(zip_longest(old, new))
            if before is None or after is None or not before.is_same(after)
        ]
        self.refresh(*changed)
