"""What the Evaluate screen says: a comparison as lines of text and rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.content import Content

from finetui.display import clean
from finetui.evaluation.catalogue import Metric, metric, shown, shown_change
from finetui.evaluation.results import ALPHA, Difference, Estimate, Verdict, p_text
from finetui.tui import figures
from finetui.tui.screens import lines
from finetui.tui.screens.evaluate_rows import RUN_SETS, Row, View
from finetui.tui.widgets.table import TableRow, Tone, fit_cell

if TYPE_CHECKING:
    from finetui.evaluation.compare import Comparison
    from finetui.evaluation.labels import Confusion
    from finetui.evaluation.latency import Latency
    from finetui.evaluation.metrics import Paired
    from finetui.evaluation.slices import Slice

_SIGNS: dict[str, tuple[str, Tone]] = {
    "broken": ("✗ broken", "error"),
    "wrong": ("! wrong", "warning"),
    "fixed": ("+ fixed", "good"),
    "right": ("· right", "muted"),
}
_DIRECTIONS: dict[str, tuple[str, Tone]] = {
    "better": ("+", "good"),
    "worse": ("✗", "error"),
    "unclear": ("?", "muted"),
    "same": ("·", "muted"),
}
_VERDICTS = {True: ("✓", "$success"), False: ("✗", "bold $error"), None: ("?", "$warning")}
_BAR = 10
_FIGURES = 3
"""How many figures of a set the head of the screen shows; all of them are on their own page."""
_WIDE = 92


# -- a training run: base against tuned ----------------------------------------------------------


def run_scores(view: View, width: int, low: bool) -> list[Content]:
    """The scores of all sets that a training run answered before and after."""
    told = []
    for name, comparison in view.comparisons.items():
        title = RUN_SETS[name]
        told += brief_scores(title, comparison) if low else scores(title, comparison, width)
    return told


def scores(title: str, comparison: Comparison, width: int) -> list[Content]:
    """Form and correctness of base and tuned model with their 95 % intervals, and the test."""
    n = int(comparison.after["n"])
    head = Content.assemble(
        (f"{title} · {n:,} rows", "bold"),
        (f" · {comparison.unpaired} unpaired" if comparison.unpaired else "", "$warning"),
    )
    wide = width >= _WIDE
    return [
        head,
        _score_line("right form", "format", comparison, wide),
        _score_line("right answer", "accuracy", comparison, wide),
        Content.assemble("  ", verdict(comparison.paired)),
    ]


def brief_scores(title: str, comparison: Comparison) -> list[Content]:
    """The same in two lines, for a low screen."""
    before, after = comparison.before, comparison.after
    head = Content.assemble(
        (f"{title} · {int(after['n']):,} rows  ", "bold"), _changes(comparison.paired)
    )
    parts: list[Content] = [Content.styled(f"  {_meaning(comparison.paired)}", "")]
    for label, key in (("form", "format"), ("right", "accuracy")):
        parts.append(Content.styled(f"   {label} ", "$muted"))
        parts.append(Content(f"{figures.percent(before[key])} → "))
        parts.append(Content.styled(figures.percent(after[key]), "bold"))
    low, high = after["accuracy_low"] * 100, after["accuracy_high"] * 100
    parts.append(Content.styled(f" ({low:.0f} to {high:.0f})", "$muted"))
    return [head, Content.assemble(*parts)]


def _score_line(label: str, key: str, comparison: Comparison, wide: bool) -> Content:
    parts: list[Content] = [Content.styled(f"  {label:<13}", "$muted")]
    for name, side in (("base", comparison.before), ("tuned", comparison.after)):
        style = "$series-1" if name == "base" else "$series-2"
        if wide:
            parts += [lines.bar(side[key], _BAR, style), Content(" ")]
        interval = f"({side[key + '_low'] * 100:.0f} to {side[key + '_high'] * 100:.0f})"
        parts.append(Content.styled(f"{name} ", "$muted"))
        parts.append(Content.styled(f"{figures.percent(side[key]):>5} ", "bold"))
        parts.append(Content.styled(f"{interval:<13}", "$muted"))
    return Content.assemble(*parts)


def verdict(paired: Paired) -> Content:
    """What the paired test says, in words."""
    rest = f" · {paired.both_right:,} right both times · {paired.both_wrong:,} wrong both times"
    return Content.assemble(f"{_meaning(paired)}: ", _changes(paired), (rest, "$muted"))


def _changes(paired: Paired | Difference) -> Content:
    fixed, broken = paired.fixed, paired.broken
    return Content.assemble(
        (f"{fixed:,} fixed", "$success" if fixed else "$muted"),
        (" · ", "$muted"),
        (f"{broken:,} broken", "bold $error" if broken else "$muted"),
    )


def _meaning(paired: Paired) -> str:
    if paired.fixed + paired.broken == 0:
        return "no row changed"
    if paired.p >= 0.05:
        return f"no clear change ({p_text(paired.p)})"
    return f"{'better' if paired.fixed > paired.broken else 'worse'} ({p_text(paired.p)})"


# -- an evaluation -------------------------------------------------------------------------------


def record_scores(view: View, width: int, low: bool) -> list[Content]:
    """The main figures of the set on screen, and what must hold on the other sets."""
    assert view.figures is not None
    found = view.figures.of_set(view.look.set, view.look.after)
    told = [_head(view, found)]
    told += [
        _difference_line(one, width >= _WIDE) for one in _chief(found)[: 1 if low else _FIGURES]
    ]
    if not found:
        told += _alone(view)[: 1 if low else _FIGURES]
    holds = [one for one in view.figures.verdicts if one.subject == view.look.after]
    if low:
        return [*told, _holds(holds)] if holds else told
    return [*told, *(_verdict_line(one) for one in holds)]


def _chief(found: Sequence[Difference]) -> list[Difference]:
    """The main difference, then one of each other metric, whatever fields it is taken of."""
    first: dict[str, Difference] = {}
    for one in sorted(found, key=lambda one: not one.main):
        first.setdefault(metric(one.metric).stem, one)
    return list(first.values())


def _head(view: View, found: Sequence[Difference]) -> Content:
    main = next((one for one in found if one.main), None)
    n = main.n if main else len(view.rows)
    parts: list[Content | tuple[str, str]] = [(f"{clean(view.look.set)} · {n:,} rows  ", "bold")]
    if main is not None and main.fixed + main.broken:
        parts.append(_changes(main))
    left = view.figures.unpaired.get(view.look.set, {}) if view.figures else {}
    if left.get(view.look.after):
        parts.append((f" · {left[view.look.after]} unpaired", "$warning"))
    return Content.assemble(*parts)


def _difference_line(one: Difference, wide: bool) -> Content:
    """Both figures, the change with its interval, and what it means, in one line."""
    entry = metric(one.metric)
    sign, tone = _DIRECTIONS[one.direction]
    words = {"better": "better", "worse": "worse", "unclear": "no clear change",
             "same": "the same"}[one.direction]  # fmt: skip
    style = {"good": "$success", "error": "bold $error"}.get(tone, "$muted")
    room = 24 if wide else 20
    title = fit_cell(entry.title, room)
    parts: list[Content | tuple[str, str]] = [
        ("  ", ""), (f"{sign} ", style), (f"{title} ", "$muted"),
        (f"{shown(entry, one.was)} → ", ""), (shown(entry, one.now), "bold"),
        (f"  {shown_change(entry, one.value)}", "bold"),
        (f" ({_bare_span(entry, one.low, one.high)})", "$muted"),
    ]  # fmt: skip
    if wide:
        parts.append((f"  {words}, {p_text(one.p_holm)}", style))
    return Content.assemble(*parts)


def _alone(view: View) -> list[Content]:
    """Figures where nobody can be compared: one subject, or figures without a better side."""
    assert view.figures is not None
    sets = view.figures.summaries.get(view.look.after, {})
    return [
        Content.assemble(
            (f"    {metric(name).title:<22} ", "$muted"),
            (shown(metric(name), estimate.value), "bold"),
            (f" ({shown(metric(name), estimate.low)} to {shown(metric(name), estimate.high)})",
             "$muted"),
        )
        for name, estimate in sets.get(view.look.set, {}).items()
    ]  # fmt: skip


def _verdict_line(one: Verdict) -> Content:
    sign, style = _sign(one)
    return Content.assemble((f"{sign} ", style), (clean(one.sentence), ""))


def _sign(one: Verdict) -> tuple[str, str]:
    """Drift is a figure to know, no promise that can be broken."""
    return ("·", "$muted") if one.kind == "drift" else _VERDICTS[one.good]


def _holds(found: Sequence[Verdict]) -> Content:
    """All verdicts in one line: a sign and the set."""
    parts: list[tuple[str, str]] = [("  ", "")]
    for one in sorted(found, key=lambda verdict: (verdict.good is not False, verdict.good is True)):
        sign, style = _sign(one)
        parts += [(f"{sign} ", style), (f"{clean(one.set)} ({one.kind})   ", "$muted")]
    return Content.assemble(*parts)


def _bare_span(entry: Metric, low: float, high: float) -> str:
    """An interval without its unit, which stands before it."""
    return f"{shown_change(entry, low)} to {shown_change(entry, high)}".replace(" pp", "")


def _change(entry: Metric, value: float, low: float, high: float) -> str:
    return f"{shown_change(entry, value)} ({_bare_span(entry, low, high)})"


# -- rows of tables ------------------------------------------------------------------------------


def difference_row(one: Difference) -> TableRow:
    """A difference as the page of figures lists it; the main one of its set is marked."""
    sign, tone = _DIRECTIONS[one.direction]
    entry = metric(one.metric)
    cells = (
        sign, f"{'▸ ' if one.main else ''}{entry.title}", shown(entry, one.was),
        shown(entry, one.now), _change(entry, one.value, one.low, one.high),
        p_text(one.p_holm).removeprefix("p = ").removeprefix("p "), figures.count(one.n),
    )  # fmt: skip
    return TableRow(cells, tone)


def figure_row(name: str, before: Estimate | None, after: Estimate | None) -> TableRow:
    """A figure that is compared with nobody's: only one side has it, or neither way is better."""
    entry = metric(name)
    values = [
        figures.UNKNOWN if one is None else shown(entry, one.value) for one in (before, after)
    ]
    told = after or before
    span = f"({shown(entry, told.low)} to {shown(entry, told.high)})" if told else ""
    return TableRow(
        ("·", entry.title, *values, span, "", figures.count(told.n if told else None)), "muted"
    )


def slice_row(name: str, one: Slice) -> TableRow:
    """A slice by a metric, with the difference inside it; coloured when its p-value allows."""
    entry = metric(name)
    tone: Tone = "muted"
    if one.p < ALPHA:
        tone = "good" if (one.difference > 0) == (entry.better == "higher") else "error"
    sign = {"good": "+", "error": "✗"}.get(tone, "·")
    cells = (
        sign, one.value, shown(entry, one.before), shown(entry, one.after),
        _change(entry, one.difference, one.low, one.high), figures.count(one.n), one.column,
    )  # fmt: skip
    return TableRow(cells, tone)


def speed_row(one: Latency) -> TableRow:
    """One way to run the model: how soon and how fast it answers."""
    pace = "reference"
    if one.ratio is not None and one.low is not None and one.high is not None:
        pace = f"{one.ratio:.2f}× ({one.low:.2f}–{one.high:.2f})"
    peak = figures.size(one.peak_bytes) if one.peak_bytes else figures.UNKNOWN
    cells = (one.condition, f"{one.first * 1000:.0f} ms", f"{one.tokens_per_s:.1f}", pace, peak)
    return TableRow(cells)


def confusion(found: Confusion, width: int) -> Content:
    """The table: wanted down, given across; right ones on the diagonal, mistakes in colour.

    Labels are cut so that all columns fit; where they can't, the most frequent mistakes are listed.
    """
    head = max((len(label) for label in found.wanted), default=4)
    head = min(head, max(6, width // 4))
    cell = (width - head) // max(1, len(found.given))
    if cell < 5:
        return _mistakes(found, width)
    cell = min(cell, 14)
    titles = "".join("  " + fit_cell(label, cell - 2, "right") for label in found.given)
    told = [Content.styled(f"{'wanted':<{head}}{titles}", "$muted")]
    for wanted in found.wanted:
        parts: list[tuple[str, str]] = [(fit_cell(wanted, head), "")]
        for given in found.given:
            count = found.table[wanted][given]
            style = "bold $success" if given == wanted else "bold $error"
            parts.append((f"{count or '·':>{cell}}", style if count else "$muted"))
        told.append(Content.assemble(*parts))
    return lines.join(told)


def _mistakes(found: Confusion, width: int) -> Content:
    if not found.worst:
        return Content.styled("no mistakes", "$muted")
    return lines.join(
        Content(f"{count:>5}  {clean(wanted)} → {clean(given)}"[:width])
        for wanted, given, count in found.worst
        if count
    )


def row(row: Row, repaired: bool) -> TableRow:
    """One line of the table: what happened, where the row is, question and answers."""
    sign, tone = _SIGNS[row.change]
    return TableRow((sign, "→" if repaired else "", row.asked, *row.answers), tone)


def answer_text(answer: str, score: str) -> Content:
    """An answer under what the scoring says of it."""
    return Content.assemble((clean(score) + "\n", "$muted"), lines.answer(answer))
