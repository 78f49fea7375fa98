"""SQL over a data set as it is edited now, by DuckDB.

DuckDB numbers the lines of a file with blank or broken ones wrongly and has no notion of edits,
so it gets a copy (in the cache) in which every readable row says its own line:

    _line  physical line, 1-based      _row     the row's number, 0-based
    _bytes length of the row           _edited, _dropped, _marked, _label
    _file  its file, in a set of several
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from finetui.data.dataset import DataSet
from finetui.data.filter import Report, counted
from finetui.data.strict import RowError, dumps
from finetui.errors import UserError

TABLE = "data"
_OBJECT = 16 << 20  # bytes; DuckDB keeps a buffer of this size for each thread
_WRITE = 1 << 22


@dataclass(frozen=True)
class Answer:
    """The columns and the rows of a query, at most as many as asked for."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    more: bool


def run_sql(
    dataset: DataSet,
    sql: str,
    cache: Path,
    limit: int = 1000,
    progress: Report | None = None,
) -> Answer:
    """Answer a SELECT over the table ``data``. Raises UserError with DuckDB's own words.

    The query sees nothing but the data set: no other file, no network, no extension.
    """
    import duckdb

    copy = _copy(dataset, cache, progress)
    try:
        with _connected(copy, cache) as database:
            found = database.execute(sql)
            columns = tuple(str(entry[0]) for entry in found.description or ())
            rows = found.fetchmany(limit + 1)
    except duckdb.Error as error:
        raise UserError(f"SQL: {_first_lines(str(error))}") from None
    return Answer(columns, rows[:limit], len(rows) > limit)


def rows_where(
    dataset: DataSet,
    condition: str,
    cache: Path,
    progress: Report | None = None,
) -> Iterator[list[int]]:
    """Row numbers for which an SQL condition holds, in order, in one chunk.

    A whole SELECT is taken as well when it gives ``_row``.
    """
    whole = condition.lstrip().lower().startswith(("select", "with", "from"))
    sql = f"SELECT _row FROM ({condition.rstrip().rstrip(';')})" if whole else (
        f"SELECT _row FROM {TABLE} WHERE {condition}"
    )  # fmt: skip
    answer = run_sql(dataset, f"{sql} ORDER BY _row", cache, dataset.rows, progress)
    yield [int(row[0]) for row in answer.rows]


def _connected(copy: Path, cache: Path) -> Any:
    import duckdb

    database = duckdb.connect()
    scratch = cache / "sql" / "scratch"
    database.execute("SET threads = 2")
    database.execute("SET memory_limit = '1GB'")
    database.execute("SET temp_directory = ?", [str(scratch)])
    for sample in (20_480, -1):
        try:
            _view(database, copy, sample)
            break
        except duckdb.Error:
            if sample < 0:
                raise
    # From here on the person's SQL runs: it may read this one file and change nothing.
    database.execute("SET allowed_paths = ?", [[str(copy)]])
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")
    return database


def _view(database: Any, copy: Path, sample: int) -> None:
    name = str(copy).replace("'", "''")
    longest = int(copy.stem.rpartition("-")[2])
    source = (
        f"read_json('{name}', format='newline_delimited', sample_size={sample}, "
        f"maximum_object_size={max(_OBJECT, 2 * longest)}, map_inference_threshold=-1)"
    )
    database.execute(f"CREATE OR REPLACE VIEW {TABLE} AS SELECT * FROM {source}")
    database.execute(f"SELECT * FROM {TABLE} LIMIT 1").fetchall()


# ---------------------------------------------------------------- the copy


def _copy(dataset: DataSet, cache: Path, progress: Report | None) -> Path:
    """The copy of the data set as it is now, made when there is none."""
    folder = cache / "sql"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    head = dataset.journal.head if dataset.journal else 0
    names = "\n".join(str(path.resolve()) for path in dataset.source.paths)
    stem = xxhash.xxh3_64_hexdigest(names.encode())
    state = f"{dataset.source.identity()}-{dataset.source.modified}-{head}"
    name = f"{stem}-{xxhash.xxh3_64_hexdigest(state.encode())}"
    made = next(folder.glob(f"{name}-*.jsonl"), None)
    if made is None:
        for old in folder.glob(f"{stem}-*.jsonl"):
            old.unlink(missing_ok=True)
        made = _write(dataset, folder, name, progress)
    return made


def _write(dataset: DataSet, folder: Path, name: str, progress: Report | None) -> Path:
    """Write the copy; its name ends with the length of the longest row in bytes."""
    dataset.build_index()
    longest = 0
    part = folder / f"{name}.{os.getpid()}.part"
    try:
        with part.open("wb", buffering=_WRITE) as file:
            for row in counted(range(dataset.rows), progress):
                line = _line(dataset, row)
                longest = max(longest, len(line))
                file.write(line)
        target = folder / f"{name}-{longest}.jsonl"
        part.replace(target)
        return target
    finally:
        part.unlink(missing_ok=True)


def _line(dataset: DataSet, row: int) -> bytes:
    """One row of the copy; nothing for a row that cannot be read."""
    try:
        value = dataset.value(row)
    except RowError:
        return b""
    state = dataset.state(row)
    facts = {
        "_row": row,
        "_line": dataset.source.line(row),
        "_bytes": len(dataset.raw(row)),
        "_edited": state.text is not None,
        "_dropped": not state.kept,
        "_marked": state.marked,
        "_label": state.label,
    }
    if len(dataset.source.files) > 1:
        facts["_file"] = dataset.source.place(row).path.name
    own = value if isinstance(value, dict) else {"value": value}
    kept = {key: part for key, part in own.items() if key not in facts}
    return dumps(facts | kept).encode(errors="replace") + b"\n"


def _first_lines(text: str) -> str:
    """DuckDB's message without the drawing below it."""
    return " ".join(text.split("\n\n")[0].split())


def as_json(value: Any) -> Any:
    """A cell as JSON can hold it."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return str(value)
    return value
