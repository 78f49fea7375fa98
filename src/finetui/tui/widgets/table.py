"""A table over any number of rows: only the lines on screen are ever made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from finetui.display import clean
from finetui.tui.actions import Action, register

Tone = Literal["", "muted", "good", "info", "warning", "error", "edited", "dropped"]
TONES: tuple[Tone, ...] = ("muted", "good", "info", "warning", "error", "edited", "dropped")
_GAP = 2
_KEPT = 1024  # row lines kept between two repaints
_LONGEST = 512  # characters of a cell that are looked at: no pane is wider


@dataclass(frozen=True, slots=True)
class Column:
    """``width`` in cells; 0 shares what is left by ``weight``. ``low`` is its least width.

    A column with ``tone`` takes the row's tone; the others keep the plain colour.
    """

    title: str
    width: int = 0
    align: Literal["left", "right"] = "left"
    weight: float = 1.0
    low: int = 8
    tone: bool = False


@dataclass(frozen=True, slots=True)
class TableRow:
    """The cells of one row; ``tone`` colours the tone columns (a sign must say the same)."""

    cells: tuple[str, ...]
    tone: Tone = ""


class RowSource(Protocol):
    """Plain values for a table; asked only for the rows on screen."""

    @property
    def row_count(self) -> int: ...

    def row(self, index: int) -> TableRow: ...


@dataclass(frozen=True, slots=True)
class ListSource:
    """Rows that are few enough to be held."""

    rows: Sequence[TableRow] = ()

    @property
    def row_count(self) -> int:
        return len(self.rows)

    def row(self, index: int) -> TableRow:
        return self.rows[index]


def fit_columns(columns: Sequence[Column], width: int) -> list[int]:
    """Cell widths that fill ``width``; the last columns get 0 where there is no room for them."""
    widths = [column.width or column.low for column in columns]
    while len([w for w in widths if w]) > 1 and _total(widths) > width:
        last = max(index for index, found in enumerate(widths) if found)
        widths[last] = 0
    spare = width - _total(widths)
    flexible = [i for i, column in enumerate(columns) if not column.width and widths[i]]
    weight = sum(columns[i].weight for i in flexible)
    for place, i in enumerate(flexible):
        rest = spare if place == len(flexible) - 1 else int(spare * columns[i].weight / weight)
        widths[i] += rest
        spare -= rest
        weight -= columns[i].weight
    return [max(0, found) for found in widths]


def _total(widths: Sequence[int]) -> int:
    shown = [found for found in widths if found]
    return sum(shown) + _GAP * max(0, len(shown) - 1) + 2  # a cell of air on both sides


def fit_cell(text: str, width: int, align: str = "left") -> str:
    """One printable line of exactly ``width`` cells; a cut shows as ``…``."""
    text = clean(text[:_LONGEST])
    size = cell_len(text)
    if size > width:
        return set_cell_size(text, width - 1) + "…" if width > 1 else set_cell_size(text, width)
    return " " * (width - size) + text if align == "right" else text + " " * (width - size)


class VirtualTable(ScrollView, can_focus=True):
    """Rows of a RowSource under a header that stays; one row has the cursor."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "table--header",
        "table--row",
        "table--cursor",
        "table--cursor-blurred",
        *(f"table--{tone}" for tone in TONES),
    }
    DEFAULT_CSS = """
    VirtualTable { height: 1fr; width: 1fr; overflow-x: hidden; overflow-y: auto; }
    VirtualTable > .table--header { color: $muted; text-style: bold; background: $background; }
    VirtualTable > .table--row { color: $foreground; background: $background; }
    VirtualTable > .table--cursor { color: $cursor-text; background: $cursor; }
    VirtualTable > .table--cursor-blurred { color: $foreground; background: $cursor-blurred; }
    VirtualTable > .table--muted { color: $muted; }
    VirtualTable > .table--good { color: $success; }
    VirtualTable > .table--info { color: $primary; }
    VirtualTable > .table--warning { color: $warning; }
    VirtualTable > .table--error { color: $error; }
    VirtualTable > .table--edited { color: $accent; }
    VirtualTable > .table--dropped { color: $muted; text-style: strike; }
    """
    BINDINGS = register(
        Action("table.up", "up,k", "up", "One row up."),
        Action("table.down", "down,j", "down", "One row down."),
        Action("table.page-up", "pageup", "page up", "One page up."),
        Action("table.page-down", "pagedown", "page down", "One page down."),
        Action("table.first", "home,g", "first", "The first row."),
        Action("table.last", "end,G", "last", "The last row."),
        Action("table.open", "enter", "open", "Open the row at the cursor.", show=True),
    )

    cursor: reactive[int] = reactive(0, repaint=False, init=False)

    @dataclass
    class RowHighlighted(Message):
        """The cursor came to a row."""

        table: VirtualTable
        row: int

        @property
        def control(self) -> VirtualTable:
            return self.table

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, VirtualTable.RowHighlighted) and (
                message.table is self.table
            )

    @dataclass
    class RowSelected(Message):
        """Enter, or a click on the row that had the cursor."""

        table: VirtualTable
        row: int

        @property
        def control(self) -> VirtualTable:
            return self.table

    def __init__(
        self,
        columns: Sequence[Column] = (),
        source: RowSource | None = None,
        *,
        empty: str = "",
        header: bool = True,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        """``empty`` is the sentence shown where there is no row."""
        super().__init__(id=id, classes=classes)
        self.columns = list(columns)
        self.source: RowSource = source or ListSource()
        self.empty = empty
        self.header = 1 if header else 0
        self._widths: list[int] = []
        self._fitted_to = -1
        self._lines: dict[tuple[int, bool], Strip] = {}
        self._at_end = False  # the cursor follows the last row while rows still come

    # -- what it shows -----------------------------------------------------------------------

    def show(self, source: RowSource, columns: Sequence[Column] | None = None) -> None:
        """Show other rows; the cursor stays where it can."""
        self._at_end = self._at_end and source is self.source
        self.source = source
        if columns is not None:
            self.columns = list(columns)
            self._fitted_to = -1
        self.rows_changed()

    def rows_changed(self) -> None:
        """Call when the number or the content of the rows is another; keeps the place."""
        self._lines.clear()
        self._measure()
        last = max(0, self.row_count - 1)
        at_end = self._at_end
        if self.cursor > last or at_end:
            self.cursor = last
        self._at_end = at_end
        self.refresh()

    def row_changed(self, row: int) -> None:
        """Call when one row is another; only its line is repainted."""
        self._lines.pop((row, False), None)
        self._lines.pop((row, True), None)
        self._refresh_row(row)

    @property
    def row_count(self) -> int:
        return self.source.row_count

    @property
    def page(self) -> int:
        """Rows on screen."""
        return max(1, self.scrollable_content_region.height - self.header)

    def _fit(self, width: int) -> None:
        self._widths = fit_columns(self.columns, width)
        self._fitted_to = width
        self._lines.clear()

    def _measure(self) -> None:
        self.virtual_size = Size(0, self.row_count + self.header)

    def on_mount(self) -> None:
        self._measure()

    def on_resize(self) -> None:
        self._fitted_to = -1
        self._keep_cursor_visible()
        self.refresh()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._lines.clear()

    def watch_has_focus(self, focus: bool) -> None:
        super().watch_has_focus(focus)
        self._lines.pop((self.cursor, True), None)

    # -- drawing -----------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        if width != self._fitted_to:  # first line, or a scroll bar came or went
            self._fit(width)
        plain = self._style("table--row")
        if self.row_count == 0:
            return self._empty_line(y, width, plain)
        if y < self.header:
            return self._header_line(width)
        index = y - self.header + self.scroll_offset.y
        if index >= self.row_count:
            return Strip([Segment(" " * width, plain)], width)
        return self._row_line(index, width, plain)

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(name)

    def _empty_line(self, y: int, width: int, plain: Style) -> Strip:
        lines = clean(self.empty).split("⏎")
        top = max(0, (self.size.height - len(lines)) // 3)
        text = lines[y - top] if top <= y < top + len(lines) else ""
        text = fit_cell(text, min(width, cell_len(text)))
        pad = " " * ((width - cell_len(text)) // 2)
        muted = plain + self._style("table--muted")
        return Strip([Segment((pad + text).ljust(width), muted)]).adjust_cell_length(width, plain)

    def _header_line(self, width: int) -> Strip:
        cells = [
            fit_cell(c.title, w, c.align)
            for c, w in zip(self.columns, self._widths, strict=False)
            if w
        ]
        text = " " + (" " * _GAP).join(cells)
        style = self._style("table--header")
        return Strip([Segment(text, style)]).adjust_cell_length(width, style)

    def _row_line(self, index: int, width: int, plain: Style) -> Strip:
        key = (index, index == self.cursor)
        line = self._lines.get(key)
        if line is None or line.cell_length != width:
            if len(self._lines) >= _KEPT:
                self._lines.clear()
            line = self._lines[key] = self._make_row(index, width, plain)
        return line

    def _make_row(self, index: int, width: int, plain: Style) -> Strip:
        row = self.source.row(index)
        under = index == self.cursor
        ground = plain
        if under:
            ground = self._style("table--cursor" if self.has_focus else "table--cursor-blurred")
        toned = self._toned(row.tone, ground, under and self.has_focus)
        text = toned if row.tone in ("dropped", "muted") else ground
        segments = [Segment(" ", ground)]
        shown = [
            (c, w, t) for c, w, t in zip(self.columns, self._widths, row.cells, strict=False) if w
        ]
        for place, (column, cell, value) in enumerate(shown):
            style = toned if column.tone else text
            if place:
                segments.append(Segment(" " * _GAP, ground))
            words = fit_cell(value, cell, column.align)
            bare = words.rstrip()
            segments.append(Segment(bare, style))
            segments.append(Segment(words[len(bare) :], ground))  # air is not struck through
        return Strip(segments).simplify().adjust_cell_length(width, ground)

    def _toned(self, tone: Tone, ground: Style, under: bool) -> Style:
        """The tone's colour on the row's ground; under the cursor only its attributes."""
        if not tone:
            return ground
        found = self._style(f"table--{tone}")
        attributes = Style(bold=found.bold, strike=found.strike)
        if under:
            return ground + attributes
        return ground + Style(color=found.color) + attributes

    def _refresh_row(self, row: int) -> None:
        y = row - self.scroll_offset.y + self.header
        if self.header <= y < self.size.height:
            self.refresh(Region(0, y, self.size.width, 1))

    # -- moving ------------------------------------------------------------------------------

    def validate_cursor(self, cursor: int) -> int:
        return max(0, min(cursor, self.row_count - 1))

    def watch_cursor(self, old: int, new: int) -> None:
        self._at_end = False
        if not self._keep_cursor_visible():
            self._refresh_row(old)
            self._refresh_row(new)
        self.post_message(self.RowHighlighted(self, new))

    def _keep_cursor_visible(self) -> bool:
        """Scroll so that the cursor is on screen; whether it scrolled."""
        top, page = int(self.scroll_offset.y), self.page
        if not self.size.height:
            return False
        target = top
        if self.cursor < top:
            target = self.cursor
        elif self.cursor >= top + page:
            target = self.cursor - page + 1
        if target == top:
            return False
        self.scroll_to(y=target, animate=False, force=True)
        return True

    def go_to(self, row: int) -> None:
        """Put the cursor on a row, in the middle of the pane when it was out of sight."""
        row = self.validate_cursor(row)
        top = int(self.scroll_offset.y)
        if not top <= row < top + self.page:
            self.scroll_to(y=max(0, row - self.page // 2), animate=False, force=True)
        self.cursor = row

    def action_up(self) -> None:
        self.cursor -= 1

    def action_down(self) -> None:
        self.cursor += 1

    def action_page_up(self) -> None:
        self.cursor -= self.page

    def action_page_down(self) -> None:
        self.cursor += self.page

    def action_first(self) -> None:
        self.cursor = 0

    def action_last(self) -> None:
        """The last row; while rows are still being counted, the last one as they come."""
        self._measure()
        self.cursor = self.row_count - 1
        self._at_end = True

    def action_open(self) -> None:
        if self.row_count:
            self.post_message(self.RowSelected(self, self.cursor))

    def on_click(self, event: events.Click) -> None:
        row = event.y - self.gutter.top - self.header + int(self.scroll_offset.y)
        if not 0 <= row < self.row_count or event.y - self.gutter.top < self.header:
            return
        if row == self.cursor:
            self.action_open()
        else:
            self.cursor = row
