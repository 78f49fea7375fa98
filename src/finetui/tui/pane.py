"""The mode pane: what every screen of the shell (home, data, recipe ...) has in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual import on
from textual.containers import Container
from textual.css.query import NoMatches
from textual.widget import Widget
from textual.worker import Worker

from finetui.display import clean
from finetui.errors import UserError
from finetui.tui.messages import ShowPane
from finetui.workspace import Workspace

if TYPE_CHECKING:
    from finetui.tui.app import FinetuiApp


class ModePane(Container):
    """One mode of the workstation; lives in the shell's switcher, is mounted on first show.

    Override ``shown``, ``hidden`` and ``receive``; set ``FOCUS`` to a selector.
    """

    FOCUS: ClassVar[str] = ""
    """What gets the keyboard on the first show; later the widget that had it last."""

    last_focus: Widget | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # Textual looks only at the class itself. With it DEFAULT_CSS can say
        # ``.-narrow DataPane #files``; the selectors must then begin with the pane's name.
        cls.SCOPED_CSS = False

    @on(Worker.StateChanged)
    def _worker_changed(self, event: Worker.StateChanged) -> None:
        self.shell.worker_changed(event)

    @property
    def shell(self) -> FinetuiApp:
        return cast("FinetuiApp", self.app)

    @property
    def workspace(self) -> Workspace | None:
        return self.shell.workspace

    @property
    def active(self) -> bool:
        """Whether this is the mode on screen; a hidden pane must not repaint or poll."""
        return self.shell.mode == self.id

    def shown(self) -> None:
        """Called each time the pane comes on screen, after it is mounted."""

    def hidden(self) -> None:
        """Called each time another pane takes its place."""

    def receive(self, request: object) -> None:
        """Called after ``shown`` with what another pane asked for (see messages.py)."""

    def go(self, mode: str, request: object | None = None) -> None:
        """Show another mode and hand its pane a request."""
        self.post_message(ShowPane(mode, request))

    def say(self, text: str, severity: str = "information") -> None:
        """A notice in words; the text may come from data."""
        self.shell.say(text, severity)

    def complain(self, error: UserError | str) -> None:
        """An error in words: what, where, what to do next."""
        self.shell.say(str(error), "error")

    def named(self, path: object) -> str:
        """A path as a person of this workspace would name it, printable."""
        from pathlib import Path

        if self.workspace is None:
            return clean(str(path))
        return clean(self.workspace.relative(Path(str(path))))

    def take_focus(self) -> None:
        """Give the keyboard back to whoever had it, or to ``FOCUS``, or to the first that can."""
        last = self.last_focus
        if last is not None and last.is_attached and last.focusable:
            self.hand_to(last)
            return
        wanted = self._first_focus()
        if wanted is not None:
            self.hand_to(wanted)

    def hand_to(self, widget: Widget) -> None:
        """Give a widget the keyboard at once. ``Widget.focus`` waits for its turn, and a key
        typed ahead would go to whoever had it before."""
        self.screen.set_focus(widget, scroll_visible=False)

    def _first_focus(self) -> Widget | None:
        if self.FOCUS:
            try:
                found = self.query_one(self.FOCUS)
            except NoMatches:
                found = None
            if found is not None and found.focusable:
                return found
        return next((child for child in self.walk_children(Widget) if child.focusable), None)
