"""The data screen: look, find, repair, undo, version, with the source file untouched."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from desk import chat, until, write_rows
from textual.pilot import Pilot
from textual.widgets import TextArea

from finetui.tui.app import FinetuiApp
from finetui.tui.messages import OpenData
from finetui.tui.screens.alike import AlikePage
from finetui.tui.screens.data import DataPane
from finetui.tui.screens.fix_all import FixAllPage
from finetui.tui.screens.queue import QueuePage
from finetui.tui.screens.ready import ReadyScreen
from finetui.tui.screens.steps import StepsPage
from finetui.tui.screens.versions import VersionsPage
from finetui.tui.screens.write_version import WriteDialog
from finetui.tui.widgets.dialogs import Choose, Confirm, EditorDialog, TextPrompt
from finetui.tui.widgets.record import RecordView
from finetui.tui.widgets.table import VirtualTable
from finetui.tui.widgets.textpanel import TextPanel
from finetui.workspace import Workspace


@asynccontextmanager
async def data_screen(
    workspace: Workspace, size: tuple[int, int] = (120, 36), request: object | None = None
) -> AsyncIterator[tuple[FinetuiApp, DataPane, Pilot[None]]]:
    """The app in its data mode with the first file open."""
    app = FinetuiApp(workspace, start="data", request=request)
    async with app.run_test(size=size) as pilot:
        await until(lambda: app.mode == "data" and app.pane is not None and app.pane.file)  # type: ignore[attr-defined]
        pane = app.pane
        assert isinstance(pane, DataPane)
        await until(lambda: pane.rows.row_count)
        yield app, pane, pilot


def record_text(pane: DataPane) -> str:
    return "\n".join(line.text for line in pane.query_one(RecordView).lines)


def first_file(workspace: Workspace) -> Path:
    return workspace.dataset_files()[0]


async def test_the_first_file_opens_with_its_shape_and_rows(workspace: Workspace) -> None:
    async with data_screen(workspace) as (_, pane, _pilot):
        assert "small.jsonl · chat · 40 rows" in str(pane.rows.border_title)
        assert "question 1" in record_text(pane)


async def test_moving_shows_the_record_of_the_row(workspace: Workspace) -> None:
    async with data_screen(workspace) as (_, pane, pilot):
        await pilot.press("j", "j")
        await until(lambda: "question 3" in record_text(pane))
        assert "line 3" in str(pane.query_one(RecordView).border_title)


async def test_a_broken_line_is_shown_with_its_fault(workspace: Workspace) -> None:
    async with data_screen(workspace) as (_, pane, pilot):
        await pilot.press("j", "j", "j", "j")
        await until(lambda: "not JSON" in record_text(pane))
        assert "✗" in record_text(pane)


async def edit(app: FinetuiApp, pilot: Any, *keys: str) -> None:
    """Open the editor on what the keys choose of the row; nothing: the last answer."""
    await pilot.press("e")
    await until(lambda: isinstance(app.screen, Choose))
    await pilot.press(*keys, "enter")
    await until(lambda: isinstance(app.screen, EditorDialog) and app.screen.query(TextArea))


async def test_the_last_answer_is_edited_as_plain_text_and_the_rest_stays_byte_for_byte(
    workspace: Workspace,
) -> None:
    async with data_screen(workspace) as (app, pane, pilot):
        assert pane.file is not None
        before = pane.file.data.text(0)
        await edit(app, pilot)
        area = app.screen.query_one(TextArea)
        said = area.text
        area.text = said + ' "quoted"\nand a second line \\u202e'
        await pilot.press("f2")
        await until(lambda: pane.file and pane.file.data.edited_count == 1)
        new = pane.file.data.record(0).turns[-1].content
        assert new == said + ' "quoted"\nand a second line \u202e'
        kept = before[: before.index(said)]
        assert pane.file.data.text(0).startswith(kept)


async def test_rows_are_set_aside_marked_and_labelled_with_a_key(workspace: Workspace) -> None:
    async with data_screen(workspace) as (app, pane, pilot):
        assert pane.file is not None
        data = pane.file.data
        await pilot.press("x")
        await until(lambda: isinstance(app.screen, TextPrompt))
        await pilot.press(*"odd", "enter")
        await until(lambda: data.quarantined_count == 1)
        assert data.state(0).reason == "odd"
        await until(lambda: pane.current == 1)
        await pilot.press("m")
        await until(lambda: data.marked_count == 1)
        await pilot.press("L")
        await until(lambda: isinstance(app.screen, TextPrompt))
        await pilot.press(*"vip", "enter")
        await until(lambda: data.labelled_count == 1)
        assert data.state(2).label == "vip"
        await pilot.press("g", "x")
        await until(lambda: data.quarantined_count == 0)


async def test_a_step_is_switched_off_on_the_steps_page_and_its_rows_come_back(
    workspace: Workspace,
) -> None:
    async with data_screen(workspace) as (app, pane, pilot):
        assert pane.file is not None
        await pilot.press("d", "d")
        await until(lambda: pane.file and pane.file.data.dropped_count == 2)
        await pilot.press("H")
        await until(lambda: isinstance(app.screen, StepsPage))
        await pilot.press("g", "space")
        await until(lambda: pane.file and not pane.file.data.state(0).dropped)
        assert pane.file.data.state(1).dropped
        await pilot.press("u", "escape")
        await until(lambda: app.screen is app.screen_stack[0])
        assert pane.file.data.dropped_count == 2
        assert "2 dropped" in str(pane.rows.border_title)


async def test_rows_are_shown_in_another_order_and_escape_brings_the_files_back(
    workspace: Workspace,
) -> None:
    write_rows(first_file(workspace), [chat("q", "a" * length) for length in (5, 90, 1, 40)])
    async with data_screen(workspace) as (app, pane, pilot):
        await pilot.press("S")
        await until(lambda: isinstance(app.screen, Choose))
        await pilot.press("j", "enter")
        await until(lambda: pane.source is not None and pane.source.chosen is not None)
        assert [pane.source.number(place) for place in range(4)] == [1, 3, 0, 2]
        await pilot.press("escape")
        await until(lambda: pane.source is not None and pane.source.chosen is None)


async def test_a_filter_in_sql_finds_rows(workspace: Workspace) -> None:
    write_rows(first_file(workspace), [chat("q", "a" * length) for length in (5, 90, 1, 40)])
    async with data_screen(workspace) as (_, pane, pilot):
        await pilot.press("slash", *"where length(messages[3].content) > 30", "enter")
        await until(lambda: pane.source is not None and pane.source.chosen is not None)
        assert list(pane.source.chosen) == [1, 3]


async def test_edit_drop_undo_redo_survive_and_leave_the_file_alone(workspace: Workspace) -> None:
    before = first_file(workspace).read_bytes()
    async with data_screen(workspace) as (app, pane, pilot):
        assert pane.file is not None
        await edit(app, pilot, "G")
        area = app.screen.query_one(TextArea)
        area.text = area.text.replace("answer 1", "answer mended")
        await pilot.press("f2")
        await until(lambda: "answer mended" in record_text(pane))
        assert pane.file.data.edited_count == 1
        await pilot.press("j", "d")
        await until(lambda: pane.file and pane.file.data.dropped_count == 1)
        await pilot.press("u")
        await until(lambda: pane.file and pane.file.data.dropped_count == 0)
        await pilot.press("ctrl+r")
        await until(lambda: pane.file and pane.file.data.dropped_count == 1)
        assert "1 edited · 1 dropped" in str(pane.rows.border_title)
    assert first_file(workspace).read_bytes() == before
    async with data_screen(workspace) as (_, pane, _pilot):
        assert pane.file is not None
        assert pane.file.data.edited_count == 1
        assert pane.file.data.dropped_count == 1
        assert "answer mended" in record_text(pane)


async def test_d_on_a_dropped_row_takes_it_back(workspace: Workspace) -> None:
    async with data_screen(workspace) as (_, pane, pilot):
        await pilot.press("d", "k", "d")
        await until(lambda: pane.file and pane.file.data.dropped_count == 0)


async def test_an_edit_that_is_no_json_is_refused_and_nothing_is_lost(workspace: Workspace) -> None:
    async with data_screen(workspace) as (app, pane, pilot):
        await edit(app, pilot, "G")
        app.screen.query_one(TextArea).text = '{"messages": ['
        await pilot.press("f2")
        await until(lambda: app.screen is app.screen_stack[0])
        assert pane.file is not None
        assert pane.file.data.edited_count == 0


async def test_the_filter_shows_matches_with_a_count_and_escape_all_rows(
    workspace: Workspace,
) -> None:
    async with data_screen(workspace) as (_, pane, pilot):
        await pilot.press("slash", *"question 12")
        await until(lambda: pane.rows.row_count == 1)
        assert "1 of 40 · /question 12" in str(pane.rows.border_subtitle)
        await pilot.press("enter")
        assert pane.rows.has_focus
        await until(lambda: "question 12" in record_text(pane))
        await pilot.press("escape")
        await until(lambda: pane.rows.row_count == 40)
        assert pane.current == 11, "the row that was found keeps the cursor"


async def test_checks_run_in_a_process_and_findings_lead_to_their_rows(
    workspace: Workspace,
) -> None:
    async with data_screen(workspace) as (_, pane, pilot):
        await pilot.press("c")
        await until(lambda: any(k.check == "malformed-json" for k in pane.findings.kinds()), 60)
        await pilot.press("n")
        await until(lambda: pane.current == 4)
        await until(lambda: "malformed-json" in record_text(pane))
        pane.query_one("#findings").focus()
        await pilot.press("enter")
        await until(lambda: pane.source is not None and list(pane.source.chosen or ()) == [4])


async def test_several_files_are_checked_and_asked_as_one_set(workspace: Workspace) -> None:
    file = first_file(workspace)
    other = file.with_name("other.jsonl")
    other.write_bytes(b"\n" + file.read_bytes().splitlines(keepends=True)[0])
    async with data_screen(workspace) as (_, pane, pilot):
        pane.open(file, other)
        await until(lambda: pane.rows.row_count == 42)
        await pilot.press("c")
        await until(lambda: any(k.check == "duplicate" for k in pane.findings.kinds()), 60)
        await pilot.press("slash", *"where _file = 'other.jsonl'", "enter")
        await until(lambda: pane.rows.row_count == 1)
        await until(lambda: f"the same as {file.name}:1" in record_text(pane))


async def test_tokens_show_what_the_training_learns_from(workspace: Workspace) -> None:
    from finetui.workspace import sample_data

    (workspace.root / "model").symlink_to(sample_data() / "model")
    async with data_screen(workspace) as (_, pane, pilot):
        await pilot.press("t")
        await until(lambda: "trained on" in record_text(pane), 60)
        assert "▌ answer 1" in record_text(pane)
        assert "▌ question 1" not in record_text(pane)


async def test_tokens_without_a_model_say_what_to_do(workspace: Workspace) -> None:
    async with data_screen(workspace) as (app, _pane, pilot):
        await pilot.press("t")
        await until(lambda: any("model" in note.message for note in app._notifications))


async def test_a_version_is_written_after_asking_about_broken_rows(workspace: Workspace) -> None:
    async with data_screen(workspace) as (app, pane, pilot):
        await pilot.press("w")
        await until(lambda: isinstance(app.screen, TextPrompt))
        await pilot.press("enter")
        await until(lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until(lambda: workspace.version_files())
        await until(lambda: len(pane.paths) == 2)
    rows = [json.loads(line) for line in workspace.version_files()[0].read_text().splitlines()]
    assert len(rows) == 39


async def test_a_split_writes_three_files_and_the_versions_page_compares_two(
    workspace: Workspace,
) -> None:
    rows: list[Any] = [chat(f"question {number} {number * 7919}", "a") for number in range(60)]
    write_rows(first_file(workspace), rows)
    async with data_screen(workspace) as (app, pane, pilot):
        await pilot.press("s")
        await until(lambda: isinstance(app.screen, WriteDialog))
        await pilot.press("w")
        await until(lambda: len(workspace.version_files()) == 3)
        await until(lambda: len(pane.paths) == 4)
        await pilot.press("d", "s")
        await until(lambda: isinstance(app.screen, WriteDialog))
        await pilot.press("w")
        await until(lambda: len(workspace.version_files()) == 6)
        await pilot.press("V")
        await until(lambda: isinstance(app.screen, VersionsPage) and app.screen.versions)
        page = app.screen
        assert isinstance(page, VersionsPage) and len(page.versions) == 2
        await pilot.press("d")
        await until(lambda: page.changes)
        assert "removed" in {change["kind"] for change in page.changes}


async def test_another_screen_can_ask_for_rows(workspace: Workspace) -> None:
    request = OpenData(first_file(workspace), (7, 3), "batch of step 812")
    async with data_screen(workspace, request=request) as (_, pane, _pilot):
        await until(lambda: pane.rows.row_count == 2)
        assert "batch of step 812" in str(pane.rows.border_subtitle)
        assert pane.current == 3


async def test_another_screen_can_ask_for_one_row_twice(workspace: Workspace) -> None:
    async with data_screen(workspace) as (app, pane, _pilot):
        for row in (20, 10):
            await app.show("data", OpenData(first_file(workspace), (row,)))
            await until(lambda row=row: pane.current == row)


async def test_a_missing_file_is_said_and_the_open_one_stays(workspace: Workspace) -> None:
    async with data_screen(workspace) as (app, pane, _pilot):
        await app.show("data", OpenData(workspace.datasets / "gone.jsonl"))
        await until(lambda: any("gone.jsonl" in note.message for note in app._notifications))
        assert pane.file is not None
        assert pane.file.path == first_file(workspace)


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl"])
async def test_every_door_opens(workspace: Workspace, name: str) -> None:
    path = workspace.root / name
    if name.endswith("csv"):
        path.write_text("prompt,completion\nq,a\nr,b\n")
    else:
        rows = [{"prompt": "q", "completion": "a"}, {"prompt": "r", "completion": "b"}]
        path.write_text(json.dumps(rows) if name == "a.json" else "\n".join(map(json.dumps, rows)))
    async with data_screen(workspace, request=OpenData(path)) as (_, pane, _pilot):
        await until(lambda: "prompt-completion · 2 rows" in str(pane.rows.border_title), 60)


async def test_at_80_columns_tab_turns_between_the_two_sides(workspace: Workspace) -> None:
    async with data_screen(workspace, size=(80, 24)) as (app, pane, pilot):
        assert pane.query_one("#right").display
        assert not pane.query_one("#left").display
        seen = []
        for _ in range(4):
            before = app.focused
            await pilot.press("tab")
            await until(lambda before=before: app.focused is not None and app.focused is not before)
            seen.append(app.focused.id if app.focused else None)
        assert seen == ["record", "files", "findings", "rows"]


async def test_zoom_shows_one_part_alone_and_escape_brings_all_back(workspace: Workspace) -> None:
    async with data_screen(workspace) as (_, pane, pilot):
        whole = pane.rows.size
        await pilot.press("z")
        await until(lambda: pane.rows.size.area > whole.area * 2)
        await pilot.press("escape")
        await until(lambda: pane.rows.size == whole)


async def test_the_keyboard_comes_back_to_where_it_was(workspace: Workspace) -> None:
    async with data_screen(workspace) as (app, pane, pilot):
        pane.query_one("#record").focus()
        await until(lambda: pane.query_one("#record").has_focus)
        await pilot.press("0")
        await until(lambda: app.mode == "home")
        await pilot.press("1")
        await until(lambda: app.mode == "data" and pane.query_one("#record").has_focus)


async def test_a_row_too_long_for_the_editor_is_refused_in_words(workspace: Workspace) -> None:
    write_rows(first_file(workspace), [chat("q", "x" * 70_000), chat("q", "a")])
    async with data_screen(workspace) as (app, _pane, pilot):
        await pilot.press("e")
        await until(lambda: isinstance(app.screen, Choose))
        await pilot.press("G", "enter")
        await until(lambda: any("too long" in note.message for note in app._notifications))


async def test_the_readiness_page_tells_what_is_lost_and_keeps_answers(
    workspace: Workspace,
) -> None:
    from finetui.data.questions import replies
    from finetui.workspace import sample_data

    (workspace.root / "model").symlink_to(sample_data() / "model")
    (workspace.recipes / "run.toml").write_text('[model]\npath = "model"\n', "utf-8")
    async with data_screen(workspace) as (app, pane, pilot):
        await pilot.press("R")
        await until(lambda: isinstance(app.screen, ReadyScreen) and app.screen.points, 60)
        page = app.screen
        assert isinstance(page, ReadyScreen)
        told = {point["title"]: point["state"] for point in page.points}
        assert told["rows"] == "bad" and told["tokens"] == "good"  # the small set has a broken line
        await until(lambda: "sample prices" in str(page.query_one("#costs", TextPanel).text))
        assert [entry["name"] for entry in page.fates] == [
            "finetui",
            "LLaMA-Factory",
            "Axolotl",
            "TRL",
        ]
        await pilot.press("y", "y")  # the first key turns to the questions
        await until(lambda: replies(workspace))
        assert replies(workspace)["prompting"].answer == "yes"
        await pilot.press("escape")
        await until(lambda: app.screen is app.screen_stack[0])
        assert pane.file is not None


async def test_near_duplicates_are_merged_by_a_key_and_come_back_with_undo(
    workspace: Workspace,
) -> None:
    words = "my invoice of last month was charged twice and nobody at the desk answers the phone"
    rows = [chat(words, "a"), chat(words + " today", "a"), chat("something else entirely", "b")]
    write_rows(first_file(workspace), rows)
    async with data_screen(workspace) as (app, pane, pilot):
        await pilot.press("D")
        await until(lambda: isinstance(app.screen, AlikePage) and app.screen.clusters, 60)
        await pilot.press("l")
        await until(lambda: pane.file and pane.file.data.dropped_count == 1)
        assert pane.file is not None and pane.file.data.state(0).dropped
        await pilot.press("u")
        await until(lambda: pane.file and pane.file.data.dropped_count == 0)


async def test_all_rows_of_a_finding_are_mended_as_one_step(workspace: Workspace) -> None:
    write_rows(first_file(workspace), [chat(f"write to a{n}@example.org", "a") for n in range(12)])
    async with data_screen(workspace) as (app, pane, pilot):
        await pilot.press("c")
        await until(lambda: any(kind.check == "email" for kind in pane.findings.kinds()), 60)
        await until(lambda: not pane.checking, 60)
        pane.query_one("#findings").focus()
        await pilot.press("F")
        await until(lambda: isinstance(app.screen, FixAllPage) and app.screen.preview)
        page = app.screen
        assert isinstance(page, FixAllPage) and page.preview.count == 12
        await pilot.press("y")
        await until(lambda: pane.file and pane.file.data.edited_count == 12)
        await until(lambda: not any(kind.check == "email" for kind in pane.findings.kinds()))
        await pilot.press("u")
        await until(lambda: pane.file and pane.file.data.edited_count == 0)
        await until(lambda: {k.check: k.count for k in pane.findings.kinds()}.get("email") == 12)


async def test_a_failure_from_production_is_corrected_and_added(workspace: Workspace) -> None:
    log = workspace.root / "failures.jsonl"
    log.write_text(json.dumps({"prompt": "2 + 2?", "output": "5"}) + "\n", "utf-8")
    async with data_screen(workspace) as (app, _pane, pilot):
        await pilot.press("Q")
        await until(lambda: isinstance(app.screen, QueuePage))
        page = app.screen
        assert isinstance(page, QueuePage)
        await pilot.press("i")
        await until(lambda: isinstance(app.screen, TextPrompt))
        await pilot.press(*"failures.jsonl", "enter")
        await until(lambda: page.items)
        await pilot.press("c")
        await until(lambda: isinstance(app.screen, EditorDialog) and app.screen.query(TextArea))
        app.screen.query_one(TextArea).text = "4"
        await pilot.press("f2")
        await until(lambda: page.queue.counts()["feedback"]["corrected"] == 1)
        await pilot.press("A")
        await until(lambda: isinstance(app.screen, Choose))
        await pilot.press("enter")
        added = workspace.datasets / "feedback.jsonl"
        await until(added.is_file)
        await until(lambda: '"4"' in added.read_text())


async def test_the_shape_is_told_with_its_reason_and_can_be_overridden(
    workspace: Workspace,
) -> None:
    async with data_screen(workspace) as (app, pane, pilot):
        await pilot.press("P")
        await until(lambda: isinstance(app.screen, Choose))
        table = app.screen.query_one(VirtualTable)
        assert "chat (" in table.source.row(0).cells[0] and "sure" in table.source.row(0).cells[0]
        await pilot.press("G", "enter")
        await until(lambda: "· text ·" in str(pane.rows.border_title))
    async with data_screen(workspace) as (_, pane, _pilot):
        assert "· text ·" in str(pane.rows.border_title)  # kept with the edits
