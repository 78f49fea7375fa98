"""Running a recipe again: on the rows that were repaired or dropped since the run began."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from textual import on, work
from textual.message import Message

from finetui.display import clean
from finetui.errors import UserError
from finetui.jobs.folder import Job
from finetui.tui.actions import Action
from finetui.tui.lookout import JobLine
from finetui.tui.screens import train_view
from finetui.tui.screens.train_control import ControlPane
from finetui.tui.screens.train_rows import Repair
from finetui.tui.widgets.dialogs import Confirm

ACTIONS = (
    Action("train.resume", "r", "resume",
           "Go on with a run that ended early; shows first what differs.", show=True, writes=True),
    Action("train.again", "A", "run again",
           "Start this run's recipe again, on the data as it is now (asks first).", writes=True),
)  # fmt: skip
_DETAIL = "Its recipe, on the data as it is now: what was edited or dropped since counts."


@dataclass
class Started(Message):
    """A run was started, or could not be."""

    path: Path | None
    error: str = ""


class AgainPane(ControlPane):
    """Repair and run again: the rows go to the Data screen, the recipe starts anew after it."""

    rows: tuple[JobLine, ...] = ()
    repairing: Job | None = None
    """The run whose rows are being repaired in the Data screen."""
    waiting: Job | None = None
    """The run that starts again as soon as it has ended."""

    def open(self, path: Path) -> None:
        raise NotImplementedError

    def repair(self, job: Job, wanted: Repair) -> None:
        """Show rows in the Data screen; with ``again`` ask on the way back whether to run."""
        if wanted.stop and self._alive(job):
            self.ask("stop")
        if wanted.again:
            self.repairing = job
            self.say("e edits a row, d drops it. Then 3: the run can start again on them.")
        self.go("data", wanted.request)

    def back_from_repair(self) -> None:
        """Called when the screen comes back."""
        job, self.repairing = self.repairing, None
        if job is not None:
            self._ask_again(job)

    def action_again(self) -> None:
        job = self.open_job()
        if job is not None and job.kind != "train":
            self.say("Only a training run can be started again.", "warning")
        elif job is not None:
            self._ask_again(job)

    # -- going on with a run that ended early ------------------------------------------------

    def action_resume(self) -> None:
        job = self.open_job()
        if job is None:
            return
        if self.workspace is None:
            self.say("A run needs a workspace.")
        elif job.kind != "train":
            self.say("Only a training run can be resumed.", "warning")
        elif self._alive(job):
            self.say("It has not ended. P lets a paused run go on, w starts one that waits.")
        else:
            from finetui.tui.screens.resume import ResumePage

            self.app.push_screen(ResumePage(self.workspace, job),
                                 lambda attempt: self._resumed(job, attempt))  # fmt: skip

    def _resumed(self, job: Job, attempt: int | None) -> None:
        if attempt is not None:
            self.say(f"{clean(job.slug)} goes on, attempt {attempt}.")
            self.shell.look()
            self.open(job.path)

    def state_of(self, job: Job) -> str:
        shown = self.snapshot
        if shown is not None and shown.job_id == job.id:
            return shown.state.name
        return next((line.state for line in self.rows if line.path == job.path), "")

    def _alive(self, job: Job) -> bool:
        return any(line.path == job.path and line.state in train_view.LIVE for line in self.rows)

    def _ask_again(self, job: Job) -> None:
        alive = self._alive(job)
        detail = _DETAIL + ("\nIt still runs: it is stopped first, saved." if alive else "")
        yes = "stop it, run again" if alive else "run again"
        self.app.push_screen(
            Confirm(f"Run {clean(job.slug)} again?", detail, yes=yes),
            lambda sure: self._agreed(job, alive) if sure else None,
        )

    def _agreed(self, job: Job, alive: bool) -> None:
        if not alive:
            self._start(job)
            return
        self.waiting = job
        self._send(job, "stop")

    def start_waiting(self) -> None:
        """Start the run that waited for its own end; called when the states of jobs are known."""
        job = self.waiting
        if job is not None and not self._alive(job):
            self.waiting = None
            self._start(job)

    @work(thread=True, exit_on_error=False, group="again")
    def _start(self, job: Job) -> None:
        from finetui.recipe.compare import recipe_of_run
        from finetui.start import start_training

        try:
            if self.workspace is None:
                raise UserError("a run needs a workspace.")
            recipe = recipe_of_run(job.spec())
            self.post_message(Started(start_training(self.workspace, recipe, job.slug).path))
        except UserError as error:
            self.post_message(Started(None, str(error)))

    @on(Started)
    def _started(self, message: Started) -> None:
        if message.path is None:
            self.complain(message.error)
        else:
            self.shell.look()
            self.open(message.path)
