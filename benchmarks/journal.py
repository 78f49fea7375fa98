"""Durable edits and undo: measured against a bare SQLite commit and a bare fsync on this disk.

    python benchmarks/journal.py [--rows 100000] [--dropped 25000] [--edits 200]

Prints wall and CPU milliseconds. A durable edit waits for the disk, so wall time is what a person
feels; the ratios to the bare commit and the bare fsync say how much of it is ours.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from finetui.data.dataset import DataSet, open_dataset
from finetui.workspace import Workspace, create

_TEXT = '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "%d"}]}'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dropped", type=int, default=25_000)
    parser.add_argument("--edits", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finetui-bench-") as name:
        space = create(Path(name) / "work")
        path = space.datasets / "rows.jsonl"
        make_file(path, options.rows)
        print(f"{options.rows:,} rows, {path.stat().st_size / 1e6:,.0f} MB\n")
        floor = report_floor(Path(name), options.edits)
        report_edits(path, space, options.edits, floor)
        report_bulk(path, space, options.dropped)
    return 0


def make_file(path: Path, rows: int) -> None:
    """Chat rows of about 600 bytes."""
    answer = "Please restart the router, wait a minute and try again. " * 9
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            turns = [
                {"role": "user", "content": f"question {number}"},
                {"role": "assistant", "content": answer},
            ]
            file.write(json.dumps({"messages": turns}) + "\n")


def report_floor(folder: Path, count: int) -> float:
    """What this disk takes for one write that lasts: fsync alone, and a bare SQLite commit.

    Returns milliseconds of the commit.
    """
    descriptor = os.open(folder / "floor", os.O_CREAT | os.O_WRONLY, 0o600)
    page = os.urandom(4096)

    def bare_write() -> None:
        os.write(descriptor, page)
        os.fsync(descriptor)

    database = sqlite3.connect(folder / "floor.sqlite", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")

    def bare_commit() -> None:
        database.execute("INSERT INTO t (b) VALUES (?)", (_TEXT,))

    line("a bare write and fsync of 4 kB", *each(bare_write, count))
    commit = each(bare_commit, count)
    line("a bare SQLite commit (WAL, FULL)", *commit)
    os.close(descriptor)
    database.close()
    return commit[0]


def report_edits(path: Path, space: Workspace, count: int, floor: float) -> None:
    with open_dataset(path, space) as dataset:
        dataset.build_index()
        dataset.edit(0, _TEXT % -1)  # makes the journal's file
        rows = iter(range(1, count + 1))

        def edit() -> None:
            row = next(rows)
            dataset.edit(row * 97 % dataset.rows, _TEXT % row)

        wall, cpu, worst = each(edit, count)
        line("a durable edit (goal 10 ms)", wall, cpu, worst)
        print(f"{'':44} {wall / floor:.2f} times a bare commit\n")


def report_bulk(path: Path, space: Workspace, count: int) -> None:
    floor = min(bare_flip(path.parent, count) for _ in range(5))
    print(f"{f'bare SQLite: flip {count:,} rows, commit':44} wall {floor:8.2f} ms")
    with open_dataset(path, space) as dataset:
        dataset.build_index()
        rows = list(range(1, dataset.rows, max(1, dataset.rows // count)))[:count]
        measured(f"drop of {count:,} rows", lambda: dataset.drop(rows, "benchmark"))
        undone = []
        for _ in range(5):
            undone.append(each(dataset.undo, 1))
            each(dataset.redo, 1)
        best = min(undone)
        line("undo of it (goal 100 ms), best of 5", *best[:2], max(wall for wall, *_ in undone))
        print(f"{'':44} {best[0] / floor:.2f} times the bare flip")
        step = dataset.steps()[-1].seq
        measured("switching it off", lambda: dataset.switch(step, False))
        measured("switching it on", lambda: dataset.switch(step, True))
        measured("the list of all steps", dataset.steps)
        measured("counts by reason", dataset.counts)
    measured("opening it again", lambda: closed(open_dataset(path, space)))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[10:]))
    measured("opening it after 10 lines went", lambda: closed(open_dataset(path, space)))


def bare_flip(folder: Path, count: int) -> float:
    """Milliseconds to change one flag of so many rows in a table and commit."""
    file = folder / "flip.sqlite"
    file.unlink(missing_ok=True)
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE t (row INTEGER PRIMARY KEY, dropped INTEGER)")
    database.execute("BEGIN")
    database.executemany("INSERT INTO t VALUES (?, 1)", ((row,) for row in range(count)))
    database.execute("COMMIT")
    start = time.perf_counter()
    database.execute("UPDATE t SET dropped = 0")
    spent = 1000 * (time.perf_counter() - start)
    database.close()
    return spent


def closed(dataset: DataSet) -> None:
    assert len(dataset.changed_rows()) > 1000
    dataset.close()


def each(work: Callable[[], object], count: int) -> tuple[float, float, float]:
    """Median wall and mean CPU milliseconds of one call, and the worst wall."""
    walls = []
    cpu = time.process_time()
    for _ in range(count):
        start = time.perf_counter()
        work()
        walls.append(1000 * (time.perf_counter() - start))
    return statistics.median(walls), 1000 * (time.process_time() - cpu) / count, max(walls)


def measured(name: str, work: Callable[[], object]) -> None:
    line(name, *each(work, 1)[:2])


def line(name: str, wall: float, cpu: float, worst: float | None = None) -> None:
    most = "" if worst is None else f"   worst {worst:.1f}"
    print(f"{name:44} wall {wall:8.2f} ms   CPU {cpu:8.2f} ms{most}")


if __name__ == "__main__":
    sys.exit(main())
