"""The page after an import: what of another trainer's config came over, and what did not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.content import Content

from finetui.display import clean, plural
from finetui.recipe.schema import Recipe, field
from finetui.tui.actions import Action, register
from finetui.tui.screens import lines
from finetui.tui.screens.page import Page
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import Column, ListSource, TableRow, VirtualTable
from finetui.tui.widgets.textpanel import TextPanel

if TYPE_CHECKING:
    from finetui.recipe.importers import Imported, Lost, Taken

_DEEPEST = 3
_MOST_FILES = 200
_SUFFIXES = (".yaml", ".yml")
_OUR_OWN = ("jobs", "versions", "ratings", "sweeps")


def config_files(root: Path) -> list[Path]:
    """YAML files that a person may have brought into the workspace, nearest first."""
    return sorted(_walk(root, _DEEPEST), key=lambda path: (len(path.parts), path))[:_MOST_FILES]


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    try:
        inside = sorted(folder.iterdir())[:_MOST_FILES]
    except OSError:
        return
    for path in inside:
        if path.name.startswith(".") or path.is_symlink():
            continue
        if path.is_dir() and depth > 1 and path.name not in _OUR_OWN:
            yield from _walk(path, depth - 1)
        elif path.suffix in _SUFFIXES and path.is_file():
            yield path


class ImportPage(Page[Recipe | None]):
    """Dismisses with the recipe when it is taken, else None. Raises UserError when made."""

    PARTS = ("lost", "taken")
    KEYS = "t take it as a new recipe · tab what came over · esc drop it"
    BINDINGS: ClassVar = register(
        Action("import.take", "t,enter", "take it", "Go on with it as a new recipe.", show=True),
    )
    DEFAULT_CSS = """
    ImportPage #told { height: auto; max-height: 9; margin-bottom: 1; }
    ImportPage #lost { height: 3fr; min-height: 4; }
    ImportPage #taken { height: 4fr; min-height: 4; }
    ImportPage #why { height: 4; }
    """

    def __init__(self, path: Path) -> None:
        from finetui.recipe.importers import import_file  # YAML: 20 ms that few need

        self.imported = import_file(path)
        super().__init__(f"import · {path.name}")

    def body(self) -> ComposeResult:
        yield TextPanel(wrap=True, id="told")
        yield VirtualTable(
            [Column("", 1, tone=True), Column("line", 4, "right"), Column("key", 22),
             Column("value", 12), Column("why", weight=1, low=16)],
            id="lost", classes="panel", empty="nothing: every key has an equivalent",
        )  # fmt: skip
        yield VirtualTable(
            [Column("line", 4, "right"), Column("key", 27), Column("field", 18),
             Column("value", weight=1, low=12), Column("", 4)],
            id="taken", classes="panel", empty="nothing",
        )  # fmt: skip
        yield TextPanel(wrap=True, id="why")

    def on_mount(self) -> None:
        found = self.imported
        self.query_one("#told", TextPanel).show(_told(found))
        entitle(self.query_one("#lost"), f"without an equivalent: {len(found.lost)}")
        entitle(self.query_one("#taken"), f"came over: {len(found.taken)}")
        self.table("lost").show(ListSource([_lost_row(lost) for lost in found.lost]))
        self.table("taken").show(ListSource([_taken_row(taken) for taken in found.taken]))
        self._explain_lost(0)

    @on(VirtualTable.RowHighlighted, "#lost")
    def _lost_moved(self, message: VirtualTable.RowHighlighted) -> None:
        self._explain_lost(message.row)

    @on(VirtualTable.RowHighlighted, "#taken")
    def _taken_moved(self, message: VirtualTable.RowHighlighted) -> None:
        taken = self.imported.taken[message.row]
        label = field(taken.field).label
        self._explain(f"{taken.key} is {label} here: {taken.shown}. {taken.note}")

    def _explain_lost(self, row: int) -> None:
        if row < len(self.imported.lost):
            lost = self.imported.lost[row]
            nearest = f" Nearest here: {field(lost.nearest).label}." if lost.nearest else ""
            self._explain(f"{lost.key}: {lost.value}. {lost.reason.rstrip('.')}.{nearest}")

    def _explain(self, text: str) -> None:
        self.query_one("#why", TextPanel).show(Content(clean(text)))

    def action_take(self) -> None:
        self.dismiss(self.imported.recipe)


def _told(found: Imported) -> Content:
    from finetui.recipe.importers import SOURCES

    matter = sum(lost.matters for lost in found.lost)
    head = Content.assemble(
        (f"{SOURCES.get(found.source, found.source)}", "bold $accent"),
        f"  {plural(len(found.taken), 'key')} came over, {len(found.lost)} did not",
        (f", {matter} of them matter" if matter else "", "$warning"),
    )
    notes = [Content.assemble(("→ ", "$accent"), clean(note)) for note in found.notes]
    return lines.join([head, *notes])


def _lost_row(lost: Lost) -> TableRow:
    cells = (str(lost.line), lost.key, lost.value, lost.reason)
    return TableRow(("!" if lost.matters else "·", *cells), "warning" if lost.matters else "muted")


def _taken_row(taken: Taken) -> TableRow:
    note = "note" if taken.note else ""
    return TableRow((str(taken.line), taken.key, field(taken.field).label, taken.shown, note))
