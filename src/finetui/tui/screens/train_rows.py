"""The rows page: what a step learned from, worst first, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.content import Content
from textual.message import Message

from finetui.display import clean, clean_block, plural
from finetui.errors import UserError
from finetui.jobs.folder import Job
from finetui.tui import figures
from finetui.tui.actions import Action, register
from finetui.tui.messages import OpenData
from finetui.tui.screens import lines, train_batch
from finetui.tui.screens.page import Page
from finetui.tui.screens.train_batch import BatchRow
from finetui.tui.widgets.dialogs import Choose, Confirm
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import Column, ListSource, TableRow, Tone, VirtualTable
from finetui.tui.widgets.textpanel import TextPanel

if TYPE_CHECKING:
    from finetui.workspace import Workspace

_WORSE = 2.0
"""How many times its earlier loss makes a row stand out."""


@dataclass(frozen=True, slots=True)
class Repair:
    """Look at rows in the Data screen; ``stop`` ends the run first, ``again`` starts a new one
    once the rows are repaired."""

    request: OpenData
    again: bool = False
    stop: bool = False


class RowsPage(Page["Repair | None"]):
    """Dismisses with what to show in the Data screen, or None."""

    PARTS = ("batch", "text")
    KEYS = (
        "enter open · o open all · space choose · d drop, go on · r repair, run again · esc close"
    )
    BINDINGS: ClassVar = register(
        Action("batch.choose", "space", "choose", "Choose this row, for d and o and r."),
        Action("batch.open-all", "o", "open all", "All rows, or the chosen ones, in Data."),
        Action("batch.tokens", "I", "tokens", "What of this row is trained, masked and cut."),
        Action("batch.drop", "d", "drop, go on",
               "Leave the row out of the data set, and of this run from its next step on.",
               writes=True),
        Action("batch.repair", "r", "repair, rerun",
               "Repair the rows in Data, then start the recipe again on what they are then.",
               writes=True),
    )  # fmt: skip
    DEFAULT_CSS = """
    RowsPage #batch { height: 1fr; min-height: 6; }
    RowsPage #text { height: 1fr; overflow-y: auto; }
    RowsPage #text:focus { border: round $line-focus; }
    """

    @dataclass
    class Found(Message):
        """The rows were looked up, or cannot be."""

        rows: list[BatchRow]
        error: str = ""

    @dataclass
    class Dropped(Message):
        """What became of a request to drop rows."""

        text: str
        failed: bool = False

    def __init__(
        self,
        title: str,
        job: Job,
        workspace: Workspace | None,
        look: Callable[[], list[BatchRow]],
        first: str = "before",
    ) -> None:
        """``look`` finds the rows, in a thread; ``first`` names the column of an earlier loss."""
        super().__init__(title)
        self.job = job
        self.rows: list[BatchRow] = []
        self._workspace, self._find, self._first = workspace, look, first
        self._chosen: set[tuple[int, int]] = set()

    def body(self) -> ComposeResult:
        yield VirtualTable(
            [Column("", 1), Column("loss", 8, "right"), Column(self._first, 8, "right"),
             Column("seen", 4, "right"), Column("tokens", 6, "right"), Column("", 9, tone=True),
             Column("row", 20), Column("what it says", weight=1)],
            id="batch", classes="panel", empty="looking up the rows…",
        )  # fmt: skip
        panel = TextPanel(wrap=True, id="text", classes="panel")
        panel.can_focus = True
        yield panel

    def on_mount(self) -> None:
        entitle(self.query_one("#batch"), "rows, highest loss first")
        self._look()

    @work(thread=True, exit_on_error=False, group="rows")
    def _look(self) -> None:
        try:
            self.post_message(self.Found(self._find()))
        except (UserError, OSError) as error:
            self.post_message(self.Found([], str(error)))

    @on(Found)
    def _found(self, message: Found) -> None:
        self.rows = message.rows
        table = self.table("batch")
        table.empty = message.error or "the run did not record the rows of this step"
        self._list()
        self._tell()

    def _list(self) -> None:
        rows = [_line(row, (row.file, row.line) in self._chosen) for row in self.rows]
        self.table("batch").show(ListSource(rows))
        chosen = f"{len(self._chosen):,} chosen · " if self._chosen else ""
        entitle(self.query_one("#batch"), subtitle=f"{chosen}{plural(len(self.rows), 'row')}")

    @on(VirtualTable.RowHighlighted, "#batch")
    def _tell(self) -> None:
        panel, row = self.query_one("#text", TextPanel), self._current()
        panel.show(_text(row) if row is not None else Content(""))
        panel.scroll_home(animate=False)
        entitle(panel, row.name if row is not None else "")

    def _current(self) -> BatchRow | None:
        place = self.table("batch").cursor
        return self.rows[place] if place < len(self.rows) else None

    # -- choosing ----------------------------------------------------------------------------

    def action_choose(self) -> None:
        row = self._current()
        if row is not None:
            self._chosen ^= {(row.file, row.line)}
            self._list()
            self.table("batch").action_down()

    def _meant(self, all: bool = False) -> list[BatchRow]:
        """The chosen rows; where there are none the one at the cursor, or all."""
        chosen = [row for row in self.rows if (row.file, row.line) in self._chosen]
        row = self._current()
        return chosen or (list(self.rows) if all else [row] if row is not None else [])

    @on(VirtualTable.RowSelected, "#batch")
    def _row_selected(self) -> None:
        row = self._current()
        self._leave([row] if row is not None else [])

    def action_open_all(self) -> None:
        self._leave(self._meant(all=True))

    def _leave(self, rows: Sequence[BatchRow], again: bool = False, stop: bool = False) -> None:
        files = train_batch.by_file(rows)
        if not files:
            self.say("The data file of these rows is not there any more.", "warning")
            return
        path, numbers = max(files, key=lambda each: len(each[1]))
        note = f"{plural(len(numbers), 'row')} of {self._title}"
        if len(files) > 1:
            self.say(f"Rows of {len(files)} files: {path.name} has the most of them.")
        self.dismiss(Repair(OpenData(path, tuple(numbers), note), again, stop))

    def action_tokens(self) -> None:
        """The row at the cursor token by token, under the run's recipe."""
        from finetui.recipe.compare import recipe_of_run
        from finetui.tui.screens.tokens import TokensPage

        row = self._current()
        if row is None or row.path is None or row.row is None or self._workspace is None:
            self.say("The data file of this row is not there any more.", "warning")
            return
        recipe = recipe_of_run(self.job.spec())
        self.app.push_screen(TokensPage(self._workspace, row.path, row.row, recipe=recipe))

    # -- drop and go on, repair and run again --------------------------------------------------

    def action_drop(self) -> None:
        rows = [row for row in self._meant() if row.out != "dropped" and row.row is not None]
        if not rows:
            self.say("There is no row here that could be dropped.", "warning")
            return
        names = ", ".join(row.name for row in rows[:4]) + (" …" if len(rows) > 4 else "")
        detail = f"{names}\nLeft out of the data set, and of the run from its next step on.\n"
        detail += "u in the Data screen takes them back in."
        self.app.push_screen(
            Confirm(f"Drop {plural(len(rows), 'row')}?", detail, yes="drop, and go on"),
            lambda yes: self._sure(rows, yes),
        )

    def _sure(self, rows: Sequence[BatchRow], yes: bool | None) -> None:
        if yes:
            self._drop(rows)

    @work(thread=True, exit_on_error=False, group="drop")
    def _drop(self, rows: Sequence[BatchRow]) -> None:
        try:
            reason = f"high loss: {self._title}"
            said = train_batch.drop(self._workspace, self.job, rows, reason)
            self.post_message(self.Dropped(said))
        except UserError as error:
            self.post_message(self.Dropped(str(error), failed=True))

    @on(Dropped)
    def _dropped(self, message: Dropped) -> None:
        self.say(message.text, "error" if message.failed else "information")
        self._chosen.clear()
        self._look()

    def action_repair(self) -> None:
        rows = self._meant()
        if not rows:
            return
        options = [
            ("on", f"{'let the run go on':<26} its result can be compared with the next one"),
            ("stop", f"{'stop the run first':<26} saved; the machine is free for the next one"),
        ]
        title = f"Repair {plural(len(rows), 'row')} in Data, then run again"
        self.app.push_screen(
            Choose(title, options),
            lambda what: self._leave(rows, True, what == "stop") if what else None,
        )


def _line(row: BatchRow, chosen: bool) -> TableRow:
    tone: Tone = "dropped" if row.out == "dropped" else "edited" if row.out else ""
    worse = row.mean is not None and row.before and row.mean > _WORSE * row.before
    if not tone and worse:
        tone = "warning"
    word = row.out or ("skipped" if row.skipped else "↑ worse" if worse else "")
    cells = (
        "■" if chosen else "",
        figures.number(row.mean),
        figures.number(row.before),
        figures.count(row.visits),
        figures.count(row.items or None),
        word,
        row.name,
        row.turns[-1][1].strip() if row.turns else "",
    )
    return TableRow(cells, tone)


def _text(row: BatchRow) -> Content:
    if row.row is None:
        gone = "the data file has no row on this line any more" if row.path else "file not found"
        return Content.styled(gone, "$warning")
    parts = []
    for role, text in row.turns:
        known = role in ("system", "user", "assistant", "tool")
        style = f"bold $role-{role}" if known else "bold"
        parts.append(Content.assemble((f"{clean(role):<10}", style), clean_block(text)))
    return lines.join(parts)
