"""``finetui accept-leak``: let a leak stand, with the reason in writing."""

from __future__ import annotations

import argparse
from pathlib import Path

from finetui.commands import console, leaks
from finetui.display import plural
from finetui.errors import UserError


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Accept the leaks between two files, so that a run may start. Who, when, why and which "
        "rows are kept in the workspace, and told in the manifest of every run that relies on it. "
        "A leak that comes later is not covered.",
        json=True,
    )
    made.add_argument("train", type=Path, metavar="TRAIN", help="the file that is trained on")
    made.add_argument("held_out", type=Path, metavar="HELD-OUT")
    made.add_argument("--reason", required=True, help="why the leak does no harm")
    return made


def run(arguments: argparse.Namespace) -> int:
    from finetui.data import gate

    workspace = console.workspace_of(arguments)
    if not arguments.reason.strip():
        raise UserError("a leak is accepted with a reason only.", "--reason")
    found = leaks.find(workspace, [arguments.train], [arguments.held_out], near=True)
    closed = gate.judge(workspace, found).closed_by
    word = gate.accept(workspace, arguments.train, arguments.held_out, closed, arguments.reason)
    if arguments.json:
        console.emit(word.as_dict())
    else:
        console.say(f"accepted {plural(word.rows, 'leak')} by {word.who}: {word.reason}")
    return 0
