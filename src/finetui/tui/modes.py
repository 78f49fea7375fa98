"""The modes: name, key, and the pane that is imported on first show."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from finetui.tui.pane import ModePane


@dataclass(frozen=True, slots=True)
class Mode:
    """``pane`` is ``module:class`` under finetui.tui.screens."""

    name: str
    key: str
    title: str
    pane: str
    help: str


MODES = (
    Mode("home", "0", "Home", "home:HomePane", "Where the loop stands and what comes next."),
    Mode("data", "1", "Data", "data:DataPane", "Look through a data set and repair it."),
    Mode("recipe", "2", "Recipe", "recipe:RecipePane", "Fill in one run's settings."),
    Mode("train", "3", "Train", "train:TrainPane", "Watch a run live."),
    Mode("evaluate", "4", "Evaluate", "evaluate:EvaluatePane", "Compare models on the same rows."),
    Mode("rate", "5", "Rate", "rate:RatePane", "Rate answers blind, side by side."),
)
BY_NAME = {mode.name: mode for mode in MODES}


def make(name: str) -> ModePane:
    """Import a mode's module and make its pane (KeyError for an unknown name)."""
    module, _, pane = BY_NAME[name].pane.partition(":")
    found = getattr(importlib.import_module(f"finetui.tui.screens.{module}"), pane)
    made: ModePane = found()
    return made


def load_all() -> None:
    """Import every screen, so that the registry of actions is whole (palette, docs)."""
    for mode in MODES:
        importlib.import_module(f"finetui.tui.screens.{mode.pane.partition(':')[0]}")
