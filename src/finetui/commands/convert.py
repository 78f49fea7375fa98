"""``finetui convert``: write data sets in another shape, and say what that would drop."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from finetui.commands import console
from finetui.data.convert import TARGETS, Conversion, InputRow, convert_to
from finetui.data.records import Shape
from finetui.data.strict import decode
from finetui.display import clean, plural
from finetui.errors import UserError

if TYPE_CHECKING:
    from finetui.data.dataset import DataSet
    from finetui.workspace import Workspace


def parser() -> argparse.ArgumentParser:
    names = ", ".join(TARGETS)
    made = console.parser(
        "Write data sets, edits included, in another shape as JSON Lines. Several files become "
        f"one. Without -o, only say what would be dropped. Shapes: {names}.",
        json=True,
    )
    made.add_argument("files", type=Path, nargs="+", metavar="FILE")
    made.add_argument("--to", required=True, metavar="SHAPE", help="the shape to write")
    made.add_argument(
        "--from", dest="shape", default="", metavar="SHAPE", help="read the rows as this shape"
    )
    made.add_argument("-o", "--output", type=Path, metavar="OUT", help="a new file")
    made.add_argument(
        "--drop", action="store_true", help="write although something would be dropped"
    )
    return made


def run(arguments: argparse.Namespace) -> int:
    from finetui.data.dataset import open_dataset

    to = _shape(arguments.to, "--to")
    given = _shape(arguments.shape, "--from") if arguments.shape else None
    paths = arguments.files if len(arguments.files) > 1 else arguments.files[0]
    workspace = _workspace(arguments)
    with open_dataset(paths, workspace) as data, console.progress("converting") as progress:
        data.build_index(lambda done: progress(done, data.source.size))
        shape = given or data.shape
        if given is None:
            guess = data.source.shape
            console.say(f"read as {shape} ({guess.sure}: {guess.reason})")
        if arguments.output and not arguments.drop:
            # Told before anything is written: what a conversion loses is the person's choice.
            result = convert_to(_rows(data), shape, to, None, str(data.path))
            if not result.lossless:
                return _tell(result, to, arguments, refused=True)
        result = convert_to(_rows(data), shape, to, arguments.output, str(data.path))
    return _tell(result, to, arguments)


def _workspace(arguments: argparse.Namespace) -> Workspace | None:
    """The workspace, for the edits it keeps; a file outside of any has none."""
    from finetui.workspace import find

    return find(arguments.workspace)


def _rows(data: DataSet) -> Iterator[InputRow]:
    """The rows that are kept, as they are edited now."""
    source = data.source
    for raw in source.iterate():
        state = data.state(raw.row)
        if not state.kept:
            continue
        if state.text is None:
            yield InputRow(raw.line, raw.raw, source.decode, source.verbatim)
        else:
            yield InputRow(raw.line, state.text.encode(), decode, True)


def _shape(name: str, option: str) -> Shape:
    if name not in TARGETS:
        raise UserError(f"{name!r} is no shape.", option, f"Choose from: {', '.join(TARGETS)}.")
    return Shape(name)


def _tell(
    result: Conversion, to: Shape, arguments: argparse.Namespace, refused: bool = False
) -> int:
    output = None if refused else arguments.output
    if arguments.json:
        written = str(output) if output else None
        console.emit({"to": str(to), "output": written} | result.as_dict())
    else:
        for line in _lines(result):
            console.out(clean(line))
    if output:
        console.say(f"wrote {plural(result.written, 'row')} to {output}")
    elif refused:
        console.say("Nothing was written. To write it all the same, add --drop.")
    return 0 if result.lossless else 1


def _lines(result: Conversion) -> Iterator[str]:
    yield f"{plural(result.rows, 'row')} read, {result.written:,} as the other shape"
    kinds: tuple[tuple[str, Counter[str]], ...] = (
        ("dropped", result.dropped), ("left out", result.left_out), ("note", result.notes),
    )  # fmt: skip
    for word, counter in kinds:
        for what, count in counter.most_common():
            lines = ", ".join(f"{line:,}" for line in result.first_lines[what])
            more = " ..." if count > len(result.first_lines[what]) else ""
            yield f"{word}: {what}: {plural(count, 'row')} (line {lines}{more})"
    if result.lossless:
        yield "nothing is dropped"
