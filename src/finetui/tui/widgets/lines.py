"""A scrolling page of ready-made lines; the ground of the record view and the help page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from finetui.tui.actions import Action, register


class LinesView(ScrollView, can_focus=True):
    """Shows what ``build`` makes for the pane's width; only lines on screen are painted."""

    DEFAULT_CSS = """
    LinesView { height: 1fr; width: 1fr; overflow-x: hidden; overflow-y: auto; }
    """
    BINDINGS: ClassVar = register(
        Action("lines.up", "up,k", "up", "One line up.", call="scroll_up"),
        Action("lines.down", "down,j", "down", "One line down.", call="scroll_down"),
        Action("lines.page-up", "pageup", "page up", "One page up."),
        Action("lines.page-down", "pagedown,space", "page down", "One page down."),
        Action("lines.first", "home,g", "top", "The beginning.", call="scroll_home"),
        Action("lines.last", "end,G", "end", "The end.", call="scroll_end"),
    )

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.lines: Sequence[Strip] = ()
        self._built_for = -1

    def build(self, width: int) -> Sequence[Strip]:
        """All lines for a width in cells; override."""
        raise NotImplementedError

    def rebuild(self, top: bool = False) -> None:
        """Make the lines again; with ``top`` the page starts at its beginning."""
        width = self.scrollable_content_region.width
        if width <= 0:
            return
        before, old = self._window(), width == self._built_for
        self._built_for = width
        self.lines = self.build(width)
        self.virtual_size = Size(0, len(self.lines))
        if top:
            self.scroll_to(y=0, animate=False, force=True)
        if old:
            self._refresh_difference(before)
        else:
            self.refresh()

    def _window(self) -> list[Strip | None]:
        """The lines on screen; None below the last."""
        top, height = int(self.scroll_offset.y), self.size.height
        return [self.lines[y] if y < len(self.lines) else None for y in range(top, top + height)]

    def _refresh_difference(self, before: list[Strip | None]) -> None:
        """Repaint only the lines that are other than before."""
        changed = [
            Region(0, y, self.size.width, 1)
            for y, (old, new) in enumerate(zip(before, self._window(), strict=False))
            if old != new
        ]
        if changed:
            self.refresh(*changed)

    def on_resize(self) -> None:
        if self.scrollable_content_region.width != self._built_for:
            self.rebuild()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        if self._built_for > 0:
            self._built_for = 0
            self.rebuild()

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        if width != self._built_for:  # a scroll bar came or went
            self.call_later(self.rebuild)
        index = y + int(self.scroll_offset.y)
        ground = self.ground
        if index < len(self.lines):
            return self.lines[index].adjust_cell_length(width, ground)
        return Strip([Segment(" " * width, ground)], width)

    @property
    def ground(self) -> Style:
        return self.rich_style

    def action_page_up(self) -> None:
        self.scroll_relative(y=1 - self.size.height, animate=False)

    def action_page_down(self) -> None:
        self.scroll_relative(y=self.size.height - 1, animate=False)
