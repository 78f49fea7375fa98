"""Rating: blind, one pair at a time, every answer on disk before the next pair shows."""

import json
from collections.abc import Callable
from itertools import count

import pytest
from look import finished_job, sealed_session, until, words

from finetui.errors import UserError
from finetui.rating import audit
from finetui.rating.ballot import Ballot
from finetui.rating.session import default_rater
from finetui.rating.votes import Judgement, progress
from finetui.tui.app import FinetuiApp
from finetui.tui.messages import OpenSession
from finetui.tui.screens import rate_view
from finetui.tui.screens.rate_ballot import RatingView
from finetui.tui.screens.rate_prepare import PrepareDialog, free_name
from finetui.tui.widgets.bars import TopBar
from finetui.tui.widgets.dialogs import TextPrompt
from finetui.workspace import create

NAMES = ("base", "tuned", "model", "adapter", "blind-1")


@pytest.fixture
def workspace(tmp_path):
    return create(tmp_path / "work")


def on_disk(session) -> list[dict]:
    """The recorded events of all this session's files, in the order of the files."""
    files = sorted((session.ratings / default_rater()).glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


async def rating(app, pilot, position=1) -> RatingView:
    """The view once it shows an item and its keys count."""
    await until(pilot, lambda: app.pane and app.pane.query("RatingView #heading"))
    view = app.pane.query_one(RatingView)
    await until(pilot, lambda: view.ballot.position[0] == position and view.panes["right"].seen)
    view.clock = seconds_pass(view)
    return view


def seconds_pass(view) -> Callable[[], float]:
    """A clock that is a second later at every look: no key comes too soon."""
    return count(view.clock() + 1).__next__


async def answer(view, pilot, key, position) -> None:
    await pilot.press(key)
    await until(pilot, lambda: f"item {position} of" in head(view) and "saved" in head(view))


def head(view) -> str:
    return view.query_one("#heading").text.plain


def everything(app) -> str:
    """All text on screen."""
    lines = [app.screen._compositor.render_strips()[y].text for y in range(app.size.height)]
    return "\n".join(lines)


def test_the_place_says_that_the_last_key_is_on_disk():
    assert rate_view.place((12, 60), "saved").plain == "item 12 of 60 · saved"


def test_a_long_question_gives_way_to_the_place():
    text = rate_view.heading("why " * 60, (1, 9), "saved", 60).plain
    assert len(text) == 60
    assert text.endswith("item 1 of 9 · saved")


def test_marks_repeat_what_is_noted_on_the_item():
    judgement = Judgement("p", confidence=3, recognised=True, comment="odd \x1b[31m")
    text = rate_view.marks(judgement, False, "").plain
    assert text == "sure · recognised · comment: odd ␛[31m"


@pytest.mark.parametrize(("share", "place"), [(0.0, 0), (0.5, 10), (1.0, 20)])
def test_the_win_share_stands_at_its_place_on_the_bar(share, place):
    bar = rate_view.share_bar(share, share, share, 21).plain
    assert bar.index("●") == place
    assert len(bar) == 21


def test_a_new_session_takes_the_next_free_name():
    assert free_name("triage", {"triage-blind-1", "triage-blind-2"}) == "triage-blind-3"


async def test_a_vote_is_on_disk_before_the_next_pair_shows(workspace):
    session = sealed_session(workspace)
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(120, 36)) as pilot:
        view = await rating(app, pilot)
        first = view.ballot.current
        seen = []
        show = view.show_current
        view.show_current = lambda: (seen.append([e["ev"] for e in on_disk(session)]), show())
        await answer(view, pilot, "1", 2)
        assert seen == [["open", "vote"]]
        assert view.ballot.current != first
        vote = on_disk(session)[-1]
    assert vote["choice"] == "L"
    assert vote["pid"] == first.pid
    assert vote["layout"] == "side"
    assert (vote["cols"], vote["rows"]) == (120, 36)


async def test_no_name_is_anywhere_on_the_screen(workspace):
    session = sealed_session(workspace)
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(120, 36)) as pilot:
        view = await rating(app, pilot)
        await until(pilot, lambda: not app.query_one(TopBar).display)
        await pilot.pause()
        item = view.ballot.current
        shown = everything(app).replace(item.left, "").replace(item.right, "")
        assert not [name for name in NAMES if name in shown]
        sides = [view.panes[name] for name in ("left", "right")]
        assert {str(side.styles.border) for side in sides} == {str(sides[0].styles.border)}
        assert app.focused is view


async def test_rating_goes_on_where_it_was_left(workspace):
    session = sealed_session(workspace)
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(80, 24)) as pilot:
        view = await rating(app, pilot)
        await answer(view, pilot, "3", 2)
        await pilot.press("q")
        await until(pilot, lambda: not app.pane.query(RatingView))
        await until(pilot, lambda: app.pane.lines and app.pane.lines[0].done == 1)
        await pilot.press("enter")
        await rating(app, pilot, position=2)
    assert on_disk(session)[1]["layout"] == "stacked"


async def test_undo_takes_the_last_answer_back_and_keeps_both_in_the_file(workspace):
    session = sealed_session(workspace)
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(120, 36)) as pilot:
        view = await rating(app, pilot)
        first = view.ballot.current
        await answer(view, pilot, "2", 2)
        await answer(view, pilot, "backspace", 1)
        assert view.ballot.current == first
        assert "left" in view.panes["left"].border_title
    assert [event["ev"] for event in on_disk(session)] == ["open", "vote", "undo"]


async def test_a_key_held_down_does_not_answer_pairs_nobody_saw(workspace):
    session = sealed_session(workspace)
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(120, 36)) as pilot:
        view = await rating(app, pilot)
        view.clock = lambda: view._shown_at
        await pilot.press("1")
        assert "too soon" in view.query_one("#marks").text.plain
    assert [event["ev"] for event in on_disk(session)] == ["open"]


async def test_an_answer_that_was_not_read_to_the_end_is_asked_about_once(workspace):
    session = sealed_session(workspace, items=1, long="\nmore" * 80)
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.query("RatingView #heading"))
        view = app.pane.query_one(RatingView)
        sides = [view.panes[name] for name in ("left", "right")]
        await until(
            pilot, lambda: any(s.seen for s in sides) and any(s.max_scroll_y for s in sides)
        )
        view.clock = seconds_pass(view)
        await pilot.press("2")
        assert "goes on below" in view.query_one("#marks").text.plain
        assert [event["ev"] for event in on_disk(session)] == ["open"]
        await pilot.press("2")
        await until(pilot, lambda: view.ballot.done)
    vote = on_disk(session)[-1]
    assert [vote.get("seen_left", True), vote.get("seen_right", True)].count(False) == 1


async def test_marks_and_comments_are_recorded_with_the_item(workspace):
    session = sealed_session(workspace)
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(120, 36)) as pilot:
        view = await rating(app, pilot)
        for key, done in (
            ("7", lambda: view.ballot.judgement().confidence == 3),
            ("f", lambda: view.ballot.judgement().recognised),
        ):
            await pilot.press(key)
            await until(pilot, lambda done=done: done() and not view._busy)
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, TextPrompt))
        await pilot.press(*"odd", "enter")
        await until(pilot, lambda: view.ballot.judgement().comment == "odd")
        await until(pilot, lambda: "sure · recognised" in view.query_one("#marks").text.plain)


async def test_what_the_disk_refuses_is_said_and_the_pair_stays(workspace, monkeypatch):
    session = sealed_session(workspace)
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(120, 36)) as pilot:
        view = await rating(app, pilot)

        def refuse(*_, **__):
            raise UserError("this was NOT saved: the disk refused it.")

        monkeypatch.setattr(Ballot, "vote", refuse)
        await pilot.press("1")
        await until(pilot, lambda: "NOT saved" in head(view))
        assert "disk refused" in view.query_one("#marks").text.plain
        assert view.ballot.position[0] == 1


async def test_after_the_last_item_a_digit_leads_nowhere_and_handing_in_closes(workspace):
    session = sealed_session(workspace, items=1)
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(120, 36)) as pilot:
        view = await rating(app, pilot)
        await pilot.press("4")
        await until(pilot, lambda: view.has_class("-paged"))
        assert "That was the last one" in view.query_one("#page").text.plain
        await pilot.press("1")
        assert app.mode == "rate"
        await pilot.press("H")
        await until(pilot, lambda: app.screen is not view.screen)
        await pilot.press("y")
        await until(pilot, lambda: "Receipt" in view.query_one("#page").text.plain)
    assert progress(session, default_rater()).closed


async def test_the_report_asks_why_and_logs_it_before_it_shows(workspace):
    session = sealed_session(workspace)
    with Ballot(session) as ballot:
        while ballot.current is not None:
            ballot.vote("L")
    app = FinetuiApp(workspace, start="rate")
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.lines)
        assert app.pane.lines[0].state == "answered"
        await pilot.press("R")
        await until(pilot, lambda: isinstance(app.screen, TextPrompt))
        assert audit.unsealing(session) is None
        await pilot.press(*"done", "enter")
        await until(pilot, lambda: app.pane.report is not None)
        opened = audit.unsealing(session)
        assert opened is not None
        assert opened.reason == "done"
        assert "win share of tuned" in words(app, "#report-head")
        assert "Left side chosen" in words(app, "#report-body")
        assert "tuned better" in words(app, "#report-plot")


async def test_preferences_are_exported_into_the_data_sets(workspace):
    session = sealed_session(workspace)
    with Ballot(session) as ballot:
        while ballot.current is not None:
            ballot.vote("L")
    audit.record(session, "unseal", "done")
    app = FinetuiApp(workspace, start="rate")
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.lines)
        await pilot.press("x")
        target = workspace.datasets / "blind-1-votes" / "preferences.jsonl"
        await until(pilot, target.is_file)


async def test_a_session_is_prepared_from_a_finished_run(workspace, monkeypatch):
    job = finished_job(workspace)
    started = []
    monkeypatch.setattr(
        "finetui.tui.screens.rate_prepare.start_prepare",
        lambda _, trained, name, **options: started.append((trained.path, name, options["items"])),
    )
    app = FinetuiApp(workspace, start="rate")
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.jobs)
        await pilot.press("n")
        await until(pilot, lambda: isinstance(app.screen, PrepareDialog))
        await pilot.press("s")
        await until(pilot, lambda: started)
    assert started == [(job.path, "demo-blind-1", 30)]
