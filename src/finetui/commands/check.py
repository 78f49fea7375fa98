"""``finetui check``: look for faults in data sets, one finding a line."""

from __future__ import annotations

import argparse
from pathlib import Path

from finetui.commands import console
from finetui.display import clean, plural


def parser() -> argparse.ArgumentParser:
    made = console.parser("Look for faults in data sets. Several files are also checked against "
                          "each other for leaks: name the training file first.",
                          json=True, workspace=False)  # fmt: skip
    made.add_argument("files", type=Path, nargs="*", metavar="FILE")
    made.add_argument("--model", type=Path, metavar="DIR",
                      help="a model folder: finds rows too long for its template")  # fmt: skip
    made.add_argument("--max-length", type=int, default=1024, metavar="TOKENS")
    made.add_argument("--only", metavar="IDS", help="comma-separated ids of checks")
    made.add_argument("--list", action="store_true", help="print the checks and stop")
    return made


def run(arguments: argparse.Namespace) -> int:
    if arguments.list:
        return _list(arguments.json)
    return _check(arguments)


def _list(as_json: bool) -> int:
    from finetui.data.checks import CHECKS

    if as_json:
        for check in CHECKS.values():
            console.emit(check)
    else:
        rows = [(check.id, check.severity, check.title) for check in CHECKS.values()]
        console.table(rows, ("check", "severity", "what it finds"))
    return 0
