"""The end of a log file as plain lines: what a terminal would show of progress bars and colours.

The lines are plain, not safe: they hold whatever the program printed otherwise, so they go
through `display` before they reach a terminal.
"""

import io
import os
import re
import sys
from pathlib import Path
from typing import Any

from finetui.jobs.room import FULL

_TAIL_BYTES = 64 << 10
_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor movement
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)"  # OSC and other strings, to their end
    r"|\x1b[ -/]*[0-~]"  # two-character escapes
)


def tail(path: Path, count: int) -> list[str]:
    """Return the last lines of a log file, oldest first; [] when there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - _TAIL_BYTES)
            file.seek(start)
            data = file.read(_TAIL_BYTES)
    except OSError:
        return []
    lines = data.decode("utf-8", "replace").split("\n")
    if start:
        del lines[0]
    if lines and not lines[-1]:
        del lines[-1]
    return [plain(line) for line in lines[-count:]]


def plain(line: str) -> str:
    """Return a line without escape sequences, carriage returns played out.

    What follows a return overwrites the line from its start, as on a terminal.
    """
    shown = ""
    for piece in _SEQUENCES.sub("", line).split("\r"):
        shown = piece + shown[len(piece) :]
    return shown


class _Forgiving(io.FileIO):
    """A log that lets lines go which find no room on the disk."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in FULL:
                raise
            return memoryview(data).nbytes


def forgive_full_disk() -> None:
    """From now on a full disk costs lines of this process's log, and no `print` fails for it."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        getattr(sys, name).flush()
        raw = io.BufferedWriter(_Forgiving(descriptor, "w", closefd=False))
        stream = io.TextIOWrapper(raw, "utf-8", "backslashreplace", line_buffering=True)
        setattr(sys, name, stream)
