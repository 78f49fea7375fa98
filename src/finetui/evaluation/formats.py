"""Is an answer in the form that was asked for? Three rates: it parses, it fits, it makes sense.

``parses``: it is JSON (or the pattern matches, or the parser reads it). ``fits``: the schema holds.
``sound``: what it says agrees with the prompt and the reference where it must.
``parses_unfenced`` is the rate that would hold after taking a Markdown code fence off.
"""

from __future__ import annotations

import ast
import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any
from xml.parsers import expat

import msgspec

from finetui.errors import UserError
from finetui.evaluation.labels import json_object
from finetui.evaluation.patterns import TooSlow, compiled
from finetui.evaluation.record import Format
from finetui.evaluation.words import folded

_LONGEST = 1 << 20
_MOST_FAULTS = 5
_FENCE = re.compile(r"\A\s*```[\w+-]*[ \t]*\n(.*?)\n?[ \t]*```\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Form:
    """What a check says of one answer; ``faults`` in words, the first ones."""

    parses: bool
    fits: bool
    sound: bool
    parses_unfenced: bool
    faults: list[str] = field(default_factory=list)


class FormCheck:
    """Checks answers against one `Format`.

    Raises UserError when the schema, the pattern or the parser is none that can be used. Schemas
    are closed: a reference to anything outside of them is refused, nothing is ever fetched.
    """

    def __init__(self, wanted: Format) -> None:
        self._wanted = wanted
        self._read = _reader(wanted)
        self._schema = _Schema(wanted.schema) if wanted.schema is not None else None

    def check(self, answer: str, prompt: str = "", reference: str = "") -> Form:
        value, fault = self._tried(answer)
        bare = unfenced(answer)
        if fault:
            loose = bare != answer and not self._tried(bare)[1]
            return Form(False, False, False, loose, [fault])
        faults = self._schema.faults(value) if self._schema else []
        senseless = [] if faults else list(self._senseless(value, prompt, reference))
        return Form(True, not faults, not faults and not senseless, True, faults + senseless)

    def _tried(self, answer: str) -> tuple[Any, str]:
        """The value of an answer and what is wrong with its form, "" when nothing is."""
        if not answer.strip() and self._wanted.kind != "regex":
            return None, "empty"
        if len(answer) > _LONGEST:
            return None, f"longer than {_LONGEST:,} characters"
        try:
            return self._read(answer), ""
        except TooSlow as error:
            return None, f"the pattern took too long: {error}"
        except (RecursionError, MemoryError):
            return None, "nested too deeply"
        except _WRONG as error:
            return None, _short(str(error) or type(error).__name__)

    def _senseless(self, value: Any, prompt: str, reference: str) -> Iterator[str]:
        """The fields that say something else than the prompt or the reference."""
        if not isinstance(value, Mapping):
            return
        said = folded(prompt)
        for name in self._wanted.grounded:
            if name in value and folded(str(value[name])) not in said:
                yield f'{name}: "{_short(str(value[name]))}" is not in the prompt'
        wanted = (json_object(reference) or {}) if self._wanted.equal else {}
        for name in self._wanted.equal:
            if name in wanted and value.get(name) != wanted[name]:
                yield f"{name}: not what the reference says"


def unfenced(text: str) -> str:
    """What a Markdown code fence around the whole text holds; the text itself without one."""
    found = _FENCE.match(text)
    return found[1] if found else text


class _Schema:
    """One JSON Schema with a closed registry and patterns that cannot hang."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        from jsonschema import Draft202012Validator, FormatChecker, exceptions, validators
        from referencing import Registry

        kind = validators.validator_for(schema, default=Draft202012Validator)
        try:
            kind.check_schema(schema)
            for pattern in _patterns(schema):
                compiled(pattern)
        except exceptions.SchemaError as error:
            raise UserError(f"is no JSON Schema: {_short(error.message)}", _place(error)) from error
        _try_references(schema)
        # A "$schema" met again by "$ref" would bring the plain validator with its plain patterns.
        safe = validators.extend(kind, {"pattern": _pattern, "patternProperties": _by_pattern})
        self._validator = safe(
            _without_dialect(schema), registry=Registry(), format_checker=FormatChecker()
        )

    def faults(self, value: Any) -> list[str]:
        from referencing.exceptions import Unresolvable

        try:
            errors = list(self._validator.iter_errors(value))
        except Unresolvable as error:
            raise _outside(error) from error
        except TooSlow as error:
            return [f"a pattern of the schema took too long: {error}"]
        except RecursionError:
            return ["nested too deeply for the schema"]
        told = [f"{_place(error)}: {_short(error.message)}" for error in errors]
        return told[:_MOST_FAULTS]


def _try_references(schema: Mapping[str, Any]) -> None:
    """Raises UserError for a reference that leads outside, before the first answer."""
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    resource = Resource.from_contents(schema, default_specification=DRAFT202012)
    name = resource.id() or ""
    resolver = Registry().with_resource(name, resource).resolver(name)
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable as error:
            raise _outside(error) from error


def _without_dialect(schema: Any) -> Any:
    if isinstance(schema, Mapping):
        return {
            key: _without_dialect(value)
            for key, value in schema.items()
            if not (key == "$schema" and isinstance(value, str))
        }
    return [_without_dialect(value) for value in schema] if isinstance(schema, list) else schema


def _outside(error: Exception) -> UserError:
    return UserError(
        f"the schema refers to something outside of it ({_short(str(error))}).",
        fix="Put it under $defs; nothing is fetched.",
    )


def _references(schema: Any) -> Iterator[str]:
    """The references from the top of a schema; those beside a nested $id are left to the check."""
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key == "$ref" and isinstance(value, str):
                yield value
            elif not (isinstance(value, Mapping) and "$id" in value):
                yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key == "pattern" and isinstance(value, str):
                yield value
            elif key == "patternProperties" and isinstance(value, Mapping):
                yield from value
            yield from _patterns(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _patterns(value)


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[Exception]:
    from jsonschema import ValidationError

    if isinstance(value, str) and not compiled(pattern).search(value):
        yield ValidationError(f"{_short(value)!r} does not match {pattern!r}")


def _by_pattern(validator: Any, rules: Any, value: Any, schema: Any) -> Iterator[Exception]:
    if not isinstance(value, dict):
        return
    for pattern, rule in rules.items():
        matches = compiled(pattern).search
        for name in filter(matches, value):
            yield from validator.descend(value[name], rule, path=name, schema_path=pattern)


def _place(error: Any) -> str:
    return ".".join(str(part) for part in error.absolute_path) or "the whole"


def _reader(wanted: Format) -> Callable[[str], Any]:
    if wanted.kind == "json":
        return _strict_json
    if wanted.kind == "regex":
        if not wanted.pattern:
            raise UserError("the form has no pattern.", fix="Set format.pattern.")
        return _Matching(wanted.pattern)
    if wanted.parser not in PARSERS:
        raise UserError(
            f'there is no parser "{wanted.parser}".', fix=f"Choose one of {', '.join(PARSERS)}."
        )
    return PARSERS[wanted.parser]


class _Matching:
    def __init__(self, pattern: str) -> None:
        self._pattern = compiled(pattern)

    def __call__(self, answer: str) -> str:
        if not self._pattern.whole(answer.strip()):
            raise ValueError("does not match the pattern")
        return answer


def _strict_json(text: str) -> Any:
    """JSON as the standard has it: no NaN, no name twice in one object."""
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} (line {error.lineno}, {error.colno})") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"not JSON: {name}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name occurs twice in one object")
    return made


def _json_lines(text: str) -> list[Any]:
    return _some([_strict_json(line) for line in text.splitlines() if line.strip()])


def _csv(text: str) -> list[list[str]]:
    """A table: at least two columns, and the same number in every row."""
    rows = [row for row in csv.reader(text.strip().splitlines(), strict=True) if row]
    widths = {len(row) for row in rows}
    if len(widths) != 1 or widths == {1}:
        raise ValueError("no table: its rows have " + " or ".join(map(str, sorted(widths))))
    return rows


def _xml(text: str) -> str:
    """Well-formed XML without a document type, which is where entities that explode come from."""
    parser = expat.ParserCreate()

    def refuse(*_: Any) -> None:
        raise ValueError("has a document type")

    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(text.strip().encode("utf-8", "replace"), True)
    return text


def _yaml(text: str) -> Any:
    import yaml

    try:
        return _structure(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {_short(str(error))}") from error


def _toml(text: str) -> Any:
    import tomli

    return _structure(tomli.loads(text))


def _python(text: str) -> ast.Module:
    found = ast.parse(text)
    _some(found.body)
    return found


def _number(text: str) -> float:
    return float(text.strip().replace(",", ""))


def _date(text: str) -> date:
    return date.fromisoformat(text.strip())


def _structure(value: Any) -> Any:
    """Any line of prose is a YAML text: only a list or a mapping counts."""
    if not isinstance(value, dict | list):
        raise ValueError("neither a list nor a mapping")
    return value


def _some(rows: list[Any]) -> list[Any]:
    if not rows:
        raise ValueError("empty")
    return rows


PARSERS: Mapping[str, Callable[[str], Any]] = {
    "json": _strict_json,
    "jsonl": _json_lines,
    "yaml": _yaml,
    "toml": _toml,
    "xml": _xml,
    "csv": _csv,
    "python": _python,
    "number": _number,
    "date": _date,
}
"""Readers by name; each raises one of `_WRONG` for a text that is not in its form."""

_WRONG = (ValueError, SyntaxError, csv.Error, expat.ExpatError, msgspec.MsgspecError)


def _short(text: str, limit: int = 120) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
