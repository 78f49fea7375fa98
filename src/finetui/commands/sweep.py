"""``finetui sweep``: a grid or a list of values, one run after another, compared in a table."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from finetui import start
from finetui.commands import console, train
from finetui.display import clean, duration, plural, size
from finetui.errors import UserError
from finetui.jobs.sweep import Row, Sweep, find_sweep, list_sweeps, rows, run_sweep, stop_sweep
from finetui.jobs.sweep import sweep_state as state_of
from finetui.recipe import sweep
from finetui.recipe.field import FieldError
from finetui.recipe.files import load
from finetui.recipe.schema import Recipe, field
from finetui.workspace import Workspace

_LOOK_EVERY_S = 2.0


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Run a recipe with every combination of some values, one run after another; it goes on "
        "when this terminal closes.",
        json=True,
    )
    made.add_argument("recipe", nargs="?", default="",
                      help="a recipe file, or the name of one in recipes/")  # fmt: skip
    made.add_argument("axes", nargs="*", metavar="FIELD=A,B,C",
                      help="values of a field, as in learning_rate=1e-4,2e-4; lists are parted "
                      "by ; as in target_modules=all-linear;q_proj,v_proj")  # fmt: skip
    made.add_argument("--trials", type=Path, metavar="FILE",
                      help="a file with one run a line: field=value field=value")  # fmt: skip
    made.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE",
                      help="change a field of every run")  # fmt: skip
    made.add_argument("--name", default="", help="name of the sweep (default: the recipe's)")
    made.add_argument("--dry-run", action="store_true", help="list the runs, start nothing")
    made.add_argument("--wait", action="store_true", help="stay until all runs have ended")
    made.add_argument("--show", nargs="?", const="last", metavar="ID",
                      help="the comparing table of a sweep (default: the newest)")  # fmt: skip
    made.add_argument("--list", action="store_true", help="list the sweeps with their states")
    made.add_argument("--stop", metavar="ID", help="start no further run")
    made.add_argument("--now", action="store_true", help="with --stop: stop the going run too")
    made.add_argument("--go-on", metavar="ID", help="run what is left of a sweep")
    return made


def run(arguments: argparse.Namespace) -> int:
    workspace = console.workspace_of(arguments)
    if arguments.list:
        return _list(arguments, workspace)
    if arguments.show:
        _show(find_sweep(workspace.sweeps, arguments.show), arguments.json)
        return 0
    if arguments.stop:
        console.say(stop_sweep(find_sweep(workspace.sweeps, arguments.stop), arguments.now))
        return 0
    if arguments.go_on:
        found = find_sweep(workspace.sweeps, arguments.go_on)
        run_sweep(found)
        return _started(found, arguments)
    return _start(arguments, workspace)


def _start(arguments: argparse.Namespace, workspace: Workspace) -> int:
    if not arguments.recipe:
        raise UserError("no recipe is named.", fix="finetui sweep RECIPE FIELD=A,B,C")
    recipe = train.changed(load(train.recipe_file(workspace, arguments.recipe)), arguments.set)
    trials = _trials(arguments, recipe)
    if arguments.dry_run:
        return _tell(workspace, trials, arguments.json)
    name = arguments.name or recipe.name or Path(arguments.recipe).stem
    return _started(start.start_sweep(workspace, name, trials), arguments)


def _trials(arguments: argparse.Namespace, recipe: Recipe) -> list[sweep.Trial]:
    if arguments.trials and arguments.axes:
        raise UserError("give values or a file of runs, not both.", "--trials")
    if arguments.trials:
        try:
            lines = arguments.trials.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError("cannot be read as text.", str(arguments.trials)) from error
        try:
            return sweep.listed(recipe, lines)
        except UserError as error:
            raise UserError(error.what, f"{arguments.trials}: {error.where}", error.fix) from error
    return sweep.grid(recipe, [_axis(text) for text in arguments.axes])


def _axis(text: str) -> sweep.Axis:
    try:
        return sweep.axis(text)
    except FieldError as error:
        raise UserError(error.what, text.partition("=")[0], error.fix) from error


def _tell(workspace: Workspace, trials: list[sweep.Trial], as_json: bool) -> int:
    """List the runs with what the checks say; 1 where one could not start."""
    blocked = False
    for trial in trials:
        _, remarks = start.check_recipe(workspace, trial.recipe)
        errors = [found for found in remarks if found.severity == "error"]
        blocked = blocked or bool(errors)
        if as_json:
            console.emit({"name": trial.name, "changes": dict(trial.changes),
                          "errors": [found.message for found in errors]})  # fmt: skip
        else:
            console.out(clean(trial.name))
            for found in errors:
                console.out(clean(f"  {train.line(found)}"))
    console.say(f"{plural(len(trials), 'run')}, nothing started")
    return 1 if blocked else 0


def _started(found: Sweep, arguments: argparse.Namespace) -> int:
    console.say(f"{found.id}: {plural(len(found.trials()), 'run')}; see: finetui sweep --show")
    if not arguments.wait:
        if arguments.json:
            console.emit({"sweep": found.id, "path": str(found.path)})
        else:
            console.place(found.path)
        return 0
    told = ""
    while (now := state_of(found)).name == "running":
        if now.sentence != told:
            console.say(now.sentence)
            told = now.sentence
        time.sleep(_LOOK_EVERY_S)
    _show(found, arguments.json)
    ended_well = all(row.state.name == "finished" for row in rows(found))
    return 0 if ended_well else 1


def _list(arguments: argparse.Namespace, workspace: Workspace) -> int:
    sweeps = list_sweeps(workspace.sweeps)
    if arguments.json:
        for found in sweeps:
            now = state_of(found)
            console.emit({"id": found.id, "name": found.name, "path": str(found.path),
                          "state": now.name, "sentence": now.sentence})  # fmt: skip
    elif sweeps:
        cells = [(found.id, (now := state_of(found)).name, now.sentence) for found in sweeps]
        console.table(cells, ("sweep", "state", "what is known"))
    else:
        console.say("no sweeps yet. Start one: finetui sweep RECIPE FIELD=A,B,C")
    return 0


# --- the comparing table -------------------------------------------------------------------------


def _show(found: Sweep, as_json: bool) -> None:
    compared = rows(found)
    if as_json:
        for row in compared:
            console.emit(_as_value(row))
        return
    now = state_of(found)
    console.say(f"{found.id}: {now.name}. {now.sentence}")
    varied = list(dict.fromkeys(id for row in compared for id, _ in row.changes))
    header = ("", *(_title(id) for id in varied), "state", "step", "eval loss", "right", "forgot",
              "tokens/s", "peak", "time")  # fmt: skip
    console.table([_cells(row, varied) for row in compared], header)
    console.say("* lowest held-out loss; forgot: what the general check fell by")


def _title(id: str) -> str:
    try:
        return field(id).label
    except FieldError:
        return id


def _cells(row: Row, varied: list[str]) -> tuple[str, ...]:
    values = dict(row.changes)
    return (
        "*" if row.best else "",
        *(values.get(id, "") for id in varied),
        row.state.name,
        "" if row.step is None else f"{row.step:,}",
        _number(row.best_eval, ".4f"),
        _number(row.accuracy, ".1%"),
        _number(row.forgotten, ".1%"),
        _number(row.tokens_per_s, ",.0f"),
        "" if row.peak_bytes is None else size(row.peak_bytes),
        "" if row.seconds is None else duration(row.seconds),
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _as_value(row: Row) -> dict[str, Any]:
    return {
        "name": row.name, "job": row.job, "changes": dict(row.changes), "state": row.state.name,
        "sentence": row.state.sentence, "step": row.step, "best_eval": row.best_eval,
        "train_loss": row.train_loss, "accuracy_before": row.accuracy_before,
        "accuracy": row.accuracy, "forgotten": row.forgotten, "tokens_per_s": row.tokens_per_s,
        "peak_bytes": row.peak_bytes, "seconds": row.seconds, "best": row.best,
    }  # fmt: skip
