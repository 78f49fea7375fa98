"""Texts as sets of hashed windows: what near-duplicates and leaks are found and proven with.

A window begins at a word and is ``width`` letters wide, whatever the words are; in a script that
puts no spaces between words (Chinese, Japanese, Thai) one begins at every character, and such a
character counts for three letters. So one changed word costs about as many windows in any script.
The last window of a text ends with it, and may be shorter. Case, width, punctuation and spacing
are folded first, but signs of arithmetic stay: "3 + 4" is not "3 - 4". Everything runs over a
megabyte at a time.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
Bytes = NDArray[np.uint8]
_Spans = Callable[[Bytes, I64, int], tuple[I64, I64]]

WIDTH = 16  # letters: about three English words
BATCH = 1 << 20  # bytes of text that are cut at once; small enough for the cache
MOST = 1 << 16  # texts in a batch, so that a place in it fits 16 bits

_PAD = 128  # zeros after a batch, so that any window may be read in whole words of 8 bytes
_SPACE, _END = 32, 10
_KEPT = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyz+-/=<>%^$#&@") | frozenset(range(128, 256))
_TABLE = bytes(
    code + 32 if 65 <= code <= 90 else code if code in _KEPT else _SPACE for code in range(256)
)
# Quotes, dashes, ideographic full stops: what NFKC leaves of punctuation outside ASCII.
_MARKS = re.compile(
    "[\u00a1\u00a7\u00ab\u00b6\u00b7\u00bb\u00bf\u2000-\u206f\u2e00-\u2e7f\u3000-\u3004"
    "\u3008-\u301f\u30fb\ufe10-\ufe6f]+"
)
# Between Han characters or kana a space says no more than a comma does.
_HAN = re.compile(rb"[\xe3-\xe9]")
_BESIDE = re.compile(rb"(?<=[\xe3-\xe9][\x80-\xbf]{2}) +| +(?=[\xe3-\xe9])")


class Batch(NamedTuple):
    """Windows of some texts, by text and place: ``hashes[starts[k]:starts[k + 1]]`` are those of
    text ``numbers[k]``; a text may have none."""

    numbers: I64
    starts: I64
    hashes: U64


def fold(text: str) -> bytes:
    """The text as lower-case words and spaces in UTF-8; no byte of it is a newline."""
    if text.isascii():
        return text.encode().translate(_TABLE)
    marked = _MARKS.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    folded = marked.encode(errors="surrogatepass").translate(_TABLE)
    return _BESIDE.sub(b"", folded) if _HAN.search(folded) else folded


def cut(texts: Iterable[tuple[int, str]], width: int = WIDTH) -> Iterator[Batch]:
    """Cut numbered texts into windows, in batches; see `Cutter`."""
    cutter = Cutter(width)
    for number, text in texts:
        batch = cutter.add(number, text)
        if batch is not None:
            yield batch
    yield from cutter.rest()


class Cutter:
    """Texts that wait until there are enough for a batch.

    Texts of ASCII letters come in other batches than the rest, which takes longer to cut; the
    order is kept in each kind only.
    """

    def __init__(self, width: int = WIDTH) -> None:
        self._plain, self._wide = _Waiting(width, _plain_spans), _Waiting(width, _wide_spans)

    def add(self, number: int, text: str) -> Batch | None:
        """Take in a text; a batch when there are enough of its kind."""
        folded = fold(text)
        return (self._plain if folded.isascii() else self._wide).add(number, folded)

    def rest(self) -> Iterator[Batch]:
        """The batches that are left at the end."""
        for waiting in (self._plain, self._wide):
            if waiting.numbers:
                yield waiting.cut()


class _Waiting:
    """Folded texts that are not yet enough for a batch."""

    def __init__(self, width: int, spans: _Spans) -> None:
        self.numbers: list[int] = []
        self._texts: list[bytes] = []
        self._size = 0
        self._width, self._spans = width, spans

    def add(self, number: int, folded: bytes) -> Batch | None:
        self.numbers.append(number)
        self._texts.append(folded)
        self._size += len(folded)
        return self.cut() if self._size >= BATCH or len(self.numbers) >= MOST else None

    def cut(self) -> Batch:
        letters, ends = _squeeze(self._texts)
        begin, end = self._spans(letters, ends, self._width)
        starts = np.zeros(len(ends) + 1, np.int64)
        starts[1:] = np.searchsorted(begin, ends)
        batch = Batch(np.array(self.numbers, np.int64), starts, _hash(letters, begin, end))
        self.numbers, self._texts, self._size = [], [], 0
        return batch


def _squeeze(texts: Sequence[bytes]) -> tuple[Bytes, I64]:
    """All texts in one array, one space between words and none at an end; the end of each text.

    The array has ``_PAD`` zeros after the last end.
    """
    joined = np.frombuffer(b"\n".join((*texts, b"")), np.uint8)
    keep = np.ones(len(joined), bool)
    np.logical_or(joined[:-1] != _SPACE, joined[1:] > _SPACE, out=keep[:-1])
    kept = joined[keep]
    letters = np.zeros(len(kept) + _PAD, np.uint8)
    letters[: len(kept)] = kept
    return letters, np.flatnonzero(kept == _END)


def _words(letters: Bytes) -> NDArray[np.bool_]:
    """True where a word begins."""
    gap = letters[:-_PAD] <= _SPACE
    begins = ~gap
    begins[1:] &= gap[:-1]
    return begins


def _plain_spans(letters: Bytes, ends: I64, width: int) -> tuple[I64, I64]:
    """Begin and end of every window where each letter is one byte."""
    begin = np.flatnonzero(_words(letters))
    return _fitting(begin, begin + width, ends)


def _wide_spans(letters: Bytes, ends: I64, width: int) -> tuple[I64, I64]:
    """As `_plain_spans` for UTF-8: letters are counted, and dense scripts have no words."""
    size = len(letters) - _PAD
    chars = np.flatnonzero((letters[:size] & 0xC0) != 0x80)
    dense = _dense(letters, chars)
    weight = np.zeros(len(chars) + 1, np.int64)
    np.cumsum(np.where(dense, 3, 1), out=weight[1:])
    first = np.flatnonzero(_words(letters)[chars] | dense)
    beyond = np.searchsorted(weight, weight[first] + width)
    bounds = np.append(chars, (size, size + width))  # the last stands for: past the last text
    return _fitting(chars[first], bounds[beyond], ends)


def _fitting(begin: I64, end: I64, ends: I64) -> tuple[I64, I64]:
    """The windows that end within their text, and of the others the longest, cut at its end."""
    first = np.searchsorted(begin, ends)
    count = np.diff(first, prepend=0)
    last = np.repeat(ends, count)
    keep = end <= last
    inside = np.zeros(len(begin) + 1, np.int64)
    np.cumsum(keep, out=inside[1:])
    whole = inside[first] - inside[first - count]
    cut_off = first - count + whole
    keep[cut_off[whole < count]] = True
    return begin[keep], np.minimum(end, last)[keep]


def _dense(letters: Bytes, chars: I64) -> NDArray[np.bool_]:
    """Characters of scripts written without spaces: Han, kana, Thai, Lao, Burmese, Khmer."""
    lead, second = letters[chars], letters[chars + 1]
    dense = (lead >= 0xE3) & (lead <= 0xE9)
    dense |= (lead == 0xF0) & (second >= 0xA0)
    dense |= (lead == 0xE0) & (second >= 0xB8) & (second <= 0xBB)
    dense |= (lead == 0xE1) & ((second == 0x80) | (second == 0x81) | (second == 0x9E))
    return dense


def _hash(letters: Bytes, begin: I64, end: I64) -> U64:
    """64 bits of the bytes of each window, read as words of 8 bytes."""
    words = np.ndarray((len(letters) - 7,), "<u8", letters.data, strides=(1,))
    length = end - begin
    hashes = length.astype(np.uint64)
    for place in range(0, int(length.max(initial=0)), 8):
        part = words[place:][begin]
        short = np.flatnonzero(length < place + 8)
        left = length[short] - place
        part[short] &= _LOW_BYTES[np.maximum(left, 0)]
        over = short[left <= 0]
        kept = hashes[over]
        hashes ^= part
        _mix(hashes)
        hashes[over] = kept
    return hashes


_LOW_BYTES: U64 = np.array([(1 << 8 * count) - 1 for count in range(9)], np.uint64)
_FACTOR, _HALF = np.uint64(0xFF51AFD7ED558CCD), np.uint64(32)


def _mix(values: U64) -> None:
    """Spread every bit over all, in place (two thirds of MurmurHash3's finaliser)."""
    values *= _FACTOR
    values ^= values >> _HALF
    values *= _FACTOR
    values ^= values >> _HALF
