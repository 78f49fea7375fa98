"""The live chart: what it shows and repaints, its cross-hair and its zoom."""

from __future__ import annotations

import math
from typing import Any

import pytest
from desk import until
from rich.cells import cell_len
from stage import Stage, Watched, lines_of

from finetui.jobs.series import SeriesBuilder
from finetui.tui.widgets.chart import BrailleChart, Line, Mark
from finetui.tui.widgets.plotting import Points


def chart(**options: Any) -> BrailleChart:
    lines = [Line("train"), Line("eval", "$series-2", points=True)]
    return BrailleChart("loss", lines, classes="", **options)


async def test_a_chart_shows_its_lines_values_and_labels() -> None:
    made = chart()
    app = Stage(made)
    async with app.run_test(size=(70, 16)):
        made.feed("train", range(0, 500, 5), [2 - n / 60 for n in range(100)])
        made.feed("eval", [100, 400], [1.8, 0.7])
        await until(lambda: "●" in "".join(lines_of(made)))
        text = lines_of(made)
        assert "train 0.35" in text[0]
        assert "eval 0.7" in text[0]
        assert any(any(0x2800 < ord(char) <= 0x28FF for char in line) for line in text)
        assert text[-1].split()[0] == "0"


async def test_one_more_point_repaints_a_few_cells_only(monkeypatch: pytest.MonkeyPatch) -> None:
    made = chart()
    app = Stage(made)
    async with app.run_test(size=(100, 20)):
        made.set_end(1000)
        steps = list(range(600))
        values = [2 * math.exp(-n / 200) + 0.5 for n in steps]
        made.feed("train", steps, values)
        await until(lambda: made._cells)
        watched = Watched(made, monkeypatch)
        made.feed("train", range(601), [*values, 0.6])
        cells = sum(region.area for call in watched.regions for region in call)
        assert watched.regions
        assert all(call for call in watched.regions), "the whole chart was repainted"
        assert cells < 40


async def test_an_update_that_changes_nothing_repaints_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = chart()
    app = Stage(made)
    async with app.run_test(size=(100, 20)):
        made.feed("train", [0, 1], [1.0, 2.0])
        watched = Watched(made, monkeypatch)
        made.feed("train", [0, 1], [1.0, 2.0])
        made.set_end(None)
        assert watched.regions == []


async def test_nan_is_a_gap_with_a_mark_and_is_said() -> None:
    made = chart()
    app = Stage(made)
    async with app.run_test(size=(60, 12)):
        values = [1.0] * 20 + [math.nan] * 10
        made.feed("train", range(30), values)
        await until(lambda: "×" in "".join(lines_of(made)))
        assert "train NaN" in lines_of(made)[0]


async def test_a_log_axis_and_back() -> None:
    made = chart()
    app = Stage(made)
    async with app.run_test(size=(60, 14)) as pilot:
        made.feed("train", range(40), [10.0 ** -(n / 10) for n in range(40)])
        made.focus()
        await pilot.press("l")
        text = "\n".join(lines_of(made))
        assert "log" in text
        assert "1e-4" in text
        await pilot.press("l")
        assert "log" not in "\n".join(lines_of(made))


async def test_a_mark_reads_values_and_enter_hands_out_its_steps() -> None:
    made = chart()
    app = Stage(made)
    async with app.run_test(size=(60, 14)) as pilot:
        made.feed("train", range(50), [float(n) for n in range(50)])
        made.focus()
        await pilot.press("left", "left", "enter")
        await until(lambda: any(isinstance(m, BrailleChart.StepSelected) for m in app.seen))
        picked = next(m for m in app.seen if isinstance(m, BrailleChart.StepSelected))
        assert picked.step == 48.0


async def test_a_shorter_series_starts_again() -> None:
    made = chart()
    app = Stage(made)
    async with app.run_test(size=(60, 14)):
        made.feed("train", range(50), [5.0] * 50)
        made.feed("train", range(3), [1.0] * 3)
        assert "train 1" in lines_of(made)[0]
        assert made.graph.last_x == 2


@pytest.mark.parametrize("size", [(16, 3), (10, 2), (30, 5), (300, 80)])
async def test_a_chart_can_be_any_size(size: tuple[int, int]) -> None:
    made = chart()
    app = Stage(made)
    async with app.run_test(size=size):
        made.feed("train", range(5000), [math.sin(n / 50) for n in range(5000)])
        await until(lambda: made.size.width)
        assert all(cell_len(line) == made.size.width for line in lines_of(made))


async def test_plain_characters_where_a_font_has_no_braille() -> None:
    made = chart(ascii=True)
    app = Stage(made)
    async with app.run_test(size=(60, 14)):
        made.feed("train", range(50), [float(n) for n in range(50)])
        made.feed("eval", [10], [3.0])
        assert "".join(lines_of(made)).isascii()


# -- pointing at values ------------------------------------------------------------------------


def series(values: list[float | None], every: int = 1) -> SeriesBuilder:
    made = SeriesBuilder()
    for place, value in enumerate(values):
        made.append((place + 1) * every, value)
    return made


async def test_the_cross_hair_finds_the_spike_of_a_crowded_column_and_says_its_exact_value() -> (
    None
):
    made = chart()
    app = Stage(made)
    values: list[float | None] = [1.0] * 5000
    values[3210] = 9.125
    async with app.run_test(size=(60, 14)) as pilot:
        made.show("train", series(values).view())
        made.focus()
        made.point_at(5000)
        for _ in range(60):
            await pilot.press("left")
            if made.graph.pick == 3211:
                break
        assert "step 3,211" in lines_of(made)[0]
        assert "9.125" in lines_of(made)[0]


async def test_the_cross_hair_tells_the_last_evaluation_before_it_with_its_step() -> None:
    made = chart()
    app = Stage(made)
    async with app.run_test(size=(80, 14)):
        made.feed("train", range(1, 51), [2.0] * 50)
        made.feed("eval", [10, 40], [1.5, 0.5])
        made.point_at(30)
        assert "1.5 at 10" in lines_of(made)[0]
        made.point_at(40)
        assert "eval 0.5" in lines_of(made)[0]
        assert " at " not in lines_of(made)[0]


async def test_a_value_that_is_no_number_is_found_first_and_said() -> None:
    made = chart()
    app = Stage(made)
    async with app.run_test(size=(60, 14)) as pilot:
        made.show("train", series([1.0] * 2000 + [None] + [50.0] * 20).view())
        made.focus()
        await pilot.press("home")
        assert made.graph.pick is not None
        made.point_at(2001)
        assert "train NaN" in lines_of(made)[0]
        assert made.graph.point_in(made.graph.pick_cell or 0) == 2001


# -- zoom --------------------------------------------------------------------------------------


async def test_zoom_and_cross_hair_stay_while_data_arrive() -> None:
    made = chart()
    app = Stage(made)
    builder = series([math.sin(n / 30) for n in range(900)])
    async with app.run_test(size=(80, 16)) as pilot:
        made.show("train", builder.view())
        made.focus()
        made.point_at(450)
        await pilot.press("up", "up", "up")
        before, rows = made.graph.view, lines_of(made)
        assert before is not None
        assert before.span < 200
        for step in range(901, 1400):
            builder.append(step, 5.0)
        made.show("train", builder.view())
        assert made.graph.view == before
        assert made.graph.pick == 450
        assert lines_of(made) == rows
        await pilot.press("f")
        assert made.graph.view is None


async def test_a_zoom_of_the_newest_end_follows_the_run() -> None:
    made = chart()
    app = Stage(made)
    builder = series([1.0] * 900)
    async with app.run_test(size=(80, 16)) as pilot:
        made.show("train", builder.view())
        made.focus()
        await pilot.press("up", "up", "up")
        for step in range(901, 3000):
            builder.append(step, 2.0)
        made.show("train", builder.view())
        view = made.graph.view
        assert view is not None
        assert view.follow
        assert view.first <= 2999 < view.first + view.span
        await pilot.press("left_square_bracket")
        assert made.graph.view is not None
        assert not made.graph.view.follow
        await pilot.press(*["right_square_bracket"] * 4)
        assert made.graph.view.follow


async def test_zooming_in_shows_what_a_column_of_the_whole_run_hides() -> None:
    made = chart()
    app = Stage(made)
    values: list[float | None] = [float(n % 2) for n in range(20_000)]
    async with app.run_test(size=(80, 16)) as pilot:
        made.show("train", series(values).view())
        made.focus()
        made.point_at(10_000)
        await pilot.press(*["up"] * 12)
        spans = made.graph._columns["train"].spans
        assert {part.count for part in spans.values()} == {1}
        await pilot.press(*["down"] * 12)
        assert made.graph.view is None


async def test_zooming_out_of_everything_changes_nothing() -> None:
    made = chart()
    app = Stage(made)
    async with app.run_test(size=(80, 16)) as pilot:
        made.feed("train", range(50), [1.0] * 50)
        made.focus()
        await pilot.press("down", "right_square_bracket")
        assert made.graph.view is None


# -- marks -------------------------------------------------------------------------------------


async def test_marks_stand_over_their_steps_and_say_what_happened() -> None:
    made = chart()
    app = Stage(made)
    marks = [Mark(20, "▴", "muted", "checkpoint"), Mark(40, "!", "warning", "spike: 9 deviations")]
    async with app.run_test(size=(80, 16)) as pilot:
        made.focus()
        made.show_together({"train": Points(range(1, 51), [1.0] * 50)}, None, marks)
        assert "▴" in lines_of(made)[1]
        await pilot.press("n")
        assert made.graph.pick == 20
        await pilot.press("n")
        assert made.graph.pick == 40
        await until(lambda: "spike: 9" in str(made.border_subtitle))
        await pilot.press("N")
        assert made.graph.pick == 20
        await pilot.press("escape")
        assert made.graph.pick is None


# -- many points -------------------------------------------------------------------------------


async def test_an_update_asks_only_for_the_columns_that_are_new() -> None:
    made = chart()
    app = Stage(made)
    builder = series([1.0] * 3000)
    asked: list[int] = []

    class Counted:
        def __init__(self, view: Any) -> None:
            self._view = view

        def __getattr__(self, name: str) -> Any:
            return getattr(self._view, name)

        def __len__(self) -> int:
            return len(self._view)

        def parts(self, start: float, width: float, count: int) -> Any:
            asked.append(count)
            return self._view.parts(start, width, count)

    async with app.run_test(size=(100, 20)):
        made.set_end(4000)
        made.show("train", Counted(builder.view()))
        builder.append(3001, 1.0)
        asked.clear()
        made.show("train", Counted(builder.view()))
        columns = made.graph.count
        assert asked
        assert max(asked) <= columns - made.graph.window.column(3000)


async def test_several_runs_keep_their_colours_over_each_other() -> None:
    made = BrailleChart("loss", classes="")
    app = Stage(made)
    async with app.run_test(size=(80, 16)):
        made.set_lines([Line("a", "#ff0000", band=False), Line("b", "#00ff00", band=False)])
        made.feed("a", range(100), [1.0] * 100)
        made.feed("b", range(50), [2.0] * 50)
        colours = {
            segment.style.color.get_truecolor().hex
            for y in range(1, 15)
            for segment in made.render_line(y)
            if segment.style and segment.style.color and any(ord(c) > 0x2800 for c in segment.text)
        }
        assert {"#ff0000", "#00ff00"} <= colours


async def test_time_axes_begin_with_their_first_sample_and_say_the_time_of_day() -> None:
    made = BrailleChart("GPU", [Line("GPU0")], smoothed=False, clock=True, classes="")
    app = Stage(made)
    async with app.run_test(size=(60, 12)):
        now = 1_795_000_000.0
        made.feed("GPU0", [now + 2 * n for n in range(60)], [float(n) for n in range(60)])
        assert made.graph.window.first == now
        assert lines_of(made)[-1].count(":") >= 2


@pytest.mark.parametrize(
    "options", [{"low": 20.0}, {"low": -3.0}, {"high": 100.0}, {"binary": True}]
)
async def test_a_chart_without_a_point_yet_is_drawn(options: dict[str, Any]) -> None:
    made = BrailleChart("GPU", [Line("GPU0")], classes="", **options)
    app = Stage(made)
    async with app.run_test(size=(60, 12)):
        await until(lambda: made.size.width)
        assert "–" in lines_of(made)[0]
