"""The dialog that prepares a rating session: who answers, what is asked, how much it can show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.timer import Timer

from finetui.display import clean
from finetui.jobs.folder import Job
from finetui.start import start_prepare
from finetui.tui import figures
from finetui.tui.actions import Action, register
from finetui.tui.lookout import JobLine
from finetui.tui.screens import lines, rate_wish
from finetui.tui.widgets.bars import hint_line
from finetui.tui.widgets.form import FormField, FormList
from finetui.tui.widgets.textpanel import TextPanel
from finetui.workspace import Workspace

Start = Callable[[Workspace], Job]
TYPING_S = 0.2
"""Seconds of rest after which a number that is being typed is reckoned with."""


class PrepareDialog(ModalScreen[Start | None]):
    """Dismisses with a function that starts the job, or None."""

    BINDINGS: ClassVar = register(
        Action(
            "prepare.start",
            "s,f2",
            "start",
            "Generate the answers, then seal.",
            show=True,
            writes=True,
        ),
        Action("prepare.cancel", "escape", "cancel", "Leave it.", show=True),
    )
    DEFAULT_CSS = """
    PrepareDialog FormList { height: 1fr; }
    PrepareDialog #note { height: 1; color: $accent; }
    PrepareDialog #power { height: auto; margin: 1 0; }
    """

    @dataclass
    class Reckoned(Message):
        """What the numbers on screen can show and cost."""

        sentences: tuple[str, ...]

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, PrepareDialog.Reckoned)

    def __init__(self, runs: Sequence[JobLine], taken: set[str]) -> None:
        super().__init__()
        self.runs = {run_name(job): job for job in runs}
        self.taken = taken
        first = next(iter(self.runs))
        name = free_name(self.runs[first].slug, taken)
        self.fields = rate_wish.default_fields(tuple(self.runs), name)
        self._rest: Timer | None = None

    def compose(self) -> ComposeResult:
        with Vertical(classes="page") as box:
            yield FormList(id="prepare")
            yield TextPanel(id="note")
            yield TextPanel(wrap=True, id="power")
            yield TextPanel(id="keys")
        box.border_title = "A blind rating"

    def on_mount(self) -> None:
        self._show()
        self._reckon()
        hints = [("enter", "edit"), ("← →", "choose"), ("s", "start"), ("esc", "cancel")]
        self.query_one("#keys", TextPanel).show(hint_line(hints))
        self.query_one("FormLines").focus()

    @on(FormList.FieldEdited)
    def _edited(self, message: FormList.FieldEdited) -> None:
        message.stop()
        self.fields[message.id] = _put(self.fields[message.id], message.text, True)
        if message.id == "run" and not self.fields["name"].changed:
            name = free_name(self.runs[message.text].slug, self.taken)
            self.fields["name"] = _put(self.fields["name"], name)
        if message.id == "items":
            rate_wish.with_items(self.fields, _put)
        self._show()
        self._reckon()

    @on(FormList.FieldHighlighted)
    def _highlighted(self, message: FormList.FieldHighlighted) -> None:
        """The line below the form says in full what the field's own line has no room for."""
        field = self.fields[message.id]
        words = self.problems().get(field.id) or field.note
        label = f"{field.label}: " if words else ""
        text = Content.assemble((label, "$muted"), clean(words))
        self.query_one("#note", TextPanel).show(text)

    @on(FormList.FieldTyping)
    def _typing(self, message: FormList.FieldTyping) -> None:
        """The power follows while a number is typed; nothing else changes yet."""
        message.stop()
        if self._rest is not None:
            self._rest.stop()
        typed = dict(self.fields)
        typed[message.id] = _put(typed[message.id], message.text)
        if message.id == "items":
            rate_wish.with_items(typed, _put)
        self._rest = self.set_timer(TYPING_S, lambda: self._reckon(typed))

    def _show(self) -> None:
        problems = self.problems()
        marked = [
            replace(field, severity="error", note=problems[field.id])
            if field.id in problems
            else replace(field, severity="")
            for field in self.fields.values()
        ]
        self.query_one(FormList).show(marked)

    @work(thread=True, exit_on_error=False, group="power", exclusive=True)
    def _reckon(self, fields: rate_wish.Fields | None = None) -> None:
        """Some hundred milliseconds for a thousand items: not on the thread of the screen."""
        fields = dict(self.fields) if fields is None else fields
        problems = rate_wish.problems(fields, set())
        told = [f"{fields[name].label}: {words}" for name, words in problems.items()]
        self.post_message(self.Reckoned(tuple(told or rate_wish.forecast(fields))))

    @on(Reckoned)
    def _reckoned(self, message: Reckoned) -> None:
        told = [Content.styled(clean(sentence), "$muted") for sentence in message.sentences]
        self.query_one("#power", TextPanel).show(lines.join(told))

    def problems(self) -> dict[str, str]:
        """What is wrong, by field."""
        return rate_wish.problems(self.fields, self.taken)

    def action_start(self) -> None:
        if self.problems():
            self.query_one(FormList).go_to(next(iter(self.problems())))
            return
        fields = dict(self.fields)
        run = Job(self.runs[fields["run"].value].path)

        def start(workspace: Workspace) -> Job:
            return start_prepare(
                workspace,
                rate_wish.systems(workspace, fields, run),
                fields["name"].value,
                items=rate_wish.number(fields, "items"),
                registration=rate_wish.registration(fields),
                data=fields["data"].value,
                hold=fields["findings"].value == rate_wish.SHOW_FINDINGS,
            )

        self.dismiss(start)

    def action_cancel(self) -> None:
        self.dismiss(None)


def _put(field: FormField, value: str, changed: bool = False) -> FormField:
    return replace(field, value=value.strip(), changed=field.changed or changed)


def run_name(job: JobLine) -> str:
    """A run in a list: its name and its start to the second, which no two share."""
    return f"{job.slug} · {job.id[4:6]}-{job.id[6:8]} {figures.clock(job.created)}"


def free_name(slug: str, taken: set[str]) -> str:
    """`slug-blind-1`, or the next number that is free."""
    number = 1
    while f"{slug}-blind-{number}" in taken:
        number += 1
    return f"{slug}-blind-{number}"
