"""The recipe: every setting of one run, declared once.

This is the single source for the TOML file, the form, the command line, the checks and the docs.
A new setting is one new entry in one table below: its type, its bounds, its words, its default.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta, structs

from finetui.recipe.field import Field, FieldError, Info, Value, fields_of, quote
from finetui.recipe.sources import HOUSE
from finetui.recipe.table import Table
from finetui.recipe.tables.data import Data
from finetui.recipe.tables.guards import Guards
from finetui.recipe.tables.method import Method
from finetui.recipe.tables.model import Model
from finetui.recipe.tables.preference import Preference
from finetui.recipe.tables.running import Checkpoints, Evaluation, Logging
from finetui.recipe.tables.training import Training

__all__ = [
    "FIELDS",
    "GROUPS",
    "Checkpoints",
    "Data",
    "Evaluation",
    "Field",
    "FieldError",
    "Group",
    "Guards",
    "Logging",
    "Method",
    "Model",
    "Preference",
    "Recipe",
    "Training",
    "Value",
    "changed",
    "defaults",
    "field",
    "get",
    "nearest",
    "replace",
    "with_value",
]


class Recipe(Table, frozen=True):
    """One run's settings; every table and value has a default, so an empty file is a recipe."""

    name: Annotated[
        str,
        Meta(max_length=80),
        Info(
            "name",
            help="Short name of the run, shown in lists and in the job's folder name.",
            why="Say what differs from the last run.",
            source=HOUSE,
        ),
    ] = ""
    notes: Annotated[
        str,
        Meta(max_length=10_000),
        Info(
            "notes",
            help="Anything to remember: the question of this run, what you expect.",
            why="In a month the file is all there is.",
            source=HOUSE,
        ),
    ] = ""
    model: Model = Model()
    data: Data = Data()
    method: Method = Method()
    preference: Preference = Preference()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    guards: Guards = Guards()
    checkpoints: Checkpoints = Checkpoints()
    logging: Logging = Logging()


@dataclass(frozen=True, slots=True)
class Group:
    """A part of the form; ``table`` is its TOML table, empty for the top of the file."""

    id: str
    title: str
    table: str
    help: str


GROUPS: tuple[Group, ...] = (
    Group("recipe", "Recipe", "", "What this run is called and why it exists."),
    Group("model", "Model", "model", "The model that is tuned."),
    Group("data", "Data", "data", "What it learns from, and what it is tested on."),
    Group("method", "Method", "method", "How it is tuned: method, objective, adapter."),
    Group("preference", "Preference", "preference", "Settings of dpo, orpo and kto."),
    Group("training", "Training", "training", "The optimiser: rate, length, batch."),
    Group("evaluation", "Evaluation", "evaluation", "What is measured while and after training."),
    Group("guards", "Guards", "guards", "What is watched for while it trains."),
    Group("checkpoints", "Checkpoints", "checkpoints", "What is saved on the way."),
    Group("logging", "Logging", "logging", "What is recorded on the way."),
)

_TABLES: dict[str, type[Table]] = {
    "": Recipe,
    "model": Model,
    "data": Data,
    "method": Method,
    "preference": Preference,
    "training": Training,
    "evaluation": Evaluation,
    "guards": Guards,
    "checkpoints": Checkpoints,
    "logging": Logging,
}

FIELDS: tuple[Field, ...] = tuple(
    found
    for group in GROUPS
    for found in fields_of(_TABLES[group.table], group.id, f"{group.table}." if group.table else "")
)

_BY_ID = {found.id: found for found in FIELDS}


def defaults() -> Recipe:
    """The recipe of an empty file."""
    return Recipe()


def field(name: str) -> Field:
    """The field of an id, or of a key that only one table has (``learning_rate``).

    Raises FieldError that names the nearest field.
    """
    if name in _BY_ID:
        return _BY_ID[name]
    named = [found for found in FIELDS if found.key == name]
    if len(named) == 1:
        return named[0]
    near = [found.id for found in named] or nearest(name)
    raise FieldError(
        f"the recipe has no field {quote(name)}.",
        fix=f"Did you mean {' or '.join(near)}?" if near else "",
    )


def nearest(name: str) -> list[str]:
    """The id of the field whose id or key looks most like ``name``, if any does."""
    table, _, key = name.rpartition(".")
    near = difflib.get_close_matches(name, _BY_ID, 1, 0.75)
    if near:
        return near
    keys = difflib.get_close_matches(key, [found.key for found in FIELDS], 1, 0.6)
    ids = [found.id for found in FIELDS if found.key in keys]
    return [id for id in ids if id.startswith(table + ".")] or ids


def get(recipe: Recipe, id: str) -> Value:
    """The value of a field; raises FieldError for an unknown id."""
    found = field(id)
    table, _, key = found.id.rpartition(".")
    value: Value = getattr(getattr(recipe, table) if table else recipe, key)
    return value


def replace(recipe: Recipe, id: str, value: object) -> Recipe:
    """A copy with one value changed; raises FieldError when the field cannot take it."""
    found = field(id)
    taken = found.accept(value)
    table, _, key = found.id.rpartition(".")
    if not table:
        return structs.replace(recipe, **{key: taken})
    changed_table = structs.replace(getattr(recipe, table), **{key: taken})
    return structs.replace(recipe, **{table: changed_table})


def with_value(recipe: Recipe, id: str, text: str) -> Recipe:
    """A copy with one value set to what a person typed; raises FieldError with one sentence.

    ``2e-4`` and ``0.0002`` for numbers, ``25%`` for shares, yes/no/on/off, names by commas.
    """
    return replace(recipe, id, field(id).parse(text))


def changed(recipe: Recipe, other: Recipe | None = None) -> tuple[str, ...]:
    """The ids of the fields that differ from ``other``, by default from the defaults."""
    base = defaults() if other is None else other
    return tuple(found.id for found in FIELDS if get(recipe, found.id) != get(base, found.id))
