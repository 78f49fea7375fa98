"""What was found in the answers before they are sealed, and the choice that follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import msgspec
from textual import on, work
from textual.app import ComposeResult
from textual.content import Content
from textual.message import Message

from finetui.display import clean, plural
from finetui.errors import UserError
from finetui.rating.drafts import Draft, drop_draft, read_draft, seal_draft
from finetui.rating.findings import Findings
from finetui.rating.registration import Registration
from finetui.tui.actions import Action, register
from finetui.tui.screens import lines
from finetui.tui.screens.page import Page
from finetui.tui.widgets.dialogs import Confirm
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import Column, ListSource, TableRow, VirtualTable
from finetui.tui.widgets.textpanel import TextPanel

COLUMNS = (
    Column("", 10, tone=True),
    Column("item", weight=1, low=12),
    Column("what was found", weight=2, low=20),
)


@dataclass(frozen=True)
class Doubt:
    """An item that somebody should decide about, and why; no system is named."""

    item: str
    why: str


def doubts(findings: Findings) -> list[Doubt]:
    """Items whose answers name a model, or were cut at the token limit."""
    heard: dict[str, set[str]] = {}
    for mention in findings.identity:
        heard.setdefault(mention.item, set()).update(mention.words)
    found = {item: "names " + ", ".join(sorted(words)) for item, words in heard.items()}
    for item in findings.cut:
        found[item] = f"{found[item]}; cut" if item in found else "cut at the token limit"
    return [Doubt(item, why) for item, why in found.items()]


def turned(chosen: Registration, item: str, out: bool) -> Registration:
    """The registration in which an item is taken out, or kept, by hand."""
    excluded = {*chosen.excluded, item} if out else {*chosen.excluded} - {item}
    kept = {*chosen.kept} - {item} if out else {*chosen.kept, item}
    return msgspec.structs.replace(
        chosen, excluded=tuple(sorted(excluded)), kept=tuple(sorted(kept))
    )


class FindingsPage(Page[str]):
    """A draft before its sealing. Dismisses with the name of the sealed session, or None."""

    PARTS = ("doubts",)
    KEYS = "space take out or keep · S seal · X drop · esc later"
    BINDINGS: ClassVar = register(
        Action("findings.turn", "space", "take out", "Take the item out, or keep it.", show=True,
               writes=True),
        Action("findings.seal", "S", "seal", "Freeze and seal the session as it is here.",
               show=True, writes=True),
        Action("findings.drop", "X", "drop", "Delete these answers; nothing is sealed.",
               show=True, writes=True),
    )  # fmt: skip
    DEFAULT_CSS = """
    FindingsPage #told { height: auto; margin: 1 0; }
    FindingsPage #doubts { height: 1fr; }
    """

    @dataclass
    class Found(Message):
        """What a registration makes of the answers."""

        draft: Draft | None
        findings: Findings | None = None
        error: str = ""

    @dataclass
    class Settled(Message):
        """The draft was sealed or dropped, or why not."""

        name: str | None = None
        error: str = ""

    def __init__(self, ratings: Path, name: str) -> None:
        super().__init__(f"before the sealing · {name}")
        self.ratings, self.name_of_draft = ratings, name
        self.chosen: Registration | None = None
        self.findings: Findings | None = None
        self.doubts: list[Doubt] = []

    def body(self) -> ComposeResult:
        yield TextPanel(Content("Looking at the answers…"), wrap=True, id="told")
        yield VirtualTable(COLUMNS, empty="No single item stands out.", id="doubts",
                           classes="panel")  # fmt: skip

    def on_mount(self) -> None:
        self._look()

    @work(thread=True, exit_on_error=False, group="findings", exclusive=True)
    def _look(self) -> None:
        try:
            draft = read_draft(self.ratings, self.name_of_draft)
            self.post_message(self.Found(draft, draft.findings(self.chosen)))
        except UserError as error:
            self.post_message(self.Found(None, error=str(error)))

    @on(Found)
    def _found(self, message: Found) -> None:
        if message.draft is None or message.findings is None:
            self.say(message.error, "error")
            self.dismiss(None)
            return
        self.chosen = self.chosen or message.draft.registration
        self.findings, self.doubts = message.findings, doubts(message.findings)
        left = len(message.draft.items) - len(message.findings.excluded)
        rows = [
            f"{plural(left, 'item')} left, {len(message.draft.systems)} systems, "
            f"{plural(max(1, len(self.chosen.raters)), 'rater')}",
            *message.findings.sentences,
        ]
        self.query_one("#told", TextPanel).show(lines.join(Content(clean(row)) for row in rows))
        self._show_rows()

    def _show_rows(self) -> None:
        assert self.findings is not None
        out = self.findings.excluded
        rows = [
            TableRow(("✗ out" if doubt.item in out else "○ kept", doubt.item, doubt.why),
                     "error" if doubt.item in out else "")
            for doubt in self.doubts
        ]  # fmt: skip
        table = self.table("doubts")
        table.show(ListSource(rows))
        entitle(table, f"{plural(len(rows), 'item')} to decide about")

    def action_turn(self) -> None:
        """Decide about the item at the cursor; the rest is looked at anew."""
        if self.chosen is None or self.findings is None or not self.doubts:
            return
        item = self.doubts[self.table("doubts").cursor].item
        self.chosen = turned(self.chosen, item, item not in self.findings.excluded)
        self._look()

    def action_seal(self) -> None:
        if self.chosen is None:
            return
        chosen = self.chosen
        self._ask(
            "Seal it like this?",
            "Question, items, raters and stop rule are frozen; the sides are drawn and hidden.",
            "seal",
            lambda: seal_draft(self.ratings, self.name_of_draft, chosen).name,
        )

    def action_drop(self) -> None:
        def drop() -> str:
            drop_draft(self.ratings, self.name_of_draft)
            return ""

        self._ask("Drop these answers?", "They would have to be generated again.", "drop", drop)

    def _ask(self, question: str, detail: str, yes: str, then: Callable[[], str]) -> None:
        def decided(sure: bool | None) -> None:
            if sure:
                self._settle(then)

        self.app.push_screen(Confirm(question, detail, yes), decided)

    @work(thread=True, exit_on_error=False, group="seal", exclusive=True)
    def _settle(self, then: Callable[[], str]) -> None:
        try:
            self.post_message(self.Settled(then()))
        except UserError as error:
            self.post_message(self.Settled(error=str(error)))

    @on(Settled)
    def _settled(self, message: Settled) -> None:
        if message.error:
            self.say(message.error, "error")
        else:
            self.dismiss(message.name)
