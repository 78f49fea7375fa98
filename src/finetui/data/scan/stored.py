"""A scan that keeps its findings: the rows on screen first, then estimates, then everything."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import xxhash

from finetui.data.checks.model import CheckOptions, Finding
from finetui.data.checks.registry import CHECKS
from finetui.data.checks.run import CheckRun
from finetui.data.findings import (
    Estimate,
    FindingsStore,
    ScanProgress,
    fits,
    open_store,
    stamp_of,
    store_path,
)
from finetui.data.formats.several import open_several
from finetui.data.formats.source import JsonlSource, Source
from finetui.data.records import Shape
from finetui.data.scan.chunks import ChunkScan, part
from finetui.data.scan.file import SMALL
from finetui.data.scan.rows import Parts, RowScan, sorted_parts
from finetui.data.scan.sample import estimated
from finetui.data.strict import decode

Say = Callable[[ScanProgress], None]

FIRST = 200
"""Rows that are looked at before all others."""
_EVERY = 0.25  # seconds between two writes
_BATCH = 5000


class StoredScan:
    """Looks at a file, or at several as one set, and keeps what it finds under ``cache``.

    ``others`` are files it is compared with. ``say`` hears how far the scan is, a few times a
    second. Raises UserError for files that cannot be read.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        others: Sequence[Path],
        options: CheckOptions,
        cache: Path,
        say: Say | None = None,
    ) -> None:
        self._others, self._say = others, say
        self._options = replace(options, cache=cache)
        self._source = open_several(paths, cache)
        self.path = store_path(cache, self._source, options, others)

    def kept(self) -> FindingsStore | None:
        """The store of an earlier scan of the same bytes, if that came to its end."""
        store = open_store(self.path)
        if store is None:
            return None
        if store.complete and (fits(store, self._source) or self._touched(store)):
            return store
        store.close()
        return None

    def _touched(self, store: FindingsStore) -> bool:
        """Whether only the time of change is another; the store takes the new one."""
        if not store.same_bytes(content_hash(self._source)):
            return False
        store.restamp(stamp_of(self._source))
        return True

    def run(self, first_row: int = 0) -> FindingsStore:
        """Scan, and return the complete store. What was found is kept when it is interrupted."""
        store = FindingsStore.create(self.path, str(self._source.path), stamp_of(self._source))
        _Filling(store, self._source, self._others, self._options, self._say).run(first_row)
        return store


class _Filling:
    """One scan into one store."""

    def __init__(
        self,
        store: FindingsStore,
        source: Source,
        others: Sequence[Path],
        options: CheckOptions,
        say: Say | None,
    ) -> None:
        self._store, self._source, self._say = store, source, say
        self._files = {str(path) for path in (source.path, *source.files)}
        self._options = options
        self._run = CheckRun([source.paths, *others], options, self._reached, str(store.path))
        self._estimates: dict[str, Estimate] = {}
        self._early = range(0)
        self._batch: list[Finding] = []
        self._bytes = (0, source.size)
        self._due = time.monotonic()

    def run(self, first_row: int) -> None:
        lines = self._source if isinstance(self._source, JsonlSource) else None
        if lines is not None and lines.size > SMALL:
            self._look_early(lines, first_row)
        try:
            for finding in self._run:
                self._take(finding)
        except BaseException:
            self._write(self._progress())
            raise
        self._write(self._progress())
        done = replace(self._progress(), exact=True, bytes_done=self._bytes[1], estimates={})
        self._store.keep_hash(content_hash(self._source))
        self._store.finish(self._run.summary.as_dict(), done)
        if self._say:
            self._say(done)

    # ------------------------------------------------------------ what comes first

    def _look_early(self, lines: JsonlSource, first_row: int) -> None:
        if first_row >= lines.rows:
            lines.build_index()
        shape = self._options.shape or lines.shape.shape
        sample = lines.head(100)
        first = max(0, min(first_row, lines.rows - 1))
        self._early = range(first, min(first + FIRST, lines.rows))
        scan = self._alone(lines, shape, sample)
        looked = ChunkScan(lines.descriptor, scan).look(
            part(lines, self._early.start, self._early.stop), []
        )
        path = str(lines.path)
        self._batch = [
            Finding(
                one.check, CHECKS[one.check].severity, path, one.line, one.offset, one.turn,
                one.message, one.row, one.start, one.end,
            )
            for one in looked.spots
        ]  # fmt: skip
        self._write(self._progress())
        self._estimates = estimated(lines, scan)
        self._write(self._progress())
        lines.build_index()
        if (self._options.shape or lines.shape.shape) != shape:  # more rows, another guess
            self._store.clear()
            self._early = range(0)

    def _alone(self, lines: JsonlSource, shape: Shape, sample: list[bytes]) -> RowScan:
        only = self._options.only
        chosen = [check for check in CHECKS.values() if not only or check.id in only]
        across = [(check, check.across(self._options)) for check in chosen if check.across]
        parts = sorted_parts(chosen, across)
        for _, state in parts.by_row:
            state.begin(lines, True)
        return RowScan(Parts(parts.alone, parts.by_row, [], [], []), shape, decode, sample)

    # ------------------------------------------------------------ everything

    def _take(self, finding: Finding) -> None:
        if finding.file not in self._files:
            return
        if finding.row in self._early and self._told_early(finding.check):
            return
        self._batch.append(finding)
        if len(self._batch) >= _BATCH or time.monotonic() >= self._due:
            self._write(self._progress())

    def _told_early(self, check: str) -> bool:
        return CHECKS[check].alone or getattr(CHECKS[check].across, "by_row", False)

    def _reached(self, done: int, total: int) -> None:
        self._bytes = (done, total)
        if time.monotonic() >= self._due:
            self._write(self._progress())

    def _progress(self) -> ScanProgress:
        done, total = self._bytes
        rows = self._run.rows_done
        return ScanProgress(
            rows, self._source.estimated_rows, done, total, False, self._estimates
        )  # fmt: skip

    def _write(self, progress: ScanProgress) -> None:
        self._store.write(self._batch, progress)
        self._batch = []
        self._due = time.monotonic() + _EVERY
        if self._say:
            self._say(progress)


def content_hash(source: Source) -> str:
    """A hash of all bytes of a source's files, about a quarter of a second a gigabyte."""
    digest = xxhash.xxh3_128()
    for path in source.files:
        with path.open("rb", buffering=0) as file:
            while block := file.read(1 << 20):
                digest.update(block)
        digest.update(os.fsencode(path.name))
    return digest.hexdigest()


def as_json(progress: ScanProgress) -> dict[str, Any]:
    return {"progress": progress.as_dict()}
