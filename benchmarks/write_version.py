"""Writing versions of a large data set, and splitting it, against `wc -l` on the same file.

    python benchmarks/write_version.py [FILE] [--rows N]

Without FILE a chat set of N rows (default 1,000,000, about 1.1 GB) is made. CPU seconds of the
whole process part, the best of two runs, and the ratio to the best of five runs of `wc -l`:

- a version of the file as it is; one with 25,000 rows dropped and 500 edited;
- the split of its first 200,000 rows, without and with writing it.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from finetui.data.dataset import DataSet, open_dataset
from finetui.data.split import SplitSpec, split_datasets
from finetui.data.versions import write_version
from finetui.workspace import Workspace, create

SPLIT_ROWS = 200_000


def make(path: Path, rows: int) -> None:
    """Chats of one or two exchanges, 1.1 kB a row, in invented words."""
    rng = random.Random(7)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 10))) for _ in range(20_000)]

    def text(low: int, high: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(low, high)))

    with path.open("w") as file:
        for number in range(rows):
            turns = [{"role": "system", "content": "You are a helpful assistant."}]
            for _ in range(rng.choice((1, 1, 1, 2))):
                turns.append({"role": "user", "content": text(10, 60)})
                turns.append({"role": "assistant", "content": text(20, 120)})
            file.write(json.dumps({"messages": turns, "id": number}) + "\n")


def wc(path: Path) -> float:
    """CPU seconds of `wc -l`."""
    best = 1e9
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(["wc", "-l", path], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def best_of_two(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(2):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return min(seconds)


def written(dataset: DataSet, workspace: Workspace, spec: SplitSpec | None = None) -> None:
    """Write a version and take it away again, so that the next one is written too."""
    shutil.rmtree(write_version(dataset, workspace, spec=spec, skip_malformed=True).path)


def tell(name: str, seconds: float, base: float, size: int) -> None:
    print(f"{name:<46} {seconds:7.2f} s CPU  {seconds / base:6.1f} x wc -l of {size / 1e6:,.0f} MB")


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("file", type=Path, nargs="?")
    asked.add_argument("--rows", type=int, default=1_000_000)
    arguments = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = create(Path(folder) / "work")
        path = arguments.file or workspace.datasets / "rows.jsonl"
        if arguments.file is None:
            make(path, arguments.rows)
        part = workspace.datasets / "part.jsonl"
        with path.open("rb") as whole, part.open("wb") as first:
            first.writelines(islice(whole, SPLIT_ROWS))
        measure(path, part, workspace)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:,.0f} MB")


def measure(path: Path, part: Path, workspace: Workspace) -> None:
    size = path.stat().st_size
    base = wc(path)
    tell("wc -l", base, base, size)
    with open_dataset(path, workspace) as dataset:
        dataset.build_index()
        tell("version as it is", best_of_two(lambda: written(dataset, workspace)), base, size)
        rows = random.Random(1).sample(range(dataset.rows), min(25_500, dataset.rows // 2))
        dataset.drop(rows[500:])
        for row in rows[:500]:
            dataset.edit(row, json.dumps({"messages": []}))
        name = f"version with {len(rows) - 500:,} drops and 500 edits"
        tell(name, best_of_two(lambda: written(dataset, workspace)), base, size)
    size = part.stat().st_size
    base = wc(part)
    with open_dataset(part, workspace) as dataset:
        dataset.build_index()
        spec = SplitSpec()
        name = f"split of {dataset.rows:,} rows"
        tell(name, best_of_two(lambda: split_datasets([dataset], spec)), base, size)
        tell(f"{name}, written", best_of_two(lambda: written(dataset, workspace, spec)), base, size)


if __name__ == "__main__":
    main()
