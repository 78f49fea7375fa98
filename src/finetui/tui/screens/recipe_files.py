"""The Recipe screen's files: open, save, copy, begin from a preset, import, compare."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from finetui.display import clean
from finetui.errors import UserError
from finetui.jobs.folder import find_job
from finetui.recipe.compare import recipe_of_run
from finetui.recipe.files import load, save
from finetui.recipe.presets import Preset, applied
from finetui.recipe.schema import Recipe, defaults, replace
from finetui.tui.screens.recipe_compare import ComparePage
from finetui.tui.screens.recipe_form import FormPane
from finetui.tui.screens.recipe_import import ImportPage, config_files
from finetui.tui.screens.recipe_presets import PresetsPage
from finetui.tui.screens.recipe_view import Edits
from finetui.tui.widgets.dialogs import Choose, Confirm, TextPrompt

NEW, SAVED, OTHER = "new", "saved", "other"
_MOST_RUNS = 40


class FilesPane(FormPane):
    """Recipes as files, and where else a recipe comes from."""

    def open_newest(self) -> None:
        files = self.workspace.recipe_files() if self.workspace else []
        if files:
            self.open(max(files, key=lambda file: file.stat().st_mtime))
        else:
            self._begin_fresh(None, self._fresh("untitled"))

    def open(self, path: Path) -> None:
        """Edit a recipe file; one that does not read is named with all its problems."""
        try:
            recipe = load(path)
        except UserError as error:
            self.complain(error)
            return
        self.begin(path, Edits(recipe, saved=recipe))

    def _begin_fresh(self, path: Path | None, recipe: Recipe) -> None:
        self.begin(path, Edits(recipe, blank=recipe))

    def begin(self, path: Path | None, edits: Edits) -> None:
        """Edit another recipe from now on, with a history of its own."""
        self.path, self.edits, self._seen = path, edits, None
        self._forecast_lines, self._remarked = 0, False
        self.show()
        self.gather_soon()

    # -- saving ----------------------------------------------------------------------------------

    def action_save(self) -> None:
        if self.path is None:
            self._ask_name("Save as", self.edits.value.name, self._save_as)
        else:
            self.write(self.path)

    def _save_as(self, path: Path) -> None:
        self.path = path
        self.write(path)

    def write(self, path: Path) -> bool:
        """Write the recipe; comments of the file stay. False, and told, where it fails."""
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

    # -- opening ---------------------------------------------------------------------------------

    def action_open(self) -> None:
        files = self.workspace.recipe_files() if self.workspace else []
        options = [(str(file), self.named(file)) for file in files]
        options.append((NEW, "+ a new recipe"))

        def chosen(name: str | None) -> None:
            if name == NEW:
                self.action_new()
            elif name is not None:
                self.unless_unsaved(partial(self.open, Path(name)))

        self.app.push_screen(Choose("Recipes", options), chosen)

    def action_new(self) -> None:
        self.unless_unsaved(lambda: self._ask_name("A new recipe", "", self._start_new))

    def _start_new(self, path: Path) -> None:
        self._begin_fresh(path, self._fresh(path.stem))

    def new_on(self, data: Path) -> None:
        """A new recipe that learns from a data file."""
        recipe = replace(self._fresh(data.stem), "data.train", [self.named(data)])
        self._begin_fresh(None, recipe)

    def _fresh(self, name: str) -> Recipe:
        """The defaults, with the workspace's own model where there is exactly one."""
        recipe = replace(defaults(), "name", name)
        models = self.files_for("model.path") if self.workspace else []
        return replace(recipe, "model.path", models[0]) if len(models) == 1 else recipe

    def action_duplicate(self) -> None:
        def copy(path: Path) -> None:
            self.path = path
            self.edits.change(replace(self.edits.value, "name", path.stem))
            self.write(path)
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

    def unless_unsaved(self, then: Callable[[], object]) -> None:
        """Ask before changes are dropped; `then` goes on."""

        def decided(yes: bool | None) -> None:
            if yes:
                then()

        if not self.edits.missed:
            decided(True)
            return
        detail = "The changes since the last save are lost. w saves them."
        self.app.push_screen(Confirm("Drop the changes?", detail, "drop them", True), decided)

    # -- presets ---------------------------------------------------------------------------------

    def action_presets(self) -> None:
        def chosen(preset: Preset | None) -> None:
            if preset is not None:
                self.take(applied(self.edits.value, preset), preset.title)

        self.app.push_screen(PresetsPage(self.edits.value, self.known), chosen)

    # -- configs of other trainers ---------------------------------------------------------------

    def action_import(self) -> None:
        if self.workspace is None:
            self.say("There is no workspace to import into.", "warning")
            return
        found = [(str(path), self.named(path)) for path in config_files(self.workspace.root)]
        options = [*found, (OTHER, "+ type a path")]

        def chosen(name: str | None) -> None:
            if name == OTHER:
                self._ask_config()
            elif name is not None:
                self._import(Path(name))

        if found:
            title = "Config of LLaMA-Factory, Axolotl, Unsloth or TRL"
            self.app.push_screen(Choose(title, options), chosen)
        else:
            self._ask_config()

    def _ask_config(self) -> None:
        assert self.workspace is not None
        root = self.workspace

        def check(name: str) -> str:
            return "" if root.resolve(name).is_file() else "There is no such file."

        def named(name: str | None) -> None:
            if name:
                self._import(root.resolve(name))

        hint = "A YAML file of LLaMA-Factory, Axolotl, Unsloth or TRL"
        self.app.push_screen(TextPrompt("Import a config", "", hint, check), named)

    def _import(self, path: Path) -> None:
        try:
            page = ImportPage(path)
        except UserError as error:
            self.complain(error)
            return

        def taken(recipe: Recipe | None) -> None:
            if recipe is not None:
                self.unless_unsaved(partial(self.begin, None, Edits(recipe)))

        self.app.push_screen(page, taken)

    # -- comparing -------------------------------------------------------------------------------

    def action_compare(self) -> None:
        if self.workspace is None:
            self.say("There is no workspace with recipes or runs to compare with.", "warning")
            return
        options = []
        if self.path is not None and self.edits.saved is not None and self.edits.changed:
            options.append((SAVED, f"{self.named(self.path)} as it was saved"))
        files = [path for path in self.workspace.recipe_files() if path != self.path]
        options += [(str(path), self.named(path)) for path in files]
        runs = [job for job in self.shell.jobs if job.kind == "train"][:_MOST_RUNS]
        options += [(job.id, f"run {clean(job.id)}") for job in runs]
        if not options:
            self.say("There is no other recipe and no run to compare with.")
            return

        def chosen(name: str | None) -> None:
            if name is not None:
                self._compare(name)

        self.app.push_screen(Choose("Compare with", options), chosen)

    def _compare(self, name: str) -> None:
        assert self.workspace is not None
        try:
            other, title = self._other(name)
        except UserError as error:
            self.complain(error)
            return
        page = ComparePage(self.edits.value, other, title, self.workspace.root)
        self.app.push_screen(page, lambda recipe: self.take(recipe, f"From {title}"))

    def _other(self, name: str) -> tuple[Recipe, str]:
        """The recipe to compare with, and what it is called. Raises UserError."""
        assert self.workspace is not None
        if name == SAVED and self.edits.saved is not None:
            return self.edits.saved, "the saved file"
        if name.endswith(".toml"):
            return load(Path(name)), self.named(name)
        return recipe_of_run(find_job(self.workspace.jobs, name).spec()), clean(name)
