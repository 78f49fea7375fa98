"""The data set files that the review queue makes; the person's own files are never written.

A file is written whole (temporary name, fsync, rename) with every byte that was there before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from finetui.data.formats.source import open_source
from finetui.data.records import Shape
from finetui.errors import UserError
from finetui.workspace import write_atomic


def require_shape(path: Path, shape: Shape) -> None:
    """Raises UserError when the file holds rows of another shape."""
    if not path.exists() or not path.stat().st_size:
        return
    with open_source(path) as source:
        found = source.shape.shape
    if found is not shape:
        raise UserError(
            f"holds {found} rows, and these are {shape} rows.", str(path), "Name another file."
        )


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Write the lines at the end of a file; a line that stands there already is not repeated.

    So an addition that was cut short can simply be done again.
    """
    before = path.read_bytes() if path.exists() else b""
    there = Counter(before.split(b"\n"))
    fresh = []
    for line in (text.encode() for text in lines):
        if there[line]:
            there[line] -= 1
        else:
            fresh.append(line + b"\n")
    if fresh:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        end = b"\n" if before and not before.endswith(b"\n") else b""
        write_atomic(path, before + end + b"".join(fresh))


def remove_lines(path: Path, lines: Sequence[str]) -> int:
    """Take lines out of a file, the last of equal ones; how many were still there.

    A file with nothing left in it goes too.
    """
    if not path.exists():
        return 0
    wanted = Counter(line.encode() for line in lines)
    kept, removed = [], 0
    for line in reversed(path.read_bytes().split(b"\n")):
        if wanted[line]:
            wanted[line] -= 1
            removed += 1
        else:
            kept.append(line)
    if removed and not any(kept):
        path.unlink()
    elif removed:
        write_atomic(path, b"\n".join(reversed(kept)))
    return removed
