"""Drift: the same data is no drift, other data is, and the rows that cause it are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetui import workspace
from finetui.cli import run
from finetui.data.formats.source import open_source
from finetui.data.whole.drift import Drift, measure

OLD = ["invoice", "payment", "refund", "charge", "price", "card", "money", "account", "bill", "fee"]
NEW = [
    "parcel",
    "courier",
    "tracking",
    "shipment",
    "door",
    "box",
    "depot",
    "driver",
    "route",
    "van",
]


def text(number: int, words: list[str]) -> str:
    step = 1 + number % 3
    return " ".join(words[(number * 7 + k * step) % len(words)] for k in range(6)) + f" {number}"


def chats(path: Path, texts: list[str]) -> Path:
    rows = [{"messages": [{"role": "user", "content": t}, {"role": "assistant", "content": "ok"}]}
            for t in texts]  # fmt: skip
    return plain(path, rows)


def plain(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def drift(train: Path, new: Path, part: str = "prompt") -> Drift:
    with open_source(train) as old, open_source(new) as now:
        return measure(old, now, part)


def test_data_of_the_same_kind_is_no_drift(tmp_path: Path) -> None:
    train = chats(tmp_path / "a.jsonl", [text(n, OLD) for n in range(400)])
    same = chats(tmp_path / "b.jsonl", [text(n, OLD) for n in range(1000, 1200)])
    found = drift(train, same)
    assert not found.drifted and found.reasons == [] and 0.3 < found.apart < 0.65
    assert (found.train_rows, found.new_rows, found.exact) == (400, 200, True)


def test_the_rows_that_cause_drift_are_named_and_no_others(tmp_path: Path) -> None:
    train = chats(tmp_path / "a.jsonl", [text(n, OLD) for n in range(400)])
    texts = [text(n, OLD) for n in range(1000, 1200)]
    for place in range(0, 200, 10):
        texts[place] = text(place, NEW)
    found = drift(train, chats(tmp_path / "b.jsonl", texts))
    assert found.drifted and any("20 of 200 rows" in reason for reason in found.reasons)
    assert sorted(row.row for row in found.strange) == list(range(0, 200, 10))
    for row in found.strange:
        assert row.line == row.row + 1 and set(row.words) & set(NEW)
    assert {shift.word for shift in found.shifts} <= {*NEW, *OLD, "0"}
    assert found.shifts[0].z > 0 and found.shifts[0].before == 0


def test_other_shares_of_the_same_words_are_drift(tmp_path: Path) -> None:
    both = [text(n, OLD if n % 2 else NEW) for n in range(400)]
    train = chats(tmp_path / "a.jsonl", both)
    found = drift(train, chats(tmp_path / "b.jsonl", [text(n, NEW) for n in range(200)]))
    assert found.drifted and 0.65 < found.apart < 0.9


def test_longer_texts_are_drift_in_length(tmp_path: Path) -> None:
    train = chats(tmp_path / "a.jsonl", [text(n, OLD) for n in range(100)])
    long = chats(tmp_path / "b.jsonl", [" ".join([text(n, OLD)] * 4) for n in range(100)])
    found = drift(train, long)
    assert found.length > 1 and any("longer" in reason for reason in found.reasons)


@pytest.mark.parametrize("key", ["prompt", "text", "body"])
def test_new_data_may_be_prompts_only(tmp_path: Path, key: str) -> None:
    train = chats(tmp_path / "a.jsonl", [text(n, OLD) for n in range(200)])
    rows = [{key: text(n, NEW), "id": n} for n in range(60)]
    assert len(drift(train, plain(tmp_path / "b.jsonl", rows)).strange) == 60


def test_chinese_text_drifts_by_its_characters(tmp_path: Path) -> None:
    old = chats(
        tmp_path / "a.jsonl", [f"请帮我查询订单{n}的付款状态和发票" for n in range(0, 200, 2)]
    )
    same = chats(
        tmp_path / "b.jsonl", [f"请帮我查询订单{n}的付款状态和发票" for n in range(1, 121, 2)]
    )
    other = chats(tmp_path / "c.jsonl", [f"今天天气很好我们去公园散步吧{n}" for n in range(60)])
    assert len(drift(old, other).strange) == 60 and not drift(old, same).strange


def test_the_command_names_rows_on_stdout_and_tells_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = workspace.sample_data() / "datasets"
    train, held_out = str(folder / "tickets.jsonl"), str(folder / "tickets_heldout.jsonl")
    assert run(["drift", train, held_out, "--rows", "3"]) == 1
    shown = capsys.readouterr()
    assert shown.out.count(f"{held_out}:") == 3 and "commoner" in shown.out
    assert "drift: " in shown.err and "more rows: --rows" in shown.err
    assert run(["drift", train, train]) == 0
    assert "no drift" in capsys.readouterr().err


def test_the_command_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    folder = workspace.sample_data() / "datasets"
    files = [str(folder / f"{name}.jsonl") for name in ("tickets", "tickets_heldout")]
    assert run(["drift", *files, "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    summary = lines[-1]["summary"]
    rows = [line for line in lines if "line" in line]
    assert summary["drifted"] and summary["new_rows"] == 150 and len(rows) > 50
    assert rows[0]["file"] == files[1] and rows[0]["surprise"] > summary["bound"]
    content = Path(files[1]).read_bytes()
    for row in rows[:5]:
        assert content[: row["offset"]].count(b"\n") + 1 == row["line"]


def test_too_little_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = str(chats(tmp_path / "a.jsonl", ["one", "two"]))
    assert run(["drift", few, few]) == 2
    assert "at least 20 are needed" in capsys.readouterr().err
