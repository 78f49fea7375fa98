"""The two answers of a pair: beside each other, below each other, or one at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import SequenceMatcher
from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Container, VerticalScroll
from textual.content import Content
from textual.widget import Widget

from finetui.display import clean_block
from finetui.tui.screens import lines
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.textpanel import TextPanel

SIDE_BY_SIDE = 110
"""Columns from which the two answers stand beside each other."""

DIFF_LIMIT = 4000
"""Words a side; beyond it the differences are not looked for, it would take seconds."""

DIFFERENT = "underline $warning"
# Scripts without spaces go by the character.
_WORDS = re.compile(r"[^\W\u2e80-\uffff]+|\s+|.", re.DOTALL)


class AnswerPane(VerticalScroll, inherit_bindings=False):
    """One text to read. The keys that scroll belong to the view, so that both can go together."""

    DEFAULT_CSS = """
    AnswerPane { height: 1fr; width: 1fr; }
    AnswerPane > TextPanel { padding: 0 1; }
    """

    def __init__(
        self,
        id: str,
        title: str,
        moved: Callable[[AnswerPane], None] = lambda _: None,
        cut: str = "",
    ) -> None:
        """``moved`` is called when the text was scrolled, by a key or by the mouse; ``cut`` is
        said once the end was seen of a text that does not fit."""
        super().__init__(id=id, classes="panel")
        self.border_title = title
        self.seen = False
        self.moved = moved
        self.cut = cut
        self.page = TextPanel(wrap=True)

    def compose(self) -> ComposeResult:
        yield self.page

    def show(self, text: Content, end: bool = False) -> None:
        """Show another text from its beginning, or from its end."""
        self.seen = False
        self.page.show(text)
        if end:
            self.call_after_refresh(self.scroll_end, animate=False)
        else:
            self.scroll_home(animate=False)
        self.call_after_refresh(self.look)

    def look(self) -> None:
        """Note whether the end of the text has been on screen."""
        if not (self.display and self.size.height):
            return
        self.seen = self.seen or self.scroll_offset.y >= self.max_scroll_y
        rest = self.cut if self.max_scroll_y else ""
        entitle(self, subtitle=rest if self.seen else "more below ↓")

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self.look()
        if round(old_value) != round(new_value):
            self.moved(self)

    def on_resize(self) -> None:
        self.call_after_refresh(self.look)

    def move(self, rows: int) -> None:
        self.scroll_to(y=self.scroll_offset.y + rows, animate=False)

    def move_page(self, direction: int) -> None:
        self.move(direction * max(1, self.size.height - 1))


class Pair(Container):
    """Two answers that look alike but for their words."""

    DEFAULT_CSS = """
    Pair { height: 1fr; layout: vertical; }
    Pair.-side { layout: horizontal; }
    """
    SIDES: ClassVar = ("left", "right")

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self.left = AnswerPane("left", "left", self._moved)
        self.right = AnswerPane("right", "right", self._moved)
        self.locked = False
        """Both move by the same rows, whichever is moved."""
        self.single = False
        """One answer at a time has the whole place."""
        self.diffed = False
        self._texts = ("", "")
        self._following = False

    def compose(self) -> ComposeResult:
        yield self.left
        yield self.right

    @property
    def panes(self) -> tuple[AnswerPane, AnswerPane]:
        return self.left, self.right

    @property
    def layout_name(self) -> str:
        """How the pair stands on screen, as it is recorded with a vote."""
        place = "single" if self.single else "side" if self.has_class("-side") else "stacked"
        return place + ("+diff" if self.diffed else "")

    def show(self, left: str, right: str) -> None:
        """Show another pair from its beginning."""
        self._texts = (left, right)
        for pane, text in zip(self.panes, self._written(), strict=True):
            pane.show(text)
        if self.single:
            self.turn_to(self.left)

    def _written(self) -> tuple[Content, Content]:
        left, right = self._texts
        return (
            differences(left, right) if self.diffed else (lines.answer(left), lines.answer(right))
        )

    def unread(self) -> list[str]:
        """The sides whose end nobody has seen."""
        return [pane.id or "" for pane in self.panes if not pane.seen]

    # -- what the rater may choose ---------------------------------------------------------------

    def toggle_diff(self) -> None:
        self.diffed = not self.diffed
        for pane, text in zip(self.panes, self._written(), strict=True):
            pane.page.show(text)

    def toggle_lock(self) -> None:
        self.locked = not self.locked

    def toggle_single(self) -> None:
        """One answer on the whole place, or both again."""
        self.single = not self.single
        for pane in self.panes:
            pane.display = True
            pane.call_after_refresh(pane.look)
        if self.single:
            self.turn_to(self.left)

    def turn_to(self, pane: AnswerPane) -> None:
        """Give a side the scroll keys; it is the one that shows when only one does."""
        if self.single:
            for other in self.panes:
                other.display = other is pane
            pane.call_after_refresh(pane.look)
        pane.focus(scroll_visible=False)

    def turn_over(self) -> None:
        """The other side."""
        self.turn_to(self.right if self.left.display else self.left)

    # -- scrolling -------------------------------------------------------------------------------

    def scrolled(self, focused: Widget | None) -> Sequence[AnswerPane]:
        """The panes that a scroll key moves: the one with the keyboard, or both."""
        if self.single:
            return [pane for pane in self.panes if pane.display]
        if focused is self.left or focused is self.right:
            return [focused]
        return self.panes

    def _moved(self, pane: AnswerPane) -> None:
        """In step: the other side goes to the same row, and does not lead back."""
        if not self.locked or self.single or self._following:
            return
        other = self.right if pane is self.left else self.left
        self._following = True
        try:
            wanted = min(round(pane.scroll_y), other.max_scroll_y)
            other.scroll_to(y=wanted, animate=False, immediate=True)
        finally:
            self._following = False


def differences(left: str, right: str) -> tuple[Content, Content]:
    """Both texts with the words marked in which they differ; alike on both sides.

    Texts of more than ``DIFF_LIMIT`` words stay unmarked.
    """
    ours, theirs = (_WORDS.findall(clean_block(text)) for text in (left, right))
    if not (ours and theirs) or max(len(ours), len(theirs)) > DIFF_LIMIT:
        return lines.answer(left), lines.answer(right)
    steps = SequenceMatcher(None, ours, theirs).get_opcodes()
    return (
        _marked((ours[a:b], same == "equal") for same, a, b, _, _ in steps),
        _marked((theirs[a:b], same == "equal") for same, _, _, a, b in steps),
    )


def _marked(pieces: Iterable[tuple[Sequence[str], bool]]) -> Content:
    return Content.assemble(
        *(("".join(words), "" if same else DIFFERENT) for words, same in pieces if words)
    )
