"""What a row asks, as a hash: the same letters are the same question, in a split and at the gate.

Case, width and all blanks are ignored (in Chinese and Japanese they say nothing), and so is the
system prompt, which whole data sets share. A conversation of several exchanges also has openings:
what was asked before each of its earlier answers.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, compress
from typing import Literal, NamedTuple, Protocol

import msgspec
import xxhash

from finetui.data.blocks import Block, blocks
from finetui.data.dataset import DataSet
from finetui.data.keys import content_hash, value_hash
from finetui.data.records import Record, Shape, read_record
from finetui.data.strict import JsonFault, decode
from finetui.errors import BROKEN

OPENING = 48
"""Bytes of letters that an opening must have to tell anything: "hello" opens many conversations."""

_BLANKS = b" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"
_LOWER = bytes(range(256)).lower()
_hash = xxhash.xxh3_64_intdigest


@dataclass(slots=True)
class Asked:
    """Questions of some rows, in order: the rows, the hash of what each asks (never 0), the hash
    of its bytes in the source, and (place in these lists, hash) of every opening."""

    rows: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    openings: list[tuple[int, int]] = field(default_factory=list)

    def add(self, row: int, key: int, mark: int, openings: Iterable[int] = ()) -> None:
        self.openings += [(len(self.rows), opening) for opening in openings]
        self.rows.append(row)
        self.keys.append(key)
        self.marks.append(mark)


class Read(NamedTuple):
    """One row read in full: its value, and the record (None where it has no shape)."""

    row: int
    mark: int
    value: object
    record: Record | None


class _Said(Protocol):
    @property
    def role(self) -> str: ...
    @property
    def content(self) -> str: ...


class _Turn(msgspec.Struct, gc=False):
    role: Literal["user", "assistant", "system", "tool"]
    content: str


class _Chat(msgspec.Struct, gc=False):
    messages: list[_Turn]


_read_chat = msgspec.json.Decoder(_Chat).decode


def letters(text: str) -> bytes:
    """A text without blanks, case and width, in UTF-8."""
    if text.isascii():
        return text.encode().translate(_LOWER, _BLANKS)
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(folded.split()).encode(errors="surrogatepass")


def question(record: Record) -> tuple[int, Sequence[int]]:
    """(key, openings) of a record; the key is never 0.

    A record that asks nothing (an answer alone) is told by its content.
    """
    if record.shape is Shape.TEXT:
        text = letters(record.turns[0].content) if record.turns else b""
        return (_hash(text) if text else 0) or content_hash(record), ()
    key, openings = _of_turns(record.turns, record.chosen is not None)
    return key or content_hash(record), openings


def asked(dataset: DataSet) -> Iterator[Asked]:
    """The questions of the rows that are kept and are one JSON value, in order, block by block."""
    plain = dataset.shape is Shape.CHAT
    for block in blocks(dataset):
        if plain and block.lines and not block.changed:
            yield _of_chats(dataset, block)
        else:
            found = Asked()
            for read in _in_full(dataset, block):
                found.add(read.row, *_of_row(read))
            yield found


def asked_in_full(dataset: DataSet) -> Iterator[Read]:
    """Every row that `asked` tells of, read in full."""
    for block in blocks(dataset):
        yield from _in_full(dataset, block)


def question_of(read: Read) -> tuple[int, Sequence[int]]:
    """(key, openings) of a row; one without a shape is told by its value."""
    return question(read.record) if read.record else (value_hash(read.value), ())


def _of_row(read: Read) -> tuple[int, int, Sequence[int]]:
    key, openings = question_of(read)
    return key, read.mark, openings


def _in_full(dataset: DataSet, block: Block) -> Iterator[Read]:
    for place in range(block.count):
        found = _one(dataset, block, place)
        if found:
            yield found


def _one(dataset: DataSet, block: Block, place: int) -> Read | None:
    """A row read in full; None when it is left out, blank or malformed."""
    state, raw = block.changed.get(place), block.rows[place]
    if state is not None and not state.kept:
        return None
    try:
        if state is None or state.text is None:
            value = dataset.source.decode(raw)
        else:
            value = decode(state.text.encode())
    except JsonFault:
        return None
    return Read(block.first + place, _hash(raw), value, read_record(value, dataset.shape)[0])


def _of_chats(dataset: DataSet, block: Block) -> Asked:
    """The questions of a block of unedited chats, most of which are a question and an answer."""
    found = Asked(list(range(block.first, block.first + block.count)))
    found.marks = list(map(_hash, block.rows))
    keys, unread = found.keys, []
    for place, row in enumerate(block.rows):
        try:
            turns = _read_chat(row).messages
            if not row.isascii():
                row.decode()  # parts of a row that are not read are not looked at either
        except BROKEN:
            turns = []
        if len(turns) == 3 and turns[0].role == "system" and _is_exchange(turns):
            said = letters(turns[1].content)
            key = _hash(said) if said else 0
        else:
            key, openings = _of_turns(turns)
            if openings:
                found.openings += [(place, opening) for opening in openings]
        keys.append(key)
        if not key:
            unread.append(place)
    if unread:
        _read_the_rest(dataset, block, found, unread)
    return found


def _is_exchange(turns: Sequence[_Turn]) -> bool:
    return turns[1].role == "user" and turns[2].role == "assistant"


def _read_the_rest(dataset: DataSet, block: Block, found: Asked, unread: Sequence[int]) -> None:
    """Read the rows at ``unread`` in full, and take out those that cannot be read at all."""
    for place in unread:
        read = _one(dataset, block, place)
        if read:
            found.keys[place], openings = question_of(read)
            found.openings += [(place, opening) for opening in openings]
    kept = [bool(key) for key in found.keys]
    if all(kept):
        return
    moved = [0, *accumulate(kept)]
    found.openings = [(moved[place], opening) for place, opening in found.openings]
    for table in (found.rows, found.marks, found.keys):
        table[:] = compress(table, kept)


def _of_turns(turns: Sequence[_Said], whole: bool = False) -> tuple[int, Sequence[int]]:
    """Key and openings of a conversation; key 0 when it asks nothing.

    ``whole``: every turn is part of the question (a preference pair keeps its answers apart).
    """
    end = len(turns) if whole else _last_answer(turns)
    said: list[bytes] = []
    openings: list[int] = []
    size = 0
    for turn in turns[:end]:
        role = turn.role
        if role == "system":
            continue
        if size >= OPENING and role == "assistant":
            openings.append(_hash(b"\x1e".join(said)))
        part = letters(turn.content)
        size += len(part)
        said.append(part)
    return (_hash(b"\x1e".join(said)) if size else 0), openings


def _last_answer(turns: Sequence[_Said]) -> int:
    """The place of the last answer, or the number of turns when there is none."""
    place = len(turns)
    while place:
        place -= 1
        if turns[place].role == "assistant":
            return place
    return len(turns)
