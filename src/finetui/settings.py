"""User settings: typed flag > environment > workspace > user file > default."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import tomli

from finetui.errors import BROKEN, UserError

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


class Cluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A way to run on a Slurm cluster: [cluster.NAME], taken by ``--on slurm:NAME``.

    Only the person's own file may say it: setup and container run as that person. "" and 0 leave
    a thing to Slurm.
    """

    partition: str = ""
    """The partition, as `sinfo` lists them."""
    account: str = ""
    """The account that pays."""
    qos: str = ""
    """The quality of service."""
    time: str = ""
    """The time limit, as Slurm writes it: 4:00:00, 2-00:00:00 or minutes."""
    nodes: Annotated[int, msgspec.Meta(ge=1)] = 1
    """The most machines that one run is spread over."""
    gpus: Annotated[int, msgspec.Meta(ge=0)] = 1
    """The most GPUs of one machine that a run takes, one a process; 0 trains on CPUs."""
    gpu_type: str = ""
    """Which GPUs, where the cluster tells them apart: a100, h100, ..."""
    cpus: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Cores of each machine."""
    memory: str = ""
    """Memory of each machine: 64G."""
    modules: list[str] = []
    """What `module load` loads first."""
    setup: list[str] = []
    """Lines of shell that run before training, such as `source ~/env.sh`."""
    container: str = ""
    """The command that starts a program in the container: apptainer exec --nv image.sif."""
    python: str = ""
    """The Python that has finetui on the nodes (default: the one that runs now)."""
    options: list[str] = []
    """Further options of sbatch: --reservation=course."""
    srun: list[str] = []
    """Further options of srun: --container-image=image.sqsh."""
    export: list[str] = []
    """Further environment variables that the run may see; no keys."""
    lead: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """Seconds before the time limit at which the run saves and ends, to go on in a new one;
    0 chooses."""
    attempts: Annotated[int, msgspec.Meta(ge=1)] = 50
    """How often one hand-in may be started: the first time and after each requeue."""


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
    cluster: dict[str, Cluster] = {}
    """The [cluster.NAME] tables: ways to run on a Slurm cluster."""


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
    return msgspec.convert(merged, Settings, strict=False)


def _merge(into: dict[str, Any], layer: dict[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def _from_workspace(file: Path | None, environ: Mapping[str, str]) -> dict[str, Any]:
    found = _from_file(file) if file is not None else {}
    private = [name for name in _PRIVATE if name in found]
    if private:
        raise UserError(
            f"[{private[0]}] is a setting of a person, not of a workspace: it says "
            f"{_PRIVATE[private[0]]}.",
            str(file),
            f"Move it to {user_file(environ)}.",
        )
    return found


def _from_file(file: Path) -> dict[str, Any]:
    try:
        found = tomli.loads(file.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}  # a rater's account may not read the workspace's own
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}.", str(file)) from error
    except BROKEN as error:
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
        if environ.get(prefix + field.name.upper()) and field.name not in _PRIVATE
    }


def _tables() -> dict[str, type[msgspec.Struct]]:
    """The settings that are tables of their own."""
    return {"suggest": Suggest}


# A workspace may come from somebody else.
_PRIVATE = {"suggest": "where rows and keys are sent", "cluster": "what is run as you elsewhere"}


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
        elif kind is Settings and key == "cluster":
            _check_clusters(value, f"{where}: cluster")
        else:
            _typed(fields[key], value, f"{where}: {key}")


def _check_clusters(found: Any, where: str) -> None:
    if not isinstance(found, dict):
        raise UserError("it is a table of profiles.", where, "Write [cluster.NAME].")
    for name, table in found.items():
        if not _NAME.fullmatch(name):
            raise UserError(
                f"{name!r} is no name of a profile.", where, "Use letters, digits, - and _."
            )
        if not isinstance(table, dict):
            raise UserError(f"{name!r} is no profile.", where, f"Write [cluster.{name}].")
        _check(table, Cluster, f"{where}.{name}")


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def _typed(field: msgspec.structs.FieldInfo, value: Any, where: str) -> Any:
    try:
        return msgspec.convert(value, field.type, strict=not isinstance(value, str))
    except msgspec.ValidationError as error:
        raise UserError(f"{error}; the value is {value!r}.", where) from error
