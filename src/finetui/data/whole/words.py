"""The words of many texts as hashes (44 bits, on top of 64), over whole blocks with numpy.

A word is a run of letters and digits, case folded, every number the same. Scripts that write no
spaces (Han, Kana, Thai, ...) give pairs of neighbouring characters instead, so that a Chinese
sentence is not one word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]
Codes: TypeAlias = NDArray[Any]

_OTHER, _WORD, _UNSPACED, _DIGIT = range(4)
_BLOCK = 1 << 18
_PLANE = 1 << 16
_ZERO = ord("0")
_SPARE_BITS, _HASH_BITS = np.uint64(20), np.uint64(44)
_SPARE = 1 << 20  # texts that fit into the bits that a hash leaves free
_PRIME = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2**64
_INVERSE = pow(_PRIME, -1, 1 << 64)
# Scripts without spaces between words: Thai, Lao, Tibetan, Myanmar, Khmer, Kana, Bopomofo, Han.
_NO_SPACES = (
    (0x0E00, 0x0EFF), (0x0F00, 0x109F), (0x1780, 0x17FF), (0x3040, 0x312F), (0x31F0, 0x31FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F),
)  # fmt: skip
_HAN_BEYOND = (0x20000, 0x32000)


@dataclass(frozen=True)
class Words:
    """Hashes of all words of some texts, one behind the other; text i has
    ``hashes[starts[i]:starts[i + 1]]``."""

    hashes: Hashes
    starts: Places

    def __len__(self) -> int:
        return len(self.starts) - 1

    def text_of(self) -> Places:
        """For each word the number of its text."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def buckets(self, bits: int) -> NDArray[np.uint32]:
        """The words as numbers below ``2 ** bits``."""
        return (self.hashes >> np.uint64(64 - bits)).astype(np.uint32)


def words_of(texts: Iterable[str]) -> Words:
    """The words of ``texts``; works in blocks of a million characters."""
    hashes: list[Hashes] = []
    counts: list[Places] = []
    for block in _blocks(texts):
        found, starts = _block_words(block)
        hashes.append(found)
        counts.append(np.diff(starts))
    lengths = np.concatenate(counts) if counts else np.zeros(0, np.int64)
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return Words(np.concatenate(hashes) if hashes else np.zeros(0, np.uint64), starts)


def once_a_text(words: Words) -> Words:
    """Every word once a text, in no order."""
    if not len(words.hashes):
        return words
    text = words.text_of()
    if len(words) <= _SPARE:  # text and hash in one number: one fast sort
        packed = np.sort((words.hashes >> _SPARE_BITS) | text.astype(np.uint64) << _HASH_BITS)
        fresh = np.concatenate(([True], packed[1:] != packed[:-1]))
        packed = packed[fresh]
        hashes, text = packed << _SPARE_BITS, (packed >> _HASH_BITS).astype(np.int64)
    else:
        order = np.lexsort((words.hashes, text))
        hashes, text = words.hashes[order], text[order]
        fresh = np.ones(len(hashes), bool)
        fresh[1:] = (hashes[1:] != hashes[:-1]) | (text[1:] != text[:-1])
        hashes, text = hashes[fresh], text[fresh]
    starts = np.zeros(len(words) + 1, np.int64)
    np.cumsum(np.bincount(text, minlength=len(words)), out=starts[1:])
    return Words(hashes, starts)


def take(words: Words, chosen: NDArray[np.int64]) -> Words:
    """The words of the chosen texts, in that order."""
    lengths = np.diff(words.starts)[chosen]
    starts = np.zeros(len(chosen) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    shift = np.repeat(words.starts[chosen] - starts[:-1], lengths)
    return Words(words.hashes[np.arange(starts[-1]) + shift], starts)


def spell(texts: Iterable[str], hashes: Hashes) -> dict[int, str]:
    """The words behind ``hashes`` as they first stand in ``texts``, in the order of ``hashes``."""
    missing, found = np.unique(hashes), dict[int, str]()
    for block in _blocks(texts):
        if not len(missing):
            break
        joined = _joined(block)
        here, begins, ends = _located(joined)
        known, first = np.unique(here, return_index=True)
        for place in first[np.isin(known, missing)]:
            found[int(here[place])] = joined[begins[place] : ends[place]]
        missing = missing[~np.isin(missing, known)]
    return {int(one): found[int(one)] for one in hashes if int(one) in found}


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    block: list[str] = []
    size = 0
    for text in texts:
        if block and size + len(text) > _BLOCK:
            yield block
            block, size = [], 0
        block.append(text)
        size += len(text) + 1
    if block:
        yield block


def _joined(texts: Sequence[str]) -> str:
    return "\n".join(text.lower() for text in texts)


def _block_words(texts: Sequence[str]) -> tuple[Hashes, Places]:
    """Hashes and starts of one block. A text over the block's size makes a block of its own."""
    lowered = [text.lower() for text in texts]
    hashes, begins, _ = _located("\n".join(lowered))
    edges = np.cumsum([0, *(len(text) + 1 for text in lowered)])
    return hashes, np.searchsorted(begins, edges).astype(np.int64)


def _located(joined: str) -> tuple[Hashes, Places, Places]:
    """The hashes of a text's words with the characters where they begin and end, in order."""
    if joined.isascii():
        return _located_ascii(joined.encode("ascii"))
    codes, kinds = _classed(_codes(joined))
    begins, ends = _runs(kinds == _WORD)
    hashes = _run_hashes(codes, begins, ends)
    pairs, places, stops = _pairs(codes, kinds == _UNSPACED)
    begins, ends = np.concatenate((begins, places)), np.concatenate((ends, stops))
    order = np.argsort(begins, kind="stable")
    return np.concatenate((hashes, pairs))[order], begins[order], ends[order]


def _located_ascii(text: bytes) -> tuple[Hashes, Places, Places]:
    """The same for ASCII, by way of two byte tables: four times as fast."""
    words, folded = _ascii_tables()
    inside = np.frombuffer(text.translate(words), np.bool_)
    codes = np.frombuffer(text.translate(folded), np.uint8)
    inner = np.zeros(len(codes), bool)
    np.logical_and(codes[1:] == _ZERO, codes[:-1] == _ZERO, out=inner[1:])
    if inner.any():
        codes = np.where(inner, np.uint8(0), codes)
    begins, ends = _runs(inside)
    return _run_hashes(codes, begins, ends), begins, ends


@lru_cache(maxsize=1)
def _ascii_tables() -> tuple[bytes, bytes]:
    """Whether a character belongs to words, and what it counts as: any digit is the digit 0."""
    words = bytes(code < 128 and chr(code).isalnum() for code in range(256))
    folded = bytes(_ZERO if 48 <= code <= 57 else code for code in range(256))
    return words, folded


def _codes(text: str) -> Codes:
    """The characters as numbers; two bytes each where that is enough."""
    narrow = text.encode("utf-16-le", "surrogatepass")
    if len(narrow) == 2 * len(text):
        return np.frombuffer(narrow, np.uint16)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _classed(codes: Codes) -> tuple[Codes, NDArray[np.uint8]]:
    """Characters and the kind of each; the first digit of a number counts, for any digit."""
    wide = codes.dtype == np.uint32
    marks = _table()[np.minimum(codes, _PLANE - 1) if wide else codes]
    digit = marks == _DIGIT
    kinds = np.minimum(marks, _UNSPACED)
    kinds[digit] = _WORD
    if wide:
        han = (codes >= _HAN_BEYOND[0]) & (codes < _HAN_BEYOND[1])
        kinds[codes >= _PLANE] = _OTHER
        kinds[han] = _UNSPACED
    codes = codes.copy()
    codes[digit] = _ZERO
    codes[1:][digit[1:] & digit[:-1]] = 0
    return codes, kinds


@lru_cache(maxsize=1)
def _table() -> NDArray[np.uint8]:
    """The kind of each character of the first plane, digits marked as such."""
    kinds = np.array([chr(code).isalnum() for code in range(_PLANE)], np.uint8)
    kinds[0x0300:0x0370] = _WORD  # accents that are written apart
    for first, last in _NO_SPACES:
        kinds[first : last + 1] = np.where(kinds[first : last + 1] > 0, _UNSPACED, _OTHER)
    kinds[[chr(code).isdigit() for code in range(_PLANE)]] = _DIGIT
    kinds[_PLANE - 1] = _OTHER
    return kinds


def _runs(inside: NDArray[np.bool_]) -> tuple[Places, Places]:
    edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
    return edges[::2], edges[1::2]


@lru_cache(maxsize=1)
def _powers(size: int) -> tuple[Hashes, Hashes]:
    up, down = np.full(size, _PRIME, np.uint64), np.full(size, _INVERSE, np.uint64)
    up[0] = down[0] = 1
    return np.cumprod(up), np.cumprod(down)


def _run_hashes(codes: Codes, begins: Places, ends: Places) -> Hashes:
    """A polynomial of each run, from one running sum over the block (all modulo 2**64)."""
    size = max(_BLOCK, 1 << len(codes).bit_length())
    up, down = _powers(size)
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(codes.astype(np.uint64) * up[: len(codes)], out=sums[1:])
    return _mixed((sums[ends] - sums[begins]) * down[begins])


def _pairs(codes: Codes, inside: NDArray[np.bool_]) -> tuple[Hashes, Places, Places]:
    """Neighbouring characters of unspaced scripts; one that stands alone is a word itself."""
    after = np.append(inside[1:], False)
    before = np.insert(inside[:-1], 0, False)
    first = np.flatnonzero(inside & (after | ~before))
    two = after[first]
    second = np.where(two, np.append(codes, 0)[first + 1], 0).astype(np.uint64)
    hashes = _mixed(codes[first].astype(np.uint64) * np.uint64(_PRIME) + second)
    return hashes, first, first + 1 + two


def _mixed(hashes: Hashes) -> Hashes:
    """splitmix64's last step: every bit depends on all; the lowest 20 are left free."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((hashes ^ (hashes >> np.uint64(31))) >> _SPARE_BITS) << _SPARE_BITS
