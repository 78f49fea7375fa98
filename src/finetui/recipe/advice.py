"""Advice on a recipe: errors, warnings and hints, each with its reason and its source."""

from __future__ import annotations

import dataclasses

from finetui.recipe.facts import Facts
from finetui.recipe.rule import RULES, Advice, Case, Severity
from finetui.recipe.rules import (
    data,
    evaluation,
    machine,
    method,
    model,
    preference,
    rows,
    settings,
    training,
)
from finetui.recipe.schema import FIELDS, Recipe

__all__ = ["RULES", "Advice", "Facts", "Severity", "advise", "blocks"]

# Importing a module enters its rules.
_MODULES = (model, data, rows, method, preference, training, evaluation, machine, settings)

_ORDER: dict[str, int] = {"error": 0, "warning": 1, "advice": 2}
_PLACE = {found.id: place for place, found in enumerate(FIELDS)}


def advise(recipe: Recipe, facts: Facts | None = None) -> list[Advice]:
    """Everything the rules say, errors first, then in the order of the form.

    Pure and fast enough to run at every keystroke. Rules that need an unknown fact are silent.
    """
    case = Case(recipe, facts or Facts())
    said = [
        dataclasses.replace(remark, rule=id)
        for id, check in RULES.items()
        for remark in check(case)
    ]
    return sorted(said, key=lambda remark: (_ORDER[remark.severity], _PLACE[remark.field]))


def blocks(remarks: list[Advice]) -> bool:
    """Whether a run with these remarks must not start."""
    return any(remark.severity == "error" for remark in remarks)
