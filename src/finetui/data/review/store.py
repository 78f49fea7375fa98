"""The review queue on disk: SQLite, append-only, durable before a call returns.

Items and operations are never changed or deleted. Undo and redo are operations too. The tables
`now` and `stack` (what an item is at present, which operations stand) follow from the operations;
they are written in the same transaction.
"""

from __future__ import annotations

import functools
import getpass
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from finetui import readonly
from finetui.data.edits.layout import transaction
from finetui.errors import BROKEN, UserError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS item (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,             -- feedback, candidate
    key TEXT NOT NULL UNIQUE,       -- hash of what makes two items the same
    time REAL NOT NULL,
    actor TEXT NOT NULL,
    body TEXT NOT NULL              -- JSON
);
CREATE TABLE IF NOT EXISTS seen (origin TEXT PRIMARY KEY, item INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS seen_item ON seen (item);
CREATE TABLE IF NOT EXISTS op (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    actor TEXT NOT NULL,
    kind TEXT NOT NULL,             -- arrive, correct, accept, dismiss, reopen, add, undo, redo
    note TEXT NOT NULL,
    inverse_of INTEGER REFERENCES op (seq)
);
CREATE TABLE IF NOT EXISTS change (
    seq INTEGER NOT NULL REFERENCES op (seq),
    item INTEGER NOT NULL REFERENCES item (id),
    before_state TEXT NOT NULL, before_row TEXT, before_file TEXT, before_line TEXT,
    after_state TEXT NOT NULL, after_row TEXT, after_file TEXT, after_line TEXT
);
CREATE INDEX IF NOT EXISTS change_seq ON change (seq);
CREATE TABLE IF NOT EXISTS target (path TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS now (
    item INTEGER PRIMARY KEY, kind TEXT NOT NULL, state TEXT NOT NULL,
    row TEXT, file TEXT, line TEXT, seq INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS now_state ON now (state, kind);
CREATE TABLE IF NOT EXISTS stack (seq INTEGER PRIMARY KEY, undone INTEGER);
""" + "".join(
    f"CREATE TRIGGER IF NOT EXISTS {table}_{what} BEFORE {what} ON {table}"
    " BEGIN SELECT RAISE(ABORT, 'the queue is append-only'); END;\n"
    for table in ("item", "op", "change")
    for what in ("UPDATE", "DELETE")
)

ABSENT = "absent"
_THESE = "(SELECT value FROM json_each(?))"
_OPERATIONS = (
    "SELECT seq, time, actor, kind, note, inverse_of,"
    " (SELECT count(*) FROM change WHERE change.seq = op.seq) FROM op"
)


@dataclass(frozen=True)
class Standing:
    """What an item is: its state, its row as edited (JSON; None: as it came), and where it went.

    ``file`` is the data set that it was added to (as the workspace names it), ``line`` the line.
    """

    state: str = ABSENT
    row: str | None = None
    file: str | None = None
    line: str | None = None


@dataclass(frozen=True)
class Change:
    """One item's part in an operation."""

    item: int
    before: Standing
    after: Standing


@dataclass(frozen=True)
class Operation:
    """One step of the history; ``items`` is how many it touched, ``actor`` the login."""

    seq: int
    time: float
    actor: str
    kind: str
    note: str
    inverse_of: int | None
    items: int


class QueueStore:
    """The tables. The file is made by the first operation, not by looking."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database: sqlite3.Connection | None = None
        self._lock = threading.RLock()

    # ------------------------------------------------------------ reading

    def query(self, sql: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Rows of a SELECT; none while there is no file."""
        with self._lock:
            if self._database is None and not self.path.exists():
                return []
            try:
                return self._open().execute(sql, tuple(values)).fetchall()
            except (OSError, sqlite3.DatabaseError, *BROKEN) as error:
                raise self._unreadable(error) from None

    def standings(self, items: Sequence[int]) -> dict[int, Standing]:
        """What the items are, in their order; absent ones too."""
        found = self.query(
            f"SELECT item, state, row, file, line FROM now WHERE item IN {_THESE}", (_list(items),)
        )
        known = {row[0]: Standing(*row[1:]) for row in found}  # type: ignore[arg-type]
        return {item: known.get(item, Standing()) for item in items}

    def history(self, last: int) -> list[Operation]:
        """The newest operations, newest first."""
        rows = self.query(_OPERATIONS + " ORDER BY seq DESC LIMIT ?", (last,))
        return [Operation(*row) for row in rows]  # type: ignore[arg-type]

    def operation(self, seq: int) -> Operation:
        return Operation(*self.query(_OPERATIONS + " WHERE seq = ?", (seq,))[0])  # type: ignore[arg-type]

    def newest_standing(self) -> int | None:
        """The operation that undo would take back."""
        found = self.query("SELECT max(seq) FROM stack WHERE undone IS NULL")
        return int(str(found[0][0])) if found and found[0][0] is not None else None

    def newest_undone(self) -> int | None:
        """The operation that redo would do again."""
        found = self.query(
            "SELECT seq FROM stack WHERE undone IS NOT NULL ORDER BY undone DESC LIMIT 1"
        )
        return int(str(found[0][0])) if found else None

    def changes(self, seq: int) -> list[Change]:
        rows = self.query(
            "SELECT item, before_state, before_row, before_file, before_line,"
            " after_state, after_row, after_file, after_line"
            " FROM change WHERE seq = ? ORDER BY rowid",
            (seq,),
        )
        return [Change(row[0], Standing(*row[1:5]), Standing(*row[5:9])) for row in rows]  # type: ignore[arg-type]

    # ------------------------------------------------------------ writing

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One write transaction; on the disk when the block has ended."""
        readonly.refuse_in_copy(self.path)
        with self._lock:
            database = self._open()
            with transaction(database, self.path):
                yield database

    def insert(self, kind: str, key: str, body: str) -> int:
        """A new item, inside `writing`; it stands nowhere until an operation says so."""
        cursor = self._open().execute(
            "INSERT INTO item (kind, key, time, actor, body) VALUES (?, ?, ?, ?, ?)",
            (kind, key, time.time(), login(), body),
        )
        return int(cursor.lastrowid or 0)

    def note_seen(self, pairs: Iterable[tuple[str, int]]) -> None:
        """Count reports of items by where they came from, inside `writing`; each counts once."""
        self._open().executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", pairs)

    def append(self, kind: str, note: str, changes: Sequence[Change]) -> int:
        """One operation, inside `writing`; what was undone before cannot be redone any more."""
        database = self._open()
        database.execute("DELETE FROM stack WHERE undone IS NOT NULL")
        seq = self._write(kind, note, None, changes)
        database.execute("INSERT INTO stack VALUES (?, NULL)", (seq,))
        return seq

    def invert(self, kind: str, target: int, changes: Sequence[Change]) -> None:
        """Undo or redo ``target``, inside `writing`; ``changes`` are as they are made now."""
        seq = self._write(kind, "", target, changes)
        undone = seq if kind == "undo" else None
        self._open().execute("UPDATE stack SET undone = ? WHERE seq = ?", (undone, target))

    def close(self) -> None:
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    # ------------------------------------------------------------ inside

    def _write(
        self, kind: str, note: str, inverse_of: int | None, changes: Sequence[Change]
    ) -> int:
        database = self._open()
        cursor = database.execute(
            "INSERT INTO op (time, actor, kind, note, inverse_of) VALUES (?, ?, ?, ?, ?)",
            (time.time(), login(), kind, note, inverse_of),
        )
        seq = int(cursor.lastrowid or 0)
        database.executemany(
            "INSERT INTO change VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ((seq, c.item, *_columns(c.before), *_columns(c.after)) for c in changes),
        )
        database.executemany(
            "INSERT OR REPLACE INTO now"
            " SELECT ?1, kind, ?2, ?3, ?4, ?5, ?6 FROM item WHERE id = ?1",
            ((c.item, *_columns(c.after), seq) for c in changes),
        )
        return seq

    def _open(self) -> sqlite3.Connection:
        if self._database is not None:
            return self._database
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            database = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False, timeout=10
            )
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.executescript(_SCHEMA)
        except (OSError, sqlite3.DatabaseError, *BROKEN) as error:
            raise self._unreadable(error) from None
        self._database = database
        return database

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(
            f"is not a readable queue: {error}.",
            str(self.path),
            "Move it away to begin a new one; the data sets are unharmed.",
        )


def _list(items: Sequence[int]) -> str:
    return msgspec.json.encode(list(items)).decode()


@functools.cache
def login() -> str:
    """Who acts: the login, or the user's number where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _columns(standing: Standing) -> tuple[str | None, ...]:
    return (standing.state, standing.row, standing.file, standing.line)
