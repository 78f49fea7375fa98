"""What the Evaluate screen shows of one job: a set, two who answered it, and their rows.

Read in a thread from a training run's own answers or from the record of an evaluation; plain
values from here on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetui.evaluation import worst
from finetui.evaluation.catalogue import metric, shown
from finetui.evaluation.compare import Comparison, Pair, compare_job
from finetui.evaluation.figures import read as read_figures
from finetui.evaluation.past import of_training
from finetui.evaluation.record import Manifest, Record, RowScore, of_job
from finetui.evaluation.repairs import rows as repair_rows
from finetui.evaluation.results import Figures
from finetui.evaluation.worst import Ranked

RUN_SETS = {"test": "held-out", "suite": "general check"}
"""What a training run answers before and after."""

_FILES = {"test": "outputs", "suite": "suite"}

CHANGES = ("broken", "wrong", "fixed", "right")
"""What can have happened to a row, worst first."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row answered twice. ``told`` says in words what the scoring thinks of each answer."""

    id: str
    change: str
    prompt: Sequence[dict[str, Any]]
    reference: str
    answers: tuple[str, str]
    told: tuple[str, str]

    @property
    def asked(self) -> str:
        """The text of the last user turn."""
        for turn in reversed(self.prompt):
            if turn.get("role") == "user":
                return str(turn.get("content") or "")
        return ""

    def has(self, words: str) -> bool:
        """Whether all these words occur in the question or in an answer."""
        whole = " ".join((self.asked, self.reference, *self.answers)).casefold()
        return all(word in whole for word in words.casefold().split())


@dataclass(frozen=True, slots=True)
class Look:
    """What a person wants to see of a job: a set, and who is compared with the reference."""

    set: str = ""
    after: str = ""


@dataclass(frozen=True)
class View:
    """One set of a job with two who answered it.

    ``sets`` are those there are, ``others`` those who can be compared with ``before``;
    ``judged_by`` names the metric that says whether a row is right.
    """

    sets: tuple[str, ...] = ()
    before: str = "base"
    others: tuple[str, ...] = ("tuned",)
    look: Look = field(default_factory=lambda: Look(after="tuned"))
    rows: tuple[Row, ...] = ()
    judged_by: str = ""
    repaired: frozenset[str] = frozenset()
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    manifest: Manifest | None = None
    figures: Figures | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing was answered yet."""
        return not self.comparisons and self.manifest is None

    @property
    def title(self) -> str:
        return RUN_SETS.get(self.look.set, self.look.set)


def record_of(job: Path) -> Record:
    """The record of an evaluation, or the one inside a training run. Raises UserError."""
    record = of_job(job)
    inside = None if record.manifest_path.is_file() else of_training(job)
    return inside or record


def read_view(job: Path, root: Path, wanted: Look) -> View:
    """Read what is wanted of a job; seconds for big sets. Raises UserError for broken files."""
    record = of_job(job)
    if record.manifest_path.is_file():
        return _of_record(record, root, wanted)
    return _of_run(job, root, wanted)


def _of_run(job: Path, root: Path, wanted: Look) -> View:
    found = {
        name: made
        for name, files in _FILES.items()
        if (made := compare_job(job, files)) is not None
    }
    if not found:
        return View()
    name = wanted.set if wanted.set in found else next(iter(found))
    return View(
        sets=tuple(found),
        look=Look(name, "tuned"),
        rows=tuple(map(_of_pair, found[name].rows)),
        repaired=repair_rows(root),
        comparisons=found,
    )


def _of_pair(pair: Pair) -> Row:
    base, tuned = pair.before, pair.after
    return Row(
        tuned.id, pair.change, tuned.prompt, tuned.reference,
        (base.answer, tuned.answer),
        (judged(base.format, base.correct), judged(tuned.format, tuned.correct)),
    )  # fmt: skip


def _of_record(record: Record, root: Path, wanted: Look) -> View:
    manifest = record.manifest()
    sets = tuple(spec.name for spec in manifest.sets)
    before = manifest.reference
    others = tuple(found.name for found in manifest.subjects if found.name != before)
    set = wanted.set if wanted.set in sets else sets[0]
    after = wanted.after if wanted.after in others else next(iter(others), before)
    found = read_figures(record)
    return View(
        sets=sets,
        before=before,
        others=others,
        look=Look(set, after),
        rows=tuple(map(_of_ranked, worst.ranked(record, set, before, after))),
        judged_by=metric(found.main[set]).title if found and set in found.main else "",
        repaired=repair_rows(root),
        manifest=manifest,
        figures=found,
    )


def _of_ranked(found: Ranked) -> Row:
    before, after = found.before_score, found.after_score
    return Row(
        found.item.id, found.change, found.item.prompt, found.item.reference,
        (found.before.answer, found.after.answer),
        (scored(before, found.change in ("right", "broken")),
         scored(after, found.change in ("right", "fixed"))),
    )  # fmt: skip


def scored(score: RowScore, right: bool) -> str:
    """What the metrics say of one answer: a sign, its faults, and the figures of the row."""
    told = "✓ right" if right else "✗ wrong"
    if score.faults:
        told += ": " + "; ".join(score.faults)
    figures = [
        f"{entry.title} {shown(entry, value)}"
        for name, value in score.values.items()
        if (entry := metric(name)).kind != "share" and entry.better
    ]
    return " · ".join([told, *figures])


def judged(format: bool, correct: bool) -> str:
    """Form and correctness of one answer in words, with a sign."""
    if correct:
        return "✓ right"
    return "✗ wrong, form right" if format else "✗ wrong, form wrong"
