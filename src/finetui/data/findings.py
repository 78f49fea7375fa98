"""Findings on disk: what a scan found, by row and by check, while the file's bytes are the same.

One SQLite file a source and set of options, in the workspace's cache. It can be read while a scan
writes to it; deleting it loses nothing but time.
"""

from __future__ import annotations

import glob
import json
import os
import sqlite3
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

if TYPE_CHECKING:
    from finetui.data.checks.model import CheckOptions, Finding
    from finetui.data.formats.source import Source
    from finetui.workspace import Workspace

_LAYOUT = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE kinds (id INTEGER PRIMARY KEY, name TEXT UNIQUE, severity TEXT, count INTEGER);
CREATE TABLE findings (
    row INTEGER, seq INTEGER, kind INTEGER, line INTEGER, offset INTEGER, turn INTEGER,
    start INTEGER, stop INTEGER, message TEXT, PRIMARY KEY (row, seq)
) WITHOUT ROWID;
CREATE INDEX by_kind ON findings (kind, row);
CREATE TABLE clusters (kind TEXT, id INTEGER, similarity REAL, PRIMARY KEY (kind, id));
CREATE TABLE members (kind TEXT, id INTEGER, row INTEGER, PRIMARY KEY (kind, id, row));
CREATE INDEX by_member ON members (kind, row);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT);
"""
_VERSION = "1"
_AT_ONCE = 500  # rows named in one query
_RANK = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True, slots=True)
class Cluster:
    """Rows that are alike: rows in order, and the least similarity (0 to 1) that joins them."""

    id: int
    rows: tuple[int, ...]
    similarity: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """How many findings a check will have, from a random sample: ``low`` to ``high`` holds the
    true number in 95 of 100 samples."""

    count: int
    low: int
    high: int


@dataclass(frozen=True)
class ScanProgress:
    """How far a scan is. While ``exact`` is False the counts grow, and ``estimates`` say to what
    (for the checks that judge a row by itself)."""

    rows_done: int = 0
    rows_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    exact: bool = False
    estimates: dict[str, Estimate] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        estimates = {
            check: {"count": found.count, "low": found.low, "high": found.high}
            for check, found in self.estimates.items()
        }
        return {
            "rows_done": self.rows_done, "rows_total": self.rows_total,
            "bytes_done": self.bytes_done, "bytes_total": self.bytes_total,
            "exact": self.exact, "estimates": estimates,
        }  # fmt: skip


class FindingsStore:
    """The findings of one file. Opened for reading, unless made by `create`.

    Rows are rows of the source (0-based), as it lies on the disk: edits are not looked at.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._link = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._link.execute("PRAGMA query_only = 1")
        self._file = self._meta("file")
        self._kinds: dict[str, int] = {}
        self._written = -1

    @classmethod
    def create(cls, path: Path, file: str, stamp: str) -> FindingsStore:
        """An empty store for writing, in the place of an older one."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
            name.unlink(missing_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        link = sqlite3.connect(path, isolation_level=None)
        link.execute("PRAGMA journal_mode = WAL")
        link.executescript(_LAYOUT)
        meta = [("version", _VERSION), ("file", file), ("stamp", stamp), ("complete", "")]
        link.executemany("INSERT INTO meta VALUES (?, ?)", meta)
        link.close()
        store = cls(path)
        store.allow_writing()
        return store

    def allow_writing(self) -> None:
        """Let this process write as well; writers take turns."""
        self._link.execute("PRAGMA query_only = 0")
        self._link.execute("PRAGMA busy_timeout = 30000")
        self._link.execute("PRAGMA synchronous = OFF")  # rebuildable: a torn file is scanned anew

    def close(self) -> None:
        self._link.close()

    def __enter__(self) -> FindingsStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------ reading

    @property
    def stamp(self) -> str:
        """The state of the file that was looked at."""
        return self._meta("stamp")

    @property
    def complete(self) -> bool:
        """Whether the scan came to its end."""
        return self._meta("complete") == "1"

    @property
    def progress(self) -> ScanProgress:
        said = json.loads(self._meta("progress") or "{}")
        estimates = {check: Estimate(**found) for check, found in said.pop("estimates", {}).items()}
        return ScanProgress(**said, estimates=estimates)

    @property
    def summary(self) -> dict[str, Any]:
        """The summary of the checks when the scan is complete, else empty."""
        found: dict[str, Any] = json.loads(self._meta("summary") or "{}")
        return found

    def counts(self) -> dict[str, int]:
        """Findings a check, errors first, then by number."""
        rows = self._link.execute("SELECT name, severity, count FROM kinds WHERE count > 0")
        found = sorted(rows, key=lambda kind: (_RANK.get(kind[1], 3), -kind[2], kind[0]))
        return {name: count for name, _, count in found}

    @property
    def severities(self) -> dict[str, str]:
        """The severity of each check that found something."""
        return dict(self._link.execute("SELECT name, severity FROM kinds"))

    def of_row(self, row: int) -> list[Finding]:
        """A row's findings, in the order they were told."""
        return self._findings("WHERE row = ? ORDER BY seq", row)

    def of_rows(self, first: int, end: int) -> dict[int, list[Finding]]:
        """The findings of the rows from ``first`` up to ``end``, rows without any left out."""
        found: dict[int, list[Finding]] = {}
        where = "WHERE row >= ? AND row < ? ORDER BY row, seq"
        for finding in self._findings(where, first, end):
            found.setdefault(finding.row, []).append(finding)
        return found

    def worst_of(self, rows: Sequence[int]) -> dict[int, str]:
        """The worst severity of each of these rows that has a finding."""
        worst: dict[int, str] = {}
        marks = ",".join("?" * len(rows))
        query = (
            "SELECT DISTINCT row, severity FROM findings JOIN kinds ON kinds.id = kind"
            f" WHERE row IN ({marks})"
        )
        for row, severity in self._link.execute(query, list(rows)):
            if _RANK.get(severity, 3) < _RANK.get(worst.get(row, ""), 4):
                worst[row] = severity
        return worst

    def counts_of(self, rows: Sequence[int]) -> dict[str, int]:
        """Findings a check, of these rows only."""
        counts: dict[str, int] = {}
        for first in range(0, len(rows), _AT_ONCE):
            some = list(rows[first : first + _AT_ONCE])
            query = (
                "SELECT name, count(*) FROM findings JOIN kinds ON kinds.id = kind"
                f" WHERE row IN ({','.join('?' * len(some))}) GROUP BY name"
            )
            for check, count in self._link.execute(query, some):
                counts[check] = counts.get(check, 0) + count
        return counts

    def rows_of(self, check: str = "") -> Sequence[int]:
        """The rows with a finding of a check (or of any), in order."""
        if not check:
            found = self._link.execute("SELECT DISTINCT row FROM findings ORDER BY row")
        else:
            query = "SELECT DISTINCT row FROM findings WHERE kind = ? ORDER BY row"
            found = self._link.execute(query, (self._kind(check),))
        return array("Q", (row for (row,) in found))

    def next_row(self, row: int, check: str = "", backwards: bool = False) -> int | None:
        """The next row (or the one before) with a finding; None when there is none."""
        side, order = ("<", "DESC") if backwards else (">", "ASC")
        kind = "AND kind = :kind " if check else ""
        query = f"SELECT row FROM findings WHERE row {side} :row {kind}ORDER BY row {order} LIMIT 1"
        values = {"row": row, "kind": self._kind(check) if check else 0}
        found = self._link.execute(query, values).fetchone()
        return None if found is None else int(found[0])

    def clusters(self, kind: str) -> list[Cluster]:
        """The clusters of a kind, by their number."""
        rows: dict[int, list[int]] = {}
        query = "SELECT id, row FROM members WHERE kind = ? ORDER BY id, row"
        for number, row in self._link.execute(query, (kind,)):
            rows.setdefault(number, []).append(row)
        found = self._link.execute("SELECT id, similarity FROM clusters WHERE kind = ?", (kind,))
        return [Cluster(n, tuple(rows.get(n, ())), likeness) for n, likeness in sorted(found)]

    def cluster_of(self, kind: str, row: int) -> Cluster | None:
        """The cluster of a kind that a row is in."""
        query = (
            "SELECT m.row, m.id, c.similarity FROM members m JOIN clusters c USING (kind, id)"
            " WHERE kind = ?1 AND id = (SELECT id FROM members WHERE kind = ?1 AND row = ?2)"
            " ORDER BY m.row"
        )
        found = self._link.execute(query, (kind, row)).fetchall()
        return (
            Cluster(found[0][1], tuple(row for row, _, _ in found), found[0][2]) if found else None
        )

    def facts(self) -> dict[str, Any]:
        """The figures that checks of whole sets left, by check."""
        rows = self._link.execute("SELECT name, value FROM facts")
        return {name: json.loads(value) for name, value in rows}

    def _findings(self, where: str, *values: Any) -> list[Finding]:
        from finetui.data.checks.model import Finding

        query = (
            "SELECT name, severity, line, offset, turn, message, row, start, stop"
            f" FROM findings JOIN kinds ON kinds.id = kind {where}"
        )
        rows = self._link.execute(query, values)
        return [Finding(r[0], r[1], self._file, *r[2:]) for r in rows]

    def _meta(self, name: str) -> str:
        found = self._link.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return str(found[0]) if found else ""

    def _kind(self, check: str) -> int:
        found = self._link.execute("SELECT id FROM kinds WHERE name = ?", (check,)).fetchone()
        return int(found[0]) if found else -1

    # ------------------------------------------------------------ writing

    def write(self, findings: Iterable[Finding], progress: ScanProgress | None = None) -> None:
        """Add findings, and say how far the scan is, in one transaction."""
        with self._transaction():
            number = self._count()
            rows = []
            counts: dict[int, int] = {}
            for finding in findings:
                kind = self._kind_for(finding.check, finding.severity)
                counts[kind] = counts.get(kind, 0) + 1
                rows.append(
                    (finding.row, number, kind, finding.line, finding.offset, finding.turn,
                     finding.start, finding.end, finding.message)
                )  # fmt: skip
                number += 1
            self._link.executemany("INSERT INTO findings VALUES (?,?,?,?,?,?,?,?,?)", rows)
            more = [(count, kind) for kind, count in counts.items()]
            self._link.executemany("UPDATE kinds SET count = count + ? WHERE id = ?", more)
            self._written = number
            if progress is not None:
                self._put("progress", json.dumps(progress.as_dict()))

    def clear(self) -> None:
        """Forget the findings (not the clusters)."""
        with self._transaction():
            self._link.execute("DELETE FROM findings")
            self._link.execute("UPDATE kinds SET count = 0")

    def finish(self, summary: dict[str, Any], progress: ScanProgress) -> None:
        """Say that everything was looked at."""
        with self._transaction():
            self._put("summary", json.dumps(summary))
            self._put("progress", json.dumps(progress.as_dict()))
            self._put("complete", "1")

    def restamp(self, stamp: str) -> None:
        """Say that the same bytes now have other times."""
        self.allow_writing()
        self._put("stamp", stamp)

    def keep_hash(self, digest: str) -> None:
        """Keep the hash of all bytes that were looked at."""
        self._put("hash", digest)

    def same_bytes(self, digest: str) -> bool:
        """Whether a file with this hash is what was looked at."""
        return self._meta("hash") == digest

    def write_clusters(self, kind: str, clusters: Iterable[Cluster]) -> None:
        """Put clusters in the place of the older ones of their kind."""
        with self._transaction():
            self._link.execute("DELETE FROM clusters WHERE kind = ?", (kind,))
            self._link.execute("DELETE FROM members WHERE kind = ?", (kind,))
            for cluster in clusters:
                row = (kind, cluster.id, cluster.similarity)
                self._link.execute("INSERT INTO clusters VALUES (?, ?, ?)", row)
                members = [(kind, cluster.id, row) for row in cluster.rows]
                self._link.executemany("INSERT INTO members VALUES (?, ?, ?)", members)

    def write_facts(self, check: str, facts: Any) -> None:
        """Keep the figures of a check: anything that JSON can hold."""
        with self._transaction():
            value = json.dumps(facts)
            self._link.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (check, value))

    def _put(self, name: str, value: str) -> None:
        self._link.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def _count(self) -> int:
        if self._written < 0:
            found = self._link.execute("SELECT COALESCE(MAX(seq) + 1, 0) FROM findings").fetchone()
            self._written = int(found[0])
        return self._written

    def _kind_for(self, check: str, severity: str) -> int:
        if check not in self._kinds:
            self._link.execute(
                "INSERT OR IGNORE INTO kinds (name, severity, count) VALUES (?, ?, 0)",
                (check, severity),
            )
            self._kinds[check] = self._kind(check)
        return self._kinds[check]

    def _transaction(self) -> _Transaction:
        return _Transaction(self._link)


class _Transaction:
    def __init__(self, link: sqlite3.Connection) -> None:
        self._link = link

    def __enter__(self) -> None:
        self._link.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        self._link.execute("ROLLBACK" if kind else "COMMIT")


# ---------------------------------------------------------------- which store is whose


def store_path(cache: Path, source: Source, options: CheckOptions, others: Sequence[Path]) -> Path:
    """The store of a source looked at with these options, beside these other files."""
    said = [
        str(options.model_dir), options.max_length, sorted(options.only), options.shape,
        options.whole, [_resolved(path) for path in others], [_state(path) for path in others],
        checks_version(),
    ]  # fmt: skip
    key = xxhash.xxh3_64_hexdigest(json.dumps(said, default=str).encode())
    return cache / "findings" / f"{_prefix(source)}-{key}.sqlite"


def stamp_of(source: Source) -> str:
    """Size, time of change and a hash of both ends: enough to see that a file was changed."""
    return f"{source.size} {source.modified} {source.identity()}"


def fits(store: FindingsStore, source: Source) -> bool:
    """Whether a store speaks of the bytes that a source has now."""
    return store.stamp == stamp_of(source)


def open_store(path: Path) -> FindingsStore | None:
    """A store that is there and can be read, else None."""
    if not path.is_file():
        return None
    try:
        store = FindingsStore(path)
    except sqlite3.Error:
        return None
    try:
        usable = store._meta("version") == _VERSION
    except sqlite3.Error:
        usable = False
    if not usable:
        store.close()
        return None
    return store


def open_findings(source: Source, workspace: Workspace) -> FindingsStore | None:
    """The newest store that fits a source's bytes, complete or not; None when never scanned."""
    folder = workspace.cache / "findings"
    found = folder.glob(f"{glob.escape(_prefix(source))}-*.sqlite") if folder.is_dir() else ()
    for path in sorted(found, key=os.path.getmtime, reverse=True):
        store = open_store(path)
        if store is not None and fits(store, source):
            return store
        if store is not None:
            store.close()
    return None


def checks_version() -> str:
    """A hash of the program text of the checks: other checks may find other things."""
    digest = xxhash.xxh3_64()
    room = Path(__file__).parent
    for folder in (room / "checks", room / "scan", room / "whole"):
        for path in sorted(folder.glob("*.py")):
            digest.update(path.read_bytes())
    for name in ("records.py", "shapes.py", "strict.py", "keys.py"):
        digest.update((room / name).read_bytes())
    return digest.hexdigest()


def _prefix(source: Source) -> str:
    names = "\n".join(_resolved(path) for path in source.files)
    return f"{source.path.stem[:40]}-{xxhash.xxh3_64_hexdigest(names.encode())}"


def _resolved(path: Path) -> str:
    return str(path.resolve())


def _state(path: Path) -> tuple[int, int]:
    try:
        state = path.stat()
    except OSError:
        return (0, 0)
    return (state.st_size, state.st_mtime_ns)
