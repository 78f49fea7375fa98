"""Fields without effect are named with a reason, and only those."""

import pytest

from finetui.recipe.applies import idle
from finetui.recipe.facts import Facts
from finetui.recipe.schema import FIELDS, defaults, with_value


def recipe_with(**values: str):
    recipe = defaults()
    for id, text in values.items():
        recipe = with_value(recipe, id.replace("__", "."), text)
    return recipe


def test_what_decides_a_run_always_has_an_effect():
    always = {"model.path", "data.train", "data.eval", "method.kind", "method.objective",
              "training.learning_rate", "training.batch_size", "data.max_length"}  # fmt: skip
    for kind in ("lora", "qlora", "full"):
        for objective in ("sft", "pretrain", "dpo", "orpo", "kto"):
            recipe = recipe_with(method__kind=kind, method__objective=objective)
            assert not always & set(idle(recipe)), (kind, objective)


@pytest.mark.parametrize(
    ("id", "off", "on"),
    [
        ("method.rank", {"method__kind": "full"}, {"method__kind": "lora"}),
        ("method.quantisation", {"method__kind": "lora"}, {"method__kind": "qlora"}),
        ("preference.beta", {"method__objective": "sft"}, {"method__objective": "kto"}),
        ("preference.loss", {"method__objective": "orpo"}, {"method__objective": "dpo"}),
        ("data.packing", {"method__objective": "dpo"}, {"method__objective": "pretrain"}),
        ("data.truncation_side", {"data__overlong": "drop"}, {"data__overlong": "truncate"}),
        ("training.epochs", {"training__max_steps": "5"}, {"training__max_steps": "0"}),
        ("checkpoints.keep", {"checkpoints__every": "0"}, {"checkpoints__every": "5"}),
        ("guards.spike_size", {"guards__spike": "off"}, {"guards__spike": "warn"}),
        ("data.general_share", {"data__general": ""}, {"data__general": "g.jsonl"}),
        ("evaluation.keep_best", {"data__eval": ""}, {"data__eval": "e.jsonl"}),
    ],
)
def test_a_field_is_idle_where_another_one_turns_it_off(id, off, on):
    assert idle(recipe_with(**off))[id]
    assert id not in idle(recipe_with(**on))


def test_what_needs_a_gpu_is_idle_only_where_it_is_known_that_there_is_none():
    assert "training.liger" in idle(defaults(), Facts(gpus=0))
    assert "training.liger" not in idle(defaults(), Facts(gpus=1))
    assert "training.liger" not in idle(defaults(), Facts())


def test_every_idle_field_is_one_of_the_schema_and_its_reason_is_short():
    known = {found.id for found in FIELDS}
    for objective in ("sft", "pretrain", "dpo"):
        found = idle(recipe_with(method__objective=objective, method__kind="full"), Facts(gpus=0))
        assert set(found) <= known
        assert all(0 < len(reason) <= 40 for reason in found.values())
