"""A data set in the hub's layout comes into the workspace whole, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_jobs import chat, run_inside, write_rows

from finetui import start
from finetui.engine.fetch import _lines
from finetui.errors import UserError
from finetui.jobs.folder import Job
from finetui.workspace import Workspace, create

pytestmark = pytest.mark.torch


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(start, "launch", lambda job: None)  # the job runs in this process
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return create(tmp_path / "work")


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / "data").mkdir(parents=True)
    for split, count in (("train", 30), ("test", 5)):
        rows = [chat(f"{split} {n}", "ü") | {"n": n} for n in range(count)]
        write_rows(folder / "data" / f"{split}.jsonl", rows)
    return folder


def fetched(job: Job) -> tuple[int, dict[str, object]]:
    code = run_inside(job)
    outcome = job.outcome()
    assert outcome is not None
    return code, outcome


def test_a_split_is_written_row_by_row_up_to_the_limit(space: Workspace, hub: Path) -> None:
    code, outcome = fetched(start.start_fetch(space, str(hub), split="train", limit=7))
    assert code == 0 and outcome["metrics"]["rows"] == 7
    lines = (space.datasets / "shop-train.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        chat(f"train {n}", "ü") | {"n": n} for n in range(7)
    ]
    with pytest.raises(UserError, match="there already"):
        start.start_fetch(space, str(hub), split="train")


def test_a_split_that_is_not_there_is_named_and_leaves_no_file(space: Workspace, hub: Path) -> None:
    code, outcome = fetched(start.start_fetch(space, str(hub), split="nope"))
    assert code == 1 and "nope" in str(outcome["sentence"])
    assert list(space.datasets.iterdir()) == []


def test_rows_that_json_cannot_hold_are_refused_with_their_number() -> None:
    assert list(_lines([{"a": 1}])) == [b'{"a":1}\n']
    with pytest.raises(UserError, match="row 2 holds what JSON cannot: a object"):
        list(_lines([{"a": 1}, {"a": object()}]))
