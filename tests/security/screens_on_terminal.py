"""Run in a pseudo-terminal: the whole workstation, every key of every screen pressed once.

``python screens_on_terminal.py WORKSPACE SEEN [whole]`` writes the names of the screens that were
open into the file SEEN; ``whole`` presses the keys of tables, charts and text fields as well.
"""

# ruff: noqa: E402, E501  (paths first; tables)

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent)]

from terminal_bytes import HOSTILE, resize
from textual.pilot import Pilot

from finetui.errors import UserError
from finetui.jobs import devices, launch
from finetui.jobs.folder import list_jobs
from finetui.settings import load
from finetui.tui import frugal, safety
from finetui.tui.actions import ACTIONS
from finetui.tui.app import FinetuiApp
from finetui.tui.messages import OpenData, OpenJob, OpenRecipe, OpenSession
from finetui.workspace import MARKER, Workspace

SIZES = ((120, 36), (80, 24))
# q leaves, ctrl+c asks; the others leave the terminal to another program.
NEVER = {"q", "ctrl+c", "ctrl+q", "ctrl+z", "E", "colon", "ctrl+p"}
# What the short walk opens of each mode.
SHORT = {
    "data": ["data.queue", "data.alike", "data.steps", "data.versions", "data.drop", "data.copy"],
    "recipe": ["recipe.presets", "recipe.forecast", "recipe.open"],
    "train": ["train.samples", "train.choose-charts", "train.stubborn", "train.machine", "train.queue",
              "train.runs", "train.resume"],
    "evaluate": ["evaluate.figures", "evaluate.open"],
}  # fmt: skip
PATIENCE, PATIENT = 0.02, 3.0


def hostile_devices(_: object) -> devices.DeviceSample:
    """Two GPUs whose names, processes and users are not to be trusted."""
    process = devices.GpuProcess(1, 2**30, HOSTILE, HOSTILE)
    gpu = devices.Gpu(
        0, HOSTILE, HOSTILE, 50.0, 2**33, 2**34, 60.0, 90.0, 300.0, (process,), "", (9, 0)
    )
    ill = devices.Gpu(1, HOSTILE, HOSTILE, None, None, None, None, None, None, (), HOSTILE)
    return devices.DeviceSample((gpu, ill), HOSTILE, HOSTILE, 2**30, 2**34, 10.0)


def refuse(*_: object, **__: object) -> None:
    raise UserError(HOSTILE, HOSTILE, HOSTILE)


class Walk:
    """Presses keys, opens dialogs, closes them again, and notes what was on screen."""

    def __init__(self, app: FinetuiApp, pilot: Pilot[object], whole: bool) -> None:
        self.app, self.pilot, self.whole = app, pilot, whole
        self.seen: set[str] = set()
        self.done: set[str] = set()
        self.big = True

    async def settle(self) -> None:
        """Let the app answer: the messages that wait, and the next frame."""
        await asyncio.sleep(PATIENCE)
        end = time.monotonic() + PATIENT
        while any(worker.is_running for worker in self.app.workers) and time.monotonic() < end:
            await asyncio.sleep(PATIENCE)
        self.seen.add(type(self.app.screen).__name__)

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.pilot.press(key)
            await self.settle()

    def turn(self) -> None:
        """Another size of the terminal, as when a window is dragged."""
        self.big = not self.big
        resize(0, *SIZES[not self.big])

    async def close_all(self) -> None:
        for _ in range(2):
            if len(self.app.screen_stack) == 1:
                return
            await self.press("escape")
        while len(self.app.screen_stack) > 1:
            self.app.pop_screen()
            await self.settle()

    async def pane(self, name: str, request: object | None) -> None:
        """Show a mode with something in it, and call the actions that the walk asks for."""
        await self.app.show(name, request)
        await self.settle()
        await self.settle()
        self.seen.add(name)
        if self.whole:
            await self.everything(name, request)
            return
        for action in SHORT.pop(name, ()):
            await self.press(ACTIONS[action].keys.partition(",")[0])
            self.turn()
            await self.settle()
            await self.close_all()

    async def everything(self, name: str, request: object | None) -> None:
        """Press a key of every action that can be called here, once."""
        for _ in range(6):  # the parts of the pane that can have the keyboard
            while (key := self.next_key()) is not None:
                await self.press(key)
                if len(self.app.screen_stack) > 1:
                    await self.dialog()
                if self.app.mode != name:
                    await self.app.show(name, request)
                    await self.settle()
            await self.press("tab")

    def next_key(self) -> str | None:
        """The key of an action that can be called here and has not been; None for none."""
        for key, active in self.app.active_bindings.items():
            action = f"{type(active.node).__name__} {active.binding.action}"
            if key not in NEVER and active.enabled and action not in self.done:
                self.done.add(action)
                return key
        return None

    async def dialog(self) -> None:
        """Look around in what has opened, at both sizes, and close it."""
        await self.settle()
        for key in ("down", "tab", "enter"):
            await self.press(key)
            if len(self.app.screen_stack) == 1:
                return
        self.turn()
        await self.settle()
        self.turn()
        await self.settle()
        await self.close_all()


def requests(workspace: Workspace) -> list[tuple[str, object | None]]:
    """What is looked at: something of everything that the workspace holds."""
    jobs = {job.kind: OpenJob(job.path) for job in list_jobs(workspace.jobs)}
    sessions = {path.name: OpenSession(path) for path in workspace.ratings.iterdir()}
    recipe = next(path for path in workspace.recipe_files() if path.name.startswith("x"))
    data = next(path for path in workspace.dataset_files() if path.name.startswith("x"))
    return [
        ("home", None), ("data", OpenData(data)), ("recipe", OpenRecipe(recipe)),
        ("train", jobs["train"]), ("evaluate", jobs["train"]), ("evaluate", jobs["evaluate"]),
        ("rate", sessions["trial"]), ("rate", sessions["done"]), ("rate", None),
    ]  # fmt: skip


async def walk(app: FinetuiApp, pilot: Pilot[object], seen: Path, whole: bool) -> None:
    walker = Walk(app, pilot, whole)
    try:
        await walker.settle()
        for name, request in requests(app.workspace):
            await walker.pane(name, request)
            walker.turn()
            await walker.settle()
            walker.turn()
        app.say(HOSTILE, "error")
        await walker.press("colon")
        for key in "data":
            await walker.press(key)
        await walker.close_all()
        app.copy_to_clipboard("safe")
        await walker.settle()
    finally:
        seen.write_text("\n".join(sorted(walker.seen)))
        app.exit(return_code=0)


def main(workspace: Path, seen: Path, whole: bool) -> int:
    os.environ["EDITOR"] = "true"
    devices.DeviceReader.sample = hostile_devices  # type: ignore[method-assign]
    launch.launch = refuse  # type: ignore[assignment]
    safety.install()
    frugal.install()
    app = FinetuiApp(Workspace(workspace), load(workspace / MARKER))
    app.run(auto_pilot=lambda pilot: walk(app, pilot, seen, whole))
    return app.return_code or 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), "whole" in sys.argv))
