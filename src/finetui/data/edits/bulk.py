"""Repair all rows that have a finding: first differences to look at, one step, one undo."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Literal

import msgspec

from finetui.data.checks.fixes import PRIVATE, repair
from finetui.data.dataset import DataSet
from finetui.data.edits.redact import Redactor, facts, redactor_of
from finetui.data.edits.splice import respelt
from finetui.data.edits.steps import Change
from finetui.data.formats.source import Stop
from finetui.data.strict import JsonFault, decode
from finetui.errors import UserError

By = Literal["repair", "drop", "quarantine", "mark"]
Progress = Callable[[int, int], None]

SHOWN = 20
_IN_MEMORY = 32 << 20  # bytes of new texts; more of them wait in an unnamed file
_TELL_EVERY = 200


@dataclass(frozen=True)
class Difference:
    """What a repair does to a row: its JSON before and after (None: it is left out)."""

    row: int
    line: int
    before: str
    after: str | None


@dataclass
class Preview:
    """What a bulk repair would do: ``count`` rows change, the first of them in full."""

    checks: tuple[str, ...]
    by: By
    count: int = 0
    differences: list[Difference] = field(default_factory=list)
    unfixable: list[tuple[int, str]] = field(default_factory=list)
    stopped: bool = False


@dataclass
class Applied:
    """What a bulk repair did: the number of its step (0: nothing to do) and of its rows."""

    seq: int = 0
    count: int = 0
    unfixable: list[tuple[int, str]] = field(default_factory=list)
    stopped: bool = False


def preview(
    dataset: DataSet,
    check: str | Sequence[str],
    rows: Iterable[int],
    by: By = "repair",
    shown: int = SHOWN,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Preview:
    """What `apply` would do with the same arguments; nothing is written."""
    work = _Work(dataset, _ids(check), by, rows, progress, stop)
    found = Preview(work.checks, by)
    for row, text in work:
        found.count += 1
        if len(found.differences) < shown:
            line = dataset.source.line(row)
            found.differences.append(Difference(row, line, dataset.text(row), text))
    found.unfixable, found.stopped = work.unfixable, work.stopped
    return found


def apply(
    dataset: DataSet,
    check: str | Sequence[str],
    rows: Iterable[int],
    by: By = "repair",
    note: str = "",
    progress: Progress | None = None,
    stop: Stop | None = None,
    kind: str = "",
) -> Applied:
    """Repair rows for a check (or several) as one step; with ``stop`` nothing at all is done.

    ``by`` says how: the check's own repair, or leave the rows out, put them aside, mark them.
    Rows that cannot be repaired are told and left as they are.
    """
    work = _Work(dataset, _ids(check), by, rows, progress, stop)
    reason = ", ".join(work.checks)
    note = note or f"fix: {reason}"
    if by != "repair":
        return _decided(dataset, by, [row for row, _ in work], reason, note)
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool:
        count, drops = _spool(work, spool)
        if work.stopped or not count:
            return Applied(0, 0, work.unfixable, work.stopped)
        spool.seek(0)
        changes = _changes(dataset, spool, reason)
        redactor = work.redactor
        seq = dataset.commit(
            kind or ("drop" if drops == count else "fix"),
            note,
            changes,
            reason,
            placeholders=redactor.fresh if redactor else (),
            meta=facts(dataset, redactor) if redactor else (),
        )
    return Applied(seq, count, work.unfixable)


def rows_with(
    dataset: DataSet, check: str | Sequence[str], progress: Progress | None = None
) -> list[int]:
    """The kept rows that have a finding of the check now, edits included.

    Checks that compare rows look at the file: an edited row is left to the person.
    """
    from finetui.data.checks.model import CheckOptions
    from finetui.data.checks.run import check_files, check_row

    only = frozenset(_ids(check))
    options = CheckOptions(only=only, shape=dataset.shape_override, cache=dataset.source.cache)
    findings = check_files([dataset.source.paths], options, progress)
    found = {finding.row for finding in findings if dataset.state(finding.row).kept}
    for row in dataset.changed_rows():
        state = dataset.state(row)
        if state.kept and state.text is not None:
            hit = any(finding.check in only for finding in check_row(dataset, row, options))
            (found.add if hit else found.discard)(row)
    return sorted(found)


# ---------------------------------------------------------------- one row after another


def _ids(check: str | Sequence[str]) -> tuple[str, ...]:
    return (check,) if isinstance(check, str) else tuple(check)


class _Work:
    """The rows that a repair changes with their new text (None: dropped), in order."""

    def __init__(
        self,
        dataset: DataSet,
        checks: tuple[str, ...],
        by: By,
        rows: Iterable[int],
        progress: Progress | None,
        stop: Stop | None,
    ) -> None:
        self.dataset, self.checks, self.by = dataset, checks, by
        self.rows = sorted(set(rows))
        self.unfixable: list[tuple[int, str]] = []
        self.stopped = False
        private = by == "repair" and any(check in PRIVATE for check in checks)
        self.redactor: Redactor | None = redactor_of(dataset, stop) if private else None
        self._progress, self._stop = progress, stop

    def __iter__(self) -> Iterator[tuple[int, str | None]]:
        for number, row in enumerate(self.rows):
            if number % _TELL_EVERY == 0 and self._tell(number):
                return
            yield from self._row(row)
        self._tell(len(self.rows))

    def _tell(self, number: int) -> bool:
        if self._progress:
            self._progress(number, len(self.rows))
        self.stopped = bool(self._stop and self._stop())
        return self.stopped

    def _row(self, row: int) -> Iterator[tuple[int, str | None]]:
        state = self.dataset.state(row)
        if not state.kept:
            return
        if self.by != "repair":
            if self.by != "mark" or not state.marked:
                yield row, None
            return
        try:
            text = self._repaired(row)
        except UserError as error:
            self.unfixable.append((row, f"{error.what} {error.fix}".strip()))
            return
        if text != self.dataset.text(row):
            yield row, text

    def _repaired(self, row: int) -> str | None:
        raw = self.dataset.raw(row)
        for check in self.checks:
            text = repair(check, raw, self.dataset.source.decode, self.redactor)
            if text is None:
                return None
            text = _in_its_spelling(raw, text)
            raw = text.encode()
        return raw.decode()


def _in_its_spelling(raw: bytes, text: str) -> str:
    """A repaired row as it was written, apart from the strings that were repaired."""
    try:
        before = raw.decode()
        decode(raw)
    except (UnicodeDecodeError, JsonFault):
        return text
    return respelt(before, text) if "\n" not in before else text


def _spool(work: _Work, spool: IO[bytes]) -> tuple[int, int]:
    """Write (row, text) lines; how many, and how many of them are drops."""
    count = drops = 0
    for row, text in work:
        spool.write(msgspec.json.encode((row, text)) + b"\n")
        count += 1
        drops += text is None
    return count, drops


def _changes(dataset: DataSet, spool: Iterable[bytes], reason: str) -> Iterator[Change]:
    for line in spool:
        row, text = msgspec.json.decode(line, type=tuple[int, str | None])
        change = (
            dataset.drop_change(row, reason) if text is None else dataset.text_change(row, text)
        )
        if change is not None:
            yield change


def _decided(dataset: DataSet, by: By, rows: list[int], reason: str, note: str) -> Applied:
    if by == "drop":
        count = dataset.drop(rows, note, reason)
    elif by == "quarantine":
        count = dataset.quarantine(rows, reason, note)
    else:
        count = dataset.mark(rows, note=note)
    journal = dataset.journal
    return Applied(journal.head if journal and count else 0, count)
