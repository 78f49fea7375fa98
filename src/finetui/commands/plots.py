"""Charts for plain terminals, drawn by plotext: they stand still, so their cost does not matter."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from typing import Any

Curve = tuple[str, Sequence[float], Sequence[float]]
"""A name, x values, and y values; a y that is not finite is a gap."""

_HEIGHT = 18


def lines(curves: Sequence[Curve], x_name: str, width: int = 0) -> str:
    """Curves over each other as plain text, ``width`` cells (0: as the terminal); "" for none."""
    figure = _figure(width)
    drawn = False
    for name, xs, ys in curves:
        points = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)]
        if points:
            figure.plot(*map(list, zip(*points, strict=True)), label=name, marker=_marker())
            drawn = True
    if not drawn:
        return ""
    figure.xlabel(x_name)
    return _built(figure)


def histogram(values: Sequence[float], x_name: str, bins: int = 40, width: int = 0) -> str:
    """How often values occur, as plain text; "" for fewer than two different ones."""
    if len(set(values)) < 2:
        return ""
    figure = _figure(width)
    figure.hist(list(values), min(bins, len(set(values))), marker=None if _unicode() else "#")
    figure.xlabel(x_name)
    return _built(figure)


def _figure(width: int) -> Any:
    import plotext

    plotext.clear_figure()
    plotext.theme("clear")
    cells = width or min(110, shutil.get_terminal_size((80, 24)).columns)
    plotext.plotsize(cells, _HEIGHT)
    return plotext


def _built(figure: Any) -> str:
    text: str = figure.uncolorize(figure.build())
    return "\n".join(line.rstrip() for line in text.splitlines())


def _marker() -> str:
    return "braille" if _unicode() else "dot"


def _unicode() -> bool:
    names = (os.environ.get(name, "") for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    return "utf" in next(filter(None, names), "utf").lower()
