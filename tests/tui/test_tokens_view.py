"""The token view: what is trained, masked and cut of a row, and losses where they were measured."""

import shutil

import msgspec
import pytest
from look import HOSTILE, until

from finetui.jobs import tokenlosses
from finetui.jobs.folder import create as create_job
from finetui.jobs.tokenlosses import TokenLosses
from finetui.tui.app import FinetuiApp
from finetui.tui.screens import tokens
from finetui.tui.screens.tokens import TokensPage
from finetui.tui.widgets.textpanel import TextPanel
from finetui.tui.widgets.tokens import Token, shade_of
from finetui.workspace import create, sample_data

RECIPE = """
name = "try"
[model]
path = "model"
[data]
train = ["datasets/rows.jsonl"]
max_length = {length}
overlong = "{overlong}"
"""
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json")


def chat(question, answer):
    turns = [("user", question), ("assistant", answer)]
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


@pytest.fixture
def workspace(tmp_path):
    made = create(tmp_path / "w")
    (made.root / "model").mkdir()
    for name in FILES:
        shutil.copyfile(sample_data() / "model" / name, made.root / "model" / name)
    rows = [chat("What is one?", "It is 1."), chat(f"q {HOSTILE}", f"a {HOSTILE}"), {"odd": 1}]
    text = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    (made.datasets / "rows.jsonl").write_bytes(text)
    recipe(made)
    return made


def recipe(workspace, length=64, overlong="drop"):
    text = RECIPE.format(length=length, overlong=overlong)
    (workspace.recipes / "try.toml").write_text(text)


async def opened(pilot, workspace, row=0):
    page = TokensPage(workspace, workspace.datasets / "rows.jsonl", row)
    pilot.app.push_screen(page)
    await until(pilot, lambda: page.shown.sides or page.shown.error)
    return page


def text(page, name):
    return page.query_one(f"#{name}", TextPanel).text.plain


async def test_the_answer_is_trained_and_the_rest_masked(workspace):
    app = FinetuiApp(workspace)
    async with app.run_test(size=(120, 36)) as pilot:
        page = await opened(pilot, workspace)
        trained = "".join(t.text for t in page.tokens if t.state == "trained")
        assert trained == "It is 1.<|im_end|>"
        assert "0 cut" in text(page, "fate") and "max length 64" in text(page, "fate")
        assert page.tokens[page.view.cursor].text == "It"  # begins at what is learnt
        await pilot.press("right")
        await until(pilot, lambda: "' is'" in text(page, "here"))
        await pilot.press("tab", "down")
        await until(pilot, lambda: page.view.cursor == page.table("tokens").cursor)
        assert page.tokens[page.view.cursor].text in text(page, "here")


async def test_what_is_cut_is_shown_and_a_row_that_is_left_out_says_so(workspace):
    recipe(workspace, length=16, overlong="truncate")
    app = FinetuiApp(workspace)
    async with app.run_test(size=(80, 24)) as pilot:
        page = await opened(pilot, workspace)
        assert page.tokens[-1].state == "cut" and len(page.shown.sides[0].seen) == 16
        recipe(workspace, length=16, overlong="drop")
        page = await opened(pilot, workspace)
        assert "left out" in text(page, "fate") and "longer than max length" in text(page, "fate")


async def test_rows_go_on_and_back_and_bad_ones_say_why(workspace):
    app = FinetuiApp(workspace)
    async with app.run_test(size=(80, 24)) as pilot:
        page = await opened(pilot, workspace)
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: page.shown.row == 1)
        assert "\x1b" not in "".join(
            "".join(segment.text for segment in strip) for strip in page.view.lines
        )
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: page.shown.row == 2 and page.shown.error)
        assert "cannot be trained on" in text(page, "fate")
        await pilot.press("right_square_bracket", "left_square_bracket")
        await until(pilot, lambda: page.shown.row == 1 and page.shown.sides)


def measure(workspace, row, line):
    """What a tokenloss job leaves."""
    ids = [row.ids[at] for at in row.seen]
    base = [None, *(4.0 for _ in ids[1:])]
    tuned = [None, *(0.05 for _ in ids[1:])]
    losses = TokenLosses(str(workspace.datasets / "rows.jsonl"), line, "", ids, base, tuned)
    job = create_job(workspace.jobs, "tokenloss", "rows", {}, {})
    (job.path / tokenlosses.FILE).write_bytes(msgspec.json.encode(losses) + b"\nnot json\n")
    job.write_json("outcome.json", {"status": "finished", "attempt": 1, "t": 1.0})
    return job


async def test_losses_of_an_earlier_job_are_shown_at_once(workspace):
    app = FinetuiApp(workspace)
    async with app.run_test(size=(120, 36)) as pilot:
        page = await opened(pilot, workspace)
        await pilot.press("v")
        assert page.view.shade == "training"  # nothing is known yet
        job = measure(workspace, page.shown.sides[0], 1)
        page = await opened(pilot, workspace)
        assert "base 4.000, tuned 0.050" in text(page, "fate") and job.id in text(page, "fate")
        for shade in ("base", "tuned", "change", "training"):
            await pilot.press("v")
            assert page.view.shade == shade
        assert "base 4.000 (1.8%)" in text(page, "here")
        row = page.table("tokens").source.row(page.view.cursor).cells
        assert row[-1] == "-3.950" and row[4].startswith("4.000")


async def test_measuring_starts_a_job_of_this_row_and_shows_what_it_found(workspace, monkeypatch):
    asked = []

    def start_tokenloss(where, made, rows, trained):
        asked.append((rows, trained))
        return measure(where, page.shown.sides[0], rows[0][1])

    monkeypatch.setattr(tokens.start, "start_tokenloss", start_tokenloss)
    app = FinetuiApp(workspace)
    async with app.run_test(size=(120, 36)) as pilot:
        page = await opened(pilot, workspace)
        await pilot.press("m")
        await until(pilot, lambda: page.view.shade == "change")
        assert asked == [([(workspace.datasets / "rows.jsonl", 1)], None)]
        assert page.job is None and page.asked == ""


def test_a_shade_tells_how_surprising_a_token_is():
    known = Token("a", "trained", base=4.0, tuned=0.05)
    assert [shade_of(known, shade) for shade in ("training", "base", "tuned", "change")] == [
        "trained", "loss-3", "loss-0", "better-3"]  # fmt: skip
    assert shade_of(Token("a", "trained", base=1.0, tuned=1.2), "change") == "worse-1"
    assert shade_of(Token("a", "masked"), "base") == "masked"
    assert shade_of(Token("a", "cut", base=1.0), "base") == "cut"
