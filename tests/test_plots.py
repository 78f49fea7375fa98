"""Charts for plain terminals: what is drawn is what is there."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from finetui import workspace
from finetui.cli import run
from finetui.commands.plots import histogram, lines
from finetui.jobs.folder import create
from finetui.jobs.worker import WorkerSession


def test_a_falling_curve_falls_and_its_gaps_are_left_out() -> None:
    steps = list(range(50))
    text = lines([("loss", steps, [math.nan] * 10 + [1 - n / 50 for n in range(10, 50)])], "step")
    rows = [row for row in text.splitlines() if "┤" in row or "│" in row]
    ink = [
        min((i for i, c in enumerate(row) if "\u2800" < c <= "\u28ff"), default=-1) for row in rows
    ]
    seen = [place for place in ink if place >= 0]
    assert len(seen) > 5 and seen == sorted(seen), "the curve goes down from left to right"
    assert "loss" in text and "step" in text


def test_nothing_finite_is_no_picture_and_one_value_no_distribution() -> None:
    assert lines([("loss", [1, 2], [math.nan, math.inf])], "step") == ""
    assert histogram([5, 5, 5], "tokens") == ""
    assert "tokens" in histogram([1, 2, 2, 3], "tokens")


def test_watch_draws_a_curve_and_names_those_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = workspace.create(tmp_path / "work")
    job = create(space.jobs, "train", "small", {"kind": "train"}, {})
    with WorkerSession(job) as session:
        for step in range(1, 60):
            session.events.write("step", step=step, loss=1 / step, lr=1e-4)
        session.outcome("finished", sentence="done")
    assert run(["watch", "-w", str(space.root), "small", "--chart"]) == 0
    assert "loss" in capsys.readouterr().out
    assert run(["watch", "-w", str(space.root), "small", "--chart", "speed"]) == 2
    assert "lr" in capsys.readouterr().err
