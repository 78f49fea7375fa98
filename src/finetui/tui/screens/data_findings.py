"""The findings of the open file: a store by row, and the process that looks for them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetui.errors import UserError

SIGNS = {"error": "✗", "warning": "!", "info": "i"}
_RANK = {"error": 0, "warning": 1, "info": 2}
MOST = 200_000
"""Findings that are kept; what comes after is only counted."""
_LONGEST_LINE = 1 << 22
_EVERY = 0.25  # seconds between two batches for the screen


@dataclass(frozen=True, slots=True)
class Spot:
    """One finding of a row of the open file; ``start``/``end`` are characters of the turn."""

    check: str
    severity: str
    row: int
    message: str
    turn: int | None = None
    start: int | None = None
    end: int | None = None

    @property
    def sentence(self) -> str:
        return f"{self.check}: {self.message}"


@dataclass(frozen=True, slots=True)
class Kind:
    """All findings of one check."""

    check: str
    severity: str
    count: int


class Findings:
    """Findings by row; knows the worst of a row and the next row that has one."""

    def __init__(self) -> None:
        self._by_row: dict[int, list[Spot]] = {}
        self._rows: list[int] = []
        self._counts: Counter[str] = Counter()
        self._severity: dict[str, str] = {}
        self.kept = 0

    def add(self, spots: Iterable[Spot]) -> None:
        for spot in spots:
            self._counts[spot.check] += 1
            self._severity[spot.check] = spot.severity
            if self.kept < MOST:
                self._keep(spot)

    def _keep(self, spot: Spot) -> None:
        self.kept += 1
        if spot.row not in self._by_row:
            self._by_row[spot.row] = []
            if not self._rows or spot.row > self._rows[-1]:
                self._rows.append(spot.row)
            else:
                insort(self._rows, spot.row)
        self._by_row[spot.row].append(spot)

    def replace(self, row: int, spots: Sequence[Spot], checked: Iterable[str]) -> None:
        """Put new findings in the place of a row's old ones of the checks that were run."""
        again = set(checked)
        old = self._by_row.get(row, [])
        for spot in old:
            if spot.check in again:
                self._counts[spot.check] -= 1
        kept = [spot for spot in old if spot.check not in again]
        self._by_row.pop(row, None)
        if row in self._rows:
            self._rows.remove(row)
        self.kept -= len(old)
        for spot in kept:
            self._keep(spot)
        self.add(spots)

    def of(self, row: int) -> list[Spot]:
        return self._by_row.get(row, [])

    def worst(self, row: int) -> str:
        """The severity of a row's worst finding; "" for none."""
        spots = self._by_row.get(row)
        if not spots:
            return ""
        return min((spot.severity for spot in spots), key=lambda found: _RANK.get(found, 3))

    def kinds(self) -> list[Kind]:
        """The checks that found something, errors first, then by number."""
        found = [Kind(c, self._severity[c], n) for c, n in self._counts.items() if n > 0]
        return sorted(found, key=lambda kind: (_RANK.get(kind.severity, 3), -kind.count))

    def rows_of(self, check: str) -> list[int]:
        return [row for row in self._rows if any(spot.check == check for spot in self._by_row[row])]

    def next_row(self, row: int, forward: bool = True) -> int | None:
        """The next (or the previous) row with a finding."""
        if forward:
            place = bisect_right(self._rows, row)
            return self._rows[place] if place < len(self._rows) else None
        place = bisect_left(self._rows, row)
        return self._rows[place - 1] if place else None


@dataclass(frozen=True, slots=True)
class Batch:
    """What the checking process said since the last batch; ``summary`` ends it."""

    spots: tuple[Spot, ...] = ()
    summary: dict[str, Any] | None = None


async def check_file(
    path: Path, others: Sequence[Path] = (), model: Path | None = None
) -> AsyncIterator[Batch]:
    """Run ``finetui check`` in a process of its own and yield its findings as they come.

    Closing the generator ends the process. Raises UserError when it could not check.
    """
    command = [sys.executable, "-m", "finetui", "check", "--json"]
    if model is not None:
        command += ["--model", str(model)]
    process = await asyncio.create_subprocess_exec(
        *command, "--", *(str(found) for found in (path, *others)),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, limit=_LONGEST_LINE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    reading = asyncio.create_task(process.stderr.read())
    try:
        async for batch in _batches(process.stdout, str(path)):
            yield batch
        await process.wait()
        if process.returncode not in (0, 1):
            words = (await reading).decode(errors="replace").strip().splitlines()
            raise UserError(f"the checks stopped: {words[-1] if words else 'no reason given'}")
    finally:
        reading.cancel()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _batches(stream: asyncio.StreamReader, path: str) -> AsyncIterator[Batch]:
    spots: list[Spot] = []
    due = time.monotonic() + _EVERY
    async for line in stream:
        found = json.loads(line)
        if "summary" in found:
            yield Batch(tuple(spots), found["summary"])
            return
        if found.get("file") == path:
            spots.append(spot_of(found))
        if time.monotonic() >= due:
            yield Batch(tuple(spots))
            spots.clear()
            due = time.monotonic() + _EVERY
    yield Batch(tuple(spots))


def spot_of(found: dict[str, Any]) -> Spot:
    """A finding of ``finetui check --json`` as the screen keeps it."""
    return Spot(
        check=str(found["check"]),
        severity=str(found["severity"]),
        row=int(found["row"]),
        message=str(found["message"]),
        turn=found.get("turn"),
        start=found.get("start"),
        end=found.get("end"),
    )
