"""What the Evaluate screen says: a comparison as lines of text and rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from textual.content import Content

from finetui.tui import figures
from finetui.tui.screens import lines
from finetui.tui.widgets.table import TableRow, Tone

if TYPE_CHECKING:
    from finetui.evaluation.compare import Comparison, Pair
    from finetui.evaluation.metrics import Paired

CHANGES = ("broken", "wrong", "fixed", "right")
"""What can have happened to a row, worst first."""

_SIGNS: dict[str, tuple[str, Tone]] = {
    "broken": ("✗ broken", "error"),
    "wrong": ("! wrong", "warning"),
    "fixed": ("+ fixed", "good"),
    "right": ("· right", "muted"),
}
_BAR = 10


def scores(title: str, comparison: Comparison, width: int) -> list[Content]:
    """Form and correctness of base and tuned model with their 95 % intervals, and the test."""
    n = int(comparison.after["n"])
    head = Content.assemble(
        (f"{title} · {n:,} rows", "bold"),
        (f" · {comparison.unpaired} unpaired" if comparison.unpaired else "", "$warning"),
    )
    wide = width >= 92
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


def _changes(paired: Paired) -> Content:
    fixed, broken = paired.fixed, paired.broken
    return Content.assemble(
        (f"{fixed:,} fixed", "$success" if fixed else "$muted"),
        (" · ", "$muted"),
        (f"{broken:,} broken", "bold $error" if broken else "$muted"),
    )


def _meaning(paired: Paired) -> str:
    if paired.fixed + paired.broken == 0:
        return "no row changed"
    p = "p < 0.001" if paired.p < 0.001 else f"p = {paired.p:.2g}"
    if paired.p >= 0.05:
        return f"no clear change ({p})"
    return f"{'better' if paired.fixed > paired.broken else 'worse'} ({p})"


def row(pair: Pair, repaired: bool) -> TableRow:
    """One line of the table: what happened, where the row is, question and answers."""
    sign, tone = _SIGNS[pair.change]
    return TableRow(
        (
            sign,
            "→" if repaired else "",
            last_user(pair.after.prompt),
            pair.before.answer,
            pair.after.answer,
        ),
        tone,
    )


def last_user(prompt: Sequence[dict[str, Any]]) -> str:
    """The text of the last user turn: what was asked."""
    for turn in reversed(prompt):
        if turn.get("role") == "user":
            return str(turn.get("content") or "")
    return ""


def answer_text(answer: str, score: str) -> Content:
    """An answer under what the scoring says of it."""
    return Content.assemble((score + "\n", "$muted"), lines.answer(answer))


def judged(format: bool, correct: bool) -> str:
    """Form and correctness of one answer in words, with a sign."""
    if correct:
        return "✓ right"
    return "✗ wrong, form right" if format else "✗ wrong, form wrong"
