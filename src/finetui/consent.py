"""Consent to run Python code that comes along: given by a person, for exactly that code.

A model may bring code of its own (``auto_map`` in its configuration). It runs with all rights of
the person who loads it, so a recipe alone cannot allow it: recipes and workspaces are handed on.
The person's consent lies beside their settings, outside any workspace, and names what was read:
the commit of a hub model, and the BLAKE3 hash of each Python file. Changed code needs a new word.
The same holds for a scorer that another person's evaluation names; who types its name allows it.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from finetui.errors import UserError
from finetui.settings import user_file
from finetui.workspace import write_atomic

FILE = "trusted_code.json"
COMMIT = re.compile(r"[0-9a-f]{40}")

# Every file in which transformers looks for the classes of a model's own code.
CONFIGS = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "generation_config.json",
)
_LARGEST = 16 << 20  # bytes of a configuration or of one code file


class Consent(msgspec.Struct, frozen=True):
    """One word of a person: ``files`` are names within the model and their BLAKE3 hashes.

    ``source`` is a hub id with the ``commit`` it was read at, or a folder with "". ``t`` is unix
    time.
    """

    source: str
    commit: str
    files: dict[str, str]
    t: float

    @property
    def name(self) -> str:
        return f"{self.source}@{self.commit[:12]}" if self.commit else self.source


@dataclass(frozen=True)
class Code:
    """What Python a model folder brings along.

    ``classes`` are the entries of auto_map, ``files`` hashes by name, ``elsewhere`` the other
    repositories that auto_map takes code from.
    """

    classes: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    elsewhere: tuple[str, ...] = ()

    @property
    def wanted(self) -> bool:
        """Whether loading the model may run any of it."""
        return bool(self.classes)


def code_in(folder: Path, repository: str = "") -> Code:
    """The code in a model folder, or in a snapshot of the hub's ``repository``; runs none of it.

    Raises UserError for a file that cannot be read or is far too large for code, and for a linked
    folder.
    """
    classes, elsewhere = set(), set()
    for reference in _references(folder):
        origin, marked, name = reference.rpartition("--")
        if marked and origin != repository:
            elsewhere.add(origin)
        classes.add(name)
    files = {str(path.relative_to(folder)): _digest(path) for path in sorted(_python(folder))}
    return Code(tuple(sorted(classes)), files, tuple(sorted(elsewhere)))


def _references(folder: Path) -> Iterator[str]:
    for name in CONFIGS:
        file = folder / name
        if not file.is_file() or file.stat().st_size > _LARGEST:
            continue
        try:
            found = json.loads(file.read_bytes())
        except (OSError, ValueError):
            continue  # whoever needs the file says what is wrong with it
        yield from references(found)


def references(config: object) -> Iterator[str]:
    """The classes that a configuration names in ``auto_map``, at any depth."""
    if isinstance(config, list):
        for part in config:
            yield from references(part)
    if not isinstance(config, Mapping):
        return
    for key, value in config.items():
        if key == "auto_map" and value:
            named = value.values() if isinstance(value, Mapping) else [value]
            for one in named:
                parts = one if isinstance(one, list) else [one]
                yield from (str(part) for part in parts if part is not None)
        else:
            yield from references(value)


def _python(folder: Path) -> Iterator[Path]:
    for here, inner, names in os.walk(folder):
        for name in inner:
            if (Path(here) / name).is_symlink():
                raise UserError(
                    "is a linked folder: what code it holds may change unseen.",
                    str(Path(here) / name),
                    "Put the files themselves into the model's folder.",
                )
        yield from (Path(here) / name for name in names if name.endswith(".py"))


def _digest(path: Path) -> str:
    from blake3 import blake3

    try:
        if path.stat().st_size > _LARGEST:
            raise UserError("is too large for a file of code.", str(path))
        return str(blake3(path.read_bytes()).hexdigest())
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror}).", str(path)) from error


def consent_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Where this person's consents are: beside their settings, never in a workspace."""
    return user_file(environ).with_name(FILE)


class Consents:
    """All that this person allowed; a change is written at once."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = consent_file() if file is None else file

    def all(self) -> list[Consent]:
        """The oldest first. Raises UserError for a file that others could have written."""
        try:
            state = self._file.stat()
        except OSError:
            return []
        if state.st_uid != os.getuid() or state.st_mode & 0o022:
            raise UserError(
                "may be written by others, so what it allows does not count.",
                str(self._file),
                f"Look at it, then: chmod 600 {self._file}",
            )
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=list[Consent])
        except (OSError, ValueError) as error:
            raise UserError(f"cannot be read ({error}).", str(self._file)) from error

    def give(self, source: str, commit: str, code: Code) -> Consent:
        """Allow exactly this code."""
        made = Consent(source, commit, dict(code.files), round(time.time(), 3))
        kept = [one for one in self.all() if (one.source, one.commit) != (source, commit)]
        self._write([*kept, made])
        return made

    def withdraw(self, name: str) -> list[Consent]:
        """Take back what was allowed for a source, or for one of its commits; returns those."""
        gone = [one for one in self.all() if name in (one.source, one.name)]
        if gone:
            self._write([one for one in self.all() if one not in gone])
        return gone

    def of_commit(self, source: str, commit: str) -> Consent | None:
        return next((c for c in self.all() if (c.source, c.commit) == (source, commit)), None)

    def of_files(self, files: Mapping[str, str]) -> Consent | None:
        """The consent that covers every one of these files; None when one of them is new.

        Wherever they lie: a result of full tuning carries copies of its model's code.
        """
        if not files:
            return None
        named = files.items()
        return next((c for c in self.all() if all(c.files.get(n) == h for n, h in named)), None)

    def _write(self, consents: Sequence[Consent]) -> None:
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self._file, msgspec.json.format(msgspec.json.encode(consents)) + b"\n")


def refusal(source: str, revision: str, folder: Path | None) -> str:
    """Why a model's own code may not run: a sentence, "" when it may.

    ``folder`` is the model, or what the hub's cache has of the ``revision``; None when nothing is
    known of a hub model yet.
    """
    local = Path(source).is_dir()
    code = code_in(folder, "" if local else source) if folder is not None else Code()
    if code.elsewhere:
        return f"takes its code from another repository ({', '.join(code.elsewhere)})"
    if not local and not COMMIT.fullmatch(revision):
        return "runs code of its own, and model.revision names no commit (40 hex digits)"
    consents = Consents()
    given = consents.of_files(code.files) if local else consents.of_commit(source, revision)
    if given is None:
        return "runs Python code of its own, and you have not allowed this code"
    new = [n for n, digest in code.files.items() if given.files.get(n) != digest]
    return f"has code that you have not allowed ({', '.join(new)})" if new else ""


def require(source: str, revision: str, folder: Path | None) -> None:
    """Raises UserError with the command that allows it, unless the model's own code may run."""
    if problem := refusal(source, revision, folder):
        raise UserError(f"{problem}.", source, advice(source, revision))


def of_file(path: Path) -> Code:
    """One file of code by itself, a scorer. Raises UserError when it cannot be read."""
    return Code((path.name,), {path.name: _digest(path)})


def allow_file(path: Path) -> None:
    """Take the person at their word: they named this file of code as one to be run."""
    consents = Consents()
    code = of_file(path)
    if consents.of_files(code.files) is None:
        consents.give(str(path), "", code)


def require_file(path: Path) -> None:
    """Raises UserError unless the person named this file of code, as it is now, or allowed it."""
    if Consents().of_files(of_file(path).files) is None:
        raise UserError(
            "is Python code that you have not allowed.", str(path), advice(str(path), "")
        )


def advice(source: str, revision: str) -> str:
    """What to do about code that was not allowed."""
    import shlex

    where = f" --revision {shlex.quote(revision)}" if revision else ""
    return f"Read the code, then: finetui trust {shlex.quote(source)}{where}"


def facts(source: str, revision: str, folder: Path | None) -> dict[str, Any]:
    """What a manifest keeps of code that may run: its source, commit and hashes."""
    code = code_in(folder) if folder is not None else Code()
    return {"source": source, "commit": revision, "files": dict(code.files)}
