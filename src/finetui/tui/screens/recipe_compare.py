"""The page that sets a recipe beside another one, or beside a run, and takes values over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult

from finetui.display import plural
from finetui.recipe.compare import Difference, differences
from finetui.recipe.schema import Recipe, field, with_value
from finetui.tui.actions import Action, register
from finetui.tui.screens import recipe_view
from finetui.tui.screens.page import Page
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import Column, ListSource, TableRow, VirtualTable
from finetui.tui.widgets.textpanel import TextPanel


class ComparePage(Page[Recipe | None]):
    """Dismisses with the recipe and what was taken over into it; None when nothing was."""

    PARTS = ("fields",)
    KEYS = "enter take this value · a take all · u take back · esc done"
    BINDINGS: ClassVar = register(
        Action("compare.all", "a", "take all", "Take every value of the other, but not its name."),
        Action("compare.undo", "u", "take back", "Take the last value back."),
    )
    DEFAULT_CSS = """
    ComparePage #fields { height: 1fr; }
    ComparePage #why { height: auto; max-height: 4; }
    """

    def __init__(self, recipe: Recipe, other: Recipe, title: str, root: Path) -> None:
        super().__init__(f"{recipe.name or 'this recipe'} and {title}")
        self.recipe, self.other, self.other_title, self.root = recipe, other, title, root
        self._past: list[Recipe] = []
        self.found: tuple[Difference, ...] = differences([recipe, other], root)

    def body(self) -> ComposeResult:
        columns = [
            Column("", 1, tone=True),
            Column("field", 20),
            Column("here", weight=1, low=14, tone=True),
            Column("there", weight=1, low=14),
        ]
        yield VirtualTable(columns, id="fields", classes="panel", empty="they do not differ")
        yield TextPanel(wrap=True, id="why")

    def on_mount(self) -> None:
        self._show()
        self._explain(0)

    def _show(self) -> None:
        left = differences([self.recipe, self.other], self.root)
        self.found = self.found or left
        open_fields = {difference.field for difference in left}
        rows = [self._row(difference, difference.field in open_fields) for difference in self.found]
        self.table("fields").show(ListSource(rows))
        words = plural(len(left), "difference")
        taken = len(self.found) - len(left)
        entitle(self.query_one("#fields"), words, f"{taken} taken over" if taken else "")

    def _row(self, difference: Difference, is_open: bool) -> TableRow:
        here, there = difference.values
        if not is_open:
            return TableRow(("✓", difference.label, there or "empty", there or "empty"), "good")
        return TableRow(("≠", difference.label, here or "empty", there or "empty"), "")

    @on(VirtualTable.RowHighlighted, "#fields")
    def _moved(self, message: VirtualTable.RowHighlighted) -> None:
        self._explain(message.row)

    def _explain(self, row: int) -> None:
        if row < len(self.found):
            text = recipe_view.help_panel(field(self.found[row].field), [], dense=True)
            self.query_one("#why", TextPanel).show(text)

    @on(VirtualTable.RowSelected, "#fields")
    def _chosen(self, message: VirtualTable.RowSelected) -> None:
        self._take([self.found[message.row]])

    def action_all(self) -> None:
        self._take([d for d in self.found if d.field not in ("name", "notes")])

    def _take(self, wanted: Sequence[Difference]) -> None:
        changed = self.recipe
        for difference in wanted:  # as shown: paths inside the workspace are relative there
            changed = with_value(changed, difference.field, difference.values[1])
        if changed != self.recipe:
            self._past.append(self.recipe)
            self.recipe = changed
            self._show()

    def action_undo(self) -> None:
        if self._past:
            self.recipe = self._past.pop()
            self._show()

    def action_close(self) -> None:
        self.dismiss(self.recipe if self._past else None)
