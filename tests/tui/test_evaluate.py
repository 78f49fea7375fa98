"""The Evaluate screen shows base against tuned, worst rows first, and sends rows to repair."""

import json

import pytest
from look import finished_job, until, words, write_outputs

from finetui.errors import UserError
from finetui.evaluation import repairs
from finetui.evaluation.metrics import mcnemar
from finetui.tui.app import FinetuiApp
from finetui.tui.messages import OpenData, OpenJob
from finetui.tui.screens import evaluate_view
from finetui.tui.widgets.table import VirtualTable
from finetui.workspace import create

BEFORE = [False, False, True, True] + [False] * 8
AFTER = [True, False, False, True] + [True] * 8


@pytest.fixture
def workspace(tmp_path):
    made = create(tmp_path / "work")
    (made.datasets / "held.jsonl").write_text('{"text": "x"}\n' * len(BEFORE))
    return made


@pytest.fixture
def job(workspace):
    held_out = workspace.datasets / "held.jsonl"
    made = finished_job(workspace, recipe={"data": {"eval": str(held_out)}})
    write_outputs(made, held_out, {"before": BEFORE, "after": AFTER})
    return made


def test_the_paired_test_is_said_in_words():
    better = evaluate_view.verdict(mcnemar([False] * 20, [True] * 20)).plain
    assert better.startswith("better (p < 0.001): 20 fixed · 0 broken")
    unclear = evaluate_view.verdict(mcnemar([False, True], [True, False])).plain
    assert unclear.startswith("no clear change (p = 1): 1 fixed · 1 broken")
    assert evaluate_view.verdict(mcnemar([True], [True])).plain.startswith("no row changed")


async def test_scores_and_rows_of_the_newest_run_are_shown_broken_first(workspace, job):
    app = FinetuiApp(workspace, start="evaluate")
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.view.rows)
        assert "12 rows" in words(app, "#scores")
        assert "9 fixed · 1 broken" in words(app, "#scores")
        table = app.pane.query_one("#rows", VirtualTable)
        assert table.source.row(0).cells[0] == "✗ broken"
        assert app.pane.row.id.endswith(":3")
        assert "✓ right" in words(app, "#base-text")
        assert "✗ wrong" in words(app, "#tuned-text")
        assert "\x1b" not in words(app, "#asked-text") + words(app, "#tuned-text")


async def test_a_low_screen_has_the_same_scores_in_fewer_lines(workspace, job):
    app = FinetuiApp(workspace, start="evaluate", request=OpenJob(job.path))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.view.rows)
        await until(pilot, lambda: "17 % → 83 %" in words(app, "#scores"))
        assert len(words(app, "#scores").splitlines()) == 2


async def test_the_filter_goes_through_what_happened_to_the_rows(workspace, job):
    app = FinetuiApp(workspace, start="evaluate", request=OpenJob(job.path))
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.rows)
        counts = []
        for _ in range(5):
            await pilot.press("f")
            counts.append(len(app.pane.rows))
        assert counts == [1, 1, 9, 1, 12]


async def test_a_row_goes_to_the_repair_list_once(workspace, job):
    app = FinetuiApp(workspace, start="evaluate", request=OpenJob(job.path))
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.rows)
        await pilot.press("a")
        await until(pilot, lambda: app.pane.view.repaired)
        await pilot.press("a")
    entries = [
        json.loads(line) for line in (workspace.root / repairs.FILE).read_text().splitlines()
    ]
    assert len(entries) == 1
    assert entries[0]["row"] == f"{workspace.datasets / 'held.jsonl'}:3"
    assert entries[0]["change"] == "broken"


async def test_enter_leads_to_the_row_in_the_data_screen(workspace, job, monkeypatch):
    app = FinetuiApp(workspace, start="evaluate", request=OpenJob(job.path))
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.rows)
        sent = []
        monkeypatch.setattr(app.pane, "go", lambda *asked: sent.append(asked))
        await pilot.press("enter")
        await until(pilot, lambda: sent)
    ((mode, request),) = sent
    assert mode == "data"
    assert isinstance(request, OpenData)
    assert request.path == workspace.datasets / "held.jsonl"
    assert request.rows == (2,)


async def test_a_run_without_answers_says_so(workspace):
    made = finished_job(workspace)
    app = FinetuiApp(workspace, start="evaluate", request=OpenJob(made.path))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.pane and "no answers yet" in words(app, "#scores"))


def test_a_repair_list_that_cannot_be_written_is_an_error_in_words(tmp_path):
    with pytest.raises(UserError, match="repair list"):
        repairs.add(tmp_path / "nowhere", "a:1", {})


def test_a_torn_line_of_the_repair_list_is_passed_over(tmp_path):
    repairs.add(tmp_path, "a:1", {})
    with (tmp_path / repairs.FILE).open("a") as file:
        file.write('{"row": "b:')
    assert repairs.rows(tmp_path) == {"a:1"}
