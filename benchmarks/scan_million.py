"""All linear checks over a million rows, measured against `wc -l`, with what they found.

    python benchmarks/scan_million.py [--corpus FILE] [--rows 1000000] [--workers 2] [--whole]

FILE is made by benchmarks/corpus.py (in a temporary folder when it is not given) and has its
truth beside it. The scan is ``finetui check --store``, as the Data screen runs it: rows first
asked for, estimates, then everything, kept in a store. CPU seconds are those of all processes
together; their ratio to ``wc -l`` over the same file in the same run is what counts, because
seconds alone mean little on a shared machine. Memory is the peak of each process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from corpus import build

from finetui.data.checks.structure import CHECKS
from finetui.data.findings import FindingsStore
from finetui.data.formats.source import JsonlSource
from finetui.data.scan.plain import PlainRows
from finetui.data.strict import decode
from finetui.workspace import create

LIMIT = 150
LIMIT_MB = 300
TYPED = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--whole", action="store_true", help="the checks of whole sets as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finetui-bench-") as name:
        folder = Path(name)
        corpus = options.corpus or folder / "corpus.jsonl"
        if options.corpus is None:
            build(corpus, options.rows)
        workspace = create(folder / "workspace")
        base = min(cpu_of(["wc", "-l", str(corpus)])[0] for _ in range(3))
        command = [sys.executable, "-m", "finetui", "check", str(corpus), "--store"]
        command += ["-w", str(workspace.root), "--workers", str(options.workers)]
        if not options.whole:
            command.append("--quick")
        started = time.monotonic()
        cpu, peaks, said = watched(command)
        wall = time.monotonic() - started
        last = json.loads(said[-1])
        parsing = json_floor(corpus)
        report(corpus, base, cpu, wall, peaks, said)
        typed = typed_pass(corpus)
        print(f"json.loads of each row {parsing:8.2f} CPU s  {parsing / base:6.1f} x")
        print(f"the typed pass         {typed:8.2f} CPU s  {typed / base:6.1f} x (limit {TYPED})")
        print(f"the checks are         {cpu / parsing:8.2f} x that loop (the prototype: 12.6 x)")
        again = cpu_of(command)[0]
        print(f"again, from the store: {again:.2f} CPU s")
        with FindingsStore(Path(last["stored"])) as store:
            tell_recall(store, corpus.with_suffix(".truth.json"))
        good = cpu / base <= LIMIT and max(peaks.values()) < LIMIT_MB
    return 0 if good else 1


def json_floor(corpus: Path, rows: int = 100_000) -> float:
    """CPU seconds that `json.loads` takes for every row, from the first ``rows``: how much slower
    than `wc` a program in Python must be on this machine."""
    done = size = 0
    start = time.process_time()
    with corpus.open("rb") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                json.loads(line)
            done, size = done + 1, size + len(line)
            if done == rows:
                break
    return (time.process_time() - start) * corpus.stat().st_size / size


def typed_pass(corpus: Path, rows: int = 100_000) -> float:
    """CPU seconds in which every row is decoded into roles and texts and known to be plain."""
    with JsonlSource(corpus) as source:
        read = PlainRows(source.shape.shape, list(map(decode, source.head(5))), CHECKS).read
        done = size = 0
        start = time.process_time()
        for _, _, block in source.blocks():
            for row in block.split(b"\n"):
                read(row, False)
                done += 1
            size += len(block)
            if done >= rows:
                break
        return (time.process_time() - start) * corpus.stat().st_size / size


def report(
    corpus: Path, base: float, cpu: float, wall: float, peaks: dict[str, float], said: list[str]
) -> None:
    summary = json.loads(said[-1])["summary"]
    size = corpus.stat().st_size / 1e6
    print(f"{summary['rows']:,} rows, {size:,.0f} MB, {summary['findings']:,} findings")
    print(f"wc -l                  {base:8.2f} CPU s")
    print(f"all linear checks      {cpu:8.2f} CPU s  {cpu / base:6.1f} x (limit {LIMIT})")
    print(f"wall                   {wall:8.2f} s")
    for name, peak in peaks.items():
        print(f"peak memory            {peak:8.0f} MB  {name} (limit {LIMIT_MB})")
    estimates = [json.loads(line) for line in said[:-1]]
    guessed = next(
        (e["progress"]["estimates"] for e in estimates if e["progress"]["estimates"]), {}
    )
    counts = json.loads(said[-1])["counts"]
    inside = [
        check for check, e in guessed.items() if e["low"] <= counts.get(check, 0) <= e["high"]
    ]
    print(f"estimates from 2 %     {len(inside)} of {len(guessed)} intervals hold the exact count")


def tell_recall(store: FindingsStore, truth_file: Path) -> None:
    """How many of the planted faults stand in the store at their line."""
    truth: dict[str, Any] = json.loads(truth_file.read_text())
    print(f"\n{'check':22}{'planted':>9}{'found':>9}{'recall':>9}{'told in all':>13}")
    counts = store.counts()
    for check, lines in sorted(truth["planted"].items()):
        told = {row + 1 for row in store.rows_of(check)}
        if not told and check not in counts:
            continue
        hit = len(told & set(lines))
        print(f"{check:22}{len(lines):9,}{hit:9,}{hit / len(lines):9.4f}{counts[check]:13,}")


def watched(command: list[str]) -> tuple[float, dict[str, float], list[str]]:
    """(CPU seconds of a command and its children, peak MB of each process, lines it printed)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    peaks: dict[int, tuple[str, float]] = {}
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out)
        while process.poll() is None:
            for pid in (process.pid, *children_of(process.pid)):
                note_peak(peaks, pid, pid == process.pid)
            time.sleep(0.1)
        out.seek(0)
        said = out.read().splitlines()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    named: dict[str, float] = {}
    for number, (name, peak) in enumerate(peaks.values()):
        named[name if name == "parent" else f"process {number}"] = peak
    return cpu, named, said


def children_of(pid: int) -> list[int]:
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []


def note_peak(peaks: dict[int, tuple[str, float]], pid: int, parent: bool) -> None:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            peaks[pid] = ("parent" if parent else "child", int(line.split()[1]) / 1024)


def cpu_of(command: list[str]) -> tuple[float, int]:
    before = os.times()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    after = os.times()
    spent = after.children_user + after.children_system
    return max(0.01, spent - before.children_user - before.children_system), done.returncode


if __name__ == "__main__":
    sys.exit(main())
