"""Rows in another order: by length, tokens, turns, findings or a field of the row."""

from __future__ import annotations

from array import array
from collections.abc import Callable

from finetui.data.dataset import DataSet
from finetui.data.filter import Report, Surroundings, counted
from finetui.data.formats.source import JsonlSource
from finetui.data.keys import value_at
from finetui.data.records import read_record
from finetui.data.strict import RowError
from finetui.errors import UserError

Key = tuple[int, float, str]  # missing last, then numbers, then texts

FIGURES = ("line", "bytes", "length", "turns", "tokens", "findings")


def ordered(
    dataset: DataSet,
    by: str,
    backwards: bool = False,
    around: Surroundings | None = None,
    progress: Report | None = None,
) -> array[int]:
    """All row numbers in order of a figure (`FIGURES`) or of a field; rows without one come last.

    The order is stable: rows alike stay in the order of the file.
    """
    dataset.build_index()
    around = around or Surroundings()
    if by == "line":
        rows = range(dataset.rows)
        return array("I", reversed(rows) if backwards else rows)
    if by == "bytes" and isinstance(dataset.source, JsonlSource):
        return _by_bytes(dataset, dataset.source, backwards)
    keys = _keys(dataset, by, around, progress)
    known = [row for row in range(len(keys)) if keys[row] is not None]
    known.sort(key=lambda row: keys[row] or (0, 0.0, ""), reverse=backwards)
    known += [row for row in range(len(keys)) if keys[row] is None]
    return array("I", known)


def _by_bytes(dataset: DataSet, source: JsonlSource, backwards: bool) -> array[int]:
    """Line lengths from one pass over the newlines, without reading rows."""
    lengths = array("I", bytes(4 * dataset.rows))
    for first, _, block in source.blocks():
        row, start = first, 0
        while start < len(block):
            end = block.find(b"\n", start)
            end = len(block) if end < 0 else end
            lengths[row] = end - start
            row, start = row + 1, end + 1
    for row, state in (dataset.journal.overlay if dataset.journal else {}).items():
        if state.text is not None:
            lengths[row] = len(state.text.encode(errors="surrogatepass"))
    return array("I", sorted(range(dataset.rows), key=lengths.__getitem__, reverse=backwards))


def _keys(
    dataset: DataSet, by: str, around: Surroundings, progress: Report | None
) -> list[Key | None]:
    look = _look(dataset, by, around)
    found: list[Key | None] = []
    for row in counted(range(dataset.rows), progress):
        try:
            found.append(look(row))
        except RowError:
            found.append(None)
    return found


def _look(dataset: DataSet, by: str, around: Surroundings) -> Callable[[int], Key | None]:
    if by == "findings":
        return _findings(around)
    if by == "bytes":
        return lambda row: (0, float(len(dataset.raw(row))), "")
    if by in ("length", "turns", "tokens"):
        return _of_record(dataset, by, around)
    return lambda row: _key(_value(dataset, row, by))


def _findings(around: Surroundings) -> Callable[[int], Key | None]:
    from collections import Counter

    if around.findings is None:
        raise UserError("the set has not been checked.", fix="Run the checks first (c).")
    counted: Counter[int] = Counter()
    for check, count in around.findings.counts().items():
        if count:
            counted.update(around.findings.rows_of(check))
    return lambda row: (0, float(counted[row]), "")


def _of_record(dataset: DataSet, by: str, around: Surroundings) -> Callable[[int], Key | None]:
    if by == "tokens" and around.tokens is None:
        raise UserError("tokens need a model.", fix="Name one in a recipe.")
    count = around.tokens

    def look(row: int) -> Key | None:
        record, _ = read_record(dataset.value(row), dataset.shape)
        if record is None:
            return None
        if by == "tokens" and count is not None:
            return (0, float(count(record)), "")
        turns = record.all_turns()
        figure = len(turns) if by == "turns" else sum(len(turn.content) for turn in turns)
        return (0, float(figure), "")

    return look


def _value(dataset: DataSet, row: int, path: str) -> object:
    value = dataset.value(row)
    record = read_record(value, dataset.shape)[0] if path.startswith("answer") else None
    return value_at(value, path, record)


def _key(value: object) -> Key | None:
    if value is None:
        return None
    if isinstance(value, bool | int | float):
        return (0, float(value), "")
    return (1, 0.0, str(value).casefold())
