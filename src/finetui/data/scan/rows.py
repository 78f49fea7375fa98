"""One pass over rows: findings of the checks that judge a row alone, and what the others need.

Results are those of looking at every row with every check (`Looks`); tests compare the two.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from finetui.data.checks.look import Looks, read_example
from finetui.data.checks.model import NOT_PLAIN, Across, Check, Example, Gate, Hit
from finetui.data.formats.source import RawRow
from finetui.data.records import Shape
from finetui.data.scan.keys import Alike
from finetui.data.scan.plain import ODD_SPELLING, PlainRow, PlainRows
from finetui.data.scan.sieve import Sieve
from finetui.data.strict import JsonFault, decode

_ODD = re.compile(ODD_SPELLING)
_NONE = 0
_EVERY = -1  # the mask of all gates
_ODDLY, _EACH, _STRUCTURE, _LATE = 1, 2, 4, 8
_LOOK = ~_LATE  # what makes a plain row worth a look


class Spot(NamedTuple):
    """A finding inside one file; the file and the severity go without saying."""

    check: str
    row: int
    line: int
    offset: int
    turn: int | None
    message: str
    start: int | None = None
    end: int | None = None


def spot(check: Check, example: Example, hit: Hit) -> Spot:
    return Spot(
        check.id, example.row, example.line, example.offset, hit.turn, hit.message, hit.start,
        hit.end,
    )  # fmt: skip


class Parts(NamedTuple):
    """The checks of a run by what they need."""

    alone: list[Check]
    by_row: list[tuple[Check, Across]]
    merging: list[tuple[Check, Any]]
    alike: list[tuple[Check, Across]]
    in_order: list[tuple[Check, Across]]


def sorted_parts(checks: Sequence[Check], across: Sequence[tuple[Check, Across]]) -> Parts:
    """Sort checks by the way they can be run; those with nothing to say are left out."""
    parts = Parts([check for check in checks if check.alone], [], [], [], [])
    for check, state in across:
        if getattr(state, "silent", False):
            continue
        if getattr(state, "by_row", False):
            parts.by_row.append((check, state))
        elif getattr(state, "merges", False):
            parts.merging.append((check, state))
        elif check.alike is not None:
            parts.alike.append((check, state))
        else:
            parts.in_order.append((check, state))
    return parts


class RowScan:
    """Looks at rows one after the other; ``spots`` and ``keys`` fill as it goes.

    ``keys`` has for each way of being alike one number a row, 0 for none. ``solid`` is the last
    row that is not blank, -1 for none. ``sample`` are some raw rows of the file (of JSON).
    """

    def __init__(
        self,
        parts: Parts,
        shape: Shape,
        decode: Callable[[bytes], object],
        sample: Sequence[bytes],
    ) -> None:
        self._shape, self._decode = shape, decode
        self._checks, self._by_row = parts.alone, parts.by_row
        self._merging = [state for _, state in parts.merging]
        self._clearing: list[Any] = [state for _, state in parts.by_row]
        self._alike = alike_of(parts)
        structure = [check for check in parts.alone if check.gate is NOT_PLAIN]
        plain = PlainRows(shape, _decoded(sample), structure)
        self._read, late = plain.read, plain.late
        # Where most rows are so it would be no sieve; every row is then said to be late.
        ordinary = late is not None and sum(map(bool, map(late.search, sample))) < 0.1 * len(sample)
        self._gates(parts.alone, late if ordinary else None)
        self._late = 0 if ordinary else _LATE
        self._looks: dict[int, Looks] = {}
        self.renew(self._merging)

    def _gates(self, checks: Sequence[Check], late: Gate | None) -> None:
        """Bits 0 to 3: odd spelling, checks of every row, structure, a late list of messages."""
        gates: list[Gate] = [_ODD, lambda raw: True, NOT_PLAIN, late or NOT_PLAIN]
        self._bit: list[int] = []
        for check in checks:
            gate = gates[1] if check.gate is None else check.gate
            if gate not in gates:
                gates.append(gate)
            self._bit.append(1 << gates.index(gate))
        self._sieve = Sieve([_ODD, NOT_PLAIN, *gates[2:]])
        self._always = _EACH if any(bit == _EACH for bit in self._bit) else 0

    def renew(self, merging: list[Any]) -> list[Any]:
        """Begin anew, with these states for the checks that merge."""
        self.spots: list[Spot] = []
        self.keys = [array("Q") for _ in self._alike]
        self._keyed = list(zip(self.keys, self._alike, strict=True))
        self.rows, self.solid = 0, -1
        self._merging = merging
        return merging

    def block(self, row: int, base: int, block: bytes) -> int:
        """Whole lines of JSON; the first is ``row`` (0-based) and begins at byte ``base``.

        Returns how many lines they are.
        """
        sieve = self._sieve
        starts = sieve.starts(block)
        hit = next(starts, -1)
        lines = block.split(b"\n")
        if not lines[-1] and len(lines) > 1:
            del lines[-1]
        read, calls, plain = self._read, sieve.calls, self._plain
        every, by_row = self._always | self._late, bool(self._by_row)
        place = 0
        for raw in lines:
            mask = every
            if place == hit:
                mask |= sieve.patterns(raw)
                hit = next(starts, -1)
            if calls:
                mask |= sieve.asked(raw)
            found = None if mask & _ODDLY else read(raw, mask & _LATE > 0)
            if found is None:
                self._slow(self._example(row, base + place, raw), mask)
            else:
                plain(row, found)
                if mask & _LOOK or (by_row and not self._clear(row, raw, found)):
                    self._look(RawRow(row, row + 1, base + place, raw), found, mask)
            place += len(raw) + 1
            row += 1
        return len(lines)

    def row(self, raw: RawRow) -> None:
        """A row of a JSON document."""
        mask = self._always | self._late | self._sieve.mask(raw.raw)
        found = None if mask & _ODDLY else self._read(raw.raw, mask & _LATE > 0)
        if found is None:
            self._slow(read_example(raw, self._decode, self._shape), mask)
        else:
            self._plain(raw.row, found)
            if mask & _LOOK or not self._clear(raw.row, raw.raw, found):
                self._look(raw, found, mask)

    def other_row(self, raw: RawRow) -> None:
        """A row of a format that is not JSON: sieved as the JSON it would be."""
        example = read_example(raw, self._decode, self._shape)
        mask = self._always
        if example.fault is None:
            try:
                mask |= self._sieve.mask(msgspec.json.encode(example.value))
            except (TypeError, ValueError):
                mask = _EVERY
        self._slow(example, mask)

    def _example(self, row: int, offset: int, raw: bytes) -> Example:
        return read_example(RawRow(row, row + 1, offset, raw), self._decode, self._shape)

    def _plain(self, row: int, found: PlainRow) -> None:
        """What checks that compare rows need of a plain row."""
        roles, texts = found
        self.rows += 1
        self.solid = row
        if self._shape is Shape.TEXT:
            for keys, alike in self._keyed:
                keys.append(alike.text(texts[0]))
            return
        for keys, alike in self._keyed:
            keys.append(alike.plain(roles, texts))
        if self._merging:
            answer = texts[-1] if roles[-1] == "assistant" else _last_answer(found)
            for state in self._merging:
                state.answer(row, answer)

    def _clear(self, row: int, raw: bytes, found: PlainRow) -> bool:
        """Whether no check that judges rows by options can have a finding in a plain row."""
        return all(state.clears(row, raw, *found) for state in self._clearing)

    def _look(self, raw: RawRow, plain: PlainRow, mask: int) -> None:
        """A plain row that some gate lets through."""
        looks = self._looks_of(mask)
        if looks.rows or self._by_row:
            example = read_example(raw, self._decode, self._shape)
            self._find(looks, example)
            return
        example = Example(raw.row, raw.line, raw.offset, raw.raw)
        self.spots += [spot(check, example, hit) for check, hit in looks.turns(*plain)]

    def _slow(self, example: Example, mask: int) -> None:
        """A row that is looked at as a value and a record."""
        self.rows += 1
        if example.fault is None or example.fault.check != "blank-line":
            self.solid = example.row
        for keys, alike in self._keyed:
            keys.append(alike(example) or _NONE)
        for state in self._merging:
            state.see(example)
        self._find(self._looks_of(mask | _STRUCTURE), example)

    def _find(self, looks: Looks, example: Example) -> None:
        self.spots += [spot(check, example, hit) for check, hit in looks.hits(example)]
        for check, state in self._by_row:
            self.spots += [spot(check, example, hit) for hit in state.see(example)]

    def _looks_of(self, mask: int) -> Looks:
        """The checks whose gate is in the mask."""
        looks = self._looks.get(mask)
        if looks is None:
            chosen = zip(self._checks, self._bit, strict=True)
            looks = self._looks[mask] = Looks([check for check, bit in chosen if mask & bit])
        return looks


def _decoded(sample: Sequence[bytes]) -> list[object]:
    values = []
    for raw in sample:
        try:
            values.append(decode(raw))
        except JsonFault:
            continue
    return values


def alike_of(parts: Parts) -> list[Alike]:
    """The keys that rows are compared by, each once."""
    found = (check.alike for check, _ in parts.alike)
    return list(dict.fromkeys(key for key in found if isinstance(key, Alike)))


def _last_answer(plain: PlainRow) -> str:
    """The text of the last assistant turn, "" for none."""
    turns = zip(reversed(plain[0]), reversed(plain[1]), strict=True)
    return next((text for role, text in turns if role == "assistant"), "")
