"""``finetui check``: look for faults in data sets, one finding a line."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from finetui.commands import console
from finetui.data.checks.model import FAMILIES, Check, CheckOptions, Finding
from finetui.data.checks.registry import CHECKS
from finetui.data.checks.run import Summary, check_files
from finetui.display import clean, plural
from finetui.errors import UserError
from finetui.workspace import find

if TYPE_CHECKING:
    from finetui.data.findings import FindingsStore, ScanProgress


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Look for faults in data sets. Several files are also checked against "
        "each other for leaks: name the training file first.",
        json=True,
    )
    made.add_argument("files", type=Path, nargs="*", metavar="FILE")
    console.take_more_files(made)
    made.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="a model folder: finds rows too long for its template",
    )
    made.add_argument("--max-length", type=int, default=1024, metavar="TOKENS")
    made.add_argument("--only", metavar="IDS", help="comma-separated ids of checks")
    made.add_argument(
        "--quick", action="store_true", help="leave out the checks that compare all rows at length"
    )
    made.add_argument("--list", action="store_true", help="print the checks and stop")
    made.add_argument("--markdown", action="store_true", help="with --list: as docs/checks.md")
    made.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default: 2)")
    kept = made.add_argument_group(
        "keeping findings (in the workspace, while the file's hash holds)"
    )
    kept.add_argument(
        "--store",
        action="store_true",
        help="keep the findings of the first FILE for the screens, and print progress as JSON",
    )
    kept.add_argument(
        "--first-row", type=int, default=0, metavar="N", help="look at the rows from N on first"
    )
    kept.add_argument("--again", action="store_true", help="look again, even if nothing changed")
    return made


def run(arguments: argparse.Namespace) -> int:
    if arguments.list:
        return _list(arguments)
    if not arguments.files:
        raise UserError("no file to check.", fix="Name one: finetui check FILE")
    return _keep(arguments) if arguments.store else _check(arguments)


# ---------------------------------------------------------------- the registry


def _list(arguments: argparse.Namespace) -> int:
    if arguments.markdown:
        console.out(markdown())
    elif arguments.json:
        for check in CHECKS.values():
            console.emit(described(check))
    else:
        rows = [
            (check.id, check.family, check.severity, "yes" if check.fixable else "", check.title)
            for check in CHECKS.values()
        ]
        console.table(rows, ("check", "family", "severity", "repair", "what it finds"))
    return 0


def described(check: Check) -> dict[str, Any]:
    """A check as a script gets it."""
    return {
        "id": check.id,
        "family": check.family,
        "severity": check.severity,
        "title": check.title,
        "why": check.why,
        "fix": check.fix,
        "fixable": check.fixable,
        "files": check.needs,
    }


def markdown() -> str:
    """The page of the docs about the checks: ``finetui check --list --markdown``."""
    parts = [
        "# Checks",
        "This page is made by `finetui check --list --markdown` from the registry of checks "
        "(`src/finetui/data/checks/registry.py`).",
        f"{len(CHECKS)} checks in {len(_families())} families. **Repair** says that `f` on the "
        "Data screen and `finetui fix` mend such a row by themselves. Checks marked *whole set* "
        "compare all rows at length in a process of their own; `--quick` leaves them out. Those "
        "marked *two files* compare a training file with a held-out one.",
    ]
    for family, checks in _families().items():
        parts += [f"## {family.capitalize()}", _table(checks)]
    return "\n\n".join(parts)


def _families() -> dict[str, list[Check]]:
    """The checks by family, families in their order."""
    found: dict[str, list[Check]] = {}
    for check in CHECKS.values():
        found.setdefault(check.family or "other", []).append(check)
    order = {family: place for place, family in enumerate(FAMILIES)}
    return dict(sorted(found.items(), key=lambda entry: order.get(entry[0], len(order))))


def _table(checks: list[Check]) -> str:
    lines = ["| Check | Severity | What and why | What to do | |", "|---|---|---|---|---|"]
    for check in checks:
        marks = [
            *(["**repair**"] if check.fixable else []),
            *(["whole set"] if check.whole else []),
            *(["two files"] if check.needs > 1 else []),
        ]
        cells = (
            f"`{check.id}`", check.severity, f"{check.title}. {check.why}", check.fix,
            ", ".join(marks),
        )  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


# ---------------------------------------------------------------- one pass, findings as lines


def _options(arguments: argparse.Namespace) -> CheckOptions:
    only = frozenset(part.strip() for part in (arguments.only or "").split(",") if part.strip())
    if arguments.workers < 1:
        raise UserError("--workers must be 1 or more.")
    return CheckOptions(
        model_dir=arguments.model,
        max_length=arguments.max_length,
        only=only,
        whole=not arguments.quick,
        workers=arguments.workers,
    )


def _check(arguments: argparse.Namespace) -> int:
    options = _options(arguments)
    with _ending_tidily(), console.progress("checking") as progress:
        first, *others = arguments.files
        run = check_files([[first, *arguments.more], *others], options, progress)
        for finding in run:
            if arguments.json:
                console.emit(finding.as_dict())
            else:
                console.out(line(finding))
    if arguments.json:
        console.emit({"summary": run.summary.as_dict()})
    else:
        _tell(run.summary)
    return _code(run.summary.severities)


def _code(severities: dict[str, int]) -> int:
    return 1 if severities.get("error") or severities.get("warning") else 0


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


# ---------------------------------------------------------------- findings that are kept


def _keep(arguments: argparse.Namespace) -> int:
    from finetui.data.scan.stored import StoredScan

    workspace = find(arguments.workspace) or find(arguments.files[0].parent)
    if workspace is None:
        raise UserError(
            "findings are kept in a workspace, and there is none here.",
            str(arguments.workspace),
            "Name it with -w, or leave out --store.",
        )
    first, *others = arguments.files
    with _ending_tidily():
        scan = StoredScan(
            [first, *arguments.more], others, _options(arguments), workspace.cache, _say
        )
        store = None if arguments.again else scan.kept()
        known = store is not None
        with store or scan.run(arguments.first_row) as store:
            console.emit({"stored": str(store.path), "known": known, **_counted(store)})
            return _code(_severities(store))


def _say(progress: ScanProgress) -> None:
    console.emit({"progress": progress.as_dict()})


def _counted(store: FindingsStore) -> dict[str, Any]:
    return {"counts": store.counts(), "summary": store.summary}


def _severities(store: FindingsStore) -> dict[str, int]:
    severities = store.severities
    found: dict[str, int] = {}
    for check, count in store.counts().items():
        found[severities[check]] = found.get(severities[check], 0) + count
    return found


@contextmanager
def _ending_tidily() -> Iterator[None]:
    """A request to end closes the processes of the checks and leaves what was found."""

    def leave(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
