"""The dialog that marks what is wrong in a pair, by the words that the session offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.widgets import Static

from finetui.display import clean
from finetui.tui.actions import Action, register
from finetui.tui.widgets.bars import hint_line
from finetui.tui.widgets.dialogs import Dialog
from finetui.tui.widgets.table import Column, ListSource, TableRow, VirtualTable

COLUMNS = (Column("", 2), Column("", 2), Column("", weight=1, low=14))
_MOST_LINES = 14


class TagsDialog(Dialog["tuple[str, ...] | None"]):
    """Dismisses with the tags in the order of the words, or None when nothing is to change."""

    BINDINGS: ClassVar = register(
        Action("tags.tick", "space", "tick", "Mark the pair with this word, or no longer.",
               show=True),
    )  # fmt: skip
    DEFAULT_CSS = """
    TagsDialog .dialog { padding: 0 1; width: 46; }
    TagsDialog #keys { margin-top: 1; }
    """

    def __init__(self, words: Sequence[str], ticked: Sequence[str]) -> None:
        super().__init__()
        self.words = list(words)
        self.ticked = set(ticked)

    def compose(self) -> ComposeResult:
        table = VirtualTable(COLUMNS, ListSource(self._rows()), header=False)
        table.styles.height = min(_MOST_LINES, max(1, len(self.words)))
        hints = [("1…9 space", "tick"), ("enter", "keep"), ("esc", "cancel")]
        yield self.box(table, Static(hint_line(hints), id="keys"), title="What is wrong here?")

    def on_mount(self) -> None:
        self.set_focus(self.query_one(VirtualTable))

    def _rows(self) -> list[TableRow]:
        return [
            TableRow((str(number), "●" if word in self.ticked else "○", clean(word)))
            for number, word in enumerate(self.words, start=1)
        ]

    def on_key(self, event: events.Key) -> None:
        number = int(event.key) if event.key.isdecimal() else 0
        if 0 < number <= len(self.words):
            event.stop()
            self._tick(number - 1)

    def action_tick(self) -> None:
        self._tick(self.query_one(VirtualTable).cursor)

    def _tick(self, place: int) -> None:
        self.ticked ^= {self.words[place]}
        table = self.query_one(VirtualTable)
        table.go_to(place)
        table.show(ListSource(self._rows()))

    @on(VirtualTable.RowSelected)
    def _kept(self) -> None:
        self.dismiss(tuple(word for word in self.words if word in self.ticked))
