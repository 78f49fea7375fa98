"""Merging duplicates: the chosen row of a cluster stays, the others go in one operation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from near_cases import chat, write

from finetui.data.dataset import DataSet, open_dataset
from finetui.data.findings import Cluster
from finetui.data.merge import Keep, choose, merge
from finetui.errors import UserError
from finetui.workspace import create

ROWS = [
    chat("short", "answer", created_at="2024-05-01"),
    chat("a much longer question", "a long answer", created_at="2024-06-01"),
    chat("middle question", "answer", created_at="2025-01-31T10:00:00"),
    chat("apart", "answer"),
    chat("apart too", "answer", timestamp=3),
]
CLUSTERS = [Cluster(0, (0, 1, 2), 0.7), Cluster(1, (3, 4), 0.9)]


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[DataSet]:
    workspace = create(tmp_path / "work")
    path = write(workspace.datasets / "data.jsonl", ROWS)
    with open_dataset(path, workspace) as opened:
        yield opened


@pytest.mark.parametrize(
    ("keep", "dropped"), [("longest", [0, 2]), ("newest", [0, 1]), ("first", [1, 2]), (0, [1, 2])]
)
def test_the_row_that_was_asked_for_stays(
    keep: Keep | int, dropped: list[int], dataset: DataSet
) -> None:
    assert choose(dataset, CLUSTERS[0], keep) == dropped


def test_without_dates_in_all_rows_the_last_row_is_the_newest(dataset: DataSet) -> None:
    assert choose(dataset, CLUSTERS[1], "newest") == [3]


def test_numbers_are_dates_too_and_the_edited_row_is_what_is_measured(dataset: DataSet) -> None:
    for row, time in ((0, 30), (1, 7), (2, 200)):
        dataset.edit(row, json.dumps({"messages": [], "timestamp": time}))
    assert choose(dataset, CLUSTERS[0], "newest") == [0, 1]


def test_merging_is_one_operation_and_one_undo(dataset: DataSet) -> None:
    merged = merge(dataset, CLUSTERS)
    assert (merged.clusters, merged.rows, dataset.dropped_count) == (2, 3, 3)
    assert dataset.state(0).reason == "near-duplicate"
    dataset.undo()
    assert dataset.dropped_count == 0


def test_rows_dropped_before_do_not_count_and_one_always_stays(dataset: DataSet) -> None:
    dataset.drop([1])
    assert choose(dataset, CLUSTERS[0], "longest") == [0]
    dataset.drop([0])
    assert choose(dataset, CLUSTERS[0], "longest") == []
    assert merge(dataset, [CLUSTERS[0]]).rows == 0


def test_a_row_of_another_cluster_or_a_dropped_one_cannot_stay(dataset: DataSet) -> None:
    dataset.drop([1])
    for row in (1, 3):
        with pytest.raises(UserError, match=f"line {row + 1} is not one of these rows"):
            choose(dataset, CLUSTERS[0], row)
