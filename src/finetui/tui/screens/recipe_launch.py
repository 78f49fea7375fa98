"""What the Recipe screen starts: a run, a rehearsal, a sweep."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from textual import on, work
from textual.message import Message

from finetui.errors import UserError
from finetui.jobs.folder import Job
from finetui.jobs.slurm import notes, profiles
from finetui.recipe.advice import advise
from finetui.recipe.schema import Recipe
from finetui.tui.app import SERVED
from finetui.tui.lookout import JobLine
from finetui.tui.messages import OpenJob
from finetui.tui.screens import recipe_view
from finetui.tui.screens.recipe_files import FilesPane
from finetui.tui.screens.recipe_forecast import Rehearsed
from finetui.tui.screens.recipe_sweep import SweepPage, Wanted
from finetui.tui.widgets.dialogs import Choose, Confirm


class LaunchPane(FilesPane):
    """Starting jobs; each question shows first what will happen."""

    @dataclass
    class Started(Message):
        """What was started and what to open, or why it was not."""

        job: Path | None
        said: str = ""
        error: str = ""

    def __init__(self) -> None:
        super().__init__()
        self._starting = False
        self._where = ""
        self._rehearsal: tuple[Job, Recipe] | None = None

    def _may_start(self) -> bool:
        """Whether nothing stands against a start; an error is shown at its field."""
        if self.workspace is None or self._starting:
            return False
        self.advice = advise(self.edits.value, self.known)
        errors = [remark for remark in self.advice if remark.severity == "error"]
        if errors:
            self.form.go_to(errors[0].field)
            self.complain(f"It cannot run yet: {errors[0].message}")
        return not errors

    def action_run(self) -> None:
        if not self._may_start():
            return
        places = self._places()
        if len(places) < 2:
            self._ask_run("")
            return

        def chosen(where: str | None) -> None:
            if where is not None:
                self._where = where
                self._ask_run(where)

        self.app.push_screen(Choose("Run it where?", places, self._where), chosen)

    def _places(self) -> list[tuple[str, str]]:
        """This machine, and the clusters of the person's settings (or Slurm's own defaults)."""
        known = profiles(self.shell.settings)
        names = [f"slurm:{name}" for name in known]
        if not names and shutil.which("sbatch"):
            names = ["slurm"]
        found = [(name, recipe_view.place_words(name, known.get(name.partition(":")[2])))
                 for name in names]  # fmt: skip
        return [("", "here, on this machine"), *found]

    def _ask_run(self, where: str) -> None:
        words = dict(self._places())[where] if where else ""
        page = recipe_view.launch_page(self.edits.value, self.plan, self.advice, words)
        page = "\n".join([page, *(f"! {note}" for note in (notes() if where else ()))])
        title = f"Run {self.edits.value.name or 'this recipe'}?"

        def decided(yes: bool | None) -> None:
            if yes and (self.path is None or not self.edits.changed or self.write(self.path)):
                self._begin(lambda recipe: self._train(recipe, where))

        yes = "hand it in to Slurm" if where else "start the run"
        self.app.push_screen(Confirm(title, page, yes), decided)

    def action_rehearse(self) -> None:
        if not self._may_start():
            return
        title = f"Rehearse {self.edits.value.name or 'this recipe'}?"

        def decided(yes: bool | None) -> None:
            if yes:
                self._begin(self._rehearse)

        self.app.push_screen(Confirm(title, recipe_view.REHEARSAL, "rehearse"), decided)

    def action_sweep(self) -> None:
        if self.workspace is None:
            return
        first = recipe_view.swept_field(self.form.current)

        def decided(wanted: Wanted | None) -> None:
            if wanted is not None:
                self._begin(lambda _: self._sweep(wanted))

        self.app.push_screen(SweepPage(self.edits.value, self.known, f"{first}="), decided)

    # -- in a thread: start.py reads the data files -----------------------------------------------

    def _begin(self, start: Callable[[Recipe], Started]) -> None:
        self._starting = True
        self.say("Starting…")
        self._start_in_thread(start, self.edits.value)

    @work(thread=True, exit_on_error=False, group="start")
    def _start_in_thread(self, start: Callable[[Recipe], Started], recipe: Recipe) -> None:
        try:
            self.post_message(start(recipe))
        except UserError as error:
            self.post_message(self.Started(None, error=str(error)))

    def _train(self, recipe: Recipe, where: str = "") -> Started:
        from finetui.start import start_training

        assert self.workspace is not None
        job = (start_training(self.workspace, recipe, on=where) if where
               else start_training(self.workspace, recipe))  # fmt: skip
        return self.Started(job.path)

    def _rehearse(self, recipe: Recipe) -> Started:
        from finetui.start import start_rehearsal

        assert self.workspace is not None
        job = start_rehearsal(self.workspace, recipe)
        said = "Rehearsing: the figures will stand in the forecast; Train shows how it goes."
        self._rehearsal = (job, recipe)
        return self.Started(None, said)

    def _sweep(self, wanted: Wanted) -> Started:
        from finetui.start import start_sweep

        assert self.workspace is not None
        made = start_sweep(self.workspace, wanted.name, wanted.trials)
        said = f"{len(wanted.trials)} runs go one after another: finetui sweep --show {made.id}"
        return self.Started(None, said)

    @on(Started)
    def _started(self, message: Started) -> None:
        self._starting = False
        if message.error:
            self.complain(message.error)
            return
        if message.said:
            self.say(message.said)
        self.shell.look()
        if message.job is not None:
            self.go("train", OpenJob(message.job))

    # -- the rehearsal's end ----------------------------------------------------------------------

    def on_mount(self) -> None:
        self.watch(self.app, "jobs", self._jobs_seen)

    def _jobs_seen(self, jobs: tuple[JobLine, ...]) -> None:
        if self._rehearsal is None:
            return
        job, recipe = self._rehearsal
        seen = next((line for line in jobs if line.path == job.path), None)
        if seen is None or seen.state in {*SERVED, "unknown"}:
            return
        self._rehearsal = None
        outcome = job.outcome() or {}
        if outcome.get("status") != "finished":
            self.complain(f"The rehearsal did not get through: {seen.sentence}")
            return
        told = outcome.get("metrics", {})
        self.rehearsed = Rehearsed(
            recipe, told.get("peak_bytes"), told.get("step_s"), told.get("checkpoint_bytes")
        )
        self.say(f"Rehearsed: {outcome.get('sentence', '')}")
        self.show()
