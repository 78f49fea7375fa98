"""Text into words in any script, for overlap and verbatim runs."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

# Scripts written without spaces between words: each character stands alone.
_UNSPACED = (
    "CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "YI", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN",
    "HALFWIDTH KATAKANA", "JAVANESE", "BALINESE", "TAI",
)  # fmt: skip

_QUOTES = " \"'“”‘’«»"
_OUTSIDE, _IN_WORD, _ALONE, _MARK = range(4)


def words(text: str) -> list[str]:
    """Case-folded words of ``text`` (NFKC): runs of letters, digits and their marks.

    A character of a script without spaces (Chinese, Japanese, Thai, ...) is a word of its own,
    with the marks that follow it. Punctuation and white space separate and are left out.
    """
    found: list[str] = []
    joins = False
    for character in unicodedata.normalize("NFKC", text).casefold():
        kind = _kind(character)
        if kind == _OUTSIDE:
            joins = False
        elif kind == _MARK:
            if joins:
                found[-1] += character
        elif joins and kind == _IN_WORD and _kind(found[-1][0]) == _IN_WORD:
            found[-1] += character
        else:
            found.append(character)
            joins = True
    return found


def unspaced_share(text: str) -> float:
    """The share of words that are single characters of a script without spaces."""
    found = words(text)
    return sum(_kind(word[0]) == _ALONE for word in found) / len(found) if found else 0.0


def folded(text: str) -> str:
    """``text`` without what rarely matters: case, form of characters, spaces, a final stop."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.strip(_QUOTES).rstrip(_QUOTES + ".。!！")


@lru_cache(maxsize=1 << 16)
def _kind(character: str) -> int:
    category = unicodedata.category(character)
    if category[0] == "M":
        return _MARK
    if category[0] not in "LN":
        return _OUTSIDE
    return _ALONE if unicodedata.name(character, "").startswith(_UNSPACED) else _IN_WORD
