"""The steps page: what was done to this set, by whom, and the switches to take parts of it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.content import Content

from finetui.data.dataset import DataSet, Unplaced
from finetui.data.edits.steps import Step
from finetui.display import clean, moment, plural
from finetui.errors import UserError
from finetui.tui.actions import Action, register
from finetui.tui.screens.page import Page
from finetui.tui.widgets.dialogs import Confirm
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import Column, ListSource, TableRow, VirtualTable
from finetui.tui.widgets.textpanel import TextPanel


class StepsPage(Page["tuple[str, list[int]] | None"]):
    """Dismisses with (title, rows) to show, or None. Every change is told to ``changed``."""

    PARTS = ("steps", "counts", "unplaced")
    KEYS = "space on/off · J K move · u undo · enter rows · esc close"
    BINDINGS: ClassVar = register(
        Action(
            "steps.switch", "space", "on/off", "Take this step back, or do it again.", writes=True
        ),
        Action("steps.later", "J", "later", "Do this step after the next one.", writes=True),
        Action("steps.earlier", "K", "earlier", "Do this step before the one above.", writes=True),
        Action(
            "steps.undo", "u", "undo", "Undo the last thing done here or on the rows.", writes=True
        ),
        Action("steps.redo", "ctrl+r", "redo", "Do again what was undone.", writes=True),
        Action(
            "steps.dismiss-edit",
            "x",
            "settle",
            "An edit without a row needs no more care.",
            writes=True,
        ),
    )
    DEFAULT_CSS = """
    StepsPage #steps { height: 3fr; min-height: 5; }
    StepsPage #counts { height: 1fr; min-height: 4; }
    StepsPage #unplaced { height: 1fr; min-height: 4; }
    StepsPage #told { height: 2; color: $muted; }
    """

    def __init__(self, data: DataSet, changed: Callable[[], None]) -> None:
        super().__init__(f"steps · {data.path.name}")
        self.data, self._changed = data, changed
        self.steps: list[Step] = []
        self.lost: list[Unplaced] = []

    def body(self) -> ComposeResult:
        yield VirtualTable(
            [Column("", 1, tone=True), Column("no", 4, "right"), Column("when", 11),
             Column("who", 9), Column("what", 11), Column("rows", 8, "right"),
             Column("why", weight=1, low=8)],
            id="steps", classes="panel", empty="nothing was changed yet",
        )  # fmt: skip
        yield TextPanel(wrap=True, id="told")
        yield VirtualTable(
            [Column("what", 12), Column("rows", 9, "right"), Column("why", weight=1)],
            id="counts", classes="panel", empty="every row is as it came",
        )  # fmt: skip
        yield VirtualTable(
            [Column("line", 8, "right"), Column("why", weight=1), Column("what it held", weight=1)],
            id="unplaced", classes="panel", empty="every edit has its row",
        )  # fmt: skip

    def on_mount(self) -> None:
        for name, title in (("steps", "steps, the first one first"), ("counts", "what came of it"),
                            ("unplaced", "edits whose row is gone from the file")):  # fmt: skip
            entitle(self.query_one(f"#{name}"), title)
        self._show()
        self.table("steps").go_to(max(0, len(self.steps) - 1))

    def _show(self) -> None:
        self.steps, self.lost = self.data.steps(), self.data.unplaced
        table = self.table("steps")
        before = table.cursor
        table.show(ListSource([_row(step) for step in self.steps]))
        table.go_to(min(before, max(0, len(self.steps) - 1)))
        counts = [(count.what, f"{count.rows:,}", count.reason or "–")
                  for count in self.data.counts()]  # fmt: skip
        self.table("counts").show(ListSource([TableRow(cells) for cells in counts]))
        lost = [
            TableRow((f"{each.line:,}", each.reason, each.text[:200]),
                     "muted" if each.settled else "warning")
            for each in self.lost
        ]  # fmt: skip
        self.table("unplaced").show(ListSource(lost))

    # -- doing -------------------------------------------------------------------------------

    def _current(self) -> Step | None:
        place = self.table("steps").cursor
        return self.steps[place] if place < len(self.steps) else None

    def _do(self, act: Callable[[], str | None]) -> None:
        try:
            said = act()
        except UserError as error:
            self.say(str(error), "error")
            return
        self._show()
        self._changed()
        self.say(said or "There is nothing to undo.")

    def action_switch(self) -> None:
        step = self._current()
        if step is None:
            return
        built_on_it = [each for each in self.steps if step.seq in each.depends_on and each.active]
        if step.active and built_on_it:
            what = plural(len(built_on_it), "later step")
            question = Confirm(
                "Take this step back?",
                f"{what} stand on what it made; they are switched off with it.",
                "switch them off",
            )
            self.app.push_screen(question, lambda yes: self._switch(step) if yes else None)
        else:
            self._switch(step)

    def _switch(self, step: Step) -> None:
        self._do(lambda: self.data.switch(step.seq, not step.active, along=step.active))

    def action_later(self) -> None:
        place = self.table("steps").cursor
        if place + 1 < len(self.steps):
            after = self.steps[place + 2].seq if place + 2 < len(self.steps) else None
            self._move(place, after, place + 1)

    def action_earlier(self) -> None:
        place = self.table("steps").cursor
        if 0 < place < len(self.steps):
            self._move(place, self.steps[place - 1].seq, place - 1)

    def _move(self, place: int, before: int | None, to: int) -> None:
        self._do(lambda: self.data.move(self.steps[place].seq, before))
        self.table("steps").go_to(to)

    def action_undo(self) -> None:
        self._do(self.data.undo)

    def action_redo(self) -> None:
        self._do(self.data.redo)

    def action_dismiss_edit(self) -> None:
        place = self.table("unplaced").cursor
        if self.focused is self.table("unplaced") and place < len(self.lost):
            key = self.lost[place].key
            self._do(lambda: f"Settled {plural(self.data.dismiss([key]), 'edit')}.")

    # -- showing -----------------------------------------------------------------------------

    @on(VirtualTable.RowHighlighted, "#steps")
    def _moved(self, message: VirtualTable.RowHighlighted) -> None:
        message.stop()
        step = self._current()
        if step is None:
            return
        words = [f"{step.note or step.kind}"]
        if step.reason:
            words.append(f"because: {step.reason}")
        if step.depends_on:
            words.append(f"made on step {', '.join(map(str, step.depends_on))}")
        if not step.active:
            words.append("switched off: it has no effect now")
        self.query_one("#told", TextPanel).show(Content(clean(" · ".join(words))))

    @on(VirtualTable.RowSelected, "#steps")
    def _chosen(self, message: VirtualTable.RowSelected) -> None:
        step = self._current()
        if step is not None:
            rows = self.data.rows_of_step(step.seq)
            if rows:
                self.dismiss((f"step {step.seq}: {step.kind}", rows))

    @on(VirtualTable.RowSelected, "#counts")
    def _count_chosen(self, message: VirtualTable.RowSelected) -> None:
        count = self.data.counts()[message.row]
        rows = self.data.rows_counted(count)
        if rows:
            self.dismiss((f"{count.what} {count.reason}".strip(), rows))


def _row(step: Step) -> TableRow:
    when = moment(step.time, "%d %b %H:%M")
    sign = "✓" if step.active else "○"
    cells = (sign, str(step.seq), when, step.actor, step.kind, f"{step.rows:,}",
             step.reason or step.note)  # fmt: skip
    return TableRow(cells, "" if step.active else "muted")
