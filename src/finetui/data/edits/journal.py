"""The journal of one data set's edits: SQLite, append-only, durable before a call returns.

What the operations mean is in `data.steps`. A change names its row by a *key* that never moves:
the row's number when it was first touched, plus how often the file had been replaced by then.
After a replacement, ``place`` says where each key's row is now, or that it is nowhere.
"""

from __future__ import annotations

import getpass
import itertools
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from finetui import readonly
from finetui.data.edits.layout import PARTS, open_journal, transaction
from finetui.data.edits.step_order import StepOrder
from finetui.data.edits.steps import (
    TEXT,
    UNTOUCHED,
    Change,
    Operation,
    Pipeline,
    Setting,
    State,
    Step,
    settle,
)
from finetui.errors import UserError

__all__ = ["UNTOUCHED", "Change", "Journal", "Operation", "State", "Step", "row_hash"]

_AFTER = f"SELECT c.row, {PARTS}, c.after_text, c.after_dropped, c.seq, c.after_mark, c.after_label"
_BEFORE = (
    f"SELECT c.row, {PARTS}, c.before_text, c.before_dropped, c.before_reason, c.before_mark,"
    " c.before_label"
)
_OPERATIONS = (
    "SELECT seq, time, kind, note, inverse_of,"
    " coalesce(rows, (SELECT count(*) FROM change WHERE change.seq = op.seq)),"
    " actor, reason, detail FROM op"
)
_CHANGE_COLUMNS = (
    "seq, row, before_text, before_dropped, after_text, after_dropped, before_hash, original,"
    " parts, before_reason, before_mark, after_mark, before_label, after_label, line, value_hash,"
    " context"
)
_INSERT_CHANGE = f"INSERT INTO change ({_CHANGE_COLUMNS}) VALUES ({', '.join('?' * 17)})"
_FEW = 2000  # rows that are looked up one by one; for more, all steps are laid anew
_EPOCH_BITS = 40
_ROW = (1 << _EPOCH_BITS) - 1


@dataclass(frozen=True, slots=True)
class Touched:
    """A row that the journal has something to say of, as it was last seen.

    ``row`` is None when the present file does not hold it; ``was`` and ``line`` say where it was.
    """

    key: int
    row: int | None
    was: int
    line: int
    hash: str
    value_hash: str
    state: State
    reason: str = ""
    context: str = ""


class Placed(NamedTuple):
    """Where a touched row is in a new file; ``found`` False: nowhere, for ``reason``."""

    key: int
    found: bool
    row: int
    line: int
    hash: str
    reason: str


def row_hash(raw: bytes) -> str:
    """The hash that binds a change to the bytes it was made on."""
    return xxhash.xxh3_128_hexdigest(raw)


def reason_of(note: str) -> str:
    """The short reason in a note: ``fix: email`` is about ``email``."""
    return note.removeprefix("fix: ")


def this_person() -> str:
    """Who makes the edits: the login name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


class Journal:
    """Edits of one source. The file is made by the first operation, not by looking."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.actor = this_person()
        self.overlay: dict[int, State] = {}
        self.limbo: dict[int, State] = {}  # key to state, of rows that the file no longer holds
        self.pipeline = Pipeline()
        self.head = 0
        self._reasons: dict[int, str] = {}
        self._epoch = 0  # how often the file was replaced
        self._rows: dict[int, int] = {}  # keys of earlier files to rows, and back
        self._keys: dict[int, int] = {}
        self._database: sqlite3.Connection | None = None
        self._lock = threading.RLock()
        if path.exists():
            self._open()

    # ------------------------------------------------------------ reading

    def meta(self, key: str) -> str:
        """A stored fact about the source, ``""`` where there is none."""
        found = self._ask("SELECT value FROM meta WHERE key = ?", key)
        return str(found[0][0]) if found else ""

    def history(self, last: int = 100) -> list[Operation]:
        """The newest operations, newest first."""
        return [
            Operation(*row) for row in self._ask(_OPERATIONS + " ORDER BY seq DESC LIMIT ?", last)
        ]

    def operation(self, seq: int) -> Operation | None:
        found = self._ask(_OPERATIONS + " WHERE seq = ?", seq)
        return Operation(*found[0]) if found else None

    def steps(self) -> list[Step]:
        """The steps that were not taken back, in their order."""
        with self._lock:
            known = {row[0]: Operation(*row) for row in self._ask(_OPERATIONS)}
            based = self._order().dependencies() if self._database else {}
            return [
                self._step(known[seq], tuple(sorted(based.get(seq, ()))))
                for seq in self.pipeline.order
            ]

    def steps_of(self, row: int) -> list[Step]:
        """The steps that say something of a row, in their order."""
        said = {seq for (seq,) in self._ask("SELECT seq FROM change WHERE row = ?", self._key(row))}
        found = (self.operation(seq) for seq in self.pipeline.order if seq in said)
        return [self._step(operation, ()) for operation in found if operation]

    def rows_of(self, seq: int) -> list[int]:
        """The rows of the present file that a step says something of, in order."""
        keys = self._ask("SELECT row FROM change WHERE seq = ?", seq)
        rows = (self._row(key) for (key,) in keys)
        return sorted(row for row in rows if row is not None)

    def edited_by(self) -> dict[str, list[int]]:
        """The kept rows that have another text than the file, by the reason it was written for."""
        found: dict[str, list[int]] = {}
        seen: set[int] = set()
        for seq in reversed(self.pipeline.standing):
            rows = self._ask(
                f"SELECT c.row FROM change c WHERE c.seq = ? AND {PARTS} & {TEXT}", seq
            )
            mine = {key for (key,) in rows} - seen
            seen |= mine
            live = [row for row in map(self._row, mine) if row is not None and self._edited(row)]
            if live:
                found.setdefault(self._reason(seq), []).extend(live)
        return found

    def original(self, key: int) -> bytes | None:
        """The source's bytes of a row, where a change kept them."""
        found = self._ask(
            "SELECT original FROM change WHERE row = ? AND original IS NOT NULL LIMIT 1", key
        )
        return bytes(found[0][0]) if found else None

    def touched(self) -> list[Touched]:
        """Every row that some operation was about, standing or not, with where it was last."""
        placed = {row[0]: Placed(*row) for row in self._ask(*self._last_places())}
        contexts = dict(self._ask("SELECT row, context FROM change WHERE context <> ''"))
        first = self._ask(
            "SELECT row, before_hash, value_hash, line, min(rowid) FROM change"
            " WHERE before_text IS NULL AND before_hash <> '' GROUP BY row"
        )
        return [
            self._touched(
                key, str(digest), str(value), line, placed.get(key), contexts.get(key, "")
            )
            for key, digest, value, line, _ in first
        ]

    def refresh(self) -> bool:
        """Take in what another process wrote; True when there was something."""
        with self._lock:
            if not self._exists():
                return False
            before = self.head
            database = self._open()
            self._take_in(database)
            return self.head != before

    # ------------------------------------------------------------ writing

    def set_meta(self, key: str, value: str) -> None:
        with self._writing(asked=False) as database:
            _put(database, [(key, value)])

    def apply(
        self,
        kind: str,
        note: str,
        changes: Iterable[Change],
        meta: Iterable[tuple[str, str]] = (),
        reason: str = "",
        detail: dict[str, Any] | None = None,
        placeholders: Iterable[tuple[str, bytes, int]] = (),
    ) -> int:
        """Append one step and wait until it is on the disk; its number.

        ``placeholders`` are redacted values to keep (kind, keyed hash, number). Raises UserError
        when another session changed one of the rows, or redacted, in between.
        """
        with self._lock:
            with self._writing() as database:
                _put(database, meta)
                seq = self._next(database)
                rows, said = 0, set[object]()
                for batch in _batches(self._checked(changes)):
                    rows += sum(change.before != change.after for change in batch)
                    if len(said) < 2:
                        said.update(change.said for change in batch)
                    values = (self._values(seq, change) for change in batch)
                    database.executemany(_INSERT_CHANGE, values)
                why, alike = reason or reason_of(note), len(said) == 1 and None not in said
                self._log(database, seq, kind, note, None, rows, why, detail, alike)
                self._keep(database, placeholders)
            self._advance(seq, kind, detail)
            return seq

    def undo(self) -> Operation | None:
        """Take back the newest operation that stands; what was undone, None for none."""
        return self._step_back("undo")

    def redo(self) -> Operation | None:
        """Take back the newest undo; the operation that stands again, or None."""
        return self._step_back("redo")

    def switch(self, seq: int, on: bool, along: bool = False) -> list[int]:
        """Switch a step on or off, as an operation of its own; the steps that were switched.

        ``along`` also switches off the steps made on its text. Raises UserError when a step that
        stands would be left without the text it was made on.
        """
        with self._lock:
            with self._writing() as database:
                order = self._order()
                order.must_be_a_step(seq)
                if (seq in self.pipeline.off) != on:
                    return []
                steps = order.switchable(seq, on, along)
                kind = "switch-on" if on else "switch-off"
                detail = {"steps": steps}
                number = self._next(database)
                rows = self._count_rows(steps)
                self._log(database, number, kind, "", None, rows, "", detail)
            self._advance(number, kind, detail)
            return steps

    def move(self, seq: int, before: int | None) -> None:
        """Put a step before another one (None: last).

        Raises UserError when it would pass a step that says something else of one of its rows.
        """
        with self._lock:
            with self._writing() as database:
                order = self._order()
                order.must_be_a_step(seq)
                if before is not None:
                    order.must_be_a_step(before)
                was = self.pipeline.after(seq)
                if before in (seq, was):
                    return
                order.must_be_independent(seq, before)
                detail = {"step": seq, "before": before, "was": was}
                number = self._next(database)
                self._log(database, number, "move", "", None, 0, "", detail)
            self._advance(number, "move", detail)

    def rebase(self, identity: Sequence[tuple[str, str]], places: Sequence[Placed]) -> bool:
        """Bind the edits to a replaced file; False when another process has done so meanwhile."""
        with self._lock:
            with self._writing(asked=False) as database:
                if all(self.meta(key) == value for key, value in identity):
                    return False
                _put(database, identity)
                seq = self._next(database)
                missing = sum(not place.found for place in places)
                note = f"{len(places) - missing:,} rows found again, {missing:,} not"
                self._log(database, seq, "rebase", note, None, len(places), "", None)
                database.executemany(
                    "INSERT INTO place (seq, key, found, row, line, hash, reason)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    ((seq, *place) for place in places),
                )
            self._load()
            return True

    def placeholders(self) -> list[tuple[str, bytes, int]]:
        """The redacted values known so far: kind, keyed hash, number."""
        return self._ask("SELECT kind, digest, number FROM placeholder")

    def close(self) -> None:
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    # ------------------------------------------------------------ rows and keys

    def _key(self, row: int) -> int:
        found = self._keys.get(row) if self._keys else None
        return self._epoch << _EPOCH_BITS | row if found is None else found

    def _row(self, key: int) -> int | None:
        return key & _ROW if key >> _EPOCH_BITS == self._epoch else self._rows.get(key)

    def _state_of(self, key: int) -> State:
        row = self._row(key)
        found = self.limbo.get(key) if row is None else self.overlay.get(row)
        return found or UNTOUCHED

    def _edited(self, row: int) -> bool:
        state = self.overlay.get(row, UNTOUCHED)
        return state.text is not None and state.kept

    def _last_places(self) -> tuple[Any, ...]:
        last = self.pipeline.rebases[-1] if self.pipeline.rebases else -1
        return "SELECT key, found, row, line, hash, reason FROM place WHERE seq = ?", last

    def _touched(
        self,
        key: int,
        digest: str,
        value_hash: str,
        line: int,
        placed: Placed | None,
        context: str,
    ) -> Touched:
        state, row, was = self._state_of(key), self._row(key), key & _ROW
        line, reason = line or was + 1, ""
        if placed is not None:
            was, line, digest, reason = placed.row, placed.line, placed.hash, placed.reason
        return Touched(key, row, was, line, digest, value_hash, state, reason, context)

    # ------------------------------------------------------------ checks before writing

    def _checked(self, changes: Iterable[Change]) -> Iterator[Change]:
        for change in changes:
            now = self.overlay.get(change.row, UNTOUCHED)
            if now is not change.before and now != change.before:
                raise UserError(
                    f"row {change.row + 1} was changed by another session meanwhile.",
                    str(self.path),
                    "Look at the row again and repeat the edit.",
                )
            yield change

    def _order(self) -> StepOrder:
        return StepOrder(self._ask, self._stage, self.pipeline, self._name, str(self.path))

    def _name(self, key: int) -> str:
        row = self._row(key)
        return "a row that the file no longer has" if row is None else f"row {row + 1:,}"

    def _count_rows(self, steps: Sequence[int]) -> int:
        marks = ", ".join("?" * len(steps))
        found = self._ask(f"SELECT count(DISTINCT row) FROM change WHERE seq IN ({marks})", *steps)
        return int(found[0][0])

    # ------------------------------------------------------------ inside: writing

    def _exists(self) -> bool:
        return self._database is not None or self.path.exists()

    def _step_back(self, kind: str) -> Operation | None:
        if not self._exists():
            return None
        with self._lock:
            with self._writing() as database:
                chosen = self._target(kind)
                if chosen is None:
                    return None
                target, inverse = chosen
                seq = self._next(database)
                found = self.operation(target)
                self._log(database, seq, kind, "", inverse, found.changes if found else 0, "", None)
            self._advance(seq, kind, None, target)
            return found

    def _target(self, kind: str) -> tuple[int, int] | None:
        """The operation that an undo or redo is about, and the one it is the inverse of."""
        pipeline = self.pipeline
        if kind == "redo":
            return pipeline.undone[-1] if pipeline.undone else None
        return (pipeline.done[-1], pipeline.done[-1]) if pipeline.done else None

    def _keep(
        self, database: sqlite3.Connection, placeholders: Iterable[tuple[str, bytes, int]]
    ) -> None:
        try:
            database.executemany("INSERT INTO placeholder VALUES (?, ?, ?)", placeholders)
        except sqlite3.IntegrityError:
            raise UserError(
                "another session redacted rows meanwhile.", str(self.path), "Redact again."
            ) from None

    def _next(self, database: sqlite3.Connection) -> int:
        """The number of the operation being written: changes come first, their count after."""
        found = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'op'").fetchone()
        return int(found[0]) + 1 if found else 1

    def _log(
        self,
        database: sqlite3.Connection,
        seq: int,
        kind: str,
        note: str,
        inverse_of: int | None,
        rows: int,
        reason: str,
        detail: dict[str, Any] | None,
        uniform: bool = False,
    ) -> None:
        database.execute(
            "INSERT INTO op"
            " (seq, time, actor, kind, note, inverse_of, rows, reason, detail, uniform)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(seq, time.time(), self.actor, kind, note, inverse_of, rows, reason),
                *(json.dumps(detail) if detail else "", uniform),
            ),
        )

    def _values(self, seq: int, change: Change) -> tuple[Any, ...]:
        before, after = change.before, change.after
        return (
            *(seq, self._key(change.row), before.text, before.fate, after.text, after.fate),
            *(change.before_hash, change.original, change.parts, before.reason),
            *(int(before.marked), int(after.marked), before.label, after.label),
            *(change.line, change.value_hash, change.context),
        )

    @contextmanager
    def _writing(self, asked: bool = True) -> Iterator[sqlite3.Connection]:
        """One write transaction; other sessions' operations are taken in before the block.

        What a person ``asked`` for would be lost in the private copy of a read-only workspace:
        ReadOnlyError.
        """
        if asked:
            readonly.refuse_in_copy(self.path)
        with self._lock:
            database = self._open()
            try:
                with transaction(database, self.path):
                    self._take_in(database)
                    yield database
            except sqlite3.DatabaseError as error:
                raise UserError(
                    f"cannot be written: {error}.", str(self.path), "Nothing was changed."
                ) from None

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = open_journal(self.path)
            try:
                self._load()
            except sqlite3.DatabaseError as error:
                self._database.close()
                self._database = None
                raise UserError(
                    f"the journal of edits cannot be read: {error}.",
                    str(self.path),
                    "Move it away to begin anew; the data file itself was never changed.",
                ) from None
        return self._database

    # ------------------------------------------------------------ inside: reading

    def _ask(self, query: str, *values: Any) -> list[Any]:
        with self._lock:
            if self._database is None:
                return []
            return self._database.execute(query, values).fetchall()

    def _take_in(self, database: sqlite3.Connection) -> None:
        newest = database.execute("SELECT max(seq) FROM op").fetchone()[0] or 0
        if newest != self.head:
            self._load()

    def _load(self) -> None:
        """Everything from the file: the order of steps, where rows are, and their states."""
        assert self._database is not None
        self.pipeline = Pipeline()
        self._reasons.clear()
        head = 0
        for seq, kind, detail in self._ask("SELECT seq, kind, detail FROM op ORDER BY seq"):
            self.pipeline.take(seq, kind, detail)
            head = seq
        self._epoch = len(self.pipeline.rebases)
        places = [Placed(*row) for row in self._ask(*self._last_places())]
        self._rows = {place.key: place.row for place in places if place.found}
        self._keys = {row: key for key, row in self._rows.items()}
        self.overlay, self.limbo = {}, {}
        self._settle_all()
        self.head = head

    def _advance(
        self, seq: int, kind: str, detail: dict[str, Any] | None, target: int | None = None
    ) -> None:
        """Take in an operation of our own; ``target`` is what an undo or redo is about."""
        self.pipeline.take(seq, kind, json.dumps(detail) if detail else "")
        about = self.pipeline.targets(seq if target is None else target)
        if about is not None:
            self._settle_again(about)
        elif kind == "undo":
            # Everything after the step has been taken back, so its rows are what they were.
            self._settle_step(_BEFORE, seq if target is None else target)
        else:
            self._settle_step(_AFTER, seq if target is None else target)
        self.head = seq

    def _settle_all(self) -> None:
        """Lay all standing steps over the rows, one after another."""
        uniform = {seq for (seq,) in self._ask("SELECT seq FROM op WHERE uniform")}
        for alone, steps in itertools.groupby(self.pipeline.standing, key=uniform.__contains__):
            if alone:
                for seq in steps:
                    self._settle_uniform(_AFTER, seq)
                continue
            self._stage(list(steps))
            self._settle(
                f"{_AFTER} FROM standing s CROSS JOIN change c ON c.seq = s.seq"
                " ORDER BY s.place, c.rowid"
            )

    def _settle_again(self, steps: Sequence[int]) -> None:
        """Work out anew the rows that some steps touch."""
        if self._count_rows(steps) > _FEW:
            self.overlay.clear()
            self.limbo.clear()
            self._settle_all()
            return
        self._stage(self.pipeline.standing)
        marks = ", ".join("?" * len(steps))
        touched = f"SELECT DISTINCT row FROM change WHERE seq IN ({marks})"
        for (key,) in self._ask(touched, *steps):
            row = self._row(key)
            book, place = (self.limbo, key) if row is None else (self.overlay, row)
            book.pop(place, None)
        self._settle(
            f"{_AFTER} FROM ({touched}) t JOIN change c ON c.row = t.row"
            " JOIN standing s ON s.seq = c.seq ORDER BY s.place, c.rowid",
            *steps,
        )

    def _stage(self, order: Sequence[int]) -> None:
        """Put steps with their places where queries can join them."""
        assert self._database is not None
        database = self._database
        database.execute("SAVEPOINT stage")
        database.execute(
            "CREATE TEMP TABLE IF NOT EXISTS standing (place INTEGER PRIMARY KEY, seq INTEGER)"
        )
        database.execute("CREATE INDEX IF NOT EXISTS temp.standing_seq ON standing (seq)")
        database.execute("DELETE FROM standing")
        database.executemany("INSERT INTO standing VALUES (?, ?)", enumerate(order))
        database.execute("RELEASE stage")

    def _settle_step(self, columns: str, seq: int) -> None:
        """Lay what one step says over its rows."""
        uniform = self._ask("SELECT uniform FROM op WHERE seq = ?", seq)
        if uniform and uniform[0][0]:
            self._settle_uniform(columns, seq)
            return
        groups: dict[tuple[Any, ...], list[int]] = {}
        for key, *said in self._ask(f"{columns} FROM change c WHERE c.seq = ?", seq):
            groups.setdefault(tuple(said), []).append(key)
        for same, keys in groups.items():
            self._lay(keys, self._setting(same))

    def _settle_uniform(self, columns: str, seq: int) -> None:
        """The same for a step that says one thing of all its rows, such as a bulk drop."""
        assert self._database is not None
        first = self._ask(f"{columns} FROM change c WHERE c.seq = ? LIMIT 1", seq)
        keys = self._database.execute("SELECT row FROM change WHERE seq = ?", (seq,))
        if first:
            self._lay((key for (key,) in keys), self._setting(first[0][1:]))

    def _settle(self, query: str, *values: Any) -> None:
        """Lay settings over the rows, one by one."""
        assert self._database is not None
        for key, *said in self._database.execute(query, values):
            self._lay([key], self._setting(tuple(said)))

    def _lay(self, keys: Iterable[int], setting: Setting) -> None:
        """Lay one setting over rows; those in one state before share one state after."""
        overlay, limbo, row_of = self.overlay, self.limbo, self._row if self._epoch else None
        last, after = None, UNTOUCHED
        for key in keys:
            row = row_of(key) if row_of else key
            book, place = (limbo, key) if row is None else (overlay, row)
            before = book.get(place, UNTOUCHED)
            if before is not last:
                last, after = before, settle(before, setting)
                after = UNTOUCHED if after == UNTOUCHED else after
            if after is UNTOUCHED:
                book.pop(place, None)
            else:
                book[place] = after

    def _setting(self, said: tuple[Any, ...]) -> Setting:
        parts, text, fate, reason, marked, label = said
        if isinstance(reason, int):
            reason = self._reason(reason) if fate else ""
        return Setting(parts, text, fate, reason, marked, label)

    def _reason(self, seq: int) -> str:
        found = self._reasons.get(seq)
        if found is None:
            rows = self._ask("SELECT reason, note FROM op WHERE seq = ?", seq)
            reason, note = rows[0] if rows else ("", "")
            found = self._reasons[seq] = str(reason or reason_of(note))
        return found

    def _step(self, operation: Operation, depends_on: tuple[int, ...]) -> Step:
        return Step(
            operation.seq,
            operation.time,
            operation.actor,
            operation.kind,
            operation.note,
            operation.reason or reason_of(operation.note),
            operation.changes,
            operation.seq not in self.pipeline.off,
            depends_on,
        )


def _put(database: sqlite3.Connection, meta: Iterable[tuple[str, str]]) -> None:
    database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta)


def _batches(changes: Iterable[Change], size: int = 1000) -> Iterator[list[Change]]:
    batch: list[Change] = []
    for change in changes:
        batch.append(change)
        if len(batch) == size:
            yield batch
            batch = []
    yield batch
