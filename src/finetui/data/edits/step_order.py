"""Which steps may be switched off or change places: those that nothing else stands on.

A step that writes a text was made on the text it found. Taking that text away from under it would
leave a row that nobody has ever seen, so it is refused with the name of the step. Dropping,
marking and labelling stand on nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from finetui.data.edits.layout import PARTS
from finetui.data.edits.steps import FATE, LABEL, MARK, TEXT, Pipeline, Texts, first_break, needs
from finetui.errors import UserError

_TEXTS = "SELECT c.row, c.seq, c.before_text, c.after_text"


class StepOrder:
    """The questions to a journal about the order of its steps.

    ``ask`` runs a query, ``stage`` puts steps into the table ``standing``, ``name`` says in words
    which row a key is.
    """

    def __init__(
        self,
        ask: Callable[..., list[Any]],
        stage: Callable[[Sequence[int]], None],
        pipeline: Pipeline,
        name: Callable[[int], str],
        where: str,
    ) -> None:
        self._ask, self._stage, self._pipeline = ask, stage, pipeline
        self._name, self._where = name, where

    def must_be_a_step(self, seq: int) -> None:
        if seq not in self._pipeline.order:
            raise UserError(
                f"there is no step {seq} that stands or is switched off.",
                fix="See the steps with: finetui edits FILE",
            )

    def switchable(self, seq: int, on: bool, along: bool) -> list[int]:
        """The steps to switch so that no standing one loses what it was made on."""
        steps = [seq]
        while True:
            off = self._pipeline.off - {seq} if on else self._pipeline.off | set(steps)
            broken = self._broken(steps, off)
            if broken is None:
                return steps
            if on or not along:
                raise self._built_on(seq, *broken, on)
            steps.append(broken[0])

    def _broken(self, steps: Sequence[int], off: set[int]) -> tuple[int, str] | None:
        """The first step that would not find the text it was made on, and the row."""
        for key, settings in self._texts_of(steps):
            found = first_break(settings, off)
            if found is not None:
                return found, self._name(key)
        return None

    def _built_on(self, seq: int, other: int, where: str, on: bool) -> UserError:
        if not on:
            what = f"step {other} was made on what step {seq} left of {where}."
            fix = f"Switch step {other} off first, or both together."
        elif other != seq:
            what = f"step {other} changed {where} while step {seq} was off."
            fix = f"Switch step {other} off first."
        else:
            based = self.dependencies().get(seq, set()) & self._pipeline.off
            what = f"step {seq} was made on another text of {where} than it has now."
            fix = f"Switch step {min(based)} on first." if based else "Make the edit again."
        return UserError(what, self._where, fix)

    def must_be_independent(self, seq: int, before: int | None) -> None:
        order = self._pipeline.order
        here = order.index(seq)
        there = len(order) if before is None else order.index(before)
        passed = order[here + 1 : there] if there > here else order[there:here]
        for other in passed:
            where = self._clash(seq, other)
            if where:
                raise UserError(
                    f"step {max(seq, other)} depends on step {min(seq, other)}: "
                    f"both change {where}.",
                    self._where,
                    "Only independent steps can change places.",
                )

    def _clash(self, one: int, other: int) -> str:
        """A row of which two steps say different things; "" for none."""
        parts, others = PARTS, PARTS.replace("c.", "d.")
        found = self._ask(
            "SELECT c.row FROM change c JOIN change d ON d.row = c.row AND d.seq = ?"
            f" WHERE c.seq = ? AND (({parts}) & ({others}) & {TEXT}"
            f" OR (({parts}) & ({others}) & {FATE} AND c.after_dropped <> d.after_dropped)"
            f" OR (({parts}) & ({others}) & {MARK} AND c.after_mark <> d.after_mark)"
            f" OR (({parts}) & ({others}) & {LABEL} AND c.after_label <> d.after_label)) LIMIT 1",
            other,
            one,
        )
        return self._name(found[0][0]) if found else ""

    def _texts_of(self, steps: Sequence[int]) -> Iterator[tuple[int, Texts]]:
        """The rows whose text one of the steps sets: key, and all its settings in order."""
        self._stage(self._pipeline.order)
        marks = ", ".join("?" * len(steps))
        rows = self._ask(
            f"{_TEXTS} FROM (SELECT DISTINCT row FROM change WHERE seq IN ({marks})) t"
            " JOIN change c ON c.row = t.row JOIN standing s ON s.seq = c.seq"
            f" WHERE ({PARTS}) & {TEXT} ORDER BY c.row, s.place",
            *steps,
        )
        return _by_row(rows)

    def dependencies(self) -> dict[int, set[int]]:
        self._stage(self._pipeline.order)
        rows = self._ask(
            f"{_TEXTS} FROM change c JOIN standing s ON s.seq = c.seq WHERE c.row IN"
            " (SELECT row FROM change GROUP BY row HAVING count(*) > 1)"
            f" AND ({PARTS}) & {TEXT} ORDER BY c.row, s.place"
        )
        found: dict[int, set[int]] = {}
        for _, settings in _by_row(rows):
            for seq, base in needs(settings).items():
                found.setdefault(seq, set()).add(base)
        return found


def _by_row(rows: Iterable[Sequence[Any]]) -> Iterator[tuple[int, Texts]]:
    """Text settings of one row after another; rows come sorted by key."""
    for key, group in itertools.groupby(rows, key=lambda row: int(row[0])):
        yield key, [(seq, before, after) for _, seq, before, after in group]
