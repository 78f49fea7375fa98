"""Small pieces of text that several screens draw: label and value, bars, marks, chats.

Text from data is cleaned here and never read as markup.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from textual.content import Content

from finetui.display import clean, clean_block

GAP = 2

Cell = tuple[str, str]
"""A text and its style, the pieces of a Content."""

MARKS = {
    "starting": ("◌", "$accent"),
    "queued": ("◌", "$accent"),
    "requeued": ("◌", "$warning"),
    "running": ("●", "$success"),
    "paused": ("‖", "$warning"),
    "stalled": ("!", "$warning"),
    "finished": ("✓", "$success"),
    "stopped": ("■", "$warning"),
    "preempted": ("■", "$warning"),
    "failed": ("✗", "$error"),
    "interrupted": ("✗", "$error"),
    "unknown": ("?", "$warning"),
}
"""One sign and one colour for each state of a job; the word always stands beside the sign."""

SEVERITIES = {
    "error": ("✗", "$error"),
    "warning": ("!", "$warning"),
    "advice": ("→", "$accent"),
    "info": ("·", "$muted"),
}


def join(lines: Iterable[Content]) -> Content:
    """Lines below each other as one Content."""
    return Content("\n").join(lines)


def wrapped(text: str, width: int, style: str = "", most: int = 0) -> list[Content]:
    """A sentence as lines of `width` cells; of `most` lines the last one says that more follows."""
    told = textwrap.wrap(clean(text), max(16, width)) or [""]
    if most and len(told) > most:
        told = [*told[: most - 1], told[most - 1][: max(15, width - 1)] + "…"]
    return [Content.styled(line, style) for line in told]


def pair(label: str, value: str | Content, width: int = 11, style: str = "") -> Content:
    """A muted label in `width` cells, then its value."""
    shown = value if isinstance(value, Content) else Content.styled(value, style)
    return Content.assemble((f"{label:<{width}} ", "$muted"), shown)


def bar(share: float, width: int, style: str = "$success") -> Content:
    """A line of `width` cells, heavy up to `share` of it: readable without colour."""
    done = round(min(1.0, max(0.0, share)) * width)
    return Content.assemble(("━" * done, style), ("─" * (width - done), "$line"))


def state_cell(name: str) -> Content:
    """Sign and word of a job's state."""
    mark, style = MARKS.get(name, ("?", "$warning"))
    return Content.assemble((f"{mark} {name}", style))


def columns(rows: Sequence[Sequence[str]], styles: Sequence[str] = ()) -> list[Content]:
    """Rows as aligned columns: the first to the left, the others to the right."""
    if not rows:
        return []
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells: list[Cell] = []
        for index, text in enumerate(row):
            shown = text.ljust(widths[0]) if index == 0 else text.rjust(widths[index] + GAP)
            cells.append((shown, styles[index] if index < len(styles) else ""))
        lines.append(Content.assemble(*cells))
    return lines


def chat(prompt: Sequence[dict[str, Any]]) -> Content:
    """The turns of a chat, each behind its role."""
    turns: list[Content] = []
    for turn in prompt:
        role = clean(str(turn.get("role", "?")))
        known = role in ("system", "user", "assistant", "tool")
        style = f"bold $role-{role}" if known else "bold"
        body = clean_block(str(turn.get("content") or ""))
        turns.append(Content.assemble((f"{role}  ", style), body))
    return join(turns)


def answer(text: str) -> Content:
    """An answer as a model gave it; an empty one is said."""
    body = clean_block(text)
    return Content(body) if body.strip() else Content.styled("(empty answer)", "$warning")


def marked(text: str, other: str, style: str) -> Content:
    """A text with the part marked in which it differs from another."""
    start = 0
    while start < min(len(text), len(other)) and text[start] == other[start]:
        start += 1
    end, back = len(text), len(other)
    while end > start and back > start and text[end - 1] == other[back - 1]:
        end, back = end - 1, back - 1
    return Content.assemble(
        clean(text[max(0, start - 300) : start]),
        (clean(text[start:end]) or "‸", f"bold {style}"),
        clean(text[end : end + 300]),
    )
