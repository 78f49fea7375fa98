"""Find rows: plain text in any case, ``role:user word``, ``is:edited``, ``/regex/``.

Plain text in a JSONL file is searched in raw blocks (10 to 13 times the CPU of ``wc -l``) and
places are mapped to rows by counting newlines; everything else looks at rows one by one. Rows come
in chunks, in order, so that a screen can show the first ones while the search goes on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from finetui.data.dataset import DataSet
from finetui.data.journal import State
from finetui.data.records import ROLES, read_record
from finetui.data.source import JsonlSource, Stop
from finetui.data.strict import RowError
from finetui.errors import UserError

Report = Callable[[int, int], None]

_BLOCK = 1 << 22
_CHUNK = 2000
_TOKEN = re.compile(r"(?:(is|role|line):(\S+)|(/)((?:[^/\\]|\\.)+)/)\s*")
_KINDS: dict[str, Callable[[State], bool]] = {
    "edited": lambda state: state.text is not None,
    "dropped": lambda state: state.dropped,
    "changed": lambda state: state.text is not None or state.dropped,
    "kept": lambda state: not state.dropped,
}


@dataclass(frozen=True)
class Query:
    """A parsed filter; all of its parts must hold."""

    phrase: str = ""
    role: str = ""
    kinds: tuple[str, ...] = ()
    pattern: re.Pattern[str] | None = None
    line: int = 0
    broken: bool = False

    @property
    def plain(self) -> bool:
        return bool(self.phrase) and self == Query(self.phrase)


def parse_query(text: str) -> Query:
    """Read a filter; raises UserError for an unknown word after ``is:`` or a bad regex."""
    role, kinds, pattern, line, broken = "", [], None, 0, False
    rest = text.strip()
    while found := _TOKEN.match(rest):
        name, value, slash, regex = found.groups()
        if slash:
            pattern = _compiled(regex)
        elif name == "role":
            role = ROLES.get(value.lower(), value.lower())
        elif name == "line":
            line = _number(value)
        elif value in ("malformed", "broken"):
            broken = True
        elif value in _KINDS:
            kinds.append(value)
        else:
            known = ", ".join(f"is:{kind}" for kind in (*_KINDS, "malformed"))
            raise UserError(f"is:{value} is not known.", fix=f"Use one of: {known}.")
        rest = rest[found.end() :]
    return Query(rest, role, tuple(kinds), pattern, line, broken)


def _compiled(regex: str) -> re.Pattern[str]:
    try:
        return re.compile(regex, re.IGNORECASE)
    except re.error as error:
        raise UserError(f"/{regex}/ is not a regular expression: {error}.") from None


def _number(text: str) -> int:
    digits = text.replace(",", "")
    if not digits.isdecimal():
        raise UserError(f"line:{text} is not a line number.", fix="Write for example line:128.")
    return int(digits)


def filter_rows(
    dataset: DataSet, text: str, stop: Stop | None = None, progress: Report | None = None
) -> Iterator[list[int]]:
    """Rows that match, in order, in chunks (some may be empty); ``progress`` gets (done, total).

    Raises UserError for a filter that cannot be read.
    """
    query = parse_query(text)
    if query.plain and isinstance(dataset.source, JsonlSource):
        return _search_blocks(dataset, dataset.source, query, stop, progress)
    if query.line:
        return _line(dataset, query)
    return _search_rows(dataset, query, stop, progress)


def _line(dataset: DataSet, query: Query) -> Iterator[list[int]]:
    row = query.line - 1
    if not isinstance(dataset.source, JsonlSource):
        lines = [dataset.source.line(each) for each in range(dataset.rows)]
        row = next((each for each, line in enumerate(lines) if line >= query.line), -1)
    yield [row] if 0 <= row < dataset.rows else []


# ---------------------------------------------------------------- raw blocks


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
    dataset: DataSet, source: JsonlSource, query: Query, stop: Stop | None, progress: Report | None
) -> Iterator[list[int]]:
    lower, search = is_plain(query.phrase), matcher(query.phrase)
    edited = {row: state.text for row, state in _overlay(dataset).items() if state.text is not None}
    for first, base, block in source.blocks(_BLOCK):
        if stop and stop():
            return
        after = first + block.count(b"\n") + (not block.endswith(b"\n"))
        rows = list(_block_rows(block.lower() if lower else block, first, search))
        if edited:
            here = [row for row in edited if first <= row < after]
            again = [row for row in here if _holds(edited[row], query.phrase)]
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


def _holds(text: str, phrase: str) -> bool:
    raw = text.encode(errors="surrogatepass")
    return matcher(phrase)(raw.lower() if is_plain(phrase) else raw, 0)[0] >= 0


# ---------------------------------------------------------------- row by row


def _search_rows(
    dataset: DataSet, query: Query, stop: Stop | None, progress: Report | None
) -> Iterator[list[int]]:
    from_overlay = bool(set(query.kinds) & {"edited", "dropped", "changed"})
    if not from_overlay:
        dataset.build_index(None, stop)
    rows = dataset.changed_rows() if from_overlay else range(dataset.rows)
    matches = _predicate(dataset, query)
    found: list[int] = []
    for number, row in enumerate(rows, 1):
        if matches(row):
            found.append(row)
        if number % _CHUNK == 0:
            if stop and stop():
                return
            yield found
            found = []
            if progress:
                progress(number, len(rows))
    yield found


def _predicate(dataset: DataSet, query: Query) -> Callable[[int], bool]:
    search = matcher(query.phrase) if query.phrase else None
    lower = is_plain(query.phrase)

    def holds_phrase(row: int) -> bool:
        raw = dataset.raw(row)
        return search is None or search(raw.lower() if lower else raw, 0)[0] >= 0

    def matches(row: int) -> bool:
        state = dataset.state(row)
        if not all(_KINDS[kind](state) for kind in query.kinds):
            return False
        if query.broken and not _broken(dataset, row):
            return False
        if not holds_phrase(row):
            return False
        if query.pattern and not query.pattern.search(dataset.text(row)):
            return False
        return not query.role or _says(dataset, row, query)

    return matches


def _broken(dataset: DataSet, row: int) -> bool:
    try:
        dataset.value(row)
    except RowError:
        return True
    return False


def _says(dataset: DataSet, row: int, query: Query) -> bool:
    """A turn of the asked role holds the phrase (any turn of that role, without a phrase)."""
    try:
        record, _ = read_record(dataset.value(row), dataset.shape)
    except RowError:
        return False
    phrase = query.phrase.casefold()
    return record is not None and any(
        phrase in turn.content.casefold() for turn in record.all_turns() if turn.role == query.role
    )
