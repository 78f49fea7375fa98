"""The form's own part of the Recipe screen: the recipe under edit, what it means, and its help."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread

from textual import on, work
from textual.content import Content
from textual.message import Message

from finetui.display import clean, plural
from finetui.jobs.devices import DeviceSample
from finetui.jobs.measuring import measure
from finetui.recipe.advice import Advice, advise
from finetui.recipe.applies import idle
from finetui.recipe.facts import Facts, gather, merge
from finetui.recipe.field import Field, FieldError, Value
from finetui.recipe.forecast import Plan, Remedy, plan, remedies
from finetui.recipe.memory import unmeasured
from finetui.recipe.schema import FIELDS, Recipe, changed, defaults, field, get, replace, with_value
from finetui.start import machine_facts
from finetui.tui.pane import ModePane
from finetui.tui.screens import recipe_forecast, recipe_view
from finetui.tui.screens.recipe_forecast import Rehearsed
from finetui.tui.screens.recipe_view import Edits
from finetui.tui.widgets.chart import BrailleChart
from finetui.tui.widgets.dialogs import Choose, EditorDialog, Reading
from finetui.tui.widgets.form import FormList
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.textpanel import TextPanel

SETTLE_S = 0.3
"""Seconds without a change until the files are looked at again."""
LEAST_HELP, CURVE, MOST_REMARKS = 9, 8, 6
"""Lines of screen that the help keeps, that the learning-rate curve takes, and remarks at most."""


class FormPane(ModePane):
    """The truth is a plain Recipe in `edits`; the form shows it and asks for changes."""

    @dataclass
    class Gathered(Message):
        """What the files of the recipe tell."""

        facts: Facts

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, FormPane.Gathered)

    @dataclass
    class Measured(Message):
        """The measuring process has ended; ``problem`` is empty when it knows more now."""

        problem: str

    def __init__(self) -> None:
        super().__init__()
        self.path: Path | None = None
        self.edits = Edits(defaults())
        self.facts = Facts()
        self.advice: list[Advice] = []
        self.idle: dict[str, str] = {}
        self.plan: Plan = plan(self.edits.value)
        self.fixes: list[Remedy] = []
        self.rehearsed: Rehearsed | None = None
        self._seen: Recipe | None = None
        self._machine = Facts()
        self._measuring = False
        self._asked: set[str] = set()
        self._forecast_lines, self._remarked = 0, False

    @property
    def form(self) -> FormList:
        return self.query_one(FormList)

    @property
    def known(self) -> Facts:
        """What is known of the files and of the machine."""
        return merge(self.facts, self._machine)

    # -- what is shown ---------------------------------------------------------------------------

    def show(self) -> None:
        """Write everything anew from the recipe; costs a few milliseconds."""
        recipe = self.edits.value
        self._judge(recipe)
        self.form.show(recipe_view.form_fields(recipe, self.advice, self.idle))
        self._show_title()
        self._show_beside()

    def _judge(self, recipe: Recipe) -> None:
        known = self.known
        self.advice = advise(recipe, known)
        self.idle = idle(recipe, known)
        self.plan = plan(recipe, known)
        self.fixes = remedies(recipe, known)

    def _show_title(self) -> None:
        name = self.named(self.path) if self.path else "new recipe"
        title = f"{name} · changed, w saves" if self.edits.changed else name
        entitle(self.form, title, self._subtitle())

    def _subtitle(self) -> str:
        page = self.form.page
        if not page.narrowed:
            return recipe_view.tally(self.advice).plain
        shown = sum(found is not None for _, found in page.items)
        what = f"/{page.wanted}" if page.wanted else "only what is changed"
        return f"{what} · {shown} of {len(FIELDS)} fields · esc shows all"

    @on(FormList.Narrowed)
    def _narrowed(self) -> None:
        self._show_title()

    def _show_beside(self) -> None:
        """The panels of this screen size; the others are hidden and stay as they are."""
        if self.screen.has_class("-narrow"):
            known = self.known
            summary = recipe_forecast.forecast_line(self.plan, known, self.advice)
            self.query_one("#summary", TextPanel).show(summary)
        else:
            self._show_forecast()
            self._show_remarks()
            self._show_rates()
        self._show_help()

    def _show_forecast(self) -> None:
        panel = self.query_one("#forecast", TextPanel)
        width = panel.content_size.width or 44
        told = recipe_forecast.forecast_panel(
            self.plan, self.known, self.fixes, width, self.rehearsed_line()
        )
        # It gets no shorter: another height would lay out and repaint the whole screen.
        self._forecast_lines = max(self._forecast_lines, len(told.split(allow_blank=True)))
        panel.show(recipe_view.padded(told, self._forecast_lines))
        entitle(panel, "forecast", "measuring the model…" if self._measuring else "f more")

    def _show_remarks(self) -> None:
        panel = self.query_one("#remarks", TextPanel)
        panel.display = self._remarked = self._remarked or bool(self.advice)  # stays, as above
        width = panel.content_size.width or 44
        text = recipe_view.remark_lines(self.advice[:MOST_REMARKS])
        more = f"… {plural(len(self.advice), 'remark')} in all, ! goes to the next"
        panel.show(recipe_view.fitted(text, width, MOST_REMARKS, MOST_REMARKS, more))

    def _show_rates(self) -> None:
        """The learning-rate curve, where help, forecast and remarks leave it room."""
        chart = self.query_one("#schedule", BrailleChart)
        others = [self.query_one(name, TextPanel) for name in ("#forecast", "#remarks")]
        taken = sum(len(panel.text.split("\n")) + 2 for panel in others if panel.display)
        chart.display = self.size.height - taken >= LEAST_HELP + CURVE
        if chart.display:
            recipe_forecast.feed_rates(chart, self.plan)

    def _show_help(self) -> None:
        narrow = self.screen.has_class("-narrow")
        panel = self.query_one("#below" if narrow else "#help", TextPanel)
        current = self.form.current
        if current is None:
            title, id = self.form.page.group, ""
            text = recipe_view.group_panel(title, self.edits.value)
        else:
            found = field(current.id)
            title, id = found.label, found.id
            why = self.idle.get(found.id, "")
            text = recipe_view.help_panel(found, self.advice, why, dense=narrow)
        size = panel.content_size
        panel.show(recipe_view.fitted(text, size.width, size.height, size.height, "… h shows all"))
        entitle(panel, title, id)

    @on(FormList.FieldHighlighted)
    @on(FormList.GroupHighlighted)
    def _highlighted(self) -> None:
        self._show_help()

    def action_explain(self) -> None:
        """The whole help of a field, where the panel is too small for it."""
        current = self.form.current
        if current is not None:
            found = field(current.id)
            text = recipe_view.help_panel(found, self.advice, self.idle.get(found.id, ""))
            self.app.push_screen(Reading(f"{found.label} · {found.id}", text))

    # -- facts -----------------------------------------------------------------------------------

    def on_mount(self) -> None:
        entitle(self.query_one("#remarks"), "remarks")
        self.watch(self.app, "devices", self._devices_seen)

    def _devices_seen(self, sample: DeviceSample | None) -> None:
        machine = machine_facts(sample)
        if machine != self._machine:
            self._machine = machine
            if self.active and self.is_attached:
                self._judge(self.edits.value)
                self._show_beside()

    def gather_soon(self) -> None:
        """Look at the files once the person has stopped typing."""
        if self._seen is not self.edits.value:
            self._seen = self.edits.value
            self.set_timer(SETTLE_S, partial(self._gather_if_still, self.edits.value))

    def _gather_if_still(self, recipe: Recipe) -> None:
        if recipe is self.edits.value and self.workspace is not None:
            self._gather_in_thread(recipe, self.workspace.root)

    @work(thread=True, exit_on_error=False, group="facts", exclusive=True)
    def _gather_in_thread(self, recipe: Recipe, root: Path) -> None:
        self.post_message(self.Gathered(gather(recipe, root)))

    @on(Gathered)
    def _gathered(self, message: Gathered) -> None:
        if not self.children:
            return  # the screen is being left, the thread's answer came late
        if message.facts != self.facts:
            self.facts = message.facts
            self.show()
        self._measure_if_worth()

    def _measure_if_worth(self) -> None:
        """Let a process measure what the forecast still estimates; each key is asked for once."""
        keys = tuple(
            key for key in unmeasured(self.edits.value, self.known) if key not in self._asked
        )
        if keys and self.facts.model_folder and self.workspace is not None and not self._measuring:
            self._measuring = True
            self._asked |= set(keys)
            arguments = (self._measure, self.workspace.root, self.facts.model_folder, keys)
            # A worker's thread would hold up the exit until the process has ended.
            Thread(target=copy_context().run, args=arguments, daemon=True).start()
            self._show_beside()

    def _measure(self, root: Path, folder: str, keys: tuple[str, ...]) -> None:
        problem = "the measuring process failed"
        with suppress(RuntimeError):  # the app has left meanwhile
            try:
                problem = measure(root, folder, keys)
            finally:
                self.post_message(self.Measured(problem))

    @on(Measured)
    def _measured(self, message: Measured) -> None:
        self._measuring = False
        if not self.children:
            return
        if not message.problem and self.workspace is not None:
            self._gather_in_thread(self.edits.value, self.workspace.root)
        self._show_beside()

    # -- editing ---------------------------------------------------------------------------------

    @on(FormList.FieldTyping)
    def _typing(self, message: FormList.FieldTyping) -> None:
        """Judge what is being typed; nothing is changed yet."""
        try:
            draft = with_value(self.edits.value, message.id, message.text)
        except FieldError as error:
            self.form.annotate(message.id, "error", str(error))
            return
        self._judge(draft)
        remark = recipe_view.worst_remarks(self.advice).get(message.id)
        unit = field(message.id).unit
        self.form.annotate(
            message.id, remark.severity if remark else "", remark.message if remark else unit
        )
        self._show_title()
        self._show_beside()

    @on(FormList.FieldEdited)
    def _edited(self, message: FormList.FieldEdited) -> None:
        try:
            recipe = with_value(self.edits.value, message.id, message.text)
        except FieldError as error:
            self.complain(error)
            self.show()
            return
        self.change(recipe)

    @on(FormList.LinesWanted)
    def _edit_lines(self, message: FormList.LinesWanted) -> None:
        def written(text: str | None) -> None:
            if text is not None:
                self._edited(FormList.FieldEdited(message.id, text))

        self.app.push_screen(EditorDialog(field(message.id).label, message.text), written)

    def change(self, recipe: Recipe) -> None:
        """Take another recipe as one step that undo takes back."""
        self.edits.change(recipe)
        self.show()
        self.gather_soon()

    def take(self, recipe: Recipe | None, what: str) -> None:
        """Take a recipe that a page proposes, and say how to get back; None is no change."""
        if recipe is None or recipe == self.edits.value:
            return
        count = len(changed(recipe, self.edits.value))
        self.change(recipe)
        self.say(f"{what}: {plural(count, 'field')} changed. u takes it back.")

    def action_undo(self) -> None:
        self._went(self.edits.undo, "There is nothing to undo.")

    def action_redo(self) -> None:
        self._went(self.edits.redo, "There is nothing to redo.")

    def _went(self, step: Callable[[], bool], otherwise: str) -> None:
        """Undo or redo, with the cursor on what that changed."""
        before = self.edits.value
        if not step():
            self.say(otherwise)
            return
        self.show()
        moved = changed(self.edits.value, before)
        if moved and (self.form.current is None or self.form.current.id not in moved):
            self.form.go_to(moved[0])
        self.gather_soon()

    def action_reset(self) -> None:
        current = self.form.current
        if current is not None:
            self.change(replace(self.edits.value, current.id, field(current.id).default))

    def action_remark(self) -> None:
        """The next field with a remark, going round."""
        ids = list(dict.fromkeys(remark.field for remark in self.advice))
        current = self.form.current
        if not ids:
            self.say("Nothing to remark.")
            return
        here = ids.index(current.id) if current is not None and current.id in ids else -1
        self.form.go_to(ids[(here + 1) % len(ids)])

    def action_pick(self) -> None:
        current = self.form.current
        found = field(current.id) if current is not None else None
        if found is None or found.kind not in ("path", "paths") or self.workspace is None:
            self.say("This field takes no file.")
            return
        chosen = get(self.edits.value, found.id)
        options = [
            (name, f"{'✓' if name in _names(chosen) else ' '} {clean(name)}")
            for name in self.files_for(found.id)
        ]
        if not options:
            self.say("The workspace has no file for this field.", "warning")
            return
        title = f"{found.label}: enter adds or takes out" if found.kind == "paths" else found.label
        self.app.push_screen(Choose(title, options), partial(self._picked, found, chosen))

    def _picked(self, found: Field, before: Value, name: str | None) -> None:
        """Take a file for a path; of several paths, add it or take it out."""
        if name is None:
            return
        value: Value = name
        if found.kind == "paths":
            names = _names(before)
            value = tuple(n for n in names if n != name) if name in names else (*names, name)
        self.change(replace(self.edits.value, found.id, value))

    def files_for(self, id: str) -> list[str]:
        """Paths of the workspace that fit a field."""
        assert self.workspace is not None
        root = self.workspace.root
        if id == "model.path":
            found = sorted(config.parent for config in root.glob("*/config.json"))
        elif id == "model.adapter":
            found = sorted(
                (config.parent for config in root.glob("jobs/*/adapter/adapter_config.json")),
                reverse=True,
            )
        else:
            found = [*self.workspace.dataset_files(), *self.workspace.version_files()]
        return [self.workspace.relative(path) for path in found]

    # -- the forecast ----------------------------------------------------------------------------

    def rehearsed_line(self) -> Content | None:
        """What a rehearsal of this recipe measured; None before one."""
        return None if self.rehearsed is None else self.rehearsed.line(self.edits.value)

    def action_forecast(self) -> None:
        page = recipe_forecast.ForecastPage(self.edits.value, self.known, self.shell.settings.ascii)
        self.app.push_screen(page, lambda recipe: self.take(recipe, "Made to fit"))

    def action_fit(self) -> None:
        """The mildest change that makes it fit, at one key."""
        if not self.fixes:
            self.say("Nothing has to change, or nothing is known that would help.")
            return
        first = self.fixes[0]
        self.take(first.recipe, recipe_forecast.change_words(first))


def _names(value: Value) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else (str(value),)
