"""Preparing a session: power while typing, findings before the sealing, nothing told of sides."""

import time

import pytest
from look import finished_job, sealed_session, until, words

from finetui.rating.drafts import Draft, draft_file, hold
from finetui.rating.registration import Registration
from finetui.rating.session import Item, open_session
from finetui.tui.app import FinetuiApp
from finetui.tui.screens import rate_wish
from finetui.tui.screens.rate_findings import FindingsPage
from finetui.tui.screens.rate_prepare import PrepareDialog, free_name
from finetui.tui.widgets.form import FormList
from finetui.tui.widgets.textpanel import TextPanel
from finetui.workspace import create


@pytest.fixture
def workspace(tmp_path):
    return create(tmp_path / "work")


def filled(**values: str) -> dict:
    """The fields of the dialog with other values."""
    from dataclasses import replace

    fields = rate_wish.default_fields(("demo",), "blind-1")
    return fields | {name: replace(fields[name], value=value) for name, value in values.items()}


def draft(workspace) -> Draft:
    """Three answers, one of which names its maker."""
    items = [
        Item(
            id=f"item-{number}",
            prompt=[{"role": "user", "content": f"question {number}"}],
            outputs={
                "base": "I am Qwen, made by Alibaba." if number == 1 else f"one {number}",
                "tuned": f"two {number}",
            },
        )
        for number in range(3)
    ]
    made = Draft(name="blind-1", created=time.time(), systems=("base", "tuned"), items=items)
    hold(workspace.ratings, made)
    return made


def test_a_new_session_takes_the_next_free_name():
    assert free_name("triage", {"triage-blind-1", "triage-blind-2"}) == "triage-blind-3"


def test_the_fields_become_a_registration():
    fields = filled(raters="anna, ben", interested="ben", criteria="Kinder?; True?",
                    stop="looks", looks="10, 20", practice="3")  # fmt: skip
    assert rate_wish.problems(fields, set()) == {}
    made = rate_wish.registration(fields)
    assert (made.raters, made.interested) == (("anna", "ben"), ("ben",))
    assert (made.criteria, made.practice) == (("Kinder?", "True?"), 3)
    assert (made.stop.kind, made.stop.looks) == ("looks", (10, 20))
    assert rate_wish.registration(filled(margin="10")).margin == 0.1


def test_the_fields_name_the_systems_in_the_words_of_the_command():
    fields = filled(shots="4", steps="100, 200", others="outputs:other.jsonl")
    assert rate_wish.words(fields) == [
        "base", "few-shot:4", "tuned", "checkpoint:100", "checkpoint:200", "outputs:other.jsonl",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"items": "many"}, "items"),
        ({"tuned": "false"}, "base"),
        ({"steps": "last"}, "steps"),
        ({"criteria": "a;b;c;d"}, "criteria"),
        ({"interested": "carl", "raters": "anna"}, "interested"),
        ({"stop": "looks"}, "looks"),
        ({"stop": "e-process", "margin": "10"}, "margin"),
        ({"name": "old"}, "name"),
    ],
)
def test_what_cannot_be_sealed_is_said_at_its_field(values, place):
    assert place in rate_wish.problems(filled(**values), {"old"})


def test_the_forecast_counts_pairs_and_what_a_stop_rule_spares():
    three = rate_wish.forecast(filled(items="60", steps="10"))
    assert three[0].startswith("3 pairs share the items. Of each: 20 items")
    early = rate_wish.forecast(filled(items="300", stop="e-process"))
    assert "on average" in early[-1]
    assert len(rate_wish.forecast(filled(items="300"))) == len(early) - 1


async def test_power_follows_a_number_while_it_is_typed(workspace):
    finished_job(workspace)
    app = FinetuiApp(workspace, start="rate")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.jobs)
        await pilot.press("n")
        await until(pilot, lambda: isinstance(app.screen, PrepareDialog))
        power = app.screen.query_one("#power", TextPanel)
        await until(pilot, lambda: power.text.plain.startswith("30 items"))
        app.screen.query_one(FormList).go_to("items")
        await pilot.press("enter", "0")
        await until(pilot, lambda: power.text.plain == "items: a whole number from 1 to 2,000")
        await pilot.press("backspace", *"300")
        await until(pilot, lambda: power.text.plain.startswith("300 items"))
        assert app.screen.fields["items"].value == "30"
        await pilot.press("enter")
        await until(pilot, lambda: app.screen.fields["items"].value == "300")
        assert app.screen.fields["catches"].value == "20"


async def test_a_session_is_prepared_from_a_finished_run(workspace, monkeypatch):
    spec = {"model": "base-model", "recipe": {"data": {"eval": "held.jsonl"}}}
    job = finished_job(workspace, **spec)
    started = []
    monkeypatch.setattr(
        "finetui.tui.screens.rate_prepare.start_prepare",
        lambda _, systems, name, **options: started.append((systems, name, options)),
    )
    monkeypatch.setattr(
        "finetui.tui.screens.rate_wish.systems_of", lambda _, words, run: (words, run)
    )
    app = FinetuiApp(workspace, start="rate")
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.jobs)
        await pilot.press("n")
        await until(pilot, lambda: isinstance(app.screen, PrepareDialog))
        await pilot.press("s")
        await until(pilot, lambda: started)
    systems, name, options = started[0]
    assert (systems, name) == ((["base", "tuned"], job.id), "demo-blind-1")
    assert (options["items"], options["hold"]) == (30, True)
    assert options["registration"].guesses == 10


async def test_findings_are_shown_first_and_the_choice_is_sealed(workspace):
    draft(workspace)
    app = FinetuiApp(workspace, start="rate")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.lines)
        assert app.pane.lines[0].state == "to seal"
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, FindingsPage) and app.screen.doubts)
        page = app.screen
        assert [doubt.item for doubt in page.doubts] == ["item-1"]
        assert "qwen" in page.doubts[0].why
        assert "item-1" in page.findings.excluded
        await pilot.press("space")
        await until(pilot, lambda: not page.findings.excluded)
        await pilot.press("S")
        await until(pilot, lambda: app.screen is not page)
        await pilot.press("y")
        await until(pilot, lambda: (workspace.ratings / "blind-1" / "manifest.json").is_file())
        await until(pilot, lambda: app.pane.lines and app.pane.lines[0].state == "open")
    assert open_session(workspace.ratings / "blind-1").manifest.items == 3
    assert not draft_file(workspace.ratings, "blind-1").exists()


async def test_the_list_tells_what_was_registered_and_how_far_raters_are_and_no_system(workspace):
    sealed_session(workspace)
    app = FinetuiApp(workspace, start="rate")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.lines)
        await until(pilot, lambda: "Which is better?" in words(app, "#about"))
        told = words(app, "#about")
        assert "0 of 4" in told
        assert "One account" in told
        assert not [name for name in ("base", "tuned") if name in told]


def test_a_draft_registration_keeps_what_was_decided_by_hand():
    from finetui.tui.screens.rate_findings import turned

    out = turned(Registration(), "item-1", True)
    assert (out.excluded, out.kept) == (("item-1",), ())
    back = turned(out, "item-1", False)
    assert (back.excluded, back.kept) == ((), ("item-1",))
