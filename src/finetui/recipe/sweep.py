"""Sweeps: one recipe as many, by a grid or a list over any field."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetui.errors import UserError
from finetui.recipe.field import Field, FieldError, quote
from finetui.recipe.schema import Recipe, Value, field, replace, with_value

MOST_TRIALS = 200
_LONGEST_NAME = 80  # characters a recipe's name may have


@dataclass(frozen=True, slots=True)
class Axis:
    """One field and the values it takes."""

    field: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a sweep: its changes as (field id, value as typed), and the whole recipe."""

    name: str
    changes: tuple[tuple[str, str], ...]
    recipe: Recipe


def axis(text: str) -> Axis:
    """Read ``field=a,b,c``; values that hold commas themselves (lists, paths) are parted by ``;``.

    The field may be a short key (``learning_rate``). Raises FieldError with one sentence.
    """
    name, equals, typed = text.partition("=")
    if not equals:
        raise FieldError(
            f"{quote(text)} is no axis.", fix="Write FIELD=VALUE,VALUE as in rank=8,16."
        )
    found = field(name.strip())
    values = tuple(found.parse(part) for part in _parts(found, typed))
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise FieldError(f"{found.id} has {found.show(twice)} twice.", fix="Name each value once.")
    return Axis(found.id, values)


def _parts(found: Field, typed: str) -> list[str]:
    listed = found.kind in ("paths", "list") or ";" in typed
    parts = [part.strip() for part in typed.split(";" if listed else ",")]
    if not any(parts):
        raise FieldError(f"{found.id} has no values.", fix="Write them after =, parted by commas.")
    return parts


def grid(recipe: Recipe, axes: Sequence[Axis]) -> list[Trial]:
    """Every combination, the last axis fastest.

    Raises UserError when there are none, a field comes twice, two trials are the same, or there
    are more than MOST_TRIALS.
    """
    names = [item.field for item in axes]
    if len(set(names)) < len(names):
        raise UserError(
            f"{_twice(names)} is given twice.", "sweep", "Put its values into one list."
        )
    many = math.prod(len(item.values) for item in axes)
    _refuse_too_many(many if axes else 0)
    combinations = itertools.product(*(item.values for item in axes))
    return _trials(recipe, (zip(names, values, strict=True) for values in combinations))


def listed(recipe: Recipe, lines: Sequence[str]) -> list[Trial]:
    """One trial a line of ``field=value field=value`` (quoted as in a shell); blank lines and
    those that begin with ``#`` are skipped. Raises as ``grid`` does.
    """
    wanted = [(number, line) for number, line in enumerate(lines, 1) if _says(line)]
    _refuse_too_many(len(wanted))
    return _trials(recipe, [_changes(number, line) for number, line in wanted])


def _says(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _changes(number: int, line: str) -> list[tuple[str, Value]]:
    """The changes of one line; raises UserError that names it."""
    try:
        pairs = [word.partition("=") for word in shlex.split(line)]
        for name, equals, _ in pairs:
            if not equals:
                raise FieldError(f"{quote(name)} is not FIELD=VALUE.")
        found = [(field(name).id, field(name).parse(text)) for name, _, text in pairs]
    except (FieldError, ValueError) as error:
        raise UserError(f"{error}", f"trial {number}") from error
    names = [name for name, _ in found]
    if len(set(names)) < len(names):
        raise UserError(f"{_twice(names)} is given twice.", f"trial {number}")
    return found


def _twice(names: Sequence[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def _refuse_too_many(many: int) -> None:
    if many == 0:
        raise UserError(
            "there is nothing to vary.", "sweep", "Name a field: learning_rate=1e-4,2e-4"
        )
    if many > MOST_TRIALS:
        raise UserError(
            f"that makes {many:,} runs; at most {MOST_TRIALS} are taken.",
            "sweep",
            "Vary fewer fields, or list the combinations that matter.",
        )


def _trials(recipe: Recipe, changes: Iterable[Iterable[tuple[str, Value]]]) -> list[Trial]:
    made: list[Trial] = []
    seen: dict[Recipe, str] = {}
    for change in changes:
        trial = _trial(recipe, list(change))
        bare = replace(trial.recipe, "name", "")
        if bare in seen:
            raise UserError(f"{trial.name!r} is the same run as {seen[bare]!r}.", "sweep")
        seen[bare] = trial.name
        made.append(trial)
    return made


def _trial(recipe: Recipe, change: Sequence[tuple[str, Value]]) -> Trial:
    """One trial, called by its changes; its recipe bears the name of the whole as well."""
    shown = tuple((id, field(id).show(value)) for id, value in change)
    changed = recipe
    for id, value in change:
        changed = replace(changed, id, value)
    words = " ".join(" ".join(f"{_short(id)}={text}" for id, text in shown).split())
    whole = f"{changed.name} {words}".strip()
    name = whole if len(whole) <= _LONGEST_NAME else words[:_LONGEST_NAME]
    return Trial(words, shown, with_value(changed, "name", name))


def _short(id: str) -> str:
    """The key alone where only one table has it."""
    key = id.rpartition(".")[2]
    try:
        return key if field(key).id == id else id
    except FieldError:
        return id
