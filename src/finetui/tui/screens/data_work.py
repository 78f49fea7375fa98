"""Slow work of the data screen, for worker threads: opening, indexing, filtering, tokens."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from textual.message import Message

from finetui.data.dataset import DataSet, open_dataset
from finetui.data.records import Record, messages
from finetui.errors import UserError
from finetui.tui.commanding import command_lines, together
from finetui.tui.screens.data_findings import Spot, spots_of, window_of
from finetui.tui.screens.data_view import turn_spans
from finetui.workspace import Workspace

Post = Callable[[Message], object]
_EVERY = 0.2  # seconds between two progress messages
_AT_ONCE = 100  # edited rows that are looked at again for one message


class OpenFile:
    """A data set on screen, and the event that ends the work on it.

    The index thread and the screen read the same file; whoever comes last closes it.
    """

    def __init__(self, data: DataSet) -> None:
        self.data = data
        self.stop = Event()
        self.indexing = False

    @property
    def path(self) -> Path:
        return self.data.path

    @property
    def paths(self) -> list[Path]:
        """All files of the set, the first is ``path``."""
        return self.data.source.paths

    def close(self) -> None:
        self.stop.set()
        if not self.indexing:
            self.data.close()


@dataclass
class Opened(Message):
    """A file is open and its first page can be shown; or ``error`` says why not."""

    path: Path
    file: OpenFile | None = None
    error: str = ""


@dataclass
class Indexed(Message):
    """More rows can be read now."""

    file: OpenFile

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, Indexed) and message.file is self.file


@dataclass
class Matched(Message):
    """The rows that a filter has found so far."""

    file: OpenFile
    text: str
    rows: Sequence[int]
    done: bool
    error: str = ""

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, Matched) and message.text == self.text


@dataclass
class LookedAgain(Message):
    """What the checks say of some edited rows as they are now."""

    file: OpenFile
    found: list[tuple[int, list[Spot]]]


@dataclass
class Tokenised(Message):
    """Which characters of each turn of a row are trained on."""

    row: int
    spans: Mapping[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    caption: str = ""


def open_file(paths: Sequence[Path], workspace: Workspace | None, post: Post) -> None:
    """Open a file, or several as one; the shape is guessed here, because that reads."""
    path = paths[0]
    try:
        data = open_dataset(paths, workspace)
        assert data.source.shape
    except (UserError, OSError) as error:
        post(Opened(path, error=str(error)))
    else:
        post(Opened(path, OpenFile(data)))


def index(file: OpenFile, post: Post) -> None:
    """Read on until every row is known."""
    last = 0.0

    def tell(_done: int) -> None:
        nonlocal last
        if time.monotonic() - last > _EVERY:
            last = time.monotonic()
            post(Indexed(file))

    try:
        file.data.build_index(tell, file.stop.is_set)
    finally:
        file.indexing = False
        if file.stop.is_set():
            file.data.close()
        else:
            post(Indexed(file))


def look_again(file: OpenFile, rows: Sequence[int], stop: Callable[[], bool], post: Post) -> None:
    """The findings of edited rows, one by one: half a millisecond each, too long for a screen."""
    for first in range(0, len(rows), _AT_ONCE):
        if stop():
            return
        some = rows[first : first + _AT_ONCE]
        post(LookedAgain(file, [(row, spots_of(file.data, row)) for row in some]))


def search(
    file: OpenFile, text: str, stop: Callable[[], bool], post: Post, workspace: Workspace | None
) -> None:
    """Rows that a quick filter finds, told as they are found."""
    from finetui.data.filter import filter_rows, surroundings

    found = array("I")
    last = time.monotonic()
    try:
        around = surroundings(file.data, workspace) if workspace else None
        for chunk in filter_rows(file.data, text, stop, around=around):
            found.extend(chunk)
            if time.monotonic() - last > _EVERY:
                last = time.monotonic()
                post(Matched(file, text, found[:], False))
    except UserError as error:
        post(Matched(file, text, [], True, str(error)))
        return
    if not stop():
        post(Matched(file, text, found, True))


async def search_apart(
    file: OpenFile, text: str, sort: Sort | None, post: Post, model: Path | None, folder: Path
) -> None:
    """The same for filters, SQL and orders that would hold up a key: in a process of its own."""
    arguments = ["query", "--rows", "-w", str(folder)]
    if model is not None:
        arguments += ["--model", str(model)]
    if sort is not None:
        arguments += ["--sort", sort.by] + (["--reverse"] if sort.backwards else [])
    if is_sql(text):
        arguments += ["--where", text.partition(" ")[2] if text[:6].lower() == "where " else text]
        text_part = []
    else:
        text_part = [text] if text else []
    found = array("I")
    last = time.monotonic()
    try:
        async with aclosing(command_lines([*arguments, *together(file.paths), *text_part])) as told:
            async for line in told:
                found.extend(line.get("rows", ()))
                if time.monotonic() - last > _EVERY:
                    last = time.monotonic()
                    post(Matched(file, text, found[:], False))
    except UserError as error:
        post(Matched(file, text, array("I"), True, str(error)))
        return
    post(Matched(file, text, found, True))


def is_sql(text: str) -> bool:
    """``where length(text) > 9`` and whole SELECTs that give ``_row``."""
    return text.lower().lstrip().startswith(("where ", "select "))


@dataclass(frozen=True, slots=True)
class Sort:
    """The order rows are shown in."""

    by: str
    backwards: bool


def tokenise(row: int, record: Record, tokenizer: Any, post: Post) -> None:
    """Which parts of a record the loss will see, as the training will have it."""
    contents = [turn.content for turn in [*record.turns, *(record.chosen or ())]]
    try:
        encoded = tokenizer.encode(messages(record), tools=record.extra.get("tools"))
    except UserError as error:
        post(Tokenised(row, caption=f"cannot be tokenised: {error}"))
        return
    spans = turn_spans(encoded, contents)
    caption = f"trained on {sum(encoded.trained):,} of {len(encoded.ids):,} tokens"
    post(Tokenised(row, spans, caption))


def model_folder(workspace: Workspace | None) -> Path | None:
    """The model that rows are shown and counted with."""
    return window_of(workspace).model


@dataclass(frozen=True, slots=True)
class Order:
    """A version of one file to be written."""

    name: str
    skip_malformed: bool = False


@dataclass
class Written(Message):
    """A version was written, or ``error`` says why not."""

    order: Order
    said: str = ""
    error: str = ""


def write(file: OpenFile, workspace: Workspace, order: Order, post: Post) -> None:
    """Write a version of an open file with its edits."""
    from finetui.data.versions import write_version

    try:
        made = write_version(file.data, workspace, order.name, None, order.skip_malformed)
    except UserError as error:
        post(Written(order, error=str(error)))
    else:
        where = workspace.relative(made.path)
        post(Written(order, f"Version {made.id[:12]} is in {where}."))
