"""``finetui convert`` says what a conversion would drop before it writes anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetui.cli import run
from finetui.data.dataset import open_dataset
from finetui.workspace import create

PAIR = {"prompt": "Q", "completion": "A"}


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_lossless_conversion_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = jsonl(tmp_path / "a.jsonl", PAIR, PAIR), tmp_path / "out.jsonl"
    assert run(["convert", str(path), "--to", "chat", "-o", str(out)]) == 0
    assert [list(row) for row in rows_of(out)] == [["messages"]] * 2
    said = capsys.readouterr()
    assert "nothing is dropped" in said.out
    assert "read as prompt-completion (certain" in said.err and "wrote 2 rows" in said.err


def test_what_drops_something_is_written_only_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "Q", "chosen": "A", "rejected": "B"}, {"x": 1})
    out = tmp_path / "out.jsonl"
    command = ["convert", str(path), "--to", "alpaca", "-o", str(out)]
    assert run(command) == 1
    said = capsys.readouterr()
    assert "dropped: the rejected answer: 1 row (line 1)" in said.out
    assert "left out: not readable as preference" in said.out and "line 2" in said.out
    assert "--drop" in said.err and not out.exists()
    assert run([*command, "--drop"]) == 1
    assert rows_of(out) == [{"instruction": "Q", "input": "", "output": "A"}]


def test_edits_and_drops_of_the_workspace_are_in_what_is_written(tmp_path: Path) -> None:
    workspace = create(tmp_path / "work")
    paths = [jsonl(workspace.datasets / f"{n}.jsonl", PAIR, PAIR) for n in range(2)]
    with open_dataset(paths, workspace) as data:
        data.build_index()
        data.edit(1, json.dumps({"prompt": "Q", "completion": "edited"}))
        data.drop([3])
    out = tmp_path / "out.jsonl"
    names = [str(path) for path in paths]
    options = ["--to", "prompt-completion", "-o", str(out), "-w", str(workspace.root)]
    assert run(["convert", *names, *options]) == 0
    assert [row["completion"] for row in rows_of(out)] == ["A", "edited", "A"]


def test_a_script_gets_one_json_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = jsonl(tmp_path / "a.jsonl", PAIR)
    assert run(["convert", str(path), "--to", "text", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["to"], told["output"], told["lossless"]) == ("text", None, False)
    assert told["dropped"] == {"roles and the borders of turns": 1}


def test_an_unknown_shape_names_the_known_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["convert", str(jsonl(tmp_path / "a.jsonl", PAIR)), "--to", "chats"]) == 2
    assert "sharegpt" in capsys.readouterr().err
