"""Numbers as a person reads them, with a unit; an unknown one is a dash, never a guess."""

from __future__ import annotations

import math
import time

from finetui import display

UNKNOWN = "–"


def size(value: float | None) -> str:
    """Bytes in binary units."""
    return UNKNOWN if value is None or not math.isfinite(value) else display.size(value)


def duration(seconds: float | None) -> str:
    """A span of time; tenths below ten seconds, where they matter."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return UNKNOWN
    return f"{seconds:.1f} s" if seconds < 10 else display.duration(seconds)


def clock(when: float | None) -> str:
    """Local time of day of a Unix time, HH:MM:SS."""
    return display.moment(when, "%H:%M:%S") if when else UNKNOWN


def day(when: float | None) -> str:
    """Local date and time of a Unix time; today's date is left out."""
    if not when:
        return UNKNOWN
    date = "%Y-%m-%d"
    today = display.moment(when, date) == display.moment(time.time(), date)
    return display.moment(when, "%H:%M" if today else "%d %b %H:%M")


def count(value: float | None) -> str:
    """A whole number with thousands marks."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{round(value):,}"


def compact(value: float | None) -> str:
    """A big count in little room: 940, 12.4 k, 3.45 M, 7.0 B."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scaled = value / (1e3 if unit == "k" else limit)
            return f"{scaled:.3g} {unit}"
    return f"{value:,.0f}"


def number(value: float | None, digits: int = 4) -> str:
    """A measured value with `digits` significant figures; NaN and infinity are said in words."""
    if value is None:
        return UNKNOWN
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "infinite"
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        mantissa, _, exponent = f"{value:.{max(0, digits - 2)}e}".partition("e")
        if "." in mantissa:
            mantissa = mantissa.rstrip("0").rstrip(".")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.{digits}g}"


def percent(share: float | None, digits: int = 0) -> str:
    """A share of one as a percentage."""
    if share is None or not math.isfinite(share):
        return UNKNOWN
    return f"{share * 100:.{digits}f} %"
