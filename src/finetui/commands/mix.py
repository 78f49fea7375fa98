"""``finetui mix``: write a version with general data mixed in."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from finetui.commands import console, split
from finetui.display import clean, plural
from finetui.errors import UserError

if TYPE_CHECKING:
    from finetui.data.mix import Measure
    from finetui.data.split import Group, SplitSpec
    from finetui.data.versions import Version


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Write a version of data sets with general rows mixed into what is trained on. General "
        "rows that give a held-out row away are left out first. Without a split option all rows "
        "are trained on.",
        json=True,
    )
    made.add_argument("files", type=Path, nargs="+", metavar="FILE")
    made.add_argument("--general", type=Path, action="append", required=True, metavar="FILE")
    made.add_argument(
        "--share", default="25%", help="general rows for each of the set's own (25%%, or 0.25)"
    )
    made.add_argument("--by", choices=("rows", "tokens"), default="rows")
    made.add_argument(
        "--model", type=Path, metavar="FOLDER", help="whose tokens are counted (else estimated)"
    )
    made.add_argument(
        "--held-out", type=Path, action="append", default=[], metavar="FILE",
        help="what must not be given away, beside the split's own held-out rows",
    )  # fmt: skip
    made.add_argument(
        "--order",
        choices=("as-is", "shuffled", "short-to-long"),
        default="as-is",
        help="of the training file; a trainer that shuffles undoes it",
    )
    made.add_argument("--column", default="source", help="names each row's source ('': none)")
    made.add_argument("--name", default="", help="a name for the version")
    split.add_split(made)
    made.add_argument(
        "--skip-malformed", action="store_true", help="leave out rows that cannot be read"
    )
    return made


def run(arguments: argparse.Namespace) -> int:
    from finetui.data.dataset import open_dataset
    from finetui.data.mix import MixSpec, write_mix

    workspace = console.workspace_of(arguments)
    earlier = split.earlier_version(arguments)
    seed = arguments.seed or 0
    mix = MixSpec(share(arguments.share), arguments.by, seed, arguments.order, arguments.column)
    with ExitStack() as stack:
        data, general, held_out = (
            [stack.enter_context(open_dataset(file, workspace)) for file in files]
            for files in (arguments.files, arguments.general, arguments.held_out)
        )
        spec: SplitSpec | None = None
        alike: list[Group] = []
        if earlier or arguments.fractions or arguments.counts:
            spec = split.spec_of(arguments, earlier)
            spec, alike = split.near_groups(data, spec, arguments.near)
        version = write_mix(
            data,
            general,
            workspace,
            mix,
            name=arguments.name,
            split=spec,
            alike=alike,
            earlier=earlier.ledger if earlier else None,
            held_out=held_out,
            measure=measure(arguments.model),
            skip_malformed=arguments.skip_malformed,
        )
    if not arguments.json:
        tell(version)
    split.tell(version, arguments.json)
    return 0


def tell(version: Version) -> None:
    """What was mixed in, of which file."""
    for source in version.manifest["mix"]["general"]:
        about = "" if source.get("exact", True) else "about "
        tokens = f", {about}{source['tokens']:,} tokens" if "tokens" in source else ""
        out = source["contaminated"]
        left = f"; {plural(out, 'row')} left out that give held-out rows away" if out else ""
        console.say(
            f"{source['path']}: {source['rows']:,} of {plural(source['available'], 'row')}"
            f"{tokens} mixed in{left}"
        )


def share(text: str) -> float:
    """``25%`` or ``0.25``. Raises UserError."""
    number = text.strip().removesuffix("%")
    try:
        value = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value <= 100:
        raise UserError(f"{clean(text)!r} is not a share.", "--share", "Write 25%, or 0.25.")
    return value


def measure(model: Path | None) -> Measure | None:
    """Counts a record's tokens under a model's own tokenizer and template."""
    if model is None:
        return None
    from finetui.data.records import Record, Shape, messages
    from finetui.data.tokens import load_chat_tokenizer

    tokenizer = load_chat_tokenizer(model)

    def tokens(record: Record) -> int:
        if record.shape is Shape.TEXT:
            return len(tokenizer.encode_text(record.turns[0].content).ids)
        return len(tokenizer.encode(messages(record)).ids)

    return tokens
