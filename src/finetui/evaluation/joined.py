"""Two subjects of two evaluations as one record: compared row by row where they answered the same.

Rows are the same when set, id, prompt and reference are; what only one side has is
left out. Figures, slices, worst rows and the report work on it as on any other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

from msgspec import structs

from finetui.errors import UserError
from finetui.evaluation.record import Answer, Item, Manifest, Record, RowScore, SetSpec, Timing

_Row = TypeVar("_Row", Answer, RowScore)


class JoinedRecord(Record):
    """``before`` and ``after`` are (record, name of its subject); nothing is written.

    Raises UserError when the two have no set with a common row.
    """

    def __init__(self, before: tuple[Record, str], after: tuple[Record, str]) -> None:
        super().__init__(after[0].folder)
        self._sides = {"before": before, "after": after}
        self._items = cache(self._common)
        self._sets = [spec for spec in self._shared_sets() if self._items(spec.name)]
        if not self._sets:
            raise UserError(
                f"{before[1]} and {after[1]} answered no row in common.",
                fix="Evaluate both on the same data.",
            )

    def manifest(self) -> Manifest:
        subjects, names = [], []
        for side, (record, name) in self._sides.items():
            asked = record.manifest()
            subjects.append(structs.replace(asked.subject(name), name=side))
            names.append(f"{name} of {asked.name}")
        asked = self._sides["after"][0].manifest()
        return structs.replace(
            asked, name=" and ".join(names), subjects=subjects, sets=self._sets, base="before"
        )

    def items(self, name: str) -> list[Item]:
        return self._items(name)

    def answers(self, subject: str, name: str) -> list[Answer]:
        record, who = self._sides[subject]
        return self._of_common(name, lambda: record.answers(who, name))

    def scores(self, subject: str, name: str) -> list[RowScore]:
        record, who = self._sides[subject]
        return self._of_common(name, lambda: record.scores(who, name))

    def timings(self) -> list[Timing]:
        return []

    def _shared_sets(self) -> list[SetSpec]:
        first, second = (record.manifest() for record, _ in self._sides.values())
        names = {spec.name for spec in first.sets}
        return [spec for spec in second.sets if spec.name in names]

    def _common(self, name: str) -> list[Item]:
        """The rows of a set that both have and both subjects answered."""
        (first, _), (second, _) = self._sides.values()
        asked = {item.id: item for item in first.items(name)}
        answered = [
            {score.id for score in record.scores(who, name)} for record, who in self._sides.values()
        ]
        return [
            item
            for item in second.items(name)
            if item.id in answered[0] & answered[1] and _same(asked.get(item.id), item)
        ]

    def _of_common(self, name: str, read: Callable[[], list[_Row]]) -> list[_Row]:
        ids = {item.id for item in self._items(name)}
        return [row for row in read() if row.id in ids]


def _same(once: Item | None, now: Item) -> bool:
    return once is not None and (once.prompt, once.reference) == (now.prompt, now.reference)
