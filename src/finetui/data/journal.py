"""The journal of one data set's edits: SQLite, append-only, durable before a call returns.

Every operation stores what each row was and became; undo and redo are operations too (with
``inverse_of``), so they survive a restart and nothing is ever rewritten. The overlay (row to its
present state) is derived by replaying the changes.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import xxhash

from finetui.errors import UserError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS op (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    actor TEXT NOT NULL,
    kind TEXT NOT NULL,             -- edit, fix, drop, restore, undo, redo
    note TEXT NOT NULL,
    inverse_of INTEGER REFERENCES op (seq)
);
CREATE TABLE IF NOT EXISTS change (
    seq INTEGER NOT NULL REFERENCES op (seq),
    row INTEGER NOT NULL,           -- 0-based row of the source
    before_text TEXT,               -- NULL: the row as it is in the source
    before_dropped INTEGER NOT NULL,
    after_text TEXT,
    after_dropped INTEGER NOT NULL,
    before_hash TEXT NOT NULL,      -- of the row's bytes before this change
    original BLOB                   -- the source's bytes, kept when a row is first edited
);
CREATE INDEX IF NOT EXISTS change_seq ON change (seq);
CREATE TRIGGER IF NOT EXISTS op_frozen BEFORE UPDATE ON op
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER IF NOT EXISTS change_frozen BEFORE UPDATE ON change
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
"""

_OPERATIONS = (
    "SELECT seq, time, kind, note, inverse_of,"
    " (SELECT count(*) FROM change WHERE change.seq = op.seq) FROM op"
)


@dataclass(frozen=True)
class State:
    """What a row is now: its edited text (None: as in the source) and whether it is dropped."""

    text: str | None = None
    dropped: bool = False


UNTOUCHED = State()


@dataclass(frozen=True)
class Change:
    """One row's part in an operation."""

    row: int
    before: State
    after: State
    before_hash: str
    original: bytes | None = None


@dataclass(frozen=True)
class Operation:
    """One step of the history; ``changes`` is the number of rows it touched."""

    seq: int
    time: float
    kind: str
    note: str
    inverse_of: int | None
    changes: int


def row_hash(raw: bytes) -> str:
    """The hash that binds a change to the bytes it was made on."""
    return xxhash.xxh3_128_hexdigest(raw)


class Journal:
    """Edits of one source. The file is made by the first operation, not by looking."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.overlay: dict[int, State] = {}
        self.first_hashes: dict[int, str] = {}  # row -> hash of the source's bytes
        self.head = 0
        self._done: list[int] = []
        self._undone: list[tuple[int, int]] = []  # (the operation, the undo that took it back)
        self._database: sqlite3.Connection | None = None
        self._lock = threading.RLock()
        if path.exists():
            self._open()

    # ------------------------------------------------------------ reading

    @property
    def can_undo(self) -> bool:
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        return bool(self._undone)

    def meta(self, key: str) -> str:
        """A stored fact about the source, ``""`` where there is none."""
        if self._database is None:
            return ""
        found = self._database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(found[0]) if found else ""

    def history(self, last: int = 100) -> list[Operation]:
        """The newest operations, newest first."""
        if self._database is None:
            return []
        rows = self._database.execute(_OPERATIONS + " ORDER BY seq DESC LIMIT ?", (last,))
        return [Operation(*row) for row in rows]

    def refresh(self) -> bool:
        """Take in what another process wrote; True when there was something."""
        with self._lock:
            before = self.head
            if self._exists():
                self._open()
                self._replay()
            return self.head != before

    # ------------------------------------------------------------ writing

    def set_meta(self, key: str, value: str) -> None:
        with self._writing() as database:
            database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def apply(
        self, kind: str, note: str, changes: Sequence[Change], meta: Iterable[tuple[str, str]] = ()
    ) -> int:
        """Append one operation and wait until it is on the disk; its number.

        Raises UserError when another session changed one of the rows in between.
        """
        with self._writing() as database:
            for change in changes:
                if self.overlay.get(change.row, UNTOUCHED) != change.before:
                    raise UserError(
                        f"row {change.row + 1} was changed by another session meanwhile.",
                        str(self.path),
                        "Look at the row again and repeat the edit.",
                    )
            for key, value in meta:
                database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
            return self._append(database, kind, note, None, changes)

    def undo(self, check: Callable[[Change], None]) -> Operation | None:
        """Append the inverse of the newest standing operation; what was undone, None for none."""
        if not self._exists():
            return None
        with self._writing() as database:
            if not self._done:
                return None
            return self._invert(database, "undo", self._done[-1], self._done[-1], check)

    def redo(self, check: Callable[[Change], None]) -> Operation | None:
        """Append the inverse of the newest undo; the operation that stands again, or None."""
        if not self._exists():
            return None
        with self._writing() as database:
            if not self._undone:
                return None
            target, undo = self._undone[-1]
            return self._invert(database, "redo", undo, target, check)

    def close(self) -> None:
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    # ------------------------------------------------------------ inside

    def _exists(self) -> bool:
        return self._database is not None or self.path.exists()

    def _invert(
        self,
        database: sqlite3.Connection,
        kind: str,
        inverted: int,
        target: int,
        check: Callable[[Change], None],
    ) -> Operation:
        changes = [
            Change(change.row, change.after, change.before, "", None)
            for change in self._changes(database, inverted)
        ]
        for change in changes:
            check(change)
        hashed = [
            Change(change.row, change.before, change.after, _hash_of(change, self.first_hashes))
            for change in changes
        ]
        self._append(database, kind, "", inverted, hashed)
        found = database.execute(_OPERATIONS + " WHERE seq = ?", (target,)).fetchone()
        return Operation(*found)

    def _append(
        self,
        database: sqlite3.Connection,
        kind: str,
        note: str,
        inverse_of: int | None,
        changes: Sequence[Change],
    ) -> int:
        cursor = database.execute(
            "INSERT INTO op (time, actor, kind, note, inverse_of) VALUES (?, ?, ?, ?, ?)",
            (time.time(), f"pid {os.getpid()}", kind, note, inverse_of),
        )
        seq = int(cursor.lastrowid or 0)
        database.executemany(
            "INSERT INTO change VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    seq,
                    change.row,
                    change.before.text,
                    int(change.before.dropped),
                    change.after.text,
                    int(change.after.dropped),
                    change.before_hash,
                    change.original,
                )
                for change in changes
            ),
        )
        return seq

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One write transaction; other sessions' operations are taken in before the block."""
        with self._lock:
            database = self._open()
            try:
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                raise UserError(
                    f"cannot be written: {error}.", str(self.path), "Close the other session."
                ) from None
            try:
                self._replay()
                yield database
                database.execute("COMMIT")  # synchronous=FULL: on the disk when this returns
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
            self._replay()

    def _open(self) -> sqlite3.Connection:
        if self._database is not None:
            return self._database
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        try:
            database = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False, timeout=10
            )
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"is not a readable journal: {error}.",
                str(self.path),
                "Move it away to begin a new one; the data file is unharmed.",
            ) from None
        self._database = database
        self._replay()
        return database

    def _replay(self) -> None:
        """Read the operations after ``head`` into overlay and undo stacks."""
        assert self._database is not None
        operations = self._database.execute(
            "SELECT seq, kind FROM op WHERE seq > ? ORDER BY seq", (self.head,)
        ).fetchall()
        for seq, kind in operations:
            if kind == "undo":
                self._undone.append((self._done.pop(), seq))
            elif kind == "redo":
                self._done.append(self._undone.pop()[0])
            else:
                self._done.append(seq)
                self._undone.clear()
            for change in self._changes(self._database, seq):
                if change.before == UNTOUCHED:
                    self.first_hashes[change.row] = change.before_hash
                self._set(change.row, change.after)
            self.head = seq

    def _set(self, row: int, state: State) -> None:
        if state == UNTOUCHED:
            self.overlay.pop(row, None)
        else:
            self.overlay[row] = state

    def _changes(self, database: sqlite3.Connection, seq: int) -> Iterator[Change]:
        cursor = database.execute(
            "SELECT row, before_text, before_dropped, after_text, after_dropped, before_hash"
            " FROM change WHERE seq = ? ORDER BY rowid",
            (seq,),
        )
        for row, before, was, after, now, digest in cursor:
            yield Change(row, State(before, bool(was)), State(after, bool(now)), digest)


def _hash_of(change: Change, first: dict[int, str]) -> str:
    """The hash of a row's bytes before a change, from its edited text or its first hash."""
    if change.before.text is not None:
        return row_hash(change.before.text.encode())
    return first.get(change.row, "")
