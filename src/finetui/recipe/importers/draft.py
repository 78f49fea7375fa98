"""A config on its way to a recipe: every key is taken over, lost with a reason, or an error."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from finetui.recipe import schema
from finetui.recipe.field import Field, FieldError, Value, given, quote
from finetui.recipe.files import Problem
from finetui.recipe.importers.imported import SOURCES, Imported, Lost, Taken
from finetui.recipe.schema import Recipe, defaults
from finetui.workspace import DATA_SUFFIXES, PACKED_SUFFIXES

_SECRET = re.compile(r"token$|api_key|password|secret|webhook", re.IGNORECASE)
_LONGEST_VALUE = 60  # characters shown of a value that was lost

Convert = Callable[[object], object]


class NoEquivalent(Exception):
    """A value that finetui has nothing like; the message is one sentence."""


class Broken(Exception):
    """A value that makes no sense for its key in any trainer; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Key:
    """Where a key goes: its field, and what turns its value into the field's."""

    field: str
    convert: Convert | None = None


@dataclass
class Draft:
    """The keys of a config that nobody has dealt with yet, and what became of the others.

    ``values`` are by dotted key. A key without a value (null, "", [], {}) means its default, and
    is no loss.
    """

    values: dict[str, object]
    lines: Mapping[str, int]
    recipe: Recipe = field(default_factory=defaults)
    taken: list[Taken] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    _set: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._open = {key for key, value in self.values.items() if not _is_empty(value)}

    # --- reading ---------------------------------------------------------------------------------

    def has(self, key: str) -> bool:
        """Whether a key has a value and nobody has dealt with it."""
        return key in self._open

    def get(self, key: str) -> object:
        """The value of a key, dealt with or not; None where it has none."""
        value = self.values.get(key)
        return None if _is_empty(value) else value

    def is_on(self, key: str) -> bool:
        """Whether a key says yes."""
        value = self.get(key)
        return value is not None and is_yes(value)

    def is_set(self, field_id: str) -> bool:
        """Whether a field has got a value."""
        return field_id in self._set

    # --- dealing with a key ----------------------------------------------------------------------

    def take(self, key: str, field_id: str, value: object, note: str = "") -> None:
        """Put a value into a field; one that is out of its bounds is lost with the reason."""
        self._open.discard(key)
        found = schema.field(field_id)
        try:
            self.recipe = schema.replace(self.recipe, field_id, fitting(found, value))
        except FieldError as error:
            self.lose(key, str(error), field_id)
        except Broken as error:
            self.problems.append(Problem(self.lines.get(key, 0), key, f"{key}: {error}"))
        else:
            self._set.add(field_id)
            shown = found.show(schema.get(self.recipe, field_id))
            self.taken.append(Taken(key, self.lines.get(key, 0), field_id, shown, note))

    def lose(self, key: str, reason: str, nearest: str = "", matters: bool = True) -> None:
        """Say that a key has no equivalent."""
        self._open.discard(key)
        value = shortened(key, self.values.get(key))
        line = self.lines.get(key, 0)
        self.lost.append(Lost(key, line, value, reason, nearest, matters))

    def skip(self, *keys: str) -> None:
        """Deal with keys whose meaning went into the recipe with another key."""
        self._open.difference_update(keys)

    # --- dealing with many -----------------------------------------------------------------------

    def translate(self, table: Mapping[str, Key]) -> None:
        """Take over every key of a table that is still open."""
        for key, rule in table.items():
            if not self.has(key):
                continue
            try:
                value = self.values[key]
                self.take(key, rule.field, rule.convert(value) if rule.convert else value)
            except NoEquivalent as error:
                self.lose(key, str(error), rule.field)
            except Broken as error:
                self.skip(key)
                self.problems.append(Problem(self.lines.get(key, 0), key, f"{key}: {error}"))

    def without(self, table: Mapping[str, tuple[str, str]]) -> None:
        """Lose the keys of a table of (reason, nearest field); one that is off is no loss."""
        for key, (reason, nearest) in table.items():
            if self.has(key):
                self._lose_unless_off(key, reason, nearest)

    def _lose_unless_off(self, key: str, reason: str, nearest: str) -> None:
        value = self.values[key]
        if value is False or (isinstance(value, (int, float)) and value in (0, -1)):
            self.skip(key)
        else:
            self.lose(key, reason, nearest)

    def bookkeeping(self, keys: Collection[str], reason: str) -> None:
        """Lose keys that do not change what is learned."""
        for key in sorted(self._open & set(keys)):
            self.lose(key, reason, matters=False)

    def default(self, values: Iterable[tuple[str, Value]], note: str = "the default there") -> None:
        """Give fields that have no value yet one that the config does not name."""
        for field_id, value in values:
            if field_id in self._set:
                continue
            self._set.add(field_id)
            if schema.get(self.recipe, field_id) != value:
                self.recipe = schema.replace(self.recipe, field_id, value)
                shown = schema.field(field_id).show(value)
                self.taken.append(Taken("", 0, field_id, shown, note))

    def finish(self, source: str) -> Imported:
        """The import; keys that are still open are unknown."""
        for key in sorted(self._open, key=lambda key: self.lines.get(key, 0)):
            near = next(iter(schema.nearest(key)), "")
            self.lose(key, f"not a key of {SOURCES[source]} that finetui knows.", near)
        taken = sorted(self.taken, key=lambda found: (not found.line, found.line))
        lost = sorted(self.lost, key=lambda found: (not found.matters, found.line))
        if not self.recipe.data.train:
            self.notes.append("No data file came over: name the training data.")
        return Imported(source, self.recipe, tuple(taken), tuple(lost), tuple(self.notes))

    def name_after(self, stem: str) -> None:
        """Name the run after its file, where the config does not name it."""
        self.default([("name", stem[:80])], "the file's name")


# --- values --------------------------------------------------------------------------------------


def fitting(found: Field, value: object) -> object:
    """A config's value in the type of a field; raises Broken for one of another kind."""
    match found.kind:
        case "int" | "float":
            return _whole(number(value)) if found.kind == "int" else number(value)
        case "bool":
            return is_yes(value)
        case "paths" | "list":
            return names(value)
        case _:
            if isinstance(value, (dict, list)):
                raise Broken(f"must be text, not {given(value)}.")
            return str(value)


def number(value: object) -> float:
    """A finite number, also written as text (``1e-4`` is text in YAML 1.1); raises Broken."""
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            found = float(value)
        except (ValueError, OverflowError):
            found = math.nan
        if math.isfinite(found):
            return found
    raise Broken(f"must be a number, not {given(value)}.")


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value


def is_yes(value: object) -> bool:
    """A switch, also as text or as 0 and 1; raises Broken."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0", "none", "null", ""):
        return False
    raise Broken(f"must be true or false, not {given(value)}.")


def names(value: object) -> list[str]:
    """A list of names, or text with commas; raises Broken."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return [part for part in value if isinstance(part, str) and part]
    raise Broken(f"must be a list of names, not {given(value)}.")


def choice(words: Mapping[str, str], what: str) -> Convert:
    """A converter from another trainer's words to ours; others have no equivalent."""

    def convert(value: object) -> str:
        word = str(value).strip().lower()
        if word not in words:
            raise NoEquivalent(f"finetui has no {what} {quote(str(value))}.")
        return words[word]

    return convert


def is_data_file(name: str) -> bool:
    """Whether a name is that of a data file, as finetui opens them, and not of a hub's set."""
    plain = name
    for suffix in PACKED_SUFFIXES:
        plain = plain.removesuffix(suffix)
    return plain.endswith(DATA_SUFFIXES) and "://" not in name


def shortened(key: str, value: object) -> str:
    """A value in one short line; keys and passwords are not shown."""
    if _SECRET.search(key):
        return "(hidden)"
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def _is_empty(value: object) -> bool:
    return value is None or value == "" or value == [] or value == {}
