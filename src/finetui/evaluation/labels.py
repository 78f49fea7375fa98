"""Answers that are labels: which fields are, the confusion table, macro F1."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetui.evaluation.words import folded

WHOLE = ""
"""The name of the field when the whole answer is the label."""

OTHER = "(other)"
"""What an answer is that names no label of the references."""

_MOST_LABELS = 50
_LONGEST = 40
_FEWEST_ROWS = 3  # a label that most rows have for themselves is no label


@dataclass(frozen=True)
class ClassRow:
    """One label: ``n`` rows want it, ``given`` answers name it, ``right`` do both."""

    label: str
    n: int
    given: int
    right: int

    @property
    def precision(self) -> float:
        return self.right / self.given if self.given else 0.0

    @property
    def recall(self) -> float:
        return self.right / self.n if self.n else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.right / (self.n + self.given) if self.n + self.given else 0.0


@dataclass(frozen=True)
class Confusion:
    """``table[wanted][given]`` counts rows; ``given`` has `OTHER` last where it occurs."""

    wanted: tuple[str, ...]
    given: tuple[str, ...]
    table: Mapping[str, Mapping[str, int]]
    classes: tuple[ClassRow, ...]
    accuracy: float
    macro_f1: float

    @property
    def worst(self) -> list[tuple[str, str, int]]:
        """(wanted, given, rows) of the mistakes, most frequent first."""
        found = [
            (wanted, given, count)
            for wanted, row in self.table.items()
            for given, count in row.items()
            if count and wanted != given
        ]
        return sorted(found, key=lambda entry: (-entry[2], entry[0], entry[1]))


def fields_of(references: Sequence[str]) -> list[str]:
    """The fields that hold labels: few short values that come back again and again.

    [] for free text; [""] when the whole reference is one; names of fields for JSON objects.
    """
    objects = [found for found in map(json_object, references) if found is not None]
    if len(objects) == len(references) and objects:
        names = list(dict.fromkeys(name for found in objects for name in found))
        return [name for name in names if _are_labels([found.get(name) for found in objects])]
    return [WHOLE] if _are_labels([text.strip() for text in references]) else []


def pair_of(answer: str, reference: str, field: str) -> tuple[str, str] | None:
    """(wanted, given) of one field; None where the reference has no such field."""
    if field == WHOLE:
        return reference.strip(), answer.strip()
    wanted = json_object(reference)
    if wanted is None or field not in wanted:
        return None
    given = json_object(answer) or {}
    return as_label(wanted[field]), as_label(given[field]) if field in given else ""


def confusion(pairs: Sequence[tuple[str, str]]) -> Confusion:
    """Count (wanted, given); answers that no row wants are `OTHER`, case and final stop aside."""
    counted = Counter(matched(pairs))
    wanted = sorted({pair[0] for pair in counted})
    given = [*wanted, *([OTHER] if any(pair[1] == OTHER for pair in counted) else [])]
    table = {row: {cell: counted[row, cell] for cell in given} for row in wanted}
    classes = tuple(
        ClassRow(
            label=label,
            n=sum(table[label].values()),
            given=sum(table[row][label] for row in wanted),
            right=table[label][label],
        )
        for label in wanted
    )
    n = len(pairs)
    return Confusion(
        wanted=tuple(wanted),
        given=tuple(given),
        table=table,
        classes=classes,
        accuracy=sum(row.right for row in classes) / n if n else 0.0,
        macro_f1=sum(row.f1 for row in classes) / len(classes) if classes else 0.0,
    )


def matched(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each given label as the references write it, or `OTHER`."""
    names = {folded(wanted): wanted for wanted, _ in pairs}
    return [(wanted, _named(wanted, given, names)) for wanted, given in pairs]


def macro_f1(pairs: Sequence[tuple[str, str]]) -> float:
    """Mean F1 over the labels that rows want, of `matched` pairs."""
    counted = Counter(pairs)
    wanted: Counter[str] = Counter()
    given: Counter[str] = Counter()
    for (want, give), count in counted.items():
        wanted[want] += count
        given[give] += count
    scores = [2 * counted[label, label] / (n + given[label]) for label, n in wanted.items()]
    return sum(scores) / len(scores) if scores else 0.0


def json_object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text.strip())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def as_label(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _named(wanted: str, given: str, names: Mapping[str, str]) -> str:
    if given == wanted or folded(given) == folded(wanted):
        return wanted
    return names.get(folded(given), OTHER)


def _are_labels(values: Sequence[object]) -> bool:
    if any(isinstance(value, dict | list | float) for value in values):
        return False
    texts = [as_label(value) for value in values]
    distinct = set(texts)
    return (
        2 <= len(distinct) <= _MOST_LABELS
        and all(0 < len(text) <= _LONGEST and "\n" not in text for text in distinct)
        and len(texts) >= _FEWEST_ROWS * len(distinct)
    )
