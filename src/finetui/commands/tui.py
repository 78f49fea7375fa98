"""``finetui [PATH]``: open the workstation; with ``--readonly`` only to watch."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from finetui import readonly, settings
from finetui.errors import UserError
from finetui.workspace import MARKER, Workspace, create, create_sample, find, require


def run(argv: Sequence[str]) -> int:
    """Open the TUI on the workspace at or above PATH; offer to make one where there is none."""
    parser = argparse.ArgumentParser(prog="finetui", add_help=False)
    parser.add_argument("path", type=Path, nargs="?", default=Path())
    parser.add_argument("--theme")
    parser.add_argument("--ascii", action="store_const", const=True)
    parser.add_argument("--screen", default="home")
    parser.add_argument("--readonly", action="store_true")
    arguments = parser.parse_args(list(argv))
    flags = {"theme": arguments.theme, "ascii": arguments.ascii}
    if arguments.readonly:
        return watch(arguments.path, flags, arguments.screen)
    return open_on(workspace_at(arguments.path), flags, arguments.screen)


def watch(path: Path, flags: dict[str, object], screen: str = "home") -> int:
    """Open a workspace, or one run's folder, and change nothing in it.

    Raises UserError where there is neither, or permissions do not allow to look.
    """
    workspace, job = watched(path)
    if job is None:
        return open_on(workspace, flags, screen)
    from finetui.tui.messages import OpenJob

    return open_on(workspace, flags, "train", OpenJob(job))


def watched(path: Path) -> tuple[Workspace, Path | None]:
    """The workspace to be watched from now on, and the run where ``path`` is in one."""
    path = path.expanduser().resolve()
    try:
        if not path.exists():
            raise UserError("is not there.", str(path), "Name a workspace or a run's folder.")
        job = _job_around(path)
        workspace = find(path) or (Workspace(job.parent.parent) if job else require(path))
        readonly.begin(workspace.root)
        os.scandir(job or workspace.root).close()
    except PermissionError as error:
        raise UserError(
            "may not be looked into with your permissions.",
            str(error.filename or path),
            "Its owner can open it: chmod -R g+rX, or setfacl -R -m u:NAME:rX.",
        ) from None
    return workspace, job


def _job_around(path: Path) -> Path | None:
    """The run's folder that a path is, or is in."""
    return next((one for one in (path, *path.parents) if (one / "spec.toml").is_file()), None)


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
