"""Find the rows of a data set again after its file was replaced, by the hash of their bytes.

A row that moved takes its edits along. A second pass goes by the rows' values, for files that
were written anew (other line ends, spacing, key order). What is nowhere is said so, with why;
the journal keeps it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from finetui.data.edits.journal import UNTOUCHED, Placed, Touched, row_hash
from finetui.data.formats.source import JsonlSource, Source
from finetui.data.keys import value_hash
from finetui.data.strict import JsonFault, decode

_AROUND = 500  # rows before and after the place of a missing row that are looked at
_HELD = "held"  # the reasons are kept in the journal: words of code, not sentences
_COPY = "copy"
_CHANGED = "changed"
_SHORT = "short"
_SENTENCES = {
    _HELD: "the file holds this text itself now",
    _COPY: "one copy is left in the file, and it may be the one that was kept",
    _CHANGED: "no row of the file has the content it was made on; line {line} holds another",
    _SHORT: "no row of the file has the content it was made on; the file ends before line {line}",
}
_SETTLED = (_HELD, _COPY)


def value_digest(raw: bytes, read: Callable[[bytes], object]) -> str:
    """The hash of a row's value, the same however it is written; of its bytes if it is broken."""
    try:
        return f"{value_hash(read(raw)):016x}"
    except JsonFault:
        return row_hash(raw.strip())


def sentence(touched: Touched) -> str:
    """Why a row could not be found again."""
    words = _SENTENCES.get(touched.reason, _SENTENCES[_CHANGED])
    return words.format(line=f"{touched.line:,}")


def is_settled(touched: Touched) -> bool:
    """Nothing is lost by leaving it: the file has what the edit wanted."""
    return touched.reason in _SETTLED


def stands(source: Source, touched: Iterable[Touched]) -> bool:
    """Every touched row is where it was; reads those rows only."""
    for each in touched:
        if each.row is None:
            if each.state != UNTOUCHED:
                return False
        elif each.row >= source.rows or row_hash(source.raw(each.row)) != each.hash:
            return False
    return True


def find_again(source: Source, touched: Sequence[Touched]) -> list[Placed]:
    """Where each touched row is in the file now. Reads the file once, or twice if some is amiss."""
    before = partial(context, source)
    same_bytes = _rows_by(_raws(source), {each.hash for each in touched}, row_hash)
    found = _assign(touched, [each.hash for each in touched], same_bytes, before)
    missing = [each for each in touched if each.key not in found]
    drift = _drift((each.was, found[each.key]) for each in touched if each.key in found)
    same_value = _values(source, missing, len(touched), drift)
    taken = set(found.values())
    left = {digest: [r for r in rows if r not in taken] for digest, rows in same_value.items()}
    rewritten = _assign(missing, [each.value_hash for each in missing], left, before)

    def placed(each: Touched) -> Placed:
        row = found.get(each.key)
        if row is not None:
            return Placed(each.key, True, row, source.line(row), each.hash, "")
        row = rewritten.get(each.key)
        if row is not None:
            digest = row_hash(source.raw(row))
            return Placed(each.key, True, row, source.line(row), digest, "")
        reason = _reason(each, same_bytes, same_value, source.rows)
        return Placed(each.key, False, each.was, each.line, each.hash, reason)

    return [placed(each) for each in touched]


def _values(
    source: Source, missing: Sequence[Touched], touched: int, drift: _Drift
) -> dict[str, list[int]]:
    """The rows that have the value of a missing row, or of what it was edited to.

    A file that was written anew misses nearly all of its rows; where only some are missing they
    were deleted or changed by hand, and it is enough to look around their places.
    """
    if not missing:
        return {}
    wanted = {each.value_hash for each in missing}.union(map(_text_digest, missing)) - {""}
    raws = _raws(source)
    if len(missing) < touched / 2:
        near: set[int] = set()
        for each in missing:
            here = drift.expected(each.was)
            near.update(range(max(0, here - _AROUND), min(source.rows, here + _AROUND)))
        if len(near) < source.rows / 4:
            raws = ((row, source.raw(row)) for row in sorted(near))
    return _rows_by(raws, wanted, lambda raw: value_digest(raw, source.decode))


def _reason(
    each: Touched, same_bytes: dict[str, list[int]], same_value: dict[str, list[int]], rows: int
) -> str:
    if same_value.get(_text_digest(each)):
        return _HELD
    if _is_duplicate(each) and (same_bytes.get(each.hash) or same_value.get(each.value_hash)):
        return _COPY
    return _CHANGED if each.was < rows else _SHORT


def _text_digest(each: Touched) -> str:
    return "" if each.state.text is None else value_digest(each.state.text.encode(), decode)


def _rows_by(
    raws: Iterable[tuple[int, bytes]], wanted: set[str], digest_of: Callable[[bytes], str]
) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for row, raw in raws:
        digest = digest_of(raw)
        if digest in wanted:
            found[digest].append(row)
    return dict(found)


def _raws(source: Source) -> Iterator[tuple[int, bytes]]:
    """(row, bytes) of every row; whole blocks are split where the format allows."""
    if not isinstance(source, JsonlSource):
        yield from ((raw.row, raw.raw) for raw in source.iterate())
        return
    for first, _, block in source.blocks():
        lines = block.removesuffix(b"\n").split(b"\n")
        if not first:
            lines[0] = source.raw(0)  # without a byte order mark
        yield from enumerate(lines, first)


# ---------------------------------------------------------------- which copy is which


@dataclass(frozen=True)
class _Drift:
    """How far rows have moved, known from those that are there once only."""

    was: list[int]
    moved: list[int]

    def expected(self, row: int) -> int:
        place = max(0, bisect_right(self.was, row) - 1)
        return row + (self.moved[place] if self.moved else 0)


def context(source: Source, row: int) -> str:
    """The hash of the row before: tells a copy that was dropped from the one that was kept."""
    return row_hash(source.raw(row - 1)) if row else "first"


def _drift(pairs: Iterable[tuple[int, int]]) -> _Drift:
    """From (row before, row now)."""
    known = sorted(pairs)
    return _Drift([was for was, _ in known], [now - was for was, now in known])


def _assign(
    touched: Sequence[Touched],
    digests: Sequence[str],
    rows_of: dict[str, list[int]],
    before: Callable[[int], str],
) -> dict[int, int]:
    """Key to row. Of several rows with one hash, each goes to the nearest to where it should be."""
    groups: dict[str, list[Touched]] = defaultdict(list)
    for each, digest in zip(touched, digests, strict=True):
        if digest and rows_of.get(digest):
            groups[digest].append(each)
    drift = _drift(
        (group[0].was, rows_of[digest][0])
        for digest, group in groups.items()
        if len(group) == 1 == len(rows_of[digest])
    )
    found: dict[int, int] = {}
    for digest, group in groups.items():
        found |= _assign_group(group, list(rows_of[digest]), drift, before)
    return found


def _assign_group(
    group: list[Touched], rows: list[int], drift: _Drift, before: Callable[[int], str]
) -> dict[int, int]:
    found: dict[int, int] = {}
    for each in sorted(group, key=lambda each: (_is_duplicate(each), each.was)):
        if not rows or (len(rows) == 1 and _is_kept_copy(each, rows[0], before)):
            break
        found[each.key] = rows.pop(_nearest(rows, drift.expected(each.was)))
    return found


def _is_kept_copy(each: Touched, row: int, before: Callable[[int], str]) -> bool:
    """A row dropped as a duplicate must not take the last copy: that may be the one kept."""
    if not _is_duplicate(each):
        return False
    if not each.context:
        return each.state.reason == "duplicate"
    return before(row) != each.context


def _nearest(rows: Sequence[int], row: int) -> int:
    place = bisect_left(rows, row)
    near = [at for at in (place - 1, place) if 0 <= at < len(rows)]
    return min(near, key=lambda at: abs(rows[at] - row))


def _is_duplicate(each: Touched) -> bool:
    return not each.state.kept and names_duplicates(each.state.reason)


def names_duplicates(reason: str) -> bool:
    return "duplicate" in reason.lower()
