"""Recipes side by side: only what differs, paths by what they mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetui.errors import UserError
from finetui.recipe.compare import differences, recipe_of_run
from finetui.recipe.files import resolve, to_spec
from finetui.recipe.schema import Recipe, defaults, replace


def recipe(**values: object) -> Recipe:
    made = defaults()
    for id, value in values.items():
        made = replace(made, id.replace("__", "."), value)
    return made


def test_only_the_fields_that_differ_are_named_in_the_order_of_the_form() -> None:
    one = recipe(name="a", training__learning_rate=1e-4, method__rank=8)
    two = recipe(name="b", training__learning_rate=2e-4, method__rank=8)
    found = differences([one, two])
    assert [item.field for item in found] == ["name", "training.learning_rate"]
    assert found[1].values == ("1e-4", "2e-4") and found[1].label == "learning rate"
    assert differences([one, one]) == ()


def test_several_recipes_have_one_value_each() -> None:
    found = differences([recipe(method__rank=rank) for rank in (8, 8, 16)])
    assert [item.values for item in found] == [("8", "8", "16")]


def test_a_path_is_the_same_however_it_is_written(tmp_path: Path) -> None:
    short = recipe(data__train=["datasets/a.jsonl"], model__path="model", data__eval="./b.jsonl")
    whole = resolve(short, tmp_path)
    assert differences([short, whole], tmp_path) == ()
    link = tmp_path.parent / "link-to-it"
    link.symlink_to(tmp_path)
    assert differences([short, resolve(short, link)], link) == ()
    other = recipe(data__train=["/elsewhere/a.jsonl"], model__path="model", data__eval="b.jsonl")
    [only] = differences([short, other], tmp_path)
    assert only.values == ("datasets/a.jsonl", "/elsewhere/a.jsonl")


def test_the_recipe_of_a_run_compares_with_its_file_also_after_a_move(tmp_path: Path) -> None:
    file = recipe(model__path="model", data__train=["datasets/a.jsonl"], method__rank=8)
    spec = {"workspace": "/old/place", "recipe": to_spec(resolve(file, Path("/old/place")))}
    assert differences([file, recipe_of_run(spec)], tmp_path) == ()


def test_a_run_of_another_version_keeps_what_this_one_knows() -> None:
    tree = {"name": "old", "method": {"rank": 8, "colour": "red", "kind": "prefix"}, "odd": 3}
    found = recipe_of_run({"recipe": tree})
    assert (found.name, found.method.rank, found.method.kind) == ("old", 8, "lora")


@pytest.mark.parametrize("spec", [{"kind": "generate"}, {"recipe": "text"}])
def test_a_job_without_a_recipe_is_an_error(spec: dict[str, object]) -> None:
    with pytest.raises(UserError, match="not made from a recipe"):
        recipe_of_run(spec)
