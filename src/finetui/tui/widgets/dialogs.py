"""Small questions over the screen: confirm, a line of text, a choice, an editor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Generic, TypeVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Input, Static, TextArea

from finetui.display import clean, clean_block
from finetui.tui.actions import Action, register
from finetui.tui.widgets.bars import hint_line
from finetui.tui.widgets.table import Column, ListSource, TableRow, VirtualTable

Answer = TypeVar("Answer")
Fault = tuple[str, int, int]  # message, line and column, both 1-based

DIALOG = register(
    Action("dialog.cancel", "escape", "cancel", "Close without changing anything.", show=True)
)


class Dialog(ModalScreen[Answer], Generic[Answer]):
    """A modal with a titled box; escape dismisses it with None."""

    BINDINGS: ClassVar = DIALOG
    TITLE_TEXT = ""

    def box(self, *children: Widget, title: str) -> Vertical:
        found = Vertical(*children, classes="dialog")
        found.border_title = Content(clean(title))
        return found

    def action_cancel(self) -> None:
        self.dismiss(None)


class Confirm(Dialog[bool]):
    """A yes-or-no question; only ``y`` is yes. Dismisses with a bool."""

    BINDINGS: ClassVar = register(
        Action("dialog.yes", "y", "yes", "Yes, do it.", show=True),
        Action("dialog.no", "n,q", "no", "No, leave it.", show=True),
    )
    DEFAULT_CSS = """
    Confirm .dialog { width: auto; min-width: 40; max-width: 80; }
    Confirm #about { height: auto; max-height: 70vh; }
    Confirm #keys { margin-top: 1; }
    """

    def __init__(
        self, question: str, detail: str = "", yes: str = "yes", danger: bool = False
    ) -> None:
        """``yes`` says what happens, as in ``stop the run``."""
        super().__init__()
        self._question, self._detail, self._yes, self._danger = question, detail, yes, danger

    def compose(self) -> ComposeResult:
        parts: list[Widget] = []
        if self._detail:
            text = Static(Content(clean_block(self._detail)), id="detail")
            parts.append(VerticalScroll(text, id="about"))
        parts.append(Static(hint_line([("y", self._yes), ("n", "no")]), id="keys"))
        box = self.box(*parts, title=self._question)
        box.set_class(self._danger, "-danger")
        yield box

    def action_yes(self) -> None:
        self.dismiss(True)

    def action_no(self) -> None:
        self.dismiss(False)

    def action_cancel(self) -> None:
        self.dismiss(False)


class Reading(Dialog[None]):
    """A text to read, with the keys that scroll it."""

    BINDINGS: ClassVar = register(
        Action("dialog.close", "enter,q", "close", "Back to where you were.", call="cancel"),
    )
    DEFAULT_CSS = """
    Reading .dialog { height: auto; padding: 0 1; }
    Reading #about { height: auto; max-height: 75vh; }
    Reading #keys { margin-top: 1; }
    """

    def __init__(self, title: str, text: Content) -> None:
        """``text`` is ready for the screen; text from data in it was cleaned."""
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        yield self.box(
            VerticalScroll(Static(self._text), id="about"),
            Static(hint_line([("↑↓", "scroll"), ("esc", "close")]), id="keys"),
            title=self._title,
        )

    def on_mount(self) -> None:
        self.set_focus(self.query_one("#about"))


class TextPrompt(Dialog["str | None"]):
    """One line of text. ``check`` returns what is wrong with it, or an empty string."""

    DEFAULT_CSS = """
    TextPrompt .dialog { height: auto; }
    TextPrompt #hint { color: $muted; margin-bottom: 1; }
    TextPrompt #fault { color: $error; height: auto; }
    TextPrompt #keys { margin-top: 1; }
    """

    def __init__(
        self,
        title: str,
        value: str = "",
        hint: str = "",
        check: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__()
        self._title, self._value, self._hint = title, value, hint
        self._check = check or (lambda _: "")

    def compose(self) -> ComposeResult:
        field = Input(self._value, compact=True)
        field.cursor_blink = False
        yield self.box(
            Static(Content(clean_block(self._hint)), id="hint"),
            field,
            Static(Content(""), id="fault"),
            Static(hint_line([("enter", "ok"), ("esc", "cancel")]), id="keys"),
            title=self._title,
        )

    def on_mount(self) -> None:
        self.query_one("#hint").display = bool(self._hint)
        self.set_focus(self.query_one(Input))

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        fault = self._check(event.value) if event.value else ""
        self.query_one("#fault", Static).update(Content(clean(fault)))

    @on(Input.Submitted)
    def _settled(self, event: Input.Submitted) -> None:
        fault = self._check(event.value)
        if fault:
            self.query_one("#fault", Static).update(Content(clean(fault)))
        else:
            self.dismiss(event.value)


class Choose(Dialog["str | None"]):
    """One of some options; dismisses with its value."""

    DEFAULT_CSS = """
    Choose .dialog { padding: 0 1; }
    Choose VirtualTable { height: auto; max-height: 16; }
    """

    def __init__(self, title: str, options: Sequence[tuple[str, str]], first: str = "") -> None:
        """``options`` are (value, label); ``first`` is the value the cursor begins on."""
        super().__init__()
        self._title, self._options = title, list(options)
        values = [value for value, _ in self._options]
        self._first = values.index(first) if first in values else 0

    def compose(self) -> ComposeResult:
        rows = ListSource([TableRow((label,)) for _, label in self._options])
        table = VirtualTable([Column("")], rows, header=False)
        table.styles.height = min(16, max(1, len(self._options)))
        keys = Static(hint_line([("enter", "choose"), ("esc", "cancel")]), id="keys")
        yield self.box(table, keys, title=self._title)

    def on_mount(self) -> None:
        table = self.query_one(VirtualTable)
        self.set_focus(table)
        table.go_to(self._first)

    @on(VirtualTable.RowSelected)
    def _chosen(self, message: VirtualTable.RowSelected) -> None:
        self.dismiss(self._options[message.row][0])


class EditorDialog(Dialog["str | None"]):
    """A text of some lines. ``check`` finds a fault while typing; it does not forbid saving.

    No syntax colours: Textual's JSON grammar crashes the process (STYLE.md). Escape asks once
    more when something was changed.
    """

    LONGEST = 64_000
    """Characters; a longer text makes every key stroke wait."""
    BINDINGS: ClassVar = register(
        Action("dialog.save", "f2,ctrl+j", "save", "Keep the text.", show=True, priority=True),
        # With priority: the text area would keep escape for itself.
        Action(
            "dialog.leave",
            "escape",
            "cancel",
            "Close; asks once when something was changed.",
            call="cancel",
            priority=True,
        ),
    )
    DEFAULT_CSS = """
    EditorDialog .dialog { width: 90%; max-width: 120; height: 80%; padding: 0 1; }
    EditorDialog TextArea { height: 1fr; border: none; padding: 0; background: $surface; }
    EditorDialog TextArea:focus { border: none; }
    EditorDialog #fault { height: 1; color: $muted; }
    EditorDialog #fault.-bad { color: $error; }
    EditorDialog #keys { height: 1; }
    """

    def __init__(
        self, title: str, text: str, check: Callable[[str], Fault | None] | None = None
    ) -> None:
        super().__init__()
        self._title, self._text = title, text
        self._check = check or (lambda _: None)
        self._warned = False

    def compose(self) -> ComposeResult:
        area = TextArea(self._text, soft_wrap=True, show_line_numbers=True, tab_behavior="indent")
        area.cursor_blink = False
        yield self.box(
            area,
            Static(Content(""), id="fault"),
            Static(hint_line([("F2", "save"), ("^j", "save"), ("esc", "cancel")]), id="keys"),
            title=self._title,
        )

    def on_mount(self) -> None:
        self.set_focus(self.query_one(TextArea))
        self._tell()

    @on(TextArea.Changed)
    def _typed(self) -> None:
        self._warned = False
        self._tell()

    def _tell(self) -> None:
        fault = self._check(self.query_one(TextArea).text)
        label = self.query_one("#fault", Static)
        label.set_class(fault is not None, "-bad")
        words = f"✗ line {fault[1]}, column {fault[2]}: {fault[0]}" if fault else "valid"
        label.update(Content(clean(words)))

    def action_cancel(self) -> None:
        changed = self.query_one(TextArea).text != self._text
        if changed and not self._warned:
            self._warned = True
            label = self.query_one("#fault", Static)
            label.set_class(True, "-bad")
            label.update(Content("Not saved. esc again drops the change, F2 saves it."))
            return
        self.dismiss(None)

    def action_save(self) -> None:
        self.dismiss(self.query_one(TextArea).text)
