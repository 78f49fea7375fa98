"""Checks of whole sets run in a process of their own, which may import numpy; this is our end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Pipe

from finetui.data.checks.model import CheckOptions
from finetui.errors import UserError


@dataclass(frozen=True)
class Job:
    """The paths of each of `WholeSet.sources`, the checks to run, the store (if there is one)."""

    sets: list[list[str]]
    checks: list[str]
    options: CheckOptions
    store: str = ""


@dataclass(frozen=True)
class Found:
    """A finding: the check, the place of the file in the job, and where in it."""

    check: str
    source: int
    row: int
    message: str
    turn: int | None = None
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class Reached:
    """How much of the work is done (0 to 1)."""

    share: float


def found_in_wholes(job: Job, progress: Callable[[float], None] | None = None) -> Iterator[Found]:
    """What the checks of a job find. Raises UserError when their process fails.

    The process ends when the iterator is closed.
    """
    ours, theirs = Pipe()
    command = [sys.executable, "-m", "finetui.data.whole.process", str(theirs.fileno())]
    process = subprocess.Popen(
        command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    theirs.close()
    try:
        ours.send(job)
        while (said := ours.recv()) is not None:
            if isinstance(said, str):
                raise UserError(f"a check of the whole set failed: {said}")
            if isinstance(said, Found):
                yield said
            elif progress:
                progress(said.share)
    except (EOFError, OSError):
        raise UserError(
            "the process of the checks of whole sets ended before its work was done.",
            fix="Its reason stands above; finetui check --quick leaves these checks out.",
        ) from None
    finally:
        ours.close()
        if process.poll() is None:
            process.terminate()
        process.wait()
