"""YAML text as plain values with their lines; safe and bounded, whatever the file holds.

The text is parsed into nodes and never constructed: a tag such as ``!!python/object/apply`` is an
error that names its line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import yaml

from finetui.recipe.field import quote
from finetui.recipe.files import Problem, RecipeError

LARGEST = 65_536  # bytes; a config has some hundred lines
_MOST_VALUES = 2_000  # an alias may stand for the same value many times over
_MOST_BRACKETS = 1_000  # the parser takes time that grows with the square of their depth
_DEEPEST = 20
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = {"str", "int", "float", "bool", "null", "timestamp", "seq", "map", "merge", "value"}
# YAML 1.1 takes 2e-4 for text, as it has no point; everybody means the number.
_NUMBER = re.compile(r"[-+]?(\d[\d_]*)?\.?\d[\d_]*\.?([eE][-+]?\d+)?")


@dataclass(frozen=True, slots=True)
class Document:
    """The top mapping of a file; ``lines`` has the 1-based line of each dotted key."""

    values: dict[str, object]
    lines: dict[str, int]


def parse(text: str, file: str) -> Document:
    """Read one YAML (or JSON) mapping; raises RecipeError that names the line."""
    if text.count("[") + text.count("{") > _MOST_BRACKETS:
        raise _fault(file, 0, "holds more than any config does.")
    if text.lstrip("\ufeff \t\r\n").startswith("{"):
        text = text.replace("\t", "  ")  # JSON may be indented by tabs, YAML may not
    try:
        node = yaml.compose(text.lstrip("\ufeff"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _fault(file, mark.line + 1 if mark else 0, _words(error)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _fault(file, line, f"has a character that no YAML holds ({error.reason}).") from error
    except RecursionError as error:
        raise _fault(file, 0, "is nested too deeply for a config.") from error
    if node is None:
        raise _fault(file, 0, "is empty.")
    if not isinstance(node, yaml.MappingNode):
        line = node.start_mark.line + 1
        raise _fault(file, line, "is no list of keys with values, as a config is.")
    reader = _Reader(file)
    values = reader.mapping(node, "", 0)
    return Document(values, reader.lines)


def _fault(file: str, line: int, message: str) -> RecipeError:
    return RecipeError(file, [Problem(line, "", message)])


def _words(error: yaml.MarkedYAMLError) -> str:
    said = (error.problem or "is no YAML").strip().rstrip(".")
    return f"{said}{' ' + error.context.strip() if error.context else ''}."


class _Reader:
    """Turns nodes into plain values, noting lines and counting what it makes."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[str, int] = {}
        self._made = 0

    def mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise _fault(self.file, line, "a key must be a word.")
            name = str(key.value)
            if name in found:
                raise _fault(self.file, line, f"{quote(name)} is there twice.")
            place = f"{path}.{name}" if path else name
            self.lines.setdefault(place, line)
            found[name] = self._value(value, place, depth + 1)
        return found

    def _value(self, node: yaml.Node, path: str, depth: int) -> object:
        self._made += 1
        line = node.start_mark.line + 1
        if self._made > _MOST_VALUES or depth > _DEEPEST:
            raise _fault(self.file, line, "holds more than any config does.")
        tag = node.tag.removeprefix(_TAG)
        if tag not in _PLAIN_TAGS:
            raise _fault(
                self.file, line, f"the tag {quote(node.tag)} is not read: it may run code."
            )
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [
                self._value(item, f"{path}.{place}", depth + 1)
                for place, item in enumerate(node.value)
            ]
        quoted = isinstance(node, yaml.ScalarNode) and bool(node.style)
        return _scalar(tag, str(node.value), quoted)


def _scalar(tag: str, text: str, quoted: bool) -> object:
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() in ("yes", "true", "on")
    if tag in ("int", "float") or (tag == "str" and not quoted and _NUMBER.fullmatch(text)):
        return _number(text)
    return text


def _number(text: str) -> object:
    """The number that a person reads; base 60 and other oddities of YAML 1.1 stay text."""
    plain = text.replace("_", "").lower()
    readers: tuple[Callable[[str], float], ...] = (int, float, _special)
    for read in readers:
        try:
            return read(plain)
        except ValueError:
            continue
    return text


def _special(text: str) -> float:
    names = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}
    if text in names:
        return names[text]
    return int(text, 0)
