"""Colour themes: one TOML file each, checked before Textual sees it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tomli
from textual.color import Color, ColorParseError
from textual.css.tokenize import tokenize_value
from textual.css.tokenizer import TokenError
from textual.theme import Theme

from finetui.errors import BROKEN, UserError

DEFAULT = "finetui-dark"
_COLOURS = (
    "primary", "secondary", "accent", "foreground", "background", "surface", "panel",
    "success", "warning", "error", "boost",
)  # fmt: skip
# Our own colour names and the theme colour each falls back to.
OWN = {
    "line": "panel",
    "line-focus": "accent",
    "muted": "secondary",
    "bar": "panel",
    "cursor": "primary",
    "cursor-text": "background",
    "cursor-blurred": "panel",
    "key": "accent",
    "role-system": "secondary",
    "role-user": "primary",
    "role-assistant": "success",
    "role-tool": "warning",
    "series-1": "primary",
    "series-2": "accent",
    "series-3": "warning",
    "series-4": "error",
    "band": "panel",
    "grid": "panel",
}
_NAME = re.compile(r"[\w.-][\w. -]{0,63}")
_NAME_HINT = "Use letters, digits, dot, dash and underscore, at most 64."
_VARIABLE = re.compile(r"[a-z][a-z0-9-]*")
_TABLES = {"variables"}
_FLAGS = {"name", "dark", "ansi"}


def load(path: Path) -> Theme:
    """Read one theme file; raises UserError that names the file and the key."""
    try:
        found: dict[str, Any] = tomli.loads(path.read_text("utf-8"))
    except (OSError, *BROKEN) as error:
        raise UserError(f"is not a readable theme: {error}.", str(path)) from error
    unknown = set(found) - set(_COLOURS) - _TABLES - _FLAGS
    if unknown:
        raise UserError(f"unknown key {sorted(unknown)[0]!r} in a theme.", str(path))
    if "primary" not in found:
        raise UserError("a theme needs at least 'primary'.", str(path))
    variables = found.get("variables", {})
    if not isinstance(variables, dict):
        raise UserError("'variables' is no table.", str(path))
    for key, value in variables.items():
        _check_variable(path, key, value)
    colours = {key: found[key] for key in _COLOURS if key in found}
    for key, value in [
        *colours.items(),
        *((key, variables[key]) for key in variables if key in OWN),
    ]:
        _check_colour(path, key, value)
    name = found.get("name", path.stem)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot be a theme's name.", str(path), _NAME_HINT)
    return Theme(
        name=name,
        dark=bool(found.get("dark", True)),
        ansi=bool(found.get("ansi", False)),
        variables=variables,
        **colours,
    )


def _check_variable(path: Path, key: str, value: object) -> None:
    """Refuse what the style sheets could not hold: it would end the app before its first frame."""
    try:
        if not isinstance(value, str) or not _VARIABLE.fullmatch(key):
            raise ValueError("not a word and its text")
        list(tokenize_value(value, ("", "")))
    except (ValueError, TokenError) as error:
        raise UserError(f"{key} = {value!r} is no value for a style sheet.", str(path)) from error


def _check_colour(path: Path, key: str, value: object) -> None:
    try:
        if not isinstance(value, str):
            raise ColorParseError("not text")
        Color.parse(value)
    except ColorParseError as error:
        raise UserError(f"{key} = {value!r} is not a colour.", str(path)) from error


def load_all(folders: Iterable[Path]) -> tuple[list[Theme], list[str]]:
    """All themes of the folders, later ones winning by name, and what was wrong with the rest."""
    themes: dict[str, Theme] = {}
    problems = []
    for folder in folders:
        for path in sorted(folder.glob("*.toml")):
            try:
                theme = load(path)
            except UserError as error:
                problems.append(str(error))
            else:
                themes[theme.name] = theme
    return list(themes.values()), problems


def own_variables(theme: Theme) -> dict[str, str]:
    """Our colour names for a theme that does not set them (Textual's own themes, mostly)."""
    colours = {
        key: value for key, value in dataclasses.asdict(theme).items() if isinstance(value, str)
    }
    found = {name: colours.get(source) or theme.primary for name, source in OWN.items()}
    return found | {"ansi-background": "ansi_black", "ansi-foreground": "ansi_white"}
