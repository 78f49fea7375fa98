"""Going on with a run that ended early: what would come back and what differs, then the start."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.content import Content
from textual.message import Message

from finetui.display import clean, plural
from finetui.errors import UserError
from finetui.jobs.folder import Job
from finetui.jobs.series import SeriesBuilder
from finetui.resuming import Difference, ResumePreview, preview, resume
from finetui.tui import figures
from finetui.tui.actions import Action, register
from finetui.tui.screens import lines
from finetui.tui.screens.page import Page
from finetui.tui.widgets.chart import BrailleChart
from finetui.tui.widgets.dialogs import Confirm, TextPrompt
from finetui.tui.widgets.drawing import Line, Mark
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import Column, ListSource, TableRow, Tone, VirtualTable
from finetui.tui.widgets.textpanel import TextPanel
from finetui.workspace import Workspace

COLUMNS = (
    Column("", 1, tone=True),
    Column("what", weight=1.4, low=14),
    Column("at the checkpoint", weight=1.5, low=16),
    Column("now", weight=1.5, low=16),
)
_SIGNS: dict[str, tuple[str, Tone]] = {
    "error": ("✗", "error"),
    "warning": ("!", "warning"),
    "note": ("·", "muted"),
}
_ACCEPT = "Losses and order will not be those of one unbroken run. What differs:"
_TAKEOVER = "Nobody here can tell whether it still works elsewhere, and two would be one too many."
_ANEW = "No checkpoint is left. What it learned so far is lost; its curves stay to be looked at."
_LABEL = 10

Question = tuple[str, str, str, str]
"""What is agreed to, the question, what it means, and the yes."""


@dataclass
class Previewed(Message):
    """What resuming with some changes would do, or why that cannot be said."""

    preview: ResumePreview | None
    changes: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass
class Resumed(Message):
    """The attempt that was started, or why none was."""

    attempt: int | None
    error: str = ""


class ResumePage(Page["int | None"]):
    """Dismisses with the number of the attempt that was started, or None."""

    PARTS = ("differences", "rates")
    KEYS = "y resume · c change a setting · tab next part · esc cancel"
    BINDINGS: ClassVar = register(
        Action("resume.go", "y", "resume", "Go on from this checkpoint.", show=True, writes=True),
        Action("resume.change", "c", "change", "Go on with another value of a recipe field.",
               show=True),
    )  # fmt: skip
    DEFAULT_CSS = """
    ResumePage #facts { height: auto; max-height: 12; padding: 0 1; }
    ResumePage #rates { height: 1fr; min-height: 6; }
    ResumePage.-short .part { display: block; }
    ResumePage.-short .part.-here { height: auto; }
    ResumePage.-short #rates, ResumePage.-short #rates.-here { height: 1fr; }
    """

    def __init__(self, workspace: Workspace, job: Job) -> None:
        super().__init__(f"resume {job.slug}")
        self.workspace, self.job = workspace, job
        self.found: ResumePreview | None = None
        self.changes: dict[str, str] = {}
        self._starting = False

    def body(self) -> ComposeResult:
        yield TextPanel(id="facts")
        yield VirtualTable(COLUMNS, id="differences", classes="panel", empty="comparing…")
        plain = self.app.settings.ascii  # type: ignore[attr-defined]
        rate = Line("rate", "$series-1")
        yield BrailleChart("learning rate that is left", [rate], ascii=plain, smoothed=False,
                           low=0.0, id="rates")  # fmt: skip

    def on_mount(self) -> None:
        self.query_one("#facts", TextPanel).show(Content.styled("looking…", "$muted"))
        entitle(self.query_one("#differences"), "what differs from the checkpoint")
        self._preview(self.changes)

    def on_resize(self) -> None:
        self.call_after_refresh(self._tell)
        self._share_room()

    # -- the preview -------------------------------------------------------------------------

    @work(thread=True, group="preview", exit_on_error=False)
    def _preview(self, changes: Mapping[str, str]) -> None:
        try:
            found = preview(self.workspace, self.job, changes=changes)
            self.post_message(Previewed(found, changes))
        except UserError as error:
            self.post_message(Previewed(None, error=str(error)))

    @on(Previewed)
    def _previewed(self, message: Previewed) -> None:
        if message.preview is None:
            self.say(message.error, "error")
            if self.found is None:
                self.dismiss(None)
            return
        self.found, self.changes = message.preview, dict(message.changes)
        self._tell()
        table = self.query_one("#differences", VirtualTable)
        table.empty = "nothing: it goes on as if it had never ended"
        table.show(ListSource([difference_row(one) for one in self.found.differences]))
        self._share_room()
        self._draw(self.found)

    def _tell(self) -> None:
        if self.found is not None:
            panel = self.query_one("#facts", TextPanel)
            panel.show(preview_text(self.found, self.changes, panel.content_size.width or 60))

    def _share_room(self) -> None:
        """The differences get what they need, up to a third; the curve has the rest."""
        count = len(self.found.differences) if self.found is not None else 0
        most = max(5, self.size.height // 3)
        self.query_one("#differences").styles.height = min(most, max(1, count) + 3)

    def _draw(self, found: ResumePreview) -> None:
        curve = SeriesBuilder()
        for step, rate in found.rates:
            curve.append(step, rate)
        chart = self.query_one("#rates", BrailleChart)
        here = Mark(float(found.step), "▴", "muted", f"goes on at step {found.step:,}", "^")
        if found.rates:
            first, last = found.rates[0][1], found.rates[-1][1]
            words = f"learning rate that is left: {figures.number(first)} to {figures.number(last)}"
            entitle(chart, words)
        chart.show_together({"rate": curve.view()}, float(found.total or 0) or None, (here,))

    # -- changes -----------------------------------------------------------------------------

    def action_change(self) -> None:
        typed = " ".join(f"{name}={shlex.quote(text)}" for name, text in self.changes.items())
        hint = ("Recipe fields for the rest of the run: training.epochs=3 training.batch_size=8. "
                "Kept with the attempt; empty takes all changes back.")  # fmt: skip
        self.app.push_screen(
            TextPrompt(f"change for the rest of {self.job.slug}", typed, hint, _fault_of),
            self._changed,
        )

    def _changed(self, typed: str | None) -> None:
        if typed is not None:
            self._preview(_changes_of(typed))

    # -- the start ---------------------------------------------------------------------------

    def action_go(self) -> None:
        if self.found is None or self._starting:
            return
        if self.found.problem and self.found.state != "unknown":
            self.say(f"It cannot be resumed: {self.found.problem}.", "warning")
        else:
            self._ask(_questions(self.found), {})

    def _ask(self, questions: Sequence[Question], agreed: dict[str, bool]) -> None:
        """One question after the other; the start when all were answered with yes."""
        if not questions:
            self._begin(**agreed)
            return
        name, title, detail, yes = questions[0]
        self.app.push_screen(
            Confirm(title, detail, yes, danger=True),
            lambda sure: self._ask(questions[1:], agreed | {name: True}) if sure else None,
        )

    def _begin(self, accept: bool = False, takeover: bool = False, anew: bool = False) -> None:
        """``anew`` only says that the person knows it begins at step 0."""
        self._starting = True
        self.say("Starting…")
        self._resume(accept, takeover)

    @work(thread=True, group="resume", exit_on_error=False)
    def _resume(self, accept: bool, takeover: bool) -> None:
        try:
            attempt = resume(self.workspace, self.job, changes=self.changes, accept=accept,
                             takeover=takeover)  # fmt: skip
            self.post_message(Resumed(attempt))
        except UserError as error:
            self.post_message(Resumed(None, str(error)))

    @on(Resumed)
    def _resumed(self, message: Resumed) -> None:
        self._starting = False
        if message.attempt is None:
            self.say(message.error, "error")
        else:
            self.dismiss(message.attempt)


def _questions(found: ResumePreview) -> list[Question]:
    """What a person must say yes to first."""
    asked = []
    if found.state == "unknown":
        asked.append(("takeover", "Take the run over?", _TAKEOVER, "it is dead, resume"))
    if found.path is None:
        asked.append(("anew", "Begin again at step 0?", _ANEW, "begin again"))
    if found.errors:
        told = "\n".join(f"✗ {one.what}: {one.then} → {one.now}" for one in found.errors)
        asked.append(("accept", "Resume all the same?", f"{_ACCEPT}\n\n{told}", "resume"))
    return asked


def preview_text(found: ResumePreview, changes: Mapping[str, str], width: int) -> Content:
    """Where the run goes on, what is made again, what was changed, and what stands against it."""
    told = []
    if found.path is None:
        told.append(Content.styled("No checkpoint is left: it begins again at step 0.", "$warning"))
    else:
        of = f" of {found.total:,}" if found.total else ""
        saved = f", saved {figures.day(found.t)}" if found.t else ""
        told.append(lines.pair("goes on", f"after step {found.step:,}{of}{saved}", _LABEL))
        told.append(lines.pair("from", clean(found.path.name), _LABEL))
    if found.left is not None:
        left = plural(found.left, "step")
        again = f", {plural(found.lost, 'step')} of them made again" if found.lost else ""
        told.append(lines.pair("left", left + again, _LABEL))
    told.append(lines.pair("state", lines.state_cell(found.state), _LABEL))
    if changes:
        words = ", ".join(f"{clean(name)} = {clean(text)}" for name, text in changes.items())
        told.append(lines.pair("changed", Content.styled(words, "$edited"), _LABEL))
    if found.problem:
        told += lines.wrapped(f"✗ {found.problem}", width, "$error", 4)
    elif found.errors:
        words = f"✗ {plural(len(found.errors), 'difference')} to accept before it can go on"
        told += lines.wrapped(words, width, "$error")
    return lines.join(told)


def difference_row(one: Difference) -> TableRow:
    """One difference: how grave, what, then and now."""
    sign, tone = _SIGNS[one.severity]
    return TableRow((sign, one.what, one.then, one.now), tone)


def _changes_of(typed: str) -> dict[str, str]:
    """``field=value field=value`` as a mapping; raises ValueError for other words."""
    found = {}
    for word in shlex.split(typed):
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise ValueError(f"{word!r} is not FIELD=VALUE")
        found[name] = text
    return found


def _fault_of(typed: str) -> str:
    try:
        _changes_of(typed)
    except ValueError as error:
        return str(error)
    return ""
