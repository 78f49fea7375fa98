"""The repair list: rows that a comparison showed to be worth another look."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetui.errors import BROKEN, UserError

FILE = "repairs.jsonl"


def add(root: Path, row: str, entry: Mapping[str, Any]) -> bool:
    """Append a row to the workspace's list unless it is there; returns whether it was added.

    `row` is `file:line` as a job names its rows. The line is on disk when this returns; raises
    UserError when it cannot be written.
    """
    path = root / FILE
    if row in rows(root):
        return False
    record = {"row": row, "time": round(time.time(), 3), **entry}
    line = json.dumps(record, ensure_ascii=False) + "\n"
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, line.encode("utf-8", "backslashreplace"))
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise UserError(
            "the repair list cannot be written.", str(path), f"({error.strerror})"
        ) from error
    return True


def rows(root: Path) -> frozenset[str]:
    """The rows on the list; lines that do not read are passed over."""
    found = set()
    try:
        lines = (root / FILE).read_bytes().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        try:
            entry = json.loads(line)
        except BROKEN:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("row"), str):
            found.add(entry["row"])
    return frozenset(found)
