"""``finetui duplicates`` as a script meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from finetui.data.dataset import open_dataset
from finetui.workspace import Workspace, create


def duplicates(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "finetui", "duplicates", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


def chat(user: str, answer: str) -> str:
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = create(tmp_path / "work")
    things = [
        "lamp",
        "tunnel",
        "gravity",
        "violin",
        "harbour",
        "saffron",
        "ledger",
        "orchid",
        "fog",
    ]
    rows = [chat(f"Tell me about the {thing}.", f"A {thing} is a {thing}.") for thing in things]
    rows += [
        chat("What is the \x1b[31mcapital of Norway and how large is it today?", "It is Oslo."),
        chat("what is the \x1b[31mCAPITAL of norway, and how large is it today?", "It is Oslo."),
    ]
    (made.datasets / "twice.jsonl").write_text("\n".join(rows) + "\n")
    (made.datasets / "once.jsonl").write_text("\n".join(rows[9:10]) + "\n")
    return made


def test_clusters_are_printed_with_lines_and_nothing_is_changed(workspace: Workspace) -> None:
    told = duplicates("datasets/twice.jsonl", cwd=workspace.root)
    assert told.returncode == 1 and "\x1b" not in told.stdout
    first, *rows = told.stdout.splitlines()
    assert first == "cluster 1: 2 rows, 100% the same"
    assert [row.split(": ")[0] for row in rows] == [
        "  + datasets/twice.jsonl:11",  # the comma makes it the longest
        "  - datasets/twice.jsonl:10",
    ]
    with open_dataset(workspace.datasets / "twice.jsonl", workspace) as dataset:
        assert dataset.dropped_count == 0


def test_json_lines_end_with_a_summary(workspace: Workspace) -> None:
    told = duplicates("datasets/twice.jsonl", "--json", "--keep", "first", cwd=workspace.root)
    cluster, summary = map(json.loads, told.stdout.splitlines())
    assert [place["line"] for place in cluster["keep"]] == [10]
    assert [place["line"] for place in cluster["drop"]] == [11]
    assert summary == {"summary": {"clusters": 1, "spare_rows": 1, "dropped": None}}


def test_apply_drops_the_others_and_then_there_is_nothing_left(workspace: Workspace) -> None:
    applied = duplicates("datasets/twice.jsonl", "--apply", cwd=workspace.root)
    assert applied.returncode == 0 and "dropped 1" in applied.stderr
    again = duplicates("datasets/twice.jsonl", cwd=workspace.root)
    assert again.returncode == 0 and again.stdout == ""


def test_several_files_are_one_set(workspace: Workspace) -> None:
    told = duplicates("datasets/twice.jsonl", "datasets/once.jsonl", "--json", cwd=workspace.root)
    cluster, _ = map(json.loads, told.stdout.splitlines())
    (kept,), dropped = cluster["keep"], cluster["drop"]
    assert (kept["file"], kept["line"]) == ("datasets/twice.jsonl", 11)
    assert [(place["file"], place["line"]) for place in dropped] == [
        ("datasets/twice.jsonl", 10),
        ("datasets/once.jsonl", 1),
    ]


def test_what_cannot_be_done_is_told_with_the_next_step(workspace: Workspace) -> None:
    odd = duplicates("datasets/twice.jsonl", "--threshold", "7", cwd=workspace.root)
    assert odd.returncode == 2 and "0.1 to 1" in odd.stderr
    outside = workspace.root.parent / "outside.jsonl"
    outside.write_text(chat("a", "b") + "\n")
    nowhere = duplicates(str(outside), "--apply", cwd=outside.parent)
    assert nowhere.returncode == 2 and "finetui init" in nowhere.stderr
