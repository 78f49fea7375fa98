"""A data set as the person sees it: a source with the journal's edits laid over it.

The source file is never written. Rows keep their number, line and offset whatever is edited or
dropped; a version (`data.versions`) is where the edits become a new file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from finetui.data.journal import UNTOUCHED, Change, Journal, Operation, State, row_hash
from finetui.data.records import Record, Shape, parse_record
from finetui.data.source import Progress, Source, Stop, open_source
from finetui.data.strict import JsonFault, RowError, decode, dumps
from finetui.errors import UserError

if TYPE_CHECKING:
    from finetui.data.checks.model import Finding
    from finetui.workspace import Workspace

_UNNAMEABLE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Row:
    """One row for display. ``index`` is 0-based, ``line`` physical and 1-based, ``offset`` bytes.

    ``text`` is its JSON (edited where it was edited), not yet made safe for a terminal; ``error``
    says why ``value`` is None.
    """

    index: int
    line: int
    offset: int
    text: str
    value: object | None
    error: str
    edited: bool
    dropped: bool


class DataSet:
    """Rows of one file with its edits; see `open_dataset`."""

    def __init__(self, source: Source, journal: Journal | None) -> None:
        self.source, self.journal = source, journal
        self.shape_override: Shape | None = None
        self.notice = ""
        if journal is not None and journal.overlay:
            self._bind(journal)

    # ------------------------------------------------------------ reading

    @property
    def path(self) -> Path:
        return self.source.path

    @property
    def rows(self) -> int:
        return self.source.rows

    @property
    def exact(self) -> bool:
        return self.source.exact

    @property
    def estimated_rows(self) -> int:
        return self.source.estimated_rows

    @property
    def shape(self) -> Shape:
        """The shape the person chose, otherwise the detected one."""
        return self.shape_override or self.source.shape.shape

    def build_index(self, progress: Progress | None = None, stop: Stop | None = None) -> None:
        self.source.build_index(progress, stop)

    def state(self, row: int) -> State:
        return self.journal.overlay.get(row, UNTOUCHED) if self.journal else UNTOUCHED

    def raw(self, row: int) -> bytes:
        """The row's bytes as they are now: the edit, or the source's own."""
        state = self.state(row)
        return self.source.raw(row) if state.text is None else state.text.encode()

    def text(self, row: int) -> str:
        state = self.state(row)
        return self.source.text(row) if state.text is None else state.text

    def value(self, row: int) -> object:
        """The decoded row as it is now; raises RowError."""
        state = self.state(row)
        return self.source.value(row) if state.text is None else decode(state.text.encode())

    def row(self, row: int) -> Row:
        """Everything the screen shows of a row; a broken row has ``error`` instead of a value."""
        state = self.state(row)
        value, error = None, ""
        try:
            value = self.value(row)
        except RowError as fault:
            error = f"{fault.message} (byte {fault.offset + fault.position:,})"
        return Row(
            row,
            self.source.line(row),
            self.source.offset(row),
            self.text(row),
            value,
            error,
            state.text is not None,
            state.dropped,
        )

    def record(self, row: int) -> Record:
        """The row read as the data set's shape; raises RowError or RecordError."""
        return parse_record(self.value(row), self.shape)

    def records(self) -> Iterator[tuple[int, Record]]:
        """(row, record) of every row that is kept; raises like `record`."""
        self.build_index()
        for row in range(self.rows):
            if not self.state(row).dropped:
                yield row, self.record(row)

    def changed_rows(self) -> list[int]:
        """Rows that are edited or dropped now, in order."""
        return sorted(self.journal.overlay) if self.journal else []

    @property
    def edited_count(self) -> int:
        return sum(1 for state in self._states() if state.text is not None and not state.dropped)

    @property
    def dropped_count(self) -> int:
        return sum(1 for state in self._states() if state.dropped)

    def history(self, last: int = 100) -> list[Operation]:
        return self.journal.history(last) if self.journal else []

    def refresh(self) -> bool:
        """Take in edits made by another process; True when there were any."""
        return self.journal.refresh() if self.journal else False

    # ------------------------------------------------------------ editing

    def edit(self, row: int, text: str, note: str = "", kind: str = "edit") -> None:
        """Replace a row by one JSON value; on disk when this returns.

        Raises RowError with the place of the fault when ``text`` is not valid JSON.
        """
        try:
            value = decode(text.encode())
        except UnicodeEncodeError:
            fault = JsonFault("malformed-json", 0, "half of a surrogate pair")
            raise self._row_error(row, fault) from None
        except JsonFault as fault:
            raise self._row_error(row, fault) from None
        text = dumps(value) if "\n" in text or "\r" in text else text
        before = self.state(row)
        original = self.source.raw(row)
        same = text.encode() == original or text == self.source.text(row)
        after = State(None if same else text, before.dropped)
        if after != before:
            keep = original if before.text is None else None
            self._apply(kind, note, [Change(row, before, after, self._hash(row), keep)])

    def drop(self, rows: Sequence[int], note: str = "") -> int:
        """Leave rows out of what is made of the data set, as one operation; how many it was."""
        return self._set_dropped(rows, True, "drop", note)

    def restore(self, rows: Sequence[int], note: str = "") -> int:
        """Take dropped rows back in, as one operation; how many it was."""
        return self._set_dropped(rows, False, "restore", note)

    def undo(self) -> str | None:
        """Take back the newest operation; a sentence of what it was, None when there is none."""
        done = self.journal.undo(self._verify) if self.journal else None
        return f"Undid {self._sentence(done)}." if done else None

    def redo(self) -> str | None:
        """Do again what the newest undo took back; a sentence, None when there is nothing."""
        done = self.journal.redo(self._verify) if self.journal else None
        return f"Redid {self._sentence(done)}." if done else None

    def fix(self, row: int, finding: Finding) -> str:
        """Apply the check's own repair to a row; a sentence of what was done.

        Raises UserError when the check has no automatic repair.
        """
        from finetui.data.checks.fixes import repair

        repaired = repair(finding.check, self.raw(row), self.source.decode)
        if repaired is None:
            self.drop([row], note=f"fix: {finding.check}")
            return f"Dropped line {self.source.line(row)}."
        if repaired == self.text(row):
            return f"Nothing to change in line {self.source.line(row)}."
        self.edit(row, repaired, note=f"fix: {finding.check}", kind="fix")
        return f"Repaired line {self.source.line(row)}."

    def close(self) -> None:
        self.source.close()
        if self.journal:
            self.journal.close()

    def __enter__(self) -> DataSet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------ inside

    def _states(self) -> list[State]:
        return list(self.journal.overlay.values()) if self.journal else []

    def _hash(self, row: int) -> str:
        return row_hash(self.raw(row))

    def _row_error(self, row: int, fault: JsonFault) -> RowError:
        line, offset = self.source.line(row), self.source.offset(row)
        return RowError(line, offset, fault.message, fault.position, fault.check)

    def _set_dropped(self, rows: Sequence[int], dropped: bool, kind: str, note: str) -> int:
        changes = []
        for row in sorted(set(rows)):
            before = self.state(row)
            if before.dropped != dropped:
                after = State(before.text, dropped)
                changes.append(Change(row, before, after, self._hash(row)))
        if changes:
            self._apply(kind, note, changes)
        return len(changes)

    def _apply(self, kind: str, note: str, changes: list[Change]) -> None:
        if self.journal is None:
            raise UserError(
                "edits need a workspace to be kept in.", str(self.path), "Run: finetui init"
            )
        if self.source.changed():
            raise UserError(
                "changed on the disk while it was open.", str(self.path), "Open it again."
            )
        meta = (("source", str(self.path)), ("identity", self.source.identity()))
        self.journal.apply(kind, note, changes, meta)

    def _verify(self, change: Change) -> None:
        """The source still holds what the change was made on."""
        if self.journal is None or change.before.text is not None:
            return
        expected = self.journal.first_hashes.get(change.row)
        if expected and expected != row_hash(self.source.raw(change.row)):
            raise self._changed(change.row)

    def _bind(self, journal: Journal) -> None:
        """Edits belong to one state of the file; a changed file must still hold their rows."""
        identity = self.source.identity()
        if journal.meta("identity") == identity:
            return
        self.source.build_index()
        for row in sorted(journal.overlay):
            expected = journal.first_hashes.get(row)
            inside = row < self.source.rows
            if not inside or (expected and row_hash(self.source.raw(row)) != expected):
                raise self._changed(row)
        journal.set_meta("identity", identity)
        self.notice = "The file has changed; every edited row is still there, so edits stand."

    def _changed(self, row: int) -> UserError:
        where = f"{self.path}:{self.source.line(row)}" if row < self.rows else str(self.path)
        journal = self.journal.path if self.journal else ""
        return UserError(
            f"has changed since it was edited: row {row + 1} is not what it was.",
            where,
            f"Put the old file back, or move {journal} away to begin anew.",
        )

    def _sentence(self, done: Operation) -> str:
        rows = f"{done.changes:,} row{'s' if done.changes != 1 else ''}"
        note = f" ({done.note})" if done.note else ""
        return f"the {done.kind} of {rows}{note}"


def journal_path(path: Path, workspace: Workspace) -> Path:
    """Where the edits of a file are kept; the name follows the workspace when it is moved."""
    name = workspace.relative(path.resolve())
    digest = xxhash.xxh3_64_hexdigest(name.encode())
    stem = _UNNAMEABLE.sub("-", path.stem)[:60]
    return workspace.versions / "journals" / f"{stem}-{digest}.sqlite"


def open_dataset(path: Path | str, workspace: Workspace | None = None) -> DataSet:
    """Open a file with its edits. Without a workspace it can be read, not edited.

    Raises UserError when the file cannot be read or no longer fits its journal.
    """
    path = Path(path)
    source = open_source(path, workspace.cache if workspace else None)
    try:
        journal = Journal(journal_path(path, workspace)) if workspace else None
        return DataSet(source, journal)
    except BaseException:
        source.close()
        raise
