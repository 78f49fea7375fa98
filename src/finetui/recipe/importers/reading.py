"""The door of the importers: one file or text of any trainer in, an ``Imported`` out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from finetui.errors import UserError
from finetui.recipe.files import Problem, RecipeError
from finetui.recipe.importers import axolotl, llama_factory, trl, unsloth
from finetui.recipe.importers.draft import Draft
from finetui.recipe.importers.imported import SOURCES, Imported
from finetui.recipe.importers.yaml_text import LARGEST, Document, parse

_TRAINERS: dict[str, ModuleType] = {
    "llama-factory": llama_factory,
    "axolotl": axolotl,
    "unsloth": unsloth,
    "trl": trl,
}


def import_file(path: Path, source: str = "") -> Imported:
    """Read another trainer's YAML (or JSON) config; ``source`` is a word of SOURCES, or detected.

    Nothing in the file is run and no path in it is opened. Raises RecipeError (with ``problems``
    that name lines) or UserError: not readable, too large, no YAML, of no known trainer.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(LARGEST + 1)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}.", str(path)) from error
    if len(raw) > LARGEST:
        raise UserError("is too large for a config.", str(path))
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise RecipeError(str(path), [Problem(line, "", "is not UTF-8 text.")]) from error
    return import_text(text, str(path), source)


def import_text(text: str, file: str = "config", source: str = "") -> Imported:
    """Read config text; ``file`` is the name that errors give."""
    document = parse(text, file)
    chosen = _known(source) if source else detect(document.values, file)
    module = _TRAINERS[chosen]
    draft = Draft(_flat(document, module.SECTIONS), document.lines)
    translate: Callable[[Draft, str], None] = module.translate
    translate(draft, Path(file).stem)
    if draft.problems:
        raise RecipeError(file, sorted(draft.problems, key=lambda problem: problem.line))
    return draft.finish(chosen)


def detect(values: Mapping[str, object], file: str = "config") -> str:
    """The trainer whose own keys a config has most of; raises UserError where none stands out."""
    marks = {
        source: len(module.MARKS & set(_flat_keys(values, module.SECTIONS)))
        for source, module in _TRAINERS.items()
    }
    best, second = sorted(marks.values(), reverse=True)[:2]
    if best == 0:
        known = ", ".join(SOURCES.values())
        raise UserError(
            f"is no config of {known}.", file, "If it is one, say which: --from axolotl"
        )
    if best == second:
        close = [source for source, count in marks.items() if count == best]
        raise UserError(
            f"may be of {' or '.join(SOURCES[source] for source in close)}.",
            file,
            f"Say which: --from {close[0]}",
        )
    return max(marks, key=lambda source: marks[source])


def _known(source: str) -> str:
    if source not in SOURCES:
        raise UserError(f"no importer for {source!r}.", fix=f"There are {', '.join(SOURCES)}.")
    return source


def _flat(document: Document, sections: frozenset[str]) -> dict[str, object]:
    """The keys of a config; those of its sections by dotted name."""
    found: dict[str, object] = {}
    for key, value in document.values.items():
        if key in sections and isinstance(value, dict):
            found.update({f"{key}.{inner}": part for inner, part in value.items()})
        else:
            found[key] = value
    return found


def _flat_keys(values: Mapping[str, object], sections: frozenset[str]) -> list[str]:
    return list(_flat(Document(dict(values), {}), sections))
