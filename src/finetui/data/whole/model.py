"""What a check of a whole set is given, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from finetui.data.checks.model import CheckOptions
from finetui.data.findings import Cluster
from finetui.data.formats.source import Source
from finetui.data.records import Record, Shape, read_record
from finetui.data.strict import JsonFault


@dataclass(frozen=True, slots=True)
class WholeHit:
    """What a check saw: the place in ``WholeSet.sources``, the row (0-based), a sentence, and
    characters of a turn. What concerns the file and no row in it is said at row 0."""

    source: int
    row: int
    message: str
    turn: int | None = None
    start: int | None = None
    end: int | None = None


class ClusterStore(Protocol):
    """Where clusters of rows, and the figures of a check, are kept for screens and commands."""

    def write_clusters(self, kind: str, clusters: Iterable[Cluster]) -> None: ...

    def write_facts(self, check: str, facts: Any) -> None: ...


def _never() -> bool:
    return False


def _silent(done: int, total: int) -> None:
    """Nobody looks on."""


@dataclass
class WholeSet:
    """Open files, held-out ones first, the file that is trained on last.

    ``shapes`` stand beside ``sources``; ``stop()`` says to give up (return what there is);
    ``progress(done, total)`` counts in any unit; ``store`` keeps clusters and facts where there
    is a workspace (clusters and facts are those of the last source). All checks of one process
    get the same set, one after the other: ``memo`` holds what one computed and others can use.
    """

    sources: Sequence[Source]
    options: CheckOptions = field(default_factory=CheckOptions)
    shapes: Sequence[Shape] = ()
    stop: Callable[[], bool] = _never
    progress: Callable[[int, int], None] = _silent
    store: ClusterStore | None = None
    memo: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.shapes:
            self.shapes = [self.options.shape or source.shape.shape for source in self.sources]

    @property
    def shape(self) -> Shape:
        """The shape of the file that is trained on."""
        return self.shapes[-1]

    def records(self, source: int = -1) -> Iterator[tuple[int, Record]]:
        """(row, record) of every row of a source that can be read, in order."""
        opened, shape = self.sources[source], self.shapes[source]
        for raw in opened.iterate():
            try:
                value = opened.decode(raw.raw)
            except JsonFault:
                continue
            record, _ = read_record(value, shape)
            if record is not None:
                yield raw.row, record
