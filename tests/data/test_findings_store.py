"""Findings are kept while the file's bytes are the same, and can be read while they come."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from finetui.data.checks.model import CheckOptions, Finding
from finetui.data.checks.registry import CHECKS
from finetui.data.checks.run import check_files
from finetui.data.findings import (
    Cluster,
    Estimate,
    FindingsStore,
    ScanProgress,
    open_findings,
    stamp_of,
)
from finetui.data.formats.source import JsonlSource, open_source
from finetui.data.scan import stored
from finetui.data.scan.rows import Parts, RowScan
from finetui.data.scan.sample import estimated
from finetui.data.scan.stored import StoredScan
from finetui.data.strict import decode
from finetui.workspace import Workspace, create


def row(number: int, question: str = "") -> str:
    turns = [
        {"role": "user", "content": question or f"What is {number} and one?"},
        {"role": "assistant", "content": f"It is {number + 1}."},
    ]
    return json.dumps({"messages": turns})


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return create(tmp_path / "space")


def dirty(path: Path, rows: int = 40) -> Path:
    """Row 3 has an address, row 7 is cut, row 9 is row 8 once more."""
    lines = [row(number) for number in range(rows)]
    lines[3] = row(3, "write to lena@example.org")
    lines[7] = lines[7][:40]
    lines[9] = lines[8]
    path.write_text("\n".join(lines) + "\n")
    return path


def scan(path: Path, space: Workspace, **options: Any) -> StoredScan:
    return StoredScan([path], [], CheckOptions(**options), space.cache)


def test_the_store_holds_what_the_checks_find_in_their_order(space: Workspace) -> None:
    path = dirty(space.datasets / "a.jsonl")
    told = list(check_files([path], CheckOptions()))
    with scan(path, space).run() as store:
        assert store.complete and store.progress.exact
        assert store.counts() == dict(Counter(finding.check for finding in told))
        assert [f for r in store.rows_of() for f in store.of_row(r)] == told
        assert store.of_row(3) == [finding for finding in told if finding.row == 3]
        assert list(store.rows_of("email")) == [3] and list(store.rows_of("none")) == []
        assert [store.next_row(r) for r in (-1, 3, 7, 9)] == [3, 7, 9, None]
        assert store.next_row(9, backwards=True) == 7
        assert store.next_row(0, "malformed-json") == 7
        assert store.worst_of(range(10)) == {3: "warning", 7: "error", 9: "warning"}
        assert store.of_rows(3, 8).keys() == {3, 7}
        assert next(iter(store.counts())) == "malformed-json"  # errors first
        assert store.summary["findings"] == len(told)


def test_a_scan_of_the_same_bytes_is_not_done_again(space: Workspace) -> None:
    path = dirty(space.datasets / "a.jsonl")
    assert scan(path, space).kept() is None
    scan(path, space).run().close()
    kept = scan(path, space).kept()
    assert kept is not None and kept.complete
    kept.close()
    assert scan(path, space, only=frozenset({"email"})).kept() is None  # other options


def test_a_touched_file_keeps_its_findings_and_a_changed_one_does_not(space: Workspace) -> None:
    path = dirty(space.datasets / "a.jsonl")
    scan(path, space).run().close()
    os.utime(path, ns=(1, 1))
    kept = scan(path, space).kept()
    assert kept is not None
    kept.close()
    with open_source(path) as source:
        found = open_findings(source, space)
        assert found is not None
        found.close()
    content = path.read_bytes()
    path.write_bytes(content.replace(b"lena@example", b"lena#example"))  # as long as before
    assert scan(path, space).kept() is None
    with open_source(path) as source:
        assert open_findings(source, space) is None


def test_the_newest_store_that_fits_is_opened(space: Workspace) -> None:
    path = dirty(space.datasets / "a.jsonl")
    with open_source(path) as source:
        assert open_findings(source, space) is None
        scan(path, space, only=frozenset({"email"})).run().close()
        found = open_findings(source, space)
        assert found is not None and found.counts() == {"email": 1}
        found.close()


def test_a_damaged_store_is_made_anew(space: Workspace) -> None:
    path = dirty(space.datasets / "a.jsonl")
    first = scan(path, space)
    first.run().close()
    first.path.write_bytes(b"no database at all" * 100)
    assert scan(path, space).kept() is None
    with scan(path, space).run() as store:
        assert store.counts()["email"] == 1


def test_a_store_is_read_while_it_is_written(space: Workspace) -> None:
    path = space.cache / "findings" / "x.sqlite"
    finding = Finding("email", "warning", "a.jsonl", 4, 90, 1, "an address", 3, 5, 9)
    writer = FindingsStore.create(path, "a.jsonl", "stamp")
    reader = FindingsStore(path)
    guess = {"email": Estimate(50, 40, 60)}
    writer.write([finding], ScanProgress(10, 100, 1000, 9000, False, guess))
    assert reader.of_row(3) == [finding] and not reader.complete
    assert reader.progress.estimates == guess and reader.progress.bytes_total == 9000
    writer.write([finding])
    assert reader.counts() == {"email": 2}
    writer.write_clusters("near", [Cluster(0, (3, 8), 0.75), Cluster(1, (4, 5, 6), 0.5)])
    assert reader.clusters("near")[1] == Cluster(1, (4, 5, 6), 0.5)
    assert reader.cluster_of("near", 8) == Cluster(0, (3, 8), 0.75)
    assert reader.cluster_of("near", 7) is None
    writer.write_facts("size", {"rows": 40})
    assert reader.facts() == {"size": {"rows": 40}}
    reader.close()
    writer.close()


def test_the_rows_on_screen_come_first_and_none_is_told_twice(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "SMALL", 0)
    path = dirty(space.datasets / "a.jsonl", 1000)
    lines = path.read_text().splitlines()
    lines[800] = row(800, "mail max@example.org")
    path.write_text("\n".join(lines) + "\n")
    seen: list[tuple[int, int]] = []

    def say(progress: ScanProgress) -> None:
        seen.append((progress.rows_done, len(made.store().rows_of())))

    made = Opened(StoredScan([path], [], CheckOptions(), space.cache, say))
    with made.scan.run(first_row=700) as store:
        assert seen[0] == (0, 1)  # row 800 is there before any other
        told = Counter((f.row, f.check) for f in check_files([path], CheckOptions()))
        kept = Counter((f.row, f.check) for r in store.rows_of() for f in store.of_row(r))
        assert kept == told
    made.store().close()


class Opened:
    """The store of a scan, opened when it is first there."""

    def __init__(self, scan: StoredScan) -> None:
        self.scan = scan
        self._store: FindingsStore | None = None

    def store(self) -> FindingsStore:
        if self._store is None:
            self._store = FindingsStore(self.scan.path)
        return self._store


def test_estimates_hold_the_true_number_in_nearly_all_samples(tmp_path: Path) -> None:
    inside = total = 0
    checks = [CHECKS["email"], CHECKS["malformed-json"]]
    for seed in range(12):
        rng = Random(seed)
        share = rng.choice((0.003, 0.02, 0.2))
        lines = []
        for number in range(30_000):
            text = "mail lena@example.org" if rng.random() < share else "nothing to see here"
            line = row(number, text * rng.randint(1, 9))
            lines.append(line if rng.random() > 0.001 else line[:50])
        path = tmp_path / "many.jsonl"
        path.write_text("\n".join(lines) + "\n")
        source = JsonlSource(path)
        parts = Parts(checks, [], [], [], [])
        rows = RowScan(parts, source.shape.shape, decode, source.head(20))
        found = estimated(source, rows)
        rows.renew([])
        for first, base, block in source.blocks():
            rows.block(first, base, block)
        truth = Counter(one.check for one in rows.spots)
        for check, guess in found.items():
            total += 1
            inside += guess.low <= truth[check] <= guess.high
        source.close()
    assert total >= 12 and inside >= 0.9 * total, (inside, total)


def test_a_scan_that_is_stopped_leaves_a_store_that_can_be_read(
    space: Workspace, tmp_path: Path
) -> None:
    path = tmp_path / "big.jsonl"
    block = "".join(row(k, "mail lena@example.org") + "\n" for k in range(2000))
    with path.open("w") as file:
        for _ in range(150):  # 40 MB: more than is looked at in one process
            file.write(block)
    process = subprocess.Popen(
        [sys.executable, "-m", "finetui", "check", str(path), "--store", "-w", str(space.root)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["progress"]["rows_done"] > 0:
            break
    workers = children_of(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    with open_source(path) as source:
        store = open_findings(source, space)
        assert store is not None and not store.complete
        assert store.counts()["email"] > 0 and store.stamp == stamp_of(source)
        store.close()


def children_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in children.read_text().split()] if children.exists() else []


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        os.sched_yield()


def test_the_command_says_how_far_it_is_and_then_what_it_found(space: Workspace) -> None:
    path = dirty(space.datasets / "a.jsonl")
    command = [sys.executable, "-m", "finetui", "check", str(path), "--store", "--quick"]
    for known in (False, True):
        done = subprocess.run(command, capture_output=True, text=True, cwd=space.root, check=False)
        *progress, last = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 1 and last["known"] is known
        assert last["counts"]["malformed-json"] == 1
        assert bool(progress) is not known
        assert all(set(said) == {"progress"} for said in progress)


def test_findings_are_kept_in_a_workspace_only(tmp_path: Path) -> None:
    path = dirty(tmp_path / "a.jsonl")
    command = [sys.executable, "-m", "finetui", "check", str(path), "--store"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2 and "workspace" in done.stderr
