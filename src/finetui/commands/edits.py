"""``finetui edits``: what was done to a data set, step by step, and how to take it back."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from finetui.commands import console
from finetui.display import moment, plural
from finetui.errors import UserError

if TYPE_CHECKING:
    from finetui.data.dataset import DataSet


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "List the steps that were done to a data set, in their order, with how many rows each "
        "changed and the counts by reason; or undo, redo, switch and move them.",
        json=True,
    )
    made.add_argument("file", type=Path, nargs="+", metavar="FILE")
    act = made.add_mutually_exclusive_group()
    act.add_argument("--undo", action="store_true", help="take the newest operation back")
    act.add_argument("--redo", action="store_true", help="do again what was taken back")
    act.add_argument("--switch-off", type=int, metavar="N", help="as if step N had not been made")
    act.add_argument("--switch-on", type=int, metavar="N", help="have step N count again")
    act.add_argument(
        "--move", type=int, nargs="+", metavar="N", help="--move N M: put step N before M (or last)"
    )
    act.add_argument(
        "--unplaced", action="store_true", help="edits whose row the changed file no longer has"
    )
    act.add_argument(
        "--place", type=int, nargs=2, metavar=("N", "LINE"), help="put unplaced edit N on a line"
    )
    act.add_argument(
        "--dismiss", type=int, nargs="+", metavar="N", help="unplaced edits that are done with"
    )
    made.add_argument(
        "--along", action="store_true", help="switch off what was made on the step as well"
    )
    return made


def run(arguments: argparse.Namespace) -> int:
    from finetui.data.dataset import open_dataset

    files = arguments.file
    workspace = console.workspace_of(arguments)
    with open_dataset(files[0] if len(files) == 1 else files, workspace) as dataset:
        if dataset.notice:
            console.say(dataset.notice)
        if arguments.unplaced:
            return _unplaced(dataset, arguments.json)
        said = _act(dataset, arguments)
        if said is None:
            return _list(dataset, arguments.json)
        if arguments.json:
            console.emit({"said": said})
        else:
            console.say(said)
        return 0


def _act(dataset: DataSet, arguments: argparse.Namespace) -> str | None:
    """Do what was asked; None when only a list was."""
    if arguments.undo:
        return dataset.undo() or "There is nothing to undo."
    if arguments.redo:
        return dataset.redo() or "There is nothing to redo."
    if arguments.switch_off is not None:
        return dataset.switch(arguments.switch_off, False, arguments.along)
    if arguments.switch_on is not None:
        return dataset.switch(arguments.switch_on, True)
    if arguments.move:
        return _move(dataset, arguments.move)
    return _settle(dataset, arguments)


def _move(dataset: DataSet, numbers: list[int]) -> str:
    if len(numbers) > 2:
        raise UserError("--move takes a step and the step to put it before.")
    return dataset.move(numbers[0], numbers[1] if len(numbers) == 2 else None)


def _settle(dataset: DataSet, arguments: argparse.Namespace) -> str | None:
    known = [each.key for each in dataset.unplaced]
    if arguments.place:
        number, line = arguments.place
        return dataset.place(_key(known, number), _row_at(dataset, line))
    if arguments.dismiss:
        count = dataset.dismiss([_key(known, number) for number in arguments.dismiss])
        return f"{plural(count, 'unplaced edit')} dismissed."
    return None


def _key(known: list[int], number: int) -> int:
    if not 1 <= number <= len(known):
        raise UserError(
            f"there is no unplaced edit {number}.",
            fix="See them with: finetui edits FILE --unplaced",
        )
    return known[number - 1]


def _row_at(dataset: DataSet, line: int) -> int:
    dataset.build_index()
    rows = (row for row in range(dataset.rows) if dataset.source.line(row) == line)
    row = next(rows, None)
    if row is None:
        raise UserError(f"no row begins in line {line}.", str(dataset.path))
    return row


def _list(dataset: DataSet, as_json: bool) -> int:
    steps, counts = dataset.steps(), dataset.counts()
    waiting = len(dataset.unplaced)
    if as_json:
        for step in steps:
            console.emit(asdict(step))
        told = [
            {"what": count.what, "reason": count.reason, "rows": count.rows} for count in counts
        ]
        console.emit({"counts": told, "unplaced": waiting})
        return 0
    if not steps:
        console.say("There are no edits.")
        return 0
    rows = [
        (
            step.seq,
            moment(step.time, "%Y-%m-%d %H:%M"),
            step.actor,
            step.kind,
            f"{step.rows:,}",
            "" if step.active else "off",
            ", ".join(map(str, step.depends_on)),
            step.note or step.reason,
        )
        for step in steps
    ]
    console.table(rows, ("step", "when", "who", "what", "rows", "", "needs", "note"))
    console.out()
    console.table(
        [(f"{count.rows:,}", count.what, count.reason) for count in counts], ("rows", "now", "for")
    )
    if waiting:
        console.say(f"{plural(waiting, 'edit')} could not be placed: see --unplaced.")
    return 0


def _unplaced(dataset: DataSet, as_json: bool) -> int:
    """Exit code 1 while there is an edit that a person should look at."""
    found = dataset.unplaced
    for number, each in enumerate(found, 1):
        state = each.state
        what = "edit" if state.text is not None else "drop" if state.dropped else "decision"
        if as_json:
            console.emit(
                {"number": number, "line": each.line, "what": what, "why": each.reason,
                 "settled": each.settled, "text": each.text, "reason": state.reason,
                 "marked": state.marked, "label": state.label}
            )  # fmt: skip
    if not as_json:
        console.table(
            [
                (number, each.line, each.reason, each.text[:80])
                for number, each in enumerate(found, 1)
            ],
            ("edit", "line", "why", "text"),
        )
    return 1 if any(not each.settled for each in found) else 0
