"""Checks, findings, SQL and orders over several files that are opened as one set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetui import workspace
from finetui.cli import run
from finetui.data.checks.model import CheckOptions
from finetui.data.checks.run import check_files
from finetui.data.dataset import open_dataset
from finetui.data.edits.bulk import rows_with
from finetui.data.ordering import ordered
from finetui.data.scan.stored import StoredScan
from finetui.data.sql import run_sql
from finetui.workspace import Workspace


def chat(question: str, answer: str) -> str:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns})


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return workspace.create(tmp_path / "work")


@pytest.fixture
def files(space: Workspace) -> list[Path]:
    """Two files, of which the second repeats a row of the first and has a broken line."""
    one, two = space.datasets / "one.jsonl", space.datasets / "two.jsonl"
    one.write_text(f"{chat('What is up?', 'All is well.')}\n\n{chat('And you?', 'So am I.')}\n")
    two.write_text(f"{{broken\n{chat('And you?', 'So am I.')}\n{chat('Why so?', 'Be' + 'cause')}\n")
    return [one, two]


def test_a_copy_in_another_file_of_the_set_is_a_duplicate_and_no_leak(files: list[Path]) -> None:
    run = check_files([files], CheckOptions(only=frozenset({"duplicate", "leak"})))
    (found,) = run
    assert (found.check, found.file, found.line, found.row) == ("duplicate", str(files[1]), 2, 4)
    assert found.message.startswith("the same as one.jsonl:3, byte for byte")
    assert run.summary.rows == 6 and len(run.summary.files) == 1


def test_the_same_files_apart_are_a_leak(files: list[Path]) -> None:
    found = list(check_files(files, CheckOptions(only=frozenset({"duplicate", "leak"}))))
    assert [finding.check for finding in found] == ["leak"]


def test_a_broken_line_keeps_its_own_files_line_number(files: list[Path]) -> None:
    (found,) = check_files([files], CheckOptions(only=frozenset({"malformed-json"})))
    assert (found.file, found.line, found.offset, found.row) == (str(files[1]), 1, 0, 3)


def test_near_copies_are_found_across_the_files_of_a_set(space: Workspace) -> None:
    words = "the parcel that was promised for tuesday morning has still not come to my door at all"
    files = [space.datasets / name for name in ("a.jsonl", "b.jsonl")]
    for number, file in enumerate(files):
        file.write_text(chat(f"Please help: {words} {'now' * number}", "We look into it.") + "\n")
    (found,) = check_files([files], CheckOptions(only=frozenset({"near-duplicate"})))
    assert (found.file, found.row) == (str(files[1]), 1) and "a.jsonl:1" in found.message


def test_the_store_keeps_the_findings_of_all_files(files: list[Path], space: Workspace) -> None:
    told = list(check_files([files]))
    with StoredScan(files, [], CheckOptions(), space.cache).run() as store:
        assert [f.check for row in store.rows_of() for f in store.of_row(row)] == [
            finding.check for finding in told
        ]
    kept = StoredScan(files, [], CheckOptions(), space.cache).kept()
    assert kept is not None
    kept.close()
    assert StoredScan(files[:1], [], CheckOptions(), space.cache).kept() is None


def test_a_repair_finds_its_rows_in_every_file(files: list[Path], space: Workspace) -> None:
    with open_dataset(files, space) as dataset:
        assert rows_with(dataset, "duplicate") == [4]


def test_sql_names_the_file_of_each_row(files: list[Path], space: Workspace) -> None:
    with open_dataset(files, space) as dataset:
        answer = run_sql(dataset, "SELECT _row, _line, _file FROM data ORDER BY _row", space.cache)
    assert answer.rows == [
        (0, 1, "one.jsonl"), (2, 3, "one.jsonl"), (4, 2, "two.jsonl"), (5, 3, "two.jsonl"),
    ]  # fmt: skip


def test_an_order_runs_over_all_files(files: list[Path], space: Workspace) -> None:
    with open_dataset(files, space) as dataset:
        assert list(ordered(dataset, "length"))[:4] == [5, 2, 4, 0]


def test_the_commands_take_more_files_of_the_same_set(
    files: list[Path], space: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = map(str, files)
    assert run(["check", "--only", "duplicate", one, "--with", two]) == 1
    assert f"{two}:2: warning: duplicate" in capsys.readouterr().out
    assert run(["query", "-w", str(space.root), one, "Why so", f"--with={two}"]) == 0
    assert capsys.readouterr().out.startswith("3:")
