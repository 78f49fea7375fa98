"""The dialog that prepares a rating session: which run, how many items, what is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen

from finetui.jobs.folder import Job
from finetui.rating.power import advice
from finetui.rating.session import DEFAULT_QUESTION
from finetui.start import start_prepare
from finetui.tui import figures
from finetui.tui.actions import Action, register
from finetui.tui.lookout import JobLine
from finetui.tui.screens import lines
from finetui.tui.widgets.bars import hint_line
from finetui.tui.widgets.form import FormField, FormList
from finetui.tui.widgets.textpanel import TextPanel
from finetui.workspace import Workspace

Start = Callable[[Workspace], Job]
ITEMS = 30
MOST_ITEMS = 2000


class PrepareDialog(ModalScreen[Start | None]):
    """Dismisses with a function that starts the job, or None."""

    BINDINGS: ClassVar = register(
        Action("prepare.start", "s,f2", "start", "Generate both answers and seal.", show=True),
        Action("prepare.cancel", "escape", "cancel", "Leave it.", show=True),
    )
    DEFAULT_CSS = """
    PrepareDialog FormList { height: 6; }
    PrepareDialog TextPanel { margin-top: 1; }
    """

    def __init__(self, runs: Sequence[JobLine], taken: set[str]) -> None:
        super().__init__()
        self.runs = {run_name(job): job for job in runs}
        self.taken = taken
        first = next(iter(self.runs))
        name = free_name(self.runs[first].slug, taken)
        self.fields = {
            made.id: made
            for made in (
                FormField("run", "Session", "run", first, "choice", tuple(self.runs)),
                FormField("name", "Session", "name", name),
                FormField("items", "Session", "items", str(ITEMS)),
                FormField("question", "Session", "question", DEFAULT_QUESTION),
                FormField("raters", "Session", "raters", "", note="empty: this account"),
            )
        }

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as box:
            yield FormList(id="prepare")
            yield TextPanel(wrap=True, id="power")
            yield TextPanel(id="keys")
        box.border_title = "A blind rating"

    def on_mount(self) -> None:
        self._show()
        hints = [("enter", "edit"), ("s", "start"), ("esc", "cancel")]
        self.query_one("#keys", TextPanel).show(hint_line(hints))
        self.query_one("FormLines").focus()

    @on(FormList.FieldEdited)
    def _edited(self, message: FormList.FieldEdited) -> None:
        message.stop()
        old = self.fields[message.id]
        self.fields[message.id] = replace(old, value=message.text.strip(), changed=True)
        if message.id == "run" and not self.fields["name"].changed:
            name = free_name(self.runs[message.text].slug, self.taken)
            self.fields["name"] = replace(self.fields["name"], value=name)
        self._show()

    def _show(self) -> None:
        problems = self.problems()
        marked = [
            replace(field, severity="error", note=problems[field.id])
            if field.id in problems
            else replace(field, severity="")
            for field in self.fields.values()
        ]
        self.query_one(FormList).show(marked)
        self.query_one("#power", TextPanel).show(self._power())

    def _power(self) -> Content:
        items = self._items()
        told = advice(items) if items else "How many items: a whole number."
        sealed = "Sides are shuffled and sealed; the report needs the unsealing, which is logged."
        return lines.join([Content.styled(told, "$muted"), Content.styled(sealed, "$muted")])

    def _items(self) -> int:
        text = self.fields["items"].value
        return int(text) if text.isdecimal() and 0 < int(text) <= MOST_ITEMS else 0

    def problems(self) -> dict[str, str]:
        """What is wrong, by field."""
        found = {}
        if self.fields["name"].value in self.taken:
            found["name"] = "a session of this name exists"
        elif not self.fields["name"].value:
            found["name"] = "a name, please"
        if not self._items():
            found["items"] = f"a whole number from 1 to {MOST_ITEMS:,}"
        return found

    def action_start(self) -> None:
        if self.problems():
            self.query_one(FormList).go_to(next(iter(self.problems())))
            return
        job = Job(self.runs[self.fields["run"].value].path)
        name, items = self.fields["name"].value, self._items()
        question = self.fields["question"].value or DEFAULT_QUESTION
        raters = [part.strip() for part in self.fields["raters"].value.split(",") if part.strip()]

        def start(workspace: Workspace) -> Job:
            return start_prepare(
                workspace, job, name, items=items, question=question, raters=raters
            )

        self.dismiss(start)

    def action_cancel(self) -> None:
        self.dismiss(None)


def run_name(job: JobLine) -> str:
    """A run in a list: its name and its start to the second, which no two share."""
    return f"{job.slug} · {job.id[4:6]}-{job.id[6:8]} {figures.clock(job.created)}"


def free_name(slug: str, taken: set[str]) -> str:
    """`slug-blind-1`, or the next number that is free."""
    number = 1
    while f"{slug}-blind-{number}" in taken:
        number += 1
    return f"{slug}-blind-{number}"
