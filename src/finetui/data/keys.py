"""What makes two records the same: normalised texts, their hashes, and a small table of them.

Only hashes are kept, never texts: a million rows cost 20 to 30 MB a table instead of a gigabyte.
"""

from __future__ import annotations

import unicodedata
from array import array

import msgspec
import xxhash

from finetui.data.checks.answers import json_answer
from finetui.data.records import Record, Shape, Turn, last_answer

_ENCODER = msgspec.json.Encoder(order="sorted")
_FREE = 0


def normalise(text: str) -> str:
    """Case, width and spacing folded: what a person would call the same text."""
    if text.isascii():
        return " ".join(text.lower().split())
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def prompt_turns(record: Record) -> list[Turn]:
    """The turns before the answer; all of them for a preference pair."""
    if record.chosen is not None:
        return record.turns
    last = last_answer(record.turns)
    return record.turns if last < 0 else record.turns[:last]


def prompt_text(record: Record) -> str:
    """What was asked, without the system prompt (rows share those); a plain text is itself.

    Turns are joined by U+001E, which no normalised text holds.
    """
    if record.shape is Shape.TEXT:
        return record.turns[0].content if record.turns else ""
    return "\x1e".join(turn.content for turn in prompt_turns(record) if turn.role != "system")


def answer_text(record: Record) -> str:
    """The last assistant turn, of the chosen side for a preference pair."""
    turns = record.turns if record.chosen is None else record.chosen
    last = last_answer(turns)
    return turns[last].content if last >= 0 else ""


def value_at(value: object, path: str, record: Record | None = None) -> object:
    """The value at a dotted path of a row, numbers for places in a list; None where there is none.

    ``answer`` is the last answer's text, ``answer.NAME`` a field of an answer that is JSON.
    """
    name, _, rest = path.partition(".")
    own = value.get(name) if isinstance(value, dict) else None
    if name == "answer" and record is not None and not isinstance(own, dict | list):
        text = answer_text(record).strip()
        return value_at(json_answer(text), rest) if rest else text
    for part in path.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def text_hash(text: str) -> int:
    """64 bits; 0 is never returned (it marks a free place in `HashTable`)."""
    return xxhash.xxh3_64_intdigest(text.encode(errors="surrogatepass")) or 1


def normal_hash(text: str) -> int:
    """The hash of the normalised text; 0 when nothing but blanks is left."""
    normal = "\x1e".join(normalise(part) for part in text.split("\x1e"))
    return text_hash(normal) if normal.strip("\x1e") else 0


def value_hash(value: object) -> int:
    """The hash of a JSON value, whatever its spacing and key order."""
    return xxhash.xxh3_64_intdigest(_ENCODER.encode(value)) or 1


def content_hash(record: Record) -> int:
    """The hash of what is trained on: turns, sides, label and tools; not ids or metadata."""
    turns = [
        (turn.role, turn.parts or turn.content, turn.tool_calls) for turn in record.all_turns()
    ]
    sides = len(record.turns), len(record.chosen or ())
    return value_hash((turns, sides, record.label, record.extra.get("tools")))


class HashTable:
    """64-bit hash to a row number, 12 bytes a place; the first row of a hash stays."""

    def __init__(self, expected: int = 0) -> None:
        self._resize(max(1024, 1 << (2 * expected).bit_length()))

    def __len__(self) -> int:
        return self._used

    def first(self, key: int, row: int) -> int:
        """Enter ``row`` under ``key`` unless there is one; the row that stands there."""
        place = self._place(key)
        if self._keys[place] == key:
            return self._rows[place]
        if 3 * self._used >= 2 * self._size:
            self._grow()
            place = self._place(key)
        self._keys[place], self._rows[place] = key, row
        self._used += 1
        return row

    def get(self, key: int) -> int:
        """The row under ``key``, or -1."""
        place = self._place(key)
        return self._rows[place] if self._keys[place] == key else -1

    def _place(self, key: int) -> int:
        keys, mask = self._keys, self._size - 1
        place = key & mask
        while keys[place] not in (_FREE, key):
            place = (place + 1) & mask
        return place

    def _resize(self, size: int) -> None:
        self._size, self._used = size, 0
        self._keys = array("Q", bytes(8 * size))
        self._rows = array("I", bytes(4 * size))

    def _grow(self) -> None:
        keys, rows = self._keys, self._rows
        self._resize(2 * self._size)
        for key, row in zip(keys, rows, strict=True):
            if key != _FREE:
                self.first(key, row)
