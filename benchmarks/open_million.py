"""Opening a JSONL file of 1,000,000 rows: first page and exact index, measured against `wc -l`.

    python benchmarks/open_million.py [--rows 1000000] [--checks 20000]

Prints CPU seconds and their ratio to `wc -l` over the same file in the same run, because seconds
alone mean little on a shared machine. The file (about 360 MB) is made in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TypeVar

from finetui.data.checks.run import check_files
from finetui.data.dataset import DataSet
from finetui.data.filter import filter_rows
from finetui.data.formats.source import open_source

T = TypeVar("T")
_WORDS = ("account", "charged", "twice", "invoice", "team", "urgent", "please", "reset", "slow")
_SYSTEM = "You classify customer support tickets by urgency. Answer with JSON only."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--checks", type=int, default=20_000, help="rows of the check benchmark")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finetui-bench-") as name:
        path = Path(name) / "million.jsonl"
        make_file(path, options.rows)
        print(f"{options.rows:,} rows, {path.stat().st_size / 1e6:,.0f} MB")
        report(path, options.rows)
        report_checks(Path(name) / "checks.jsonl", options.checks)
    return 0


def make_file(path: Path, rows: int) -> None:
    """Chat rows of mixed lengths, mean about 360 bytes; one seed, one file."""
    rng = Random(7)
    with path.open("w", encoding="utf-8") as file:
        for first in range(0, rows, 10_000):
            count = min(10_000, rows - first)
            file.writelines(row(rng, first + number) for number in range(count))


def row(rng: Random, number: int) -> str:
    text = " ".join(rng.choices(_WORDS, k=rng.randint(8, 38)))
    turns = [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": f"Ticket {number}: {text}."},
        {"role": "assistant", "content": '{"urgency": "high"}'},
    ]
    return json.dumps({"messages": turns}) + "\n"


def report(path: Path, rows: int) -> None:
    base = cpu_of_command(["wc", "-l", str(path)])
    table = [("wc -l", base, "")]
    cache = path.parent / "cache"
    before = peak_megabytes()

    seconds, source = timed(lambda: open_source(path, cache))
    page, _ = timed(lambda: source.head(60))
    about = f"≈ {source.estimated_rows:,} rows" if not source.exact else "exact"
    table.append(("open and first page of 60 rows", seconds + page, about))

    seconds, _ = timed(source.build_index)
    assert source.exact and source.rows == rows, source.rows
    table.append(("exact index, written to the cache", seconds, f"{source.rows:,} rows"))

    places = Random(1).sample(range(rows), min(rows, 2000))
    seconds, _ = timed(lambda: [source.raw(place) for place in places])
    table.append(("2,000 random rows", seconds, f"{1e6 * seconds / len(places):.0f} µs a row"))
    grown = peak_megabytes() - before

    seconds, again = timed(lambda: open_source(path, cache))
    assert again.exact
    table.append(("open again, index from the cache", seconds, "exact at once"))

    dataset = DataSet(source, None)
    seconds, found = timed(lambda: sum(map(len, filter_rows(dataset, "TICKET 77777:"))))
    table.append(("filter by text over all rows", seconds, f"{found} found"))
    print_table(table, base)
    print(f"peak memory grew by {grown:.0f} MB over opening, indexing and reading\n")


def report_checks(path: Path, rows: int) -> None:
    make_file(path, rows)
    lines = path.read_bytes().splitlines()
    parse, _ = timed(lambda: [json.loads(line) for line in lines])
    seconds, found = timed(lambda: sum(1 for _ in check_files([path])))
    table = [
        (f"json.loads of {rows:,} rows", parse, ""),
        ("all checks", seconds, f"{1e6 * seconds / rows:.0f} µs a row, {found} findings"),
    ]
    print_table(table, parse)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """CPU seconds of this process, and what the work returned."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def cpu_of_command(command: list[str]) -> float:
    """CPU seconds of a child; run twice, so that the file is in the page cache."""
    seconds = 0.0
    for _ in range(2):
        before = os.times()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        spent = after.children_user + after.children_system
        seconds = spent - before.children_user - before.children_system
    return max(seconds, 0.01)  # the clock ticks at 10 ms


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def print_table(table: list[tuple[str, float, str]], base: float) -> None:
    print(f"{'':36} {'CPU s':>8} {'ratio':>8}")
    for name, seconds, note in table:
        print(f"{name:36} {seconds:8.3f} {seconds / base:8.2f}  {note}")
    print()


if __name__ == "__main__":
    sys.exit(main())
