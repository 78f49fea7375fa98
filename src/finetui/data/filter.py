"""Find rows by the filter language (`data.query`), in chunks and in order.

Words in a JSONL file are searched in raw blocks (10 to 13 times the CPU of ``wc -l``) and places
are mapped to rows by counting newlines; whatever else a filter asks is looked at in those rows
only. Chunks let a screen show the first rows while the search goes on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from typing import Any as Anything

from finetui.data import query
from finetui.data.dataset import DataSet
from finetui.data.edits.journal import State
from finetui.data.formats.source import JsonlSource, Stop
from finetui.data.keys import value_at
from finetui.data.query import Term, parse_query, plain_words
from finetui.data.records import Record, messages, read_record
from finetui.data.strict import RowError
from finetui.errors import UserError

if TYPE_CHECKING:
    from finetui.workspace import Workspace

Report = Callable[[int, int], None]

_BLOCK = 1 << 22
_CHUNK = 2000


class FindingRows(Protocol):
    """What a filter asks of a store of findings."""

    def counts(self) -> dict[str, int]: ...

    def rows_of(self, check: str) -> Sequence[int]: ...


@dataclass
class Surroundings:
    """What a filter may ask beyond the rows; what is missing is a UserError when asked for.

    ``tokens`` counts a record's tokens; ``split`` gives the rows a version put into one.
    """

    findings: FindingRows | None = None
    tokens: Callable[[Record], int] | None = None
    split: Callable[[str], Collection[int]] | None = None
    _rows: dict[str, frozenset[int]] = field(default_factory=dict)

    def rows_with(self, name: str) -> frozenset[int]:
        """Rows with a finding of a check, a family, a severity, or any."""
        if name not in self._rows:
            self._rows[name] = frozenset(self._find(name))
        return self._rows[name]

    def _find(self, name: str) -> Iterator[int]:
        from finetui.data.checks.registry import CHECKS

        if self.findings is None:
            raise UserError("the set has not been checked.", fix="Run the checks first (c).")
        found = self.findings.counts()
        wanted = [
            check.id
            for check in CHECKS.values()
            if name in ("any", check.id, check.family, check.severity)
        ]
        if not wanted and name not in found:
            raise UserError(f"there is no check {name!r}.", fix="See: finetui check --list")
        for check in wanted or [name]:
            if found.get(check):
                yield from self.findings.rows_of(check)

    def rows_in(self, name: str) -> frozenset[int]:
        key = f"split:{name}"
        if key not in self._rows:
            if self.split is None:
                raise UserError("no version of this set is split.", fix="Split it first (s).")
            self._rows[key] = frozenset(self.split(name))
        return self._rows[key]


def surroundings(dataset: DataSet, workspace: Workspace, model: Path | None = None) -> Surroundings:
    """What a filter may ask of a workspace: findings of the last scan, tokens of a model folder,
    and the splits of the newest version."""
    from finetui.data.findings import open_findings
    from finetui.data.versions import rows_in_split

    count = None
    if model is not None:
        from finetui.data.tokens import load_chat_tokenizer

        count = token_counter(load_chat_tokenizer(model))
    return Surroundings(
        open_findings(dataset.source, workspace),
        count,
        lambda name: rows_in_split(dataset, workspace, name),
    )


def filter_rows(
    dataset: DataSet,
    text: str,
    stop: Stop | None = None,
    progress: Report | None = None,
    around: Surroundings | None = None,
) -> Iterator[list[int]]:
    """Rows that match, in order, in chunks (some may be empty); ``progress`` gets (done, total).

    Raises UserError for a filter that cannot be read.
    """
    term = parse_query(text)
    around = around or Surroundings()
    words = plain_words(term)
    if words and isinstance(dataset.source, JsonlSource):
        return _search_blocks(dataset, dataset.source, words, stop, progress)
    return _search_rows(dataset, term, around, stop, progress)


def is_quick(dataset: DataSet, text: str) -> bool:
    """Whether a filter may run beside a screen: words in raw blocks, or few rows to look at."""
    few = 5000
    if dataset.rows <= few:
        return True
    return bool(plain_words(parse_query(text))) and isinstance(dataset.source, JsonlSource)


# ---------------------------------------------------------------- raw blocks


@lru_cache(64)
def matcher(phrase: str) -> Callable[[bytes, int], tuple[int, int]]:
    """(block, from) to the next place of ``phrase`` in JSON text, in any case; (-1, -1) for none.

    The block of a phrase of plain ASCII letters must be lowered by the caller.
    """
    if is_plain(phrase):
        needle = phrase.lower().encode()
        return lambda block, start: _span(block.find(needle, start), len(needle))
    pattern = re.compile(b"".join(_spellings(character) for character in phrase), re.IGNORECASE)

    def search(block: bytes, start: int) -> tuple[int, int]:
        found = pattern.search(block, start)
        return found.span() if found else (-1, -1)

    return search


def is_plain(phrase: str) -> bool:
    return phrase.isascii() and phrase.isprintable() and not set(phrase) & set('"\\/')


def _span(start: int, length: int) -> tuple[int, int]:
    return (start, start + length) if start >= 0 else (-1, -1)


def _spellings(character: str) -> bytes:
    """Every way JSON may write a character, in either case, as a regular expression."""
    ways: set[bytes] = set()
    for form in {character, character.lower(), character.upper()}:
        try:
            ways |= {form.encode(), json.dumps(form, ensure_ascii=False)[1:-1].encode()}
        except UnicodeEncodeError:
            continue
        ways.add(json.dumps(form)[1:-1].encode())
        if form == "/":
            ways.add(rb"\/")
    return b"(?:" + b"|".join(re.escape(way) for way in sorted(ways)) + b")"


def _search_blocks(
    dataset: DataSet, source: JsonlSource, words: str, stop: Stop | None, progress: Report | None
) -> Iterator[list[int]]:
    lower, search = is_plain(words), matcher(words)
    edited = {
        row: state.text.encode(errors="surrogatepass")
        for row, state in _overlay(dataset).items()
        if state.text is not None
    }
    for first, base, block in source.blocks(_BLOCK):
        if stop and stop():
            return
        after = first + block.count(b"\n") + (not block.endswith(b"\n"))
        rows = list(_block_rows(block.lower() if lower else block, first, search))
        if edited:
            here = [row for row in edited if first <= row < after]
            again = [row for row in here if _holds(edited[row], words)]
            rows = sorted({row for row in rows if row not in edited}.union(again))
        yield rows
        if progress:
            progress(base + len(block), source.size)


def _block_rows(
    block: bytes, first: int, search: Callable[[bytes, int], tuple[int, int]]
) -> Iterator[int]:
    row, counted, position = first, 0, 0
    while True:
        start, _ = search(block, position)
        if start < 0:
            return
        row += block.count(b"\n", counted, start)
        counted = start
        yield row
        position = block.find(b"\n", start) + 1
        if not position:
            return


def _overlay(dataset: DataSet) -> dict[int, State]:
    return dict(dataset.journal.overlay) if dataset.journal else {}


def _holds(raw: bytes, words: str) -> bool:
    return matcher(words)(raw.lower() if is_plain(words) else raw, 0)[0] >= 0


# ---------------------------------------------------------------- row by row


def _search_rows(
    dataset: DataSet, term: Term, around: Surroundings, stop: Stop | None, progress: Report | None
) -> Iterator[list[int]]:
    found: list[int] = []
    for number, row in enumerate(_candidates(dataset, term, around, stop, progress), 1):
        if _Look(dataset, row, around).holds(term):
            found.append(row)
        if number % _CHUNK == 0:
            if stop and stop():
                return
            yield found
            found = []
    yield found


def _candidates(
    dataset: DataSet, term: Term, around: Surroundings, stop: Stop | None, progress: Report | None
) -> Iterator[int]:
    """Rows that may match, in order: fewer than all when one part of the filter says so."""
    parts = term.terms if isinstance(term, query.All) else (term,)
    for part in parts:
        in_journal = isinstance(part, query.Is) and part.kind not in ("kept", "malformed")
        if in_journal or isinstance(part, query.Labelled):
            yield from sorted(_overlay(dataset))
            return
        if isinstance(part, query.Found):
            yield from sorted(around.rows_with(part.name))
            return
    dataset.build_index(None, stop)
    words = [part.text for part in parts if isinstance(part, query.Words) and part.text]
    if words and isinstance(dataset.source, JsonlSource):
        longest = max(words, key=len)
        for chunk in _search_blocks(dataset, dataset.source, longest, stop, progress):
            yield from chunk
        return
    yield from counted(_in_lines(dataset, parts), progress)


def counted(rows: range, progress: Report | None) -> Iterator[int]:
    """The rows, telling now and then how many have gone by."""
    for number, row in enumerate(rows):
        if progress and number % _CHUNK == 0:
            progress(number, len(rows))
        yield row


def _in_lines(dataset: DataSet, parts: Sequence[Term]) -> range:
    """Rows between the lines asked for; a JSONL row is its line."""
    first, last = 0, dataset.rows
    if isinstance(dataset.source, JsonlSource):
        for part in parts:
            if isinstance(part, query.Lines):
                first, last = max(first, part.first - 1), min(last, part.last)
    return range(first, last)


class _Look:
    """One row, read no further than the filter asks."""

    def __init__(self, dataset: DataSet, row: int, around: Surroundings) -> None:
        self._dataset, self._row, self._around = dataset, row, around
        self._state: State = dataset.state(row)
        self._known: dict[str, Anything] = {}

    def holds(self, term: Term) -> bool:
        match term:
            case query.All(terms):
                return all(self.holds(part) for part in terms)
            case query.Any(terms):
                return any(self.holds(part) for part in terms)
            case query.Not(part):
                return not self.holds(part)
            case query.Words():
                return self._says(term)
            case query.Compares():
                return self._compares(term)
            case _:
                return self._is_so(term)

    def _is_so(self, term: Term) -> bool:
        match term:
            case query.Matches(pattern):
                return bool(pattern.search(self._dataset.text(self._row)))
            case query.Is(kind):
                return self._in_state(kind)
            case query.Found(name):
                return self._row in self._around.rows_with(name)
            case query.InSplit(name):
                return self._row in self._around.rows_in(name)
            case query.Lines(first, last):
                return first <= self._dataset.source.line(self._row) <= last
            case query.Labelled(text):
                return self._state.label.casefold() == text.casefold()
        raise TypeError(term)

    def _in_state(self, kind: str) -> bool:
        state = self._state
        if kind == "malformed":
            return self.value is _BROKEN
        told = {
            "edited": state.text is not None,
            "dropped": state.dropped,
            "quarantined": state.quarantined,
            "marked": state.marked,
            "changed": state.text is not None or not state.kept,
            "kept": state.kept,
        }
        return told[kind]

    def _says(self, term: query.Words) -> bool:
        if not term.role:
            raw = self._dataset.raw(self._row)
            return not term.text or _holds(raw, term.text)
        if self.record is None:
            return False
        wanted = term.text.casefold()
        return any(
            wanted in turn.content.casefold()
            for turn in self.record.all_turns()
            if turn.role == term.role
        )

    def _compares(self, term: query.Compares) -> bool:
        figure = self._figure(term.path) if term.path in query.FIGURES else None
        found = value_at(self.value, term.path, self.record) if figure is None else figure
        return _compare(found, term.operator, term.value)

    def _figure(self, name: str) -> int | None:
        if name == "bytes":
            return len(self._dataset.raw(self._row))
        if name == "findings":
            around = self._around
            return sum(
                self._row in around.rows_with(check)
                for check, count in (around.findings.counts() if around.findings else {}).items()
                if count
            )
        if self.record is None:
            return None
        if name == "turns":
            return len(self.record.all_turns())
        if name == "length":
            return sum(len(turn.content) for turn in self.record.all_turns())
        if self._around.tokens is None:
            raise UserError("tokens need a model.", fix="Name one in a recipe.")
        return self._around.tokens(self.record)

    @property
    def value(self) -> object:
        if "value" not in self._known:
            try:
                self._known["value"] = self._dataset.value(self._row)
            except RowError:
                self._known["value"] = _BROKEN
        return self._known["value"]

    @property
    def record(self) -> Record | None:
        if "record" not in self._known:
            broken = self.value is _BROKEN
            read = None if broken else read_record(self.value, self._dataset.shape)[0]
            self._known["record"] = read
        return self._known["record"]  # type: ignore[no-any-return]


_BROKEN = object()


def _compare(found: object, operator: str, wanted: str) -> bool:
    """Numbers as numbers, everything else as text in any case."""
    if operator in (">", "<", ">=", "<="):
        number, limit = _number(found), _number(wanted)
        if number is None or limit is None:
            return False
        return {
            ">": number > limit,
            "<": number < limit,
            ">=": number >= limit,
            "<=": number <= limit,
        }[operator]
    text = _as_text(found).casefold()
    if operator == "~":
        return wanted.casefold() in text
    number, limit = _number(found), _number(wanted)
    same = number == limit if None not in (number, limit) else text == wanted.casefold()
    return same != (operator == "!=")


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def token_counter(tokenizer: Anything) -> Callable[[Record], int]:
    """Counts a record's tokens under a `ChatTokenizer`; 0 for one its template refuses."""

    def count(record: Record) -> int:
        try:
            return len(tokenizer.encode(messages(record), tools=record.extra.get("tools")).ids)
        except UserError:
            return 0

    return count
