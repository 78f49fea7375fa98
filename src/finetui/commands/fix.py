"""``finetui fix``: repair all findings of a check in one step, with one undo."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetui.commands import console
from finetui.display import clean, plural
from finetui.errors import UserError

if TYPE_CHECKING:
    from finetui.data.dataset import DataSet
    from finetui.data.edits.bulk import Applied, Preview

_WIDTH = 160


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Repair all rows that a check finds, as one step in the file's journal; the file itself "
        "stays as it is. finetui edits FILE --undo takes it back.",
        json=True,
    )
    made.add_argument("file", type=Path, nargs="+", metavar="FILE")
    made.add_argument(
        "--check", default="", metavar="IDS", help="what to repair, separated by commas"
    )
    made.add_argument(
        "--redact",
        action="store_true",
        help="put placeholders in the place of personal data and keys: one value, one placeholder",
    )
    made.add_argument(
        "--by",
        choices=("repair", "drop", "quarantine", "mark"),
        default="repair",
        help="what to do with the rows found (repair)",
    )
    made.add_argument("--dry-run", action="store_true", help="show the differences, write nothing")
    return made


def run(arguments: argparse.Namespace) -> int:
    from finetui.data.dataset import open_dataset
    from finetui.data.edits import bulk

    checks = _checks(arguments)
    workspace = console.workspace_of(arguments)
    kind = "redact" if arguments.redact else ""
    note = f"redact: {', '.join(checks)}" if arguments.redact else ""
    with open_dataset(_paths(arguments.file), workspace) as dataset:
        if dataset.notice:
            console.say(dataset.notice)
        with console.progress("looking") as progress:
            rows = bulk.rows_with(dataset, checks, progress)
        with console.progress("repairing") as progress:
            if arguments.dry_run:
                seen = bulk.preview(dataset, checks, rows, arguments.by, progress=progress)
                return _show(dataset, seen, arguments.json)
            done = bulk.apply(
                dataset, checks, rows, arguments.by, note, progress=progress, kind=kind
            )
        return _tell(dataset, checks, done, arguments)


def _checks(arguments: argparse.Namespace) -> list[str]:
    from finetui.data.edits import redact

    named = [part.strip() for part in arguments.check.split(",") if part.strip()]
    if not named and not arguments.redact:
        raise UserError(
            "no check is named.", fix="Name one: finetui fix FILE --check duplicate, or --redact."
        )
    return named or redact.kinds()


def _paths(files: list[Path]) -> Path | list[Path]:
    return files[0] if len(files) == 1 else files


def _show(dataset: DataSet, seen: Preview, as_json: bool) -> int:
    for each in seen.differences:
        if as_json:
            console.emit({"line": each.line, "before": each.before, "after": each.after})
        else:
            console.out(f"line {each.line:,}")
            console.out(f"  - {_cut(each.before, each.after or '')}")
            console.out(f"  + {_cut(each.after, each.before)}" if each.after else "  + left out")
    _unfixable(dataset, seen.unfixable, as_json)
    if as_json:
        console.emit({"rows": seen.count, "unfixable": len(seen.unfixable), "written": False})
    else:
        more = seen.count - len(seen.differences)
        also = f" ({more:,} more not shown)" if more > 0 else ""
        console.say(f"{plural(seen.count, 'row')} would be changed{also}; nothing was written.")
    return 1 if seen.unfixable else 0


def _cut(text: str | None, other: str) -> str:
    """A long row from a little before its first difference."""
    text = text or ""
    shorter = min(len(text), len(other))
    first = next((k for k in range(shorter) if text[k] != other[k]), shorter)
    start = max(0, first - _WIDTH // 2) if len(text) > _WIDTH else 0
    lead, tail = "…" * (start > 0), "…" * (start + _WIDTH < len(text))
    return lead + clean(text[start : start + _WIDTH]) + tail


def _tell(dataset: DataSet, checks: list[str], done: Applied, arguments: argparse.Namespace) -> int:
    _unfixable(dataset, done.unfixable, arguments.json)
    if arguments.json:
        told: dict[str, Any] = {"step": done.seq, "checks": checks, "rows": done.count}
        console.emit(told | {"unfixable": len(done.unfixable), "written": bool(done.seq)})
        return 1 if done.unfixable else 0
    verbs = {"repair": "changed", "drop": "dropped", "quarantine": "put aside", "mark": "marked"}
    if done.seq:
        console.say(
            f"Step {done.seq}: {plural(done.count, 'row')} {verbs[arguments.by]}. "
            f"Take it back with: finetui edits {dataset.path} --undo"
        )
    else:
        console.say("There is nothing to repair.")
    return 1 if done.unfixable else 0


def _unfixable(dataset: DataSet, rows: list[tuple[int, str]], as_json: bool) -> None:
    for row, why in rows:
        line = dataset.source.line(row)
        if as_json:
            console.emit({"line": line, "unfixable": why})
        else:
            console.say(f"{dataset.path}:{line}: not repaired: {why}")
