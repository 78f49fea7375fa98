"""The figures of an evaluation: summaries, differences with intervals, verdicts.

Made from the scores alone, with the seed of the manifest, so the same record gives the same
figures. They are kept in figures.json, for screens to read in a moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import structs

from finetui.errors import BROKEN, UserError
from finetui.evaluation import catalogue, labels, latency, overlap, paired
from finetui.evaluation.catalogue import Metric, metric
from finetui.evaluation.metrics import mcnemar, wilson
from finetui.evaluation.record import Manifest, Record, RowScore, SetSpec
from finetui.evaluation.results import FORMAT, Difference, Estimate, Figures, sentence
from finetui.evaluation.scoring import main_metric
from finetui.evaluation.verdicts import verdicts
from finetui.workspace import write_atomic

# The same losses in other words: they are not tested a second time.
_RESTATED = {"perplexity": "loss", "bits_per_byte": "loss"}

# Read beside others: a difference of their own would only widen the family of tests.
_TOLD_ONLY = ("folded", "parses_unfenced", "kl")


def compute(record: Record) -> Figures:
    """Take all figures of a record. Seconds of work: not on a screen's own thread."""
    manifest = record.manifest()
    sets = {
        spec.name: _SetFigures(manifest, spec, _scores(record, manifest, spec))
        for spec in manifest.sets
    }
    for found in sets.values():
        found.draw()
    summaries: dict[str, dict[str, dict[str, Estimate]]] = {}
    for subject in manifest.subjects:
        for name, found in sets.items():
            if subject.name in found.scores:
                summaries.setdefault(subject.name, {})[name] = found.summary(subject.name)
    differences = [
        structs.replace(difference, sentence=sentence(difference))
        for subject in manifest.subjects
        for difference in _adjusted(
            [row for found in sets.values() for row in found.differences(subject.name)]
        )
    ]
    return Figures(
        summaries=summaries,
        differences=differences,
        verdicts=verdicts(manifest, summaries, differences),
        latency=latency.summarise(record.timings(), "base", manifest.seed, manifest.resamples),
        main={name: found.main for name, found in sets.items()},
        unpaired={name: left for name, found in sets.items() if (left := found.unpaired())},
        signatures=_signatures(record, manifest, summaries),
        resamples=manifest.resamples,
    )


def write(record: Record) -> Figures:
    """Take the figures and keep them in the record."""
    found = compute(record)
    write_atomic(record.figures_path, msgspec.json.encode(found) + b"\n")
    return found


def read(record: Record) -> Figures | None:
    """The figures that are kept, None where there are none. Raises UserError for a broken file."""
    try:
        found = msgspec.json.decode(record.figures_path.read_bytes(), type=Figures)
    except FileNotFoundError:
        return None
    except (OSError, *BROKEN) as error:
        raise UserError(f"cannot be read ({error}).", str(record.figures_path)) from error
    return found if found.format == FORMAT else None


def over_steps(
    manifest: Manifest, figures: Figures, name: str, metric: str
) -> list[tuple[int, Estimate]]:
    """A metric of a set over the steps of training: the base at step 0, then each checkpoint."""
    points = []
    for subject in manifest.subjects:
        estimate = figures.summaries.get(subject.name, {}).get(name, {}).get(metric)
        if estimate is not None and (subject.step or subject.kind == "base"):
            points.append((subject.step, estimate))
    return sorted(points, key=lambda point: point[0])


def main_sentence(figures: Figures, manifest: Manifest) -> str:
    """The main difference of the first set that has one, in words."""
    order = {spec.name: place for place, spec in enumerate(manifest.sets)}
    found = sorted((row for row in figures.differences if row.main), key=lambda row: order[row.set])
    if found:
        return found[0].sentence
    subjects, sets = len(manifest.subjects), len(manifest.sets)
    return f"{subjects} subject(s) answered {sets} set(s)"


@dataclass
class _SetFigures:
    """All that is needed of one set while its figures are taken."""

    manifest: Manifest
    spec: SetSpec
    scores: dict[str, dict[str, RowScore]]
    drawn: dict[tuple[tuple[str, ...], str, str], list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = [row for found in self.scores.values() for row in found.values()]
        self.metrics = [metric(name) for name in catalogue.present(rows)]
        self.main = main_metric(self.spec, [found.name for found in self.metrics])
        self.columns: dict[tuple[str, str], dict[str, Any]] = {
            (subject, found.name): column(found, scores.values())
            for subject, scores in self.scores.items()
            for found in self.metrics
        }

    def draw(self) -> None:
        """Bootstrap every figure that needs it, metrics of the same rows in one go."""
        groups: dict[tuple[str, ...], dict[tuple[str, str], Any]] = {}
        for (subject, name), rows in self.columns.items():
            found = metric(name)
            if found.kind == "share" or not rows:
                continue
            for ids in {self._own(subject, name), self._common(subject, name)} - {()}:
                for who in (subject, self.manifest.reference):
                    having = self.columns.get((who, name), {})
                    if having.keys() >= set(ids):
                        entry = (found.total, [having[id] for id in ids])
                        groups.setdefault(ids, {})[who, name] = entry
        for ids, columns in groups.items():
            figures = paired.bootstrap(columns, self.manifest.seed, self.manifest.resamples)
            for (who, name), values in figures.items():
                self.drawn[ids, who, name] = values

    def summary(self, subject: str) -> dict[str, Estimate]:
        found = {}
        for entry in self.metrics:
            rows = self.columns[subject, entry.name]
            if not rows:
                continue
            if entry.kind == "share":
                low, high = wilson(round(sum(rows.values())), len(rows))
            else:
                low, high = paired.interval(
                    self.drawn[self._own(subject, entry.name), subject, entry.name], len(rows)
                )
            value = entry.total(list(rows.values()))
            found[entry.name] = Estimate(value, low, high, len(rows))
        return found

    def differences(self, subject: str) -> list[Difference]:
        """What this subject has against the reference; [] for the reference itself."""
        if subject == self.manifest.reference or subject not in self.scores:
            return []
        return [
            self._difference(entry, subject, ids)
            for entry in self.metrics
            if entry.better
            and entry.stem not in _TOLD_ONLY
            and (ids := self._common(subject, entry.name))
        ]

    def unpaired(self) -> dict[str, int]:
        """Rows that only one of a subject and the reference answered, where there are any."""
        base = self.scores.get(self.manifest.reference, {})
        left = {
            subject: len(rows.keys() ^ base.keys()) for subject, rows in self.scores.items() if base
        }
        return {subject: count for subject, count in left.items() if count}

    def _difference(self, entry: Metric, subject: str, ids: tuple[str, ...]) -> Difference:
        before, after = (
            [self.columns[who, entry.name][id] for id in ids]
            for who in (self.manifest.reference, subject)
        )
        change = _share_change if entry.kind == "share" else self._drawn_change
        told = change(entry, subject, ids, before, after)
        was, now = entry.total(before), entry.total(after)
        return Difference(
            set=self.spec.name, metric=entry.name, before=self.manifest.reference,
            after=subject, was=was, now=now, value=now - was, n=len(ids),
            main=entry.name == self.main, **told,
        )  # fmt: skip

    def _drawn_change(
        self, entry: Metric, subject: str, ids: tuple[str, ...], *_: object
    ) -> dict[str, Any]:
        """Interval and p-value from figures that met the same draws."""
        once, now = (self.drawn[ids, who, entry.name] for who in (self.manifest.reference, subject))
        drawn = [after - before for before, after in zip(once, now, strict=True)]
        low, high = paired.interval(drawn, len(ids))
        p = paired.bootstrap_p(drawn, len(ids))
        return {"low": low, "high": high, "p": p, "p_holm": p}

    def _own(self, subject: str, name: str) -> tuple[str, ...]:
        return tuple(self.columns[subject, name])

    def _common(self, subject: str, name: str) -> tuple[str, ...]:
        base = self.columns.get((self.manifest.reference, name), {})
        return tuple(id for id in self.columns[subject, name] if id in base)


def _share_change(
    entry: Metric, subject: str, ids: tuple[str, ...], before: Any, after: Any
) -> dict[str, Any]:
    """Tango's interval and McNemar's p-value; what counts as fixed depends on the better side."""
    told = mcnemar([value > 0 for value in before], [value > 0 for value in after])
    low, high = paired.tango(told.fixed, told.broken, len(ids))
    fixed, broken = told.fixed, told.broken
    if entry.better == "lower":
        fixed, broken = broken, fixed
    return {"low": low, "high": high, "p": told.p, "p_holm": told.p,
            "fixed": fixed, "broken": broken}  # fmt: skip


def column(entry: Metric, scores: Iterable[RowScore]) -> dict[str, Any]:
    """What each row gives to a metric, by row id; labels as the references write them."""
    found = {score.id: value for score in scores if (value := entry.of_row(score)) is not None}
    if entry.stem == "macro_f1":
        return dict(zip(found, labels.matched(list(found.values())), strict=True))
    return found


def _scores(record: Record, manifest: Manifest, spec: SetSpec) -> dict[str, dict[str, RowScore]]:
    """Scores by subject and row id; a subject without scores on this set is left out."""
    found = {
        subject.name: {score.id: score for score in record.scores(subject.name, spec.name)}
        for subject in manifest.subjects
    }
    return {name: rows for name, rows in found.items() if rows}


def _adjusted(rows: Sequence[Difference]) -> list[Difference]:
    """The differences of one subject with Holm's p-values."""
    tested = [row for row in rows if row.metric not in _RESTATED]
    adjusted = paired.holm([row.p for row in tested])
    told = {(row.set, row.metric): p for row, p in zip(tested, adjusted, strict=True)}
    return [
        structs.replace(row, p_holm=told[row.set, _RESTATED.get(row.metric, row.metric)])
        for row in rows
    ]


def _signatures(
    record: Record,
    manifest: Manifest,
    summaries: Mapping[str, Mapping[str, Mapping[str, Estimate]]],
) -> dict[str, str]:
    found = {}
    for spec in manifest.sets:
        if any("bleu" in sets.get(spec.name, {}) for sets in summaries.values()):
            references = [item.reference for item in record.items(spec.name)]
            tokenizer = spec.tokenizer or overlap.tokenizer_for(references)
            found[f"{spec.name}/bleu"] = overlap.bleu_signature(tokenizer)
    return found
