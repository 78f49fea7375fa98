"""Checks that compare rows with each other, with another file, or with the model's window."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from finetui.data.checks.model import Across, Check, Example, Hit
from finetui.data.keys import (
    HashTable,
    answer_text,
    content_hash,
    normal_hash,
    prompt_text,
    prompt_turns,
    text_hash,
    value_hash,
)
from finetui.data.records import Record, Shape, last_answer, messages
from finetui.data.source import Source
from finetui.data.strict import JsonFault, decode

if TYPE_CHECKING:
    from finetui.data.tokens import ChatTokenizer

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
            yield Hit(f"the same as line {self._source.line(first)}, {alike}")

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
            line = self._source.line(first)
            turn = last_answer(record.all_turns()) if record.chosen is None else len(record.turns)
            yield Hit(f"line {line} gives another answer to the same prompt", turn)

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
    value = _json_answer(text)
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
                place = f"{other.source.path}:{other.source.line(row)}"
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


_MOSTLY = 0.8  # answers that must be JSON before the others are called odd
_FEWEST = 10
_FORMS = 64  # different sets of keys that are told apart
_CHOICES = 20  # a field with at most so many values is a choice from a list
_COMMON = 5  # how often each other value must occur before a single one is odd


class OutputShape(Across):
    """Answers of another form than most: prose among JSON, other keys, a value of its own."""

    def begin(self, source: Source, last: bool) -> None:
        self._prose: array[int] = array("Q")
        self._forms: Counter[tuple[str, ...]] = Counter()
        self._odd_forms: dict[tuple[str, ...], array[int]] = {}
        self._values: dict[str, Counter[str]] = {}
        self._first_row: dict[tuple[str, str], int] = {}
        self._turns: dict[int, int] = {}

    def see(self, example: Example) -> Iterator[Hit]:
        record = example.record
        if record is None or record.shape is Shape.TEXT:
            return iter(())
        answer = answer_text(record)
        if answer.strip():
            value = _json_answer(answer)
            if value is None:
                self._prose.append(example.row)
            else:
                self._note(example.row, value)
        return iter(())

    def _note(self, row: int, value: Any) -> None:
        form = tuple(sorted(value)) if isinstance(value, dict) else ("[]",)
        if form not in self._forms and len(self._forms) >= _FORMS:
            form = ("…",)
        self._forms[form] += 1
        self._odd_forms.setdefault(form, array("Q")).append(row)
        if isinstance(value, dict):
            for key, part in value.items():
                self._note_value(row, key, part)

    def _note_value(self, row: int, key: str, part: object) -> None:
        values = self._values.setdefault(key, Counter()) if len(self._values) < _FORMS else None
        values = self._values.get(key) if values is None else values
        if values is None or not isinstance(part, str) or len(values) > 2 * _CHOICES:
            return
        if part not in values:
            self._first_row[key, part[:200]] = row
        values[part[:200]] += 1

    def finish(self) -> Iterable[tuple[int, Hit]]:
        total = sum(self._forms.values())
        if total < _FEWEST or total < _MOSTLY * (total + len(self._prose)):
            return
        percent = 100 * total / (total + len(self._prose))
        for row in self._prose:
            yield row, Hit(f"the answer is not JSON; {percent:.0f} % of the answers are")
        form, count = self._forms.most_common(1)[0]
        if count >= _MOSTLY * total:
            yield from self._other_forms(form)
            yield from self._odd_values(form)

    def _other_forms(self, form: tuple[str, ...]) -> Iterator[tuple[int, Hit]]:
        usual = ", ".join(form)
        for other, rows in self._odd_forms.items():
            if other != form:
                has = ", ".join(other) or "none"
                for row in rows:
                    yield row, Hit(f"the answer has the keys {has}; most have {usual}")

    def _odd_values(self, form: tuple[str, ...]) -> Iterator[tuple[int, Hit]]:
        for key in form:
            values = self._values.get(key, Counter())
            usual = [value for value, count in values.items() if count >= _COMMON]
            odd = [value for value, count in values.items() if count == 1]
            if len(usual) < 2 or len(values) > _CHOICES or len(usual) + len(odd) < len(values):
                continue
            for value in odd:
                row = self._first_row[key, value]
                yield row, Hit(f"{key} is {value!r}, which no other answer has")


def _json_answer(text: str) -> Any | None:
    """The object or list that an answer is, None for any other text."""
    stripped = text.strip()
    if stripped[:1] not in ("{", "["):
        return None
    try:
        return decode(stripped.encode(errors="surrogatepass"))
    except JsonFault:
        return None


class TooLong(Across):
    """Rows that the model's own template makes longer than the recipe's window."""

    def __init__(self, model_dir: Path | None, limit: int) -> None:
        self._model_dir, self._limit = model_dir, limit
        self._tokenizer: ChatTokenizer | None = None

    def begin(self, source: Source, last: bool) -> None:
        if self._model_dir is not None and self._tokenizer is None:
            from finetui.data.tokens import load_chat_tokenizer

            self._tokenizer = load_chat_tokenizer(self._model_dir)

    def see(self, example: Example) -> Iterator[Hit]:
        if self._tokenizer is None or example.record is None or example.faults:
            return
        chat = messages(example.record)
        if _most_tokens(example, chat) <= self._limit:
            return
        try:
            count = len(self._tokenizer.encode(chat, tools=_tools(example.record)).ids)
        except Exception as error:
            # Templates raise whatever their authors like; a row they refuse is itself a finding.
            yield Hit(f"the model's chat template refuses the row: {error}")
            return
        if count > self._limit:
            cut = count - self._limit
            yield Hit(f"{count:,} tokens of at most {self._limit:,}: {cut:,} would be lost")

    def finish(self) -> Iterable[tuple[int, Hit]]:
        return ()


def _tools(record: Record) -> list[Any] | None:
    """The tools of a row, for the template; they are a list or a JSON text of one."""
    tools = record.extra.get("tools")
    tools = _json_answer(tools) if isinstance(tools, str) else tools
    return tools if isinstance(tools, list) else None


def _most_tokens(example: Example, chat: list[dict[str, Any]]) -> int:
    """No byte-level tokenizer makes more tokens than bytes; 32 a turn cover the template."""
    return len(example.raw) + 32 * len(chat) + 64


CHECKS = (
    Check(
        "duplicate",
        "Duplicate row",
        "warning",
        "A repeated row counts twice in training, and leaks when the copies are split apart.",
        "Repair (f) drops the later row.",
        across=lambda options: Duplicates(),
    ),
    Check(
        "conflicting-answers",
        "Conflicting answers",
        "warning",
        "One prompt with two answers teaches the model to waver between them.",
        "Decide which answer is right and drop (d) or edit (e) the other.",
        across=lambda options: Conflicts(),
    ),
    Check(
        "leak",
        "Leak into the held-out file",
        "error",
        "The model is tested on what it has seen, so the score is too good to be true.",
        "Repair (f) drops the training row; or split anew.",
        across=lambda options: Leaks(),
    ),
    Check(
        "output-shape",
        "Answer of another form",
        "warning",
        "A few answers in another form teach the model to break the format now and then.",
        "Bring the answer into the form of the others (e) or drop the row (d).",
        across=lambda options: OutputShape(),
    ),
    Check(
        "too-long",
        "Longer than the window",
        "warning",
        "The row is dropped or cut in training; when it is cut, the answer goes first.",
        "Shorten it (e), drop it (d), or raise max_length in the recipe.",
        across=lambda options: TooLong(options.model_dir, options.max_length),
    ),
)
