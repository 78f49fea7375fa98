"""``python -m finetui.data.whole``: the far side of `finetui.data.alike`.

Reads one task from standard input and writes JSON lines: ``{"done": n, "total": m}`` now and then,
``{"result": ...}`` at the end, or ``{"error": ...}`` for the person.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from finetui.data.alike import Opened, Task
from finetui.data.dataset import DataSet
from finetui.data.edits.journal import Journal
from finetui.data.formats.source import Source, open_source
from finetui.data.whole import leakage, near
from finetui.data.whole.rows import ChosenRows, RowReader, rows_of
from finetui.errors import UserError

_EVERY_S = 0.2


def main() -> int:
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    try:
        with ExitStack() as stack:
            readers = [_reader(stack.enter_context(_open(each)), each) for each in task.sets]
            result = _TASKS[task.kind](readers, task)
    except UserError as error:
        _tell({"error": {"what": error.what, "where": error.where, "fix": error.fix}})
        return 1
    _tell({"result": result})
    return 0


def _open(opened: Opened) -> DataSet:
    source = _source(
        [Path(path) for path in opened.paths], Path(opened.cache) if opened.cache else None
    )
    dataset = DataSet(source, Journal(Path(opened.journal)) if opened.journal else None)
    dataset.shape_override = opened.shape
    return dataset


def _reader(dataset: DataSet, opened: Opened) -> RowReader:
    reader = rows_of(dataset)
    return reader if opened.rows is None else ChosenRows(reader, opened.rows)


def _source(paths: list[Path], cache: Path | None) -> Source:
    if len(paths) == 1:
        return open_source(paths[0], cache)
    from finetui.data.formats.several import open_several

    return open_several(paths, cache)


def _groups(readers: list[RowReader], task: Task) -> Any:
    return near.groups(readers, task.threshold, _progress())


def _clusters(readers: list[RowReader], task: Task) -> Any:
    return near.clusters(readers[0], task.threshold, _progress())


def _leaks(readers: list[RowReader], task: Task) -> Any:
    train, held_out = readers[: task.trained], readers[task.trained :]
    return leakage.near_leaks(train, held_out, task.threshold, _progress())


def _covered(readers: list[RowReader], task: Task) -> Any:
    return leakage.covered(readers[0], readers[1:], task.least, _progress())


_TASKS: dict[str, Callable[[list[RowReader], Task], Any]] = {
    "groups": _groups,
    "clusters": _clusters,
    "leaks": _leaks,
    "covered": _covered,
}


def _progress() -> Callable[[int, int], None]:
    last = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY_S:
            last = time.monotonic()
            _tell({"done": done, "total": total})

    return tell


def _tell(value: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
