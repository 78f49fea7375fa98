"""Splitting, mixing, comparing and the leak gate, as commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli import chat, finetui

from finetui.cli import CANNOT, FOUND, GOOD
from finetui.workspace import Workspace, create


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = create(tmp_path / "work")
    for name, count in (("task", 40), ("general", 30)):
        rows = [chat(f"{name} question {number}", f"answer {number}") for number in range(count)]
        (made.datasets / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    return made


def version(workspace: Workspace, *arguments: str) -> dict[str, object]:
    done = finetui(*arguments, "--json", cwd=workspace.root)
    assert done.returncode == GOOD, done.stderr
    made: dict[str, object] = json.loads(done.stdout)
    return made


def test_a_split_goes_on_from_a_version_and_their_difference_is_what_was_added(
    workspace: Workspace,
) -> None:
    first = version(
        workspace, "split", "datasets/task.jsonl", "--fractions", "80/20", "--seed", "5"
    )
    assert first["manifest"]["split"]["near"] == 0.5  # type: ignore[index]
    with (workspace.datasets / "task.jsonl").open("a") as file:
        file.writelines(chat(f"later {number}", "so") + "\n" for number in range(10))
    second = version(workspace, "split", "datasets/task.jsonl", "--from", str(first["id"]))
    split = second["manifest"]["split"]  # type: ignore[index]
    assert (split["after"], split["seed"], split["fractions"]) == (first["id"], 5, [0.8, 0.2])
    done = finetui("versions", "diff", str(first["id"]), str(second["id"]), cwd=workspace.root)
    assert done.returncode == FOUND
    assert "10 added, 0 removed, 0 edited, 0 moved; 40 rows the same" in done.stderr
    *changes, last = finetui(
        "versions", "diff", str(first["id"]), str(second["id"]), "--json", cwd=workspace.root
    ).stdout.splitlines()
    assert len(changes) == 10 and json.loads(last)["counts"]["added"] == 10


def test_rows_can_be_asked_for_by_number(workspace: Workspace) -> None:
    made = version(workspace, "split", "datasets/task.jsonl", "--counts", "0/5/7", "--no-near")
    rows = {out["file"]: out["rows"] for out in made["manifest"]["outputs"]}  # type: ignore[index]
    assert rows == {"train.jsonl": 28, "validation.jsonl": 5, "test.jsonl": 7}
    bad = finetui("split", "datasets/task.jsonl", "--counts", "many", cwd=workspace.root)
    assert bad.returncode == CANNOT and "0/500/500" in bad.stderr


def test_general_data_is_mixed_in(workspace: Workspace) -> None:
    done = finetui(
        "mix", "datasets/task.jsonl", "--general", "datasets/general.jsonl", "--share", "50%",
        "--fractions", "80/10/10", "--order", "short-to-long", cwd=workspace.root,
    )  # fmt: skip
    assert done.returncode == GOOD, done.stderr
    assert "datasets/general.jsonl: 16 of 30 rows mixed in" in done.stderr
    rows = [line.split("\t")[1] for line in done.stdout.splitlines()]
    assert rows == ["48 rows", "4 rows", "4 rows"]
    nonsense = finetui(
        "mix", "datasets/task.jsonl", "--general", "datasets/general.jsonl", "--share", "much",
        cwd=workspace.root,
    )  # fmt: skip
    assert nonsense.returncode == CANNOT and "Write 25%" in nonsense.stderr


def test_versions_are_listed_shown_and_verified(workspace: Workspace) -> None:
    assert finetui("versions", cwd=workspace.root).stdout == ""
    made = version(workspace, "split", "datasets/task.jsonl", "--name", "mine")
    listed = finetui("versions", cwd=workspace.root).stdout.splitlines()
    assert listed[0].split()[:2] == ["version", "name"]
    assert str(made["id"]) in listed[1] and "train 32, validation 4, test 4" in listed[1]
    (facts,) = finetui("versions", "--json", cwd=workspace.root).stdout.splitlines()
    assert json.loads(facts)["used_by"] == []
    shown = finetui("versions", "show", "mine", "--json", cwd=workspace.root)
    assert json.loads(shown.stdout)["manifest"] == made["manifest"]
    assert finetui("versions", "verify", cwd=workspace.root).returncode == GOOD
    (Path(str(made["path"])) / "test.jsonl").write_text("{}\n")
    broken = finetui("versions", "verify", cwd=workspace.root)
    assert broken.returncode == FOUND and "not as written" in broken.stdout


def test_a_leak_is_listed_accepted_and_dropped(workspace: Workspace) -> None:
    held = workspace.datasets / "held.jsonl"
    held.write_text((workspace.datasets / "task.jsonl").read_text().splitlines()[6] + "\n")
    files = ("datasets/task.jsonl", "datasets/held.jsonl")
    listed = finetui("leaks", files[0], "--held-out", files[1], cwd=workspace.root)
    assert listed.returncode == FOUND
    assert listed.stdout == "task.jsonl:7 is the same row as held.jsonl:1\n"
    bare = finetui("accept-leak", *files, "--reason", " ", cwd=workspace.root)
    assert bare.returncode == CANNOT
    assert (
        finetui("accept-leak", *files, "--reason", "known", cwd=workspace.root).returncode == GOOD
    )
    again = finetui("leaks", files[0], "--held-out", files[1], "--json", cwd=workspace.root)
    assert again.returncode == GOOD and json.loads(again.stdout)["accepted"] is True
    (workspace.versions / "accepted-leaks.jsonl").unlink()
    dropped = finetui("leaks", files[0], "--held-out", files[1], "--drop", cwd=workspace.root)
    assert dropped.returncode == GOOD and "dropped 1 training row" in dropped.stderr
    assert finetui("leaks", files[0], "--held-out", files[1], cwd=workspace.root).returncode == GOOD
