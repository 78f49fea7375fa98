"""Rows that are as most rows of their file are, decoded by type: what they say and nothing else.

A typed decode is several times cheaper than a value, a record and the checks of structure, and it
is a proof: the row has the keys, the types and the roles that the checks would look for. What the
checks make of keys and roles is asked of them once, on rows made for the purpose, not known here.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from finetui.data.checks.model import Check, Example
from finetui.data.records import (
    CHAT_KEYS,
    INSTRUCTION_ANSWERS,
    PAIR_KEYS,
    ROLES,
    TEXT_KEYS,
    Record,
    Shape,
    pair_of,
    read_record,
)
from finetui.errors import BROKEN

Read = Callable[[bytes, bool], "PlainRow | None"]
"""Reads a row; the flag says that `PlainRows.late` is in it."""
PlainRow = tuple[tuple[str, ...], list[str]]
"""The roles of a row (system, user, assistant, tool) and the texts of its turns."""

ODD_SPELLING = rb'"[ \t\r\n]+:|\\\\"'
"""Rows whose keys cannot be counted by their bytes: blanks before a colon, a backslash at an end.
`PlainRows.read` must not be given these."""

_Optional = str | None | UnsetType
_NoHistory = Annotated[list[Any], Meta(max_length=0)] | None | UnsetType
_COLUMN = ""  # stands for a system column before the roles of the turns
_NAME = re.compile(r"[^\"\\\x00-\x1f\ud800-\udfff]+")  # those that msgspec takes for a field
_NAMES = 64  # other columns and keys that are told apart
_ORDERS = 4096  # orders of roles that are remembered
_JUNK: tuple[object, ...] = (
    None, True, 7, 1.5, "x", "", [], [1], ["x"], {}, {"a": 1}, [["x", "y"]],
    [{"role": "user", "content": "x"}], [{"type": "function", "function": {"name": "f"}}],
)  # fmt: skip
# A text that begins with one of these, or with another letter, is not blank.
_SOLID = frozenset(string.ascii_letters + string.digits + string.punctuation)
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0")  # letters by name, blanks by sight


class PlainRows:
    """Reads the plain rows of one file; see `NOT_PLAIN` for what that promises.

    ``values`` are some decoded rows of the file, ``structure`` the checks that promise to find
    nothing in a plain row. ``late`` is a pattern of chat rows whose list of messages is not the
    first key, or whose colons are not followed by one blank and a text: in the others, counting
    one kind of colon shows whether a key occurs twice.
    """

    def __init__(self, shape: Shape, values: Sequence[object], structure: Sequence[Check]) -> None:
        self._shape, self._structure = shape, structure
        self._orders: dict[tuple[str, ...], tuple[str, ...] | None] = {}
        self.late: re.Pattern[bytes] | None = None
        rows = [value for value in values if isinstance(value, dict) and self._turns(value)]
        self.read: Read = self._reader(rows) or _never
        if any(not self._agrees(value) for value in rows):
            self.read = _never

    # ------------------------------------------------------------ what the slow way says

    def _turns(self, value: dict[str, Any]) -> list[tuple[str, str]] | None:
        """The turns of a row without fault or structural finding; None for others."""
        record, faults = read_record(value, self._shape)
        if record is None or faults or record.chosen is not None:
            return None
        example = Example(0, 1, 0, b"{}", value, None, record)
        if any(hit for check in self._structure if check.row for hit in check.row(example)):
            return None
        return None if _calls(record) else [(turn.role, turn.content) for turn in record.turns]

    def _agrees(self, value: dict[str, Any]) -> bool:
        """Whether a sampled row is read as the slow way reads it (if it is read at all)."""
        read = self.read(msgspec.json.encode(value), True)
        return read is None or list(zip(*read, strict=True)) == self._turns(value)

    def _harmless(self, found: Iterable[str], put: Callable[[dict[str, Any]], Any]) -> list[str]:
        """The names whose values change nothing, whatever they are; ``put`` makes a row of them."""
        plain = self._turns(put({}))
        names = [
            name
            for name in list(dict.fromkeys(found))[:_NAMES]
            if plain
            and _NAME.fullmatch(name)
            and all(self._turns(put({name: junk})) == plain for junk in _JUNK)
        ]
        together = (dict.fromkeys(names, junk) for junk in _JUNK)
        return names if all(self._turns(put(extra)) == plain for extra in together) else []

    def _order(self, said: tuple[str, ...], row: Callable[[Sequence[str]], Any]) -> Any:
        """The roles as the checks know them when they find no fault in their order."""
        turns = self._turns(row(said))
        roles = tuple(role for role, _ in turns) if turns and len(turns) == len(said) else None
        if len(self._orders) < _ORDERS:
            self._orders[said] = roles
        return roles

    # ------------------------------------------------------------ layouts

    def _reader(self, rows: Sequence[dict[str, Any]]) -> Read | None:
        if not rows:
            return None
        if self._shape in (Shape.CHAT, Shape.SHAREGPT):
            return self._chat(rows)
        if self._shape is Shape.TEXT:
            return self._columns(rows, None, _most_common(rows, TEXT_KEYS))
        if self._shape is Shape.ALPACA:
            return self._columns(rows, "instruction", _most_common(rows, INSTRUCTION_ANSWERS))
        if self._shape is Shape.PROMPT_COMPLETION:
            pairs = Counter(pair for pair in map(pair_of, rows) if pair)
            return self._columns(rows, *pairs.most_common(1)[0][0]) if pairs else None
        return None

    def _chat(self, rows: Sequence[dict[str, Any]]) -> Read | None:
        """A list of messages with a role and a text each, and perhaps a system column."""
        key = _most_common(rows, CHAT_KEYS)
        found = [message for row in rows for message in row.get(key, ()) if type(message) is dict]
        if not found:
            return None
        spoken = "role" if "role" in found[0] else "from"
        texts = "content" if "content" in found[0] else "value"

        def made(message: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
            turns = [{spoken: "user", texts: "x"}, {spoken: "assistant", texts: "x"}]
            return {key: [{**turn, **message} for turn in turns], **row}

        roles = [role for role in ROLES if self._is_role({key: [{spoken: role, texts: "x"}]})]
        if not roles:
            return None
        inner = {name for message in found for name in message} - {spoken, texts}
        outer = {name for row in rows for name in row} - {key, "system"}
        message = _struct(
            {spoken: Literal[tuple(roles)], texts: str},
            self._harmless(sorted(inner), lambda extra: made(extra, {})),
        )
        extras = self._harmless(sorted(outer), lambda extra: made({}, extra))
        messages: Any = list[message]  # type: ignore[valid-type]
        row = _struct({key: messages}, extras, {"system": _Optional})

        name = re.escape(msgspec.json.encode(key))
        self.late = re.compile(rb",[ \t\r\n]*" + name + rb'|":(?:"|[\t\r\n]|[ ][ \t\r\n])')

        def example(said: Sequence[str]) -> dict[str, Any]:
            column = {"system": "x"} if said[:1] == (_COLUMN,) else {}
            return {key: [{spoken: r, texts: "x"} for r in said if r is not _COLUMN], **column}

        return self._chat_reader(row, message, example)

    def _is_role(self, value: dict[str, Any]) -> bool:
        record, faults = read_record(value, self._shape)
        return bool(record and not faults and not _calls(record) and record.turns[0].content == "x")

    def _chat_reader(
        self, row: type[Any], message: type[Any], example: Callable[[Sequence[str]], Any]
    ) -> Read:
        decode = msgspec.json.Decoder(row).decode
        orders, outer, inner = self._orders, _extras(row), _extras(message)

        def read(raw: bytes, late: bool) -> PlainRow | None:
            try:
                value = decode(raw)
            except BROKEN:
                return None
            turns = value.f0
            said = tuple([turn.f0 for turn in turns])
            texts = [turn.f1 for turn in turns]
            if value.f1:
                said, texts = (_COLUMN, *said), [value.f1, *texts]
            roles = orders[said] if said in orders else self._order(said, example)
            if roles is None:
                return None
            more = _count(value, outer)
            if inner:
                more += sum([_count(turn, inner) for turn in turns])
            # Two texts a message, each after its key: a key that occurs twice would make it three.
            once = not late and not more and raw.count(b'": "') == 2 * len(turns)
            if not once and not _keys_are(raw, 1 + 2 * len(turns) + more):
                return None
            return (roles, texts) if _all_solid(texts) else None

        return read

    def _columns(
        self, rows: Sequence[dict[str, Any]], asked: str | None, answered: str
    ) -> Read | None:
        """Columns of texts: a question (with alpaca's input) and an answer, or one text."""
        needed = {asked: str, answered: str} if asked else {answered: str}
        fields: dict[str, Any] = {}
        if asked:
            fields = {"system": _Optional, "history": _NoHistory}
        if asked == "instruction":
            fields["input"] = _Optional
        taken = {*needed, *fields, *(name for pair in PAIR_KEYS for name in pair)}
        outer = {name for row in rows for name in row} - taken - {"system", "history", "input"}
        base = dict.fromkeys(needed, "x")
        if asked and not self._turns({**base, "system": "x"}):
            return None
        row = _struct(
            needed, self._harmless(sorted(outer), lambda extra: {**base, **extra}), fields
        )
        return self._column_reader(row, asked is not None, "input" in fields)

    def _column_reader(self, row: type[Any], pair: bool, with_input: bool) -> Read:
        decode = msgspec.json.Decoder(row).decode
        outer = _extras(row)

        def read(raw: bytes, late: bool) -> PlainRow | None:
            try:
                value = decode(raw)
            except BROKEN:
                return None
            if not _keys_are(raw, 1 + pair + _count(value, outer)):
                return None
            if not pair:
                return (("assistant",), [value.f0]) if _all_solid([value.f0]) else None
            asked = f"{value.f0}\n{value.f4}" if with_input and value.f4 else value.f0
            roles: tuple[str, ...] = ("user", "assistant")
            texts = [asked, value.f1]
            if value.f2:
                roles, texts = ("system", *roles), [value.f2, *texts]
            return (roles, texts) if _all_solid(texts) else None

        return read


def _never(raw: bytes, late: bool) -> PlainRow | None:
    return None


def _keys_are(raw: bytes, keys: int) -> bool:
    """Whether an object of so many different keys has no key twice: inside a text every quote
    stands behind a backslash, so a bare quote and a colon end a key."""
    return raw.count(b'":') - raw.count(b'\\":') == keys


def _calls(record: Record) -> bool:
    return any(turn.tool_calls for turn in record.turns)


def _most_common(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> str:
    """The key that the reader of records would take in most rows."""
    found = Counter(next((key for key in keys if key in row), keys[0]) for row in rows)
    return found.most_common(1)[0][0]


def _struct(
    needed: dict[str, Any], extras: Sequence[str], optional: dict[str, Any] | None = None
) -> type[Any]:
    """A type with fields f0, f1, … for these keys and no others; extras take any value."""
    optional = optional or {}
    names = [*needed, *optional, *extras]
    fields: list[Any] = [(f"f{k}", kind) for k, kind in enumerate(needed.values())]
    fields += [(f"f{k}", kind, UNSET) for k, kind in enumerate(optional.values(), len(fields))]
    fields += [(f"f{k}", Any, UNSET) for k in range(len(fields), len(names))]
    renamed = {f"f{k}": name for k, name in enumerate(names)}
    made = msgspec.defstruct("Row", fields, rename=renamed, forbid_unknown_fields=True, gc=False)
    made.__fixed__ = len(needed)  # type: ignore[attr-defined]
    return made


def _extras(kind: Any) -> tuple[str, ...]:
    """The fields of a type that may be missing."""
    return tuple(kind.__struct_fields__[kind.__fixed__ :])


def _count(value: Any, names: Sequence[str]) -> int:
    """How many keys stand in the optional fields of a row, in those and inside them."""
    count = 0
    for name in names:
        part = getattr(value, name)
        if part is not UNSET:
            count += 1 if type(part) in _SCALARS else 1 + _inside(part)
    return count


_SCALARS = frozenset((str, int, float, bool, type(None)))


def _inside(value: Any) -> int:
    """The keys of a JSON value, at any depth."""
    if type(value) is dict:
        return len(value) + sum(map(_inside, value.values()))
    return sum(map(_inside, value)) if type(value) is list else 0


def _all_solid(texts: Sequence[str]) -> bool:
    """Whether no text could be blank, judged by its first character."""
    for text in texts:
        first = text[:1]
        if first not in _SOLID and (not first.isalpha() or first in _FILLERS):
            return False
    return True
