"""The page of presets: what suits this model and machine, and what each would change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message

from finetui.display import plural
from finetui.recipe.facts import Facts
from finetui.recipe.presets import Preset, applied, offered
from finetui.recipe.schema import Recipe, changed, field, get
from finetui.tui.screens import lines
from finetui.tui.screens.page import Page
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import Column, ListSource, TableRow, Tone, VirtualTable
from finetui.tui.widgets.textpanel import TextPanel


class PresetsPage(Page[Preset | None]):
    """Dismisses with the chosen preset, or None."""

    PARTS = ("presets",)
    KEYS = "enter take it · esc close"
    BINDINGS: ClassVar = []
    DEFAULT_CSS = """
    PresetsPage #presets { height: 2fr; min-height: 5; }
    PresetsPage #about { height: 3fr; }
    PresetsPage.-short #about { height: 11; }
    """

    @dataclass
    class Offered(Message):
        """The presets for this model and machine."""

        presets: list[Preset]

    def __init__(self, recipe: Recipe, facts: Facts) -> None:
        super().__init__("presets")
        self.recipe, self.facts = recipe, facts
        self.presets: list[Preset] = []

    def body(self) -> ComposeResult:
        columns = [
            Column("", 1, tone=True),
            Column("preset", weight=1, low=20),
            Column("here", 12, tone=True),
            Column("changes", 7, "right"),
        ]
        yield VirtualTable(columns, id="presets", classes="panel", empty="fitting them …")
        with Vertical(id="about", classes="panel"):
            yield TextPanel(wrap=True, id="about-text")

    def on_mount(self) -> None:
        entitle(self.query_one("#presets"), "the one that suits best comes first")
        self._offer()

    @work(thread=True, exit_on_error=False, group="presets")
    def _offer(self) -> None:
        """Fit the presets to the machine: forecasts of many recipes, some 0.1 s."""
        self.post_message(self.Offered(offered(self.recipe, self.facts)))

    @on(Offered)
    def _offered(self, message: Offered) -> None:
        self.presets = message.presets
        self.table("presets").show(ListSource([self._row(found) for found in self.presets]))
        if self.presets:
            self._explain(self.presets[0])

    def _row(self, found: Preset) -> TableRow:
        sign, words, tone = _mark(found)
        changes = changed(applied(self.recipe, found), self.recipe)
        return TableRow((sign, found.title, words, f"{len(changes)}"), tone)

    @on(VirtualTable.RowHighlighted, "#presets")
    def _moved(self, message: VirtualTable.RowHighlighted) -> None:
        self._explain(self.presets[message.row])

    def _explain(self, found: Preset) -> None:
        after = applied(self.recipe, found)
        ids = changed(after, self.recipe)
        rows = [Content(found.help), *(_change(self.recipe, after, id) for id in ids)]
        rows.append(Content.styled(f"source: {found.source}", "$muted"))
        self.query_one("#about-text", TextPanel).show(lines.join(rows))
        words = f"changes {plural(len(ids), 'field')}" if ids else "changes nothing: it is so"
        entitle(self.query_one("#about"), found.title, words)

    @on(VirtualTable.RowSelected, "#presets")
    def _chosen(self, message: VirtualTable.RowSelected) -> None:
        self.dismiss(self.presets[message.row])


def _mark(found: Preset) -> tuple[str, str, Tone]:
    """Sign, word and colour of how a preset suits the machine."""
    if found.recommended:
        return "★", "suits best", "good"
    return (" ", "fits", "muted") if found.fits else ("✗", "does not fit", "error")


def _change(before: Recipe, after: Recipe, id: str) -> Content:
    found = field(id)
    old, new = found.show(get(before, id)) or "empty", found.show(get(after, id)) or "empty"
    return Content.assemble(
        (f"{found.label:<20} ", "$muted"), (f"{old} → ", "$muted"), (new, "bold $accent")
    )
