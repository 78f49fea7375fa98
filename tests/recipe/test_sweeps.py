"""Sweeps of a recipe: a grid or a list over any field, as trials with their own recipes."""

from __future__ import annotations

import pytest

from finetui.errors import UserError
from finetui.recipe.field import FieldError
from finetui.recipe.schema import FIELDS, changed, defaults, get, replace
from finetui.recipe.sweep import MOST_TRIALS, axis, grid, listed

BASE = replace(defaults(), "name", "base")


def test_a_grid_is_every_combination_the_last_axis_fastest() -> None:
    trials = grid(BASE, [axis("learning_rate=1e-4, 2e-4"), axis("method.rank=8,16")])
    assert [trial.name for trial in trials] == [
        "learning_rate=1e-4 rank=8", "learning_rate=1e-4 rank=16",
        "learning_rate=2e-4 rank=8", "learning_rate=2e-4 rank=16",
    ]  # fmt: skip
    last = trials[-1]
    assert last.changes == (("training.learning_rate", "2e-4"), ("method.rank", "16"))
    assert last.recipe.training.learning_rate == 2e-4 and last.recipe.method.rank == 16
    assert last.recipe.name == "base learning_rate=2e-4 rank=16"
    assert set(changed(trials[0].recipe, BASE)) == {"name", "training.learning_rate", "method.rank"}


@pytest.mark.parametrize("field", [found.id for found in FIELDS if found.id != "name"])
def test_any_field_can_be_varied(field: str) -> None:
    other = {"bool": "yes;no", "int": "16;17", "float": "1;2", "path": "a;b", "text": "a;b",
             "paths": "a.jsonl;b.jsonl,c.jsonl", "list": "a;b,c"}  # fmt: skip
    found = next(item for item in FIELDS if item.id == field)
    typed = ";".join(found.choices) if found.kind == "choice" else other[found.kind]
    low = {"training.warmup": "0.1;0.2", "training.beta2": "0.9;0.99", "data.general_share": "0;1",
           "method.dropout": "0;0.1", "preference.label_smoothing": "0;0.1",
           "training.learning_rate": "0.1;0.2", "guards.spike_size": "5;6"}  # fmt: skip
    read = axis(f"{field}={low.get(field, typed)}")
    trials = grid(BASE, [read])
    assert [get(trial.recipe, field) for trial in trials] == list(read.values)


def test_values_with_commas_are_parted_by_semicolons() -> None:
    read = axis("target_modules=all-linear;q_proj, v_proj")
    assert read.values == (("all-linear",), ("q_proj", "v_proj"))
    assert axis("warmup=3%;0.1").values == (0.03, 0.1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("learning_rate", "is no axis. Write FIELD=VALUE"),
        ("lerning_rate=1", "Did you mean training.learning_rate?"),
        ("learning_rate=", "has no values"),
        ("learning_rate=fast", "must be a number between"),
        ("rank=8,8", "has 8 twice"),
        ("every=1,2", "evaluation.every or checkpoints.every or logging.every"),
    ],
)
def test_a_wrong_axis_is_one_clear_sentence(text: str, says: str) -> None:
    with pytest.raises(FieldError, match=says):
        axis(text)


def test_a_grid_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to vary"):
        grid(BASE, [])
    with pytest.raises(UserError, match=r"method\.rank is given twice"):
        grid(BASE, [axis("rank=8"), axis("method.rank=16")])
    many = ",".join(str(number) for number in range(1, 16))
    with pytest.raises(UserError, match=rf"225 runs; at most {MOST_TRIALS}"):
        grid(BASE, [axis(f"rank={many}"), axis(f"alpha={many}")])


def test_a_list_has_one_run_a_line() -> None:
    lines = ["# two runs", "", "rank=8 alpha=16", "  training.warmup=3% notes='two words' "]
    first, second = listed(BASE, lines)
    assert first.changes == (("method.rank", "8"), ("method.alpha", "16"))
    assert second.recipe.notes == "two words" and second.recipe.training.warmup == 0.03


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["rank=8", "rank"], "trial 2: 'rank' is not FIELD=VALUE"),
        (["rank=8", "", "rank=big"], "trial 3: rank must be"),
        (["rank=8 rank=16"], "trial 1: method.rank is given twice"),
        (["rank='8"], "trial 1: No closing quotation"),
        (["rank=8", "alpha=32 rank=8"], "is the same run as"),
        ([], "nothing to vary"),
    ],
)
def test_a_wrong_list_names_its_line(lines: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        listed(BASE, lines)


def test_a_long_name_keeps_what_differs() -> None:
    long = replace(defaults(), "name", "n" * 80)
    [trial] = grid(long, [axis("rank=8")])
    assert trial.recipe.name == "rank=8"
