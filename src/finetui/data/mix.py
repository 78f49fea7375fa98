"""Mix general data into a training set, so that a model keeps what it knew.

The share is of the set's own rows (or tokens), as in a recipe. General rows that give a held-out
row away are left out first; the others are drawn by a keyed hash, so that a seed gives one draw
whatever the order of the file. A column says which source a row came from.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

import xxhash

from finetui.data.alike import covered
from finetui.data.convert import CannotConvert, convert
from finetui.data.dataset import DataSet
from finetui.data.ledger import Ledger
from finetui.data.prompts import asked_in_full
from finetui.data.records import Record, Shape, read_record
from finetui.data.split import LEFT_OUT, Group, Split, SplitSpec, split_datasets
from finetui.data.strict import decode, dumps
from finetui.data.version_rows import Held, Part
from finetui.data.versions import Version, write_parts
from finetui.errors import UserError
from finetui.workspace import Workspace

By = Literal["rows", "tokens"]
ORDERS = ("as-is", "shuffled", "short-to-long")
BYTES_A_TOKEN = 4.0  # of English under a usual tokenizer; only without a model's own

Measure = Callable[[Record], int]
HeldOut = Sequence[DataSet | tuple[DataSet, Sequence[int] | None]]
Contaminated = Callable[[DataSet, HeldOut], Iterable[int]]


@dataclass(frozen=True)
class MixSpec:
    """How to mix: general rows (or tokens) for each of the set's own, a seed, the order of the
    file (a trainer that shuffles undoes it), and the column that names the source ("": none).

    ``least`` is the share of a held-out row that a general row may hold before it is left out.
    """

    share: float = 0.25
    by: By = "rows"
    seed: int = 0
    order: str = "as-is"
    column: str = "source"
    least: float = 0.3


class _Remake:
    """Makes a line of the set's shape of a general row's line."""

    def __init__(self, shape: Shape, to: Shape) -> None:
        self.shape, self.to = shape, to
        self.dropped: Counter[str] = Counter()
        self.impossible = 0

    @classmethod
    def between(cls, general: DataSet, to: Shape) -> _Remake | None:
        return None if general.shape is to else cls(general.shape, to)

    def can(self, record: Record | None) -> bool:
        """Whether a record has a form in the other shape, as one row."""
        try:
            made = convert(record, self.to) if record else None
        except CannotConvert:
            made = None
        if made is None or len(made.values) != 1:
            self.impossible += 1
            return False
        self.dropped.update(made.dropped)
        return True

    def __call__(self, line: bytes) -> bytes:
        record = read_record(decode(line), self.shape)[0]
        assert record is not None  # `can` has read it
        return dumps(convert(record, self.to).value).encode()


@dataclass
class Drawn:
    """What is taken of one general set; ``tokens`` are 0 where rows are counted."""

    path: str
    rows: list[int] = field(default_factory=list, repr=False)
    tokens: int = 0
    contaminated: int = 0
    available: int = 0
    remake: _Remake | None = None


def estimate(record: Record) -> int:
    """About how many tokens a record has, without a tokenizer."""
    size = sum(len(turn.content.encode(errors="surrogatepass")) for turn in record.all_turns())
    return max(1, round(size / BYTES_A_TOKEN))


def write_mix(
    datasets: Sequence[DataSet],
    general: Sequence[DataSet],
    workspace: Workspace,
    mix: MixSpec,
    *,
    name: str = "",
    split: SplitSpec | None = None,
    alike: Iterable[Group] = (),
    earlier: Ledger | None = None,
    held_out: Sequence[DataSet] = (),
    measure: Measure | None = None,
    contaminated: Contaminated | None = None,
    skip_malformed: bool = False,
) -> Version:
    """Write a version of data sets with general rows mixed into what is trained on.

    With ``split`` the data sets are split first (as `write_version` does) and only the training
    part is mixed; general rows that give away its held-out rows, or a row of ``held_out``, are
    left out. ``measure`` counts tokens (an estimate without it). Raises UserError for a share or
    an order that is none, or when nothing of the general data may be used.
    """
    _refuse_nonsense(mix)
    result = split_datasets(datasets, split, alike, earlier) if split else None
    guarded: list[DataSet | tuple[DataSet, Sequence[int] | None]] = list(held_out)
    guarded += _held_out_rows(datasets, result)
    wanted = mix.share * _own_size(datasets, result, mix, measure or estimate)
    find = contaminated or _covered(mix.least)
    remakes = [_Remake.between(own, datasets[0].shape) for own in general]
    drawn = [
        Drawn(str(own.path), remake=remake) for own, remake in zip(general, remakes, strict=True)
    ]
    _draw(general, drawn, mix, wanted, measure or estimate, lambda own: find(own, guarded))
    parts = _parts(datasets, general, result, drawn, mix)
    facts = {"mix": _facts(mix, drawn, guarded, workspace, exact=measure is not None)}
    return write_parts(
        parts,
        workspace,
        name,
        result,
        skip_malformed,
        facts=facts,
        order=None if mix.order == "as-is" else lambda held: _ordered(held, mix),
    )


def _refuse_nonsense(mix: MixSpec) -> None:
    if not 0 < mix.share <= 100:
        raise UserError(f"{mix.share:g} is not a share of general data.", "--share", "Write 25%.")
    if mix.by not in ("rows", "tokens"):
        raise UserError(f"{mix.by!r} cannot be counted.", "--by", "Use rows or tokens.")
    if mix.order not in ORDERS:
        known = ", ".join(ORDERS)
        raise UserError(f"{mix.order!r} is not an order.", "--order", f"Use one of: {known}.")


def _covered(least: float) -> Contaminated:
    def rows(own: DataSet, guarded: HeldOut) -> Iterable[int]:
        return {found.row for found in covered(own, guarded, least)} if guarded else ()

    return rows


def _held_out_rows(
    datasets: Sequence[DataSet], result: Split | None
) -> list[tuple[DataSet, Sequence[int] | None]]:
    if result is None:
        return []
    rows = [
        [row for row, place in enumerate(places) if 0 < place != LEFT_OUT]
        for places in result.assignment
    ]
    return [(dataset, own) for dataset, own in zip(datasets, rows, strict=True) if own]


def _own_size(
    datasets: Sequence[DataSet], result: Split | None, mix: MixSpec, measure: Measure
) -> int:
    """Rows, or tokens, of what is trained on."""
    size = 0
    for number, dataset in enumerate(datasets):
        for read in asked_in_full(dataset):
            if result is None or result.assignment[number][read.row] == 0:
                size += 1 if mix.by == "rows" else _tokens(read.record, measure)
    return size


def _tokens(record: Record | None, measure: Measure) -> int:
    return measure(record) if record else 0


def _draw(
    general: Sequence[DataSet],
    drawn: Sequence[Drawn],
    mix: MixSpec,
    wanted: float,
    measure: Measure,
    contaminated: Callable[[DataSet], Iterable[int]],
) -> None:
    """Take general rows in the order of their hash, until there are enough."""
    salt = xxhash.xxh3_64_intdigest(f"finetui-mix-{mix.seed}".encode())
    pool: list[tuple[int, int, int, int]] = []
    for number, dataset in enumerate(general):
        bad = set(contaminated(dataset))
        for read in asked_in_full(dataset):
            drawn[number].available += 1
            if read.row in bad:
                drawn[number].contaminated += 1
                continue
            remake = drawn[number].remake
            if remake and not remake.can(read.record):
                continue
            key = xxhash.xxh3_64_intdigest(read.mark.to_bytes(8, "big"), salt)
            size = 1 if mix.by == "rows" else _tokens(read.record, measure)
            pool.append((key, number, read.row, size))
    total = 0
    for _, number, row, size in sorted(pool):
        if total + size / 2 > wanted:  # nearer without it
            break
        total += size
        drawn[number].rows.append(row)
        drawn[number].tokens += size if mix.by == "tokens" else 0
    if not total:
        raise UserError(
            "no general row can be mixed in: there is none, all give held-out rows away, "
            "or the share is too small.",
            ", ".join(str(dataset.path) for dataset in general),
        )


def _parts(
    datasets: Sequence[DataSet],
    general: Sequence[DataSet],
    result: Split | None,
    drawn: Sequence[Drawn],
    mix: MixSpec,
) -> list[Part]:
    places = result.assignment if result else [None] * len(datasets)
    parts = [
        Part(dataset, own, _column(mix, dataset))
        for dataset, own in zip(datasets, places, strict=True)
    ]
    for dataset, taken in zip(general, drawn, strict=True):
        chosen = bytearray([LEFT_OUT]) * dataset.rows
        for row in taken.rows:
            chosen[row] = 0
        own = array("B", bytes(chosen))
        parts.append(Part(dataset, own, _column(mix, dataset), taken.remake))
    return parts


def _column(mix: MixSpec, dataset: DataSet) -> tuple[str, str] | None:
    return (mix.column, Path(dataset.path).stem) if mix.column else None


def _ordered(held: Sequence[Held], mix: MixSpec) -> Sequence[Held]:
    if mix.order == "short-to-long":
        return sorted(held, key=lambda row: row.length)
    shuffled = list(held)
    Random(mix.seed).shuffle(shuffled)
    return shuffled


def _facts(
    mix: MixSpec,
    drawn: Sequence[Drawn],
    guarded: HeldOut,
    workspace: Workspace,
    exact: bool,
) -> Mapping[str, Any]:
    held_out = [item[0] if isinstance(item, tuple) else item for item in guarded]
    return asdict(mix) | {
        "general": [_source_facts(taken, mix, workspace, exact) for taken in drawn],
        "held_out": [workspace.relative(own.path.resolve()) for own in held_out],
    }


def _source_facts(taken: Drawn, mix: MixSpec, workspace: Workspace, exact: bool) -> dict[str, Any]:
    said: dict[str, Any] = {
        "path": workspace.relative(Path(taken.path).resolve()),
        "rows": len(taken.rows),
        "available": taken.available,
        "contaminated": taken.contaminated,
    }
    if mix.by == "tokens":
        said |= {"tokens": taken.tokens, "exact": exact}
    if taken.remake:
        said["converted"] = {
            "from": str(taken.remake.shape),
            "to": str(taken.remake.to),
            "impossible": taken.remake.impossible,
            "drops": dict(taken.remake.dropped.most_common()),
        }
    return said
