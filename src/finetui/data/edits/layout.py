"""The tables of a journal file, how an older file gets the newer ones, and how it is opened."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetui.errors import BROKEN, UserError

VERSION = 2
_LAYOUT_1 = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS op (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    actor TEXT NOT NULL,
    kind TEXT NOT NULL,             -- edit, fix, drop, restore, undo, redo, and what steps.py adds
    note TEXT NOT NULL,
    inverse_of INTEGER REFERENCES op (seq)
);
CREATE TABLE IF NOT EXISTS change (
    seq INTEGER NOT NULL REFERENCES op (seq),
    row INTEGER NOT NULL,           -- the row's key
    before_text TEXT,               -- NULL: the row as it is in the source
    before_dropped INTEGER NOT NULL,
    after_text TEXT,
    after_dropped INTEGER NOT NULL, -- 0 kept, 1 dropped, 2 quarantined
    before_hash TEXT NOT NULL,      -- of the row's bytes before this change
    original BLOB                   -- the source's bytes, kept when a row is first edited
);
CREATE INDEX IF NOT EXISTS change_seq ON change (seq);
CREATE TRIGGER IF NOT EXISTS op_frozen BEFORE UPDATE ON op
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER IF NOT EXISTS change_frozen BEFORE UPDATE ON change
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
"""
_LAYOUT_2 = """
ALTER TABLE op ADD COLUMN reason TEXT NOT NULL DEFAULT '';
ALTER TABLE op ADD COLUMN rows INTEGER;             -- NULL: as many as it has changes (layout 1)
ALTER TABLE op ADD COLUMN detail TEXT NOT NULL DEFAULT '';
ALTER TABLE op ADD COLUMN uniform INTEGER NOT NULL DEFAULT 0;  -- its changes say all the same
ALTER TABLE change ADD COLUMN parts INTEGER;        -- NULL: text and fate, where they differ
ALTER TABLE change ADD COLUMN before_reason TEXT NOT NULL DEFAULT '';
ALTER TABLE change ADD COLUMN before_mark INTEGER NOT NULL DEFAULT 0;
ALTER TABLE change ADD COLUMN after_mark INTEGER NOT NULL DEFAULT 0;
ALTER TABLE change ADD COLUMN before_label TEXT NOT NULL DEFAULT '';
ALTER TABLE change ADD COLUMN after_label TEXT NOT NULL DEFAULT '';
ALTER TABLE change ADD COLUMN line INTEGER NOT NULL DEFAULT 0;
ALTER TABLE change ADD COLUMN value_hash TEXT NOT NULL DEFAULT '';
ALTER TABLE change ADD COLUMN context TEXT NOT NULL DEFAULT '';  -- hash of the row before
CREATE INDEX change_row ON change (row);
CREATE INDEX change_step ON change (seq, row);
DROP INDEX change_seq;
CREATE TABLE place (                -- where the touched rows are after the file was replaced
    seq INTEGER NOT NULL REFERENCES op (seq),
    key INTEGER NOT NULL,
    found INTEGER NOT NULL,         -- 0: row and line are where it was last
    row INTEGER NOT NULL,
    line INTEGER NOT NULL,
    hash TEXT NOT NULL,             -- of the row's bytes there
    reason TEXT NOT NULL
);
CREATE INDEX place_seq ON place (seq);
CREATE TABLE placeholder (          -- redacted values by keyed hash, never the values themselves
    kind TEXT NOT NULL,
    digest BLOB NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (kind, digest),
    UNIQUE (kind, number)
);
CREATE TRIGGER op_kept BEFORE DELETE ON op
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER change_kept BEFORE DELETE ON change
    BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
"""
_LAYOUTS = (_LAYOUT_1, _LAYOUT_2)

PARTS = (
    "coalesce(c.parts, (c.before_text IS NOT c.after_text)"
    " + 2 * (c.before_dropped <> c.after_dropped))"
)
"""Which parts a change `c` is about; layout 1 did not write it down."""


def open_journal(path: Path) -> sqlite3.Connection:
    """Open or make a journal (0600), of the newest layout and durable at every commit.

    Raises UserError for a file that is none, or that a newer finetui wrote.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        _bring_up_to_date(database, path)
    except (OSError, sqlite3.DatabaseError, *BROKEN) as error:
        raise UserError(
            f"is not a readable journal: {error}.",
            str(path),
            "Move it away to begin a new one; the data file is unharmed.",
        ) from None
    return database


@contextmanager
def transaction(database: sqlite3.Connection, path: Path) -> Iterator[None]:
    """One write transaction: on the disk when the block has ended (synchronous=FULL), undone when
    it fails. Raises UserError when another session holds the file."""
    try:
        database.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        raise UserError(
            f"cannot be written: {error}.", str(path), "Close the other session."
        ) from None
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        roll_back(database)
        raise


def roll_back(database: sqlite3.Connection) -> None:
    if database.in_transaction:
        database.execute("ROLLBACK")


def _bring_up_to_date(database: sqlite3.Connection, path: Path) -> None:
    """Add what later layouts have, in one transaction; what is there stays as it is."""
    version = _version(database)
    if version > VERSION:
        raise UserError(
            f"was written by a newer finetui (layout {version}).", str(path), "Update finetui."
        )
    if version == VERSION:
        return
    database.execute("BEGIN IMMEDIATE")
    try:
        for layout in _LAYOUTS[_version(database) :]:  # another process may have been faster
            for statement in _statements(layout):
                database.execute(statement)
        database.execute(f"PRAGMA user_version = {VERSION}")
        database.execute("COMMIT")
    except BaseException:
        roll_back(database)
        raise


def _version(database: sqlite3.Connection) -> int:
    """The layout of a file: the first one did not write its number down."""
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    made = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'change'").fetchone()
    return 1 if made and not version else version


def _statements(layout: str) -> Iterator[str]:
    statement = ""
    for line in layout.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
