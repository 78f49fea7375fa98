"""The dialog that starts an evaluation: who answers, what, and how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen

from finetui.evaluation.record import Manifest
from finetui.evaluation_wish import Wish
from finetui.jobs.folder import Job
from finetui.tui import figures
from finetui.tui.actions import Action, register
from finetui.tui.lookout import JobLine
from finetui.tui.widgets.bars import hint_line
from finetui.tui.widgets.form import FormField, FormList
from finetui.tui.widgets.textpanel import TextPanel
from finetui.workspace import Workspace

Plan = Callable[[Workspace], Manifest]
NOBODY = "nobody"
_NUMBERS = {"shots": (0, 64), "limit": (0, 1_000_000), "tokens": (0, 100_000), "seed": (0, 2**31),
            "latency": (0, 1000)}  # fmt: skip
_HELP = {
    "run": "The run's base is the one that all others are compared with.",
    "shots": "The base again, behind so many rows of the training data: would prompting do? 0: no.",
    "checkpoints": "Every checkpoint of the run answers too; p then plots them.",
    "other": "Another run's result beside this one's.",
    "outputs": "A JSONL of answers from anywhere: id, answer.",
    "data": "Empty: the run's own held-out rows.",
    "scorer": "file.py::function in the workspace; runs in its own process with a time limit.",
    "suites": "General knowledge and safety: the workspace's suites/, else those that come along.",
    "drift": "How far the model moved from its base on general prompts, in nats a token.",
    "leak": "Whether beginnings of training rows are gone on with word for word.",
    "limit": "At most so many rows of each set; 0: all.",
    "latency": "So many prompts are timed with adapter, merged and base, in turn. 0: none.",
    "tokens": "New tokens at most; 0: as in the run's recipe.",
}


class EvaluateDialog(ModalScreen["Plan | None"]):
    """Dismisses with a function that makes the manifest, or None."""

    BINDINGS: ClassVar = register(
        Action(
            "evaluation.start", "s,f2", "start", "Start the evaluation.", show=True, writes=True
        ),
        Action("evaluation.cancel", "escape", "cancel", "Leave it.", show=True),
    )
    DEFAULT_CSS = """
    EvaluateDialog .dialog { width: 76; }
    EvaluateDialog FormList { height: 17; }
    .-short EvaluateDialog FormList, EvaluateDialog.-short FormList { height: 14; }
    EvaluateDialog TextPanel { height: auto; }
    EvaluateDialog #about { height: 2; }
    """

    def __init__(self, runs: Sequence[JobLine], chosen: Path | None = None) -> None:
        super().__init__()
        self.runs = {_run_name(job): job for job in runs}
        names = tuple(self.runs)
        first = next((name for name, job in self.runs.items() if job.path == chosen), names[0])
        self.fields = {
            made.id: made
            for made in (
                FormField("run", "Who answers", "run", first, "choice", names),
                FormField("shots", "Who answers", "base with examples", "0"),
                FormField("checkpoints", "Who answers", "checkpoints", "false", "flag"),
                FormField("other", "Who answers", "another run", NOBODY, "choice",
                          (NOBODY, *names)),
                FormField("outputs", "Who answers", "answers from a file", ""),
                FormField("data", "What", "rows", ""),
                FormField("scorer", "What", "own scorer", ""),
                FormField("suites", "What", "suites", "true", "flag"),
                FormField("drift", "What", "drift", "true", "flag"),
                FormField("leak", "What", "leaks", "true", "flag"),
                FormField("limit", "How", "rows at most", "0"),
                FormField("tokens", "How", "new tokens", "0"),
                FormField("latency", "How", "timed prompts", "0"),
                FormField("seed", "How", "seed", "0"),
                FormField("name", "How", "name", self.runs[first].slug),
            )
        }  # fmt: skip

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as box:
            yield FormList(id="evaluation")
            yield TextPanel(wrap=True, id="about")
            yield TextPanel(id="keys")
        box.border_title = "An evaluation"

    def on_mount(self) -> None:
        self._show()
        hints = [("enter", "edit"), ("space", "change"), ("s", "start"), ("esc", "cancel")]
        self.query_one("#keys", TextPanel).show(hint_line(hints))
        self.query_one("FormLines").focus()

    @on(FormList.FieldEdited)
    def _edited(self, message: FormList.FieldEdited) -> None:
        message.stop()
        old = self.fields[message.id]
        self.fields[message.id] = replace(old, value=message.text.strip(), changed=True)
        if message.id == "run" and not self.fields["name"].changed:
            named = self.runs[message.text].slug
            self.fields["name"] = replace(self.fields["name"], value=named)
        self._show()

    def _show(self) -> None:
        problems = self.problems()
        self.query_one(FormList).show(
            [
                replace(field, severity="error", note=problems[field.id])
                if field.id in problems
                else replace(field, severity="")
                for field in self.fields.values()
            ]
        )
        self._explain()

    @on(FormList.FieldHighlighted)
    def _explain(self) -> None:
        """What the field under the cursor means."""
        field = self.query_one(FormList).current
        words = _HELP.get(field.id, "") if field is not None else ""
        self.query_one("#about", TextPanel).show(Content.styled(words, "$muted"))

    def problems(self) -> dict[str, str]:
        """What is wrong, by field."""
        found = {}
        for id, (low, high) in _NUMBERS.items():
            text = self.fields[id].value
            if not text.isdecimal() or not low <= int(text) <= high:
                found[id] = f"a whole number from {low} to {high:,}"
        if self.fields["other"].value == self.fields["run"].value:
            found["other"] = "the same run"
        if self.fields["scorer"].value and "::" not in self.fields["scorer"].value:
            found["scorer"] = "file.py::function"
        return found

    def wish(self) -> Wish:
        """What the fields say; call it only without problems."""
        text = {id: field.value for id, field in self.fields.items()}
        other = self.runs.get(text["other"])
        return Wish(
            run=Job(self.runs[text["run"]].path),
            name=text["name"],
            shots=int(text["shots"]),
            checkpoints=text["checkpoints"] == "true",
            others=[Job(other.path)] if other else [],
            outputs=[text["outputs"]] if text["outputs"] else [],
            data=[text["data"]] if text["data"] else [],
            scorer=text["scorer"],
            regression=text["suites"] == "true",
            drift=text["drift"] == "true",
            leak=text["leak"] == "true",
            limit=int(text["limit"]),
            max_new_tokens=int(text["tokens"]),
            latency_prompts=int(text["latency"]),
            seed=int(text["seed"]),
        )

    def action_start(self) -> None:
        problems = self.problems()
        if problems:
            self.query_one(FormList).go_to(next(iter(problems)))
            return
        self.dismiss(self.wish().manifest)

    def action_cancel(self) -> None:
        self.dismiss(None)


def _run_name(job: JobLine) -> str:
    """A run in a list: its name and its start to the second, which no two share."""
    return f"{job.slug} · {job.id[4:6]}-{job.id[6:8]} {figures.clock(job.created)}"
