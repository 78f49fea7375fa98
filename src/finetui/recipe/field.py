"""What a recipe field is: its bounds, its words, and how a person types a value into it."""

from __future__ import annotations

import csv
import difflib
import math
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass

from msgspec import Meta, Struct
from msgspec.structs import fields as struct_fields

from finetui.errors import UserError

Value = str | int | float | bool | tuple[str, ...]

_YES, _NO = ("yes", "on", "true", "y", "1"), ("no", "off", "false", "n", "0")
_LONGEST_NAME = 20  # cells the form has for a label


class FieldError(UserError):
    """A value that a field cannot take; the message is one sentence for the person."""


@dataclass(frozen=True, slots=True)
class Info:
    """The words of one field, written beside its type in the schema.

    ``why`` says what goes wrong when the value is too high or too low; ``source`` says where the
    figure is from. ``kind`` is given where the type alone does not tell (a path is a ``str``).
    ``reserved`` names choices that a file may hold but that cannot be run yet.
    """

    label: str
    help: str
    why: str
    source: str
    unit: str = ""
    kind: str = ""
    reserved: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Field:
    """One setting as TOML, form, command line and docs see it.

    ``kind`` is text, path, paths, int, float, bool, choice or list; ``low`` and ``high`` are
    inclusive, and for text they bound the length in characters.
    """

    id: str
    group: str
    key: str
    label: str
    kind: str
    unit: str
    help: str
    why: str
    source: str
    choices: tuple[str, ...]
    reserved: tuple[str, ...]
    low: float | None
    high: float | None
    default: Value

    @property
    def flag(self) -> str:
        """The command-line flag: ``--training-learning-rate``."""
        return "--" + self.id.replace(".", "-").replace("_", "-")

    @property
    def is_share(self) -> bool:
        """Whether ``25%`` may be typed for 0.25."""
        return self.unit.startswith("share")

    @property
    def expects(self) -> str:
        """What the field takes, to end a sentence that begins with ``must be``."""
        match self.kind:
            case "int" | "float":
                noun = "a whole number" if self.kind == "int" else "a number"
                return f"{noun} between {show_bound(self.low)} and {show_bound(self.high)}"
            case "bool":
                return "yes or no"
            case "choice":
                return "one of " + ", ".join(self.choices)
            case "paths":
                return "a list of paths"
            case "list":
                return "a list of names"
            case "path":
                return "a path"
            case _:
                return f"text of at most {show_bound(self.high)} characters"

    def accept(self, value: object) -> Value:
        """Return ``value`` in the field's own type; raises FieldError when it cannot be taken."""
        taken = _take(self, value)
        if taken is None:
            raise FieldError(f"{self.label} must be {self.expects}, not {given(value)}.")
        return taken

    def parse(self, text: str) -> Value:
        """Read what a person typed; raises FieldError with one sentence."""
        typed = text.strip() if self.key != "notes" else text
        if not typed and self.kind in ("int", "float", "bool", "choice"):
            raise FieldError(f"{self.label} is empty; the default is {self.show(self.default)}.")
        value = _read(self, typed)
        taken = None if value is None else _take(self, value)
        if taken is None:
            hint = _hint(self, typed)
            raise FieldError(
                f"{self.label} must be {self.expects}; you typed {quote(text)}.", fix=hint
            )
        return taken

    def show(self, value: Value) -> str:
        """``value`` as a person would type it; ``parse(show(value)) == value``."""
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, (int, float)):
            return show_number(value)
        if isinstance(value, tuple):
            return ", ".join(_protect(part) for part in value)
        return value


def show_number(value: float) -> str:
    """A number in its shortest plain form: ``2e-4``, ``0.06``, ``3``, ``1024``."""
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    text = repr(value)
    if abs(value) >= 1e-3 and "e" not in text:
        return text
    shortest = next(short for places in range(18) if float(short := f"{value:.{places}e}") == value)
    digits, _, exponent = shortest.partition("e")
    return f"{digits}e{int(exponent)}"


def show_bound(value: float | None) -> str:
    """A bound for people: ``1e-7``, ``10,000,000``; ``any`` where there is none."""
    if value is None:
        return "any"
    return f"{int(value):,}" if abs(value) >= 10_000 else show_number(value)


def _take(field: Field, value: object) -> Value | None:
    """``value`` in the field's type when type, bounds and choices allow it, else None."""
    match field.kind:
        case "bool":
            return value if isinstance(value, bool) else None
        case "int" | "float":
            return _take_number(field, value)
        case "paths" | "list":
            return _take_list(value)
        case "choice":
            return value if isinstance(value, str) and value in field.choices else None
        case _:
            fits = isinstance(value, str) and len(value) <= (field.high or math.inf)
            return value if fits and isinstance(value, str) else None


def _take_number(field: Field, value: object) -> Value | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if field.kind == "int" and not isinstance(value, int):
        return None
    low = -math.inf if field.low is None else field.low
    high = math.inf if field.high is None else field.high
    if not low <= value <= high:  # also False for NaN
        return None
    return float(value) if field.kind == "float" else value


def _take_list(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, (list, tuple)):
        return None
    names = tuple(part for part in value if isinstance(part, str) and part)
    return names if len(names) == len(value) else None


def _read(field: Field, typed: str) -> Value | None:
    """The typed text as a value of the field's kind, not yet checked against bounds."""
    match field.kind:
        case "bool":
            word = typed.lower()
            return True if word in _YES else False if word in _NO else None
        case "int" | "float":
            return _read_number(field, typed)
        case "paths" | "list":
            return _split(typed)
        case "choice":
            return typed.lower()
        case _:
            return typed


def _read_number(field: Field, typed: str) -> int | float | None:
    share = typed.endswith("%") and field.is_share
    try:
        value = float(typed.removesuffix("%").strip()) if share else float(typed)
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    if share:
        value = float(f"{value / 100:.12g}")
    if field.kind == "int":
        return int(value) if value == int(value) else None
    return value


def _split(typed: str) -> tuple[str, ...]:
    """Comma-separated names; one that holds a comma is quoted. An empty text is no name."""
    as_toml = typed.startswith("[") and typed.endswith("]")
    inner = typed[1:-1].replace("'", '"') if as_toml else typed
    parts = next(csv.reader([inner.replace("\n", " ")], skipinitialspace=True), [])
    return tuple(part.strip() for part in parts if part.strip())


def _protect(part: str) -> str:
    if part and not re.search(r'[,"]|^\[', part):
        return part
    return '"' + part.replace('"', '""') + '"'


def quote(text: str) -> str:
    """Text from a person or a file, cut short and with its control characters escaped."""
    return repr(text if len(text) <= 40 else text[:39] + "…")


def _hint(field: Field, typed: str) -> str:
    if field.kind == "choice":
        near = difflib.get_close_matches(typed.lower(), field.choices, 1)
        return f"Did you mean {near[0]}?" if near else ""
    if field.kind in ("int", "float") and re.fullmatch(r"\d+,\d+", typed):
        return "Write the decimal point as a point."
    return ""


def given(value: object) -> str:
    """A value from a file, with its type where that is the news."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return show_number(value) if abs(value) < 1e300 else repr(value)[:40]
        case str():
            return f"the text {quote(value)}"
        case list() | tuple():
            plain = all(isinstance(part, str) for part in value)
            return "a list" if plain else "a list with other types"
        case dict():
            return "a table"
        case _:
            return f"a {type(value).__name__}"


def fields_of(table: type[Struct], group: str, prefix: str) -> Iterator[Field]:
    """Read the fields of one schema table from its annotations: nothing is said twice."""
    hints = typing.get_type_hints(table, include_extras=True)
    for item in struct_fields(table):
        hint = hints[item.name]
        info = _only(hint, Info)
        if info is None:
            continue  # a nested table
        bounds = _only(hint, Meta)
        base = typing.get_args(hint)[0]
        kind = info.kind or _kind(base)
        numeric = kind in ("int", "float")
        low = getattr(bounds, "ge" if numeric else "min_length", None)
        high = getattr(bounds, "le" if numeric else "max_length", None)
        yield Field(
            id=prefix + item.encode_name,
            group=group,
            key=item.encode_name,
            label=info.label,
            kind=kind,
            unit=info.unit,
            help=info.help,
            why=info.why,
            source=info.source,
            choices=typing.get_args(base) if kind == "choice" else (),
            reserved=info.reserved,
            low=low,
            high=high,
            default=item.default,
        )


_Wanted = typing.TypeVar("_Wanted")


def _only(hint: object, wanted: type[_Wanted]) -> _Wanted | None:
    extras = getattr(hint, "__metadata__", ())
    return next((extra for extra in extras if isinstance(extra, wanted)), None)


def _kind(base: object) -> str:
    if typing.get_origin(base) is typing.Literal:
        return "choice"
    if isinstance(base, types.GenericAlias):
        return "list"
    return {str: "text", int: "int", float: "float", bool: "bool"}[typing.cast(type, base)]
