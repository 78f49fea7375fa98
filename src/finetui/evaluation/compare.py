"""Base against tuned on the same rows: what got better, what broke, and where."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetui.errors import BROKEN, UserError
from finetui.evaluation.metrics import AnswerScore, Paired, mcnemar, summarise


@dataclass(frozen=True)
class Output:
    """One generated answer as the job wrote it; ``id`` names its row (file:line)."""

    id: str
    prompt: list[dict[str, Any]]
    answer: str
    reference: str
    format: bool
    correct: bool


@dataclass(frozen=True)
class Pair:
    """One row answered by the base and by the tuned model."""

    before: Output
    after: Output

    @property
    def change(self) -> str:
        """ "broken", "wrong" (both), "fixed" or "right" (both)."""
        if self.before.correct:
            return "right" if self.after.correct else "broken"
        return "fixed" if self.after.correct else "wrong"


@dataclass(frozen=True)
class LabelRow:
    """One value of one field of the references: how many rows, how many right before and after."""

    field: str
    label: str
    n: int
    before: int
    after: int


@dataclass(frozen=True)
class Comparison:
    """``rows`` come worst first: broken, then wrong without form, wrong, fixed, right."""

    before: dict[str, float]
    after: dict[str, float]
    paired: Paired
    rows: tuple[Pair, ...]
    labels: tuple[LabelRow, ...]
    unpaired: int


def read_outputs(path: Path) -> list[Output]:
    """Answers of a job's outputs file; a torn last line is left out. Raises UserError."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}.", str(path)) from error
    outputs = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            outputs.append(_output(json.loads(line)))
        except (LookupError, TypeError, *BROKEN) as error:
            raise UserError("is not an answer of a job.", f"{path}:{number}") from error
    return outputs


def compare(before: Sequence[Output], after: Sequence[Output]) -> Comparison:
    """Pair two sets of answers by row id; rows that only one side has are counted as unpaired."""
    tuned = {output.id: output for output in after}
    pairs = [Pair(base, tuned[base.id]) for base in before if base.id in tuned]
    return Comparison(
        before=summarise(_score(pair.before) for pair in pairs),
        after=summarise(_score(pair.after) for pair in pairs),
        paired=mcnemar(
            [pair.before.correct for pair in pairs], [pair.after.correct for pair in pairs]
        ),
        rows=tuple(sorted(pairs, key=_badness)),
        labels=_by_label(pairs),
        unpaired=len(before) + len(after) - 2 * len(pairs),
    )


def compare_job(job_dir: Path, name: str = "outputs") -> Comparison | None:
    """The comparison of a finished job; None while one of its two sides is missing.

    ``name`` is "outputs" for the held-out rows and "suite" for the regression suite.
    """
    before, after = (job_dir / f"{name}-{when}.jsonl" for when in ("before", "after"))
    if not (before.is_file() and after.is_file()):
        return None
    return compare(read_outputs(before), read_outputs(after))


def _output(entry: dict[str, Any]) -> Output:
    return Output(
        id=str(entry["id"]),
        prompt=[dict(turn) for turn in entry["prompt"]],
        answer=str(entry["answer"]),
        reference=str(entry["reference"]),
        format=bool(entry["format"]),
        correct=bool(entry["correct"]),
    )


def _score(output: Output) -> AnswerScore:
    return AnswerScore(output.format, output.correct)


def _badness(pair: Pair) -> tuple[int, bool]:
    order = {"broken": 0, "wrong": 1, "fixed": 2, "right": 3}
    return order[pair.change], pair.after.format


def _by_label(pairs: Sequence[Pair]) -> tuple[LabelRow, ...]:
    """Right answers by the value of each short field of JSON references, worst share first.

    Counts the field alone: an answer with the right urgency and a wrong product is right there.
    """
    table: dict[tuple[str, str], list[int]] = {}
    for pair in pairs:
        reference = _object(pair.before.reference)
        base, tuned = _object(pair.before.answer), _object(pair.after.answer)
        for field, value in reference.items():
            if isinstance(value, dict | list):
                continue
            counts = table.setdefault((field, str(value)), [0, 0, 0])
            counts[0] += 1
            counts[1] += field in base and base[field] == value
            counts[2] += field in tuned and tuned[field] == value
    rows = [LabelRow(field, label, *counts) for (field, label), counts in table.items()]
    return tuple(sorted(rows, key=lambda row: (row.field, row.after / row.n, row.label)))


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text.strip())
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
