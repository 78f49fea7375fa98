"""What is alike in data sets, asked from anywhere: near-duplicates, groups for splits, leaks.

The work needs numpy and takes seconds, so a child process does it, which opens the files and their
journals itself. This module is safe to import, and to call from a thread, in a screen.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, TypeVar

import msgspec

from finetui.data.dataset import DataSet
from finetui.data.findings import Cluster
from finetui.data.records import Shape
from finetui.errors import UserError

THRESHOLD = 0.5  # Jaccard similarity of windows from which rows are near
COVERED = 0.3  # the share of a held-out row that a training row may hold

_MOMENT_S = 0.2

Progress = Callable[[int, int], None]
Stop = Callable[[], bool]
T = TypeVar("T")


class Covered(msgspec.Struct, frozen=True):
    """A training row that gives a held-out row away.

    ``coverage`` is 0 to 1; ``dataset`` is a place among the held-out sets, ``held_out_row`` a row
    of it; ``why`` is "same prompt", "near prompt", "same beginning" or "passages".
    """

    row: int
    coverage: float
    dataset: int
    held_out_row: int
    why: str


class NearLeak(msgspec.Struct, frozen=True):
    """A training row and the held-out row that it gives away, by data set and row.

    ``similarity`` is 0 to 1; ``why`` is "near prompt" or "same beginning".
    """

    dataset: int
    row: int
    held_out: int
    held_out_row: int
    similarity: float
    why: str


class Opened(msgspec.Struct):
    """How the child opens a data set: paths of its files, its journal and its cache folder;
    ``rows`` are those that count (None: all)."""

    paths: list[str]
    journal: str
    cache: str
    shape: Shape | None
    rows: list[int] | None = None


class Task(msgspec.Struct):
    """What the child is asked: ``kind`` is groups, clusters, leaks or covered. The first
    ``trained`` sets are trained on, the others held out."""

    kind: str
    sets: list[Opened]
    trained: int = 1
    threshold: float = THRESHOLD
    least: float = COVERED


class StoppedError(Exception):
    """The person gave up; there is no result."""


def near_groups(
    datasets: Sequence[DataSet],
    threshold: float = THRESHOLD,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> list[list[tuple[int, int]]]:
    """Groups of two and more rows, as (data set, row), that must not straddle a split.

    Rows are together whose prompts, or whole texts, are near, and conversations that begin alike;
    what many rows have in common does not make rows near. Rows that are dropped are left out.
    Raises UserError, or StoppedError when ``stop`` said so.
    """
    sets = [_opened(dataset) for dataset in datasets]
    task = Task("groups", sets, len(sets), threshold)
    return _ask(task, list[list[tuple[int, int]]], progress, stop)


def near_clusters(
    dataset: DataSet,
    threshold: float = THRESHOLD,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> list[Cluster]:
    """Near-duplicates: every row of a cluster is proven near one row of it, its centre.

    Raises UserError, or StoppedError when ``stop`` said so.
    """
    return _ask(
        Task("clusters", [_opened(dataset)], threshold=threshold), list[Cluster], progress, stop
    )


def near_leaks(
    train: Sequence[DataSet],
    held_out: Sequence[DataSet],
    threshold: float = THRESHOLD,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> list[NearLeak]:
    """Training rows whose prompt is near a held-out one, or that begin with its first exchange;
    by data set and row. Prompts that are equal are among them, with a similarity of 1.

    Raises UserError, or StoppedError when ``stop`` said so.
    """
    sets = [_opened(dataset) for dataset in (*train, *held_out)]
    task = Task("leaks", sets, len(train), threshold)
    return _ask(task, list[NearLeak], progress, stop)


def covered(
    train: DataSet,
    held_out: Sequence[DataSet | tuple[DataSet, Sequence[int] | None]],
    least: float = COVERED,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> list[Covered]:
    """Rows of ``train`` that give a held-out row away, the strongest reason for each; by row.

    Beside a held-out set may stand the rows of it that are held out (None: all). Raises
    UserError, or StoppedError when ``stop`` said so.
    """
    sets = [_opened(train)]
    for item in held_out:
        dataset, rows = item if isinstance(item, tuple) else (item, None)
        sets.append(_opened(dataset, rows))
    return _ask(Task("covered", sets, least=least), list[Covered], progress, stop)


def _opened(dataset: DataSet, rows: Sequence[int] | None = None) -> Opened:
    source = dataset.source
    parts = getattr(source, "parts", None) or [source]
    journal = str(dataset.journal.path) if dataset.journal else ""
    paths = [os.path.abspath(part.path) for part in parts]
    chosen = None if rows is None else list(rows)
    return Opened(paths, journal, str(source.cache or ""), dataset.shape, chosen)


def _ask(task: Task, kind: type[T], progress: Progress | None, stop: Stop | None) -> T:
    with tempfile.TemporaryFile() as narration:
        child = subprocess.Popen(
            [sys.executable, "-m", "finetui.data.whole"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=narration,
        )
        try:
            if child.stdin is not None:
                child.stdin.write(msgspec.json.encode(task))
                child.stdin.close()
            answer = _listen(child, progress, stop)
        finally:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
        if "result" not in answer:
            raise _failure(answer, narration)
    return msgspec.convert(answer["result"], kind)


def _listen(
    child: subprocess.Popen[bytes], progress: Progress | None, stop: Stop | None
) -> dict[str, Any]:
    """The last thing that the child says; {} when it ends without a word."""
    for line in _lines(child.stdout, stop) if child.stdout else ():
        told: dict[str, Any] = msgspec.json.decode(line)
        if "done" not in told:
            return told
        if progress is not None:
            progress(told["done"], told["total"])
    return {}


def _lines(stream: IO[bytes], stop: Stop | None) -> Iterator[bytes]:
    """Lines as they come; raises StoppedError within a moment of ``stop``, silent or not."""
    rest = b""
    while True:
        if stop is not None and stop():
            raise StoppedError
        if not select.select([stream], [], [], _MOMENT_S)[0]:
            continue
        chunk = os.read(stream.fileno(), 1 << 16)
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines


def _failure(answer: dict[str, Any], narration: IO[bytes]) -> UserError:
    if "error" in answer:
        return UserError(**answer["error"])
    narration.seek(0)
    last = narration.read().decode(errors="replace").strip().splitlines()[-1:] or ["it was killed"]
    return UserError(
        f"looking for rows that are alike failed: {last[0]}.", fix="Try fewer rows at a time."
    )
