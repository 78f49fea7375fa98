"""User settings: typed flag > environment > workspace > user file > default."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import tomli

from finetui.errors import UserError

PREFIX = "FINETUI_"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One person's preferences; each field is also FINETUI_<FIELD> in the environment."""

    theme: str = "finetui-dark"
    """A theme of themes/*.toml or one of Textual's own."""
    ascii: bool = False
    """Draw charts with plain characters where a font has no braille."""
    refresh: float = 1.0
    """Seconds between two looks at a running job; more on a slow line."""


def user_file(environ: Mapping[str, str]) -> Path:
    """The settings file of this person, after the XDG rule."""
    base = environ.get("XDG_CONFIG_HOME") or str(
        Path(environ.get("HOME", "~")).expanduser() / ".config"
    )
    return Path(base) / "finetui" / "settings.toml"


def load(
    workspace_file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Merge all layers into one value.

    Raises UserError that names the file or variable and the nearest known key.
    """
    merged: dict[str, Any] = {}
    for file in (user_file(environ), workspace_file):
        if file is not None and file.is_file():
            merged.update(_from_file(file))
    merged.update(_from_environment(environ))
    merged.update({key: value for key, value in (flags or {}).items() if value is not None})
    return msgspec.convert(merged, Settings)


def _from_file(file: Path) -> dict[str, Any]:
    try:
        found = tomli.loads(file.read_text("utf-8"))
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"is not valid TOML: {error}.", str(file)) from error
    for key, value in found.items():
        _check(key, value, str(file))
    return found


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for field in msgspec.structs.fields(Settings):
        name = PREFIX + field.name.upper()
        if environ.get(name):
            found[field.name] = _typed(field, environ[name], name)
    return found


def _check(key: str, value: Any, where: str) -> None:
    fields = {field.name: field for field in msgspec.structs.fields(Settings)}
    if key not in fields:
        near = difflib.get_close_matches(key, fields, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(fields)}."
        raise UserError(f"unknown setting {key!r}.", where, hint)
    _typed(fields[key], value, f"{where}: {key}")


def _typed(field: msgspec.structs.FieldInfo, value: Any, where: str) -> Any:
    try:
        return msgspec.convert(value, field.type, strict=not isinstance(value, str))
    except msgspec.ValidationError as error:
        raise UserError(f"{error}; the value is {value!r}.", where) from error
