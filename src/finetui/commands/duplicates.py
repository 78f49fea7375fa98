"""``finetui duplicates``: rows that say nearly the same, and which of them to keep."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetui.commands import console
from finetui.display import clean, plural
from finetui.errors import UserError
from finetui.workspace import find

if TYPE_CHECKING:
    from finetui.data.dataset import DataSet
    from finetui.data.findings import Cluster

_SHOWN = 80  # letters of a row that are printed


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Find rows that say nearly the same. Each cluster is printed with the row that stays "
        "(+) and those that go (-); nothing is changed without --apply.",
        json=True,
    )
    made.add_argument("files", type=Path, nargs="+", metavar="FILE", help="read as one set")
    made.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="how much of two rows must be the same, 0.1 to 1 (0.5)",
    )
    made.add_argument(
        "--keep",
        default="longest",
        choices=("longest", "newest", "first"),
        help="which row of a cluster stays (longest)",
    )
    made.add_argument(
        "--apply", action="store_true", help="drop the others; one undo takes it back"
    )
    return made


def run(arguments: argparse.Namespace) -> int:
    from finetui.data.alike import near_clusters
    from finetui.data.dataset import open_dataset
    from finetui.data.merge import merge

    if not 0.1 <= arguments.threshold <= 1:
        raise UserError("the threshold is a share from 0.1 to 1.", "--threshold", "Try 0.5.")
    workspace = find(arguments.workspace)
    files = arguments.files
    with open_dataset(files[0] if len(files) == 1 else files, workspace) as dataset:
        if arguments.apply and workspace is None:
            raise UserError(
                "dropping rows needs a workspace to keep it in.",
                str(files[0]),
                "Run: finetui init",
            )
        with console.progress("comparing") as progress:
            clusters = near_clusters(dataset, arguments.threshold, progress)
        for told in _told(dataset, clusters, arguments.keep):
            if arguments.json:
                console.emit(told)
            else:
                _show(dataset, told)
        done = merge(dataset, clusters, arguments.keep) if arguments.apply else None
        _sum_up(arguments.json, clusters, done.rows if done else None)
    return 1 if clusters and not arguments.apply else 0


def _told(dataset: DataSet, clusters: list[Cluster], keep: Any) -> Iterator[dict[str, Any]]:
    """One value a cluster; lines are physical and 1-based."""
    from finetui.data.merge import choose

    for cluster in clusters:
        dropped = choose(dataset, cluster, keep)
        kept = [row for row in cluster.rows if row not in dropped]
        yield {
            "cluster": cluster.id + 1,
            "similarity": cluster.similarity,
            "keep": [_place(dataset, row) for row in kept],
            "drop": [_place(dataset, row) for row in dropped],
        }


def _place(dataset: DataSet, row: int) -> dict[str, Any]:
    place = dataset.source.place(row)
    return {"file": str(place.path), "line": place.line, "row": row}


def _show(dataset: DataSet, told: dict[str, Any]) -> None:
    rows = plural(len(told["keep"]) + len(told["drop"]), "row")
    least = "" if len(told["keep"]) + len(told["drop"]) == 2 else "at least "
    console.out(f"cluster {told['cluster']}: {rows}, {least}{told['similarity']:.0%} the same")
    for mark, places in (("+", told["keep"]), ("-", told["drop"])):
        for place in places:
            text = clean(_said(dataset, place["row"]))
            console.out(f"  {mark} {clean(place['file'])}:{place['line']}: {text}")


def _said(dataset: DataSet, row: int) -> str:
    """What is asked and answered in a row, cut; its JSON where it cannot be read."""
    from finetui.data.records import read_record
    from finetui.data.strict import RowError

    try:
        record, _ = read_record(dataset.value(row), dataset.shape)
    except RowError:
        record = None
    turns = [turn.content for turn in record.all_turns() if turn.role != "system"] if record else []
    text = " | ".join(turns) if turns else dataset.text(row)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _sum_up(as_json: bool, clusters: list[Cluster], dropped: int | None) -> None:
    spare = sum(len(cluster.rows) - 1 for cluster in clusters)
    if as_json:
        summary = {"clusters": len(clusters), "spare_rows": spare, "dropped": dropped}
        console.emit({"summary": summary})
        return
    found = f"{plural(len(clusters), 'cluster')}, {plural(spare, 'row')} more than needed"
    console.say(found if dropped is None else f"{found}; dropped {dropped:,}")
