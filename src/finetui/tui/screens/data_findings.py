"""The findings of the open file: a store on disk that a scan fills, and edited rows over it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetui.data.dataset import DataSet
from finetui.data.findings import FindingsStore, ScanProgress
from finetui.errors import BROKEN
from finetui.tui.commanding import command_lines, together
from finetui.workspace import Workspace

SIGNS = {"error": "✗", "warning": "!", "info": "i"}
_RANK = {"error": 0, "warning": 1, "info": 2}
_KEPT_ROWS = 4096  # rows whose findings stay in memory
_WINDOW = 1024  # tokens, where no recipe says


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
    """One check that found something; ``about`` tells that the count is an estimate."""

    check: str
    severity: str
    count: int
    about: bool = False


class Findings:
    """What is known of the open file's rows.

    The store speaks of the file as it lies on the disk; rows that were edited since are looked at
    again one by one and stand in for what the store says of them.
    """

    def __init__(self, store: FindingsStore | None = None) -> None:
        self.store = store
        self._again: dict[int, list[Spot]] = {}
        self._rows_again: list[int] = []
        self._out: set[int] = set()
        self._recent: OrderedDict[int, list[Spot]] = OrderedDict()
        self._counts: dict[str, int] | None = None
        self._severity: dict[str, str] = {}
        self.progress = ScanProgress()
        self.refresh()

    @property
    def kept(self) -> int:
        """How many findings there are to go through."""
        return sum(kind.count for kind in self.kinds())

    @property
    def known(self) -> bool:
        """Whether the file was ever looked at."""
        return self.store is not None

    def refresh(self) -> None:
        """Take in what a scan has written since."""
        if self.store is not None:
            self._severity |= self.store.severities
            self.progress = self.store.progress
            self._recent.clear()
        self._counts = None

    def settle(self, out: Iterable[int], edited: Callable[[int], bool]) -> None:
        """Rows that are dropped or set aside ask for nothing any more; rows that are no longer
        edited are what the store says of them."""
        self._out = set(out)
        self._rows_again = [row for row in self._rows_again if edited(row)]
        self._again = {row: self._again[row] for row in self._rows_again}
        self._counts = None

    def _open_counts(self) -> dict[str, int]:
        """Open findings by check: the store's, but for rows that are out or were edited."""
        counts = Counter(self.store.counts() if self.store is not None else {})
        if self.store is not None:
            counts.subtract(self.store.counts_of(sorted(self._out | self._again.keys())))
        for row, spots in self._again.items():
            if row not in self._out:
                counts.update(spot.check for spot in spots)
        return dict(counts)

    def replace(self, row: int, spots: Sequence[Spot], checked: Iterable[str]) -> None:
        """Put new findings in the place of a row's old ones of the checks that were run."""
        again = set(checked)
        kept = [spot for spot in self.of(row) if spot.check not in again]
        self._severity |= {spot.check: spot.severity for spot in spots}
        if row not in self._again:
            insort(self._rows_again, row)
        self._again[row] = [*kept, *spots]
        self._counts = None

    @property
    def rows_again(self) -> Sequence[int]:
        """Edited rows that were looked at again."""
        return tuple(self._rows_again)

    def of(self, row: int) -> list[Spot]:
        if row in self._again:
            return self._again[row]
        if self.store is None:
            return []
        found = self._recent.get(row)
        if found is None:
            found = [spot_of(each.as_dict()) for each in self.store.of_row(row)]
            self._recent[row] = found
            if len(self._recent) > _KEPT_ROWS:
                self._recent.popitem(last=False)
        return found

    def worst(self, row: int) -> str:
        """The severity of a row's worst finding; "" for none."""
        spots = self.of(row)
        if not spots:
            return ""
        return min((spot.severity for spot in spots), key=lambda found: _RANK.get(found, 3))

    def kinds(self) -> list[Kind]:
        """The checks that found something, or will by the sample; errors first, then by number."""
        found = {}
        if self._counts is None:
            self._counts = self._open_counts()
        for check in {*self._counts, *self.progress.estimates}:
            count = self._counts.get(check, 0)
            guess = None if self.progress.exact else self.progress.estimates.get(check)
            about = guess is not None and guess.count > count
            if about and guess is not None:
                count = guess.count
            if count > 0:
                found[check] = Kind(check, self._severity_of(check), count, about)
        return sorted(found.values(), key=lambda kind: (_RANK.get(kind.severity, 3), -kind.count))

    def _severity_of(self, check: str) -> str:
        if check not in self._severity:
            from finetui.data.checks.registry import CHECKS

            known = CHECKS.get(check)
            self._severity[check] = known.severity if known else "info"
        return self._severity[check]

    def rows_of(self, check: str) -> Sequence[int]:
        """Rows with a finding of a check, in order."""
        stored = self.store.rows_of(check) if self.store is not None else ()
        if not self._again and not self._out:
            return stored
        rows = [row for row in stored if row not in self._again and row not in self._out]
        rows += [
            row
            for row, spots in self._again.items()
            if row not in self._out and any(spot.check == check for spot in spots)
        ]
        return sorted(rows)

    def next_row(self, row: int, forward: bool = True) -> int | None:
        """The next (or the previous) row with a finding."""
        found = row
        while self.store is not None:
            step = self.store.next_row(found, backwards=not forward)
            if step is None or (step not in self._again and step not in self._out):
                break
            found = step
        else:
            step = None
        return _nearer(step, self._next_again(row, forward), forward)

    def _next_again(self, row: int, forward: bool) -> int | None:
        rows = self._rows_again
        if forward:
            later = rows[bisect_right(rows, row) :]
            return next((each for each in later if self._open(each)), None)
        earlier = reversed(rows[: bisect_left(rows, row)])
        return next((each for each in earlier if self._open(each)), None)

    def _open(self, row: int) -> bool:
        return bool(self._again[row]) and row not in self._out

    def close(self) -> None:
        if self.store is not None:
            self.store.close()
            self.store = None


def _nearer(one: int | None, other: int | None, forward: bool) -> int | None:
    known = [row for row in (one, other) if row is not None]
    if not known:
        return None
    return min(known) if forward else max(known)


@dataclass(frozen=True, slots=True)
class Window:
    """What rows must fit into: a model's template, and so many tokens."""

    model: Path | None = None
    tokens: int = _WINDOW


def window_of(workspace: Workspace | None) -> Window:
    """That of the newest recipe with a model on disk, else the workspace's own ``model``."""
    if workspace is None:
        return Window()
    import tomli

    newest = sorted(workspace.recipe_files(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in newest:
        try:
            recipe = tomli.loads(path.read_text("utf-8"))
            named = workspace.resolve(recipe["model"]["path"])
            tokens = int(recipe.get("data", {}).get("max_length", _WINDOW))
        except (OSError, LookupError, TypeError, AttributeError, *BROKEN):
            continue
        if (named / "tokenizer.json").is_file():
            return Window(named, tokens)
    folder = workspace.root / "model"
    return Window(folder) if (folder / "tokenizer.json").is_file() else Window()


async def scan(
    workspace: Workspace,
    paths: Sequence[Path],
    others: Sequence[Path] = (),
    window: Window | None = None,
    first_row: int = 0,
    again: bool = False,
) -> AsyncGenerator[dict[str, Any], None]:
    """Fill the set's store of findings in a process of its own; yields what it says of itself.

    Closing the generator ends the process; what was found stays. Raises UserError when it could
    not look.
    """
    arguments = ["check", "--store", "--first-row", str(first_row), "-w", str(workspace.root)]
    if window is not None and window.model is not None:
        arguments += ["--model", str(window.model), "--max-length", str(window.tokens)]
    if again:
        arguments.append("--again")
    files = [*together(paths), *map(str, others)]
    async with aclosing(command_lines([*arguments, *files])) as lines:
        async for told in lines:
            yield told


def spots_of(data: DataSet, row: int) -> list[Spot]:
    """What the checks that judge rows alone say of a row as it is edited now."""
    from finetui.data.checks.run import check_row

    return [spot_of(found.as_dict()) for found in check_row(data, row)]


def checked_alone() -> list[str]:
    """The checks that `spots_of` asks; the others need the whole file."""
    from finetui.data.checks.registry import CHECKS

    return [check.id for check in CHECKS.values() if check.alone]


def spot_of(found: dict[str, Any]) -> Spot:
    """A finding as the screen keeps it."""
    return Spot(
        check=str(found["check"]),
        severity=str(found["severity"]),
        row=int(found["row"]),
        message=str(found["message"]),
        turn=found.get("turn"),
        start=found.get("start"),
        end=found.get("end"),
    )
