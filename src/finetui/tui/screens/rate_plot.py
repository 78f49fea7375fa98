"""The report's picture, drawn by plotext: it stands still, so its cost does not matter."""

from __future__ import annotations

import re
from collections.abc import Sequence


def bars(counts: Sequence[tuple[str, int]], width: int) -> str:
    """Horizontal bars with their counts, plain text of at most `width` cells."""
    import plotext

    plotext.clear_figure()
    plotext.simple_bar([label for label, _ in counts], [n for _, n in counts], width=width)
    picture: str = plotext.uncolorize(plotext.build())
    return re.sub(r"\.00$", "", picture, flags=re.MULTILINE).strip("\n")
