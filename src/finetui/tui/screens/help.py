"""The help page: the keys that work where the focus is, made from the registry."""

from __future__ import annotations

from collections.abc import Iterable

from rich.segment import Segment
from rich.style import Style
from textual.app import ComposeResult
from textual.binding import ActiveBinding, Binding
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.strip import Strip

from finetui.tui import modes
from finetui.tui.actions import ACTIONS, WHERE_TITLES, Action
from finetui.tui.widgets.lines import LinesView
from finetui.tui.widgets.record import wrap
from finetui.tui.widgets.table import fit_cell

_KEYS, _TITLE = 14, 14
_READING = (
    "Nothing here stops a job: only the named stop action does, and it asks.",
    "Edits and votes are on disk as soon as you make them; the source file is never touched.",
)


class HelpLines(LinesView):
    """Sections of actions: the pane, the focused part, everywhere."""

    COMPONENT_CLASSES = {"help--head", "help--key", "help--text", "help--muted"}
    DEFAULT_CSS = """
    HelpLines > .help--head { color: $accent; text-style: bold; background: $surface; }
    HelpLines > .help--key { color: $key; text-style: bold; background: $surface; }
    HelpLines > .help--text { color: $foreground; background: $surface; }
    HelpLines > .help--muted { color: $muted; background: $surface; }
    """

    def __init__(self, sections: list[tuple[str, str, list[Action]]]) -> None:
        """``sections`` are (title, sentence, actions)."""
        super().__init__(id="help-lines")
        self.sections = sections

    @property
    def ground(self) -> Style:
        return self.get_component_rich_style("help--text")

    def build(self, width: int) -> list[Strip]:
        lines: list[Strip] = []
        for title, sentence, actions in self.sections:
            lines.append(self._line((title, "head"), ("   " + sentence, "muted")))
            for action in actions:
                lines += self._action(action, width)
            lines.append(self._line(("", "text")))
        for sentence in _READING:
            lines += [self._line(*words) for words in wrap([(sentence, "muted")], width)]
        return lines

    def _action(self, action: Action, width: int) -> list[Strip]:
        room = max(10, width - _KEYS - _TITLE - 4)
        first = (
            (fit_cell(action.key_text, _KEYS, "right") + "  ", "key"),
            (fit_cell(action.title, _TITLE) + "  ", "text"),
        )
        rest = ((" " * (_KEYS + _TITLE + 4), "text"),)
        return [
            self._line(*(rest if place else first), *words)
            for place, words in enumerate(wrap([(action.help, "muted")], room))
        ]

    def _line(self, *parts: tuple[str, str]) -> Strip:
        return Strip(
            [Segment(text, self.get_component_rich_style(f"help--{name}")) for text, name in parts]
        )


class HelpScreen(ModalScreen[None]):
    """Opens over everything; the key that opened it closes it."""

    BINDINGS = [
        Binding("escape,question_mark,f1,q", "dismiss_help", "close", show=True),
    ]
    DEFAULT_CSS = """
    HelpScreen > Vertical { width: 94%; max-width: 110; height: 90%; padding: 0 1; }
    """

    def __init__(self, active: Iterable[ActiveBinding], mode: str) -> None:
        super().__init__()
        found = [ACTIONS.get(binding.binding.id or "") for binding in active]
        self._here = list(dict.fromkeys(action for action in found if action is not None))
        self._mode = mode

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as box:
            box.border_title = "help"
            box.border_subtitle = "esc close"
            yield HelpLines(self._sections())

    def _sections(self) -> list[tuple[str, str, list[Action]]]:
        places = list(dict.fromkeys(action.place for action in self._here))
        places.sort(key=lambda place: (place != self._mode, place == "app"))
        sections = []
        for place in places:
            mode = modes.BY_NAME.get(place)
            title = mode.title if mode else WHERE_TITLES.get(place, place.capitalize())
            actions = [action for action in self._here if action.place == place]
            sections.append((title, mode.help if mode else "", actions))
        return sections

    def on_mount(self) -> None:
        self.set_focus(self.query_one(HelpLines))

    def action_dismiss_help(self) -> None:
        self.dismiss()
