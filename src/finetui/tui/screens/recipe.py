"""The Recipe screen: one run's settings in a form that knows what each field means."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical

from finetui.tui.actions import Action, register
from finetui.tui.messages import OpenRecipe
from finetui.tui.screens import recipe_forecast, recipe_view
from finetui.tui.screens.recipe_launch import LaunchPane
from finetui.tui.widgets.form import FormList
from finetui.tui.widgets.textpanel import TextPanel


class RecipePane(LaunchPane):
    """The form with its help, its forecast and its remarks beside it."""

    FOCUS = "FormLines"
    BINDINGS: ClassVar = register(
        Action("recipe.run", "r", "run", "Start this run; shows first what will happen.",
               show=True, writes=True),
        Action("recipe.forecast", "f", "forecast",
               "Memory by component, time, disk, and what would make it fit.", show=True),
        Action("recipe.presets", "P", "presets", "Good values for this model and this machine.",
               show=True),
        Action("recipe.save", "w", "save", "Write the file; your comments stay.", writes=True),
        Action("recipe.open", "o", "open", "Open another recipe of the workspace."),
        Action("recipe.new", "n", "new", "A new recipe with the defaults."),
        Action("recipe.duplicate", "D", "duplicate", "Go on with a copy under another name."),
        Action("recipe.import", "I", "import",
               "A config of LLaMA-Factory, Axolotl, Unsloth or TRL as a recipe."),
        Action("recipe.compare", "d", "differences",
               "What differs from another recipe or a run; take values over."),
        Action("recipe.fit", "F", "make it fit", "The mildest change that makes it fit."),
        Action("recipe.rehearse", "R", "rehearse",
               "Try the longest batch, one update and one save: measured, not estimated.",
               writes=True),
        Action("recipe.sweep", "S", "sweep", "Many runs over values of some fields.", writes=True),
        Action("recipe.undo", "u", "undo", "Take back the last change."),
        Action("recipe.redo", "ctrl+r", "redo", "Make the change again."),
        Action("recipe.reset", "x", "default", "Put the field back to its default."),
        Action("recipe.pick", "p", "choose", "Choose a file of the workspace for this field."),
        Action("recipe.explain", "h", "explain", "The whole help of this field."),
        Action("recipe.remark", "exclamation_mark", "next remark",
               "Go to the next error, warning or hint."),
    )  # fmt: skip
    DEFAULT_CSS = """
    RecipePane Horizontal { height: 1fr; }
    RecipePane #form { width: 1fr; }
    RecipePane #beside { width: 50; }
    RecipePane #help { height: 1fr; min-height: 8; }
    RecipePane #schedule { height: 8; display: none; }
    RecipePane #below { height: 7; display: none; }
    RecipePane #summary { display: none; height: 1; }
    .-narrow RecipePane #beside { display: none; }
    .-narrow RecipePane #below, .-narrow RecipePane #summary { display: block; }
    .-wide RecipePane #beside { width: 64; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._begun = False

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield FormList(id="form", classes="panel")
            with Vertical(id="beside"):
                yield TextPanel(id="help", classes="panel")
                yield TextPanel(id="forecast", classes="panel")
                yield recipe_forecast.rate_chart(self.shell.settings.ascii, "schedule")
                yield TextPanel(id="remarks", classes="panel")
        yield TextPanel(id="summary")
        yield TextPanel(id="below", classes="panel")

    def shown(self) -> None:
        if not self._begun:
            self._begun = True
            self.form.fold(recipe_view.folded_groups())
            self.open_newest()
        self.show()
        self.gather_soon()

    def receive(self, request: object) -> None:
        if not isinstance(request, OpenRecipe):
            return
        if request.path is not None:
            self.unless_unsaved(partial(self.open, request.path))
        elif request.data is not None:
            self.unless_unsaved(partial(self.new_on, request.data))

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_beside)
