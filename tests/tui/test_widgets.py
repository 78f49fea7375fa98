"""The widgets over plain values: what they show, send and repaint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from desk import HOSTILE, until
from rich.cells import cell_len
from stage import Stage, Watched, lines_of
from textual.widgets import Input, TextArea

from finetui.tui.app import FinetuiApp
from finetui.tui.widgets.dialogs import Choose, Confirm, EditorDialog, TextPrompt
from finetui.tui.widgets.form import FormField, FormList
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.record import Block, Note, RecordView
from finetui.tui.widgets.table import (
    Column,
    ListSource,
    TableRow,
    VirtualTable,
    fit_cell,
    fit_columns,
)


class Million:
    """A source that is only ever asked for the rows on screen."""

    row_count = 1_000_000

    def __init__(self) -> None:
        self.asked: set[int] = set()

    def row(self, index: int) -> TableRow:
        self.asked.add(index)
        return TableRow((f"{index + 1:,}", "!", f"row {index}"))


COLUMNS = [Column("line", 10, "right"), Column("", 1, tone=True), Column("text")]


# -- table -----------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [10, 20, 40, 79, 200])
def test_columns_fill_the_width_exactly(width: int) -> None:
    widths = fit_columns([Column("a", 6), Column("b"), Column("c", weight=2)], width)
    shown = [found for found in widths if found]
    used = sum(shown) + 2 * (len(shown) - 1) + 2
    assert used == width if len(shown) > 1 else used <= width


@pytest.mark.parametrize("text", ["plain", "你好世界你好", "é" * 30, HOSTILE, "", "a\nb\tc"])
@pytest.mark.parametrize("width", [1, 2, 7, 40])
def test_a_cell_is_always_as_wide_as_it_should_be(text: str, width: int) -> None:
    for align in ("left", "right"):
        found = fit_cell(text, width, align)
        assert cell_len(found) == width
        assert found.isprintable()


async def test_a_million_rows_are_asked_for_only_where_they_are_seen() -> None:
    source = Million()
    table = VirtualTable(COLUMNS, source)
    app = Stage(table)
    async with app.run_test(size=(60, 20)) as pilot:
        await until(lambda: table.size.height == 20)
        await pilot.press("G")
        await until(lambda: "1,000,000" in "".join(lines_of(table)))
        assert table.cursor == 999_999
        await pilot.press("g", "pagedown")
        await until(lambda: table.cursor == 19)
        assert len(source.asked) < 100


async def test_every_moving_key_moves_and_stops_at_the_ends() -> None:
    table = VirtualTable(COLUMNS, Million())
    app = Stage(table)
    async with app.run_test(size=(60, 20)) as pilot:
        moves = [("j", 1), ("down", 2), ("k", 1), ("up", 0), ("up", 0), ("end", 999_999),
                 ("down", 999_999), ("pageup", 999_980), ("home", 0), ("pageup", 0)]  # fmt: skip
        for key, place in moves:
            await pilot.press(key)
            assert table.cursor == place, key


async def test_moving_the_cursor_repaints_two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    table = VirtualTable(COLUMNS, Million())
    app = Stage(table)
    async with app.run_test(size=(60, 20)) as pilot:
        await until(lambda: table.size.height == 20)
        watched = Watched(table, monkeypatch)
        await pilot.press("j")
        regions = [region for call in watched.regions for region in call]
        assert [region.y for region in regions] == [1, 2]
        assert all(region.height == 1 for region in regions)


async def test_the_header_stays_and_the_page_below_it_scrolls() -> None:
    table = VirtualTable(COLUMNS, Million())
    app = Stage(table)
    async with app.run_test(size=(60, 10)) as pilot:
        await pilot.press("pagedown", "pagedown")
        await until(lambda: table.scroll_offset.y > 0)
        found = lines_of(table)
        assert found[0].split() == ["line", "text"]
        assert found[-1].split()[0] == f"{table.cursor + 1}"


async def test_wide_characters_keep_the_columns_in_line() -> None:
    rows = [TableRow((text, "!", "end")) for text in ("ascii", "你好世界你好世界", "café", HOSTILE)]
    table = VirtualTable(
        [Column("a", 12), Column("", 1, tone=True), Column("b", 5)], ListSource(rows)
    )
    app = Stage(table)
    async with app.run_test(size=(40, 8)):
        await until(lambda: table.size.height == 8)
        for line in lines_of(table)[1:5]:
            assert cell_len(line) == 40
            assert cell_len(line[: line.index("!  end")]) == 15


async def test_enter_and_a_second_click_open_the_row() -> None:
    table = VirtualTable(COLUMNS, Million())
    app = Stage(table)
    async with app.run_test(size=(60, 20)) as pilot:
        await pilot.press("j", "enter")
        await pilot.click(offset=(5, 5))
        await pilot.click(offset=(5, 5))
        opened = [m.row for m in app.seen if isinstance(m, VirtualTable.RowSelected)]
        assert opened == [1, 4]


async def test_an_empty_table_says_so_and_survives_every_key() -> None:
    table = VirtualTable(COLUMNS, ListSource(), empty="nothing [/b] here")
    app = Stage(table)
    async with app.run_test(size=(60, 20)) as pilot:
        await pilot.press("j", "G", "pagedown", "enter", "g")
        assert any("nothing [/b] here" in line for line in lines_of(table))
        assert not [m for m in app.seen if isinstance(m, VirtualTable.RowSelected)]


async def test_go_to_brings_a_far_row_to_the_middle() -> None:
    table = VirtualTable(COLUMNS, Million())
    app = Stage(table)
    async with app.run_test(size=(60, 20)):
        await until(lambda: table.size.height == 20)
        table.go_to(500_000)
        await until(lambda: "500,001" in "".join(lines_of(table)))
        place = next(y for y, line in enumerate(lines_of(table)) if "500,001" in line)
        assert 5 < place < 15


# -- form ------------------------------------------------------------------------------------

SCHEDULES = ("cosine", "linear")
FIELDS = [
    FormField("model.path", "Model", "path", "model"),
    FormField("training.rate", "Training", "learning rate", "2e-4"),
    FormField(
        "training.schedule", "Training", "schedule", "cosine", "choice", ("cosine", "linear")
    ),
    FormField("training.packing", "Training", "packing", "false", "flag"),
]


def edits(app: Stage) -> list[tuple[str, str]]:
    return [(m.id, m.text) for m in app.seen if isinstance(m, FormList.FieldEdited)]


async def filled_form(fields: Sequence[FormField] = FIELDS) -> tuple[FormList, Stage]:
    form = FormList()
    return form, Stage(form)


async def test_enter_edits_a_value_where_it_stands() -> None:
    form, app = await filled_form()
    async with app.run_test(size=(80, 20)) as pilot:
        form.show(FIELDS)
        form.go_to("training.rate")
        await pilot.press("enter")
        await until(lambda: form.editor.has_focus)
        line = form.page.place_of("training.rate")
        assert form.editor.region.y == line
        await pilot.press("end", "backspace", "5", "enter")
        assert edits(app) == [("training.rate", "2e-5")]
        assert form.page.has_focus


async def test_typing_is_told_so_that_advice_can_answer() -> None:
    form, app = await filled_form()
    async with app.run_test(size=(80, 20)) as pilot:
        form.show(FIELDS)
        form.go_to("training.rate")
        await pilot.press("enter", "9")
        typed = [m.text for m in app.seen if isinstance(m, FormList.FieldTyping)]
        assert typed[-1] == "9"
        form.annotate("training.rate", "error", "too high [/b]")
        assert any("✗ too high [/b]" in line for line in lines_of(form.page))


async def test_escape_leaves_the_value_as_it_was() -> None:
    form, app = await filled_form()
    async with app.run_test(size=(80, 20)) as pilot:
        form.show(FIELDS)
        form.go_to("training.rate")
        await pilot.press("enter", "9", "escape")
        assert edits(app) == []
        assert form.page.has_focus
        assert any("2e-4" in line for line in lines_of(form.page))


async def test_choices_and_flags_turn_without_an_editor() -> None:
    form, app = await filled_form()
    async with app.run_test(size=(80, 20)) as pilot:
        form.show(FIELDS)
        form.go_to("training.schedule")
        await pilot.press("right", "left", "left")
        form.go_to("training.packing")
        await pilot.press("space")
        assert edits(app) == [
            ("training.schedule", "linear"),
            ("training.schedule", "cosine"),
            ("training.schedule", "linear"),
            ("training.packing", "true"),
        ]


async def test_search_shows_only_the_fields_that_match_and_escape_all_again() -> None:
    form, app = await filled_form()
    async with app.run_test(size=(80, 20)) as pilot:
        form.show(FIELDS)
        form.page.focus()
        await pilot.press("slash", *"rate", "enter")
        shown = [field.id for _, field in form.page.items if field]
        assert shown == ["training.rate"]
        await pilot.press("escape")
        assert len([field for _, field in form.page.items if field]) == len(FIELDS)


async def test_a_group_folds_and_says_what_is_in_it() -> None:
    form, app = await filled_form()
    async with app.run_test(size=(80, 20)) as pilot:
        form.show([replace(field, changed=True) for field in FIELDS])
        form.go_to("training.rate")
        await pilot.press("minus")
        assert any("Training   3 fields, 3 changed" in line for line in lines_of(form.page))
        await pilot.press("enter")
        assert form.page.place_of("training.rate") is not None


async def test_one_changed_field_repaints_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    form, app = await filled_form()
    async with app.run_test(size=(80, 20)):
        form.show(FIELDS)
        await until(lambda: form.page.size.height)
        watched = Watched(form.page, monkeypatch)
        form.update_field(replace(FIELDS[1], value="3e-4", changed=True))
        assert [region.height for call in watched.regions for region in call] == [1]


# -- record ----------------------------------------------------------------------------------


async def test_a_record_shows_roles_text_and_what_is_trained_on() -> None:
    view = RecordView()
    app = Stage(view)
    async with app.run_test(size=(60, 12)):
        await until(lambda: view.size.width)
        view.show(
            [
                Block("user", "question"),
                Block("assistant", "urgency: high", ((0, 7),), caption="trained on 2 of 9 tokens"),
            ]
        )
        text = lines_of(view)
        assert text[0].split() == ["user", "▏", "question"]
        assert text[1].split() == ["assistant", "▌", "urgency:", "high"]
        assert "trained on 2 of 9 tokens" in text[2]
        parts = {segment.text: segment.style for segment in view.render_line(1)}
        assert parts["urgency"].underline
        assert not parts[": high"].underline


async def test_findings_stand_at_their_turn_and_mark_their_characters() -> None:
    view = RecordView()
    app = Stage(view)
    async with app.run_test(size=(60, 12)):
        await until(lambda: view.size.width)
        view.show([Block("user", "mail bob@x.org now", notes=(Note("warning", "e-mail", 5, 14),))])
        assert lines_of(view)[0].strip() == "! e-mail"
        marked = [s.text for s in view.render_line(1) if s.style and s.style.reverse]
        assert marked == ["bob@x.org"]


@pytest.mark.parametrize("text", ["word " * 100, "x" * 500, "你好" * 100, HOSTILE * 10, "a\n\nb"])
async def test_text_is_wrapped_whole_and_never_too_wide(text: str) -> None:
    from finetui.display import clean_block

    view = RecordView()
    app = Stage(view)
    async with app.run_test(size=(50, 80)):
        await until(lambda: view.size.width)
        view.show([Block("user", text)])
        shown = "".join(line.text[13:].strip() for line in view.lines)
        wanted = clean_block(text).replace("\n", "")
        assert "".join(shown.split()) == "".join(wanted.split())
        assert all(line.cell_length <= 50 for line in view.lines)


async def test_a_huge_turn_is_cut_and_says_by_how_much() -> None:
    view = RecordView()
    app = Stage(view)
    async with app.run_test(size=(60, 12)):
        await until(lambda: view.size.width)
        view.show([Block("user", "x" * 1_000_000)])
        assert "980,000 more characters not shown" in view.lines[-1].text


async def test_the_next_record_repaints_only_the_lines_that_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    view = RecordView()
    app = Stage(view)
    async with app.run_test(size=(60, 12)):
        await until(lambda: view.size.width)
        view.show([Block("system", "same"), Block("user", "one")])
        watched = Watched(view, monkeypatch)
        view.show([Block("system", "same"), Block("user", "two")])
        assert [region.y for call in watched.regions for region in call] == [1]


async def test_a_title_from_data_is_no_markup_and_repaints_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    view = RecordView(classes="panel")
    app = Stage(view)
    async with app.run_test(size=(60, 12)):
        await until(lambda: view.size.width)
        watched = Watched(view, monkeypatch)
        entitle(view, f"{HOSTILE}", "[/b]")
        assert [region.height for call in watched.regions for region in call] == [1, 1]
        entitle(view, f"{HOSTILE}", "[/b]")
        assert len(watched.regions) == 2


# -- dialogs ---------------------------------------------------------------------------------


async def asked(dialog: Any, *keys: str) -> Any:
    """Push a dialog onto the shell, press keys, and return its answer."""
    app = FinetuiApp(None)
    answers: list[Any] = []
    async with app.run_test(size=(80, 24)) as pilot:
        app.push_screen(dialog, answers.append)
        await until(lambda: app.screen is dialog and dialog.query("*"))
        for key in keys:
            await pilot.press(key)
        await until(lambda: answers)
    return answers[0]


@pytest.mark.parametrize(
    ("key", "answer"), [("y", True), ("n", False), ("escape", False), ("q", False)]
)
async def test_only_y_is_yes(key: str, answer: bool) -> None:
    assert await asked(Confirm("Stop it [/b]?", HOSTILE, "stop"), key) is answer


async def test_enter_is_not_yes() -> None:
    assert await asked(Confirm("Stop?"), "enter", "n") is False


async def test_a_prompt_refuses_what_its_check_refuses() -> None:
    prompt = TextPrompt("name", check=lambda text: "too short" if len(text) < 3 else "")
    assert await asked(prompt, "a", "b", "enter", "c", "enter") == "abc"


async def test_escape_from_a_prompt_is_no_answer() -> None:
    assert await asked(TextPrompt("name", "given"), "escape") is None


async def test_choose_returns_the_value_of_the_line() -> None:
    options = [("a", "first [/x]"), ("b", HOSTILE)]
    assert await asked(Choose("pick", options), "down", "enter") == "b"


async def test_the_editor_saves_with_f2_and_tells_faults_while_typing() -> None:
    from finetui.tui.screens.data_view import json_fault

    dialog = EditorDialog("row", "{}", json_fault)
    app = FinetuiApp(None)
    answers: list[Any] = []
    async with app.run_test(size=(80, 24)) as pilot:
        app.push_screen(dialog, answers.append)
        await until(lambda: app.screen is dialog and dialog.query(TextArea))
        await pilot.press("x")
        await until(lambda: "line 1, column 1" in str(dialog.query_one("#fault").render()))
        await pilot.press("f2")
        await until(lambda: answers)
    assert answers == ["x{}"]


async def test_escape_does_not_throw_typed_text_away_at_once() -> None:
    dialog = EditorDialog("row", "{}")
    app = FinetuiApp(None)
    answers: list[Any] = []
    async with app.run_test(size=(80, 24)) as pilot:
        app.push_screen(dialog, answers.append)
        await until(lambda: app.screen is dialog and dialog.query(TextArea))
        await pilot.press("x", "escape")
        assert app.screen is dialog
        await until(lambda: "esc again" in str(dialog.query_one("#fault").render()))
        await pilot.press("escape")
        await until(lambda: answers)
    assert answers == [None]


async def test_no_input_blinks() -> None:
    dialog = TextPrompt("name")
    app = FinetuiApp(None)
    async with app.run_test(size=(80, 24)):
        app.push_screen(dialog)
        await until(lambda: app.screen is dialog and dialog.query(Input))
        assert not dialog.query_one(Input).cursor_blink


async def test_the_end_of_a_table_that_still_grows_is_followed_until_the_cursor_moves() -> None:
    rows = [TableRow((str(number),)) for number in range(50)]
    table = VirtualTable([Column("")], ListSource(rows))
    async with Stage(table).run_test(size=(40, 12)):
        table.action_last()
        rows += [TableRow((str(number),)) for number in range(50, 500)]
        table.rows_changed()
        await until(lambda: table.cursor == 499)
        assert int(table.scroll_offset.y) + table.page >= 499
        table.action_up()
        rows.append(TableRow(("more",)))
        table.rows_changed()
        assert table.cursor == 498
