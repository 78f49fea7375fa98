"""How commands speak: data on standard output, narration and progress on standard error."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from finetui.display import clean, in_json, plain
from finetui.workspace import Workspace, require

Progress = Callable[[int, int], None]
"""Called with (done, total); total 0 is unknown."""

_PLAIN_EVERY_S = 5.0


def parser(
    description: str, *, json: bool = False, workspace: bool = True
) -> argparse.ArgumentParser:
    """An argument parser with the options that most commands share."""
    made = argparse.ArgumentParser(description=description)
    if json:
        made.add_argument("--json", action="store_true", help="one JSON value a line, for scripts")
    if workspace:
        add_workspace(made, Path())
    return made


def add_workspace(made: argparse.ArgumentParser, default: Path | str) -> None:
    """The option that says where; a sub-command passes SUPPRESS, its parent has the default."""
    made.add_argument(
        "-w",
        "--workspace",
        type=Path,
        default=default,
        metavar="PATH",
        help="a folder inside the workspace (default: here)",
    )


def workspace_of(arguments: argparse.Namespace) -> Workspace:
    return require(arguments.workspace)


def emit(value: Any) -> None:
    """One JSON value on one line of standard output, safe to look at on a terminal."""
    sys.stdout.write(in_json(_json(value)) + "\n")
    sys.stdout.flush()


def _json(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:  # half a character: data may hold it, UTF-8 cannot
        import json

        return json.dumps(msgspec.to_builtins(value))


def out(line: str = "") -> None:
    """Lines of data for people; what they quote from files is cleaned here."""
    sys.stdout.write(plain(line) + "\n")


def place(path: Path) -> None:
    """A path on a line of its own, for programs: as it is, unless a terminal shows it."""
    try:
        sys.stdout.write(f"{path}\n")
    except UnicodeEncodeError:  # a name that is no UTF-8
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(path) + b"\n")


def say(line: str) -> None:
    """One line of narration."""
    print(clean(line), file=sys.stderr, flush=True)


def table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> None:
    """Left-aligned columns; cells come from files, so they are cleaned here."""
    lines = [[clean(str(cell)) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        out("  ".join(padded).rstrip())


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """A bar on a terminal; elsewhere a plain line every few seconds."""
    with _bar(title) if sys.stderr.isatty() else _lines(title) as update:
        yield update


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(),
               TimeRemainingColumn())  # fmt: skip
    terminal = Console(file=getattr(sys.stderr, "stream", sys.stderr))
    with Bar(*columns, console=terminal, transient=True) as bar:
        task = bar.add_task(clean(title), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


@contextmanager
def _lines(title: str) -> Iterator[Progress]:
    last = time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _PLAIN_EVERY_S:
            last = time.monotonic()
            say(f"{title}: {done / total:.0%}" if total else f"{title}: {done:,}")

    yield update


def take_more_files(made: argparse.ArgumentParser) -> None:
    """``--with FILE``: further files of the same set, as ``more``."""
    made.add_argument(
        "--with",
        type=Path,
        action="append",
        default=[],
        dest="more",
        metavar="FILE",
        help="read FILE as more rows of the first one: both are one set",
    )


def take_recipe(made: argparse.ArgumentParser, example: str) -> None:
    """A recipe, and ``--set FIELD=VALUE`` for a change of it."""
    made.add_argument("recipe", help="a recipe file, or the name of one in recipes/")
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help=f"change a field first, as in {example}",
    )
