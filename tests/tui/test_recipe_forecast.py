"""The forecast names components, what is free, who holds the rest, and changes at one key."""

from dataclasses import replace as with_facts

import pytest

from finetui.recipe.facts import Facts, Holder, Linear
from finetui.recipe.forecast import plan, remedies
from finetui.recipe.schema import defaults
from finetui.tui.screens import recipe_forecast
from finetui.tui.screens.recipe_forecast import forecast_line, forecast_panel

GIB = 2**30
HOSTILE = "py\x1b[31m[/b]\u202ethon"
FACTS = Facts(
    rows=1000, tokens=100_000, trained_tokens=20_000, longest=200, gpus=1, gpu_free=100 * GIB,
    gpu_total=140 * GIB, model_parameters=10**9, model_hidden=2048, model_layers=16, vocab=32_000,
    disk_free=GIB, gpu_holders=(Holder(41, "anna", HOSTILE, 30 * GIB), Holder(42, "", "", 9 * GIB)),
    linears=(Linear("q_proj", 2048, 2048, 16),),
)  # fmt: skip


def told(facts: Facts, width: int = 44) -> str:
    recipe = defaults()
    return forecast_panel(plan(recipe, facts), facts, remedies(recipe, facts), width).plain


def test_the_forecast_names_steps_free_memory_and_disk():
    text = told(FACTS)
    assert "375  125 an epoch" in text
    assert "100.0 GiB of 140.0 GiB free, GPU" in text
    assert "1.0 GiB free" in text
    assert "✓ fits" in text


def test_every_component_of_the_peak_has_a_line():
    text = told(FACTS)
    parts = plan(defaults(), FACTS).memory
    assert len(parts) > 3
    assert all(part.name in text for part in parts if part.high)


def test_who_holds_gpu_memory_is_named_and_cannot_reach_the_terminal():
    text = told(FACTS)
    assert "30.0 GiB  anna's " in text
    assert "9.0 GiB  process (42)" in text
    assert not {"\x1b", "\u202e"} & set(text)


def test_a_run_that_does_not_fit_offers_the_mildest_change_on_one_key():
    tight = with_facts(FACTS, gpu_free=3 * GIB, gpu_total=4 * GIB)
    fixes = remedies(defaults(), tight)
    assert fixes
    line = next(line for line in told(tight).splitlines() if line.startswith("F "))
    assert recipe_forecast.change_words(fixes[0]) in line


def test_an_unknown_forecast_says_what_is_missing():
    text = told(Facts())
    assert "unknown until the data are named" in text
    assert "unknown until the model is named" in text


@pytest.mark.parametrize("width", [20, 36, 44, 60])
def test_no_line_of_the_bar_is_wider_than_its_panel(width: int):
    rows = told(FACTS, width).splitlines()
    assert all(len(row) <= max(width, 36) for row in rows if "━" in row)


def test_a_small_screen_gets_it_in_one_line():
    line = forecast_line(plan(defaults(), FACTS), FACTS, []).plain
    assert line.startswith("375 steps")
    assert "✓" in line
    assert "\n" not in line
