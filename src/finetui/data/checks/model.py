"""What a check is, what it is given, and what it says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from finetui.data.formats.source import Source
from finetui.data.records import Fault, Record, Shape
from finetui.data.strict import JsonFault

Severity = Literal["error", "warning", "info"]
FAMILIES = (
    "structure", "text", "duplicates", "conflicts", "leakage", "privacy", "balance", "labels",
    "length", "output", "refusals", "coverage", "language", "preference", "drift", "size",
)  # fmt: skip


class NotPlain:
    """The type of `NOT_PLAIN`."""

    def __repr__(self) -> str:
        return "NOT_PLAIN"


NOT_PLAIN = NotPlain()
"""The gate of structural checks: only a row that is not plain can have a finding.

A plain row decodes to one object without a doubled key and has no fault. Its turns are texts under
role and content, from/value or known columns; none is blank, none calls a tool, and their roles
come in an order in which no check of this gate finds anything when every text is one letter.
"""

Gate = Callable[[bytes], bool] | re.Pattern[bytes] | tuple[bytes, ...] | NotPlain
"""A cheap necessary condition on the row's bytes as they lie in the file: the check looks at a row
only if the gate lets it through, so a gate must never miss.

Mind JSON's escapes: ``\\n`` is two bytes, and any character may be written ``\\u00e9``.

- literals: any of them is in the lower-cased bytes (so write them in lower case);
- a pattern: it matches somewhere. It runs over many rows at once: no ``\\A``, ``\\Z`` or ``$``, no
  looking around, nothing that needs a newline, so that one automaton can hold all patterns;
- a callable: True;
- `NOT_PLAIN`: for checks of structure.
"""


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
    ``only`` limits the checks to these ids; ``shape`` overrides detection; ``cache`` is a folder
    for rebuildable indexes; ``whole`` asks for the checks of whole sets as well, which run in a
    process of their own (those that ``only`` names are run in any case); ``workers`` are the
    processes that look at a large file.
    """

    model_dir: Path | None = None
    max_length: int = 1024
    only: frozenset[str] = frozenset()
    shape: Shape | None = None
    cache: Path | None = None
    whole: bool = False
    workers: int = 2


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

    Exactly one of the five is given: ``row`` looks at a whole example; ``text`` at every turn's
    text; ``answer`` at assistant turns only; ``across`` makes an object that compares rows;
    ``whole`` names a function of `finetui.data.whole` ("finetui.data.whole.near:find") from a
    `WholeSet` to its `WholeHit`s, imported only by the process that runs it.

    ``gate`` spares ``row``, ``text`` and ``answer`` the rows that cannot have a finding. ``alike``
    does so for ``across``: rows that concern each other have equal keys, so a row whose key is
    its own, or None, cannot have a finding. ``needs`` is the fewest files a ``whole`` or
    ``across`` check has anything to say about.
    """

    id: str
    title: str
    severity: Severity
    why: str
    fix: str
    family: str = ""
    row: Callable[[Example], Iterable[Hit]] | None = None
    text: Callable[[str], Iterable[Hit]] | None = None
    answer: Callable[[str], Iterable[Hit]] | None = None
    across: Callable[[CheckOptions], Across] | None = None
    whole: str = ""
    gate: Gate | None = None
    alike: Callable[[Example], int | None] | None = None
    needs: int = 1

    @property
    def fixable(self) -> bool:
        """Whether there is an automatic repair; see `finetui.data.checks.fixes`."""
        from finetui.data.checks.fixes import fixable

        return fixable(self.id)

    @property
    def alone(self) -> bool:
        """It judges a row by itself, so an edited row can be judged again."""
        return self.across is None and not self.whole
