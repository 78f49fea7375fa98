"""Untrusted text to printable text: the one sanitiser before any text reaches a terminal.

Data sets, model outputs and logs can hold escape sequences, clipboard writes (OSC 52), bidi
overrides and invisible characters. Nothing is dropped: each becomes a visible, harmless mark.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, TextIO

_NEWLINE, _TAB = 0x0A, 0x09

# Invisible or re-ordering characters, as inclusive ranges.
_UNSAFE_RANGES = (
    (0x7F, 0x9F),  # DEL and C1: an 8-bit CSI or OSC starts here
    (0xAD, 0xAD),  # soft hyphen
    (0x034F, 0x034F),  # grapheme joiner
    (0x061C, 0x061C),  # Arabic letter mark
    (0x115F, 0x1160),  # Hangul fillers
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),  # zero width, direction marks
    (0x2028, 0x202E),  # line and paragraph separators, bidi embeddings and overrides
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xD800, 0xDFFF),  # lone surrogates cannot be encoded at all
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF9, 0xFFFB),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE01EF),  # tags and further variation selectors: text that nobody sees
)


def _table() -> dict[int, str]:
    marks = {code: chr(0x2400 + code) for code in range(0x20)}
    for first, last in _UNSAFE_RANGES:
        marks.update({code: f"⟨U+{code:04X}⟩" for code in range(first, last + 1)})
    return marks


UNSAFE: dict[int, str] = _table()
_LINES = {code: mark for code, mark in UNSAFE.items() if code not in (_NEWLINE, _TAB)}
_LINE = UNSAFE | {_NEWLINE: "⏎", _TAB: " "}
_BLOCK = {code: mark for code, mark in UNSAFE.items() if code != _NEWLINE} | {_TAB: "    "}


def plain(text: str) -> str:
    """``text`` printable with its line breaks and tabs kept, for a stream of lines."""
    return text if text.isascii() and text.isprintable() else text.translate(_LINES)


def _escape(code: int) -> str:
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


_JSON = {code: _escape(code) for code in UNSAFE if code not in (_NEWLINE, _TAB)}


def clean(text: str) -> str:
    """Return ``text`` as one printable line; line breaks become ``⏎``, controls are shown."""
    return text.translate(_LINE)


def clean_block(text: str) -> str:
    """Return ``text`` printable with its line breaks kept (``\\r\\n`` counts as one)."""
    return text.replace("\r\n", "\n").translate(_BLOCK)


def in_json(text: str) -> str:
    """JSON with unsafe characters as ``\\uXXXX``: the same value, and nothing a terminal obeys.

    Tabs and line breaks stay; text that is no JSON stays readable.
    """
    return text if text.isascii() and text.isprintable() else text.translate(_JSON)


def brief(text: str, most: int = 2000) -> str:
    """``text``, or its beginning and its end where it is longer than a person would read."""
    if len(text) <= most:
        return text
    tail = most // 3
    return f"{text[: most - tail]} […] {text[-tail:]}"


def has_unsafe(text: str) -> bool:
    """Tell whether ``clean_block`` would change ``text`` (tabs and line breaks aside)."""
    if text.isascii() and text.isprintable():
        return False
    return any(ord(char) in UNSAFE for char in text if char not in "\n\t")


class PlainStream:
    """A terminal's stream that shows controls as marks: the wall behind every command.

    Commands clean what they print; this one catches what was forgotten, usage errors that name an
    argument, and tracebacks. ``stream`` is the terminal itself, for progress bars.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(plain(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def plural(count: int, noun: str, nouns: str = "") -> str:
    """``1 row``, ``12,408 rows``."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def size(count: float) -> str:
    """Bytes for people, in binary units: ``6.9 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def span(seconds: float) -> str:
    """A length of time in a sentence: ``45 s``, ``3 min 5 s``, ``2 h 10 min``, ``1 d 1 h``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def moment(when: float, form: str) -> str:
    """Local time of a Unix time, in a form of ``strftime``; "–" for one that no calendar has."""
    try:
        return time.strftime(form, time.localtime(when))
    except (ValueError, OverflowError, OSError):
        return "–"


def duration(seconds: float) -> str:
    """A length of time in little room: ``45 s``, ``3m20``, ``1h12``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}"
