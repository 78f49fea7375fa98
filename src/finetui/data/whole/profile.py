"""One pass over a file for all checks of sets: lengths, short values of answers, pairs, and a
sample of texts.

Arrays have one entry a readable row, in order; ``rows`` gives the row numbers. A million rows take
about 40 MB, and 16 MB more for each column of short values.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetui.data.checks.answers import fenced, json_answer
from finetui.data.keys import normal_hash, normalise
from finetui.data.records import Record, Shape, Turn
from finetui.data.whole.draw import Draw
from finetui.data.whole.model import WholeSet
from finetui.data.whole.said import Said, said

SAMPLE = 20_000
"""Rows whose texts are kept; of a longer file as many are drawn."""

Ints = NDArray[np.int32]
Rows = NDArray[np.int64]

_TEXT = 2_000  # characters kept of a sampled text
_COLUMNS = 12
_VALUES = 1_000  # different values after which a column holds no labels
_LONGEST = 60
_TRIAL = 200  # rows after which a column's values are no longer looked for in the prompts
_SHORTEST_HELD = 3
_TELL_EVERY = 10_000


class Sample(NamedTuple):
    """The texts of one row, cut at 2,000 characters."""

    row: int
    prompt: str
    answer: str


@dataclass(frozen=True)
class Column:
    """A short value that many answers have: the whole answer (``name`` is empty), a field of JSON
    answers, or the verdict of unpaired preferences.

    ``codes`` are places in ``values``, -1 for none; ``values`` is empty when there were too many
    different ones. ``held`` says whether the prompt holds the value: 1, 0, or -1 where that was
    not looked for.
    """

    name: str
    values: list[str]
    codes: Ints
    held: NDArray[np.int8]

    @property
    def counts(self) -> Rows:
        """How often each value occurs."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.values))

    def __str__(self) -> str:
        return f'field "{self.name}"' if self.name else "the answer"


@dataclass(frozen=True)
class Pairs:
    """Preference pairs: lengths in characters, and hashes of normalised texts (0: blank)."""

    chosen_chars: Ints
    rejected_chars: Ints
    prompt: NDArray[np.uint64]
    chosen: NDArray[np.uint64]
    rejected: NDArray[np.uint64]


@dataclass(frozen=True)
class Profile:
    """What one file looks like; see the module."""

    shape: Shape
    rows: Rows
    prompt_chars: Ints
    answer_chars: Ints
    columns: list[Column]
    sample: list[Sample]
    pairs: Pairs | None
    tool_calls: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def sampled(self) -> bool:
        """True when ``sample`` is not every row."""
        return len(self.sample) < len(self.rows)

    @property
    def about(self) -> str:
        """``≈`` before figures that come from the sample only."""
        return "≈" if self.sampled else ""


def profile_of(whole: WholeSet, source: int = -1) -> Profile:
    """The profile of a source, made once a `WholeSet`."""
    number = source % len(whole.sources)
    known: dict[int, Profile] = whole.memo.setdefault("profile", {})
    if number not in known:
        known[number] = _gather(whole, number)
    return known[number]


def label_columns(profile: Profile) -> list[Column]:
    """The columns whose values are labels: few, short, and each of them common."""
    return [column for column in profile.columns if _is_label(column, len(profile))]


_FEWEST_LABELLED = 100
_MOST_LABELS = 200
_COVERED = 0.9


def _is_label(column: Column, rows: int) -> bool:
    """At least 100 rows; at most one value to ten rows; nine rows in ten have a value, and 19 in
    20 of those one that occurs five times."""
    if not column.values or rows < _FEWEST_LABELLED:
        return False
    counts = column.counts
    total = int(counts.sum())
    common = counts[counts >= 5]
    return bool(
        len(counts) >= 2
        and 2 <= len(common) <= min(_MOST_LABELS, rows / 10)
        and total >= _COVERED * rows
        and common.sum() >= 0.95 * total
    )


def _gather(whole: WholeSet, source: int) -> Profile:
    gatherer = _Gatherer(whole.shapes[source])
    expected = whole.sources[source].estimated_rows
    for one in said(whole.sources[source], whole.shapes[source], whole.stop):
        gatherer.see(one)
        if len(gatherer.rows) % _TELL_EVERY == 0:
            whole.progress(len(gatherer.rows), expected)
    return gatherer.profile()


@dataclass
class _Gatherer:
    """What `Profile` is made from, row by row."""

    shape: Shape
    rows: array[int] = field(default_factory=lambda: array("q"))
    prompts: array[int] = field(default_factory=lambda: array("i"))
    answers: array[int] = field(default_factory=lambda: array("i"))
    tool_calls: int = 0

    def __post_init__(self) -> None:
        self._columns: dict[str, _Column] = {}
        self._drawn = Draw[Sample](SAMPLE)
        self._pairs = _PairColumns() if self.shape is Shape.PREFERENCE else None

    def see(self, one: Said) -> None:
        row, prompt, answer, record = one
        number = len(self.rows)
        self.rows.append(row)
        self.prompts.append(len(prompt))
        self.answers.append(len(answer))
        self._drawn.offer(row, Sample(row, prompt[:_TEXT], answer[:_TEXT]))
        if record is not None:
            self._note_record(number, prompt, record)
        if self._pairs is None and self.shape is not Shape.TEXT:
            self._note_values(number, prompt, answer)

    def _note_record(self, number: int, prompt: str, record: Record) -> None:
        self.tool_calls += any(turn.tool_calls for turn in record.turns)
        if self._pairs is not None:
            self._pairs.see(prompt, record)
        if record.label is not None:
            self._column("label", verdict=True).add(number, str(record.label).lower())

    def _note_values(self, number: int, prompt: str, answer: str) -> None:
        value = json_answer(fenced(answer))
        if isinstance(value, dict):
            self._note_fields(number, prompt, value)
        elif len(answer) <= _LONGEST and answer.strip() and "\n" not in answer.strip():
            self._column("").add(number, answer.strip())
        else:
            self._column("").refuse()

    def _note_fields(self, number: int, prompt: str, value: dict[str, Any]) -> None:
        normal: str | None = None
        for name, part in value.items():
            if not isinstance(part, str | int | float | bool):
                continue
            column = self._column(name)
            text = part if isinstance(part, str) else str(part).lower()
            held = -1
            if column.looks and isinstance(part, str) and len(part) >= _SHORTEST_HELD:
                normal = normalise(prompt) if normal is None else normal
                held = int(normalise(part) in normal) if normal else -1
            column.add(number, text, held)

    def _column(self, name: str, verdict: bool = False) -> _Column:
        key = f"\0{name}" if verdict else name
        if key not in self._columns:
            spare = len(self._columns) < _COLUMNS or verdict
            self._columns[key] = _Column(name) if spare else _Column(name, refused=_VALUES)
        return self._columns[key]

    def profile(self) -> Profile:
        total = len(self.rows)
        columns = [column.column(total) for column in self._columns.values()]
        return Profile(
            self.shape,
            np.array(self.rows, np.int64),
            np.array(self.prompts, np.int32),
            np.array(self.answers, np.int32),
            [column for column in columns if (column.codes >= 0).any() or column.held.any()],
            self._drawn.in_file_order(),
            self._pairs.pairs() if self._pairs else None,
            self.tool_calls,
        )


@dataclass
class _Column:
    """A column while it grows. It gives up its values once there are too many of them, and looks
    for them in the prompts only as long as most are found there."""

    name: str
    refused: int = 0
    looks: bool = True
    _table: dict[str, int] = field(default_factory=dict)
    _codes: array[int] = field(default_factory=lambda: array("i"))
    _held: array[int] = field(default_factory=lambda: array("b"))
    _asked: int = 0
    _found: int = 0

    def refuse(self) -> None:
        """A value that is too long for a label."""
        self.refused += 1

    def add(self, number: int, value: str, held: int = -1) -> None:
        if held >= 0:
            self._note_held(number, held)
        if len(value) > _LONGEST or self.refused > _VALUES:
            self.refused += 1
            return
        code = self._table.setdefault(value, len(self._table))
        if code >= _VALUES:
            self.refused = _VALUES + 1
            self._table, self._codes = {}, array("i")
            return
        _pad(self._codes, number)
        self._codes.append(code)

    def _note_held(self, number: int, held: int) -> None:
        self._asked, self._found = self._asked + 1, self._found + held
        if self._asked >= _TRIAL and 2 * self._found < self._asked:
            self.looks, self._held = False, array("b")
            return
        _pad(self._held, number)
        self._held.append(held)

    def column(self, total: int) -> Column:
        values = [] if self.refused > _VALUES else list(self._table)
        codes = np.full(total, -1, np.int32)
        if values:
            codes[: len(self._codes)] = np.array(self._codes, np.int32)
        held = np.full(total, -1, np.int8)
        held[: len(self._held)] = np.array(self._held, np.int8)
        return Column(self.name, values, codes, held)


def _pad(numbers: array[int], length: int) -> None:
    """Rows that were passed over have no value."""
    if length > len(numbers):
        numbers.extend([-1] * (length - len(numbers)))


class _PairColumns:
    """Preference pairs while they are read."""

    def __init__(self) -> None:
        self._chars = (array("i"), array("i"))
        self._hashes = (array("Q"), array("Q"), array("Q"))

    def see(self, prompt: str, record: Record) -> None:
        sides = [_side(record.chosen), _side(record.rejected)]
        for chars, text in zip(self._chars, sides, strict=True):
            chars.append(len(text))
        for hashes, text in zip(self._hashes, (prompt, *sides), strict=True):
            hashes.append(normal_hash(text))

    def pairs(self) -> Pairs:
        chars = [np.array(part, np.int32) for part in self._chars]
        hashes = [np.array(part, np.uint64) for part in self._hashes]
        return Pairs(chars[0], chars[1], hashes[0], hashes[1], hashes[2])


def _side(turns: list[Turn] | None) -> str:
    return "\x1e".join(turn.content for turn in turns or ())
