"""SQL sees the set as it is edited now, under its physical lines, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetui import workspace
from finetui.data.dataset import DataSet, open_dataset
from finetui.data.ordering import ordered
from finetui.data.sql import rows_where, run_sql
from finetui.errors import UserError
from finetui.workspace import Workspace


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return workspace.create(tmp_path / "work")


@pytest.fixture
def dataset(space: Workspace) -> DataSet:
    lines = [
        json.dumps({"id": 3, "text": "short", "score": 1.5}),
        "",
        '{"id": 1, "text": "cut of',
        json.dumps({"id": 2, "text": "a much longer text", "score": "none"}),
        json.dumps(["no", "object"]),
        json.dumps({"id": 9, "text": "middle one", "_line": 77}),
    ]
    file = space.datasets / "a.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return open_dataset(file, space)


def test_rows_keep_their_physical_lines_behind_blank_and_broken_ones(
    dataset: DataSet, space: Workspace
) -> None:
    answer = run_sql(dataset, "SELECT _line, id FROM data ORDER BY _line", space.cache)
    assert answer.columns == ("_line", "id")
    assert answer.rows == [(1, 3), (4, 2), (5, None), (6, 9)]


def test_a_condition_gives_row_numbers(dataset: DataSet, space: Workspace) -> None:
    assert list(rows_where(dataset, "id < 9 AND length(text) > 5", space.cache)) == [[3]]
    whole = "SELECT _row FROM data WHERE id = 9"
    assert list(rows_where(dataset, whole, space.cache)) == [[5]]


def test_edits_and_drops_are_seen_at_once(dataset: DataSet, space: Workspace) -> None:
    assert run_sql(dataset, "SELECT count(*) FROM data WHERE id = 50", space.cache).rows == [(0,)]
    dataset.edit(0, '{"id": 50, "text": "new"}')
    dataset.drop([3])
    found = run_sql(dataset, "SELECT _line, _edited, _dropped FROM data WHERE id IN (50, 2)",
                    space.cache)  # fmt: skip
    assert sorted(found.rows) == [(1, True, False), (4, False, True)]


def test_the_limit_says_that_there_is_more(dataset: DataSet, space: Workspace) -> None:
    answer = run_sql(dataset, "SELECT _line FROM data ORDER BY 1", space.cache, limit=2)
    assert (len(answer.rows), answer.more) == (2, True)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/hostname')",
        "COPY data TO '/tmp/finetui-should-not-exist.json'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SELECT nothing FROM data",
        "SELEC",
    ],
)
def test_sql_reaches_no_other_file_and_its_faults_are_told(
    dataset: DataSet, space: Workspace, sql: str
) -> None:
    with pytest.raises(UserError, match="SQL"):
        run_sql(dataset, sql, space.cache)


@pytest.mark.parametrize(
    ("by", "backwards", "rows"),
    [
        ("line", True, [5, 4, 3, 2, 1, 0]),
        ("bytes", False, [1, 4, 2, 0, 5, 3]),
        ("bytes", True, [3, 5, 0, 2, 4, 1]),
        ("id", False, [3, 0, 5, 1, 2, 4]),
        ("id", True, [5, 0, 3, 1, 2, 4]),
        ("score", False, [0, 3, 1, 2, 4, 5]),
        ("length", True, [3, 5, 0, 1, 2, 4]),
    ],
)
def test_rows_come_in_the_order_asked_for(
    dataset: DataSet, by: str, backwards: bool, rows: list[int]
) -> None:
    lengths = [len(dataset.raw(row)) for row in range(dataset.rows)]
    if by == "bytes":
        rows = sorted(range(6), key=lengths.__getitem__, reverse=backwards)
    assert list(ordered(dataset, by, backwards)) == rows


def test_an_order_by_findings_needs_a_scan(dataset: DataSet) -> None:
    with pytest.raises(UserError, match="checked"):
        ordered(dataset, "findings")
