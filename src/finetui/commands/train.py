"""``finetui train``: start a training run from a recipe."""

from __future__ import annotations

import argparse
from pathlib import Path

from finetui import start
from finetui.commands import console, watch
from finetui.display import size, span
from finetui.errors import UserError
from finetui.jobs import slurm
from finetui.jobs.folder import Job
from finetui.jobs.liveness import state
from finetui.recipe.advice import Advice
from finetui.recipe.field import FieldError
from finetui.recipe.files import load
from finetui.recipe.forecast import Plan, plan
from finetui.recipe.schema import Recipe, with_value
from finetui.workspace import Workspace


def parser() -> argparse.ArgumentParser:
    made = console.parser("Start a training run; it goes on when this terminal closes.", json=True)
    console.take_recipe(made, "training.epochs=1")
    made.add_argument("--dry-run", action="store_true", help="check and forecast, start nothing")
    made.add_argument("--detach", action="store_true", help="start it and return at once")
    made.add_argument(
        "--on", default="", metavar="PLACE",
        help="slurm or slurm:PROFILE hands it in to a cluster: see [cluster.NAME] of the settings",
    )  # fmt: skip
    made.add_argument(
        "--share", action="store_true", help="start at once, also beside others on the same GPU"
    )
    return made


def run(arguments: argparse.Namespace) -> int:
    workspace = console.workspace_of(arguments)
    recipe = changed(load(recipe_file(workspace, arguments.recipe)), arguments.set)
    place = slurm.place(arguments.on)
    facts, advice = start.check_recipe(workspace, recipe, elsewhere=place is not None)
    for found in advice:
        console.say(line(found))
    if arguments.dry_run:
        tell_forecast(plan(recipe, facts))
        verdict = start.leak_gate(workspace, recipe)
        if not verdict.open:
            console.say(f"error: {verdict.error(workspace)}")
        errors = any(found.severity == "error" for found in advice)
        return 1 if errors or not verdict.open else 0
    if place is not None:
        for note in slurm.notes():
            console.say(f"note: {note}")
    job = start.start_training(workspace, recipe, share=arguments.share, on=arguments.on)
    console.say(f"{_begun(job)}; it goes on when this terminal closes")
    if arguments.detach:
        if arguments.json:
            console.emit({"job": job.id, "path": str(job.path)})
        else:
            console.out(str(job.path))
        return 0
    if arguments.json:
        watch.events(job)
    else:
        watch.follow(job, console.out)
    return watch.ended(job)


def _begun(job: Job) -> str:
    """That a job was started, or what it waits for."""
    if (handed_in := slurm.submission(job)) is not None:
        return f"handed in {job.id} as Slurm job {handed_in.id}"
    now = state(job)
    if now.waits:
        return f"queued {job.id}: it {now.sentence}; to share: finetui control {job.id} share"
    return f"started {job.id}"


def tell_forecast(forecast: Plan) -> None:
    """What the run would take, in a few lines; unknown figures are left out.

    `finetui forecast` says more, by component.
    """
    tell_run(forecast)
    if forecast.peak_bytes_low is not None and forecast.peak_bytes_high is not None:
        console.out(f"memory   {size(forecast.peak_bytes_low)} to {size(forecast.peak_bytes_high)}")
    if forecast.disk_bytes is not None:
        console.out(f"disk     {size(forecast.disk_bytes)}")


def tell_run(forecast: Plan) -> None:
    """Steps, tokens, parameters and time."""
    about = "" if forecast.exact else "about "
    if forecast.steps is not None:
        console.out(f"steps    {forecast.steps:,}")
    if forecast.tokens is not None:
        console.out(f"tokens   {about}{forecast.tokens:,}")
    if forecast.adapter_parameters is not None:
        console.out(f"trained  {forecast.adapter_parameters:,} parameters")
    if forecast.seconds_low is not None and forecast.seconds_high is not None:
        low, high = span(forecast.seconds_low), span(forecast.seconds_high)
        console.out(f"time     {low} to {high}, from earlier runs on this machine")


def recipe_file(workspace: Workspace, name: str) -> Path:
    """A path as typed, or a recipe of the workspace by its name."""
    for path in (Path(name), workspace.recipes / name, workspace.recipes / f"{name}.toml"):
        if path.is_file():
            return path
    known = ", ".join(file.stem for file in workspace.recipe_files()) or "none yet"
    raise UserError(f"no recipe {name!r}.", str(workspace.recipes), f"Recipes here: {known}.")


def changed(recipe: Recipe, settings: list[str]) -> Recipe:
    """The recipe with the typed ``field=value`` settings in place."""
    for setting in settings:
        field, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"{setting!r} is not FIELD=VALUE.", "--set")
        try:
            recipe = with_value(recipe, field.strip(), text)
        except FieldError as error:
            raise UserError(str(error), f"--set {field.strip()}") from error
    return recipe


def line(found: Advice) -> str:
    """One piece of advice as a line: severity, field, message, reason."""
    return f"{found.severity}: {found.field}: {found.message} {found.reason}".rstrip()
