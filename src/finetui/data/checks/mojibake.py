"""Text in a wrong encoding: UTF-8 that was once read as a one-byte code page.

ftfy judges, but it takes 0.2 ms a kilobyte. So nearly every text is let through by the lack of
any neighbours that only such text has (`_NEIGHBOURS`), and the gate is made of the same. Two
letters of Latin Extended-A are none: Polish and Turkish words are full of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetui.data.checks.gates import chars, gate
from finetui.data.checks.model import Hit

_SMALL, _LARGE = "\xdf-\xf6\xf8-\xff", "\xc0-\xd6\xd8-\xde"
_EXTENDED = "\u0100-\u017f\u0490-\u0491ﬁﬂ"
_CLOSING = "\xae\xbb\u02dd\u201d\u203a\u2122"
_QUOTES = "\xa1\xab\xbf\xa9\u0384-\u0385\u2018\u201a\u201c\u201e\u2022\u2039\uf8ff" + _CLOSING
_COMMON = "\xa0\xad\xb7\xb4\u2013-\u2015\u2026\u2019"
_BAD = "\xa6\xa4\xa8\xac\xaf\xb8\xaa\xbaƒˆˇ˘˛˜\u2020-\u2021\u2030⌐◊\ufffd"
_SIGNS = _BAD + "\x80-\x9f\xa2-\xa7\xb0-\xb3\xb5-\xb6\xb9\xbc-\xbe\xd7\xf7\u2044\u20a7-\u20ac\u2116"
_SIGNS += "\u2202-\u2265\u2502-\u2593"
_GREEK_CYRILLIC = "\u0370-\u045f"
_LEADS = "ВГРСΒΓΞΟ"
_WORD = "0-9A-Za-z_\x80-\U0010ffff"
_NEIGHBOURS = (
    (_SIGNS + _LARGE, _SIGNS + _LARGE + _SMALL + _EXTENDED + _QUOTES),
    (_QUOTES, _SIGNS + _LARGE),
    (_CLOSING, _SMALL + _EXTENDED),
    (_SMALL, _SIGNS + _LARGE),
    (_EXTENDED, _SIGNS),
    (_SMALL + _EXTENDED, _QUOTES, _WORD),
    ("À-Ù√", _COMMON),
    ("‚", "âó"),
    (_GREEK_CYRILLIC, _LARGE + "\u0490"),
    ("a-zA-Z", _GREEK_CYRILLIC, _BAD),
    (_LEADS, _SIGNS + _QUOTES, _LEADS),
    ("вВ", "Ђ"),
    ("β", "€"),
    ("ÂÃ", " "),
    ("\ufffd",),
)
_HINT = re.compile("|".join("".join(f"[{part}]" for part in parts) for parts in _NEIGHBOURS))
GATE = gate(*(b"".join(map(chars, parts)) for parts in _NEIGHBOURS))
# A byte that begins a character in UTF-8, and one that goes on, both read as Windows-1252.
_CERTAIN = re.compile(
    "[\xc2-\xf4][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]{2}|[Ââ][\x80-\xbf€]|Ã[\x80-\xbf]"
)
_EXCERPT = 40


def mojibake(text: str) -> Iterator[Hit]:
    """Words in a wrong encoding, by ftfy's measure, and lost characters (U+FFFD)."""
    if text.isascii() or not _HINT.search(text):
        return
    lost = text.find("\ufffd")
    if lost >= 0:
        yield Hit("a character was lost (U+FFFD) in an earlier conversion", None, lost, lost + 1)
        return
    for start, end in _bad_words(text):
        word = text[start:end][:_EXCERPT]
        mended = _mended(word)
        if mended != word:
            yield Hit(
                f"{word!r} is text in a wrong encoding; {mended!r} is meant?", None, start, end
            )
            return
        if _CERTAIN.search(word):
            yield Hit(f"{word!r} is text in a wrong encoding", None, start, end)
            return


def unspoiled(text: str) -> str:
    """The text with the characters that were meant."""
    return _mended(text) if not text.isascii() and _HINT.search(text) else text


def _mended(text: str) -> str:
    from ftfy import fix_encoding

    return fix_encoding(text)


def _bad_words(text: str) -> Iterator[tuple[int, int]]:
    from ftfy.badness import BADNESS_RE

    for hit in BADNESS_RE.finditer(text):
        start, end = hit.span()
        lead = text[start - 1 : start]
        # A lone C1 character is the business of control-characters.
        if not any(char > "\x9f" for char in hit[0]) and not "\xc2" <= lead <= "\xf4":
            continue
        start = max(0, start - 1)
        while start > 0 and not text[start - 1].isspace():
            start -= 1
        while end < len(text) and not text[end].isspace():
            end += 1
        yield start, end
