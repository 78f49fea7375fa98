"""The page of all recipe fields, made from the schema: ``python -m finetui.recipe.docs``."""

from __future__ import annotations

from finetui.recipe import forecast
from finetui.recipe.advice import RULES
from finetui.recipe.field import Field, show_bound
from finetui.recipe.schema import FIELDS, GROUPS

_HEAD = """\
# The recipe

One TOML file a run. The form, the command line (`--set training.learning_rate=2e-4`), the checks
and this page come from one schema, `src/finetui/recipe/schema.py`; this page is made by
`python -m finetui.recipe.docs > docs/recipe.md`.

Everything has a default, so a file holds only what matters. An unknown key is an error that names
the line and the nearest key. Paths are relative to the workspace. A save from the form changes
only the values that changed: comments and order stay.
"""

_RULES_HEAD = """\
## Advice

An error blocks the launch, a warning can be overridden and is recorded, advice is a hint. Each
says why, and where its figure is from. The rules are functions in `src/finetui/recipe/rules/`:
"""


def as_markdown() -> str:
    """The whole page."""
    parts = [_HEAD]
    for group in GROUPS:
        title = f"## {group.title}" + (f": `[{group.table}]`" if group.table else "")
        fields = "\n".join(_entry(found) for found in FIELDS if found.group == group.id)
        parts.append(f"{title}\n\n{group.help}\n\n{fields}")
    parts.append(_RULES_HEAD + "\n" + ", ".join(f"`{id}`" for id in sorted(RULES)) + ".\n")
    parts.append("## Forecast\n\n" + (forecast.__doc__ or ""))
    return "\n".join(parts)


def _entry(found: Field) -> str:
    unit = f" {found.unit}" if found.unit and not found.unit.startswith("share") else ""
    default = found.show(found.default) or "empty"
    later = f" ({', '.join(found.reserved)}: reserved for later)" if found.reserved else ""
    return (
        f"### `{found.key}`: {found.label}\n\n"
        f"{found.help}\n\n"
        f"{found.why}\n\n"
        f"*{_takes(found)}{later}; default {default}{unit}. Source: {found.source}.*\n"
    )


def _takes(found: Field) -> str:
    if found.kind == "choice":
        return "One of " + ", ".join(found.choices)
    if found.kind in ("int", "float"):
        return f"{show_bound(found.low)} to {show_bound(found.high)}"
    return found.expects[:1].upper() + found.expects[1:]


if __name__ == "__main__":
    print(as_markdown(), end="")
