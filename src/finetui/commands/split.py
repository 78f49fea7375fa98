"""``finetui split``: write a version split into train, validation and test."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from finetui.commands import console
from finetui.display import clean, plural
from finetui.errors import UserError

if TYPE_CHECKING:
    from finetui.data.dataset import DataSet
    from finetui.data.split import Group, SplitSpec
    from finetui.data.versions import Version


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Write a version of data sets, edits included, split without leaks: rows that ask the "
        "same, nearly the same, or share a conversation's opening stay together.",
        json=True,
    )
    made.add_argument("files", type=Path, nargs="+", metavar="FILE")
    made.add_argument("--name", default="", help="a name for the version")
    add_split(made)
    made.add_argument(
        "--skip-malformed", action="store_true", help="leave out rows that cannot be read"
    )
    return made


def add_split(made: argparse.ArgumentParser) -> None:
    """The options that say how to split."""
    made.add_argument(
        "--fractions", default="", help="train/validation/test in percent (80/10/10), or train/test"
    )
    made.add_argument("--counts", default="", help="rows instead, as 0/500/500; 0 is the rest")
    made.add_argument("--seed", type=int, default=None)
    made.add_argument(
        "--group", default="", metavar="KEY", help="rows with one value stay together"
    )
    made.add_argument("--stratify", default="", metavar="KEY", help="keep this label's shares")
    made.add_argument(
        "--from",
        dest="earlier",
        default="",
        metavar="VERSION",
        help="go on from a version's split: its rows stay where they are, new ones are added",
    )
    made.add_argument(
        "--near",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="keep near-duplicates together (default: up to 200,000 rows)",
    )
    made.add_argument(
        "--similarity", type=float, default=None, help="from which rows are near (0.5)"
    )


def run(arguments: argparse.Namespace) -> int:
    from finetui.data.dataset import open_dataset
    from finetui.data.versions import write_version

    workspace = console.workspace_of(arguments)
    earlier = earlier_version(arguments)
    spec = spec_of(arguments, earlier)
    with ExitStack() as stack:
        data = [stack.enter_context(open_dataset(file, workspace)) for file in arguments.files]
        spec, alike = near_groups(data, spec, arguments.near)
        version = write_version(
            data,
            workspace,
            arguments.name,
            spec,
            skip_malformed=arguments.skip_malformed,
            alike=alike,
            earlier=earlier,
        )
    tell(version, arguments.json)
    return 0


def tell(version: Version, json: bool) -> None:
    """What was written: one line a file, notes beside it."""
    if json:
        console.emit({"id": version.id, "path": str(version.path), "manifest": version.manifest})
        return
    for note in (version.manifest.get("split") or {}).get("notes", []):
        console.say(note)
    for output in version.manifest["outputs"]:
        place = clean(str(version.path / output["file"]))
        console.out(f"{place}\t{plural(output['rows'], 'row')}")


def earlier_version(arguments: argparse.Namespace) -> Version | None:
    from finetui.data.versions import find_version

    if not arguments.earlier:
        return None
    return find_version(console.workspace_of(arguments), arguments.earlier)


def spec_of(arguments: argparse.Namespace, earlier: Version | None) -> SplitSpec:
    """What was typed, over what the earlier version was split by."""
    from finetui.data.split import SplitSpec

    spec = (earlier.spec if earlier else None) or SplitSpec()
    if arguments.fractions:
        spec = replace(spec, fractions=fractions(arguments.fractions), counts=())
    if arguments.counts:
        spec = replace(spec, counts=counts(arguments.counts))
    if arguments.seed is not None:
        spec = replace(spec, seed=arguments.seed)
    if arguments.group:
        spec = replace(spec, group_key=arguments.group)
    if arguments.stratify:
        spec = replace(spec, stratify=arguments.stratify)
    if arguments.similarity is not None:
        spec = replace(spec, near=arguments.similarity)
    return replace(spec, after=earlier.id if earlier else "")


def near_groups(
    data: Sequence[DataSet], spec: SplitSpec, wanted: bool | None
) -> tuple[SplitSpec, list[Group]]:
    """The groups of near-duplicates, and the spec that says so; none when not wanted."""
    from finetui.data import split

    with console.progress("looking for near-duplicates") as progress:
        found = split.near_groups(data, spec, wanted, progress)
    if wanted is None and not found[0].near:
        console.say(
            f"over {split.NEAR_ROWS:,} rows near-duplicates are not looked for; --near does"
        )
    return found


def fractions(text: str) -> tuple[float, ...]:
    """``80/10/10`` or ``90/10`` as shares of one. Raises UserError."""
    try:
        parts = [float(part) for part in text.replace(",", "/").split("/")]
    except ValueError:
        parts = []
    if not 2 <= len(parts) <= 3 or min(parts) < 0 or sum(parts) <= 0:
        raise UserError(f"{text!r} is not two or three shares.", "--fractions", "Write 80/10/10.")
    return tuple(part / sum(parts) for part in parts)


def counts(text: str) -> tuple[int, ...]:
    """``0/500/500`` as rows. Raises UserError."""
    try:
        parts = tuple(int(part) for part in text.replace(",", "/").split("/"))
    except ValueError:
        parts = ()
    if not 2 <= len(parts) <= 3 or min(parts) < 0:
        raise UserError(
            f"{text!r} is not two or three numbers of rows.", "--counts", "Write 0/500/500."
        )
    return parts
