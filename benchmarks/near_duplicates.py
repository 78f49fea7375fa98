"""Near-duplicates in a set with planted near copies: time, memory, recall and false pairs.

    python benchmarks/near_duplicates.py [--rows 100000] [--file OUT.jsonl]

The set is made by `corpus.py` (or is an OUT.jsonl that it made, with OUT.truth.json beside it).
CPU seconds and peak memory are those of the child process that does all the work, from opening
the file to the clusters. A planted pair is found when both rows are in one cluster. A pair that was
not planted is judged by another measure than the search uses, the Jaccard similarity of word
3-grams (of 5-grams of characters for scripts without spaces): under 0.3 it is false.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpus import build

from finetui.data.alike import near_clusters
from finetui.data.dataset import DataSet, open_dataset
from finetui.data.findings import Cluster
from finetui.data.keys import content_hash, normalise

FALSE_BELOW = 0.3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--file", type=Path, help="a file made by corpus.py")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finetui-bench-") as name:
        path = options.file or Path(name) / "corpus.jsonl"
        if options.file is None:
            build(path, options.rows)
        report(path)
    return 0


def report(path: Path) -> None:
    truth = json.loads(path.with_name(f"{path.stem}.truth.json").read_text())
    base = cpu_of(["wc", "-l", str(path)])
    with open_dataset(path) as dataset:
        before = children_cpu()
        clusters = near_clusters(dataset)
        seconds = children_cpu() - before
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        dataset.build_index()
        rows = dataset.rows
        print(f"{rows:,} rows, {path.stat().st_size / 1e6:,.0f} MB, {len(clusters):,} clusters")
        print(
            f"CPU {seconds:.1f} s ({1e6 * seconds / rows:.0f} µs a row, {seconds / base:.0f} x wc)"
        )
        print(f"peak memory {peak:,.0f} MB")
        print_recall(truth["near"], clusters)
        print_false(dataset, truth["near"], clusters)


def print_recall(planted: list[Any], clusters: list[Cluster]) -> None:
    """Each planted pair is [line, line of the original, way of editing, Jaccard]."""
    cluster_of = {row: cluster.id for cluster in clusters for row in cluster.rows}
    total: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for line, original, way, likeness in planted:
        hit = cluster_of.get(line - 1, -1) == cluster_of.get(original - 1, -2)
        for name in names(way, likeness):
            total[name] += 1
            found[name] += hit
    for name in sorted(total):
        print(f"  recall {found[name] / total[name]:7.4f}  of {total[name]:6,}  {name}")


def names(way: str, likeness: float) -> list[str]:
    least = [f"all with Jaccard >= {limit}" for limit in (0.5, 0.3) if likeness >= limit]
    return [f"way: {way}", *least]


def print_false(dataset: DataSet, planted: list[Any], clusters: list[Cluster]) -> None:
    """Rows that stand in a cluster without a relation to its first row, planted or real."""
    family = families(planted)
    checked, false = 0, 0
    for cluster in clusters:
        first = cluster.rows[0]
        for row in cluster.rows[1:]:
            if root(family, row) == root(family, first) or same(dataset, first, row):
                continue
            checked += 1
            likeness = max(alike(dataset, row, other) for other in cluster.rows if other != row)
            if likeness < FALSE_BELOW:
                false += 1
                print(f"  false: lines {first + 1} and {row + 1}, {likeness:.2f}")
    print(f"  {false} false of {checked:,} rows in clusters that no plant explains")


def families(planted: list[Any]) -> dict[int, int]:
    family: dict[int, int] = {}
    for line, original, _, _ in planted:
        family[root(family, line - 1)] = root(family, original - 1)
    return family


def root(family: dict[int, int], row: int) -> int:
    while family.get(row, row) != row:
        row = family[row]
    return row


def same(dataset: DataSet, row: int, other: int) -> bool:
    return content_hash(dataset.record(row)) == content_hash(dataset.record(other))


def alike(dataset: DataSet, row: int, other: int) -> float:
    left, right = set(grams(dataset, row)), set(grams(dataset, other))
    return len(left & right) / max(1, len(left | right))


def grams(dataset: DataSet, row: int) -> Iterator[tuple[str, ...]]:
    turns = dataset.record(row).all_turns()
    text = normalise("\n".join(turn.content for turn in turns if turn.role != "system"))
    spaced = text.count(" ") * 12 > len(text)
    units, size = (text.split(), 3) if spaced else (list(text), 5)
    return (tuple(units[place : place + size]) for place in range(max(1, len(units) - size + 1)))


def children_cpu() -> float:
    times = os.times()
    return times.children_user + times.children_system


def cpu_of(command: list[str]) -> float:
    """CPU seconds of a child; run twice, so that the file is in the page cache."""
    seconds = 0.0
    for _ in range(2):
        before = children_cpu()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = children_cpu() - before
    return max(seconds, 0.01)  # the clock ticks at 10 ms


if __name__ == "__main__":
    sys.exit(main())
