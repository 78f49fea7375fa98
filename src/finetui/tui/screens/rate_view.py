"""What the Rate screen says while rating, and about the sessions; it never knows which model a
side is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textual.content import Content

from finetui.display import clean, moment, plural
from finetui.errors import UserError
from finetui.rating.audit import unsealing
from finetui.rating.session import Session, seal_strength
from finetui.rating.votes import Judgement, progress
from finetui.tui.screens import lines, train_view
from finetui.tui.widgets.table import TableRow, Tone

if TYPE_CHECKING:
    from finetui.rating.drafts import Draft
    from finetui.tui.lookout import JobLine

CONFIDENCE = {1: "unsure", 2: "fairly sure", 3: "sure"}
ANSWERS = {
    "L": "left is better",
    "R": "right is better",
    "G": "both good",
    "B": "both bad",
    "S": "cannot judge",
}

SHORT = {"L": "left", "R": "right", "G": "both good", "B": "both bad", "S": "cannot judge"}
PHASES = {"practice": "practice", "rating": "item", "guess": "last question", "end": "answered"}


def place(phase: str, number: int, total: int, saved: str) -> Content:
    """`item 12 of 60 · saved`: how far, and that the last key is on disk."""
    style = "$error" if saved.startswith("NOT") else "$success"
    words = f"{PHASES[phase]} {number} of {total}"
    return Content.assemble((words, "bold"), (" · ", "$muted"), (saved, style))


def heading(question: str, place: Content, width: int) -> Content:
    """The question on the left, the place on the right; the question gives way."""
    room = max(0, width - place.cell_length - 2)
    left = Content.styled(clean(question), "bold $accent").truncate(room, ellipsis=True)
    return Content.assemble(left, " " * max(2, width - left.cell_length - place.cell_length), place)


def noted(judgement: Judgement) -> list[Content]:
    """What is on disk about the item on screen."""
    parts: list[Content] = []
    if judgement.choice is not None:
        parts.append(Content.styled(f"your answer: {ANSWERS[judgement.choice]}", "$success"))
    if judgement.choice is None:
        asked = enumerate(judgement.criteria.values(), start=1)
        parts += [Content(f"{number}: {SHORT[choice]}") for number, choice in asked]
    if judgement.confidence:
        parts.append(Content(CONFIDENCE[judgement.confidence]))
    if judgement.recognised:
        parts.append(Content.styled("recognised", "$warning"))
    parts += [Content(clean(tag)) for tag in judgement.tags]
    if judgement.comment:
        parts.append(Content(f"comment: {clean(judgement.comment)}"))
    return parts


KEYS = "5 6 7 how sure · g tags · c comment · f recognised · ? all keys"


def marks(judgement: Judgement, ways: Sequence[str], note: str, due: str = "") -> Content:
    """The last thing to say about the item, or what is noted on it and the ``ways`` of looking
    that are on, or that a break is ``due``, or the keys for all that."""
    if note:
        return Content.styled(clean(note), "bold $warning")
    parts = [*noted(judgement), *(Content.styled(way, "$muted") for way in ways)]
    if due:
        parts.append(Content.assemble((due, "bold $warning"), " ", ("b", "bold $key")))
    if not parts:
        return Content.styled(KEYS, "$muted")
    return Content.styled(" · ", "$muted").join(parts)


# -- the list of sessions ------------------------------------------------------------------------


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
    about: tuple[tuple[str, str], ...] = ()
    """What was registered, and how far each rater is: label and words."""


_SESSION_SIGNS: dict[str, tuple[str, Tone]] = {
    "to seal": ("▢", "warning"),
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
        about=tuple(_about(session)),
    )


def _about(session: Session) -> list[tuple[str, str]]:
    manifest = session.manifest
    items = f"{plural(manifest.items, 'item')}, {manifest.systems} systems"
    if manifest.identical:
        items += f", {manifest.identical} identical (ties, not shown)"
    if manifest.excluded:
        items += f", {sum(manifest.excluded.values())} taken out before"
    return [
        ("question", session.question),
        ("items", items),
        ("stops", manifest.stop_rule),
        ("raters", " · ".join(_far(session, rater) for rater in session.raters)),
        ("sealed", f"{manifest.created[:16].replace('T', ' ')}, key {manifest.commitment[:16]}"),
        ("wall", seal_strength(session).sentence),
    ]


def _far(session: Session, rater: str) -> str:
    """How far a rater is; never what they answered."""
    try:
        done, total, closed = progress(session, rater)
    except UserError:
        return f"{rater}: not readable from this account"
    return f"{rater}: {'handed in' if closed else f'{done} of {total}'}"


def session_page(line: SessionLine) -> Content:
    """What is known of a session without opening its seal."""
    return lines.join([lines.pair(label, clean(words), 9) for label, words in line.about])


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


def draft_line(ratings: Path, draft: Draft) -> SessionLine:
    """Answers that wait for somebody to look at the findings and seal them."""
    raters = draft.registration.raters
    return SessionLine(
        path=ratings / draft.name,
        name=draft.name,
        done=0,
        total=0,
        state="to seal",
        sentence="enter shows what was found, then seals",
        question=draft.registration.question,
        created=moment(draft.created, "%Y-%m-%d"),
        about=(
            ("question", draft.registration.question),
            ("items", f"{plural(len(draft.items), 'item')}, {len(draft.systems)} systems"),
            ("raters", " · ".join(raters) or "this account"),
        ),
    )


def session_row(line: SessionLine) -> TableRow:
    """One line of the list."""
    sign, tone = _SESSION_SIGNS.get(line.state, ("·", ""))
    far = f"{line.done} of {line.total}" if line.total else ""
    cells = (f"{sign} {line.state}", line.name, far, line.created, line.sentence or line.question)
    return TableRow(cells, tone)
