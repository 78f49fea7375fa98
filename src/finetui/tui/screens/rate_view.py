"""What the Rate screen says: places, marks, pages and the report as lines of text.

Nothing before the report knows which model a side is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textual.content import Content

from finetui.display import clean, plural
from finetui.rating.audit import unsealing
from finetui.rating.session import Session
from finetui.rating.votes import Judgement, progress
from finetui.tui import figures
from finetui.tui.screens import lines, train_view
from finetui.tui.widgets.table import TableRow, Tone

if TYPE_CHECKING:
    from finetui.rating.analysis import Report
    from finetui.tui.lookout import JobLine

CONFIDENCE = {1: "unsure", 2: "fairly sure", 3: "sure"}
ANSWERS = {
    "L": "left is better",
    "R": "right is better",
    "G": "both good",
    "B": "both bad",
    "S": "cannot judge",
}
BREAK_ITEMS = 20
"""Answers in a row after which a break is suggested."""


def place(position: tuple[int, int], saved: str) -> Content:
    """`item 12 of 60 · saved`: how far, and that the last key is on disk."""
    number, total = position
    style = "$error" if saved.startswith("NOT") else "$success"
    return Content.assemble(
        (f"item {number} of {total}", "bold"), (" · ", "$muted"), (saved, style)
    )


def heading(question: str, position: tuple[int, int], saved: str, width: int) -> Content:
    """The question on the left, the place on the right; the question gives way."""
    right = place(position, saved)
    room = max(0, width - right.cell_length - 2)
    left = Content.styled(clean(question), "bold $accent").truncate(room, ellipsis=True)
    return Content.assemble(left, " " * max(2, width - left.cell_length - right.cell_length), right)


def marks(judgement: Judgement, locked: bool, note: str) -> Content:
    """What is noted on this item so far, and the last thing to say about it."""
    if note:
        return Content.styled(clean(note), "bold $warning")
    parts: list[Content] = []
    if judgement.choice is not None:
        parts.append(Content.styled(f"your answer: {ANSWERS[judgement.choice]}", "$success"))
    if judgement.confidence:
        parts.append(Content(CONFIDENCE[judgement.confidence]))
    if judgement.recognised:
        parts.append(Content.styled("recognised", "$warning"))
    if judgement.comment:
        parts.append(Content(f"comment: {clean(judgement.comment)}"))
    if locked:
        parts.append(Content.styled("both scroll together", "$muted"))
    if not parts:
        return Content.styled(
            "c comment · 5 6 7 how sure · f recognised · tab other pane", "$muted"
        )
    return Content.styled(" · ", "$muted").join(parts)


def pause_page() -> Content:
    """Shown instead of a pair during a break."""
    return lines.join(
        [
            Content.styled("A break", "bold $accent"),
            Content(""),
            Content("Every answer so far is on disk. The time of a break is not counted."),
            Content(""),
            Content.assemble(("b", "bold $key"), " goes on   ", ("q", "bold $key"), " leaves"),
        ]
    )


def end_page(answered: int, total: int, closed: bool, receipt: str, blind: str) -> Content:
    """Shown when every item has an answer: hand in, go back, or leave; then the receipt."""
    done = f"{answered} of {plural(total, 'item')} answered, all on disk."
    if closed:
        told = [
            Content.styled("Handed in. Thank you.", "bold $success"),
            Content(""),
            Content(done),
        ]
        if receipt:
            note = "It proves later that nothing was changed. Note it down."
            told += [Content.assemble("Receipt  ", (clean(receipt[:16]), "bold"))]
            told += [Content.styled(note, "$muted")]
        return lines.join([*told, Content(""), Content.assemble(("q", "bold $key"), " leaves")])
    return lines.join(
        [
            Content.styled("That was the last one.", "bold $accent"),
            Content(""),
            Content(done),
            Content.styled(blind, "$muted"),
            Content(""),
            Content.assemble(
                ("H", "bold $key"), " hands in for good   ",
                ("backspace", "bold $key"), " back to the last answer   ",
                ("q", "bold $key"), " leaves, to look again later",
            ),
        ]
    )  # fmt: skip


# -- the list and the report ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SessionLine:
    """One session, or one that is being prepared, as the list shows it."""

    path: Path
    name: str
    done: int
    total: int
    state: str
    sentence: str
    question: str
    created: str


_SESSION_SIGNS: dict[str, tuple[str, Tone]] = {
    "preparing": ("◌", "info"),
    "open": ("○", ""),
    "begun": ("◐", "warning"),
    "answered": ("●", "good"),
    "handed in": ("✓", "good"),
    "unsealed": ("◇", "muted"),
    "failed": ("✗", "error"),
    "not yours": ("·", "muted"),
}


def session_line(session: Session, rater: str) -> SessionLine:
    """How far this rater is, and whether the sides are known by now. Reads votes and the log."""
    done, total, closed = 0, 0, False
    sentence = ""
    if rater in session.raters:
        done, total, closed = progress(session, rater)
        state = "handed in" if closed else _by_progress(done, total)
    else:
        state = "not yours"
        sentence = f"raters: {', '.join(session.raters)}"
    opened = unsealing(session)
    if opened is not None:
        state, sentence = "unsealed", f"by {opened.who}: {opened.reason}"
    return SessionLine(
        path=session.path,
        name=session.name,
        done=done,
        total=total,
        state=state,
        sentence=sentence or _NEXT.get(state, ""),
        question=session.question,
        created=session.manifest.created[:10],
    )


_NEXT = {
    "open": "enter begins",
    "begun": "enter goes on where you left",
    "answered": "enter, then H hands in",
    "handed in": "R opens the seal and reports",
}


def _by_progress(done: int, total: int) -> str:
    if done >= total:
        return "answered"
    return "begun" if done else "open"


def preparing_line(job: JobLine) -> SessionLine:
    """A session whose answers are still being generated, or could not be."""
    failed = job.state not in train_view.LIVE
    return SessionLine(
        path=job.path,
        name=job.slug,
        done=0,
        total=0,
        state="failed" if failed else "preparing",
        sentence=job.sentence,
        question="",
        created="",
    )


def session_row(line: SessionLine) -> TableRow:
    """One line of the list."""
    sign, tone = _SESSION_SIGNS.get(line.state, ("·", ""))
    far = f"{line.done} of {line.total}" if line.total else ""
    cells = (f"{sign} {line.state}", line.name, far, line.created, line.sentence or line.question)
    return TableRow(cells, tone)


def share_bar(share: float, low: float, high: float, width: int) -> Content:
    """A win share and its interval on a line from 0 to 100 %, the middle marked."""
    width = max(11, width | 1)
    if not math.isfinite(share):
        return Content.styled("no result", "$muted")
    cells = ["─"] * width
    spot = [round(min(1.0, max(0.0, value)) * (width - 1)) for value in (low, share, high)]
    for place in range(spot[0], spot[2] + 1):
        cells[place] = "━"
    cells[width // 2] = "╋" if spot[0] <= width // 2 <= spot[2] else "┼"
    cells[spot[1]] = "●"
    text = Content("".join(cells)).stylize("$line")
    text = text.stylize("$series-2", spot[0], spot[2] + 1)
    return text.stylize("bold $foreground", spot[1], spot[1] + 1)


def report_head(report: Report, width: int) -> Content:
    """The verdict, and the win share as a picture."""
    reference, candidate = (clean(name) for name in report.systems)
    low, high = report.share_interval
    bar = share_bar(report.share, low, high, min(61, width - len(reference) - len(candidate) - 4))
    span = f"{figures.percent(report.share)} ({low * 100:.0f} to {high * 100:.0f})"
    if not math.isfinite(report.share):
        span = figures.UNKNOWN
    return lines.join(
        [
            Content.styled(clean(report.question), "$muted"),
            Content.styled(clean(report.verdict), "bold $accent"),
            Content(""),
            Content.assemble((f"{reference}  ", "$muted"), bar, (f"  {candidate}", "$muted")),
            Content.assemble((f"win share of {candidate}: ", "$muted"), (span, "bold")),
        ]
    )


def report_body(text: str) -> Content:
    """The report's own text, without what the head and the picture above it have said."""
    parts = text.split("\n\n")
    told = next((i for i, part in enumerate(parts) if part.startswith("  ")), 0)
    rows: list[Content] = []
    for part in parts[told:]:
        if not part.startswith("Answers\n"):
            rows += [*(_report_line(line) for line in part.splitlines()), Content("")]
    return lines.join(rows)


def _report_line(line: str) -> Content:
    """Headings bold, the one of the problems in its colour."""
    if line == "PROBLEMS":
        return Content.styled(line, "bold $error")
    return Content.styled(clean(line), "bold" if line.isalpha() else "")


def answer_counts(report: Report) -> list[tuple[str, int]]:
    """The bars of the picture: answers by kind."""
    reference, candidate = (clean(name) for name in report.systems)
    tally = report.tally
    return [
        (f"{candidate} better", tally.wins),
        (f"{reference} better", tally.losses),
        ("both good", tally.ties_good),
        ("both bad", tally.ties_bad),
        ("cannot judge", tally.skips),
    ]
