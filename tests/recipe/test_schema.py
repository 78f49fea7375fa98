"""The schema: every field has its words and bounds, and takes what people type."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from finetui.recipe.field import show_number
from finetui.recipe.schema import (
    FIELDS,
    GROUPS,
    Field,
    FieldError,
    Recipe,
    changed,
    defaults,
    field,
    get,
    replace,
    with_value,
)

KINDS = {"text", "path", "paths", "int", "float", "bool", "choice", "list"}


@pytest.mark.parametrize("found", FIELDS, ids=lambda found: found.id)
class TestEveryField:
    def test_has_its_words(self, found: Field) -> None:
        assert 0 < len(found.label) <= 20
        assert found.help.endswith(".") and len(found.help) <= 120
        assert found.why.endswith(".") and found.source
        assert found.kind in KINDS
        assert found.group in {group.id for group in GROUPS}

    def test_takes_its_own_default(self, found: Field) -> None:
        assert found.accept(found.default) == found.default
        if found.kind in ("int", "float"):
            assert found.low is not None and found.high is not None
            assert found.low <= found.default <= found.high  # type: ignore[operator]
        if found.kind == "choice":
            assert found.default in found.choices and set(found.reserved) < set(found.choices)

    def test_shows_what_it_can_read_back(self, found: Field) -> None:
        assert found.parse(found.show(found.default)) == found.default

    def test_is_the_default_of_an_empty_file(self, found: Field) -> None:
        assert get(msgspec.convert({}, Recipe), found.id) == found.default

    def test_refuses_what_msgspec_refuses(self, found: Field) -> None:
        beyond: list[Any] = [{}, None, math.nan, math.inf, object()]
        beyond += [found.high + 1, (found.low or 0) - 1] if found.high else []
        for value in beyond:
            with pytest.raises(FieldError):
                found.accept(value)


def test_flags_and_ids_are_unique() -> None:
    assert len({found.flag for found in FIELDS}) == len({found.id for found in FIELDS})
    assert field("training.learning_rate").flag == "--training-learning-rate"


@pytest.mark.parametrize(
    ("id", "text", "value"),
    [
        ("training.learning_rate", "2e-4", 2e-4),
        ("training.learning_rate", " 0.0002 ", 2e-4),
        ("training.epochs", "3", 3.0),
        ("training.warmup", "6%", 0.06),
        ("training.warmup", "10", 10.0),
        ("data.general_share", "25%", 0.25),
        ("data.general_share", "25 %", 0.25),
        ("method.dropout", "5%", 0.05),
        ("method.rank", "32", 32),
        ("method.rank", "1e2", 100),
        ("data.max_length", "2_048", 2048),
        ("data.packing", "yes", True),
        ("data.packing", "On", True),
        ("data.packing", "no", False),
        ("data.packing", "off", False),
        ("data.packing", "0", False),
        ("training.schedule", "Linear", "linear"),
        ("method.target_modules", "q_proj, v_proj", ("q_proj", "v_proj")),
        ("method.target_modules", "['q_proj','v_proj']", ("q_proj", "v_proj")),
        ("method.target_modules", "", ()),
        ("data.train", 'a.jsonl,"b, c.jsonl"', ("a.jsonl", "b, c.jsonl")),
        ("data.eval", " datasets/x.jsonl ", "datasets/x.jsonl"),
        ("data.eval", "", ""),
        ("name", "first try", "first try"),
        ("learning_rate", "1e-4", 1e-4),
    ],
)
def test_reads_what_a_person_types(id: str, text: str, value: object) -> None:
    recipe = with_value(defaults(), id, text)
    assert get(recipe, id) == value
    assert type(get(recipe, id)) is type(value)


@pytest.mark.parametrize(
    ("id", "text", "sentence"),
    [
        (
            "training.learning_rate",
            "abc",
            "learning rate must be a number between 1e-7 and 1; you typed 'abc'.",
        ),
        ("training.learning_rate", "2", "between 1e-7 and 1; you typed '2'"),
        ("training.learning_rate", "nan", "you typed 'nan'"),
        ("training.learning_rate", "inf", "you typed 'inf'"),
        ("training.learning_rate", "", "learning rate is empty; the default is 2e-4."),
        ("training.warmup", "0,06", "Write the decimal point as a point."),
        ("training.learning_rate", "5%", "you typed '5%'"),
        ("method.rank", "8.5", "a whole number between 1 and 1024"),
        ("training.max_steps", "-1", "between 0 and 10,000,000"),
        ("training.schedule", "cosin", "Did you mean cosine?"),
        ("data.packing", "maybe", "yes or no"),
        ("name", "x" * 81, "at most 80 characters"),
        ("method.rank", "\x1b[31m" + "9" * 90, r"'\x1b[31m999"),
    ],
)
def test_refuses_with_one_sentence(id: str, text: str, sentence: str) -> None:
    with pytest.raises(FieldError) as raised:
        with_value(defaults(), id, text)
    message = str(raised.value)
    assert sentence in message
    assert "\x1b" not in message and "\n" not in message and len(message) < 160


@pytest.mark.parametrize("typed", ["learning_rat", "training.lerning_rate", "data.learning_rate"])
def test_an_unknown_field_names_the_nearest(typed: str) -> None:
    with pytest.raises(FieldError, match=r"Did you mean training\.learning_rate\?"):
        get(defaults(), typed)


def test_an_ambiguous_key_names_all_its_fields() -> None:
    with pytest.raises(FieldError, match=r"evaluation\.every or checkpoints\.every"):
        field("every")


def test_a_change_leaves_the_old_recipe_alone() -> None:
    old = defaults()
    new = replace(replace(old, "method.rank", 8), "name", "x")
    assert (old.method.rank, new.method.rank) == (16, 8)
    assert changed(new) == ("name", "method.rank")
    assert changed(new, new) == ()
    assert hash(new) != hash(old)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (2e-4, "2e-4"),
        (1e-7, "1e-7"),
        (1.5e-5, "1.5e-5"),
        (0.004, "0.004"),
        (0.06, "0.06"),
        (3.0, "3"),
        (0.0, "0"),
        (1024, "1024"),
        (0.1 + 0.2, "0.30000000000000004"),
        (9.999999e-5, "9.999999e-5"),
    ],
)
def test_numbers_are_shown_short_and_exact(number: float, text: str) -> None:
    assert show_number(number) == text
    assert float(show_number(number)) == number
