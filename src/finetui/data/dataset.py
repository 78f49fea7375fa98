"""A data set as the person sees it: a source with the journal's edits laid over it.

The source file is never written. Rows keep their number, line and offset whatever is edited or
dropped; a version (`data.versions`) is where the edits become a new file. When the file itself is
replaced, the edits go with their rows; those whose row is gone are kept as ``unplaced``.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from finetui import readonly
from finetui.data.edits import rebase
from finetui.data.edits.journal import (
    UNTOUCHED,
    Change,
    Journal,
    Operation,
    State,
    Step,
    Touched,
    reason_of,
    row_hash,
)
from finetui.data.edits.steps import FATE, SWITCHES, Count
from finetui.data.formats.source import Progress, Source, Stop, open_source
from finetui.data.records import Fault, Record, Shape, parse_record
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
    says why ``value`` is None, ``reason`` why the row was dropped or quarantined.
    """

    index: int
    line: int
    offset: int
    text: str
    value: object | None
    error: str
    edited: bool
    dropped: bool
    quarantined: bool = False
    marked: bool = False
    label: str = ""
    reason: str = ""

    @property
    def kept(self) -> bool:
        return not (self.dropped or self.quarantined)


@dataclass(frozen=True)
class Unplaced:
    """What was decided on a row that the file no longer holds; the journal keeps it.

    ``row`` (0-based) and ``line`` (1-based) say where it was last, ``text`` what it was edited to
    (or was, where that is kept), ``reason`` why it was not found. ``settled``: nothing is lost.
    """

    key: int
    row: int
    line: int
    text: str
    reason: str
    state: State
    settled: bool


class DataSet:
    """Rows of one file with its edits; see `open_dataset`."""

    def __init__(self, source: Source, journal: Journal | None) -> None:
        self.source, self.journal = source, journal
        self.shape_override: Shape | None = None
        self.notice = ""
        if journal is not None:
            chosen = journal.meta("shape")
            self.shape_override = Shape(chosen) if chosen else None
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
            state.quarantined,
            state.marked,
            state.label,
            state.reason,
        )

    def record(self, row: int) -> Record:
        """The row read as the data set's shape; raises RowError or RecordError."""
        return parse_record(self.value(row), self.shape)

    def records(self) -> Iterator[tuple[int, Record]]:
        """(row, record) of every row that is kept; raises like `record`."""
        self.build_index()
        for row in range(self.rows):
            if self.state(row).kept:
                yield row, self.record(row)

    def changed_rows(self) -> list[int]:
        """Rows that are edited, dropped or quarantined now, in order."""
        return sorted(row for row, state in list(self._overlay().items()) if state.changed)

    @property
    def edited_count(self) -> int:
        """Rows that are kept and have another text than in the file."""
        return self._number(lambda state: state.text is not None and state.kept)

    @property
    def dropped_count(self) -> int:
        return self._number(lambda state: state.dropped)

    @property
    def quarantined_count(self) -> int:
        return self._number(lambda state: state.quarantined)

    @property
    def marked_count(self) -> int:
        return self._number(lambda state: state.marked)

    @property
    def labelled_count(self) -> int:
        return self._number(lambda state: bool(state.label))

    def counts(self) -> list[Count]:
        """How many rows are dropped, quarantined, edited, marked or labelled, and for what."""
        found = self._rows_by_reason()
        return [Count(what, why, len(rows)) for (what, why), rows in sorted(found.items())]

    def rows_counted(self, count: Count) -> list[int]:
        """The rows behind one line of `counts`, in order."""
        return sorted(self._rows_by_reason().get((count.what, count.reason), ()))

    def rows_of_step(self, seq: int) -> list[int]:
        """The rows that a step says something of, in order, where they are in the file now."""
        return self.journal.rows_of(seq) if self.journal else []

    def steps(self) -> list[Step]:
        """What was done and stands (or is switched off), in its order."""
        return self.journal.steps() if self.journal else []

    def row_steps(self, row: int) -> list[Step]:
        """What was done to one row, by whom and when."""
        return self.journal.steps_of(row) if self.journal else []

    @property
    def unplaced(self) -> list[Unplaced]:
        """Edits whose row the changed file no longer holds, without those dealt with."""
        journal = self.journal
        if journal is None or not journal.limbo:
            return []
        done = journal.pipeline.settled()
        waiting = [
            each for each in journal.touched() if each.key in journal.limbo and each.key not in done
        ]
        return [
            Unplaced(
                each.key,
                each.was,
                each.line,
                self._unplaced_text(journal, each),
                rebase.sentence(each),
                each.state,
                rebase.is_settled(each),
            )
            for each in sorted(waiting, key=lambda each: each.was)
        ]

    def history(self, last: int = 100) -> list[Operation]:
        return self.journal.history(last) if self.journal else []

    def refresh(self) -> bool:
        """Take in edits made by another process; True when there were any."""
        return self.journal.refresh() if self.journal else False

    # ------------------------------------------------------------ editing

    def edit(
        self, row: int, text: str, note: str = "", kind: str = "edit", strict: bool = False
    ) -> None:
        """Replace a row by one JSON value; on disk when this returns.

        Raises RowError with the place of the fault when ``text`` is not valid JSON, and UserError
        when it is ``strict`` and the row would get a structural fault that it does not have.
        """
        text = self._one_line(row, text)
        if strict:
            self._refuse_new_faults(row, text)
        change = self.text_change(row, text)
        if change is not None:
            self.commit(kind, note, [change])

    def edit_turn(self, row: int, turn: int, text: str, note: str = "") -> None:
        """Replace the text of one turn (0-based in `Record.all_turns`), nothing else of the row.

        Raises UserError when the text stands in no single place, or the row would get a fault.
        """
        from finetui.data.edits.turns import with_turn

        self.edit(row, with_turn(self.text(row), self.shape, turn, text), note, strict=True)

    def validate(self, row: int, text: str) -> list[Fault]:
        """What is structurally wrong with a text for a row: JSON, keys, types, roles, order."""
        from finetui.data.edits.turns import faults_of

        return faults_of(text.encode(errors="surrogatepass"), self.shape, decode)

    def drop(self, rows: Sequence[int], note: str = "", reason: str = "") -> int:
        """Leave rows out of what is made of the data set, as one operation; how many it was."""
        why = reason or reason_of(note)
        return self.decide("drop", rows, lambda state: _out(state, why), note, why)

    def quarantine(self, rows: Sequence[int], reason: str, note: str = "") -> int:
        """Put rows aside for a reason: left out like dropped ones, but to be looked at again."""
        return self.decide("quarantine", rows, lambda state: _aside(state, reason), note, reason)

    def restore(self, rows: Sequence[int], note: str = "") -> int:
        """Take dropped or quarantined rows back in, as one operation; how many it was."""
        return self.decide("restore", rows, _back_in, note)

    def mark(self, rows: Sequence[int], on: bool = True, note: str = "") -> int:
        """Mark rows for review, or take the mark away; how many it was."""
        kind = "mark" if on else "unmark"
        return self.decide(kind, rows, lambda state: replace(state, marked=on), note)

    def label(self, rows: Sequence[int], value: str, note: str = "") -> int:
        """Give rows a label of the person's own (``""`` takes it away); how many it was."""
        return self.decide("label", rows, lambda state: replace(state, label=value), note, value)

    def decide(
        self,
        kind: str,
        rows: Iterable[int],
        become: Callable[[State], State],
        note: str = "",
        reason: str = "",
    ) -> int:
        """One step that changes the states of rows, not their texts; how many rows it was."""
        alike: dict[State, State] = {}

        def after(state: State) -> State:
            if state.text is not None:
                return become(state)
            found = alike.get(state)
            if found is None:
                found = alike[state] = become(state)
            return found

        changes = [self._decision(row, after, kind) for row in sorted(set(rows))]
        count = sum(change.before != change.after for change in changes)
        if count:
            self.commit(kind, note, changes, reason or note)
        return count

    def switch(self, seq: int, on: bool, along: bool = False) -> str:
        """Switch a step off or on again; a sentence of what was done.

        ``along`` takes the steps made on its texts off with it. Raises UserError when a step that
        stands was made on its text.
        """
        switched = self._journal().switch(seq, on, along)
        if not switched:
            return f"Step {seq} is {'on' if on else 'off'} already."
        names = ", ".join(str(each) for each in switched)
        return f"Switched step{'s' * (len(switched) > 1)} {names} {'on' if on else 'off'}."

    def move(self, seq: int, before: int | None) -> str:
        """Put a step before another one (None: last); a sentence of what was done.

        Raises UserError that names the step it depends on.
        """
        self._journal().move(seq, before)
        return f"Moved step {seq} {'to the end' if before is None else f'before step {before}'}."

    def place(self, key: int, row: int) -> str:
        """Put an unplaced edit on a row by hand, as one step; a sentence of what was done."""
        found = next((each for each in self.unplaced if each.key == key), None)
        if found is None:
            raise UserError("there is no such unplaced edit.", str(self.path))
        before, after = self.state(row), found.state
        text = before.text if after.text is None else self._one_line(row, after.text)
        merged = State(
            text, after.dropped, after.quarantined, after.reason, after.marked, after.label
        )
        note = f"of line {found.line:,} in the old file"
        change = self._change(row, before, merged, keep=True)
        self.commit("place", note, [change], after.reason, {"placed": [key]})
        return f"Placed the edit {note} on line {self.source.line(row):,}."

    def dismiss(self, keys: Sequence[int]) -> int:
        """Say that unplaced edits are done with; they stay in the journal. How many it was."""
        known = sorted({each.key for each in self.unplaced} & set(keys))
        if known:
            self.commit("dismiss", f"{len(known)} unplaced", [], "", {"placed": known})
        return len(known)

    def choose_shape(self, shape: Shape | None) -> None:
        """Read the rows as this shape from now on (None: as detected); kept with the edits."""
        self._journal().set_meta("shape", str(shape or ""))
        self.shape_override = shape

    def undo(self) -> str | None:
        """Take back the newest operation; a sentence of what it was, None when there is none."""
        self._refuse_a_changed_file()
        done = self.journal.undo() if self.journal else None
        return f"Undid {self._sentence(done)}." if done else None

    def redo(self) -> str | None:
        """Do again what the newest undo took back; a sentence, None when there is nothing."""
        self._refuse_a_changed_file()
        done = self.journal.redo() if self.journal else None
        return f"Redid {self._sentence(done)}." if done else None

    def fix(self, row: int, finding: Finding) -> str:
        """Apply the check's own repair to a row; a sentence of what was done.

        Raises UserError when the check has no automatic repair.
        """
        from finetui.data.edits import bulk

        line, check = self.source.line(row), finding.check
        done = bulk.apply(self, check, [row])
        if done.unfixable:
            raise UserError(done.unfixable[0][1], f"{self.path}:{line}")
        if not done.count:
            return f"Nothing to change in line {line}."
        return f"{'Repaired' if self.state(row).kept else 'Dropped'} line {line}."

    def close(self) -> None:
        self.source.close()
        if self.journal:
            self.journal.close()

    def __enter__(self) -> DataSet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------ inside

    def _overlay(self) -> dict[int, State]:
        return self.journal.overlay if self.journal else {}

    def _rows_by_reason(self) -> dict[tuple[str, str], list[int]]:
        found: dict[tuple[str, str], list[int]] = defaultdict(list)
        for row, state in list(self._overlay().items()):
            if not state.kept:
                found["dropped" if state.dropped else "quarantined", state.reason].append(row)
            if state.marked:
                found["marked", ""].append(row)
            if state.label:
                found["labelled", state.label].append(row)
        for reason, rows in (self.journal.edited_by() if self.journal else {}).items():
            found["edited", reason] = rows
        return found

    def _number(self, which: Callable[[State], bool]) -> int:
        return sum(1 for state in list(self._overlay().values()) if which(state))

    def _journal(self) -> Journal:
        if self.journal is None:
            raise UserError(
                "edits need a workspace to be kept in.", str(self.path), "Run: finetui init"
            )
        return self.journal

    def _row_error(self, row: int, fault: JsonFault) -> RowError:
        line, offset = self.source.line(row), self.source.offset(row)
        return RowError(line, offset, fault.message, fault.position, fault.check)

    def _one_line(self, row: int, text: str) -> str:
        try:
            value = decode(text.encode())
        except UnicodeEncodeError:
            fault = JsonFault("malformed-json", 0, "half of a surrogate pair")
            raise self._row_error(row, fault) from None
        except JsonFault as fault:
            raise self._row_error(row, fault) from None
        return dumps(value) if "\n" in text or "\r" in text else text

    def _refuse_new_faults(self, row: int, text: str) -> None:
        known = {(fault.check, fault.turn) for fault in self.validate(row, self.text(row))}
        new = [
            fault for fault in self.validate(row, text) if (fault.check, fault.turn) not in known
        ]
        if new:
            turn = "" if new[0].turn is None else f"turn {new[0].turn + 1}: "
            where = f"{self.path}:{self.source.line(row)}"
            raise UserError(f"{turn}{new[0].message}.", where, "The row was left as it is.")

    def text_change(self, row: int, text: str) -> Change | None:
        """What makes valid one-line JSON the text of a row; None when it is so already."""
        before = self.state(row)
        same = text.encode() == self.source.raw(row) or text == self.source.text(row)
        after = replace(before, text=None if same else text)
        return None if after == before else self._change(row, before, after, before.text is None)

    def drop_change(self, row: int, reason: str) -> Change | None:
        """What drops a row; None when it is dropped already."""
        change = self._decision(row, lambda state: _out(state, reason), "drop")
        return None if change.before == change.after else change

    def _decision(self, row: int, become: Callable[[State], State], kind: str) -> Change:
        before = self.state(row)
        after = become(before)
        # A row that is out already is noted as well: it stays out when the other step goes.
        held = FATE if after.fate and after.fate == before.fate and kind != "mark" else 0
        return self._change(row, before, after, kind in ("quarantine", "label"), held)

    def _change(
        self, row: int, before: State, after: State, keep: bool = False, held: int = 0
    ) -> Change:
        line = self.source.line(row)
        if before.text is not None:
            return Change(row, before, after, row_hash(before.text.encode()), None, line, "", held)
        raw = self.source.raw(row)
        copies = not after.kept and rebase.names_duplicates(after.reason)
        return Change(
            row,
            before,
            after,
            row_hash(raw),
            raw if keep else None,
            line,
            rebase.value_digest(raw, self.source.decode),
            held,
            rebase.context(self.source, row) if copies else "",
        )

    def commit(
        self,
        kind: str,
        note: str,
        changes: Iterable[Change],
        reason: str = "",
        detail: dict[str, Any] | None = None,
        placeholders: Sequence[tuple[str, bytes, int]] = (),
        meta: Sequence[tuple[str, str]] = (),
    ) -> int:
        """Write one step to the journal; its number. On disk when this returns."""
        journal = self._journal()
        self._refuse_a_changed_file()
        facts = [*self._identity(), *meta]
        return journal.apply(kind, note, changes, facts, reason, detail, placeholders)

    def _refuse_a_changed_file(self) -> None:
        if self.source.changed():
            raise UserError(
                "changed on the disk while it was open.", str(self.path), "Open it again."
            )

    def _identity(self) -> list[tuple[str, str]]:
        """What tells this state of the file from another one."""
        return [
            ("source", str(self.path)),
            ("identity", self.source.identity()),
            ("modified", str(self.source.modified)),
        ]

    def _bind(self, journal: Journal) -> None:
        """Edits belong to one state of the file; in a replaced file their rows are looked up."""
        if not journal.head:
            return
        identity = self._identity()
        known = {key: journal.meta(key) for key, _ in identity}
        if known["identity"] == identity[1][1] and known["modified"] in ("", identity[2][1]):
            return
        touched = journal.touched()
        self.source.build_index()
        if rebase.stands(self.source, touched):
            for key, value in identity:
                journal.set_meta(key, value)
            if known["identity"] != identity[1][1]:
                self.notice = (
                    "The file has changed; every edited row is still there, so edits stand."
                )
            return
        journal.rebase(identity, rebase.find_again(self.source, touched))
        self.notice = self._moved(journal)

    def _moved(self, journal: Journal) -> str:
        here = sum(1 for state in journal.overlay.values() if state != UNTOUCHED)
        lost = sum(1 for each in self.unplaced if not each.settled)
        words = f"The file was replaced: {here:,} edited rows were found again"
        if not lost:
            return words + "."
        verb = "was" if lost == 1 else "were"
        return f"{words}, {lost:,} {verb} not. See: finetui edits {self.path} --unplaced"

    def _unplaced_text(self, journal: Journal, each: Touched) -> str:
        if each.state.text is not None:
            return each.state.text
        original = journal.original(each.key)
        return original.decode(errors="replace") if original else ""

    def _sentence(self, done: Operation) -> str:
        if done.kind in (*SWITCHES, "move"):
            return _SENTENCES[done.kind].format(**json.loads(done.detail))
        rows = f"{done.changes:,} row{'s' if done.changes != 1 else ''}"
        note = f" ({done.note})" if done.note else ""
        return f"the {done.kind} of {rows}{note}"


_SENTENCES = {
    "switch-off": "the switching off of step {steps}",
    "switch-on": "the switching on of step {steps}",
    "move": "the move of step {step}",
}


def _out(state: State, reason: str) -> State:
    if state.dropped:
        return state
    return replace(state, dropped=True, quarantined=False, reason=reason)


def _aside(state: State, reason: str) -> State:
    return replace(state, quarantined=True, reason=reason) if state.kept else state


def _back_in(state: State) -> State:
    return replace(state, dropped=False, quarantined=False, reason="")


def journal_path(path: Path | Sequence[Path], workspace: Workspace) -> Path:
    """Where the edits of a file (or of several as one set) are kept.

    The name follows the workspace when it is moved. A private copy where it is only read.
    """
    paths = [path] if isinstance(path, Path) else list(path)
    names = "\n".join(workspace.relative(each.resolve()) for each in paths)
    digest = xxhash.xxh3_64_hexdigest(names.encode())
    more = f"-and-{len(paths) - 1}-more" if len(paths) > 1 else ""
    stem = _UNNAMEABLE.sub("-", paths[0].stem)[:60] + more
    kept = workspace.versions / "journals" / f"{stem}-{digest}.sqlite"
    return readonly.stand_in(kept, workspace.root)


def open_dataset(
    path: Path | str | Sequence[Path | str], workspace: Workspace | None = None
) -> DataSet:
    """Open a file, or several as one set, with the edits. Without a workspace it is only read.

    Raises UserError when a file cannot be read.
    """
    paths = [Path(path)] if isinstance(path, Path | str) else [Path(each) for each in path]
    cache = workspace.cache if workspace else None
    source = open_source(paths[0], cache) if len(paths) == 1 else _open_several(paths, cache)
    try:
        return DataSet(source, Journal(journal_path(paths, workspace)) if workspace else None)
    except BaseException:
        source.close()
        raise


def _open_several(paths: Sequence[Path], cache: Path | None) -> Source:
    from finetui.data.formats.several import open_several

    return open_several(paths, cache)
