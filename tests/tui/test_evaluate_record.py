"""The Evaluate screen over records: differences, verdicts, slices, checkpoints, reports."""

import json

import pytest
from evaluations import RIGHT, evaluation
from look import finished_job, until, words

from finetui.evaluation import repairs
from finetui.evaluation.labels import confusion
from finetui.evaluation.record import of_job
from finetui.tui.app import FinetuiApp
from finetui.tui.messages import OpenData, OpenJob
from finetui.tui.screens import evaluate_again, evaluate_view
from finetui.tui.screens.evaluate_figures import FiguresPage
from finetui.tui.screens.evaluate_list import EvaluationsPage
from finetui.tui.screens.evaluate_start import EvaluateDialog
from finetui.tui.screens.evaluate_steps import StepsPage
from finetui.tui.widgets.chart import BrailleChart
from finetui.tui.widgets.dialogs import Choose
from finetui.tui.widgets.table import VirtualTable
from finetui.workspace import create


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace with an evaluation; the tests only read it or write beside it."""
    workspace = create(tmp_path_factory.mktemp("records") / "work")
    return workspace, evaluation(workspace)


def opened(made, start="evaluate"):
    workspace, job = made
    return FinetuiApp(workspace, start=start, request=OpenJob(job.path))


async def ready(pilot, app):
    await until(pilot, lambda: app.pane and app.pane.rows)


def column(table, place):
    return [table.source.row(index).cells[place] for index in range(table.row_count)]


async def test_the_main_difference_stands_with_its_interval_and_what_got_lost(made):
    app = opened(made)
    async with app.run_test(size=(120, 36)) as pilot:
        await ready(pilot, app)
        await until(pilot, lambda: "24 rows" in words(app, "#scores"))
        told = words(app, "#scores")
        assert "18 fixed · 4 broken" in told
        assert "25.0% → 83.3%" in told and "+58.3 pp (" in told and "better" in told
        assert "✗ general" in told, "a suite that lost more than its margin is said"
        table = app.pane.query_one("#rows", VirtualTable)
        assert column(table, 0)[:5] == ["✗ broken"] * 4 + ["+ fixed"]
        assert "urgency: nothing instead of" in words(app, "#tuned-text")
        shown = "".join(words(app, f"#{id}-text") for id in ("asked", "base", "tuned", "wanted"))
        assert "\x1b" not in shown and "\u202e" not in shown


async def test_a_low_screen_keeps_the_main_figure_and_every_verdict(made):
    app = opened(made)
    async with app.run_test(size=(80, 24)) as pilot:
        await ready(pilot, app)
        await until(pilot, lambda: len(words(app, "#scores").splitlines()) == 3)
        told = words(app, "#scores")
        assert "+58.3 pp" in told and "✗ general (regression)" in told


async def test_another_set_and_another_subject_are_a_key_away(made):
    app = opened(made)
    async with app.run_test(size=(120, 36)) as pilot:
        await ready(pilot, app)
        await pilot.press("t")
        await until(pilot, lambda: len(app.pane.rows) == 30)
        assert app.pane.view.look.set == "general"
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        await pilot.press("down", "enter")
        await until(pilot, lambda: app.pane.view.look.after == "step-10")
        assert app.pane.view.look.set == "general"
        assert "base against step-10" in str(app.pane.query_one("#scores").border_title)


async def test_a_row_goes_to_the_repair_list_and_to_the_data_screen(made, monkeypatch):
    workspace, job = made
    app = opened(made)
    async with app.run_test(size=(120, 36)) as pilot:
        await ready(pilot, app)
        row = app.pane.row.id
        await pilot.press("a")
        await until(pilot, lambda: row in app.pane.view.repaired)
        sent = []
        monkeypatch.setattr(app.pane, "go", lambda *asked: sent.append(asked))
        await pilot.press("enter")
        await until(pilot, lambda: sent)
    entry = json.loads((workspace.root / repairs.FILE).read_text().splitlines()[0])
    assert entry["row"] == row and entry["job"] == job.id and entry["change"] == "broken"
    ((mode, request),) = sent
    assert mode == "data" and isinstance(request, OpenData)
    assert request.path == workspace.datasets / "held.jsonl"
    assert request.rows == (int(row.rpartition(":")[2]) - 1,)


async def test_the_figures_page_has_differences_slices_confusion_and_speed(made):
    app = opened(made)
    async with app.run_test(size=(120, 36)) as pilot:
        await ready(pilot, app)
        await pilot.press("v")
        await until(pilot, lambda: isinstance(app.screen, FiguresPage))
        page = app.screen
        await until(pilot, lambda: page.table("differences").row_count and page.pairs)
        assert column(page.table("differences"), 1)[0] == "▸ right answer"
        assert "+58.3 pp (" in column(page.table("differences"), 4)[0]
        assert {"en", "de", "fr"} <= set(column(page.table("slices"), 1))
        assert column(page.table("speed"), 0) == ["base", "adapter"]
        assert column(page.table("speed"), 3)[1].startswith("0.71×")
        confused = page.query_one("#confusion-text").text.plain
        assert "wanted" in confused and "high" in confused
        await pilot.press("t")
        await until(pilot, lambda: page.look.set == "general" and not page.pairs)
        assert "no labels" in page.query_one("#confusion-text").text.plain


async def test_checkpoints_are_plotted_from_the_base_on(made):
    app = opened(made)
    async with app.run_test(size=(100, 30)) as pilot:
        await ready(pilot, app)
        await pilot.press("p")
        await until(pilot, lambda: isinstance(app.screen, StepsPage))
        page = app.screen
        assert column(page.table("values"), 0) == ["0", "10", "20"]
        assert column(page.table("values"), 1) == ["25.0%", "50.0%", "83.3%"]
        curve = page.query_one(BrailleChart).graph.curves["value"]
        assert [curve.value(place) for place in range(3)] == pytest.approx([6 / 24, 0.5, 20 / 24])
        await pilot.press("c")
        assert page.figure == "accuracy:urgency"


async def test_two_marked_evaluations_stand_beside_each_other(tmp_path):
    workspace = create(tmp_path / "work")
    evaluation(workspace)
    evaluation(workspace, "later", {**RIGHT, "tuned": 12})
    app = FinetuiApp(workspace, start="evaluate")
    async with app.run_test(size=(120, 36)) as pilot:
        await ready(pilot, app)
        await pilot.press("o")
        await until(pilot, lambda: isinstance(app.screen, EvaluationsPage))
        page = app.screen
        await pilot.press("home", "space", "down", "space")
        await until(pilot, lambda: page.table("matched").row_count)
        first = page.table("matched").source.row(0).cells
        assert first[1:3] == ("task", "▸ right answer")
        assert sorted(first[3:5]) == ["50.0%", "83.3%"]
        assert "33.3 pp (" in first[5], "their difference is taken row by row, with an interval"
        names = [path.name.rpartition("-")[2] for path in page.marked]
        assert ("+33.3" in first[5]) == (names == ["later", "triage"])


async def test_a_report_is_written_where_it_was_asked_for(made):
    workspace, job = made
    app = opened(made)
    async with app.run_test(size=(100, 30)) as pilot:
        await ready(pilot, app)
        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        await pilot.press("down", "enter")
        await pilot.press("enter")
        path = workspace.root / "reports" / f"{job.id}.html"
        await until(pilot, path.is_file)
    assert "<table>" in path.read_text() and "<script" not in path.read_text()


async def test_running_again_asks_the_manifest_of_the_record(made, monkeypatch):
    _, job = made
    asked = []
    monkeypatch.setattr(
        evaluate_again.start,
        "start_evaluation",
        lambda _, manifest: asked.append(manifest) or job,
    )
    app = opened(made)
    async with app.run_test(size=(100, 30)) as pilot:
        await ready(pilot, app)
        await pilot.press("R", "y")
        await until(pilot, lambda: asked)
    assert asked == [of_job(job.path).manifest()]


async def test_the_dialog_makes_a_manifest_of_a_run(tmp_path, monkeypatch):
    workspace = create(tmp_path / "work")
    held, train = workspace.datasets / "held.jsonl", workspace.datasets / "train.jsonl"
    for file in (held, train):
        file.write_text('{"messages": []}\n')
    recipe = {
        "model": {"path": "m"},
        "data": {"eval": str(held), "train": [str(train)]},
        "evaluation": {"max_new_tokens": 40},
    }
    run = finished_job(workspace, recipe=recipe)
    asked = []
    monkeypatch.setattr(
        evaluate_again.start, "start_evaluation", lambda _, manifest: asked.append(manifest) or run
    )
    app = FinetuiApp(workspace, start="evaluate", request=OpenJob(run.path))
    async with app.run_test(size=(100, 36)) as pilot:
        await until(pilot, lambda: app.pane and app.jobs)
        await pilot.press("n")
        await until(pilot, lambda: isinstance(app.screen, EvaluateDialog))
        dialog = app.screen
        dialog.post_message(dialog.query_one("#evaluation").FieldEdited("shots", "x"))
        await until(pilot, lambda: "shots" in dialog.problems())
        await pilot.press("s")
        assert app.screen is dialog, "a field that is wrong keeps the dialog open"
        for id, text in (("shots", "3"), ("limit", "7"), ("leak", "false")):
            dialog.post_message(dialog.query_one("#evaluation").FieldEdited(id, text))
        await until(pilot, lambda: dialog.fields["leak"].value == "false")
        await pilot.press("s")
        await until(pilot, lambda: asked)
    manifest = asked[0]
    assert [one.name for one in manifest.subjects] == ["base", "tuned", "base-3-shot"]
    assert manifest.max_new_tokens == 40 and manifest.reference == "base"
    assert {spec.role for spec in manifest.sets} == {"test", "suite", "safety", "drift"}
    assert {spec.limit for spec in manifest.sets} == {7}


async def test_an_evaluation_under_way_says_so(tmp_path):
    workspace = create(tmp_path / "work")
    job = evaluation(workspace)
    for file in (job.path / "outcome.json", job.path / "evaluation" / "figures.json"):
        file.unlink()
    app = FinetuiApp(workspace, start="evaluate", request=OpenJob(job.path))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.line)
        state = app.pane.line.state
        await until(pilot, lambda: state in words(app, "#scores"))


def test_a_table_with_too_many_labels_becomes_a_list_of_mistakes():
    pairs = [(f"label-{number}", f"label-{(number + 1) % 20}") for number in range(20)]
    told = evaluate_view.confusion(confusion([*pairs, pairs[0]]), 60).plain
    assert told.splitlines()[0].split() == ["2", "label-0", "→", "label-1"]
    assert evaluate_view.confusion(confusion([("a", "a"), ("b", "b")]), 6).plain == "no mistakes"
