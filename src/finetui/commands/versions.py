"""``finetui versions``: list, compare and verify what was written."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from finetui import start
from finetui.commands import console
from finetui.display import clean, plural
from finetui.errors import UserError

if TYPE_CHECKING:
    from finetui.data.diff import Change, Diff
    from finetui.data.versions import Version
    from finetui.workspace import Workspace

_SHOWN = 20
_WIDTH = 160
_SIGNS = {"added": "+", "removed": "-", "edited": "~", "moved": ">"}


def parser() -> argparse.ArgumentParser:
    made = console.parser("List the written versions, with the runs that used them.", json=True)
    parts = made.add_subparsers(dest="verb", metavar="VERB", prog="finetui versions")
    listed = parts.add_parser("list", help="list the versions (also without a verb)")
    compared = parts.add_parser("diff", help="compare two versions row by row")
    compared.add_argument("before", metavar="A", help="an id, the beginning of one, or a name")
    compared.add_argument("after", metavar="B")
    compared.add_argument("--all", action="store_true", help="every row, not only the first ones")
    verified = parts.add_parser("verify", help="check that the files are as they were written")
    verified.add_argument("versions", nargs="*", metavar="VERSION", help="all of them without one")
    shown = parts.add_parser("show", help="print a version's manifest and the runs that used it")
    shown.add_argument("version", metavar="VERSION")
    for part in (listed, compared, verified, shown):
        part.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="for scripts"
        )
        console.add_workspace(part, argparse.SUPPRESS)
    return made


def run(arguments: argparse.Namespace) -> int:
    workspace = console.workspace_of(arguments)
    if arguments.verb == "diff":
        return _diff(arguments, workspace)
    if arguments.verb == "verify":
        return _verify(arguments, workspace)
    if arguments.verb == "show":
        return _show(arguments, workspace)
    return _list(arguments, workspace)


def _list(arguments: argparse.Namespace, workspace: Workspace) -> int:
    from finetui.data.versions import list_versions

    versions = list_versions(workspace)
    if arguments.json:
        for version in versions:
            console.emit(_facts(workspace, version))
        return 0
    if not versions:
        console.say("no versions yet; write one: finetui split FILE")
        return 0
    rows = [
        (
            version.id,
            version.name,
            version.created[:16].replace("T", " "),
            ", ".join(f"{name} {count:,}" for name, count in version.rows.items()),
            ", ".join(job.id for job in start.used_by(workspace, version)) or "-",
        )
        for version in versions
    ]
    console.table(rows, ("version", "name", "written", "rows", "used by"))
    return 0


def _facts(workspace: Workspace, version: Version) -> dict[str, Any]:
    return {
        "id": version.id,
        "name": version.name,
        "created": version.created,
        "path": str(version.path),
        "rows": version.rows,
        "used_by": [job.id for job in start.used_by(workspace, version)],
    }


def _show(arguments: argparse.Namespace, workspace: Workspace) -> int:
    import json

    from finetui.data.versions import find_version

    version = find_version(workspace, arguments.version)
    facts = _facts(workspace, version) | {"manifest": version.manifest}
    if arguments.json:
        console.emit(facts)
        return 0
    for line in json.dumps(version.manifest, indent=2, ensure_ascii=False).splitlines():
        console.out(clean(line))
    used = ", ".join(facts["used_by"]) or "no run yet"
    console.say(f"used by: {used}")
    return 0


def _verify(arguments: argparse.Namespace, workspace: Workspace) -> int:
    from finetui.data.versions import find_version, list_versions, verify_version

    chosen = [find_version(workspace, word) for word in arguments.versions]
    bad = 0
    for version in chosen or list_versions(workspace):
        wrong = verify_version(version)
        bad += bool(wrong)
        if arguments.json:
            console.emit({"id": version.id, "good": not wrong, "wrong": wrong})
        elif wrong:
            console.out(f"{version.id}\tnot as written: {clean(', '.join(wrong))}")
        else:
            console.out(f"{version.id}\tgood")
    return 1 if bad else 0


def _diff(arguments: argparse.Namespace, workspace: Workspace) -> int:
    from finetui.data.diff import diff
    from finetui.data.versions import find_version

    before = find_version(workspace, arguments.before)
    after = find_version(workspace, arguments.after)
    if before.id == after.id:
        raise UserError("the two versions are one and the same.", before.id)
    found = diff(before, after)
    try:
        if arguments.json:
            _emit(found)
        else:
            _print(found, len(found.changes) if arguments.all else _SHOWN)
    finally:
        found.close()
    return 1 if found.changes else 0


def _emit(found: Diff) -> None:
    for change in found.changes:
        old, new = found.texts(change)
        console.emit(
            {
                "kind": change.kind,
                "before": change.before._asdict() if change.before else None,
                "after": change.after._asdict() if change.after else None,
                "old": old,
                "new": new,
            }
        )
    console.emit({"counts": found.counts})


def _print(found: Diff, limit: int) -> None:
    for change in found.changes[:limit]:
        _print_change(found, change)
    if len(found.changes) > limit:
        console.say(f"and {len(found.changes) - limit:,} more (--all shows them)")
    counts = found.counts
    told = ", ".join(f"{counts[kind]:,} {kind}" for kind in _SIGNS)
    console.say(f"{told}; {plural(counts['same'], 'row')} the same")


def _print_change(found: Diff, change: Change) -> None:
    old, new = found.texts(change)
    places = [f"{place.file}:{place.line}" for place in (change.before, change.after) if place]
    console.out(f"{_SIGNS[change.kind]} {clean(' -> '.join(places))}")
    if change.kind in ("removed", "edited") and old is not None:
        console.out(f"    - {clean(old)[:_WIDTH]}")
    if change.kind in ("added", "edited") and new is not None:
        console.out(f"    + {clean(new)[:_WIDTH]}")
