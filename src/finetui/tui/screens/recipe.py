"""The Recipe screen: one run's settings in a form that knows what each field means."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message

from finetui.display import clean
from finetui.errors import UserError
from finetui.jobs.devices import DeviceSample
from finetui.recipe.advice import Advice, advise
from finetui.recipe.facts import Facts, gather, merge
from finetui.recipe.field import FieldError
from finetui.recipe.files import load, save
from finetui.recipe.forecast import Plan, plan
from finetui.recipe.schema import Recipe, defaults, field, replace, with_value
from finetui.start import machine_facts
from finetui.tui import figures
from finetui.tui.actions import Action, register
from finetui.tui.messages import OpenJob, OpenRecipe
from finetui.tui.pane import ModePane
from finetui.tui.screens import recipe_view
from finetui.tui.screens.recipe_view import Edits
from finetui.tui.widgets.chart import BrailleChart, Line
from finetui.tui.widgets.dialogs import Choose, Confirm, TextPrompt
from finetui.tui.widgets.form import FormList
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.textpanel import TextPanel

SETTLE_S = 0.3
"""Seconds without a change until the files are looked at again."""
NEW = "new"


class RecipePane(ModePane):
    """The truth is a plain Recipe in `edits`; the form shows it and asks for changes."""

    FOCUS = "FormLines"
    BINDINGS: ClassVar = register(
        Action("recipe.run", "r", "run", "Start this run; shows first what will happen.",
               show=True),
        Action("recipe.save", "w", "save", "Write the file; your comments stay.", show=True),
        Action("recipe.open", "o", "open", "Open another recipe of the workspace.", show=True),
        Action("recipe.new", "n", "new", "A new recipe with the defaults."),
        Action("recipe.duplicate", "D", "duplicate", "Go on with a copy under another name."),
        Action("recipe.undo", "u", "undo", "Take back the last change."),
        Action("recipe.redo", "ctrl+r", "redo", "Make the change again."),
        Action("recipe.reset", "x", "default", "Put the field back to its default."),
        Action("recipe.pick", "p", "choose", "Choose a file of the workspace for this field."),
        Action("recipe.remark", "exclamation_mark", "next remark",
               "Go to the next error, warning or hint."),
    )  # fmt: skip
    DEFAULT_CSS = """
    RecipePane Horizontal { height: 1fr; }
    RecipePane #form { width: 1fr; }
    RecipePane #beside { width: 48; }
    RecipePane #help { height: 1fr; }
    RecipePane #schedule { height: 8; }
    RecipePane #remarks { height: auto; max-height: 8; }
    RecipePane #below { height: 7; display: none; }
    RecipePane #summary { display: none; height: 1; }
    .-narrow RecipePane #beside { display: none; }
    .-narrow RecipePane #below, .-narrow RecipePane #summary { display: block; }
    .-short RecipePane #schedule { display: none; }
    .-wide RecipePane #beside { width: 62; }
    """

    @dataclass
    class Gathered(Message):
        """What the files of the recipe tell."""

        facts: Facts

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, RecipePane.Gathered)

    @dataclass
    class Started(Message):
        """A job that was started, or why it was not."""

        job: Path | None
        error: str = ""

    def __init__(self) -> None:
        super().__init__()
        self.path: Path | None = None
        self.edits = Edits(defaults())
        self.facts = Facts()
        self.advice: list[Advice] = []
        self.plan: Plan = plan(self.edits.value)
        self._seen: Recipe | None = None
        self._machine = Facts()
        self._starting = False
        self._begun = False

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield FormList(id="form", classes="panel")
            with Vertical(id="beside"):
                with VerticalScroll(id="help", classes="panel", can_focus=False):
                    yield TextPanel(wrap=True, id="help-text")
                yield TextPanel(id="forecast", classes="panel")
                yield BrailleChart(
                    "learning rate",
                    [Line("last step", "$series-3")],
                    ascii=self.shell.settings.ascii,
                    smoothed=False,
                    low=0.0,
                    form=partial(figures.number, digits=2),
                    id="schedule",
                )
                with VerticalScroll(id="remarks", classes="panel", can_focus=False):
                    yield TextPanel(wrap=True, id="remarks-text")
        yield TextPanel(id="summary")
        with VerticalScroll(id="below", classes="panel", can_focus=False):
            yield TextPanel(wrap=True, id="below-text")

    def on_mount(self) -> None:
        self.query_one("#forecast").border_title = "forecast"
        self.query_one("#remarks").border_title = "remarks"
        self.watch(self.app, "devices", self._devices_seen)

    # -- coming and going ----------------------------------------------------------------------

    def shown(self) -> None:
        if not self._begun:
            self._begun = True
            self._open_newest()
        self.show()
        self._gather_soon()

    def receive(self, request: object) -> None:
        if not isinstance(request, OpenRecipe):
            return
        if request.path is not None:
            self._unless_unsaved(partial(self.open, request.path))
        elif request.data is not None:
            self._unless_unsaved(partial(self._new_on, request.data))

    def _open_newest(self) -> None:
        files = self.workspace.recipe_files() if self.workspace else []
        if files:
            self.open(max(files, key=lambda file: file.stat().st_mtime))
        else:
            self.edits = Edits(self._fresh("untitled"), None)

    def open(self, path: Path) -> None:
        """Edit a recipe file; one that does not read is named with all its problems."""
        try:
            recipe = load(path)
        except UserError as error:
            self.complain(error)
            return
        self.path, self.edits = path, Edits(recipe, recipe)
        self._seen = None
        self.show()
        self._gather_soon()

    # -- what is shown ---------------------------------------------------------------------------

    def show(self) -> None:
        """Write everything anew from the recipe; costs a few milliseconds."""
        recipe = self.edits.value
        self._judge(recipe)
        self.query_one(FormList).show(recipe_view.form_fields(recipe, self.advice))
        self._show_title()
        self._show_beside()

    def _judge(self, recipe: Recipe) -> None:
        known = merge(self.facts, self._machine)
        self.advice = advise(recipe, known)
        self.plan = plan(recipe, known)

    def _show_title(self) -> None:
        name = self.named(self.path) if self.path else "new recipe"
        form = self.query_one(FormList)
        title = f"{name} · changed, w saves" if self.edits.changed else name
        entitle(form, title, recipe_view.tally(self.advice).plain)

    def _show_beside(self) -> None:
        known = merge(self.facts, self._machine)
        panel = self.query_one("#forecast", TextPanel)
        width = panel.content_size.width or 44
        panel.show(recipe_view.forecast_panel(self.plan, known, width))
        chart = self.query_one("#schedule", BrailleChart)
        rates = self.plan.learning_rates
        last = max(1, len(rates) - 1)
        steps = [index * ((self.plan.steps or 1) - 1) / last for index in range(len(rates))]
        chart.clear()
        chart.feed("last step", steps, rates)
        chart.set_end(float(self.plan.steps) if self.plan.steps else None)
        self.query_one("#remarks").display = bool(self.advice)
        self.query_one("#remarks-text", TextPanel).show(recipe_view.remark_lines(self.advice))
        summary = recipe_view.forecast_line(self.plan, self.advice)
        self.query_one("#summary", TextPanel).show(summary)
        self._show_help()

    def _show_help(self) -> None:
        current = self.query_one(FormList).current
        if current is None:
            return
        found = field(current.id)
        text = recipe_view.help_panel(found, self.advice)
        for box, panel in (("#help", "#help-text"), ("#below", "#below-text")):
            holder = self.query_one(box)
            entitle(holder, found.label, found.id)
            self.query_one(panel, TextPanel).show(text)
            holder.scroll_home(animate=False)

    @on(FormList.FieldHighlighted)
    def _highlighted(self) -> None:
        self._show_help()

    # -- facts -----------------------------------------------------------------------------------

    def _devices_seen(self, sample: DeviceSample | None) -> None:
        machine = machine_facts(sample)
        if machine != self._machine:
            self._machine = machine
            if self.active and self.is_attached:
                self._show_beside()

    def _gather_soon(self) -> None:
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

    # -- editing ---------------------------------------------------------------------------------

    @on(FormList.FieldTyping)
    def _typing(self, message: FormList.FieldTyping) -> None:
        """Judge what is being typed; nothing is changed yet."""
        form = self.query_one(FormList)
        try:
            draft = with_value(self.edits.value, message.id, message.text)
        except FieldError as error:
            form.annotate(message.id, "error", str(error))
            return
        self._judge(draft)
        remark = recipe_view.worst_remarks(self.advice).get(message.id)
        unit = field(message.id).unit
        form.annotate(
            message.id, remark.severity if remark else "", remark.message if remark else unit
        )
        self._show_title()
        self._show_beside()

    @on(FormList.FieldEdited)
    def _edited(self, message: FormList.FieldEdited) -> None:
        try:
            changed = with_value(self.edits.value, message.id, message.text)
        except FieldError as error:
            self.complain(error)
            self.show()
            return
        self._change(changed)

    def _change(self, recipe: Recipe) -> None:
        self.edits.change(recipe)
        self.show()
        self._gather_soon()

    def action_undo(self) -> None:
        self._went(self.edits.undo(), "There is nothing to undo.")

    def action_redo(self) -> None:
        self._went(self.edits.redo(), "There is nothing to redo.")

    def _went(self, moved: bool, otherwise: str) -> None:
        if not moved:
            self.say(otherwise)
        self.show()
        self._gather_soon()

    def action_reset(self) -> None:
        current = self.query_one(FormList).current
        if current is not None:
            self._change(replace(self.edits.value, current.id, field(current.id).default))

    def action_remark(self) -> None:
        """The next field with a remark, going round."""
        ids = list(dict.fromkeys(remark.field for remark in self.advice))
        current = self.query_one(FormList).current
        if not ids:
            self.say("Nothing to remark.")
            return
        here = ids.index(current.id) if current is not None and current.id in ids else -1
        self.query_one(FormList).go_to(ids[(here + 1) % len(ids)])

    def action_pick(self) -> None:
        current = self.query_one(FormList).current
        found = field(current.id) if current is not None else None
        if found is None or found.kind not in ("path", "paths") or self.workspace is None:
            self.say("This field takes no file.")
            return
        options = [(name, clean(name)) for name in self._files(found.id)]
        if not options:
            self.say("The workspace has no file for this field.", "warning")
            return

        def chosen(name: str | None) -> None:
            if name is not None:
                value = (name,) if found.kind == "paths" else name
                self._change(replace(self.edits.value, found.id, value))

        self.app.push_screen(Choose(found.label, options), chosen)

    def _files(self, id: str) -> list[str]:
        """Paths of the workspace that fit a field."""
        assert self.workspace is not None
        if id == "model.path":
            configs = sorted(self.workspace.root.glob("*/config.json"))
            return [self.workspace.relative(config.parent) for config in configs]
        files = [*self.workspace.dataset_files(), *self.workspace.version_files()]
        return [self.workspace.relative(file) for file in files]

    # -- files -----------------------------------------------------------------------------------

    def action_save(self) -> None:
        if self.path is None:
            self._ask_name("Save as", self.edits.value.name, self._save_as)
        else:
            self._write(self.path)

    def _save_as(self, path: Path) -> None:
        self.path = path
        self._write(path)

    def _write(self, path: Path) -> bool:
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            save(path, self.edits.value)
        except (UserError, OSError) as error:
            self.complain(str(error))
            return False
        self.edits.saved = self.edits.value
        self._show_title()
        self.say(f"Saved {self.named(path)}.")
        return True

    def action_open(self) -> None:
        files = self.workspace.recipe_files() if self.workspace else []
        options = [(str(file), self.named(file)) for file in files]
        options.append((NEW, "+ a new recipe"))

        def chosen(name: str | None) -> None:
            if name == NEW:
                self.action_new()
            elif name is not None:
                self._unless_unsaved(partial(self.open, Path(name)))

        self.app.push_screen(Choose("Recipes", options), chosen)

    def action_new(self) -> None:
        self._unless_unsaved(lambda: self._ask_name("A new recipe", "", self._start_new))

    def _start_new(self, path: Path) -> None:
        self.path = path
        self.edits = Edits(self._fresh(path.stem), None)
        self.show()
        self._gather_soon()

    def _new_on(self, data: Path) -> None:
        """A new recipe that learns from a data file."""
        recipe = replace(self._fresh(data.stem), "data.train", [self.named(data)])
        self.path, self.edits = None, Edits(recipe, None)
        self.show()
        self._gather_soon()

    def _fresh(self, name: str) -> Recipe:
        """The defaults, with the workspace's own model where there is exactly one."""
        recipe = replace(defaults(), "name", name)
        models = self._files("model.path") if self.workspace else []
        return replace(recipe, "model.path", models[0]) if len(models) == 1 else recipe

    def action_duplicate(self) -> None:
        def copy(path: Path) -> None:
            self.path = path
            self.edits.change(replace(self.edits.value, "name", path.stem))
            self._write(path)
            self.show()

        self._ask_name("A copy under the name", f"{self.edits.value.name}-2", copy)

    def _ask_name(self, title: str, value: str, then: Callable[[Path], object]) -> None:
        """Ask for a name that is free among the recipes, then go on with its path."""
        if self.workspace is None:
            self.say("There is no workspace to save in.", "warning")
            return
        folder = self.workspace.recipes

        def check(name: str) -> str:
            if not re.fullmatch(r"[\w][\w.-]{0,63}", name.removesuffix(".toml")):
                return "Letters, digits, dot, dash and underscore, please."
            taken = (folder / f"{name.removesuffix('.toml')}.toml").exists()
            return "A recipe of this name exists." if taken else ""

        def named(name: str | None) -> None:
            if name:
                then(folder / f"{name.removesuffix('.toml')}.toml")

        self.app.push_screen(TextPrompt(title, value, "A file in recipes/", check), named)

    def _unless_unsaved(self, then: Callable[[], object]) -> None:
        """Ask before changes are dropped; `then` goes on."""

        def decided(yes: bool | None) -> None:
            if yes:
                then()

        if not self.edits.changed or not self.edits.saved:
            decided(True)
            return
        detail = "The changes since the last save are lost. w saves them."
        self.app.push_screen(Confirm("Drop the changes?", detail, "drop them", True), decided)

    # -- the launch ------------------------------------------------------------------------------

    def action_run(self) -> None:
        if self.workspace is None or self._starting:
            return
        self._judge(self.edits.value)
        errors = [remark for remark in self.advice if remark.severity == "error"]
        if errors:
            self.query_one(FormList).go_to(errors[0].field)
            self.complain(f"It cannot run yet: {errors[0].message}")
            return
        output = f"jobs/…-train-{self.edits.value.name or 'run'}/adapter"
        page = recipe_view.launch_page(self.edits.value, self.plan, self.advice, output)
        title = f"Run {self.edits.value.name or 'this recipe'}?"
        self.app.push_screen(Confirm(title, page, "start the run"), self._run_decided)

    def _run_decided(self, yes: bool | None) -> None:
        if not yes or self.workspace is None:
            return
        if self.path is not None and self.edits.changed and not self._write(self.path):
            return
        self._starting = True
        self.say("Starting…")
        self._start_in_thread(self.edits.value)

    @work(thread=True, exit_on_error=False, group="start")
    def _start_in_thread(self, recipe: Recipe) -> None:
        from finetui.start import start_training

        assert self.workspace is not None
        try:
            self.post_message(self.Started(start_training(self.workspace, recipe).path))
        except UserError as error:
            self.post_message(self.Started(None, str(error)))

    @on(Started)
    def _started(self, message: Started) -> None:
        self._starting = False
        if message.job is None:
            self.complain(message.error)
            return
        self.shell.look()
        self.go("train", OpenJob(message.job))

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_beside)
