"""Run the checks over files in one pass each, or over one row as it is edited now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetui.data.checks.model import Across, Check, CheckOptions, Example, Finding, Hit
from finetui.data.checks.registry import CHECKS
from finetui.data.records import Record, Shape, Turn, read_record
from finetui.data.source import RawRow, Source, open_source
from finetui.data.strict import JsonFault, decode
from finetui.errors import UserError

if TYPE_CHECKING:
    from finetui.data.dataset import DataSet

Report = Callable[[int, int], None]

_PROGRESS_BYTES = 1 << 20
_SYSTEM_PROMPTS = 64
# A file's place in the order of testing, from its name: leaks are told at the earlier one.
_HELD_OUT = ("test", "heldout", "held-out", "held_out", "holdout")
_EVALUATED = ("valid", "eval", "dev")


@dataclass
class FileSummary:
    """One checked file: its rows and its shape, with how sure that is and why."""

    file: str
    format: str
    bytes: int
    rows: int
    shape: str
    confidence: float
    reason: str


@dataclass
class Summary:
    """Counts over all files of a run; complete once its findings have been read."""

    rows: int = 0
    shape: str = ""
    findings: int = 0
    checks: dict[str, int] = field(default_factory=dict)
    severities: dict[str, int] = field(default_factory=dict)
    files: list[FileSummary] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class CheckRun:
    """Findings of some files, as an iterator; ``summary`` is complete when it ends.

    ``progress`` gets (bytes done, bytes in all). Raises UserError for an unreadable file or an
    unknown check before the first finding.
    """

    def __init__(
        self,
        paths: Sequence[Path | str],
        options: CheckOptions | None = None,
        progress: Report | None = None,
    ) -> None:
        self.options = options or CheckOptions()
        self.summary = Summary()
        self._checks = _chosen(self.options.only)
        self._progress = progress
        self._paths = [Path(path) for path in paths]
        self._findings = self._run()

    def __iter__(self) -> Iterator[Finding]:
        return self

    def __next__(self) -> Finding:
        return next(self._findings)

    def close(self) -> None:
        self._findings.close()

    def _run(self) -> Generator[Finding, None, None]:
        opened: list[Source] = []
        try:
            opened.extend(open_source(path, self.options.cache) for path in self._paths)
            across = _across(self._checks, self.options)
            total, done = sum(source.size for source in opened), 0
            for left, source in enumerate(_held_out_first(opened), 1 - len(opened)):
                walk = _Walk(source, self._checks, across, self.options)
                for finding in walk.findings(self._reporter(done, total), left == 0):
                    self._count(finding)
                    yield finding
                done += source.size
                self.summary.files.append(walk.summary())
                if self._progress:
                    self._progress(done, total)
            self._complete(opened)
        finally:
            for source in opened:
                source.close()

    def _reporter(self, done: int, total: int) -> Callable[[int], None]:
        def report(here: int) -> None:
            if self._progress:
                self._progress(done + here, total)

        return report

    def _count(self, finding: Finding) -> None:
        summary = self.summary
        summary.findings += 1
        summary.checks[finding.check] = summary.checks.get(finding.check, 0) + 1
        summary.severities[finding.severity] = summary.severities.get(finding.severity, 0) + 1

    def _complete(self, opened: list[Source]) -> None:
        places = {str(source.path): number for number, source in enumerate(opened)}
        self.summary.files.sort(key=lambda entry: places[entry.file])
        self.summary.rows = sum(entry.rows for entry in self.summary.files)
        shapes = Counter(entry.shape for entry in self.summary.files)
        self.summary.shape = "mixed" if len(shapes) > 1 else next(iter(shapes), "")


def check_files(
    paths: Sequence[Path | str],
    options: CheckOptions | None = None,
    progress: Report | None = None,
) -> CheckRun:
    """Check files in one streaming pass each; see `CheckRun`."""
    return CheckRun(paths, options, progress)


def check_row(dataset: DataSet, row: int, options: CheckOptions | None = None) -> list[Finding]:
    """The findings of one row as it is edited now; checks that compare rows are left out."""
    chosen = _chosen(options.only if options else frozenset())
    source = dataset.source
    raw = RawRow(row, source.line(row), source.offset(row), dataset.raw(row))
    read = source.decode if dataset.state(row).text is None else decode
    example = _example(raw, read, dataset.shape)
    hits = _Looks(chosen).hits(example)
    return [_finding(check, source, example, hit) for check, hit in hits]


class _Walk:
    """One pass over one file."""

    def __init__(
        self,
        source: Source,
        checks: Sequence[Check],
        across: Sequence[tuple[Check, Across]],
        options: CheckOptions,
    ) -> None:
        self._source, self._checks, self._across = source, checks, across
        self._looks = _Looks(checks)
        source.build_index()  # a newline count; the shape is then sampled from the whole file
        self._shape = options.shape or source.shape.shape
        self._rows = 0

    def findings(self, report: Callable[[int], None], last: bool) -> Iterator[Finding]:
        for _, state in self._across:
            state.begin(self._source, last)
        reported = 0
        blanks: list[Finding] = []  # held back: blank lines that end the file are no finding
        for raw in self._source.iterate():
            self._rows += 1
            example = _example(raw, self._source.decode, self._shape)
            found = list(self._row(example))
            if example.fault is not None and example.fault.check == "blank-line":
                blanks += found
            else:
                yield from blanks
                blanks.clear()
                yield from found
            if raw.offset - reported >= _PROGRESS_BYTES:
                reported = raw.offset
                report(reported)
        yield from self._end()

    def _row(self, example: Example) -> Iterator[Finding]:
        for check, hit in self._looks.hits(example):
            yield _finding(check, self._source, example, hit)
        for check, state in self._across:
            for hit in state.see(example):
                yield _finding(check, self._source, example, hit)

    def _end(self) -> Iterator[Finding]:
        source = self._source
        for check, state in self._across:
            for row, hit in state.finish():
                place = Example(row, source.line(row), source.offset(row), b"")
                yield _finding(check, source, place, hit)
        check = CHECKS["malformed-json"]
        for fault in source.file_faults() if check in self._checks else ():
            place = Example(max(0, self._rows - 1), fault.line, fault.offset, b"")
            yield _finding(check, source, place, Hit(fault.message))

    def summary(self) -> FileSummary:
        guess = self._source.shape
        return FileSummary(
            str(self._source.path),
            self._source.format,
            self._source.size,
            self._rows,
            str(self._shape),
            round(guess.confidence, 3),
            guess.reason,
        )


def _chosen(only: frozenset[str]) -> list[Check]:
    unknown = sorted(only - CHECKS.keys())
    if unknown:
        raise UserError(
            f"there is no check named {unknown[0]!r}.", fix=f"Known checks: {', '.join(CHECKS)}."
        )
    return [check for check in CHECKS.values() if not only or check.id in only]


def _across(checks: Iterable[Check], options: CheckOptions) -> list[tuple[Check, Across]]:
    return [(check, check.across(options)) for check in checks if check.across]


def _held_out_first(sources: Sequence[Source]) -> list[Source]:
    """Test files, then validation files, then the rest; later arguments before earlier ones."""

    def rank(source: Source) -> int:
        name = source.path.stem.lower()
        if any(word in name for word in _HELD_OUT):
            return 0
        return 1 if any(word in name for word in _EVALUATED) else 2

    ordered = list(sources)
    ordered.reverse()
    ordered.sort(key=rank)
    return ordered


def _example(raw: RawRow, read: Callable[[bytes], object], shape: Shape) -> Example:
    example = Example(raw.row, raw.line, raw.offset, raw.raw)
    try:
        example.value = read(raw.raw)
    except JsonFault as fault:
        example.fault = fault
        return example
    example.record, example.faults = read_record(example.value, shape)
    return example


class _Looks:
    """The checks of single rows, sorted once by what they look at."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self._row = [(check, check.row) for check in checks if check.row]
        self._text = [(check, check.text) for check in checks if check.text]
        answer = [(check, check.answer) for check in checks if check.answer]
        self._answer = self._text + answer
        self._system: dict[str, list[tuple[Check, Hit]]] = {}  # rows share their system prompts

    def hits(self, example: Example) -> Iterator[tuple[Check, Hit]]:
        for check, look in self._row:
            for hit in look(example):
                yield check, hit
        if example.record is not None:
            yield from self._turns(example.record)

    def _turns(self, record: Record) -> Iterator[tuple[Check, Hit]]:
        for number, turn in enumerate(record.all_turns()):
            for check, hit in self._turn(turn):
                yield check, Hit(hit.message, number, hit.start, hit.end)

    def _turn(self, turn: Turn) -> list[tuple[Check, Hit]]:
        known = self._system.get(turn.content) if turn.role == "system" else None
        if known is not None:
            return known
        scans = self._answer if turn.role == "assistant" else self._text
        found = [(check, hit) for check, scan in scans for hit in scan(turn.content)]
        if turn.role == "system" and len(self._system) < _SYSTEM_PROMPTS:
            self._system[turn.content] = found
        return found


def _finding(check: Check, source: Source, example: Example, hit: Hit) -> Finding:
    return Finding(
        check.id,
        check.severity,
        str(source.path),
        example.line,
        example.offset,
        hit.turn,
        hit.message,
        example.row,
        hit.start,
        hit.end,
    )
