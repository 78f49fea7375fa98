"""The Runs page: curves over each other in stable colours, what differs, a filter, a table."""

import json

import pytest
from look import HOSTILE, finished_job, until

from finetui.tui.app import FinetuiApp
from finetui.tui.messages import OpenJob
from finetui.tui.screens.runs import RunsPage
from finetui.tui.widgets.chart import BrailleChart
from finetui.workspace import create


@pytest.fixture
def workspace(tmp_path):
    return create(tmp_path / "w")


def make(workspace, name, rank, number):
    """A finished run; the number says when it was made."""
    job = finished_job(workspace, name, recipe={"name": name, "method": {"rank": rank}})
    manifest = job.manifest() | {"created": 1000.0 + number}
    (job.path / "manifest.json").write_text(json.dumps(manifest))
    return job


@pytest.fixture
def jobs(workspace):
    return [make(workspace, f"run-{rank}", rank, at) for at, rank in enumerate((8, 16, 32, 64))]


def cells(page, name):
    source = page.table(name).source
    return [source.row(at).cells for at in range(source.row_count)]


async def opened(pilot, workspace, chosen=None):
    page = RunsPage(workspace, chosen)
    answers = []
    pilot.app.push_screen(page, answers.append)
    await until(pilot, lambda: page.all and all(o.snapshot for o in page.overlaid.values()))
    return page, answers


def lines(page):
    return {line.name: line.colour for line in page.query_one("#overlay", BrailleChart).graph.lines}


async def test_the_newest_runs_are_over_each_other_and_their_recipes_beside_them(workspace, jobs):
    app = FinetuiApp(workspace)
    async with app.run_test(size=(120, 36)) as pilot:
        page, _ = await opened(pilot, workspace)
        assert list(lines(page)) == ["B run-16", "C run-32", "D run-64"]
        assert [row[:2] for row in cells(page, "runs")] == [
            ("D", "run-64"), ("C", "run-32"), ("B", "run-16"), ("", "run-8")]  # fmt: skip
        assert cells(page, "differences") == [("rank", "16", "32", "64")]
        chart = page.query_one("#overlay", BrailleChart)
        assert chart.border_title == "eval loss" and chart.logarithmic
        await pilot.press("c")
        await until(pilot, lambda: chart.border_title == "training loss")
        assert len(chart.graph.curves["B run-16"]) == 20


async def test_a_run_keeps_letter_and_colour_when_others_come_and_go(workspace, jobs):
    app = FinetuiApp(workspace)
    async with app.run_test(size=(120, 36)) as pilot:
        page, _ = await opened(pilot, workspace, jobs[1].path)
        assert list(lines(page)) == ["B run-16"]
        alone = lines(page)["B run-16"]
        assert page.table("runs").cursor == 2
        await pilot.press("down", "space")
        await until(pilot, lambda: len(lines(page)) == 2)
        assert lines(page)["B run-16"] == alone and "A run-8" in lines(page)
        await pilot.press("space")
        await until(pilot, lambda: list(lines(page)) == ["B run-16"])
        await pilot.press("up", "up", "o")
        await until(pilot, lambda: list(lines(page)) == ["C run-32"])


async def test_the_filter_takes_a_regular_expression_and_says_when_it_is_none(workspace, jobs):
    app = FinetuiApp(workspace)
    async with app.run_test(size=(80, 24)) as pilot:
        page, _ = await opened(pilot, workspace)
        await pilot.press("slash", *"rank=(8", "enter")
        await until(pilot, lambda: "not a regular" in str(app.screen.query_one("#fault").content))
        await pilot.press(*"|64)", "enter")
        await until(pilot, lambda: [row[1] for row in cells(page, "runs")] == ["run-64", "run-8"])


async def test_enter_opens_the_run_and_sorting_keeps_the_cursor_on_it(workspace, jobs):
    outcome = jobs[1].outcome() | {"metrics": {"best_eval_loss": 0.01}}
    jobs[1].write_json("outcome.json", outcome)
    app = FinetuiApp(workspace)
    async with app.run_test(size=(120, 36)) as pilot:
        page, answers = await opened(pilot, workspace)
        await pilot.press("down", "down", "s")
        await until(pilot, lambda: cells(page, "runs")[0][1] == "run-16")
        assert page.table("runs").cursor == 0
        await pilot.press("enter")
        await until(pilot, lambda: answers)
        assert answers == [OpenJob(jobs[1].path)]


async def test_names_from_specs_do_not_reach_the_terminal(workspace):
    job = make(workspace, "bad", 8, 0)
    spec = (
        (job.path / "spec.toml").read_text().replace("rank = 8", f"rank = 9\ntarget = {HOSTILE!r}")
    )
    (job.path / "spec.toml").write_text(spec)
    (job.path / "manifest.json").write_text("{}")
    app = FinetuiApp(workspace)
    async with app.run_test(size=(80, 24)) as pilot:
        page, _ = await opened(pilot, workspace)
        assert cells(page, "runs")[0][1] == "bad"
        await pilot.press("tab", "tab")


async def test_a_workspace_without_runs_says_so(workspace):
    app = FinetuiApp(workspace)
    async with app.run_test(size=(80, 24)) as pilot:
        page = RunsPage(workspace)
        app.push_screen(page)
        await until(
            pilot, lambda: page.is_mounted and "no training run" in page.table("runs").empty
        )
        await pilot.press("space", "enter", "o", "c", "s")
        assert app.screen is page
