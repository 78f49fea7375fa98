"""Presets: good first values that fit the model, the method and the machine."""

from __future__ import annotations

import pytest

from finetui.errors import UserError
from finetui.recipe import presets
from finetui.recipe.advice import advise
from finetui.recipe.facts import Facts, merge
from finetui.recipe.forecast import plan
from finetui.recipe.presets import GIB, HARDWARE, SIZES, applied, offered, preset
from finetui.recipe.schema import changed, defaults, get, replace

FITTING = [id for id in presets.known_ids() if preset(id).fits]
EIGHT_B = SIZES[4].typical


def test_every_preset_gives_values_that_the_schema_takes() -> None:
    ids = list(presets.known_ids())
    assert len(ids) == len(set(ids)) > 100
    for id in FITTING:
        chosen = preset(id)
        recipe = applied(defaults(), chosen)
        assert all(get(recipe, field) == value for field, value in chosen.values)
        assert chosen.title and chosen.help.endswith(".") and chosen.source


@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.id)
@pytest.mark.parametrize("machine", HARDWARE[1:], ids=lambda machine: machine.id)
def test_a_preset_that_fits_is_forecast_to_fit(size: presets.Size, machine: presets.Hardware):
    facts = merge(size.typical, Facts(gpus=1, gpu_total=machine.memory, gpu_bf16=True))
    for kind in presets.METHODS:
        chosen = preset(f"{kind}-{size.id}-{machine.id}")
        peak = plan(applied(defaults(), chosen), facts).peak_bytes_high
        assert peak is not None and chosen.fits == (peak <= 0.92 * machine.memory)


def test_an_update_has_as_many_rows_whatever_fits() -> None:
    for id in FITTING:
        values = dict(preset(id).values)
        if id.count("-") == 2:
            rows = values["training.batch_size"] * values["training.accumulation"]  # type: ignore[operator]
            assert rows == 16


def test_more_memory_never_makes_a_preset_thriftier() -> None:
    for kind in presets.METHODS:
        rungs = [dict(rung) for rung in presets._rungs(kind, on_cpu=False)]
        found = [preset(f"{kind}-8b-{machine.id}") for machine in HARDWARE[1:]]
        places = [
            next(i for i, rung in enumerate(rungs) if rung.items() <= dict(item.values).items())
            for item in found
            if item.fits
        ]
        assert places == sorted(places, reverse=True)


def test_known_sizes_fit_where_people_run_them() -> None:
    assert preset("qlora-8b-12g").fits and not preset("lora-8b-12g").fits
    assert preset("lora-8b-24g").fits and not preset("full-8b-24g").fits
    assert preset("lora-tiny-cpu").fits and not preset("lora-8b-cpu").fits
    assert dict(preset("full-1b-24g").values)["training.learning_rate"] == 3e-5


def test_the_machine_s_own_preset_comes_first_and_only_one_is_recommended() -> None:
    facts = merge(EIGHT_B, Facts(gpus=1, gpu_total=24 * GIB, gpu_free=23 * GIB))
    found = offered(defaults(), facts)
    assert found[0].id == "lora-8b-24g" and [item.recommended for item in found].count(True) == 1
    small = offered(defaults(), merge(EIGHT_B, Facts(gpus=1, gpu_total=12 * GIB)))
    assert small[0].id == "qlora-8b-12g" and small[0].recommended
    ids = [item.id for item in found]
    assert {"trial", "keep-skills", "dpo", "kto", "orpo", "pretrain", "few-rows"} <= set(ids)
    assert len(ids) == len(set(ids)) and "lora-8b-80g" in ids


def test_where_nothing_fits_nothing_is_recommended() -> None:
    found = offered(defaults(), merge(SIZES[-1].typical, Facts(gpus=1, gpu_total=8 * GIB)))
    assert not any(item.recommended for item in found)
    assert not any(item.fits for item in found[:3]) and "needs ≈" in found[0].help


def test_a_preset_leaves_name_model_and_files_alone() -> None:
    recipe = replace(replace(defaults(), "model.path", "model"), "data.train", ["a.jsonl"])
    for id in FITTING:
        assert not {"name", "notes", "model.path", "data.train", "data.eval"} & set(
            changed(applied(recipe, preset(id)), recipe)
        )


@pytest.mark.parametrize("goal", ["dpo", "orpo", "kto", "pretrain"])
def test_a_goal_on_a_fitting_preset_draws_no_warning(goal: str) -> None:
    facts = merge(EIGHT_B, Facts(gpus=1, gpu_total=80 * GIB, gpu_free=79 * GIB, gpu_bf16=True,
                                 rows=5_000, tokens=2_000_000, longest=900))  # fmt: skip
    recipe = replace(replace(defaults(), "model.path", "model"), "data.train", ["a.jsonl"])
    recipe = applied(recipe, offered(recipe, facts)[0])
    recipe = applied(recipe, next(item for item in offered(recipe, facts) if item.id == goal))
    said = [found for found in advise(recipe, facts) if found.severity != "advice"]
    assert {found.rule for found in said} <= {"nothing-held-out", "checkpoints"}


def test_a_wrong_id_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"Did you mean lora-8b-24g\?"):
        preset("lora-8b-24gb")
    with pytest.raises(UserError, match="finetui recipe presets"):
        preset("zzzzzz")
