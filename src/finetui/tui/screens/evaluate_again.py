"""A whole evaluation, from the Evaluate screen: start, follow, stop, ask again, report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from textual import on, work
from textual.message import Message

from finetui import start
from finetui.errors import UserError
from finetui.evaluation import report
from finetui.evaluation.record import Manifest
from finetui.jobs import control
from finetui.jobs.folder import Job
from finetui.jobs.liveness import state
from finetui.jobs.monitor import JobReader
from finetui.tui.pane import ModePane
from finetui.tui.screens.evaluate_rows import View, record_of
from finetui.tui.screens.evaluate_start import EvaluateDialog
from finetui.tui.widgets.dialogs import Choose, Confirm, TextPrompt
from finetui.workspace import Workspace, write_atomic

FORMATS = {
    "md": ("Markdown", report.as_markdown),
    "html": ("HTML, one page", report.as_html),
    "json": ("JSON", report.as_json),
}


@dataclass
class Started(Message):
    """An evaluation was started, or why it was not."""

    path: Path | None
    error: str = ""


@dataclass
class Followed(Message):
    """How far a running evaluation is, in words; the newest is enough."""

    job: Path
    text: str

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, Followed)


@dataclass
class Exported(Message):
    """A report was written, or why it was not."""

    path: Path
    error: str = ""


class AgainPane(ModePane):
    """What can be done with a whole evaluation; the screen itself shows its rows."""

    job: Job | None
    view: View
    progress: str = ""
    """How far the evaluation on screen is, while it runs."""
    _reader: JobReader | None = None

    def open(self, path: Path) -> None:
        raise NotImplementedError

    def show_scores(self) -> None:
        raise NotImplementedError

    # -- starting --------------------------------------------------------------------------------

    def action_start(self) -> None:
        """Ask what to measure; by default the run on screen against its base."""
        finished = [
            job for job in self.shell.jobs
            if job.kind == "train" and Job(job.path).result is not None
        ]  # fmt: skip
        if not finished:
            self.say("There is no finished run to evaluate yet.", "warning")
            return

        def wanted(plan: Callable[[Workspace], Manifest] | None) -> None:
            if plan is not None and self.workspace is not None:
                self._start(self.workspace, plan)

        chosen = self.job.path if self.job is not None else None
        self.app.push_screen(EvaluateDialog(finished, chosen), wanted)

    def action_again(self) -> None:
        """Ask the same again: same subjects, sets, seed and settings."""
        manifest = self.view.manifest
        if manifest is None:
            self.say("Only an evaluation can be asked again: n starts one for this run.")
            return
        told = manifest

        def sure(yes: bool | None) -> None:
            if yes and self.workspace is not None:
                self._start(self.workspace, lambda _: told)

        who = ", ".join(subject.name for subject in told.subjects)
        detail = f"{who} on {', '.join(spec.name for spec in told.sets)}, seed {told.seed}."
        self.app.push_screen(Confirm(f"Run {told.name} again?", detail, "start it"), sure)

    @work(thread=True, group="start", exclusive=True, exit_on_error=False)
    def _start(self, workspace: Workspace, plan: Callable[[Workspace], Manifest]) -> None:
        try:
            job = start.start_evaluation(workspace, plan(workspace))
            self.post_message(Started(job.path))
        except UserError as error:
            self.post_message(Started(None, str(error)))

    @on(Started)
    def _started(self, message: Started) -> None:
        if message.path is None:
            self.complain(message.error)
            return
        self.say("The evaluation has started; its rows show when it has ended.")
        self.open(message.path)

    # -- a running one -----------------------------------------------------------------------------

    @work(thread=True, group="follow", exclusive=True, exit_on_error=False)
    def follow(self, job: Job) -> None:
        """Look how far it is; called as often as the look-out sees the jobs."""
        if self._reader is None or self._reader.job != job:
            self._reader = JobReader(job)
        snapshot = self._reader.poll()
        if snapshot is not None:
            done = snapshot.progress
            counted = f"{done.text} {done.done:,}/{done.total:,}" if done else snapshot.stage
            self.post_message(Followed(job.path, counted))

    @on(Followed)
    def _followed(self, message: Followed) -> None:
        if self.job is not None and message.job == self.job.path:
            self.progress = message.text
            self.show_scores()

    def action_stop(self) -> None:
        """Stop a running evaluation; what was answered is kept for the next time."""
        job = self.job
        now = state(job) if job is not None and job.kind == "evaluate" else None
        if job is None or now is None or not (now.alive or now.waits):
            self.say("No evaluation is running here.")
            return

        def sure(yes: bool | None) -> None:
            if yes:
                self.say(control.request(job, "stop"))

        detail = "What was answered so far is kept: run again (R) goes on from there."
        self.app.push_screen(Confirm("Stop this evaluation?", detail, "stop it"), sure)

    # -- reports ---------------------------------------------------------------------------------

    def action_export(self) -> None:
        """Write a report into the workspace."""
        if self.job is None or not self.view.rows or self.workspace is None:
            self.say("There are no answers to report yet.", "warning")
            return
        job, workspace = self.job, self.workspace

        def to(kind: str, path: str | None) -> None:
            if path:
                self._export(job.path, kind, workspace.resolve(path))

        def chosen(kind: str | None) -> None:
            if kind is not None:
                ask = TextPrompt("Where to?", f"reports/{job.id}.{kind}", "In this workspace.")
                self.app.push_screen(ask, lambda path: to(kind, path))

        options = [(kind, title) for kind, (title, _) in FORMATS.items()]
        self.app.push_screen(Choose("A report as", options), chosen)

    @work(thread=True, group="export", exclusive=True, exit_on_error=False)
    def _export(self, job: Path, kind: str, path: Path) -> None:
        try:
            text = FORMATS[kind][1](report.build(record_of(job)))
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text.encode())
            self.post_message(Exported(path))
        except (UserError, OSError) as error:
            self.post_message(Exported(path, str(error)))

    @on(Exported)
    def _exported(self, message: Exported) -> None:
        if message.error:
            self.complain(message.error)
        else:
            self.say(f"Written: {self.named(message.path)}")
