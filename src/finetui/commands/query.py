"""``finetui query``: rows of a data set by the filter language, by SQL, in another order."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from finetui.commands import console
from finetui.display import clean, plural
from finetui.errors import UserError

if TYPE_CHECKING:
    from finetui.data.dataset import DataSet
    from finetui.data.filter import Surroundings
    from finetui.workspace import Workspace

_EVERY = 20_000  # rows between two lines of progress for a program that reads along


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Find rows: by the filter language (see --help-filter), by an SQL condition, or in "
        "another order. Edits are seen as they are now.",
        json=True,
    )
    made.add_argument("file", type=Path, metavar="FILE", nargs="?")
    made.add_argument("filter", nargs="?", default="", metavar="FILTER")
    console.take_more_files(made)
    made.add_argument("--where", default="", metavar="SQL", help="an SQL condition, by DuckDB")
    made.add_argument("--sql", default="", help="a whole SELECT over the table `data`")
    made.add_argument(
        "--sort", default="", metavar="KEY", help="bytes, length, turns, tokens, findings, a field"
    )
    made.add_argument("--reverse", action="store_true", help="largest first")
    made.add_argument("--limit", type=int, default=0, metavar="N", help="at most N rows")
    made.add_argument("--model", type=Path, metavar="DIR", help="a model folder, for tokens")
    made.add_argument("--rows", action="store_true", help="row numbers only, for programs")
    made.add_argument("--help-filter", action="store_true", help="explain the filter language")
    return made


def run(arguments: argparse.Namespace) -> int:
    if arguments.help_filter:
        from finetui.data import query

        console.out((query.__doc__ or "").rstrip())
        return 0
    if arguments.file is None:
        raise UserError("no file to look in.", fix="Name one: finetui query FILE FILTER")
    from finetui.data.dataset import open_dataset

    workspace = console.workspace_of(arguments)
    with ExitStack() as stack:
        dataset = stack.enter_context(open_dataset([arguments.file, *arguments.more], workspace))
        if arguments.sql:
            return _sql(dataset, workspace, arguments)
        chunks = _found(dataset, workspace, arguments)
        count = _tell(dataset, chunks, arguments)
    if not arguments.rows:
        console.say(plural(count, "row"))
    return 0 if count else 1


def _found(
    dataset: DataSet, workspace: Workspace, arguments: argparse.Namespace
) -> Iterator[list[int]]:
    from finetui.data.filter import filter_rows, surroundings

    around = surroundings(dataset, workspace, arguments.model)
    if arguments.where:
        from finetui.data.sql import rows_where

        chunks = rows_where(dataset, arguments.where, workspace.cache, _reporter(arguments))
    elif arguments.filter:
        chunks = filter_rows(
            dataset, arguments.filter, progress=_reporter(arguments), around=around
        )
    else:
        dataset.build_index()
        chunks = iter([list(range(dataset.rows))])
    return _sorted(dataset, chunks, arguments, around) if arguments.sort else chunks


def _sorted(
    dataset: DataSet,
    chunks: Iterator[list[int]],
    arguments: argparse.Namespace,
    around: Surroundings,
) -> Iterator[list[int]]:
    from finetui.data.ordering import ordered

    chosen = bytearray(max(dataset.rows, 1))
    for chunk in chunks:
        for row in chunk:
            if row >= len(chosen):
                chosen.extend(bytes(row + 1 - len(chosen)))
            chosen[row] = 1
    order = ordered(dataset, arguments.sort, arguments.reverse, around, _reporter(arguments))
    yield [row for row in order if row < len(chosen) and chosen[row]]


def _reporter(arguments: argparse.Namespace) -> console.Progress | None:
    """Progress as JSON lines for a program that reads row numbers; none otherwise."""
    if not arguments.rows:
        return None
    last = 0

    def report(done: int, total: int) -> None:
        nonlocal last
        if done - last >= _EVERY or done < last:
            last = done
            console.emit({"done": done, "total": total})

    return report


def _tell(dataset: DataSet, chunks: Iterator[list[int]], arguments: argparse.Namespace) -> int:
    count = 0
    for chunk in chunks:
        part = chunk[: arguments.limit - count] if arguments.limit else chunk
        if arguments.rows:
            for start in range(0, len(part), _EVERY):
                console.emit({"rows": part[start : start + _EVERY]})
        else:
            for row in part:
                _tell_row(dataset, row, arguments.json)
        count += len(part)
        if arguments.limit and count >= arguments.limit:
            break
    return count


def _tell_row(dataset: DataSet, row: int, as_json: bool) -> None:
    found = dataset.row(row)
    if as_json:
        told = {"line": found.line, "offset": found.offset, "value": found.value}
        console.emit(told if not found.error else told | {"error": found.error})
    else:
        console.out(f"{found.line}:{clean(found.text)}")


def _sql(dataset: DataSet, workspace: Workspace, arguments: argparse.Namespace) -> int:
    from finetui.data.sql import as_json, run_sql

    with console.progress("reading") as progress:
        answer = run_sql(dataset, arguments.sql, workspace.cache, arguments.limit or 1000, progress)
    if arguments.json:
        for row in answer.rows:
            cells = zip(answer.columns, row, strict=True)
            console.emit({name: as_json(cell) for name, cell in cells})
    else:
        console.table([[_cell(cell) for cell in row] for row in answer.rows], answer.columns)
    if answer.more:
        console.say("there are more rows: --limit N shows them")
    sys.stdout.flush()
    return 0 if answer.rows else 1


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= 120 else text[:119] + "…"
