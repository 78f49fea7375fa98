"""Looking at one row: its example, and the checks that judge a row by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from finetui.data.checks.model import Check, Example, Hit
from finetui.data.formats.source import RawRow
from finetui.data.records import Shape, read_record
from finetui.data.strict import JsonFault

_SYSTEM_PROMPTS = 64


def read_example(raw: RawRow, read: Callable[[bytes], object], shape: Shape) -> Example:
    """The row as the checks get it; nothing is raised for a broken one."""
    example = Example(raw.row, raw.line, raw.offset, raw.raw)
    try:
        example.value = read(raw.raw)
    except JsonFault as fault:
        example.fault = fault
        return example
    example.record, example.faults = read_record(example.value, shape)
    return example


class Looks:
    """The checks of single rows, sorted once by what they look at."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self._row = [(check, check.row) for check in checks if check.row]
        self._text = [(check, check.text) for check in checks if check.text]
        answer = [(check, check.answer) for check in checks if check.answer]
        self._answer = self._text + answer
        self._system: dict[str, list[tuple[Check, Hit]]] = {}  # rows share their system prompts

    @property
    def rows(self) -> bool:
        """Whether any of them needs the whole example."""
        return bool(self._row)

    def hits(self, example: Example) -> Iterator[tuple[Check, Hit]]:
        for check, look in self._row:
            for hit in look(example):
                yield check, hit
        if example.record is not None and self._answer:
            turns = example.record.all_turns()
            yield from self.turns([t.role for t in turns], [t.content for t in turns])

    def turns(self, roles: Iterable[str], texts: Iterable[str]) -> Iterator[tuple[Check, Hit]]:
        """What the checks of texts see in the turns of a row."""
        for number, (role, text) in enumerate(zip(roles, texts, strict=True)):
            for check, hit in self._turn(role, text):
                yield check, Hit(hit.message, number, hit.start, hit.end)

    def _turn(self, role: str, text: str) -> list[tuple[Check, Hit]]:
        known = self._system.get(text) if role == "system" else None
        if known is not None:
            return known
        scans = self._answer if role == "assistant" else self._text
        found = [(check, hit) for check, scan in scans for hit in scan(text)]
        if role == "system" and len(self._system) < _SYSTEM_PROMPTS:
            self._system[text] = found
        return found
