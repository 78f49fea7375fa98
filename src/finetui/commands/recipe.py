"""``finetui recipe``: check, import, compare and start recipes from presets."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from finetui import start
from finetui.commands import console, train
from finetui.display import clean, plural
from finetui.errors import UserError
from finetui.jobs.folder import find_job
from finetui.recipe import presets
from finetui.recipe.advice import RULES, blocks
from finetui.recipe.compare import differences, recipe_of_run
from finetui.recipe.files import dumps, load, save
from finetui.recipe.importers import SOURCES, Imported, import_file
from finetui.recipe.schema import Recipe, changed, defaults, get
from finetui.workspace import Workspace

_WIDTH = 60  # characters of a value in a table


def parser() -> argparse.ArgumentParser:
    made = console.parser("Check, import, compare and start recipes from presets.", json=True)
    parts = made.add_subparsers(dest="verb", metavar="VERB", required=True, prog="finetui recipe")
    checked = parts.add_parser("check", help="say what is wrong with a recipe, and why")
    checked.add_argument("recipe", help="a recipe file, or the name of one in recipes/")
    brought = parts.add_parser("import", help="make a recipe of another trainer's config")
    brought.add_argument("file", type=Path, help="a YAML or JSON config")
    brought.add_argument("--from", dest="source", default="", metavar="TRAINER",
                         help=f"{', '.join(SOURCES)} (default: told by its keys)")  # fmt: skip
    brought.add_argument("--name", default="", help="name of the new recipe (default: its own)")
    brought.add_argument("--dry-run", action="store_true", help="tell, write nothing")
    compared = parts.add_parser("diff", help="compare two recipes or runs field by field")
    for name in ("before", "after"):
        compared.add_argument(name, help="a recipe, a job, or the word defaults")
    offered = parts.add_parser("presets", help="list good first values for a model and machine")
    offered.add_argument("recipe", nargs="?", default="",
                         help="for this recipe's model, data and method")  # fmt: skip
    new = parts.add_parser("new", help="write a new recipe, from presets where named")
    new.add_argument("name", help="its name in recipes/")
    new.add_argument("--preset", action="append", default=[], metavar="ID",
                     help="take its values; may be given again")  # fmt: skip
    new.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE",
                     help="set a field, as in model.path=model")  # fmt: skip
    rules = parts.add_parser("rules", help="list the ids of all checks")
    for part in (checked, brought, compared, offered, new, rules):
        part.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="for scripts"
        )
        console.add_workspace(part, argparse.SUPPRESS)
    return made


def run(arguments: argparse.Namespace) -> int:
    if arguments.verb == "rules":
        return _rules(arguments)
    workspace = console.workspace_of(arguments)
    verbs = {
        "check": _check, "import": _import, "diff": _diff, "presets": _presets, "new": _new,
    }  # fmt: skip
    return verbs[arguments.verb](arguments, workspace)


def _rules(arguments: argparse.Namespace) -> int:
    for id in sorted(RULES):
        console.emit({"rule": id}) if arguments.json else console.out(id)
    return 0


def _check(arguments: argparse.Namespace, workspace: Workspace) -> int:
    """1 where an error would block the launch."""
    recipe = load(train.recipe_file(workspace, arguments.recipe))
    _, remarks = start.check_recipe(workspace, recipe)
    for found in remarks:
        if arguments.json:
            console.emit({
                "rule": found.rule, "severity": found.severity, "field": found.field,
                "message": found.message, "reason": found.reason, "source": found.source,
            })  # fmt: skip
        else:
            console.out(clean(f"{train.line(found)} [{found.rule}; {found.source}]"))
    if not remarks:
        console.say("nothing to say against it")
    return 1 if blocks(remarks) else 0


# --- import --------------------------------------------------------------------------------------


def _import(arguments: argparse.Namespace, workspace: Workspace) -> int:
    brought = import_file(arguments.file, arguments.source)
    name = arguments.name or brought.recipe.name or arguments.file.stem
    if arguments.json:
        console.emit(_as_value(brought))
    else:
        _tell(brought)
    if not arguments.dry_run:
        path = _new_file(workspace, name)
        save(path, brought.recipe)
        console.say(f"wrote {workspace.relative(path)}; check it: finetui recipe check {path.stem}")
    return 0


def _tell(brought: Imported) -> None:
    """Three tables: what came over, what did not, and what only looks different."""
    console.say(f"a config of {SOURCES[brought.source]}")
    console.table(
        [(item.line or "", item.key, item.field, item.shown[:_WIDTH], item.note)
         for item in brought.taken],
        ("line", "key", "field", "value", "note"),
    )  # fmt: skip
    lost = [item for item in brought.lost if item.matters]
    if lost:
        console.out()
        console.out("no equivalent:")
        console.table(
            [(item.line or "", item.key, item.value, item.reason, item.nearest) for item in lost],
            ("line", "key", "value", "why", "nearest"),
        )
    rest = len(brought.lost) - len(lost)
    if rest:
        console.say(f"{plural(rest, 'key')} of bookkeeping left out (--json lists them)")
    for note in brought.notes:
        console.say(note)


def _as_value(brought: Imported) -> dict[str, Any]:
    fields = changed(brought.recipe)
    return {
        "source": brought.source,
        "recipe": {id: get(brought.recipe, id) for id in fields},
        "taken": [
            {"key": item.key, "line": item.line, "field": item.field, "value": item.shown,
             "note": item.note}
            for item in brought.taken
        ],
        "lost": [
            {"key": item.key, "line": item.line, "value": item.value, "reason": item.reason,
             "nearest": item.nearest, "matters": item.matters}
            for item in brought.lost
        ],
        "notes": list(brought.notes),
    }  # fmt: skip


def _new_file(workspace: Workspace, name: str) -> Path:
    """Where a recipe of a name goes; raises UserError where one is there already."""
    plain = re.sub(r"[^\w.-]+", "-", name.removesuffix(".toml")).strip("-.") or "recipe"
    path = workspace.recipes / f"{plain}.toml"
    if path.exists():
        raise UserError("is there already.", str(path), "Give it another name: --name NAME")
    workspace.recipes.mkdir(mode=0o700, exist_ok=True)
    return path


# --- diff, presets, new --------------------------------------------------------------------------


def _diff(arguments: argparse.Namespace, workspace: Workspace) -> int:
    """1 where they differ, as diff has it."""
    names = (arguments.before, arguments.after)
    found = differences([named(workspace, name) for name in names], workspace.root)
    if arguments.json:
        for item in found:
            console.emit({"field": item.field, "values": list(item.values)})
    elif found:
        rows = [(item.field, *(_cell(value) for value in item.values)) for item in found]
        console.table(rows, ("field", *names))
    else:
        console.say("no field differs")
    return 1 if found else 0


def _cell(value: str) -> str:
    text = " ".join(value.split()) or "(empty)"
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def named(workspace: Workspace, name: str) -> Recipe:
    """The recipe a person means: ``defaults``, a recipe's name or file, or a job."""
    if name == "defaults":
        return defaults()
    try:
        return load(train.recipe_file(workspace, name))
    except UserError as error:
        if not _is_unknown(workspace, name):
            raise
        try:
            job = find_job(workspace.jobs, name)
        except UserError as no_job:
            raise UserError(f"no recipe and no job {name!r}.", fix=error.fix) from no_job
    return recipe_of_run(job.spec())


def _is_unknown(workspace: Workspace, name: str) -> bool:
    places = (Path(name), workspace.recipes / name, workspace.recipes / f"{name}.toml")
    return not any(path.is_file() for path in places)


def _presets(arguments: argparse.Namespace, workspace: Workspace) -> int:
    recipe = defaults()
    if arguments.recipe:
        recipe = load(train.recipe_file(workspace, arguments.recipe))
    facts, _ = start.check_recipe(workspace, recipe)
    found = presets.offered(recipe, facts)
    if arguments.json:
        for item in found:
            console.emit({
                "id": item.id, "title": item.title, "help": item.help, "source": item.source,
                "fits": item.fits, "recommended": item.recommended, "values": dict(item.values),
            })  # fmt: skip
        return 0
    rows = [
        ("*" if item.recommended else "" if item.fits else "x", item.id, item.title, item.help)
        for item in found
    ]
    console.table(rows, ("", "preset", "for", "what it does"))
    console.say("* suits this machine best, x does not fit it")
    return 0


def _new(arguments: argparse.Namespace, workspace: Workspace) -> int:
    path = _new_file(workspace, arguments.name)
    recipe = train.changed(defaults(), [f"name={path.stem}", *arguments.set])
    for id in arguments.preset:
        recipe = presets.applied(recipe, _preset(workspace, recipe, id))
    recipe = train.changed(recipe, arguments.set)
    if arguments.json:
        console.emit({"path": str(path), "changed": list(changed(recipe))})
    path.write_text(dumps(recipe), "utf-8")
    console.say(f"wrote {workspace.relative(path)}")
    return 0


def _preset(workspace: Workspace, recipe: Recipe, id: str) -> presets.Preset:
    """The preset fitted to the recipe's own model where that is offered, else a typical one."""
    facts, _ = start.check_recipe(workspace, recipe)
    own = [found for found in presets.offered(recipe, facts) if found.id == id]
    return own[0] if own else presets.preset(id)
