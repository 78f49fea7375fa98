"""Run in a pseudo-terminal: each kind of widget with hostile text in every place that takes text."""

# ruff: noqa: E402, E501  (paths first; tables)

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent)]

from rich.text import Text
from terminal_bytes import HOSTILE, HOSTILE_NAME, resize
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.command import DiscoveryHit, Hit, Provider
from textual.containers import VerticalScroll
from textual.content import Content
from textual.pilot import Pilot
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import (
    Button,
    Checkbox,
    Collapsible,
    DataTable,
    Digits,
    DirectoryTree,
    Footer,
    Header,
    Input,
    Label,
    Link,
    ListItem,
    ListView,
    Log,
    Markdown,
    OptionList,
    Placeholder,
    Pretty,
    RadioButton,
    RichLog,
    Select,
    SelectionList,
    Static,
    Switch,
    TabbedContent,
    TabPane,
    TextArea,
    Tree,
)

from finetui.tui import frugal, safety, themes
from finetui.tui.widgets.dialogs import Choose, Confirm, EditorDialog, Reading, TextPrompt
from finetui.tui.widgets.table import Column, ListSource, TableRow, VirtualTable
from finetui.tui.widgets.textpanel import TextPanel

TEXT = Content(HOSTILE)
# For what always reads its text as markup: without brackets.
MARKED = " ".join(word for word in HOSTILE.split(" ") if "[" not in word)


def table() -> DataTable[Text]:
    made: DataTable[Text] = DataTable()
    made.add_columns(Text(HOSTILE), Text("b"))
    made.add_row(Text(HOSTILE), Text(HOSTILE), label=Text(HOSTILE))
    return made


def tree() -> Tree[str]:
    made: Tree[str] = Tree(Text(HOSTILE))
    made.root.add(Text(HOSTILE)).add_leaf(Text(HOSTILE))
    made.root.expand_all()
    return made


def log() -> RichLog:
    made = RichLog(markup=False)
    made.write(HOSTILE)
    made.write(Text(HOSTILE, style="link http://x\x1b]52;c;cHduZWQ=\x07"))
    return made


def plain_log() -> Log:
    made = Log()
    made.call_later(made.write_line, HOSTILE)
    return made


def own_table() -> VirtualTable:
    made = VirtualTable((Column(HOSTILE, weight=1.0), Column("b", 9)), classes="panel")
    made.call_later(made.show, ListSource([TableRow((HOSTILE, HOSTILE), "error")] * 3))
    return made


def named(widget: Widget) -> Widget:
    """With a tooltip and a border that say it too."""
    widget.tooltip = TEXT
    widget.styles.border = ("round", "red")
    widget.border_title = TEXT
    widget.border_subtitle = TEXT
    return widget


KINDS: tuple[Callable[[], Widget], ...] = (
    lambda: Static(HOSTILE, markup=False), lambda: Static(TEXT), lambda: Static(Text(HOSTILE)),
    lambda: Label(HOSTILE, markup=False), lambda: Button(TEXT), lambda: Digits(HOSTILE),
    lambda: Input(HOSTILE, placeholder=HOSTILE), lambda: TextArea(HOSTILE), lambda: Pretty({HOSTILE: HOSTILE}),
    lambda: Checkbox(TEXT), lambda: RadioButton(TEXT), lambda: Switch(), lambda: Placeholder(MARKED),
    lambda: Select([(TEXT, 1)], prompt=MARKED), lambda: OptionList(TEXT, TEXT),
    lambda: SelectionList((TEXT, 1)), lambda: ListView(ListItem(Label(TEXT))),
    lambda: Collapsible(Static(TEXT), title=MARKED, collapsed=False),
    lambda: Markdown("# " + HOSTILE + "\n\n`" + HOSTILE + "`\n\n[a](http://x\x1b]8;;evil\x07)\n\n```\n" + HOSTILE),
    lambda: Link("text", url="http://x\x1b]8;;evil\x1b\\"), lambda: DirectoryTree(sys.argv[1]),
    table, tree, log, plain_log, own_table, lambda: TextPanel(TEXT), lambda: TextPanel(TEXT, wrap=True),
)  # fmt: skip


class Palette(Provider):
    """Commands whose names come from elsewhere."""

    async def discover(self):  # type: ignore[no-untyped-def]
        yield DiscoveryHit(Content(HOSTILE), lambda: None, text=HOSTILE, help=HOSTILE)

    async def search(self, query: str):  # type: ignore[no-untyped-def]
        yield Hit(1.0, Content(HOSTILE), lambda: None, text=HOSTILE, help=HOSTILE)


class Stage(App[None]):
    """All kinds below each other, under a header and over a footer."""

    TITLE = MARKED
    SUB_TITLE = MARKED
    COMMANDS = {Palette}
    BINDINGS = [Binding("f9", "nothing", MARKED, tooltip=MARKED)]
    CSS = "#all > * { height: auto; max-height: 8; }"

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return themes.own_variables(self.current_theme)

    def compose(self) -> ComposeResult:
        yield Header()
        with VerticalScroll(id="all"):
            for kind in KINDS:
                yield named(kind())
            with TabbedContent(), TabPane(TEXT):
                yield Static(TEXT)
        yield Footer()


DIALOGS: tuple[Callable[[], ModalScreen], ...] = (
    lambda: Confirm(HOSTILE, HOSTILE, HOSTILE), lambda: Reading(HOSTILE, TEXT),
    lambda: Choose(HOSTILE, [(HOSTILE, HOSTILE), ("b", HOSTILE)]),
    lambda: TextPrompt(HOSTILE, HOSTILE), lambda: EditorDialog(HOSTILE, HOSTILE, lambda text: None),
)  # fmt: skip


async def show_all(pilot: Pilot[None]) -> None:
    app = pilot.app
    await pilot.pause()
    for size in ((120, 36), (70, 20)):
        resize(0, *size)
        await pilot.pause(0.05)
        for widget in app.query("#all > *"):
            widget.scroll_visible(animate=False, top=True)
            if widget.focusable:
                widget.focus(scroll_visible=False)
            await pilot.pause()
    await tooltip(pilot)
    app.notify(HOSTILE, title=HOSTILE, markup=False, severity="error", timeout=60)
    await pilot.pause(0.05)
    for make in DIALOGS:
        app.push_screen(make())
        await pilot.pause(0.02)
        app.pop_screen()
    app.action_command_palette()
    await pilot.pause(0.1)
    await pilot.press("a")
    await pilot.pause(0.2)
    app.exit(return_code=0)


async def tooltip(pilot: Pilot[None]) -> None:
    """Hover until the tooltip is on screen."""
    first = pilot.app.query_one("#all").children[0]
    first.scroll_visible(animate=False, top=True)
    await pilot.pause()
    await pilot.hover(first)
    for _ in range(100):
        if pilot.app.screen.query("Tooltip") and pilot.app.screen.query_one("Tooltip").display:
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("the tooltip never came")
    await pilot.pause(0.05)


def main() -> int:
    (Path(sys.argv[1]) / HOSTILE_NAME).touch()
    safety.install()
    frugal.install()
    app = Stage()
    app.run(auto_pilot=show_all)
    return app.return_code or 0


if __name__ == "__main__":
    sys.exit(main())
