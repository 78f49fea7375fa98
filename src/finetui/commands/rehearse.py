"""``finetui rehearse``: try a recipe on its longest batch before it runs all night."""

from __future__ import annotations

import argparse

from finetui import start
from finetui.commands import console, watch
from finetui.commands.train import changed, recipe_file
from finetui.recipe.files import load


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Try a recipe: the longest batch, a few updates, one evaluation, a checkpoint saved and "
        "read back. Says peak memory, pace and size of a checkpoint.",
        json=True,
    )
    console.take_recipe(made, "training.batch_size=4")
    return made


def run(arguments: argparse.Namespace) -> int:
    workspace = console.workspace_of(arguments)
    recipe = changed(load(recipe_file(workspace, arguments.recipe)), arguments.set)
    job = start.start_rehearsal(workspace, recipe)
    console.say(f"started {job.id}")
    watch.follow(job, console.say)
    outcome = job.outcome() or {}
    if arguments.json:
        console.emit({"job": job.id, **outcome})
    elif outcome.get("status") == "finished":
        console.out(str(outcome.get("sentence", "")))
    return watch.ended(job)
