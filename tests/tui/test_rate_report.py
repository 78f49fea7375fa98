"""The report of a session: logged before it shows, drawn within the width, saved as files."""

import json

import msgspec
import pytest
from look import sealed_session, until, words
from rich.cells import cell_len

from finetui.rating import audit
from finetui.rating.ballot import Ballot
from finetui.rating.figures import Picture, Row
from finetui.rating.sequential import StopRule
from finetui.tui.app import FinetuiApp
from finetui.tui.screens.rate_plot import draw, page, whisker
from finetui.tui.screens.rate_report import ReportView
from finetui.tui.widgets.dialogs import TextPrompt
from finetui.workspace import create

SHARE = Picture(
    title="Win share of 候选",
    rows=[Row("all items", 0.62, 0.5, 0.75, "24 items"), Row("评分员" * 9, 0.4, 0.4, 0.4)],
    low=0, high=1, line=0.5, unit="share",
)  # fmt: skip
COUNTS = Picture(
    "Answers", [Row("new better", 40, 40, 40), Row("never", 0, 0, 0)], 0, 40, 0, "count"
)


@pytest.fixture
def workspace(tmp_path):
    return create(tmp_path / "work")


def voted(workspace, **options):
    session = sealed_session(workspace, **options)
    with Ballot(session) as ballot:
        while ballot.current is not None:
            ballot.vote("L")
    return session


async def opened(app, pilot):
    """The report of the first session, its seal opened with a reason."""
    await until(pilot, lambda: app.pane and app.pane.lines)
    await pilot.press("R")
    await until(pilot, lambda: isinstance(app.screen, TextPrompt))
    await pilot.press(*"done", "enter")
    await until(pilot, lambda: app.pane.report is not None)
    await until(pilot, lambda: isinstance(app.focused, ReportView))


@pytest.mark.parametrize(("value", "place"), [(0.0, 0), (0.5, 10), (1.0, 20)])
def test_a_value_stands_at_its_place_on_the_axis(value, place):
    drawn = whisker(Row("", value, value, value), SHARE, 21).plain
    assert drawn.index("●") == place
    assert len(drawn) == 21


def test_the_whisker_spans_the_interval_and_the_line_of_no_effect_shows():
    drawn = whisker(Row("", 0.6, 0.4, 0.8), SHARE, 21).plain
    assert drawn == "────────━━╋━●━━━━────"


@pytest.mark.parametrize("width", [60, 76, 116])
def test_no_line_of_the_pictures_is_wider_than_the_page(width):
    drawn = page([SHARE, COUNTS, SHARE, COUNTS], width).plain.split("\n")
    assert max(map(cell_len, drawn)) <= width
    beside = any("Answers" in line and "Win share" in line for line in drawn)
    assert beside == (width == 116)


def test_shares_are_written_as_per_cent_and_counts_as_numbers():
    assert "62%    50% to   75%" in draw(SHARE, 80)[1].plain
    assert draw(COUNTS, 80)[1].plain.rstrip().endswith("40")
    assert "█" not in draw(COUNTS, 80)[2].plain


async def test_the_report_asks_why_and_logs_it_before_it_shows(workspace):
    session = voted(workspace)
    app = FinetuiApp(workspace, start="rate")
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.lines)
        assert app.pane.lines[0].state == "answered"
        await pilot.press("R")
        await until(pilot, lambda: isinstance(app.screen, TextPrompt))
        assert audit.unsealing(session) is None
        await pilot.press("escape")
        await opened(app, pilot)
        found = audit.unsealing(session)
        assert found is not None
        assert found.reason == "done"
        await until(pilot, lambda: "Win share of tuned" in words(app, "#report-plot"))
        assert "tuned better" in words(app, "#report-plot")
        assert "preference" in words(app, "#report-head")
        assert "Krippendorff" in words(app, "#report-body")


async def test_the_report_is_saved_as_a_page_markdown_and_json(workspace):
    voted(workspace)
    app = FinetuiApp(workspace, start="rate")
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot)
        await pilot.press("w")
        folder = workspace.root / "reports"
        names = ("blind-1.html", "blind-1.md", "blind-1.json")
        await until(pilot, lambda: all((folder / name).is_file() for name in names))
    assert json.loads((folder / names[2]).read_text())["session"] == "blind-1"
    assert "<script" not in (folder / names[0]).read_text()


async def test_an_interim_look_is_logged_and_tells_nothing_but_go_on_or_stop(workspace):
    stop = StopRule(kind="e-process")
    session = voted(workspace, registration={"stop": stop})
    app = FinetuiApp(workspace, start="rate")
    said = []
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.lines)
        app.say = lambda text, severity="information": said.append((text, severity))
        await pilot.press("L")
        await until(pilot, lambda: said)
    assert said == [("Continue: the registered rule is not met.", "information")]
    assert [entry.decision for entry in audit.entries(session) if entry.decision] == ["continue"]
    assert audit.unsealing(session) is None


async def test_preferences_are_exported_into_the_data_sets(workspace):
    session = voted(workspace)
    audit.record(session, "unseal", "done")
    app = FinetuiApp(workspace, start="rate")
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.lines)
        await pilot.press("x")
        target = workspace.datasets / "blind-1-votes" / "preferences.jsonl"
        await until(pilot, target.is_file)
        rows = [msgspec.json.decode(line) for line in target.read_bytes().splitlines()]
        assert all(row["chosen"] != row["rejected"] for row in rows)
