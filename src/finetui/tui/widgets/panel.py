"""Titles of panels: text from data is safe in them, and only the border's line is repainted."""

from __future__ import annotations

from textual.content import Content
from textual.geometry import Region
from textual.widget import Widget

from finetui.display import clean


def entitle(widget: Widget, title: str | None = None, subtitle: str | None = None) -> None:
    """Set the words in a panel's border; None leaves them as they are.

    Textual's own setter repaints the whole widget, some kilobytes for each cursor move.
    """
    for name, words in (("_border_title", title), ("_border_subtitle", subtitle)):
        if words is None:
            continue
        wanted = Content(clean(words)) if words else None
        if getattr(widget, name, None) != wanted:
            setattr(widget, name, wanted)
            top, left = widget.gutter.top, widget.gutter.left
            y = -top if name == "_border_title" else widget.content_size.height
            widget.refresh(Region(-left, y, widget.outer_size.width, 1))
