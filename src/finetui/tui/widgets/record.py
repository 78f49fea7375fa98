"""One record as it reads: roles, text, findings, and which of it is trained on."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import get_character_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from finetui.display import clean, clean_block, plural
from finetui.tui.widgets.lines import LinesView
from finetui.tui.widgets.table import fit_cell

LONGEST = 20_000
"""Characters of one block that are shown; more would make a key stroke wait."""
_ROLE = 11
_SIGNS = {"error": "✗", "warning": "!", "info": "i"}
_ROLES = {"system", "user", "assistant", "tool"}
_LIKE = {"chosen": "assistant", "rejected": "tool", "label": "system", "columns": "system"}


@dataclass(frozen=True, slots=True)
class Note:
    """A finding at a block; ``start``/``end`` mark characters of its text where known."""

    severity: str
    text: str
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """One turn. ``trained`` are the character ranges that the loss sees; None: not asked."""

    role: str
    text: str
    trained: tuple[tuple[int, int], ...] | None = None
    notes: tuple[Note, ...] = ()
    caption: str = ""


Piece = tuple[str, str]  # printable text, and its style's name


class RecordView(LinesView):
    """Blocks of a record, wrapped to the pane, with a margin that tells what is trained on."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "record--text",
        "record--muted",
        "record--trained",
        "record--error",
        "record--warning",
        "record--info",
        *(f"record--{role}" for role in _ROLES),
    }
    DEFAULT_CSS = """
    RecordView { background: $background; }
    RecordView > .record--text { color: $foreground; }
    RecordView > .record--muted { color: $muted; }
    RecordView > .record--trained { color: $role-assistant; text-style: underline; }
    RecordView > .record--error { color: $error; }
    RecordView > .record--warning { color: $warning; }
    RecordView > .record--info { color: $primary; }
    RecordView > .record--system { color: $role-system; text-style: bold; }
    RecordView > .record--user { color: $role-user; text-style: bold; }
    RecordView > .record--assistant { color: $role-assistant; text-style: bold; }
    RecordView > .record--tool { color: $role-tool; text-style: bold; }
    """

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.blocks: tuple[Block, ...] = ()

    def show(self, blocks: Sequence[Block], *, keep_place: bool = False) -> None:
        self.blocks = tuple(blocks)
        self.rebuild(top=not keep_place)

    @property
    def ground(self) -> Style:
        return self.get_component_rich_style("record--text")

    def build(self, width: int) -> list[Strip]:
        lines: list[Strip] = []
        for block in self.blocks:
            lines += self._notes(block, width)
            lines += self._block(block, width)
        return lines

    def _notes(self, block: Block, width: int) -> Iterator[Strip]:
        for note in block.notes:
            name = note.severity if note.severity in _SIGNS else "info"
            text = f"{_SIGNS[name]} {clean(note.text)}"
            for line in wrap([(text, name)], max(10, width - 2)):
                yield self._strip([(" ", "text"), *line])

    def _block(self, block: Block, width: int) -> Iterator[Strip]:
        text = block.text[:LONGEST]
        first = True
        for line in _lines(_pieces(text, block)):
            for wrapped in wrap(line, max(10, width - _ROLE - 3)):
                role = clean(block.role) if first else ""
                yield self._strip([*self._margin(role, block, wrapped), *wrapped])
                first = False
        for extra in (self._left_out(block), block.caption):
            if extra:
                yield self._strip([(" " * (_ROLE + 2), "muted"), (clean(extra), "muted")])

    def _margin(self, role: str, block: Block, line: Sequence[Piece]) -> list[Piece]:
        trained = any(name == "trained" for _, name in line)
        style = block.role if block.role in _ROLES else _LIKE.get(block.role, "system")
        bar = ("▌", "trained-bar") if trained else ("▏", "muted")
        return [(" " + fit_cell(role, _ROLE - 1), style), bar, (" ", "text")]

    @staticmethod
    def _left_out(block: Block) -> str:
        more = len(block.text) - LONGEST
        return f"… {plural(more, 'more character')} not shown" if more > 0 else ""

    def _strip(self, pieces: Sequence[Piece]) -> Strip:
        return Strip([Segment(text, self._ink(name)) for text, name in pieces])

    def _ink(self, name: str) -> Style:
        if name == "trained-bar":
            return self.get_component_rich_style("record--assistant")
        if name.startswith("mark-"):
            return self.get_component_rich_style(f"record--{name[5:]}") + Style(reverse=True)
        return self.get_component_rich_style(f"record--{name}")


def _pieces(text: str, block: Block) -> Iterator[Piece]:
    """The text cut where a style begins or ends; each piece printable."""
    marks = [
        (note.start, note.end, f"mark-{note.severity if note.severity in _SIGNS else 'info'}")
        for note in block.notes
        if note.start is not None and note.end is not None and note.end > note.start
    ]
    spans = block.trained or ()
    cuts = {0, len(text)}
    for start, end in [*spans, *((start, end) for start, end, _ in marks)]:
        cuts |= {max(0, min(start, len(text))), max(0, min(end, len(text)))}
    starts = [start for start, _ in spans]
    edges = sorted(cuts)
    for start, end in itertools.pairwise(edges):
        name = next((mark for first, last, mark in marks if first <= start < last), "")
        if not name:
            place = bisect_right(starts, start) - 1
            name = "trained" if place >= 0 and start < spans[place][1] else "text"
        yield clean_block(text[start:end]), name


def _lines(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    """Pieces cut at line breaks."""
    line: list[Piece] = []
    for text, name in pieces:
        first, *others = text.split("\n")
        line.append((first, name))
        for other in others:
            yield line
            line = [(other, name)]
    yield line


def wrap(line: Sequence[Piece], width: int) -> Iterator[list[Piece]]:
    """One line in lines of at most ``width`` cells, cut at spaces where there are some."""
    line = [piece for piece in line if piece[0]]
    text = "".join(part for part, _ in line)
    names = [name for part, name in line for _ in part]
    if (text.isascii() and len(text) <= width) or not text:
        yield line
        return
    start = 0
    while start < len(text):
        end = _cut(text, start, width)
        yield _regroup(text, names, start, end)
        start = end
        while start < len(text) and text[start] == " " and end < len(text):
            start += 1


def _cut(text: str, start: int, width: int) -> int:
    """Where the line that begins at ``start`` ends."""
    used, end = 0, start
    while end < len(text):
        used += get_character_cell_size(text[end])
        if used > width and end > start:
            break
        end += 1
    if end == len(text):
        return end
    space = text.rfind(" ", start + 1, end + 1)
    return space if space > start + (end - start) // 3 else end


def _regroup(text: str, names: Sequence[str], start: int, end: int) -> list[Piece]:
    found: list[Piece] = []
    first = start
    for place in range(start + 1, end + 1):
        if place == end or names[place] != names[first]:
            found.append((text[first:place], names[first]))
            first = place
    return found
