"""``finetui drift``: how new data differs from a training set, and the rows that cause it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from finetui.commands import console
from finetui.data.formats.source import open_source
from finetui.display import clean, plural
from finetui.errors import UserError

if TYPE_CHECKING:
    from finetui.data.whole.drift import Drift

_ROWS = 20


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Compare new data (from production, or a test set) with the data a model was trained on. "
        "Exit code 1 when they differ. Needs no labels or answers in the new data.",
        json=True,
        workspace=False,
    )
    made.add_argument("train", type=Path, metavar="TRAIN")
    made.add_argument("new", type=Path, metavar="NEW")
    made.add_argument("--part", choices=("prompt", "answer"), default="prompt")
    made.add_argument(
        "--rows",
        type=int,
        default=_ROWS,
        metavar="N",
        help=f"rows to name at most (default {_ROWS}; --json: all)",
    )
    return made


def run(arguments: argparse.Namespace) -> int:
    from finetui.data.whole.drift import measure

    with (
        open_source(arguments.train) as train,
        open_source(arguments.new) as new,
        console.progress("comparing") as progress,
    ):
        for source in (train, new):
            source.build_index()
        try:
            found = measure(train, new, arguments.part, tell=progress)
        except ValueError as error:
            raise UserError(
                f"too little to compare: {error}.", f"{arguments.train}, {arguments.new}"
            ) from None
    if arguments.json:
        _emit(found, str(arguments.new))
    else:
        _tell(found, str(arguments.new), arguments.rows)
    return int(found.drifted)


def _emit(found: Drift, file: str) -> None:
    """One line a row, one line a word, and the summary."""
    summary = found.as_dict()
    for row in summary.pop("strange"):
        console.emit({"file": file, **row})
    for shift in summary["shifts"]:
        console.emit({"shift": shift})
    del summary["shifts"]
    console.emit({"summary": summary})


def _tell(found: Drift, file: str, rows: int) -> None:
    about = "" if found.exact else "≈"
    for strange in found.strange[:rows]:
        words = ", ".join(strange.words)
        console.out(
            clean(
                f"{file}:{strange.line}: {about}{strange.surprise:.1f} bits a word "
                f"(bound {found.bound:.1f}; {words}): {strange.text[:120]}"
            )
        )
    if found.strange_rows > rows:
        console.say(f"{found.strange_rows - rows:,} more rows: --rows {found.strange_rows}")
    if found.shifts:
        table = [
            (s.word, "commoner" if s.z > 0 else "rarer", f"{s.before:.1%}", f"{s.now:.1%}")
            for s in found.shifts
        ]
        console.table(table, ("word", "is", "rows before", "rows now"))
    console.say(
        f"{plural(found.train_rows, 'training row')}, {plural(found.new_rows, 'new row')}; told "
        f"apart {about}{found.apart:.2f} (0.5: not at all, 1: always); {about}{found.beyond:.1%} "
        "of the new rows are stranger than all but 0.5 % of the training rows"
    )
    console.say("drift: " + "; ".join(found.reasons) if found.drifted else "no drift")
