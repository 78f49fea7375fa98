"""Mend all rows of one finding at once: first see what would change, then one step, one undo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.content import Content
from textual.message import Message

from finetui.data.dataset import DataSet
from finetui.display import clean_block, plural
from finetui.errors import UserError
from finetui.tui.actions import Action, register
from finetui.tui.screens.lines import marked
from finetui.tui.screens.page import Page
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import Column, ListSource, TableRow, VirtualTable
from finetui.tui.widgets.textpanel import TextPanel

if TYPE_CHECKING:
    from finetui.data.edits.bulk import By

_WAYS = {
    "repair": "repaired by the check's own rule",
    "drop": "dropped",
    "quarantine": "set aside",
    "mark": "marked for review",
}


@dataclass
class Previewed(Message):
    """What would change, or ``error`` says why nothing can be told."""

    by: str
    preview: Any = None
    error: str = ""


@dataclass
class Applied(Message):
    said: str = ""
    error: str = ""


class FixAllPage(Page["str | None"]):
    """Dismisses with a sentence of what was done, or None."""

    PARTS = ("differences",)
    KEYS = "y do it · r repair · d drop · x set aside · m mark · esc leave"
    BINDINGS: ClassVar = register(
        Action("fix-all.yes", "y", "do it", "Change all rows, as one step.", writes=True),
        Action("fix-all.repair", "r", "repair", "By the check's own rule.", writes=True),
        Action("fix-all.drop", "d", "drop", "Leave all of them out.", writes=True),
        Action(
            "fix-all.aside",
            "x",
            "set aside",
            "Into quarantine: out, but kept for later.",
            writes=True,
        ),
        Action("fix-all.mark", "m", "mark", "Mark them for review.", writes=True),
    )
    DEFAULT_CSS = """
    FixAllPage #state { height: 3; }
    FixAllPage #differences { height: 1fr; min-height: 4; }
    FixAllPage #before, FixAllPage #after { height: 1fr; border: round $line; }
    """

    def __init__(self, data: DataSet, check: str, rows: Sequence[int], fixable: bool) -> None:
        super().__init__(f"all rows with {check} · {data.path.name}")
        self.data, self.check, self.rows = data, check, list(rows)
        self.by: By = "repair" if fixable else "drop"
        self.preview: Any = None

    def body(self) -> ComposeResult:
        yield TextPanel(wrap=True, id="state")
        yield VirtualTable(
            [Column("line", 8, "right"), Column("before", weight=1), Column("after", weight=1)],
            id="differences", classes="panel", empty="looking …",
        )  # fmt: skip
        yield TextPanel(wrap=True, id="before")
        yield TextPanel(wrap=True, id="after")

    def on_mount(self) -> None:
        entitle(self.query_one("#differences"), "the first rows it would change")
        entitle(self.query_one("#before"), "before")
        entitle(self.query_one("#after"), "after")
        self._ask(self.by)

    def _ask(self, by: By) -> None:
        self.by, self.preview = by, None
        self._tell("looking at the rows …")
        self._look(by)

    @work(thread=True, group="fix-all", exclusive=True, exit_on_error=False)
    def _look(self, by: By) -> None:
        from finetui.data.edits import bulk

        try:
            found = bulk.preview(self.data, self.check, self.rows, by)
        except UserError as error:
            self.post_message(Previewed(by, error=str(error)))
        else:
            self.post_message(Previewed(by, found))

    @on(Previewed)
    def _previewed(self, message: Previewed) -> None:
        if message.by != self.by:
            return
        if message.error:
            self._tell(message.error, "$error")
            return
        self.preview = found = message.preview
        rows = [
            TableRow((f"{each.line:,}", each.before[:300], (each.after or "left out")[:300]))
            for each in found.differences
        ]
        self.table("differences").show(ListSource(rows))
        self._show_difference(0)
        cannot = f"; {plural(len(found.unfixable), 'row')} cannot be" if found.unfixable else ""
        told = f"{plural(found.count, 'row')} would be {_WAYS[self.by]}{cannot}. y does it."
        if found.unfixable:
            row, why = found.unfixable[0]
            told += f"\nline {self.data.source.line(row):,}: {why}"
        self._tell(told if found.count else f"Nothing to do{cannot}. d drops them, x sets aside.")

    def _tell(self, words: str, style: str = "") -> None:
        self.query_one("#state", TextPanel).show(Content.styled(clean_block(words), style))

    @on(VirtualTable.RowHighlighted, "#differences")
    def _moved(self, message: VirtualTable.RowHighlighted) -> None:
        message.stop()
        self._show_difference(message.row)

    def _show_difference(self, place: int) -> None:
        if self.preview is None or place >= len(self.preview.differences):
            return
        each = self.preview.differences[place]
        before, after = each.before[:4000], (each.after or "")[:4000]
        self.query_one("#before", TextPanel).show(marked(before, after, "$error"))
        shown = marked(after, before, "$success") if after else Content("(left out)")
        self.query_one("#after", TextPanel).show(shown)

    # -- doing -------------------------------------------------------------------------------

    def action_repair(self) -> None:
        self._ask("repair")

    def action_drop(self) -> None:
        self._ask("drop")

    def action_aside(self) -> None:
        self._ask("quarantine")

    def action_mark(self) -> None:
        self._ask("mark")

    def action_yes(self) -> None:
        if self.preview is not None and self.preview.count:
            self._tell("changing the rows …")
            self._apply(self.by)

    @work(thread=True, group="fix-all", exclusive=True, exit_on_error=False)
    def _apply(self, by: By) -> None:
        from finetui.data.edits import bulk

        try:
            done = bulk.apply(self.data, self.check, self.rows, by)
        except UserError as error:
            self.post_message(Applied(error=str(error)))
        else:
            said = f"{plural(done.count, 'row')} {_WAYS[by]}. u takes it back."
            self.post_message(Applied(said))

    @on(Applied)
    def _applied(self, message: Applied) -> None:
        if message.error:
            self._tell(message.error, "$error")
        else:
            self.dismiss(message.said)
