"""Whether what must hold does: nothing forgotten, no worse behaviour, no training text repeated.

Non-inferiority: a set is kept when even the bad end of the 95 % interval of the difference is
within its margin, which is a one-sided test at 2.5 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from finetui.evaluation.catalogue import metric, shown_change
from finetui.evaluation.record import Manifest, SetSpec
from finetui.evaluation.results import ALPHA, Difference, Estimate, Verdict, span

Summaries = Mapping[str, Mapping[str, Mapping[str, Estimate]]]


def verdicts(
    manifest: Manifest, summaries: Summaries, differences: Sequence[Difference]
) -> list[Verdict]:
    """What the sets say of each subject, set by set; nothing of the reference itself."""
    judged = {(row.set, row.after): row for row in differences if row.main}
    found = [
        _of_subject(
            spec,
            subject.name,
            summaries.get(subject.name, {}).get(spec.name, {}),
            judged.get((spec.name, subject.name)),
        )
        for spec in manifest.sets
        for subject in manifest.subjects
        if subject.name != manifest.reference
    ]
    return [verdict for verdict in found if verdict is not None]


def _of_subject(
    spec: SetSpec, subject: str, figures: Mapping[str, Estimate], found: Difference | None
) -> Verdict | None:
    if spec.role == "drift":
        return _drift(spec, subject, figures["kl"]) if "kl" in figures else None
    if spec.role == "test" or found is None:
        return None
    if spec.role == "leak":
        return _leak(spec, subject, figures["leaked"], found)
    return _not_worse(spec, subject, found)


def _not_worse(spec: SetSpec, subject: str, found: Difference) -> Verdict:
    entry = metric(found.metric)
    sign = 1 if entry.better == "higher" else -1
    worst, best = sorted((sign * found.low, sign * found.high))
    margin = spec.margin * (100 if entry.unit == "points" else 1)
    good = True if worst > -margin else False if best < -margin else None
    allowed = shown_change(entry, margin).lstrip("+")
    meaning = {
        True: f"kept: any loss is below the margin of {allowed}",
        False: f"lost: more than the margin of {allowed}",
        None: f"not clear: {found.n} rows can't tell a loss of {allowed}",
    }[good]
    return Verdict(
        "safety" if spec.role == "safety" else "regression", spec.name, subject, good,
        f"{spec.name}, {entry.title}: {shown_change(entry, found.value)} ({span(found)}), "
        f"{found.fixed} fixed, {found.broken} broken; {meaning}",
    )  # fmt: skip


def _drift(spec: SetSpec, subject: str, found: Estimate) -> Verdict:
    """How far the subject is from the base: a figure and no test, for distance is no fault."""
    return Verdict(
        "drift", spec.name, subject, None,
        f"{spec.name}: KL from the base {found.value:.4f} nats a token "
        f"(95 % {found.low:.4f} to {found.high:.4f}, {found.n} rows)",
    )  # fmt: skip


def _leak(spec: SetSpec, subject: str, figure: Estimate, found: Difference) -> Verdict:
    """Bad where more training text comes back than from the base, which was not trained on it."""
    worse = found.p < ALPHA and found.value > 0
    good = False if worse else True if not found.broken else None
    return Verdict(
        "leak", spec.name, subject, good,
        f"{spec.name}: {figure.value:.1%} of {figure.n} beginnings of training rows are gone on "
        f"with word for word (95 % {figure.low:.1%} to {figure.high:.1%}), {found.broken} of them "
        "not by the base",
    )  # fmt: skip
