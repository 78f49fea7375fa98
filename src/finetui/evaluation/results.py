"""What an evaluation found, as plain values: estimates, differences, verdicts."""

from __future__ import annotations

from typing import Literal

import msgspec

from finetui.evaluation.catalogue import metric, shown, shown_change
from finetui.evaluation.latency import Latency

ALPHA = 0.05
FORMAT = 1


class Estimate(msgspec.Struct, frozen=True):
    """One figure over ``n`` rows with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


class Difference(msgspec.Struct, frozen=True):
    """``after`` less ``before`` on the rows both answered, with a 95 % interval.

    ``was`` and ``now`` are the two figures on those rows. ``p`` is McNemar's exact or the
    bootstrap's, ``p_holm`` adjusted for all differences of this subject. ``fixed`` and ``broken``
    count the rows that became good and bad, for shares only. ``main``: what the set is judged by.
    """

    set: str
    metric: str
    before: str
    after: str
    was: float
    now: float
    value: float
    low: float
    high: float
    n: int
    p: float
    p_holm: float
    fixed: int = 0
    broken: int = 0
    main: bool = False
    sentence: str = ""

    @property
    def direction(self) -> Literal["better", "worse", "unclear", "same"]:
        """What the adjusted p-value allows to say; a metric without a better side is "unclear"."""
        if self.value == 0 and self.fixed == self.broken == 0:
            return "same"
        better = metric(self.metric).better
        if self.p_holm >= ALPHA or not better:
            return "unclear"
        return "better" if (self.value > 0) == (better == "higher") else "worse"


class Verdict(msgspec.Struct, frozen=True):
    """Whether something that must hold does: ``good`` is None where the data don't tell."""

    kind: Literal["regression", "safety", "drift", "leak"]
    set: str
    subject: str
    good: bool | None
    sentence: str


class Figures(msgspec.Struct, frozen=True):
    """``summaries[subject][set][metric]``; ``signatures`` say how a metric was taken."""

    summaries: dict[str, dict[str, dict[str, Estimate]]]
    differences: list[Difference]
    verdicts: list[Verdict]
    latency: list[Latency] = []
    main: dict[str, str] = {}
    unpaired: dict[str, dict[str, int]] = {}
    signatures: dict[str, str] = {}
    resamples: int = 0
    format: int = FORMAT

    def of_set(self, name: str, subject: str = "") -> list[Difference]:
        """The differences on one set, of one subject or of all."""
        return [
            found
            for found in self.differences
            if found.set == name and subject in ("", found.after)
        ]

    def difference(self, name: str, metric: str, after: str) -> Difference | None:
        return next((found for found in self.of_set(name, after) if found.metric == metric), None)


def sentence(found: Difference) -> str:
    """A difference in words: both figures, the change with its interval, and what it means."""
    entry = metric(found.metric)
    said = {"better": "better", "worse": "worse", "unclear": "no clear change",
            "same": "no row changed" if entry.kind == "share" else "the same"}  # fmt: skip
    rows = f", {found.fixed} fixed, {found.broken} broken" if entry.kind == "share" else ""
    return (
        f"{found.after} against {found.before} on {found.set}: {entry.title} "
        f"{shown(entry, found.was)} → {shown(entry, found.now)}, "
        f"{shown_change(entry, found.value)} ({span(found)}{rows}; "
        f"{said[found.direction]}, {p_text(found.p_holm)})"
    )


def span(found: Difference) -> str:
    """The interval of a difference in a sentence."""
    return f"95 % {interval_text(found)}"


def interval_text(found: Difference) -> str:
    """The interval of a difference as it is read, its unit once."""
    entry = metric(found.metric)
    low, unit = shown_change(entry, found.low).partition(" ")[::2]
    high = shown_change(entry, found.high).partition(" ")[0]
    return f"{low} to {high} {unit}".rstrip()


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
