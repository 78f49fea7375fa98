"""``finetui init``: make a workspace."""

from __future__ import annotations

import argparse
from pathlib import Path

from finetui.commands import console
from finetui.workspace import create, create_sample


def parser() -> argparse.ArgumentParser:
    made = console.parser(__doc__ or "", workspace=False)
    made.add_argument(
        "path", type=Path, nargs="?", default=Path(), help="the folder (default: here)"
    )
    made.add_argument(
        "--sample", action="store_true", help="with the demo model, its data sets and a recipe"
    )
    return made


def run(arguments: argparse.Namespace) -> int:
    make = create_sample if arguments.sample else create
    workspace = make(arguments.path)
    console.say(f"workspace ready at {workspace.root}")
    console.say("put data sets into datasets/, then: finetui " + str(arguments.path))
    return 0
