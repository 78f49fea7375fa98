"""Requests to a running job, from keys and by name: stop, save, pause, rate, end, intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from textual import on, work
from textual.message import Message

from finetui.display import clean
from finetui.errors import UserError
from finetui.jobs import control
from finetui.jobs.folder import Job
from finetui.tui import figures
from finetui.tui.actions import Action
from finetui.tui.pane import ModePane
from finetui.tui.screens.train_view import stack_text
from finetui.tui.widgets.dialogs import Choose, Confirm, Reading, TextPrompt

if TYPE_CHECKING:
    from finetui.jobs.monitor import Snapshot

ACTIONS = (
    Action("train.stop", "s", "stop", "Save and stop the run after this step (asks first).",
           show=True, writes=True),
    Action("train.stop-best", "", "keep the best",
           "End after this step with the weights of the best evaluation (asks first).",
           writes=True),
    Action("train.save", "S", "save now", "Write a checkpoint after this step.", writes=True),
    Action("train.evaluate-now", "e", "evaluate now", "Take the held-out loss after this step.",
           writes=True),
    Action("train.pause", "P", "pause", "Pause the run after this step, or let it go on.",
           writes=True),
    Action("train.pause-free", "", "pause and free",
           "Pause, with model and optimiser moved to host memory until it goes on.", writes=True),
    Action("train.rate", "", "learning rate", "Another peak learning rate; the schedule stays.",
           writes=True),
    Action("train.end-step", "", "end step", "Another last step; the schedule follows.",
           writes=True),
    Action("train.eval-every", "", "evaluate every", "Steps between two evaluations.", writes=True),
    Action("train.save-every", "", "save every", "Steps between two checkpoints.", writes=True),
    Action("train.share", "w", "start anyway",
           "Start a run that waits for a GPU now, beside whoever is there (asks first).",
           writes=True),
    Action("train.stack", "t", "stack",
           "What each thread of the run does at this moment; for one that stalls.",
           writes=True),
    Action("train.kill", "", "kill", "End the process at once, unsaved (asks first).", writes=True),
    Action("train.control", "x", "change", "Everything that can be asked of a running job.",
           show=True, writes=True),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """A value of a running job that a request can change."""

    field: str
    title: str
    hint: str
    now: str


@dataclass
class Answered(Message):
    """What became of a request to a job."""

    text: str
    failed: bool = False


@dataclass
class Stands(Message):
    """Where the threads of a job are."""

    slug: str
    text: str


class ControlPane(ModePane):
    """The keys that ask something of a run; the run answers at its next step."""

    snapshot: Snapshot | None = None

    def open_job(self) -> Job | None:
        """The job that a request is for."""
        raise NotImplementedError

    def action_stop(self) -> None:
        job = self.open_job()
        if job is not None and self.state_of(job) in ("queued", "requeued"):
            self._confirmed("stop", "Cancel", "It waits, and leaves the queue.", "cancel it")
        else:
            self._confirmed("stop", "Stop",
                            "It saves what it has learned and ends after this step.", "stop it",
                            )  # fmt: skip

    def action_stop_best(self) -> None:
        best = self.snapshot.best_eval_loss if self.snapshot else None
        detail = "It ends after this step and keeps the weights of its best evaluation"
        detail += f" (eval loss {figures.number(best)})." if best is not None else "."
        self._confirmed("stop_best", "Stop", detail, "stop it, keep the best")

    def _confirmed(self, verb: str, title: str, detail: str, yes: str) -> None:
        job = self.open_job()
        if job is not None:
            self.app.push_screen(
                Confirm(f"{title} {clean(job.slug)}?", detail, yes=yes, danger=True),
                lambda sure: self._send(job, verb) if sure else None,
            )

    def state_of(self, job: Job) -> str:
        """The name of a job's state as it was last seen, "" before the first look."""
        raise NotImplementedError

    def action_share(self) -> None:
        job = self.open_job()
        if job is None:
            return
        if self.state_of(job) != "queued":
            self.say("It does not wait for a GPU.")
            return
        detail = "It starts on a GPU that is taken: both get slower, and memory may run out."
        self.app.push_screen(
            Confirm(f"Start {clean(job.slug)} all the same?", detail, "start it", danger=True),
            lambda sure: self._send(job, "share") if sure else None,
        )

    def action_stack(self) -> None:
        job = self.open_job()
        if job is not None:
            self.say("Asking…")
            self._ask_stack(job)

    @work(thread=True, exit_on_error=False, group="stack")
    def _ask_stack(self, job: Job) -> None:
        from finetui.jobs import stack

        try:
            self.post_message(Stands(job.slug, stack.ask(job)))
        except UserError as error:
            self.post_message(Answered(str(error), failed=True))

    @on(Stands)
    def _stands(self, message: Stands) -> None:
        self.app.clear_notifications()
        title = f"where {clean(message.slug)} stands"
        self.app.push_screen(Reading(title, stack_text(message.text)))

    def action_save(self) -> None:
        self.ask("save")

    def action_evaluate_now(self) -> None:
        self.ask("evaluate")

    def action_pause(self) -> None:
        self.ask("resume" if self._paused else "pause")

    def action_pause_free(self) -> None:
        self.ask("pause", release=True)

    @property
    def _paused(self) -> bool:
        return self.snapshot is not None and self.snapshot.state.name == "paused"

    def action_kill(self) -> None:
        job = self.open_job()
        if job is not None:
            detail = "Work since the last checkpoint is lost. For a run that does not answer."
            self.app.push_screen(
                Confirm(f"Kill {clean(job.slug)}?", detail, yes="kill it", danger=True),
                lambda sure: self._kill(job) if sure else None,
            )

    # -- values ------------------------------------------------------------------------------

    def action_rate(self) -> None:
        self._ask_value("learning_rate")

    def action_end_step(self) -> None:
        self._ask_value("end_step")

    def action_eval_every(self) -> None:
        self._ask_value("eval_every")

    def action_save_every(self) -> None:
        self._ask_value("save_every")

    def _ask_value(self, name: str) -> None:
        job = self.open_job()
        if job is None:
            return
        setting = next(each for each in settings_of(job, self.snapshot) if each.field == name)
        now = f"now {setting.now}. " if setting.now else ""
        prompt = TextPrompt(
            f"{setting.title} of {job.slug}", setting.now, now + setting.hint,
            lambda typed: fault_of(name, typed, setting.now),
        )  # fmt: skip
        self.app.push_screen(prompt, lambda typed: self._value_typed(job, name, typed, setting.now))

    def _value_typed(self, job: Job, name: str, typed: str | None, now: str) -> None:
        if typed is not None and typed.strip():
            self._send(job, "set", **{name: scaled(typed, now)})

    # -- all of them -------------------------------------------------------------------------

    def action_control(self) -> None:
        """One list of everything that can be asked."""
        job = self.open_job()
        if job is None:
            return
        options = [(name, _label(title, help)) for name, title, help in self._offers(job)]
        title = f"{job.slug}: change what?"
        self.app.push_screen(Choose(title, options), self._verb_chosen)

    def _offers(self, job: Job) -> list[tuple[str, str, str]]:
        state = self.state_of(job)
        if state in ("queued", "requeued"):
            return [
                ("share", "start anyway", "beside who has the GPU"),
                ("stop", "cancel", "it leaves the queue"),
            ]
        if state in ("finished", "stopped", "preempted", "failed", "interrupted"):
            return [
                ("resume", "resume", "from its last checkpoint"),
                ("again", "run again", "its recipe from the start, on the data as it is"),
            ]
        now = {each.field: each.now or figures.UNKNOWN for each in settings_of(job, self.snapshot)}
        pausing = [("pause", "go on", "after the pause")] if self._paused else [
            ("pause", "pause", "after this step, memory stays taken"),
            ("pause_free", "pause, free GPU memory", "weights wait in host memory"),
        ]  # fmt: skip
        return [
            ("save", "save now", "a checkpoint after this step"),
            ("evaluate_now", "evaluate now", "held-out loss after this step"),
            *pausing,
            ("rate", "learning rate", f"peak now {now['learning_rate']}"),
            ("end_step", "end step", f"now {now['end_step']}"),
            ("eval_every", "evaluate every", f"now {now['eval_every']} steps"),
            ("save_every", "checkpoint every", f"now {now['save_every']} steps"),
            ("stack", "where it stands", "what each thread does now"),
            ("stop", "stop", "saved, after this step"),
            ("stop_best", "stop, keep the best", "weights of the best evaluation"),
            ("kill", "kill", "unsaved; if it does not answer"),
        ]

    async def _verb_chosen(self, name: str | None) -> None:
        if name is not None:
            await self.run_action(name)

    # -- sending -----------------------------------------------------------------------------

    def ask(self, verb: str, **fields: Any) -> None:
        """Leave a request for the job on screen, or under the cursor."""
        job = self.open_job()
        if job is not None:
            self._send(job, verb, **fields)

    def _send(self, job: Job, verb: str, **fields: Any) -> None:
        self._in_thread(lambda: control.request(job, verb, **fields))

    def _kill(self, job: Job) -> None:
        self._in_thread(lambda: control.kill(job))

    @work(thread=True, exit_on_error=False, group="ask")
    def _in_thread(self, act: Callable[[], str]) -> None:
        try:
            self.post_message(Answered(act()))
        except UserError as error:
            self.post_message(Answered(str(error), failed=True))

    @on(Answered)
    def _answered(self, message: Answered) -> None:
        self.say(message.text, "warning" if message.failed else "information")


def _label(title: str, help: str) -> str:
    return f"{title:<23} {help}"


def settings_of(job: Job, snapshot: Snapshot | None) -> list[Setting]:
    """What can be set while it runs, with its value now: the recipe's, or the last request's."""
    recipe = job.recipe()
    asked: dict[str, object] = {}
    for each in snapshot.controls if snapshot is not None else ():
        asked |= dict(each.fields)
    steps = snapshot.total_steps if snapshot is not None else None

    def now(field: str, table: str, key: str) -> str:
        value = asked.get(field, _of(recipe, table, key))
        return f"{value:g}" if isinstance(value, int | float) else ""

    return [
        Setting("learning_rate", "Peak learning rate",
                "The schedule goes on from it. *0.5 halves it.",
                now("learning_rate", "training", "learning_rate")),
        Setting("end_step", "Last step", "The schedule comes to its end there.",
                str(asked.get("end_step") or steps or "")),
        Setting("eval_every", "Steps between two evaluations", "0 for none but the last.",
                now("eval_every", "evaluation", "every")),
        Setting("save_every", "Steps between two checkpoints", "0 for none but the last.",
                now("save_every", "checkpoints", "every")),
    ]  # fmt: skip


def _of(recipe: Mapping[str, Any], table: str, key: str) -> object:
    found = recipe.get(table, {})
    return found.get(key) if isinstance(found, Mapping) else None


def scaled(typed: str, now: str) -> str:
    """A typed value; ``*0.5`` and ``/2`` are counted from the value now."""
    text = typed.strip().replace("×", "*")
    if text[:1] not in ("*", "/"):
        return text
    try:
        factor, value = float(text[1:]), float(now)
        return f"{value * factor if text[0] == '*' else value / factor:.6g}"
    except (ValueError, ZeroDivisionError):
        return text


def fault_of(field: str, typed: str, now: str = "") -> str:
    """What is wrong with a typed value, or an empty string."""
    try:
        control.check("set", {field: scaled(typed, now)})
    except UserError as error:
        return str(error)
    return ""
