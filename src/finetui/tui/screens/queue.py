"""The review queue: production failures and candidate rows, decided one by one by a person."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual import on
from textual.app import ComposeResult

from finetui.data.review.feedback import import_feedback, take_repairs
from finetui.data.review.queue import (
    ACCEPTED,
    ADDED,
    CORRECTED,
    DISMISSED,
    FEEDBACK,
    PENDING,
    REFUSED,
    Item,
    Queue,
)
from finetui.display import plural
from finetui.errors import UserError
from finetui.tui.actions import Action, register
from finetui.tui.screens import data_view
from finetui.tui.screens.page import Page
from finetui.tui.widgets.dialogs import Choose, EditorDialog, TextPrompt
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.record import Block, RecordView
from finetui.tui.widgets.table import Column, ListSource, TableRow, Tone, VirtualTable
from finetui.workspace import Workspace

_SIGNS: dict[str, tuple[str, Tone]] = {
    PENDING: ("·", ""),
    CORRECTED: ("✓", "good"),
    ACCEPTED: ("✓", "good"),
    ADDED: ("+", "info"),
    DISMISSED: ("–", "muted"),
    REFUSED: ("✗", "error"),
}
_MOST = 2000  # items that are listed at once
_SHOWN = (PENDING, "", CORRECTED, ACCEPTED, ADDED, DISMISSED, REFUSED)


class QueuePage(Page[None]):
    """Every decision is on disk at once; nothing gets into a data set but by `add`."""

    PARTS = ("items", "item")
    KEYS = "a accept · c correct · x dismiss · A add · i import · esc close"
    BINDINGS: ClassVar = register(
        Action("queue.accept", "a", "accept", "Take this answer as it stands.", writes=True),
        Action(
            "queue.correct", "c,e", "correct", "Write the answer it should have been.", writes=True
        ),
        Action("queue.dismiss-item", "x", "dismiss", "Put it aside, with a reason.", writes=True),
        Action("queue.reopen", "o", "reopen", "Take the decision back.", writes=True),
        Action("queue.add", "A", "add", "Write all accepted rows into a data set.", writes=True),
        Action("queue.bring", "i", "import", "Take in a JSONL file of failures.", writes=True),
        Action("queue.states", "s", "states", "Choose which items are shown."),
        Action("queue.undo", "u", "undo", "Undo the last decision.", writes=True),
        Action("queue.redo", "ctrl+r", "redo", "Do again what was undone.", writes=True),
    )
    DEFAULT_CSS = """
    QueuePage #items { height: 2fr; min-height: 5; }
    QueuePage #item { height: 3fr; min-height: 6; }
    """

    def __init__(self, workspace: Workspace) -> None:
        super().__init__("review queue")
        self.workspace = workspace
        self.queue = Queue(workspace)
        self.state = PENDING
        self.items: list[Item] = []

    def body(self) -> ComposeResult:
        yield VirtualTable(
            [Column("", 1, tone=True), Column("no", 5, "right"), Column("from", 10),
             Column("times", 5, "right"), Column("asked", weight=1.2), Column("answer", weight=1)],
            id="items", classes="panel", empty="nothing waits here · i takes in failures",
        )  # fmt: skip
        yield RecordView(id="item", classes="panel")

    def on_mount(self) -> None:
        try:
            take_repairs(self.queue)
        except UserError as error:
            self.say(str(error), "warning")
        entitle(self.query_one("#item"), "item")
        self._show()

    def on_unmount(self) -> None:
        self.queue.close()

    # -- showing -----------------------------------------------------------------------------

    def _show(self) -> None:
        table = self.table("items")
        before = table.cursor
        self.items = self.queue.items(self.state, order="reports", limit=_MOST)
        table.show(ListSource([_row(item) for item in self.items]))
        table.go_to(min(before, max(0, len(self.items) - 1)))
        counted = self.queue.counts()
        total = {name: sum(kind[name] for kind in counted.values()) for name in _SIGNS}
        told = ", ".join(f"{count:,} {name}" for name, count in total.items() if count)
        entitle(table, self.state or "all items", told or "empty")
        self._show_item()

    def _show_item(self) -> None:
        view, item = self.query_one(RecordView), self._current()
        if item is None:
            view.show([])
            return
        blocks = [Block(turn.role, turn.content) for turn in item.turns]
        if item.entry.bad:
            blocks.append(Block("was wrong", item.entry.bad))
        told = [item.entry.source, item.entry.note, item.entry.refused, item.reason]
        facts = " · ".join(part for part in told if part)
        if facts:
            blocks.append(Block("about", facts))
        if item.entry.held_out:
            blocks.append(Block("held-out", "test data: adding this row would leak the test"))
        view.show(blocks)
        told_by = f" · {item.decision} by {item.decided_by}" if item.decided_by else ""
        entitle(view, f"item {item.id} · {item.kind} · {item.state}{told_by}", "")

    def _current(self) -> Item | None:
        place = self.table("items").cursor
        return self.items[place] if place < len(self.items) else None

    @on(VirtualTable.RowHighlighted, "#items")
    def _moved(self, message: VirtualTable.RowHighlighted) -> None:
        message.stop()
        self._show_item()

    # -- deciding ----------------------------------------------------------------------------

    def action_accept(self) -> None:
        item = self._current()
        if item is not None and item.row is None:
            self.action_correct()
        elif item is not None:
            self._decide(item, None)

    def action_correct(self) -> None:
        item = self._current()
        if item is None:
            return
        shown = data_view.escaped(item.answer or item.entry.bad)
        editor = EditorDialog(f"item {item.id}: the right answer", shown)
        self.app.push_screen(editor, lambda text: self._corrected(item, text))

    def _corrected(self, item: Item, text: str | None) -> None:
        if text is not None:
            self._decide(item, data_view.unescaped(text))

    def _decide(self, item: Item, answer: str | None) -> None:
        try:
            self.queue.accept(item.id, answer=answer)
        except UserError as error:
            self.say(str(error), "error")
            return
        self._show()

    def action_dismiss_item(self) -> None:
        item = self._current()
        if item is not None:
            prompt = TextPrompt(f"Dismiss item {item.id}", "", "Why? It is kept with the item.")
            self.app.push_screen(prompt, lambda why: self._dismissed(item, why))

    def _dismissed(self, item: Item, why: str | None) -> None:
        if why is not None:
            self._try(lambda: str(self.queue.dismiss(item.id, why)), quiet=True)

    def action_reopen(self) -> None:
        item = self._current()
        if item is not None:
            self._try(lambda: str(self.queue.reopen(item.id)), quiet=True)

    def action_undo(self) -> None:
        self._try(self.queue.undo)

    def action_redo(self) -> None:
        self._try(self.queue.redo)

    def _try(self, act: Callable[[], str | None], quiet: bool = False) -> None:
        try:
            said = act()
        except UserError as error:
            self.say(str(error), "error")
            return
        self._show()
        if not quiet:
            self.say(said or "There is nothing to undo.")

    def action_states(self) -> None:
        options = [(state, state or "all") for state in _SHOWN]
        self.app.push_screen(Choose("Show which items?", options, self.state), self._state_chosen)

    def _state_chosen(self, state: str | None) -> None:
        if state is not None:
            self.state = state
            self._show()

    # -- in and out --------------------------------------------------------------------------

    def action_bring(self) -> None:
        hint = "JSONL: prompt or messages, the bad output, the corrected one where there is one."
        prompt = TextPrompt("Take in production failures", "", hint, self._no_file)
        self.app.push_screen(prompt, self._brought)

    def _no_file(self, text: str) -> str:
        return "" if self.workspace.resolve(text.strip()).is_file() else "there is no such file"

    def _brought(self, text: str | None) -> None:
        if text is None:
            return
        try:
            told = import_feedback(self.queue, self.workspace.resolve(text.strip()))
        except UserError as error:
            self.say(str(error), "error")
            return
        self._show()
        refused = f"; {plural(len(told.refused), 'row')} could not be read" if told.refused else ""
        self.say(f"{plural(told.new, 'new item')}, {told.known:,} known already{refused}.")

    def action_add(self) -> None:
        counted = self.queue.counts()
        waiting = sum(kind[CORRECTED] + kind[ACCEPTED] for kind in counted.values())
        if not waiting:
            self.say("No accepted row waits: a accepts an item, c corrects it.")
            return
        options = [("rows", f"{plural(waiting, 'row')} as training rows")]
        if counted[FEEDBACK][CORRECTED]:
            options.append(("pairs", "feedback as preference pairs (right over wrong)"))
        self.app.push_screen(Choose("Add to a data set of the queue's own", options), self._add)

    def _add(self, how: str | None) -> None:
        if how is None:
            return
        try:
            added = self.queue.add(
                kind=FEEDBACK if how == "pairs" else "", preference=how == "pairs"
            )
        except UserError as error:
            self.say(str(error), "error")
            return
        self._show()
        files = ", ".join(f"{count:,} in {name}" for name, count in added.files.items())
        stayed = f"; {plural(added.held_out, 'held-out row')} stayed" if added.held_out else ""
        self.say(f"Added {plural(added.rows, 'row')}: {files or 'none'}{stayed}.")


def _row(item: Item) -> TableRow:
    sign, tone = _SIGNS.get(item.state, ("?", "muted"))
    asked = next((turn.content for turn in reversed(item.turns) if turn.role == "user"), "")
    answer = item.answer or item.entry.bad
    return TableRow(
        (sign, str(item.id), item.kind, f"{item.reports}", asked[:300], answer[:300]), tone
    )
