r"""Gates of checks: bytes patterns that a row's JSON must match before a check looks at it.

JSON can write every character in several ways (``é``, ``\u00e9``; ``/``, ``\/``), and a newline
ends in the letter n. So these patterns are put together here from what the text must hold, in
the syntax that `re` and RE2 share (no look-around, back reference or anchor, and no word
boundary: the n of ``\n`` is a letter), and all gates of a run can be one automaton.

They hold for JSON bytes. Rows of other formats are given as JSON or looked at ungated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# An ASCII character written as an escape hides any word; a list of parts is joined to one text,
# so a word may straddle two of them. Such rows pass every gate.
_ALWAYS = rb'\\u00[0-7]|"(?:content|value)"\s*:\s*\['
_Digits = tuple[int, ...]

APOSTROPHE = rb"(?:'|\xe2\x80\x99|\\u2019)"
SLASH = rb"\\?/"
SPACE = rb"(?: |\\[nrt])"
NEWLINE = rb"\\n"
BEGINS = rb"(?:[^0-9.+-]|\\u[0-9a-fA-F]{4})"
"""What stands before a number that is not the end of a longer one."""


def gate(*patterns: bytes) -> re.Pattern[bytes]:
    """A gate that opens for a row in which one of the patterns occurs."""
    return re.compile(b"|".join((*patterns, _ALWAYS)))


def folded(*patterns: bytes) -> bytes:
    """Patterns whose ASCII letters may be of either case."""
    return b"(?i:" + b"|".join(patterns) + b")"


def phrase(text: str) -> bytes:
    """A piece of text as JSON may hold it; letters beyond ASCII in either case."""
    return b"".join(map(_character, text))


def chars(ranges: str) -> bytes:
    """One character of ``ranges``, written as inside a character class: ``"а-яё"``."""
    written: list[bytes] = []
    for low, high in spans(ranges):
        written += _utf8(low, high)
        written += _escaped(low, high)
    return b"(?:" + b"|".join(dict.fromkeys(written)) + b")"


def spans(ranges: str) -> list[tuple[int, int]]:
    """The code points that a character class holds, as (first, last)."""
    found: list[tuple[int, int]] = []
    place = 0
    while place < len(ranges):
        low = high = ord(ranges[place])
        if ranges[place + 1 : place + 2] == "-" and place + 2 < len(ranges):
            high = ord(ranges[place + 2])
            place += 2
        found.append((low, high))
        place += 1
    return found


def _character(character: str) -> bytes:
    if character == "'":
        return APOSTROPHE
    if character == "/":
        return SLASH
    if character in '"\n\t\\':
        return {'"': rb"\\\"", "\n": NEWLINE, "\t": rb"\\t", "\\": rb"\\\\"}[character]
    if character.isascii():
        return re.escape(character.encode())
    cases = dict.fromkeys((character, character.lower(), character.upper()))
    return chars("".join(case for case in cases if len(case) == 1))


def _utf8(low: int, high: int) -> Iterator[bytes]:
    """The UTF-8 of a range of characters, a pattern for each shape of its bytes."""
    for first, last in ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xFFFF), (0x10000, 0x10FFFF)):
        least, most = max(low, first), min(high, last)
        if least <= most:
            ends = tuple(_bytes(least)), tuple(_bytes(most))
            for digits in _digits(*ends, 0x80, 0xBF):
                yield b"".join(_byte_class(*pair) for pair in digits)


def _bytes(point: int) -> bytes:
    return chr(point).encode(errors="surrogatepass")


def _escaped(low: int, high: int) -> Iterator[bytes]:
    r"""A range of characters as ``\uXXXX``; any pair of surrogates for those beyond 0xFFFF."""
    if high > 0xFFFF:
        yield rb"\\u[dD][89abAB]"
    if low <= 0xFFFF:
        for digits in _digits(_hex(low), _hex(min(high, 0xFFFF)), 0, 15):
            yield rb"\\u" + b"".join(_hex_class(*pair) for pair in digits)


def _hex(point: int) -> _Digits:
    return tuple(point >> shift & 15 for shift in (12, 8, 4, 0))


def _digits(low: _Digits, high: _Digits, least: int, most: int) -> list[list[tuple[int, int]]]:
    """The numbers from ``low`` to ``high`` as products of ranges of digits."""
    first, last = low[0], high[0]
    if len(low) == 1:
        return [[(first, last)]]
    rest = len(low) - 1
    bottom, top = (least,) * rest, (most,) * rest
    if first == last:
        return [[(first, first), *tail] for tail in _digits(low[1:], high[1:], least, most)]
    before: list[list[tuple[int, int]]] = []
    after: list[list[tuple[int, int]]] = []
    if low[1:] != bottom:
        before = [[(first, first), *tail] for tail in _digits(low[1:], top, least, most)]
        first += 1
    if high[1:] != top:
        after = [[(last, last), *tail] for tail in _digits(bottom, high[1:], least, most)]
        last -= 1
    middle = [[(first, last)] + [(least, most)] * rest] if first <= last else []
    return [*before, *middle, *after]


def _byte_class(low: int, high: int) -> bytes:
    if low == high:
        return b"\\x%02x" % low
    return b"[\\x%02x-\\x%02x]" % (low, high)


def _hex_class(low: int, high: int) -> bytes:
    digits = "".join(f"{digit:x}" for digit in range(low, high + 1))
    both = "".join(dict.fromkeys(digits + digits.upper()))
    return f"[{both}]".encode() if len(both) > 1 else both.encode()
