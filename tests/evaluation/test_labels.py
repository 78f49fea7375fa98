"""Answers that are labels."""

from __future__ import annotations

import json

import pytest

from finetui.evaluation import labels


def test_macro_f1_of_the_published_example() -> None:
    """scikit-learn's documentation of f1_score: 0.26666..., with its classes 0.8, 0 and 0."""
    pairs = list(zip("012012", "021001", strict=True))
    found = labels.confusion(pairs)
    assert found.macro_f1 == pytest.approx(0.26666666666666666)
    assert labels.macro_f1(pairs) == pytest.approx(found.macro_f1)
    assert [row.f1 for row in found.classes] == pytest.approx([0.8, 0.0, 0.0])
    assert found.accuracy == pytest.approx(2 / 6)


def test_the_table_counts_wanted_against_given() -> None:
    found = labels.confusion([("a", "a"), ("a", "b"), ("b", "b"), ("b", "no idea"), ("b", "B.")])
    assert found.given == ("a", "b", labels.OTHER)
    assert found.table["a"] == {"a": 1, "b": 1, labels.OTHER: 0}
    assert found.table["b"] == {"a": 0, "b": 2, labels.OTHER: 1}
    assert found.worst == [("a", "b", 1), ("b", labels.OTHER, 1)]


def test_labels_that_differ_in_case_alone_stay_apart() -> None:
    assert labels.matched([("US", "US"), ("us", "us")]) == [("US", "US"), ("us", "us")]


def test_fields_with_labels_are_found() -> None:
    rows = [
        json.dumps({"urgency": ["low", "high"][i % 2], "text": f"free text {i}", "n": i})
        for i in range(12)
    ]
    assert labels.fields_of(rows) == ["urgency"]
    assert labels.fields_of(["yes", "no"] * 6) == [labels.WHOLE]
    assert labels.fields_of([f"sentence number {i}" for i in range(12)]) == []
    assert labels.fields_of([]) == []


def test_one_label_alone_is_nothing_to_tell_apart() -> None:
    assert labels.fields_of(["yes"] * 9) == []


def test_pairs_are_read_out_of_json() -> None:
    reference = json.dumps({"ok": True, "n": 3})
    assert labels.pair_of('{"ok": true}', reference, "ok") == ("true", "true")
    assert labels.pair_of("no JSON", reference, "ok") == ("true", "")
    assert labels.pair_of("{}", reference, "absent") is None
    assert labels.pair_of(" yes ", "yes", labels.WHOLE) == ("yes", "yes")
