"""What a rule of advice is, and the registry that every rule enters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from finetui.recipe.datafacts import Details
from finetui.recipe.facts import Facts
from finetui.recipe.forecast import Plan, plan
from finetui.recipe.schema import Recipe

Severity = Literal["error", "warning", "advice"]


@dataclass(frozen=True, slots=True)
class Advice:
    """One remark on one field.

    An error blocks the launch, a warning can be overridden and is recorded, advice is a hint.
    ``rule`` is the id of the rule that spoke.
    """

    field: str
    severity: Severity
    message: str
    reason: str
    source: str
    rule: str = ""


@dataclass
class Case:
    """What a rule looks at: the recipe, what is known, and the forecast of both."""

    recipe: Recipe
    facts: Facts

    @cached_property
    def plan(self) -> Plan:
        return plan(self.recipe, self.facts)

    @property
    def details(self) -> Details:
        """The look into the files; all unknown where nobody looked."""
        return self.facts.details or Details()

    @property
    def adapts(self) -> bool:
        """Whether an adapter is trained, and not all weights."""
        return self.recipe.method.kind != "full"

    @property
    def objective(self) -> str:
        return self.recipe.method.objective

    def lacks(self, package: str) -> bool:
        """Whether a package is known not to be installed."""
        packages = self.details.packages
        return packages is not None and package not in packages


Check = Callable[[Case], Iterator[Advice]]

RULES: dict[str, Check] = {}


def rule(id: str) -> Callable[[Check], Check]:
    """Enter a rule into the registry under its id."""

    def enter(check: Check) -> Check:
        assert id not in RULES, id
        RULES[id] = check
        return check

    return enter


def error(field: str, message: str, reason: str, source: str) -> Advice:
    return Advice(field, "error", message, reason, source)


def warning(field: str, message: str, reason: str, source: str) -> Advice:
    return Advice(field, "warning", message, reason, source)


def advice(field: str, message: str, reason: str, source: str) -> Advice:
    return Advice(field, "advice", message, reason, source)
