"""``finetui fetch``: bring a data set of the hub into the workspace."""

from __future__ import annotations

import argparse

from finetui import start
from finetui.commands import console, watch


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Bring one split of a Hugging Face data set, or of a folder in its layout, into the "
        "workspace as JSON Lines. Rows are streamed; no code of the set is run."
    )
    made.add_argument("source", help="a hub id such as org/name, or a folder")
    made.add_argument("--split", default="train", help="which split (default: train)")
    made.add_argument("--config", default="", help="which configuration, where there are several")
    made.add_argument("--revision", default="", help="branch, tag or commit")
    made.add_argument("--limit", type=int, default=0, metavar="N", help="at most N rows (0: all)")
    made.add_argument("--name", default="", help="name of the file (default: that of the set)")
    return made


def run(arguments: argparse.Namespace) -> int:
    workspace = console.workspace_of(arguments)
    job = start.start_fetch(
        workspace, arguments.source, split=arguments.split, config=arguments.config,
        revision=arguments.revision, limit=arguments.limit, name=arguments.name,
    )  # fmt: skip
    watch.follow(job, console.say)
    return watch.ended(job)
