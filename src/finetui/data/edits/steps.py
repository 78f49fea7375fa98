"""What journal operations mean: the states of rows, and the order of the steps that made them.

A *step* is an operation that says something about rows (edit, fix, drop, label, ...). Undo, redo,
switching and moving only say which steps stand and in what order; nothing is ever rewritten. The
present state of a row is what the standing steps say of it, the later one winning, each of four
parts by itself: text, fate (kept, dropped, quarantined), mark and label.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

TEXT, FATE, MARK, LABEL = 1, 2, 4, 8
KEPT, DROPPED, QUARANTINED = 0, 1, 2
SWITCHES = ("switch-off", "switch-on")
Texts = list[tuple[int, str | None, str | None]]
"""What steps make of one row's text, in order: step, the text before, the text after."""
_NO_STEP = ("rebase", "undo", "redo", "move", *SWITCHES)


@dataclass(frozen=True, slots=True)
class State:
    """What a row is now: its edited text (None: as in the source) and what was decided on it.

    ``reason`` says why it was dropped or quarantined.
    """

    text: str | None = None
    dropped: bool = False
    quarantined: bool = False
    reason: str = ""
    marked: bool = False
    label: str = ""

    @property
    def kept(self) -> bool:
        """Whether the row belongs to what is made of the data set."""
        return not (self.dropped or self.quarantined)

    @property
    def changed(self) -> bool:
        """Edited or left out; a mark or a label alone changes nothing that is trained on."""
        return self.text is not None or self.dropped or self.quarantined

    @property
    def fate(self) -> int:
        return DROPPED if self.dropped else QUARANTINED if self.quarantined else KEPT


UNTOUCHED = State()


class Setting(NamedTuple):
    """What one step says of one row; only the ``parts`` named are meant."""

    parts: int
    text: str | None
    fate: int
    reason: str
    marked: int
    label: str


def settle(state: State, said: Setting) -> State:
    """The state after a setting. Who is out already stays out for the first reason given."""
    parts = said.parts
    fate, reason = state.fate, state.reason
    if parts & FATE and said.fate != fate:
        fate, reason = said.fate, said.reason if said.fate else ""
    return State(
        said.text if parts & TEXT else state.text,
        fate == DROPPED,
        fate == QUARANTINED,
        reason,
        bool(said.marked) if parts & MARK else state.marked,
        said.label if parts & LABEL else state.label,
    )


@dataclass(frozen=True, slots=True)
class Change:
    """One row's part in a step.

    ``before_hash`` is of the row's bytes before it; ``value_hash`` of the source row's value,
    however it is written; ``original`` the source's bytes where they are kept. ``held`` names
    parts that the step sets although they are so already (rows dropped twice); ``context`` is the
    hash of the row before, where copies of the row must be told apart.
    """

    row: int
    before: State
    after: State
    before_hash: str
    original: bytes | None = None
    line: int = 0
    value_hash: str = ""
    held: int = 0
    context: str = ""

    @property
    def parts(self) -> int:
        before, after = self.before, self.after
        return (
            self.held
            | (TEXT if before.text != after.text else 0)
            | (FATE if before.fate != after.fate else 0)
            | (MARK if before.marked != after.marked else 0)
            | (LABEL if before.label != after.label else 0)
        )

    @property
    def said(self) -> tuple[object, ...] | None:
        """What it says of the row; None when that holds a text, which is never the same twice."""
        if self.parts & TEXT:
            return None
        before, after = self.before, self.after
        fate = (before.fate, before.reason, after.fate) if self.parts & FATE else ()
        mark = (before.marked, after.marked) if self.parts & MARK else ()
        return (self.parts, fate, mark, (before.label, after.label) if self.parts & LABEL else ())


@dataclass(frozen=True)
class Operation:
    """One line of the log; ``changes`` is the number of rows it touched."""

    seq: int
    time: float
    kind: str
    note: str
    inverse_of: int | None
    changes: int
    actor: str = ""
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Step:
    """One step that was not taken back, in its place in the order.

    ``time`` is in seconds since 1970, ``rows`` how many it changed, ``active`` False when it is
    switched off, ``depends_on`` the steps whose text it was made on.
    """

    seq: int
    time: float
    actor: str
    kind: str
    note: str
    reason: str
    rows: int
    active: bool
    depends_on: tuple[int, ...] = ()


@dataclass(frozen=True)
class Count:
    """How many rows are ``what`` (edited, dropped, quarantined, marked, labelled) for a reason."""

    what: str
    reason: str
    rows: int


class _Act(NamedTuple):
    kind: str
    detail: dict[str, Any]


@dataclass
class Pipeline:
    """Which steps stand and in what order, from the operations read so far.

    ``done`` is what can be undone, newest last; ``undone`` pairs of (operation, its undo).
    """

    order: list[int] = field(default_factory=list)
    off: set[int] = field(default_factory=set)
    done: list[int] = field(default_factory=list)
    undone: list[tuple[int, int]] = field(default_factory=list)
    rebases: list[int] = field(default_factory=list)
    _acts: dict[int, _Act] = field(default_factory=dict)

    def take(self, seq: int, kind: str, detail: str = "") -> None:
        """Go on by one operation; operations must come in the order of their numbers."""
        if kind == "rebase":
            self.rebases.append(seq)
        elif kind == "undo":
            target = self.done.pop()
            self.undone.append((target, seq))
            self._withdraw(target)
        elif kind == "redo":
            target = self.undone.pop()[0]
            self.done.append(target)
            self._perform(target)
        else:
            if detail or kind in _NO_STEP:
                self._acts[seq] = _Act(kind, json.loads(detail) if detail else {})
            self.done.append(seq)
            self.undone.clear()
            self._perform(seq)

    @property
    def standing(self) -> list[int]:
        """The steps in force, in their order."""
        return [seq for seq in self.order if seq not in self.off]

    def targets(self, seq: int) -> list[int] | None:
        """The steps that a switch or a move is about; None for a step itself."""
        act = self._acts.get(seq)
        if act is None or act.kind not in _NO_STEP:
            return None
        return [act.detail["step"]] if act.kind == "move" else list(act.detail["steps"])

    def settled(self) -> set[int]:
        """Keys of unplaced rows that a standing step has dealt with."""
        acts = (self._acts.get(seq) for seq in self.standing)
        return {key for act in acts if act for key in act.detail.get("placed", ())}

    def moved(self, seq: int, before: int | None) -> list[int]:
        """The order with a step put before another one (None: last)."""
        order = [each for each in self.order if each != seq]
        order.insert(len(order) if before is None else order.index(before), seq)
        return order

    def after(self, seq: int) -> int | None:
        """The step that follows; None for the last."""
        place = self.order.index(seq) + 1
        return self.order[place] if place < len(self.order) else None

    def _perform(self, seq: int) -> None:
        act = self._acts.get(seq)
        if act is None or act.kind not in _NO_STEP:
            self.order.append(seq)
        elif act.kind == "move":
            self.order = self.moved(act.detail["step"], act.detail["before"])
        else:
            self._switch(act, act.kind == "switch-on")

    def _withdraw(self, seq: int) -> None:
        act = self._acts.get(seq)
        if act is None or act.kind not in _NO_STEP:
            self.order.remove(seq)
        elif act.kind == "move":
            self.order = self.moved(act.detail["step"], act.detail["was"])
        else:
            self._switch(act, act.kind == "switch-off")

    def _switch(self, act: _Act, on: bool) -> None:
        steps: Iterable[int] = act.detail["steps"]
        self.off = self.off - set(steps) if on else self.off | set(steps)


def needs(settings: Texts) -> dict[int, int]:
    """For one row's text settings (step, before, after) in order: the step each was made on."""
    found = {}
    for place, (seq, before, _) in enumerate(settings):
        earlier = (other for other, _, after in reversed(settings[:place]) if after == before)
        base = next(earlier, None)
        if base is not None:
            found[seq] = base
    return found


def first_break(settings: Texts, off: set[int]) -> int | None:
    """The first standing step whose text was made on something else than what it would find."""
    text: str | None = None
    for seq, before, after in settings:
        if seq in off:
            continue
        if before != text:
            return seq
        text = after
    return None
