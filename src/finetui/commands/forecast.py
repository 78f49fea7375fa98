"""``finetui forecast``: what a recipe needs before it runs: memory, disk, time, and what fits."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from finetui import start
from finetui.commands import console
from finetui.commands.train import changed, recipe_file, tell_run
from finetui.display import size
from finetui.jobs import measuring
from finetui.recipe.facts import Facts
from finetui.recipe.files import load
from finetui.recipe.fitting import name_of
from finetui.recipe.forecast import Plan, Remedy, Verdict, fits, plan, remedies
from finetui.recipe.memory import unmeasured
from finetui.recipe.schema import Recipe
from finetui.workspace import Workspace


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Say what a recipe needs: peak memory by component, disk, time, and what would make it "
        "fit. No GPU is used and no weights are read. Exit code 1 when it does not fit.",
        json=True,
    )
    console.take_recipe(made, "method.kind=qlora")
    made.add_argument(
        "--quick", action="store_true", help="by formula only: do not measure the model first"
    )
    return made


def run(arguments: argparse.Namespace) -> int:
    workspace = console.workspace_of(arguments)
    recipe = changed(load(recipe_file(workspace, arguments.recipe)), arguments.set)
    facts, _ = start.check_recipe(workspace, recipe)
    if not arguments.quick:
        facts = measured(workspace, recipe, facts)
    forecast = plan(recipe, facts)
    verdict, ways = fits(forecast, facts), remedies(recipe, facts)
    if arguments.json:
        console.emit(as_value(forecast, verdict, ways))
    else:
        tell(forecast, verdict, ways)
    return 1 if verdict.kind in ("held", "too big") else 0


def measured(workspace: Workspace, recipe: Recipe, facts: Facts) -> Facts:
    """The facts with the model measured on the meta device, where that can be done."""
    keys = unmeasured(recipe, facts)
    if not keys:
        return facts
    console.say("measuring the model (some seconds, once)")
    problem = measuring.measure(workspace.root, facts.model_folder, keys)
    if problem:
        console.say(f"by formula, as the model cannot be measured: {problem}")
    return start.check_recipe(workspace, recipe)[0]


def as_value(forecast: Plan, verdict: Verdict, ways: list[Remedy]) -> dict[str, Any]:
    """Everything as plain values for scripts; the recipes of the remedies are left out."""
    value = asdict(forecast)
    del value["learning_rates"]
    value["verdict"] = asdict(verdict)
    value["remedies"] = [
        {
            "changes": dict(way.changes),
            "peak_bytes_low": way.peak_bytes_low,
            "peak_bytes_high": way.peak_bytes_high,
            "kind": way.kind,
            "cost": way.cost,
            "sentence": way.sentence,
        }
        for way in ways
    ]
    return value


def tell(forecast: Plan, verdict: Verdict, ways: list[Remedy]) -> None:
    """The forecast for people."""
    tell_run(forecast)
    if forecast.peak_bytes_low is not None and forecast.peak_bytes_high is not None:
        need = f"{size(forecast.peak_bytes_low)} to {size(forecast.peak_bytes_high)}"
        console.out(f"memory   {need}{_origin(forecast)}")
        for part in forecast.memory:
            console.out(f"  {part.name:<16} {_range(part.low, part.high)}")
    if forecast.disk_bytes is not None:
        parts = ", ".join(f"{part.name} {size(part.high)}" for part in forecast.disk)
        console.out(f"disk     {size(forecast.disk_bytes)} ({parts})")
    console.out(f"verdict  {verdict.sentence}")
    for holder in verdict.holders:
        console.out(f"  {size(holder.bytes):>10}  {name_of(holder)}")
    for way in ways:
        settings = " ".join(f"{id}={_shown(value)}" for id, value in way.changes)
        console.out(f"try      {settings}: {_range(way.peak_bytes_low, way.peak_bytes_high)}")
        console.out(f"         {way.sentence}")
    for note in forecast.notes:
        console.say(note)


def _origin(forecast: Plan) -> str:
    words = {"measured": "measured on the meta device", "formula": "by formula"}
    origin = words.get(forecast.memory_source, "")
    runs = f", corrected by {forecast.calibrated} earlier runs" if forecast.calibrated else ""
    moment = f"; the peak is in {forecast.peak_moment}" if forecast.peak_moment else ""
    return f" ({origin}{runs}{moment})"


def _range(low: float, high: float) -> str:
    short, long = size(low), size(high)
    return short if short == long else f"{short} to {long}"


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()
