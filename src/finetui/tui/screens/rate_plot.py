"""The pictures of a report, drawn in characters: values with their whiskers, and bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from rich.cells import cell_len
from textual.content import Content

from finetui.display import clean
from finetui.tui.screens import lines
from finetui.tui.widgets.table import fit_cell

if TYPE_CHECKING:
    from finetui.rating.figures import Picture, Row

TWO_COLUMNS = 104
"""Cells from which two pictures stand beside each other."""
_GAP = 4
_LABEL, _PLOT_LOW, _PLOT_HIGH = 24, 11, 51
_PLOT_GOOD = 15
"""Cells below which the plot takes the notes' place."""


def page(pictures: Sequence[Picture], width: int) -> Content:
    """All pictures: the first, which is the endpoint, over the whole width, the others in pairs
    where there is room."""
    blocks = [draw(picture, width) for picture in pictures[:1]]
    rest = pictures[1:]
    if width < TWO_COLUMNS:
        blocks += [draw(picture, width) for picture in rest]
    else:
        half = (width - _GAP) // 2
        for left, right in zip_longest(rest[::2], rest[1::2]):
            blocks.append(_beside(draw(left, half), draw(right, half) if right else [], half))
    return lines.join([line for block in blocks for line in [*block, Content("")]])


def draw(picture: Picture, width: int) -> list[Content]:
    """One picture: its title, its rows, and its axis for intervals; no line longer than width."""
    values = [_value_text(row, picture) for row in picture.rows]
    value_width = max(len(value) for value in values)
    longest = max(cell_len(clean(row.label)) for row in picture.rows)
    label_width = max(1, min(_LABEL, longest, width - value_width - 4 - _PLOT_LOW))
    note_width = max(cell_len(clean(row.note)) for row in picture.rows)
    room = width - label_width - value_width - 4
    if room - note_width - 2 < _PLOT_GOOD:
        note_width = 0
    plot = max(_PLOT_LOW, min(_PLOT_HIGH, room - (note_width + 2 if note_width else 0)) - 1) | 1
    drawn = [Content.styled(clean(picture.title), "bold")]
    for row, value in zip(picture.rows, values, strict=True):
        drawn.append(
            Content.assemble(
                (f"{fit_cell(row.label, label_width)}  ", "$muted"),
                _marks(row, picture, plot),
                f"  {value:>{value_width}}",
                (f"  {fit_cell(row.note, note_width)}" if note_width else "", "$muted"),
            )
        )
    if picture.kind == "interval":
        drawn.append(Content.styled(" " * (label_width + 2) + _axis(picture, plot), "$muted"))
    return drawn


def _marks(row: Row, picture: Picture, width: int) -> Content:
    return _bar(row, picture, width) if picture.kind == "count" else whisker(row, picture, width)


def whisker(row: Row, picture: Picture, width: int) -> Content:
    """The value as a dot on its interval, and the line where nothing is the case."""

    def place(value: float) -> int:
        span = picture.high - picture.low
        share = (value - picture.low) / span if span else 0.0
        return round(min(1.0, max(0.0, share)) * (width - 1))

    cells = ["─"] * width
    first, last = place(_or(row.low, row.value)), place(_or(row.high, row.value))
    cells[first : last + 1] = "━" * (last + 1 - first)
    line = place(picture.line)
    cells[line] = "╋" if first < line < last else "┼"
    spot = place(row.value)
    cells[spot] = "●"
    drawn = Content("".join(cells)).stylize("$line").stylize("$series-2", first, last + 1)
    return drawn.stylize("bold $foreground", spot, spot + 1)


def _bar(row: Row, picture: Picture, width: int) -> Content:
    span = picture.high - picture.low
    done = round((row.value - picture.low) / span * width) if span else 0
    return Content.assemble(("█" * done, "$series-2"), " " * (width - done))


def _axis(picture: Picture, width: int) -> str:
    """The ends of the axis and the place of its line, as numbers below the plot."""
    cells = [" "] * width
    left, right, middle = (_end(picture, x) for x in (picture.low, picture.high, picture.line))
    cells[: len(left)] = left
    cells[width - len(right) :] = right
    span = picture.high - picture.low
    spot = round((picture.line - picture.low) / span * (width - 1)) if span else 0
    start = spot - len(middle) // 2
    if start > len(left) and start + len(middle) < width - len(right):
        cells[start : start + len(middle)] = middle
    return "".join(cells)


def _value_text(row: Row, picture: Picture) -> str:
    if picture.kind == "count":
        return _short(row.value)
    share = picture.unit == "share"
    value, low, high = (f"{x:.0%}" if share else f"{x:.2f}" for x in (row.value, row.low, row.high))
    whole = f"{value:>5}  {low:>5} to {high:>5}"
    return whole if row.low < row.high else f"{value:>5}".ljust(len(whole))


def _end(picture: Picture, value: float) -> str:
    return f"{value:.0%}" if picture.unit == "share" else _short(value)


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _or(value: float, other: float) -> float:
    return other if math.isnan(value) else value


def _beside(left: Sequence[Content], right: Sequence[Content], half: int) -> list[Content]:
    return [
        Content.assemble(one, " " * (half + _GAP - one.cell_length), other)
        for one, other in zip_longest(left, right, fillvalue=Content(""))
    ]
