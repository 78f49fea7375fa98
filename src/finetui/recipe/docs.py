"""The page of all recipe fields, made from the schema: ``python -m finetui.recipe.docs``."""

from __future__ import annotations

from finetui.recipe import forecast
from finetui.recipe.advice import RULES
from finetui.recipe.field import Field, show_bound
from finetui.recipe.importers import SOURCES
from finetui.recipe.presets import HARDWARE, METHODS, SIZES, known_ids, preset
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
says why, and where its figure is from: `finetui recipe check RECIPE`. The rules are functions in
`src/finetui/recipe/rules/`, one module a part:
"""

_PRESETS_HEAD = """\
## Presets

`finetui recipe presets RECIPE` lists what suits the recipe's model and this machine;
`finetui recipe new NAME --preset ID` begins with one, and several may be given. The word of a
machine's preset is method-model-hardware, as in `qlora-8b-24g`: the widest batch that the forecast
fits into its memory, then recomputed activations, then 8-bit optimiser states.
"""

_IMPORT_HEAD = """\
## Import

`finetui recipe import FILE` makes a recipe of a config of {trainers}, and lists every key that had
no equivalent, with the reason and the nearest field. What the config leaves out gets the default of
the trainer it is from, so that the run stays the same. Nothing in the file is run.
"""

_SWEEP = """\
## Sweeps

`finetui sweep RECIPE learning_rate=1e-4,2e-4 rank=8,16` runs every combination, one run after
another; lists are parted by semicolons (`'target_modules=all-linear;q_proj,v_proj'`), `--trials
FILE` takes one run a line. It goes on when the terminal closes. `finetui sweep --show` compares the
runs in one table, `--stop ID` and `--go-on ID` end and go on, `--list` lists the sweeps.
"""


def as_markdown() -> str:
    """The whole page."""
    parts = [_HEAD]
    for group in GROUPS:
        title = f"## {group.title}" + (f": `[{group.table}]`" if group.table else "")
        fields = "\n".join(_entry(found) for found in FIELDS if found.group == group.id)
        parts.append(f"{title}\n\n{group.help}\n\n{fields}")
    parts += [_RULES_HEAD + "\n" + _rules(), _PRESETS_HEAD + "\n" + _presets()]
    parts += [_IMPORT_HEAD.format(trainers=", ".join(SOURCES.values())), _SWEEP]
    parts.append("## Forecast\n\n" + (forecast.__doc__ or ""))
    return "\n".join(parts)


def _rules() -> str:
    """The ids of all rules by the module they stand in."""
    modules: dict[str, list[str]] = {}
    for id, check in RULES.items():
        modules.setdefault(check.__module__.rpartition(".")[2], []).append(id)
    lines = (
        f"- {module}: {', '.join(f'`{id}`' for id in sorted(ids))}\n"
        for module, ids in sorted(modules.items())
    )
    return "".join(lines)


def _presets() -> str:
    goals = (preset(id) for id in known_ids() if id.count("-") < 2)
    listed = "".join(f"- `{goal.id}`: {goal.title}. {goal.help}\n" for goal in goals)
    methods = ", ".join(METHODS)
    sizes = ", ".join(f"{size.id} ({size.title})" for size in SIZES)
    machines = ", ".join(machine.id for machine in HARDWARE)
    return f"Methods: {methods}. Models: {sizes}. Hardware: {machines}.\n\nGoals:\n\n{listed}"


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
