"""``finetui doctor``: what this machine has and what is missing."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from finetui import __version__, floors
from finetui.commands import console
from finetui.consent import Consents
from finetui.display import plural, size
from finetui.errors import UserError
from finetui.jobs.devices import DeviceReader
from finetui.jobs.slurm import user_name
from finetui.jobs.slurm_checks import logout_check, slurm_checks
from finetui.settings import load
from finetui.workspace import find, refuse_unsafe

TRAIN = ("torch", "transformers", "peft", "accelerate", "datasets", "bitsandbytes")
LOW_DISK = 5 * 2**30


@dataclass(frozen=True)
class Line:
    """One thing looked at: ``status`` is ok, missing or note."""

    name: str
    status: str
    found: str
    advice: str = ""


def parser() -> argparse.ArgumentParser:
    return console.parser("Say what this machine has and what is missing.", json=True)


def run(arguments: argparse.Namespace) -> int:
    lines = [*_program(), *_packages(), *_devices(), _disk(arguments.workspace), *_terminal()]
    lines += [*_slurm(arguments.workspace), *_safety(arguments.workspace)]
    if arguments.json:
        for line in lines:
            console.emit(asdict(line))
    else:
        marks = {"ok": "✓", "missing": "✗", "note": "·"}
        console.table(
            [(marks[line.status], line.name, line.found, line.advice) for line in lines],
            ("", "what", "found", "what to do"),
        )
    return 1 if any(line.status == "missing" for line in lines) else 0


def _program() -> list[Line]:
    return [
        Line("finetui", "ok", __version__),
        Line("python", "ok", f"{platform.python_version()} on {platform.system()}"),
        Line("cores", "ok", str(len(os.sched_getaffinity(0)))),
    ]


def _packages() -> list[Line]:
    lines = []
    for name in TRAIN:
        if importlib.util.find_spec(name) is None:
            advice = "for training: pip install 'finetui[train]'"
            lines.append(Line(name, "missing", "not installed", advice))
        else:
            lines.append(Line(name, "ok", importlib.metadata.version(name)))
    return lines


def _devices() -> list[Line]:
    sample = DeviceReader().sample()
    used, total = sample.host_memory_used or 0, sample.host_memory_total or 0
    memory = f"{size(used)} of {size(total)} in use"
    lines = [Line("host memory", "ok", memory)]
    if sample.problem:
        return [*lines, Line("GPU", "note", sample.problem, "training runs on the CPU")]
    for gpu in sample.gpus:
        memory = f"{size(gpu.memory_used or 0)} of {size(gpu.memory_total or 0)} in use"
        lines.append(Line(f"GPU {gpu.index}", "ok", f"{gpu.name}: {memory}"))
    return lines


def _disk(folder: Path) -> Line:
    free = shutil.disk_usage(folder if folder.exists() else Path()).free
    advice = "checkpoints may not fit" if free < LOW_DISK else ""
    return Line("disk", "note" if advice else "ok", f"{size(free)} free", advice)


def _slurm(folder: Path) -> list[Line]:
    """What ``--on slurm`` needs, and what a logout does to runs on this machine."""
    try:
        clusters = load().cluster
    except UserError as error:
        return [Line("settings", "missing", str(error), "mend your settings")]
    found = [*slurm_checks(clusters, folder), logout_check(user_name())]
    return [Line(one.name, one.status, one.found, one.advice) for one in found if one]


def _safety(folder: Path) -> list[Line]:
    """Libraries with known holes, a workspace that others may change, code that may run."""
    lines = []
    for hole in floors.holes():
        name, oldest, _ = hole.floor
        lines.append(Line("safety", "missing", hole.sentence, f"pip install '{name}>={oldest}'"))
    workspace = find(folder)
    try:
        if workspace is not None:
            refuse_unsafe(workspace.root)
        allowed = Consents().all()
    except UserError as error:
        return [*lines, Line("safety", "missing", f"{error.where} {error.what}", error.fix)]
    if allowed:
        models = plural(len(allowed), "model")
        lines.append(Line("safety", "note", f"{models} may run Python code", "see: finetui trust"))
    return lines or [Line("safety", "ok", "no known holes in the libraries that read models")]


def _terminal() -> list[Line]:
    term = os.environ.get("TERM", "")
    lines = [Line("terminal", "ok" if term not in ("", "dumb") else "note", term or "TERM not set")]
    if (sys.stdout.encoding or "").lower() not in ("utf-8", "utf8"):
        lines.append(Line("encoding", "note", sys.stdout.encoding or "?", "set LC_ALL=C.UTF-8"))
    if "SSH_CONNECTION" in os.environ:
        lines.append(Line("ssh", "note", "yes", "on a slow line, ssh -C sends a twentieth"))
    if "TMUX" not in os.environ and "STY" not in os.environ:
        lines.append(Line("tmux", "note", "not inside", "runs survive without it"))
    return lines
