"""Rating: blind, one pair at a time, every answer on disk before the next pair shows."""

import json
from collections.abc import Callable
from itertools import count

import pytest
from look import sealed_session, until

from finetui.errors import UserError
from finetui.rating import audit
from finetui.rating.ballot import Ballot
from finetui.rating.session import default_rater
from finetui.rating.votes import Judgement, fold, progress, read_events
from finetui.tui.app import FinetuiApp
from finetui.tui.messages import OpenSession
from finetui.tui.screens import rate_pages, rate_view
from finetui.tui.screens.rate_ballot import RatingView
from finetui.tui.screens.rate_marks import TagsDialog
from finetui.tui.screens.rate_pair import differences
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
    """The view once it shows a pair and its keys count; the guide is left first."""
    await until(pilot, lambda: app.pane and app.pane.query("RatingView #heading"))
    view = app.pane.query_one(RatingView)
    await until(pilot, lambda: app.focused is view)
    if view.page == "guide":
        await pilot.press("enter")
    await until(pilot, lambda: view.ballot.position[0] == position and not view.page)
    await until(pilot, lambda: view.pair.right.seen or view.pair.right.max_scroll_y)
    view.stint.clock = seconds_pass(view)
    return view


def seconds_pass(view) -> Callable[[], float]:
    """A clock that is a second later at every look: no key comes too soon."""
    return count(view.stint.clock() + 1).__next__


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
    assert rate_view.place("rating", 12, 60, "saved").plain == "item 12 of 60 · saved"


def test_a_long_question_gives_way_to_the_place():
    text = rate_view.heading("why " * 60, rate_view.place("rating", 1, 9, "saved"), 60).plain
    assert len(text) == 60
    assert text.endswith("item 1 of 9 · saved")


def test_marks_repeat_what_is_noted_on_the_item():
    judgement = Judgement(
        "p", confidence=3, recognised=True, tags=("tone",), comment="odd \x1b[31m"
    )
    text = rate_view.marks(judgement, ["in step"], "").plain
    assert text == "sure · recognised · tone · comment: odd ␛[31m · in step"


def test_a_break_is_suggested_beside_the_marks():
    due = "20 answers in a row: time for a break?"
    text = rate_view.marks(Judgement("p", confidence=1), [], "", due).plain
    assert text == f"unsure · {due} b"


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
        sides = view.pair.panes
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


async def test_leaving_right_after_an_answer_waits_for_the_disk(workspace):
    session = sealed_session(workspace)
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(80, 24)) as pilot:
        view = await rating(app, pilot)
        view._busy = True
        await pilot.press("q")
        assert app.pane.query(RatingView)
        view._busy = False
        await pilot.press("1")
        await until(pilot, lambda: not app.pane.query(RatingView))
    assert [event["ev"] for event in on_disk(session)] == ["open", "vote"]


async def test_undo_takes_the_last_answer_back_and_keeps_both_in_the_file(workspace):
    session = sealed_session(workspace)
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(120, 36)) as pilot:
        view = await rating(app, pilot)
        first = view.ballot.current
        await answer(view, pilot, "2", 2)
        await answer(view, pilot, "backspace", 1)
        assert view.ballot.current == first
        assert "left" in view.pair.left.border_title
    assert [event["ev"] for event in on_disk(session)] == ["open", "vote", "undo"]


async def test_a_key_held_down_does_not_answer_pairs_nobody_saw(workspace):
    session = sealed_session(workspace)
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(120, 36)) as pilot:
        view = await rating(app, pilot)
        view.stint.shown()
        view.stint.clock = lambda: view.stint._shown
        await pilot.press("1")
        assert "too soon" in view.query_one("#marks").text.plain
    assert [event["ev"] for event in on_disk(session)] == ["open"]


async def test_an_answer_that_was_not_read_to_the_end_is_asked_about_once(workspace):
    session = sealed_session(workspace, items=1, long="\nmore" * 80)
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(120, 36)) as pilot:
        view = await rating(app, pilot)
        sides = view.pair.panes
        await until(
            pilot, lambda: any(s.seen for s in sides) and any(s.max_scroll_y for s in sides)
        )
        await pilot.press("2")
        assert "not read to the end" in view.query_one("#marks").text.plain
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


async def test_the_time_on_a_pair_is_recorded_and_a_break_is_not(workspace):
    session = sealed_session(workspace)
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(120, 36)) as pilot:
        view = await rating(app, pilot)
        now = [view.stint.clock()]
        view.stint.clock = lambda: now[0]
        view.stint.shown()
        for key, seconds in (("down", 30), ("b", 10), ("b", 600), ("1", 5)):
            now[0] += seconds
            await pilot.press(key)
            await until(pilot, lambda: not view._busy)
        await until(pilot, lambda: view.ballot.position[0] == 2)
    events = on_disk(session)
    assert [event["ev"] for event in events] == ["open", "break", "resume", "vote"]
    assert events[-1]["active_ms"] == 45_000


async def test_tags_are_ticked_by_their_digits(workspace):
    session = sealed_session(workspace)
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(80, 24)) as pilot:
        view = await rating(app, pilot)
        await pilot.press("g")
        await until(pilot, lambda: isinstance(app.screen, TagsDialog))
        await pilot.press("2", "6", "2", "3", "enter")
        await until(pilot, lambda: view.ballot.judgement().tags == ("tone", "too long"))


async def test_an_answer_can_wait_for_enter(workspace):
    session = sealed_session(workspace)
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(80, 24)) as pilot:
        view = await rating(app, pilot)
        await pilot.press("o", "1", "2")
        assert "Right is better: enter confirms" in view.query_one("#marks").text.plain
        assert [event["ev"] for event in on_disk(session)] == ["open"]
        await answer(view, pilot, "enter", 2)
    assert on_disk(session)[-1]["choice"] == "R"


async def test_criteria_are_asked_first_and_can_be_taken_back(workspace):
    asked = ("More correct?", "Kinder?")
    session = sealed_session(workspace, registration={"criteria": asked})
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(80, 24)) as pilot:
        view = await rating(app, pilot)
        for key, question in (
            ("1", "2/3  Kinder?"),
            ("4", "3/3  Which is better?"),
            ("backspace", "2/3  Kinder?"),
            ("2", "3/3  Which is better?"),
        ):
            await pilot.press(key)
            await until(pilot, lambda q=question: q in head(view) and not view._busy)
        await answer(view, pilot, "3", 2)
    state = fold(read_events(session, default_rater()))
    assert [(j.choice, j.criteria) for j in state.values()] == [
        ("G", {"More correct?": "L", "Kinder?": "R"})
    ]


async def test_practice_and_the_end_question_are_announced(workspace):
    session = sealed_session(workspace, items=5, registration={"practice": 1, "guesses": 2})
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(80, 24)) as pilot:
        view = await rating(app, pilot)
        assert "practice 1 of 1" in head(view)
        await pilot.press("1")
        await until(pilot, lambda: view.page == "rating")
        assert "each answer counts" in view.query_one("#page").text.plain
        await pilot.press("enter")
        while view.page != "guess":
            view.stint.clock = seconds_pass(view)
            before = view.ballot.position[0]
            await pilot.press("2")
            await until(pilot, lambda before=before: view.ballot.position[0] > before)
            await until(pilot, lambda: not view._busy)
        assert session.manifest.end_question in view.query_one("#page").text.plain
        await pilot.press("enter")
        await until(pilot, lambda: "last question 1 of 2" in head(view))
        view.stint.clock = seconds_pass(view)
        await pilot.press("3")
        assert "1 left, 2 right or 0" in view.query_one("#marks").text.plain
        await pilot.press("1")
        await until(pilot, lambda: "last question 2 of 2" in head(view))


async def test_the_guide_comes_first_and_says_what_wall_holds(workspace):
    session = sealed_session(workspace)
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.query("RatingView #heading"))
        view = app.pane.query_one(RatingView)
        await until(pilot, lambda: view.has_class("-paged"))
        page = view.query_one("#page")
        assert "One account" in page.text.plain
        await until(pilot, lambda: page.size.height)
        assert page.virtual_size.height <= page.size.height
        await pilot.press("1")
        assert [event["ev"] for event in on_disk(session)] == ["open"]


async def test_no_key_of_the_coordinator_works_in_a_ballot(workspace):
    session = sealed_session(workspace)
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(80, 24)) as pilot:
        view = await rating(app, pilot)
        await pilot.press("n", "R", "x", "L")
        await pilot.press("5")
        await until(pilot, lambda: view.ballot.judgement().confidence == 1)
        assert app.screen is view.screen
        assert not audit.unsealing(session)


async def test_both_answers_scroll_in_step_when_wished(workspace):
    session = sealed_session(workspace, long="\nmore" * 80, also="\nmore" * 60)
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(120, 36)) as pilot:
        view = await rating(app, pilot)
        left, right = view.pair.panes
        await pilot.press("left", "down", "down")
        await until(pilot, lambda: left.scroll_y == 2)
        assert right.scroll_y == 0
        await pilot.press("z", "down")
        await until(pilot, lambda: (left.scroll_y, right.scroll_y) == (3, 3))
        right.scroll_to(y=7, animate=False)  # as the wheel of a mouse does
        await until(pilot, lambda: left.scroll_y == 7)
        await pilot.press("end")
        await until(pilot, lambda: left.scroll_y == left.max_scroll_y)
        assert right.scroll_y == min(right.max_scroll_y, left.max_scroll_y)


async def test_one_answer_at_a_time_is_recorded_as_such(workspace):
    session = sealed_session(workspace)
    app = FinetuiApp(workspace, start="rate", request=OpenSession(session.path))
    async with app.run_test(size=(80, 24)) as pilot:
        view = await rating(app, pilot)
        await pilot.press("v", "d")
        assert [pane.display for pane in view.pair.panes] == [True, False]
        await pilot.press("right")
        assert [pane.display for pane in view.pair.panes] == [False, True]
        await answer(view, pilot, "1", 2)
    assert on_disk(session)[-1]["layout"] == "single+diff"


def test_differences_are_marked_alike_on_both_sides():
    left, right = differences("the red fox runs", "the blue fox runs fast")
    assert [left.plain[s.start : s.end] for s in left.spans] == ["red"]
    assert [right.plain[s.start : s.end] for s in right.spans] == ["blue", " fast"]
    assert {str(span.style) for text in (left, right) for span in text.spans} == {
        "underline $warning"
    }


def test_differences_of_a_script_without_spaces_go_by_the_character():
    left, _ = differences("退款需要五天", "退款需要七天")
    assert [left.plain[s.start : s.end] for s in left.spans] == ["五"]


def test_the_receipt_stands_on_the_last_page():
    page = rate_pages.end(4, 4, True, "ab" * 32, "").plain
    assert f"Receipt  {'ab' * 8}" in page
