"""Recipes side by side: two recipes, a recipe and a run, or several runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetui.errors import UserError
from finetui.recipe.field import Field, FieldError, Value
from finetui.recipe.schema import FIELDS, Recipe, defaults, get, replace


@dataclass(frozen=True, slots=True)
class Difference:
    """A field on which recipes differ; ``values`` are as a person types them, one a recipe."""

    field: str
    label: str
    values: tuple[str, ...]


def differences(recipes: Sequence[Recipe], root: Path | None = None) -> tuple[Difference, ...]:
    """The fields on which the recipes differ, in the order of the form; name and notes too.

    With ``root`` (the workspace) a relative path and the absolute one it means are the same, and
    paths inside it are shown relative.
    """
    found = []
    for item in FIELDS:
        values = [_settled(item, get(recipe, item.id), root) for recipe in recipes]
        if any(value != values[0] for value in values):
            shown = tuple(item.show(value) for value in values)
            found.append(Difference(item.id, item.label, shown))
    return tuple(found)


def recipe_of_run(spec: Mapping[str, Any]) -> Recipe:
    """The recipe in a job's spec, also of another version: unknown keys are left out, missing
    ones take their default. Paths inside the run's workspace become relative to it, so that a
    workspace that was moved still compares.

    Raises UserError where the spec has no recipe.
    """
    tree = spec.get("recipe")
    if not isinstance(tree, Mapping):
        raise UserError(
            "this job was not made from a recipe.",
            str(spec.get("name") or spec.get("kind") or ""),
            "Take a training run: finetui jobs",
        )
    return _relative(_lenient(tree), str(spec.get("workspace") or ""))


def _lenient(tree: Mapping[str, Any]) -> Recipe:
    recipe = defaults()
    for item in FIELDS:
        table = tree.get(item.id.rpartition(".")[0], {}) if "." in item.id else tree
        if isinstance(table, Mapping) and item.key in table:
            try:
                recipe = replace(recipe, item.id, table[item.key])
            except FieldError:
                continue  # a choice or a bound that this version does not have
    return recipe


def _relative(recipe: Recipe, workspace: str) -> Recipe:
    if not workspace:
        return recipe
    for item in FIELDS:
        if item.kind in ("path", "paths"):
            recipe = replace(recipe, item.id, _settled(item, get(recipe, item.id), Path(workspace)))
    return recipe


def _settled(item: Field, value: Value, root: Path | None) -> Value:
    """A path as the workspace names it; other values as they are."""
    if isinstance(value, tuple) and item.kind == "paths":
        return tuple(_from_root(part, root) for part in value)
    if isinstance(value, str) and value and item.kind == "path":
        return _from_root(value, root)
    return value


def _from_root(name: str, root: Path | None) -> str:
    path = os.path.normpath(os.path.expanduser(name))
    if root is None or not os.path.isabs(path):
        return path
    for base in (root.absolute(), root.resolve()):
        if Path(path).is_relative_to(base):
            return str(Path(path).relative_to(base))
    return path
