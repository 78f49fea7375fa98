"""Filters find exactly the rows they say."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from finetui import workspace
from finetui.data.dataset import DataSet, open_dataset
from finetui.data.filter import filter_rows
from finetui.errors import UserError


@pytest.fixture
def dataset(tmp_path: Path) -> DataSet:
    space = workspace.create(tmp_path / "work")
    rng = random.Random(2)
    words = ["Apple", "pear", "ÄPFEL", "äpfel", "naïve", 'a "quote"', "back\\slash", "tab\there"]
    file = space.datasets / "a.jsonl"
    with file.open("w") as out:
        for number in range(3000):
            row = {"messages": [
                {"role": "user", "content": " ".join(rng.sample(words, 2)) + f" n{number}"},
                {"role": "assistant", "content": rng.choice(words)},
            ]}  # fmt: skip
            out.write(json.dumps(row, ensure_ascii=number % 2 == 0) + "\n")
        out.write("{broken APPLE\n")
    return open_dataset(file, space)


def found(dataset: DataSet, text: str) -> list[int]:
    return [row for chunk in filter_rows(dataset, text) for row in chunk]


def expected(dataset: DataSet, phrase: str, role: str = "") -> list[int]:
    rows = []
    for row in range(dataset.rows - 1):
        turns = dataset.value(row)["messages"]  # type: ignore[index]
        if any(
            phrase.casefold() in turn["content"].casefold()
            for turn in turns
            if role in ("", turn["role"])
        ):
            rows.append(row)
    return rows


@pytest.mark.parametrize(
    "phrase", ["pear", "äPFEL", "NAÏVE", 'a "quote', "back\\s", "tab\th", "n2999"]
)
def test_plain_text_is_found_in_any_case_and_any_escape(dataset: DataSet, phrase: str) -> None:
    assert found(dataset, phrase) == expected(dataset, phrase)


def test_a_broken_row_is_found_as_well(dataset: DataSet) -> None:
    assert found(dataset, "broken apple") == [3000] == found(dataset, "is:malformed")


def test_a_role_limits_where_the_words_may_be(dataset: DataSet) -> None:
    assert found(dataset, "role:assistant apple") == expected(dataset, "apple", "assistant")
    assert found(dataset, "role:gpt apple") == expected(dataset, "apple", "assistant")
    assert found(dataset, "role:tool") == []


def test_edited_rows_are_searched_as_they_are_now(dataset: DataSet) -> None:
    before = found(dataset, "pear")
    dataset.edit(before[0], '{"messages": []}')
    dataset.edit(before[0] + 1, '{"messages": [{"role": "user", "content": "PEAR"}]}')
    now = found(dataset, "pear")
    assert before[0] not in now and before[0] + 1 in now and now == sorted(now)
    assert found(dataset, "is:edited") == [before[0], before[0] + 1]
    assert found(dataset, "is:edited pear") == [before[0] + 1]


def test_dropped_rows_can_be_listed_and_left_out(dataset: DataSet) -> None:
    dataset.drop([5, 9])
    assert found(dataset, "is:dropped") == [5, 9]
    assert found(dataset, "is:kept n5") == [row for row in found(dataset, "n5") if row != 5]


def test_a_regular_expression_and_a_line_number(dataset: DataSet) -> None:
    assert found(dataset, "/n1[37]\\b/") == [13, 17]
    assert found(dataset, "line:18") == [17]


@pytest.mark.parametrize("text", ["is:nothing", "/(/", "line:x"])
def test_what_cannot_be_read_is_said(dataset: DataSet, text: str) -> None:
    with pytest.raises(UserError):
        list(filter_rows(dataset, text))


def test_a_filter_stops_when_told(dataset: DataSet) -> None:
    assert list(filter_rows(dataset, "pear", stop=lambda: True)) == []


def test_rows_of_a_csv_are_searched(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("question,answer\nOne,x\nTwo,y\n")
    with open_dataset(file) as dataset:
        assert found(dataset, "two") == [1] == found(dataset, "line:3")
