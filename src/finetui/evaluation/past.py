"""What a training run answered before and after it, read as an evaluation."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from finetui.evaluation.compare import Output, read_outputs
from finetui.evaluation.record import Answer, Item, Manifest, Record, RowScore, SetSpec, Subject
from finetui.evaluation.scoring import score_set
from finetui.evaluation.suites import item

BASE, TUNED = "base", "tuned"
_FILES = {"test": "outputs", "suite": "suite"}
_WHEN = {BASE: "before", TUNED: "after"}


class TrainingRecord(Record):
    """The sets "test" (held-out rows) and "suite" of a training job; nothing is written."""

    def __init__(self, job: Path) -> None:
        super().__init__(job)
        self._of = cache(self._outputs)
        self._scored = cache(self._score)

    def manifest(self) -> Manifest:
        sets = [SetSpec(name, name) for name in ("test", "suite") if self._of(TUNED, name)]
        subjects = [Subject(BASE, "base"), Subject(TUNED, "adapter", job=self.folder.name)]
        return Manifest(self.folder.name, subjects, sets, BASE)

    def items(self, name: str) -> list[Item]:
        return [item(row.id, row.prompt, row.reference, {}) for row in self._of(TUNED, name)]

    def answers(self, subject: str, name: str) -> list[Answer]:
        return [Answer(row.id, row.answer) for row in self._of(subject, name)]

    def scores(self, subject: str, name: str) -> list[RowScore]:
        return self._scored(subject, name)

    def _outputs(self, subject: str, name: str) -> list[Output]:
        path = self.folder / f"{_FILES[name]}-{_WHEN[subject]}.jsonl"
        return read_outputs(path) if path.is_file() else []

    def _score(self, subject: str, name: str) -> list[RowScore]:
        spec = SetSpec(name, "suite" if name == "suite" else "test")
        return score_set(spec, self.items(name), self.answers(subject, name))


def of_training(job: Path) -> TrainingRecord | None:
    """The evaluation inside a training job; None while one of its two sides is missing."""
    sides = [job / f"outputs-{when}.jsonl" for when in _WHEN.values()]
    return TrainingRecord(job) if all(side.is_file() for side in sides) else None
