"""Figures of a set beside its findings: a small table a check, kept for the readiness page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

from finetui.data.whole.model import WholeSet

Cell: TypeAlias = str | int | float


@dataclass(frozen=True)
class Facts:
    """A table of a check; ``exact`` is False where a sample was looked at."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    exact: bool = True


def write(whole: WholeSet, check: str, facts: Facts) -> None:
    """Keep ``facts`` under the check's id, where there is a store and something to say."""
    if whole.store is not None and facts.rows:
        whole.store.write_facts(check, asdict(facts))
