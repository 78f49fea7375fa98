"""Data: files and findings on the left, rows and the record on the right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Input

from finetui.data.records import Shape
from finetui.errors import UserError
from finetui.tui.actions import Action, register
from finetui.tui.messages import OpenData, OpenRecipe
from finetui.tui.screens.alike import AlikePage
from finetui.tui.screens.data_repair import RepairPane
from finetui.tui.screens.data_search import SearchPane
from finetui.tui.screens.data_suggest import SuggestPane
from finetui.tui.screens.data_versions import VersionsPane
from finetui.tui.screens.queue import QueuePage
from finetui.tui.screens.ready import ReadyScreen
from finetui.tui.widgets.dialogs import Choose, TextPrompt
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.record import RecordView
from finetui.tui.widgets.table import Column, VirtualTable

_FILTERS = "words  user:words  id=7  length>500  finding:leak  is:edited  where SQL"
_PARTS = ("files", "findings", "rows", "record")


class DataPane(RepairPane, SearchPane, VersionsPane, SuggestPane):
    """Browse, repair and version data sets. The file itself is never written."""

    FOCUS = "#rows"
    BINDINGS = register(
        Action(
            "data.edit",
            "e",
            "edit",
            "Edit a turn, or the row's JSON; the file stays.",
            show=True,
            writes=True,
        ),
        Action(
            "data.drop", "d", "drop", "Drop this row, or take it back in.", show=True, writes=True
        ),
        Action("data.undo", "u", "undo", "Undo the last edit or drop.", show=True, writes=True),
        Action(
            "data.filter",
            "slash",
            "filter",
            "Words, user:words, id=7, length>500, finding:leak, where SQL.",
            show=True,
        ),
        Action("data.sort", "S", "sort", "Show rows by length, tokens, findings or a field."),
        Action(
            "data.ready",
            "R",
            "ready",
            "Whether this set is ready to train on, and what is lost.",
        ),
        Action("data.next", "n", "next", "The next row with a finding.", show=True),
        Action("data.previous", "N", "previous", "The row with a finding before this one."),
        Action("data.redo", "ctrl+r", "redo", "Do again what was undone.", writes=True),
        Action(
            "data.edit-outside",
            "E",
            "editor",
            "Edit this row in your own editor ($EDITOR).",
            writes=True,
        ),
        Action(
            "data.aside",
            "x",
            "set aside",
            "Quarantine: out of training, kept for later.",
            writes=True,
        ),
        Action(
            "data.mark", "m", "mark", "Mark this row for review, or take the mark off.", writes=True
        ),
        Action("data.label", "L", "label", "Give this row a label of your own.", writes=True),
        Action(
            "data.fix-all",
            "F",
            "fix all",
            "All rows of this finding at once, seen first.",
            writes=True,
        ),
        Action(
            "data.suggest",
            "plus",
            "more",
            "Ask a model for rows like this one; asks first.",
            writes=True,
        ),
        Action("data.queue", "Q", "queue", "Failures and candidates that wait for a decision."),
        Action("data.alike", "D", "alike", "Near-duplicates: choose which row of each stays."),
        Action("data.steps", "H", "steps", "What was done here; take parts of it back."),
        Action(
            "data.fix",
            "f",
            "fix",
            "Repair this row's first finding that can be repaired.",
            writes=True,
        ),
        Action("data.check", "c", "check", "Run the checks over this file."),
        Action("data.leaks", "C", "leaks", "Check this file against another one for leaks."),
        Action("data.tokens", "t", "tokens", "Show which text the training will learn from."),
        Action("data.token-view", "I", "token view", "This row token by token, and its loss."),
        Action(
            "data.write", "w", "write", "Write the file with its edits as a version.", writes=True
        ),
        Action(
            "data.split",
            "s",
            "split",
            "Write a version split, or with general data mixed in.",
            writes=True,
        ),
        Action("data.versions", "V", "versions", "What was written, who used it, what differs."),
        Action("data.open", "o", "open", "Open a file by its path."),
        Action("data.shape", "P", "shape", "How the rows are laid out, and why it is thought so."),
        Action("data.whole", "W", "whole", "Show a row over 1 MB in full."),
        Action("data.train", "T", "train", "Start a recipe on this file."),
        Action("data.copy", "y", "copy", "Send this row to the terminal's clipboard."),
        Action("data.next-part", "tab", "next part", "Files, findings, rows, record in turn."),
        Action("data.previous-part", "shift+tab", "part before", "The same, backwards."),
        Action("data.zoom", "z", "zoom", "The focused part alone, and back."),
        Action("data.back", "escape", "back", "Leave the zoom, stop the checks, leave the filter."),
    )
    DEFAULT_CSS = """
    DataPane { layout: horizontal; }
    DataPane #left { width: 36; height: 1fr; }
    DataPane #right { width: 1fr; height: 1fr; }
    DataPane #files { height: 2fr; }
    DataPane #findings { height: 3fr; }
    DataPane #rows { height: 9fr; }
    DataPane #record { height: 10fr; }
    DataPane #filter { display: none; height: 1; margin: 0 1; padding: 0 1; background: $panel; }
    .-wide DataPane #left { width: 40; }
    .-narrow DataPane #left { display: none; }
    .-narrow DataPane.-left #left { display: block; width: 1fr; }
    .-narrow DataPane.-left #right { display: none; }
    DataPane.-zoom #left, DataPane.-zoom #right { display: none; }
    DataPane.-zoom-files #left, DataPane.-zoom-findings #left { display: block; width: 1fr; }
    DataPane.-zoom-rows #right, DataPane.-zoom-record #right { display: block; }
    DataPane.-zoom-files #findings, DataPane.-zoom-findings #files { display: none; }
    DataPane.-zoom-rows #record, DataPane.-zoom-record #rows { display: none; }
    """

    def compose(self) -> ComposeResult:
        columns = [Column("", 1, tone=True), Column("", weight=1), Column("", 6, "right")]
        with Vertical(id="left"):
            yield VirtualTable(
                columns, header=False, id="files", classes="panel", empty="o opens a file"
            )
            counts = [*columns[:2], Column("", 8, "right")]
            yield VirtualTable(
                counts, header=False, id="findings", classes="panel", empty="c checks this file"
            )
        with Vertical(id="right"):
            yield VirtualTable(id="rows", classes="panel", empty="no data set is open")
            yield RecordView(id="record", classes="panel")
            finder = Input(
                id="filter",
                placeholder="words  user:words  id=7  length>500  finding:leak  where SQL",
                compact=True,
            )
            finder.cursor_blink = False
            yield finder

    def on_mount(self) -> None:
        for name in _PARTS:
            entitle(self.query_one(f"#{name}"), name.capitalize())
        self.watch(self.screen, "focused", self._focus_moved, init=False)

    # -- coming on screen --------------------------------------------------------------------

    def shown(self) -> None:
        self.list_files()
        if self.file is None:
            self.call_later(self._open_default)
        elif self.file.data.refresh():  # rows may have been dropped from the Train screen
            self.all_changed()

    def receive(self, request: object) -> None:
        if isinstance(request, OpenData):
            self.wanted = request
            if self.file is not None and self.file.path.resolve() == request.path.resolve():
                self.show_wanted()
            else:
                self.open(request.path)

    def _open_default(self) -> None:
        if self.file is None and self.wanted is None and self.paths:
            self.open(self.paths[0])

    def _focus_moved(self, focused: Any) -> None:
        if focused is not None and self in focused.ancestors:
            self.set_class(focused.id in ("files", "findings"), "-left")

    def action_next_part(self) -> None:
        self._turn_to(1)

    def action_previous_part(self) -> None:
        self._turn_to(-1)

    def _turn_to(self, by: int) -> None:
        """Give the keyboard to the next part; on a narrow screen this also shows its side."""
        focused = self.screen.focused
        here = focused.id if focused is not None else None
        place = _PARTS.index(here) if here in _PARTS else _PARTS.index("rows") - by
        name = _PARTS[(place + by) % len(_PARTS)]
        if self.has_class("-zoom"):
            self._unzoom()
            self.add_class("-zoom", f"-zoom-{name}")
        self.set_class(name in ("files", "findings"), "-left")
        self.call_after_refresh(self.query_one(f"#{name}").focus)

    def action_zoom(self) -> None:
        if self.has_class("-zoom"):
            self._unzoom()
            return
        focused = self.screen.focused
        if focused is not None and focused.id in _PARTS:
            self.add_class("-zoom", f"-zoom-{focused.id}")

    def _unzoom(self) -> None:
        self.remove_class("-zoom", *(f"-zoom-{name}" for name in _PARTS))

    def action_back(self) -> None:
        if self.query_one("#filter").has_focus:
            self.close_filter()
            self.clear_filter()
        elif self.has_class("-zoom"):
            self._unzoom()
        elif self.stop_checking():
            self.say("The checks were stopped; what was found stays.")
        elif self.source is not None and self.source.chosen is not None:
            self.clear_filter()
        else:
            self.hand_to(self.rows)

    # -- going on ----------------------------------------------------------------------------

    def action_open(self) -> None:
        prompt = TextPrompt(
            "Open a data file",
            hint="JSONL, JSON, CSV, Parquet, Arrow, packed or not; several become one set.",
            check=self._path_fault,
        )
        self.app.push_screen(prompt, self._path_typed)

    def _resolve(self, text: str) -> Path:
        if self.workspace is not None:
            return self.workspace.resolve(text.strip())
        return Path(text.strip()).expanduser()

    def _named(self, text: str) -> list[Path]:
        """The files that were typed: one whose name may hold blanks, or several between blanks."""
        whole = self._resolve(text)
        return [whole] if whole.exists() else [self._resolve(part) for part in text.split()]

    def _path_fault(self, text: str) -> str:
        missing = next((path for path in self._named(text) if not path.exists()), None)
        return f"there is no file {missing.name}" if missing is not None else ""

    def _path_typed(self, text: str | None) -> None:
        if text and text.strip():
            self.open(*self._named(text))

    def action_shape(self) -> None:
        """The detected shape with its reason, and the choice of another one."""
        if self.file is None:
            return
        data = self.file.data
        guess = data.source.shape
        detected = f"as detected: {guess.shape} ({guess.confidence:.0%} sure: {guess.reason})"
        options = [
            ("", detected),
            *((str(shape), str(shape)) for shape in Shape if shape != "unknown"),
        ]
        chosen = Choose("How are these rows laid out?", options, str(data.shape_override or ""))
        self.app.push_screen(chosen, self._shape_chosen)

    def _shape_chosen(self, chosen: str | None) -> None:
        if chosen is None or self.file is None:
            return
        try:
            self.file.data.choose_shape(Shape(chosen) if chosen else None)
        except UserError as error:
            self.complain(error)
            return
        self.show_rows(None)

    def action_whole(self) -> None:
        """A row over 1 MB in full."""
        row = self.current
        if row is not None:
            self.whole = row
            self.show_record()

    def action_queue(self) -> None:
        if self.workspace is None:
            self.say("The review queue needs a workspace.")
            return
        self.app.push_screen(QueuePage(self.workspace), lambda _: self.list_files())

    def action_alike(self) -> None:
        if self.file is not None:
            page = AlikePage(self.file.data, self.all_changed)
            self.app.push_screen(page, self.rows_asked_for)

    def action_ready(self) -> None:
        if self.file is None or self.workspace is None:
            self.say("Readiness needs a workspace and an open file.")
            return
        page = ReadyScreen(self.workspace, self.file.path)
        self.app.push_screen(page, self.rows_asked_for)

    def action_train(self) -> None:
        if self.file is not None:
            self.go("recipe", OpenRecipe(data=self.file.path))
