"""Does it fit, who holds the rest, and what would make it fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetui.recipe.coefficients import Amount, Coefficients, Measured, keep, key_of, read
from finetui.recipe.facts import Facts, Holder, gather, merge, model_facts
from finetui.recipe.fitting import name_of
from finetui.recipe.forecast import fits, plan, remedies
from finetui.recipe.memory import key, peak, unmeasured
from finetui.recipe.schema import Recipe, defaults, with_value

from .conftest import LLAMA_8B, write_config

GIB = 2**30


def recipe_with(**values: object) -> Recipe:
    recipe = defaults()
    for id, text in values.items():
        recipe = with_value(recipe, id.replace("__", "."), str(text))
    return recipe


@pytest.fixture
def llama(tmp_path: Path) -> Facts:
    return model_facts(write_config(tmp_path / "m", LLAMA_8B))


def card(facts: Facts, free: float, total: float, *holders: Holder) -> Facts:
    """A GPU with so many GiB."""
    gpu = Facts(gpus=1, gpu_free=int(free * GIB), gpu_total=int(total * GIB), gpu_holders=holders)
    return merge(facts, gpu)


# --- the verdict ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "total", "kind"),
    [(79, 80, "fits"), (17.2, 80, "tight"), (10, 80, "held"), (14, 15, "too big")],
)
def test_the_verdict_compares_the_peak_with_free_and_whole_memory(
    llama: Facts, free: float, total: float, kind: str
) -> None:
    facts = card(llama, free, total)
    recipe = recipe_with(batch_size=1, training__checkpointing="on", max_length=512)
    verdict = fits(plan(recipe, facts), facts)
    assert verdict.kind == kind, verdict.sentence
    assert verdict.free == facts.gpu_free and verdict.sentence.endswith(".")


def test_who_holds_the_memory_is_named(llama: Facts) -> None:
    anna = Holder(412, "anna", "python", 60 * GIB)
    facts = card(llama, 15, 80, anna, Holder(0, "", "", 5 * GIB))
    verdict = fits(plan(recipe_with(), facts), facts)
    assert verdict.kind == "held" and verdict.holders[0] == anna
    assert "anna's python (412) holds 60.0 GiB" in verdict.sentence
    assert name_of(Holder(7, "", "", 1)) == "process (7)"
    assert name_of(Holder(7, "\x1b[31mx", "y", 1)).isprintable()


def test_without_a_model_or_a_known_device_nothing_is_claimed(llama: Facts) -> None:
    assert fits(plan(defaults()), Facts()).kind == "unknown"
    assert fits(plan(defaults(), llama), llama).kind == "unknown"
    assert remedies(defaults(), llama) == []


# --- remedies ------------------------------------------------------------------------------------


def test_what_fits_needs_no_remedy(llama: Facts) -> None:
    assert remedies(recipe_with(batch_size=1), card(llama, 79, 80)) == []


def test_the_first_remedy_costs_least_and_its_recipe_fits(llama: Facts) -> None:
    facts = card(llama, 39, 40)
    recipe = recipe_with(batch_size=8, max_length=2048)
    ways = remedies(recipe, facts)
    assert ways and all(way.kind == "fits" for way in ways)
    costs = ["nothing", "time", "precision", "rows", "method"]
    order = [costs.index(way.cost) for way in ways]
    assert order == sorted(order)
    for way in ways:
        found = peak(way.recipe, facts)
        assert found is not None and found.high == way.peak_bytes_high <= 39 * GIB
        again = recipe
        for id, value in way.changes:
            assert not isinstance(value, tuple)
            again = with_value(again, id, str(value))
        assert again == way.recipe


def test_a_smaller_batch_keeps_the_rows_of_an_update(llama: Facts) -> None:
    facts = card(llama, 60, 80)
    recipe = recipe_with(batch_size=8, accumulation=2, max_length=1024)
    ways = [way for way in remedies(recipe, facts) if way.changes[0][0] == "training.batch_size"]
    assert ways
    training = ways[0].recipe.training
    assert training.batch_size * training.accumulation == 16


def test_where_no_single_change_is_enough_several_are_put_together(llama: Facts) -> None:
    two = remedies(recipe_with(batch_size=1, max_length=2048), card(llama, 13, 16))
    assert two and all(way.kind == "fits" and len(way.changes) >= 2 for way in two)
    many = remedies(recipe_with(method__kind="full", max_length=4096), card(llama, 12, 12))
    assert [way.kind for way in many] == ["fits"] and many[0].cost == "method"


def test_what_can_never_fit_shows_the_smallest_peaks_first(llama: Facts) -> None:
    ways = remedies(recipe_with(max_length=2048), card(llama, 2, 2))
    assert ways and all(way.kind != "fits" for way in ways)
    peaks = [way.peak_bytes_high for way in ways]
    assert peaks == sorted(peaks)


# --- measured coefficients -----------------------------------------------------------------------


FLAT = Coefficients(
    outer=Amount(),
    layer=Amount(one=7, token=1000, token_rank=2, rank=3, square=0.5),
    border=Amount(token=10),
    forward=Amount(),
    backward=Amount(),
)


def test_measured_coefficients_take_the_place_of_the_formula(llama: Facts, tmp_path: Path) -> None:
    recipe = recipe_with(batch_size=2, max_length=64, rank=4)
    facts = card(llama, 79, 80)
    keys = unmeasured(recipe, facts)
    assert keys[0] == str(key(recipe, facts)) and len(keys) == 2  # and that of qlora
    keep(tmp_path, tmp_path / "m", Measured(found=dict.fromkeys(keys, FLAT)))
    known = merge(facts, Facts(measured=read(tmp_path, tmp_path / "m")))
    found = plan(recipe, known)
    parts = {part.name: part for part in found.memory}
    layer = 7 + 3 * 4 + (1000 + 2 * 4) * 128 + 0.5 * 2 * 64**2
    middle = (parts["activations"].low + parts["activations"].high) / 2
    assert middle == pytest.approx(32 * layer, rel=0.01)
    assert found.memory_source == parts["activations"].source == "measured"
    assert unmeasured(recipe, known) == ()
    eager = recipe_with(attention="eager")
    assert plan(eager, known).memory_source == "formula" and unmeasured(eager, known)


def test_a_model_that_could_not_be_measured_is_not_tried_again(
    llama: Facts, tmp_path: Path
) -> None:
    facts = card(llama, 79, 80)
    keys = unmeasured(defaults(), facts)
    keep(tmp_path, tmp_path / "m", Measured(problems=dict.fromkeys(keys, "its layers differ")))
    known = merge(facts, Facts(measured=read(tmp_path, tmp_path / "m")))
    assert unmeasured(defaults(), known) == ()
    assert "activations by formula: its layers differ" in plan(defaults(), known).notes


def test_foreign_code_and_odd_targets_are_never_measured(llama: Facts) -> None:
    facts = card(llama, 79, 80)
    assert unmeasured(recipe_with(trust_remote_code="on"), facts) == ()
    assert unmeasured(recipe_with(target_modules="a:b"), facts) == ()
    assert unmeasured(defaults(), Facts()) == ()


def test_the_cache_belongs_to_the_config_and_survives_broken_files(tmp_path: Path) -> None:
    model = write_config(tmp_path / "m", LLAMA_8B)
    keep(tmp_path, model, Measured(found={"a": FLAT}))
    keep(tmp_path, model, Measured(found={"b": FLAT}))
    kept = read(tmp_path, model)
    assert kept is not None and set(kept.found) == {"a", "b"}
    write_config(model, LLAMA_8B | {"num_hidden_layers": 3})
    assert read(tmp_path, model) is None
    for file in (tmp_path / ".finetui" / "memory").iterdir():
        file.write_bytes(b"{broken")
    write_config(model, LLAMA_8B)
    assert read(tmp_path, model) is None
    assert read(tmp_path, tmp_path / "gone") is None


def test_gather_brings_what_was_measured_in_this_workspace(tmp_path: Path) -> None:
    model = write_config(tmp_path / "m", LLAMA_8B)
    recipe = recipe_with(model__path="m")
    assert gather(recipe, tmp_path).measured is None
    keep(tmp_path, model, Measured(found={"a": FLAT}))
    found = gather(recipe, tmp_path)
    assert found.measured is not None and found.measured.found == {"a": FLAT}
    assert found.model_folder == str(model)


def test_keys_are_written_and_read_back() -> None:
    for recipe in (
        recipe_with(),
        recipe_with(method__kind="full", precision="fp32"),
        recipe_with(method__kind="qlora", dropout="0.1", target_modules="q_proj, v_proj"),
        recipe_with(dora="on", packing="on"),
    ):
        found = key(recipe, Facts(gpus=1))
        assert key_of(str(found)) == found
