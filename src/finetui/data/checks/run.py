"""Run the checks over files in one pass each, or over one row as it is edited now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetui.data.checks.look import Looks, read_example
from finetui.data.checks.model import Across, Check, CheckOptions, Finding, Hit
from finetui.data.checks.registry import CHECKS
from finetui.data.formats.several import open_several
from finetui.data.formats.source import RawRow, Source
from finetui.data.scan.file import SMALL, FileScan, concerned
from finetui.data.scan.rows import Spot
from finetui.data.scan.whole import Job, found_in_wholes
from finetui.data.strict import decode
from finetui.errors import UserError

if TYPE_CHECKING:
    from finetui.data.dataset import DataSet

Report = Callable[[int, int], None]
Paths = Path | str | Sequence[Path | str]
"""One file, or several that are one set."""

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

    Files of one set are one source: their rows are compared as rows of one file. ``progress``
    gets (bytes done, bytes in all); ``store`` is the path of a `FindingsStore` that
    takes the clusters and figures of checks of whole sets. Raises UserError for an unreadable
    file or an unknown check before the first finding.
    """

    def __init__(
        self,
        paths: Sequence[Paths],
        options: CheckOptions | None = None,
        progress: Report | None = None,
        store: str = "",
    ) -> None:
        self._store = store
        self._scans: list[FileScan] = []
        self.options = options or CheckOptions()
        self.summary = Summary()
        self._checks = _chosen(self.options)
        self._progress = progress
        self._sets = [[each] if isinstance(each, Path | str) else list(each) for each in paths]
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
            opened.extend(open_several(paths, self.options.cache) for paths in self._sets)
            for finding in self._found(_held_out_first(opened)):
                self._count(finding)
                yield finding
            self._complete(opened)
        finally:
            for source in opened:
                source.close()

    def _found(self, sources: Sequence[Source]) -> Iterator[Finding]:
        """Rows of small files come in order; of large ones those that are compared come last."""
        checks = [c for c in self._checks if c.needs <= len(sources) and not c.whole]
        across = _across(checks, self.options)
        total = sum(source.size for source in sources)
        workers = self.options.workers if total > SMALL else 1
        scans = self._scans
        held: list[list[Spot]] = []
        done = 0
        for place, source in enumerate(sources, 1):
            scan = FileScan(source, checks, across, self.options, place == len(sources), workers)
            scans.append(scan)
            held.append([])
            for spots in scan.looked(self._reporter(done, total)):
                if total > SMALL:
                    yield from scan.findings(spots)
                else:
                    held[-1] += spots
            done += source.size
        for scan, spots, rows in zip(scans, held, concerned(scans), strict=True):
            spots += scan.compared(rows)
            spots.sort(key=_row)
            yield from scan.findings(spots)
            yield from scan.findings(scan.finished())
            self.summary.files.append(_summary(scan))
        if self._progress:
            self._progress(total, total)
        yield from self._whole(sources)

    def _whole(self, sources: Sequence[Source]) -> Iterator[Finding]:
        """What the checks of whole sets find, in a process of their own."""
        ids = [c.id for c in self._checks if c.whole and c.needs <= len(sources)]
        if not ids or not all(source.rows for source in sources):
            return
        named = [[str(path) for path in source.paths] for source in sources]
        job = Job(named, ids, self.options, self._store)
        for found in found_in_wholes(job):
            scan = self._scans[found.source]
            spot = scan.spot_at(
                found.row, found.check, Hit(found.message, found.turn, found.start, found.end)
            )
            yield from scan.findings([spot])

    @property
    def rows_done(self) -> int:
        """Rows that were looked at so far, of all files."""
        return sum(scan.rows for scan in self._scans)

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
        places = {_name(source): number for number, source in enumerate(opened)}
        self.summary.files.sort(key=lambda entry: places[entry.file])
        self.summary.rows = sum(entry.rows for entry in self.summary.files)
        shapes = Counter(entry.shape for entry in self.summary.files)
        self.summary.shape = "mixed" if len(shapes) > 1 else next(iter(shapes), "")


def check_files(
    paths: Sequence[Paths],
    options: CheckOptions | None = None,
    progress: Report | None = None,
) -> CheckRun:
    """Check files in one streaming pass each; see `CheckRun`."""
    return CheckRun(paths, options, progress)


def check_row(dataset: DataSet, row: int, options: CheckOptions | None = None) -> list[Finding]:
    """The findings of one row as it is edited now; checks that compare rows are left out."""
    looks = _alone((options or CheckOptions()).only)
    source = dataset.source
    raw = RawRow(row, source.line(row), source.offset(row), dataset.raw(row))
    read = source.decode if dataset.state(row).text is None else decode
    example = read_example(raw, read, dataset.shape)
    path = str(source.place(row).path)
    return [
        Finding(
            check.id, check.severity, path, raw.line, raw.offset, hit.turn, hit.message, row,
            hit.start, hit.end,
        )
        for check, hit in looks.hits(example)
    ]  # fmt: skip


@lru_cache(8)
def _alone(only: frozenset[str]) -> Looks:
    """The checks that judge a row by itself, sorted once: screens ask for row after row."""
    return Looks([check for check in _chosen(CheckOptions(only=only)) if check.alone])


def _chosen(options: CheckOptions) -> list[Check]:
    only = options.only
    unknown = sorted(only - CHECKS.keys())
    if unknown:
        raise UserError(
            f"there is no check named {unknown[0]!r}.", fix=f"Known checks: {', '.join(CHECKS)}."
        )
    wanted = [check for check in CHECKS.values() if not only or check.id in only]
    return [check for check in wanted if not check.whole or only or options.whole]


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


def _name(source: Source) -> str:
    return " + ".join(map(str, source.paths))


def _row(spot: Spot) -> int:
    return spot.row


def _summary(scan: FileScan) -> FileSummary:
    source = scan.source
    guess = source.shape
    return FileSummary(
        _name(source),
        source.format,
        source.size,
        scan.rows,
        str(scan.shape),
        round(guess.confidence, 3),
        guess.reason,
    )
