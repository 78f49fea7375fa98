"""Labels of a set: classes that are rare, labels in doubt, values the prompt does not hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whole_workshop import chat, sentence, told, whole_set, write

from finetui import workspace
from finetui.data.whole import balance, labels
from finetui.data.whole.profile import label_columns, profile_of
from finetui.data.whole.words import words_of

THEMES = {
    "billing": "invoice payment refund charge price card money account cost bill",
    "technical": "crash error screen install update version bug slow freeze log",
    "delivery": "parcel courier address late tracking shipment door box arrive post",
}
FILLER = "please today since again the my with after help about when could still have"


def themed(number: int, label: str) -> str:
    """A text of a theme's words between others, from a generator seeded by its number."""
    draw = np.random.default_rng(number)
    words = [*draw.choice(THEMES[label].split(), 4), *draw.choice(FILLER.split(), 5)]
    return " ".join(draw.permutation(words))


def tickets(count: int, wrong: frozenset[int] = frozenset()) -> list[dict[str, Any]]:
    names = list(THEMES)
    rows = []
    for number in range(count):
        label = names[number % 3]
        given = names[(number + 1) % 3] if number in wrong else label
        rows.append(chat(themed(number, label), given))
    return rows


def test_answers_and_json_fields_with_few_values_are_labels_and_free_text_is_not(
    tmp_path: Path,
) -> None:
    rows = [
        chat(sentence(n), json.dumps({"kind": "ab"[n % 2], "why": f"because {n}"}))
        for n in range(200)
    ]
    profile = profile_of(whole_set(write(tmp_path / "a.jsonl", rows)))
    assert [column.name for column in label_columns(profile)] == ["kind"]
    plain = profile_of(whole_set(write(tmp_path / "b.jsonl", tickets(120))))
    assert [column.name for column in label_columns(plain)] == [""]
    free = [chat(sentence(n), f"answer {n}") for n in range(200)]
    assert not label_columns(profile_of(whole_set(write(tmp_path / "c.jsonl", free))))


def test_a_rare_class_is_told_once_with_its_counts(tmp_path: Path) -> None:
    rows = tickets(300)
    rows[40] = chat("strange", "legal")
    rows[90] = chat("stranger", "legal")
    (line, message), *more = told(balance.rare, tmp_path, rows)
    assert line == 41 and "'legal' in 2 of 300 rows" in message and not more


def test_balanced_classes_are_left_alone(tmp_path: Path) -> None:
    assert told(balance.rare, tmp_path, tickets(300)) == []
    assert told(balance.one_class, tmp_path, tickets(300)) == []


def test_a_label_that_nearly_all_rows_have_is_told_of_the_file(tmp_path: Path) -> None:
    rows = [chat(sentence(n), "yes" if n % 50 else "no") for n in range(300)]
    (line, message), *more = told(balance.one_class, tmp_path, rows)
    assert line == 1 and "'yes' in 98.0% of the rows" in message and not more


def test_planted_wrong_labels_are_doubted_and_right_ones_are_not(tmp_path: Path) -> None:
    wrong = frozenset(range(7, 600, 25))
    found = told(labels.find, tmp_path, tickets(600, wrong))
    lines = {line - 1 for line, _ in found}
    assert len(lines & wrong) >= 0.7 * len(wrong)
    assert len(lines - wrong) <= 0.1 * len(lines)
    assert all("but rows that read like this one have" in message for _, message in found)


def test_right_labels_are_not_doubted(tmp_path: Path) -> None:
    assert told(labels.find, tmp_path, tickets(600)) == []


def test_a_model_that_does_not_understand_the_labels_accuses_nobody() -> None:
    draw = np.random.default_rng(5)
    words = words_of(themed(n, "billing") for n in range(400))
    doubts = labels.doubted_labels(words, draw.integers(0, 3, 400), 3)
    assert doubts.understood < 0.6 and not len(doubts.rows)


def test_precision_and_recall_on_skewed_classes_with_one_label_in_twenty_flipped() -> None:
    draw = np.random.default_rng(7)
    base = 1 / np.arange(1, 2001)
    shares = []
    for _ in range(5):
        share = base.copy()
        share[draw.choice(2000, 200, replace=False)] *= 8
        shares.append(share / share.sum())
    truth = draw.choice(5, 4000, p=[0.4, 0.25, 0.2, 0.1, 0.05])
    names = np.array(["w" + "".join(chr(97 + int(d)) for d in str(k)) for k in range(2000)])
    texts = [" ".join(names[draw.choice(2000, 30, p=shares[label])]) for label in truth]
    flipped = draw.random(4000) < 0.05
    given = np.where(flipped, (truth + draw.integers(1, 5, 4000)) % 5, truth)
    doubts = labels.doubted_labels(words_of(texts), given, 5)
    hits = flipped[doubts.rows].sum()
    assert hits >= 0.97 * len(doubts.rows) and hits >= 0.45 * flipped.sum()
    right = doubts.likelier == truth[doubts.rows]
    assert right[flipped[doubts.rows]].mean() > 0.97


def test_a_value_that_its_prompt_does_not_hold_is_told_where_nearly_all_do(tmp_path: Path) -> None:
    names = ["Quill Mail", "Ruby Forms", "Atlas Maps"]
    rows = [
        chat(f"{names[n % 3]} fails, {sentence(n)}", json.dumps({"product": names[n % 3]}))
        for n in range(150)
    ]
    rows[70] = chat("quill  mail fails", json.dumps({"product": "Quill Mail"}))
    assert told(labels.not_held, tmp_path, rows) == []
    rows[71] = chat("Quill Mail fails", json.dumps({"product": "Ruby Forms"}))
    (line, message), *more = told(labels.not_held, tmp_path, rows)
    assert line == 72 and "product" in message and "Ruby Forms" in message and not more


@pytest.mark.parametrize("name", ["tickets", "tickets_heldout", "general", "general_check"])
def test_the_clean_samples_are_in_doubt_nowhere(name: str) -> None:
    made = whole_set(workspace.sample_data() / f"datasets/{name}.jsonl")
    for look in (balance.rare, balance.one_class, labels.find, labels.not_held):
        assert list(look(made)) == []
