"""``finetui [PATH]``: open the workstation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetui import settings
from finetui.errors import UserError
from finetui.workspace import MARKER, Workspace, create, create_sample, find

if TYPE_CHECKING:
    pass


def run(argv: Sequence[str]) -> int:
    """Open the TUI on the workspace at or above PATH; offer to make one where there is none."""
    parser = argparse.ArgumentParser(prog="finetui", add_help=False)
    parser.add_argument("path", type=Path, nargs="?", default=Path())
    parser.add_argument("--theme")
    parser.add_argument("--ascii", action="store_const", const=True)
    parser.add_argument("--screen", default="home")
    arguments = parser.parse_args(list(argv))
    flags = {"theme": arguments.theme, "ascii": arguments.ascii}
    return open_on(workspace_at(arguments.path), flags, arguments.screen)


def open_on(
    workspace: Workspace,
    flags: dict[str, object],
    screen: str = "home",
    request: object | None = None,
) -> int:
    """Run the app until the person leaves. Raises UserError where the terminal is unfit."""
    from finetui.tui.app import FinetuiApp
    from finetui.tui.terminal import require_terminal

    require_terminal()
    chosen = settings.load(workspace.root / MARKER, flags)
    return FinetuiApp(workspace, chosen, start=screen, request=request).run_to_exit()


def workspace_at(path: Path) -> Workspace:
    """The workspace that holds ``path``; asks before it makes one."""
    found = find(path) if path.exists() else None
    if found is not None:
        return found
    if not sys.stdin.isatty():
        raise UserError("no finetui workspace here.", str(path), f"Make one: finetui init {path}")
    print(f"There is no finetui workspace at {path.resolve()}.")
    answer = input("Make one? [y]es, [s]ample data too, [n]o: ").strip().lower()
    if answer.startswith("s"):
        return create_sample(path)
    if answer.startswith("y"):
        return create(path)
    raise UserError("nothing was made.", fix="Name a workspace: finetui PATH")
