"""``finetui split``: write a version split into train, validation and test."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from finetui.commands import console
from finetui.display import plural
from finetui.errors import UserError


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Write a version of data sets, edits included, split without leaks: rows with the same "
        "prompt stay together.",
        json=True,
    )
    made.add_argument("files", type=Path, nargs="+", metavar="FILE")
    made.add_argument("--name", default="", help="a name for the version")
    made.add_argument(
        "--fractions", default="80/10/10", help="train/validation/test in percent (80/10/10)"
    )
    made.add_argument("--seed", type=int, default=0)
    made.add_argument(
        "--group", default="", metavar="KEY", help="rows with one value stay together"
    )
    made.add_argument("--stratify", default="", metavar="KEY", help="keep this label's shares")
    made.add_argument(
        "--skip-malformed", action="store_true", help="leave out rows that cannot be read"
    )
    return made


def run(arguments: argparse.Namespace) -> int:
    from finetui.data.dataset import open_dataset
    from finetui.data.split import SplitSpec
    from finetui.data.versions import write_version

    workspace = console.workspace_of(arguments)
    spec = SplitSpec(
        fractions(arguments.fractions), arguments.seed, arguments.group, arguments.stratify
    )
    with ExitStack() as stack:
        data = [stack.enter_context(open_dataset(file, workspace)) for file in arguments.files]
        version = write_version(
            data, workspace, arguments.name, spec, skip_malformed=arguments.skip_malformed
        )
    if arguments.json:
        console.emit({"id": version.id, "path": str(version.path), "manifest": version.manifest})
        return 0
    for output in version.manifest["outputs"]:
        console.out(f"{version.path / output['file']}\t{plural(output['rows'], 'row')}")
    return 0


def fractions(text: str) -> tuple[float, float, float]:
    """``80/10/10`` as shares of one. Raises UserError."""
    try:
        parts = [float(part) for part in text.replace(",", "/").split("/")]
    except ValueError:
        parts = []
    if len(parts) != 3 or min(parts) < 0 or sum(parts) <= 0:
        raise UserError(f"{text!r} is not three shares.", "--fractions", "Write 80/10/10.")
    train, validation, test = (part / sum(parts) for part in parts)
    return train, validation, test
