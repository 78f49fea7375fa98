"""Partial repaints send little, and draw what Textual's own would."""

from __future__ import annotations

import random

import pyte
import pytest
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from stage import Stage, Watched
from textual._compositor import ChopsUpdate
from textual.content import Content
from textual.strip import Strip

from finetui.tui import frugal
from finetui.tui.widgets.bars import TopBar
from finetui.tui.widgets.textpanel import TextPanel

WIDTH = 40
CONSOLE = Console(color_system="truecolor", force_terminal=True)
STYLES = [Style(color="red"), Style(color="#00ff00", bold=True), Style()]


def strip_of(chance: random.Random, letters: str) -> Strip:
    segments, width = [], 0
    while width < WIDTH:
        segment = Segment(chance.choice(letters) * chance.randint(1, 5), chance.choice(STYLES))
        segments.append(segment)
        width += segment.cell_length
    return Strip(segments).crop(0, WIDTH)


def update_of(strip: Strip, first: int, last: int) -> ChopsUpdate:
    return ChopsUpdate([{0: strip}], [(0, first, last)], [[WIDTH]])


def drawn(before: Strip, sent: str) -> list[object]:
    screen = pyte.Screen(WIDTH, 2)
    stream = pyte.Stream(screen)
    stream.feed("\x1b[1;1H" + before.render(CONSOLE) + sent)
    return [screen.buffer[0][x] for x in range(WIDTH)]


@pytest.mark.parametrize("letters", ["abc ─│⣿", "aé你世界 "])
def test_what_is_drawn_is_what_textual_draws(letters: str) -> None:
    for seed in range(60):
        chance = random.Random(seed)
        before, strip = strip_of(chance, "xyz"), strip_of(chance, letters)
        first = chance.randrange(WIDTH)
        last = chance.randint(first + 1, WIDTH)
        update = update_of(strip, first, last)
        sent = frugal._render_segments(update, CONSOLE)
        assert drawn(before, sent)[first:last] == drawn(strip, "")[first:last]


def test_a_change_at_the_right_end_is_sent_from_where_it_begins() -> None:
    strip = Strip([Segment("x" * WIDTH, Style(color="red"))])
    sent = frugal._render_segments(update_of(strip, WIDTH - 1, WIDTH), CONSOLE)
    assert sent.count("x") == 1
    assert f"\x1b[1;{WIDTH}H" in sent


def test_a_wide_character_is_never_cut_in_two() -> None:
    strip = Strip([Segment("世" * (WIDTH // 2))])
    sent = frugal._render_segments(update_of(strip, 5, 7), CONSOLE)
    assert "\x1b[1;1H" in sent
    assert "世世世" in sent


async def test_a_panel_repaints_only_the_columns_that_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    panel = TextPanel(Content("loss   0.812\nstep   100"))
    async with Stage(panel).run_test(size=(WIDTH, 5)):
        watched = Watched(panel, monkeypatch)
        panel.show(Content("loss   0.815\nstep   100"))
        (regions,) = watched.regions
        assert [(region.x, region.y, region.width) for region in regions] == [(11, 0, 1)]


@pytest.mark.parametrize("after", ["世 0.9", "much longer than the whole width of the panel " * 2])
async def test_a_panel_repaints_the_line_where_columns_cannot_be_told(
    monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    panel = TextPanel(Content("世 0.8"))
    async with Stage(panel).run_test(size=(WIDTH, 5)):
        watched = Watched(panel, monkeypatch)
        panel.show(Content(after))
        (regions,) = watched.regions
        assert regions[0].width == panel.content_size.width


async def test_a_style_that_changes_is_repainted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    panel = TextPanel(Content.assemble("loss ", ("0.812", "red")))
    async with Stage(panel).run_test(size=(WIDTH, 5)):
        watched = Watched(panel, monkeypatch)
        panel.show(Content.assemble("loss ", ("0.812", "green")))
        (regions,) = watched.regions
        assert (regions[0].x, regions[0].width) == (5, 5)


async def test_the_figures_of_the_machine_repaint_only_their_end_of_the_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bar = TopBar([("home", "0", "Home")])
    async with Stage(bar).run_test(size=(80, 5)):
        bar.machine = "RAM 5.1/24 GiB"
        watched = Watched(bar, monkeypatch)
        bar.machine = "RAM 15.2/24 GiB"
        (regions,) = watched.regions
        assert [(region.x, region.right) for region in regions] == [(80 - 16, 80)]
