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


class Suggest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where candidate rows are asked for: any endpoint that speaks OpenAI's chat completions.

    Each field is also FINETUI_SUGGEST_<FIELD>. Only the person's own file or environment may say
    it: a workspace may come from somebody else, and must not choose where rows and keys go.
    """

    url: str = ""
    """The endpoint up to its version, like https://host/v1 or http://localhost:8000/v1."""
    model: str = ""
    """The model as the endpoint names it."""
    key_file: str = ""
    """A file that holds the key and that only you can read (mode 0600)."""
    key_env: str = "FINETUI_SUGGEST_KEY"
    """The environment variable that holds the key when there is no key file."""
    timeout: float = 120.0
    """Seconds that one answer may take."""
    temperature: float = 0.8
    """How far answers may stray; 0 is the likeliest words only."""
    max_tokens: int = 4096
    """The most tokens of one answer."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One person's preferences; each field is also FINETUI_<FIELD> in the environment."""

    theme: str = "finetui-dark"
    """A theme of themes/*.toml or one of Textual's own."""
    ascii: bool = False
    """Draw charts with plain characters where a font has no braille."""
    refresh: float = 0.2
    """Least seconds between two looks at a running job; more on a slow line."""
    suggest: Suggest = Suggest()
    """The [suggest] table: the endpoint for candidate rows."""


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
    layers = [_from_file(user_file(environ)), _from_workspace(workspace_file, environ)]
    layers += [_from_environment(environ)]
    layers += [{key: value for key, value in (flags or {}).items() if value is not None}]
    for layer in layers:
        _merge(merged, layer)
    return msgspec.convert(merged, Settings)


def _merge(into: dict[str, Any], layer: dict[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def _from_workspace(file: Path | None, environ: Mapping[str, str]) -> dict[str, Any]:
    found = _from_file(file) if file is not None else {}
    private = [name for name in _tables() if name in found]
    if private:
        raise UserError(
            f"[{private[0]}] is a setting of a person, not of a workspace: it says where rows and "
            "keys are sent.",
            str(file),
            f"Move it to {user_file(environ)}.",
        )
    return found


def _from_file(file: Path) -> dict[str, Any]:
    try:
        found = tomli.loads(file.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}  # a rater's account may not read the workspace's own
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"is not valid TOML: {error}.", str(file)) from error
    _check(found, Settings, str(file))
    return found


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    found = _variables(Settings, PREFIX, environ)
    for name, kind in _tables().items():
        if table := _variables(kind, f"{PREFIX}{name.upper()}_", environ):
            found[name] = table
    return found


def _variables(
    kind: type[msgspec.Struct], prefix: str, environ: Mapping[str, str]
) -> dict[str, Any]:
    """The fields of a struct that the environment gives; an empty variable is none."""
    return {
        field.name: _typed(field, environ[prefix + field.name.upper()], prefix + field.name.upper())
        for field in msgspec.structs.fields(kind)
        if environ.get(prefix + field.name.upper()) and field.name not in _tables()
    }


def _tables() -> dict[str, type[msgspec.Struct]]:
    """The settings that are tables of their own."""
    return {"suggest": Suggest}


def _check(found: dict[str, Any], kind: type[msgspec.Struct], where: str) -> None:
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for key, value in found.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(fields)}."
            raise UserError(f"unknown setting {key!r}.", where, hint)
        table = _tables().get(key) if kind is Settings else None
        if table is not None and isinstance(value, dict):
            _check(value, table, f"{where}: {key}")
        else:
            _typed(fields[key], value, f"{where}: {key}")


def _typed(field: msgspec.structs.FieldInfo, value: Any, where: str) -> Any:
    try:
        return msgspec.convert(value, field.type, strict=not isinstance(value, str))
    except msgspec.ValidationError as error:
        raise UserError(f"{error}; the value is {value!r}.", where) from error
