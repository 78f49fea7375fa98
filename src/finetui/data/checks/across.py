"""Checks that compare rows with each other or with another file, and what they all are called."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import xxhash

from finetui.data.checks.answers import json_answer
from finetui.data.checks.gates import gate
from finetui.data.checks.model import Across, Check, Example, Hit
from finetui.data.checks.output_shape import OutputShape
from finetui.data.checks.window import EndNotTrained, NothingTrained, TooLong
from finetui.data.formats.source import Source
from finetui.data.keys import (
    HashTable,
    answer_text,
    content_hash,
    normal_hash,
    normalise,
    prompt_text,
    prompt_turns,
    text_hash,
    value_hash,
)
from finetui.data.records import Record, Shape, last_answer
from finetui.data.scan.keys import CONTENT, PROMPT

_NONE = 0


class Duplicates(Across):
    """Rows that say the same as an earlier row of the file."""

    def begin(self, source: Source, last: bool) -> None:
        self._source = source
        self._content = HashTable(source.estimated_rows)
        self._bytes = array("Q")

    def see(self, example: Example) -> Iterator[Hit]:
        raw = xxhash.xxh3_64_intdigest(example.raw.rstrip(b"\r"))
        _fill(self._bytes, example.row)
        self._bytes.append(raw)
        if example.fault is not None:
            return
        record = example.record
        key = content_hash(record) if record and record.turns else value_hash(example.value)
        first = self._content.first(key, example.row)
        if first != example.row:
            alike = "byte for byte" if self._bytes[first] == raw else "in other writing"
            if alike != "byte for byte" and not self._same_value(example, first):
                alike = "in all that is trained on"
            yield Hit(f"the same as {self._source.line_words(first)}, {alike}")

    def _same_value(self, example: Example, first: int) -> bool:
        return bool(self._source.value(first) == example.value)

    def finish(self) -> Iterable[tuple[int, Hit]]:
        return ()


class Conflicts(Across):
    """The same prompt with another answer than the row that had it first."""

    def begin(self, source: Source, last: bool) -> None:
        self._source = source
        self._prompts = HashTable(source.estimated_rows)
        self._answers = array("Q")

    def see(self, example: Example) -> Iterator[Hit]:
        _fill(self._answers, example.row)
        record = example.record
        if record is None or record.shape in (Shape.TEXT, Shape.UNPAIRED_PREFERENCE):
            return
        prompt, answer = _conversation_hash(record), _answer_hash(answer_text(record))
        if prompt == _NONE or answer == _NONE:
            return
        self._answers.append(answer)
        first = self._prompts.first(prompt, example.row)
        if first != example.row and self._answers[first] != answer:
            line = self._source.line_words(first)
            turn = last_answer(record.all_turns()) if record.chosen is None else len(record.turns)
            yield Hit(f"{line} gives another answer to the same prompt", turn)

    def finish(self) -> Iterable[tuple[int, Hit]]:
        return ()


def _conversation_hash(record: Record) -> int:
    """The prompt with its system turn and tools: other instructions may want other answers."""
    turns = prompt_turns(record)
    if not any(turn.content.strip() for turn in turns if turn.role != "system"):
        return _NONE
    parts = [f"{turn.role}\x1e{turn.content}" for turn in turns]
    parts.append(str(record.extra.get("tools", "")))
    return normal_hash("\x1e".join(parts))


def _answer_hash(text: str) -> int:
    """An answer's hash; JSON answers are compared as values, not as texts."""
    value = json_answer(text)
    return normal_hash(text) if value is None else value_hash(value)


@dataclass
class _Prompts:
    """What is kept of one file for leaks: normalised prompts, and exact ones by row."""

    source: Source
    table: HashTable
    exact: array[int] = field(default_factory=lambda: array("Q"))
    content: array[int] = field(default_factory=lambda: array("Q"))


class Leaks(Across):
    """Prompts of a training file that a held-out file has as well."""

    def __init__(self) -> None:
        self._files: list[_Prompts] = []
        self._now: _Prompts | None = None

    def begin(self, source: Source, last: bool) -> None:
        if self._now is not None:
            self._files.append(self._now)
        self._now = _Prompts(source, HashTable(0 if last else source.estimated_rows))
        self._last = last

    def see(self, example: Example) -> Iterator[Hit]:
        record, now = example.record, self._now
        if record is None or now is None or (self._last and not self._files):
            return
        text = prompt_text(record)
        key = normal_hash(text)
        if key == _NONE:
            return
        exact, content = text_hash(text), content_hash(record)
        for other in self._files:
            row = other.table.get(key)
            if row >= 0:
                place = "{0.path}:{0.line}".format(other.source.place(row))
                yield Hit(f"{_likeness(other, row, exact, content)} is in {place} as well")
        if not self._last:
            _fill(now.exact, example.row)
            _fill(now.content, example.row)
            now.exact.append(exact)
            now.content.append(content)
            now.table.first(key, example.row)

    def finish(self) -> Iterable[tuple[int, Hit]]:
        return ()


def _likeness(other: _Prompts, row: int, exact: int, content: int) -> str:
    if other.content[row] == content:
        return "the same row"
    if other.exact[row] == exact:
        return "the same prompt"
    return "the same prompt but for case and spacing"


def _fill(numbers: array[int], row: int) -> None:
    """Rows that were passed over get 0, so that an index is a row number."""
    while len(numbers) < row:
        numbers.append(_NONE)


def _identical_pair(example: Example) -> Iterator[Hit]:
    """Chosen and rejected that say the same: nothing to prefer."""
    record = example.record
    if record is None or not record.chosen or not record.rejected:
        return
    chosen = [(turn.role, turn.content, turn.tool_calls) for turn in record.chosen]
    rejected = [(turn.role, turn.content, turn.tool_calls) for turn in record.rejected]
    if chosen == rejected:
        yield Hit("chosen and rejected are the same", len(record.turns))
    elif _folded(chosen) == _folded(rejected):
        yield Hit("chosen and rejected differ in case and spacing only", len(record.turns))


def _folded(turns: list[tuple[str, str, list[Any] | None]]) -> list[tuple[str, str, Any]]:
    return [(role, normalise(text), calls) for role, text, calls in turns]


CHECKS = (
    Check(
        "duplicate",
        "Duplicate row",
        "warning",
        "A repeated row counts twice in training, and leaks when the copies are split apart.",
        "Repair (f) drops the later row.",
        family="duplicates",
        across=lambda options: Duplicates(),
        alike=CONTENT,
    ),
    Check(
        "conflicting-answers",
        "Conflicting answers",
        "warning",
        "One prompt with two answers teaches the model to waver between them.",
        "Decide which answer is right and drop (d) or edit (e) the other.",
        family="conflicts",
        across=lambda options: Conflicts(),
        alike=PROMPT,
    ),
    Check(
        "leak",
        "Leak into the held-out file",
        "error",
        "The model is tested on what it has seen, so the score is too good to be true.",
        "Repair (f) drops the training row; or split anew.",
        family="leakage",
        across=lambda options: Leaks(),
        alike=PROMPT,
        needs=2,
    ),
    Check(
        "identical-pair",
        "Chosen and rejected are the same",
        "error",
        "A pair without a difference teaches no preference; it only dilutes the others.",
        "Drop the pair (d), or write the rejected answer that was meant (e).",
        family="preference",
        row=_identical_pair,
        gate=gate(rb"rejected"),
    ),
    Check(
        "output-shape",
        "Answer of another form",
        "warning",
        "A few answers in another form teach the model to break the format now and then.",
        "Bring the answer into the form of the others (e) or drop the row (d).",
        family="output",
        across=lambda options: OutputShape(),
    ),
    Check(
        "too-long",
        "Longer than the window",
        "warning",
        "The row is dropped or cut in training; when it is cut, the answer's end goes first.",
        "Shorten it (e), drop it (d), or raise max_length in the recipe.",
        family="length",
        across=TooLong,
    ),
    Check(
        "nothing-trained",
        "Nothing to train on",
        "error",
        "No token of the row is trained on, so it costs time and teaches nothing.",
        "Shorten the prompt (e), mend the turns, or raise max_length in the recipe.",
        family="length",
        across=NothingTrained,
    ),
    Check(
        "end-not-trained",
        "The end of answers is not trained",
        "error",
        "A model that never saw an answer end goes on talking until it is cut off.",
        "Use a chat template whose assistant turns hold the end token.",
        family="length",
        across=EndNotTrained,
    ),
)
