"""``finetui leaks``: what of the training data gives held-out rows away, and away with it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from finetui.commands import console
from finetui.display import clean, plural

if TYPE_CHECKING:
    from finetui.data.gate import Leak
    from finetui.workspace import Workspace

_SHOWN = 20


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "List the training rows that give held-out rows away: the leaks that keep a run from "
        "starting. Exit code 1 while there are any that nobody accepted.",
        json=True,
    )
    made.add_argument("files", type=Path, nargs="+", metavar="TRAIN")
    made.add_argument("--held-out", type=Path, action="append", required=True, metavar="FILE")
    made.add_argument(
        "--near",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="look for near-duplicates too",
    )
    made.add_argument(
        "--drop", action="store_true", help="drop the training rows that leak (can be undone)"
    )
    return made


def run(arguments: argparse.Namespace) -> int:
    from finetui.data import gate

    workspace = console.workspace_of(arguments)
    leaks = find(workspace, arguments.files, arguments.held_out, arguments.near)
    verdict = gate.judge(workspace, leaks)
    if arguments.drop:
        dropped = gate.mend(workspace, verdict.closed_by)
        console.say(f"dropped {plural(dropped, 'training row')}; undo brings them back")
        return 0
    if arguments.json:
        for leak in leaks:
            console.emit(leak.as_dict() | {"accepted": leak in verdict.accepted})
        return 0 if verdict.open else 1
    for leak in verdict.closed_by[:_SHOWN]:
        console.out(clean(leak.sentence()))
    if len(verdict.closed_by) > _SHOWN:
        console.say(f"and {len(verdict.closed_by) - _SHOWN:,} more (--json lists all)")
    accepted = f"; {len(verdict.accepted):,} more accepted" if verdict.accepted else ""
    console.say(f"{plural(len(verdict.closed_by), 'leak')}{accepted}")
    return 0 if verdict.open else 1


def find(
    workspace: Workspace, train: Sequence[Path], held_out: Sequence[Path], near: bool
) -> list[Leak]:
    """All leaks between files, however many rows they have."""
    from finetui.data import gate
    from finetui.data.dataset import open_dataset

    with ExitStack() as stack:
        training, guarded = (
            [stack.enter_context(open_dataset(file, workspace)) for file in files]
            for files in (train, held_out)
        )
        with console.progress("looking for leaks") as progress:
            return gate.leaks_between(training, guarded, workspace, near, progress)
