"""What a check is, what it is given, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from finetui.data.records import Fault, Record, Shape
from finetui.data.source import Source
from finetui.data.strict import JsonFault

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Hit:
    """What a check saw in one row: a sentence, the turn, and characters in that turn's text."""

    message: str
    turn: int | None = None
    start: int | None = None
    end: int | None = None


@dataclass(slots=True)
class Example:
    """One row as the checks get it.

    ``fault`` is why it could not be decoded; ``record`` is None when nothing of it fits the
    shape; ``faults`` are its structural faults.
    """

    row: int
    line: int
    offset: int
    raw: bytes
    value: object = None
    fault: JsonFault | None = None
    record: Record | None = None
    faults: list[Fault] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to look at. ``line`` is physical and 1-based, ``offset`` the byte where the row
    begins, ``row`` 0-based, ``turn`` 0-based in `Record.all_turns`; ``start`` and ``end`` are
    characters of that turn's text."""

    check: str
    severity: Severity
    file: str
    line: int
    offset: int
    turn: int | None
    message: str
    row: int
    start: int | None = None
    end: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class CheckOptions:
    """What to check against.

    ``model_dir`` gives the chat template for `too-long` (without it, lengths are not judged);
    ``only`` limits the checks to these ids; ``shape`` overrides detection.
    """

    model_dir: Path | None = None
    max_length: int = 1024
    only: frozenset[str] = frozenset()
    shape: Shape | None = None
    cache: Path | None = None


class Across(Protocol):
    """A check that compares rows: it is told of each file, sees its rows, and may end with more.

    Files come held-out first; ``last`` says that no other file follows.
    """

    def begin(self, source: Source, last: bool) -> None: ...

    def see(self, example: Example) -> Iterable[Hit]: ...

    def finish(self) -> Iterable[tuple[int, Hit]]:
        """(row, hit) of what only the whole file shows."""
        ...


@dataclass(frozen=True)
class Check:
    """One check: what it is called, why it matters, how to mend it, and one way to look.

    Exactly one of the four is given: ``row`` looks at a whole example; ``text`` at every turn's
    text; ``answer`` at assistant turns only; ``across`` makes an object that compares rows.
    """

    id: str
    title: str
    severity: Severity
    why: str
    fix: str
    row: Callable[[Example], Iterable[Hit]] | None = None
    text: Callable[[str], Iterable[Hit]] | None = None
    answer: Callable[[str], Iterable[Hit]] | None = None
    across: Callable[[CheckOptions], Across] | None = None
