"""What an import gives: the recipe, what was taken over, and what was not."""

from __future__ import annotations

from dataclasses import dataclass

from finetui.recipe.schema import Recipe

# The trainers whose configs can be read, by the word that names them, with the name for people.
SOURCES: dict[str, str] = {
    "llama-factory": "LLaMA-Factory",
    "axolotl": "Axolotl",
    "unsloth": "Unsloth",
    "trl": "TRL",
}


@dataclass(frozen=True, slots=True)
class Taken:
    """One key that became a field: ``line`` is 1-based, ``shown`` the value as a person types it.

    ``note`` says what changed on the way (a rate turned into a share, a name into a path).
    """

    key: str
    line: int
    field: str
    shown: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Lost:
    """One key without an equivalent: its value in one short line, why, and what is nearest.

    ``nearest`` is a field id, empty where finetui has nothing like it. ``matters`` tells that the
    run will differ without it; the rest is bookkeeping (output folders, loader workers).
    """

    key: str
    line: int
    value: str
    reason: str
    nearest: str = ""
    matters: bool = True


@dataclass(frozen=True, slots=True)
class Imported:
    """A recipe from another trainer's config. ``source`` is a word of SOURCES.

    ``lost`` has every key that is not in the recipe, those that matter first; ``notes`` are
    sentences about the whole (what must be filled in, which defaults differ).
    """

    source: str
    recipe: Recipe
    taken: tuple[Taken, ...]
    lost: tuple[Lost, ...]
    notes: tuple[str, ...] = ()
