"""Opening and watching a run of 1,000,000 step events, against a run of 1,000.

    python benchmarks/watch_million.py [--events 1000000] [--keep FOLDER]

Says the seconds from opening to the first picture (every curve summed up into 220 columns), read
in samples, then exact; the same with the digest that the first opening left; what a look and a
picture cost once the run goes on, in CPU, beside the same for the short run; the memory; and the
seconds from the key to the run on screen in a real terminal of 120x36.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from pty_harness import Terminal

from finetui.jobs import digest
from finetui.jobs.folder import Job, create
from finetui.jobs.monitor import JobReader, Snapshot
from finetui.workspace import Workspace
from finetui.workspace import create as create_workspace

COLUMNS = 220
GOAL_OPEN_S = 0.5
SHORT = 1_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="make the runs here and leave them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finetui-bench-") as name:
        workspace = create_workspace(options.keep or Path(name))
        long = make_run(workspace, "long", options.events)
        short = make_run(workspace, "short", SHORT)
        size = long.events_path(1).stat().st_size
        print(f"{options.events:,} step events, {size / 1e6:,.0f} MB")
        first = report_opening(workspace, long)
        report_watching(workspace, {"long": long, "short": short})
        report_screen(workspace, {"long": long, "short": short})
    met = first <= GOAL_OPEN_S
    busy = f"; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"goal: a picture within {GOAL_OPEN_S} s: {'met' if met else 'MISSED'}{busy}")
    return 0 if met else 1


def make_run(workspace: Workspace, name: str, count: int) -> Job:
    """A run whose worker has ended; nobody writes an outcome, so that it can go on."""
    job = create(workspace.jobs, "train", name, {"kind": "train"}, {})
    encode = msgspec.json.Encoder().encode
    with job.events_path(1).open("wb") as file:
        start = {"t": 0.0, "kind": "start", "total_steps": count * 2, "device": "bench"}
        file.write(encode(start) + b"\n")
        for event in events(1, count + 1):
            file.write(encode(event) + b"\n")
    job.write_json("outcome.json", {"status": "stopped", "attempt": 1, "t": time.time()})
    return job


def events(first: int, last: int) -> Iterator[dict[str, object]]:
    """Steps [first, last) as a trainer writes them, an evaluation every 2,000; one seed."""
    dice = Random(first)
    for step in range(first, last):
        yield {
            "t": step * 0.1, "kind": "step", "step": step, "epoch": step / 4e5,
            "loss": 2 / (1 + step / 5e4) + dice.gauss(0, 0.1), "lr": 1e-4,
            "grad_norm": dice.random(), "tokens": step * 1900, "trained_tokens": step * 800,
            "tokens_per_s": dice.gauss(9000, 300), "step_s": 0.1, "memory_bytes": 61 << 30,
            "memory_peak_bytes": 62 << 30, "rss_bytes": 4 << 30,
            "rows": [[0, dice.randrange(100_000)] for _ in range(8)],
        }  # fmt: skip
        if step % 2000 == 0:
            yield {"t": step * 0.1, "kind": "eval", "step": step, "loss": 1.0, "seconds": 1.0}


def report_opening(workspace: Workspace, job: Job) -> float:
    """First picture without and with a digest; returns the slower of the two."""
    began, spent = time.perf_counter(), time.process_time()
    reader = JobReader(job, cache=workspace.cache)
    snapshot = reader.poll()
    assert snapshot is not None
    picture(snapshot)
    first, cost = time.perf_counter() - began, time.process_time() - spent
    what = "exact" if snapshot.exact else "from samples"
    print(f"first opening: a picture ({what}) after {first:.3f} s, {cost:.3f} CPU-s")
    while not snapshot.exact:
        time.sleep(0.05)
        snapshot = reader.poll() or snapshot
    whole = time.perf_counter() - began
    place = digest.path_of(workspace.cache, job)
    kept = f"; the digest has {place.stat().st_size / 1e6:,.0f} MB" if place.exists() else ""
    print(f"               exact after {whole:.1f} s, read by another process{kept}")
    began = time.perf_counter()
    snapshot = JobReader(job, cache=workspace.cache).poll()
    assert snapshot is not None and snapshot.exact
    picture(snapshot)
    again = time.perf_counter() - began
    print(f"opened again:  exact after {again:.3f} s")
    return max(first, again)


def picture(snapshot: Snapshot) -> None:
    """What it takes to draw every curve over the whole run."""
    for curve in snapshot.series.values():
        curve.parts(0.0, (curve.last_step + 1) / COLUMNS, COLUMNS)


def report_watching(workspace: Workspace, jobs: dict[str, Job]) -> None:
    """CPU of a look with nothing new, of one new step, and of the newest column of each curve."""
    print(f"{'watching':<10}{'idle look':>12}{'one step':>12}{'newest column':>16}{'memory':>12}")
    for name, job in jobs.items():
        reader = JobReader(job, cache=workspace.cache)
        snapshot = reader.poll()
        assert snapshot is not None
        idle = cpu(lambda reader=reader: reader.poll(), 200)
        steps = events(snapshot.step + 1, snapshot.step + 1001)
        one = cpu(lambda job=job, steps=steps, reader=reader: look_at_one(job, steps, reader), 200)
        snapshot = reader._snapshot(snapshot.state)
        column = cpu(lambda snapshot=snapshot: newest_column(snapshot), 50)
        print(f"{name:<10}{idle:>9.3f} ms{one:>9.3f} ms{column:>13.3f} ms{resident():>9.0f} MB")


def look_at_one(job: Job, steps: Iterator[dict[str, object]], reader: JobReader) -> None:
    with job.events_path(1).open("ab") as file:
        file.write(msgspec.json.encode(next(steps)) + b"\n")
    reader.poll()


def newest_column(snapshot: Snapshot) -> None:
    for curve in snapshot.series.values():
        width = (curve.last_step + 1) / COLUMNS
        curve.parts(width * (COLUMNS - 1), width, 1)


def cpu(work: object, times: int) -> float:
    """CPU milliseconds of one of `times` calls."""
    began = time.process_time()
    for _ in range(times):
        work()  # type: ignore[operator]
    return (time.process_time() - began) / times * 1e3


def resident() -> float:
    """Resident megabytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def report_screen(workspace: Workspace, jobs: dict[str, Job]) -> None:
    """Seconds from the key to the run on screen: without a digest, with it, and the short run."""
    place = digest.path_of(workspace.cache, jobs["long"])
    place.unlink(missing_ok=True)
    for name, what in (("long", "no digest"), ("long", "digest"), ("short", "")):
        took, memory = open_on_screen(workspace, jobs[name])
        if name == "long":
            wait_for(place)
        print(f"on screen: {name} {what:<10} {took:.3f} s, {memory:.0f} MB resident")


def open_on_screen(workspace: Workspace, job: Job) -> tuple[float, float]:
    """Seconds from enter in the list of runs to the run's figures; megabytes of the process."""
    command = [sys.executable, "-m", "finetui", str(workspace.root), "--screen", "train"]
    with Terminal(command, size=(120, 36)) as terminal:
        terminal.wait_for(job.slug)
        terminal.settle()
        rows = [line for line in terminal.lines if " train " in line]
        for _ in range(next(at for at, line in enumerate(rows) if f" {job.slug} " in line)):
            terminal.press("down")
        terminal.settle()
        began = time.perf_counter()
        terminal.press("enter")
        terminal.wait_for("trained on")
        return time.perf_counter() - began, memory_of(terminal.pid)


def memory_of(pid: int) -> float:
    words = Path(f"/proc/{pid}/statm").read_text().split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def wait_for(place: Path) -> None:
    end = time.monotonic() + 120
    while not place.exists() and time.monotonic() < end:
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
