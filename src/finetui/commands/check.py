"""``finetui check``: look for faults in data sets, one finding a line."""

from __future__ import annotations

import argparse
from pathlib import Path

from finetui.commands import console
from finetui.data.checks.model import CheckOptions, Finding
from finetui.data.checks.registry import CHECKS
from finetui.data.checks.run import Summary, check_files
from finetui.display import clean, plural
from finetui.errors import UserError


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Look for faults in data sets. Several files are also checked against "
        "each other for leaks: name the training file first.",
        json=True,
        workspace=False,
    )
    made.add_argument("files", type=Path, nargs="*", metavar="FILE")
    made.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="a model folder: finds rows too long for its template",
    )
    made.add_argument("--max-length", type=int, default=1024, metavar="TOKENS")
    made.add_argument("--only", metavar="IDS", help="comma-separated ids of checks")
    made.add_argument("--list", action="store_true", help="print the checks and stop")
    return made


def run(arguments: argparse.Namespace) -> int:
    if arguments.list:
        return _list(arguments.json)
    if not arguments.files:
        raise UserError("no file to check.", fix="Name one: finetui check FILE")
    return _check(arguments)


def _list(as_json: bool) -> int:
    if as_json:
        for check in CHECKS.values():
            console.emit(
                {
                    "id": check.id,
                    "severity": check.severity,
                    "title": check.title,
                    "why": check.why,
                    "fix": check.fix,
                }
            )
    else:
        rows = [(check.id, check.severity, check.title) for check in CHECKS.values()]
        console.table(rows, ("check", "severity", "what it finds"))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    only = frozenset(part.strip() for part in (arguments.only or "").split(",") if part.strip())
    options = CheckOptions(model_dir=arguments.model, max_length=arguments.max_length, only=only)
    with console.progress("checking") as progress:
        run = check_files(arguments.files, options, progress)
        for finding in run:
            if arguments.json:
                console.emit(finding.as_dict())
            else:
                console.out(line(finding))
    if arguments.json:
        console.emit({"summary": run.summary.as_dict()})
    else:
        _tell(run.summary)
    return 1 if run.summary.severities.get("error") or run.summary.severities.get("warning") else 0


def line(finding: Finding) -> str:
    """``tickets.jsonl:12: error: malformed-json: ...``: editors jump on it."""
    turn = "" if finding.turn is None else f" turn {finding.turn + 1}:"
    place = f"{finding.file}:{finding.line}"
    return clean(f"{place}: {finding.severity}: {finding.check}:{turn} {finding.message}")


def _tell(summary: Summary) -> None:
    for file in summary.files:
        sure = f"{file.confidence:.0%} sure: {file.reason}"
        console.say(f"{file.file}: {file.shape}, {plural(file.rows, 'row')} ({sure})")
    counts = ", ".join(f"{count} {check}" for check, count in sorted(summary.checks.items()))
    console.say(f"{plural(summary.findings, 'finding')}" + (f": {counts}" if counts else ""))
