"""A page over a mode: some parts below each other, one at a time where the screen is small."""

from __future__ import annotations

from typing import ClassVar, Generic, TypeVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.worker import Worker

from finetui.display import clean
from finetui.tui.actions import Action, register
from finetui.tui.widgets.table import VirtualTable

Answer = TypeVar("Answer")


class Page(ModalScreen[Answer], Generic[Answer]):
    """Override ``body``; name in ``PARTS`` the widgets that take the keyboard in turn."""

    PARTS: ClassVar[tuple[str, ...]] = ()
    KEYS: ClassVar[str] = ""
    """What the lower border says; at most five keys."""
    BINDINGS: ClassVar = register(
        Action("page.part", "tab", "next part", "The parts of the page in turn."),
        Action("page.close", "escape,q", "close", "Back to where you were.", show=True),
    )
    DEFAULT_CSS = """
    Page { align: center middle; }
    Page.-short .part, Page.-flat .part { display: none; }
    Page.-short .part.-here, Page.-flat .part.-here { display: block; height: 1fr; }
    """

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title

    def body(self) -> ComposeResult:
        raise NotImplementedError
        yield Widget()

    def compose(self) -> ComposeResult:
        with Vertical(classes="page") as box:
            yield from self.body()
        box.border_title = Content(clean(self._title))
        box.border_subtitle = Content(clean(self.KEYS))

    def on_mount(self) -> None:
        for name in self.PARTS:
            self.query_one(f"#{name}").add_class("part")
        if self.PARTS:
            self.turn_to(self.PARTS[0])

    @on(Worker.StateChanged)
    def _worker_changed(self, event: Worker.StateChanged) -> None:
        """Work that failed is told, as in a mode."""
        self.app.worker_changed(event)  # type: ignore[attr-defined]

    def turn_to(self, name: str) -> None:
        """Give a part the keyboard; on a small screen it is the one that shows."""
        for other in self.PARTS:
            self.query_one(f"#{other}").set_class(other == name, "-here")
        self.set_focus(self.query_one(f"#{name}"))

    def action_part(self) -> None:
        here = self.focused.id if self.focused is not None else None
        place = self.PARTS.index(here) if here in self.PARTS else -1
        self.turn_to(self.PARTS[(place + 1) % len(self.PARTS)])

    def action_close(self) -> None:
        self.dismiss(None)

    def table(self, name: str) -> VirtualTable:
        return self.query_one(f"#{name}", VirtualTable)

    def say(self, text: str, severity: str = "information") -> None:
        """A notice in words; the text may come from data."""
        self.app.say(text, severity)  # type: ignore[attr-defined]
