"""Filters find exactly the rows they say."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from finetui import workspace
from finetui.data.dataset import DataSet, open_dataset
from finetui.data.filter import Surroundings, filter_rows
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


# ---------------------------------------------------------------- the language


@pytest.fixture
def mixed(tmp_path: Path) -> DataSet:
    space = workspace.create(tmp_path / "mixed")
    rows = [
        {"id": 1, "meta": {"source": "web"}, "messages": [
            {"role": "user", "content": "Charged twice (again)"},
            {"role": "assistant", "content": '{"urgency": "high", "score": 7}'}]},
        {"id": 2, "meta": {"source": "mail"}, "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Where is my refund? https://example.org/a"},
            {"role": "assistant", "content": '{"urgency": "low", "score": 12}'}]},
        {"id": 3, "meta": {"source": "web", "tags": ["vip", "new"]}, "messages": [
            {"role": "user", "content": "refund or not"},
            {"role": "assistant", "content": "I charged twice"}]},
    ]  # fmt: skip
    file = space.datasets / "m.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "broken\n")
    return open_dataset(file, space)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("id=2", [1]),
        ("id!=2", [0, 2, 3]),
        ("id>=2", [1, 2]),
        ("meta.source=WEB", [0, 2]),
        ("meta.tags.0=vip", [2]),
        ("meta.source~ma", [1]),
        ("answer.urgency=high", [0]),
        ("answer.score>9", [1]),
        ("turns>2", [1]),
        ("length<30", [2]),
        ("bytes>0 -is:malformed", [0, 1, 2]),
        ("user:refund", [1, 2]),
        ('user:"charged twice"', [0]),
        ('assistant:"charged twice"', [2]),
        ("-user:refund -is:malformed", [0]),
        ("not user:refund -is:malformed", [0]),
        ("user:refund source", [1, 2]),
        ("id=1 or id=3", [0, 2]),
        ("(id=1 or id=3) charged", [0, 2]),
        ("(id=1 or id=3) -user:charged", [2]),
        ("line:2-3", [1, 2]),
        ("line:2-3 user:where", [1]),
        ("https://example.org/a", [1]),
        ('"(again)"', [0]),
        ('"refund or not"', [2]),
        ("/twice$|refund\\?/", [1]),
        ('{"urgency', [0, 1]),
        ("is:broken", [3]),
        ("is:kept charged", [0, 2]),
    ],
)
def test_every_term_of_the_language_finds_its_rows(
    mixed: DataSet, text: str, rows: list[int]
) -> None:
    assert found(mixed, text) == rows


@pytest.mark.parametrize(
    "text", ["is:odd", "line:two", "/(/", "(id=1", "id=1 )", "finding:duplicate"]
)
def test_a_filter_that_cannot_be_answered_says_why(mixed: DataSet, text: str) -> None:
    with pytest.raises(UserError) as told:
        found(mixed, text)
    assert told.value.fix or "expression" in str(told.value)


def test_findings_are_asked_for_by_check_family_and_severity(mixed: DataSet) -> None:
    class Store:
        def counts(self) -> dict[str, int]:
            return {"duplicate": 1, "email": 2}

        def rows_of(self, check: str) -> list[int]:
            return {"duplicate": [2], "email": [0, 2]}[check]

    def rows(text: str) -> list[int]:
        chunks = filter_rows(mixed, text, around=Surroundings(findings=Store()))
        return [row for chunk in chunks for row in chunk]

    assert rows("finding:duplicate") == [2]
    assert rows("finding:any") == [0, 2] == rows("findings>0")
    assert rows("finding:any -finding:duplicate") == [0]
    assert rows("findings>1") == [2]


def test_marks_and_labels_are_found(mixed: DataSet) -> None:
    mixed.mark([1])
    mixed.label([0, 2], "urgent")
    assert found(mixed, "is:marked") == [1]
    assert found(mixed, "label:urgent -user:refund") == [0]


def test_rows_are_found_by_the_split_that_the_newest_version_put_them_in(tmp_path: Path) -> None:
    from finetui.data.filter import surroundings
    from finetui.data.split import SplitSpec
    from finetui.data.versions import write_version

    space = workspace.create(tmp_path / "work")
    file = space.datasets / "a.jsonl"
    rows = [{"prompt": f"{number * 7919} things", "completion": "x"} for number in range(60)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = open_dataset(file, space)

    def rows_of(text: str) -> list[int]:
        chunks = filter_rows(dataset, text, around=surroundings(dataset, space))
        return [row for chunk in chunks for row in chunk]

    with pytest.raises(UserError, match="split"):
        rows_of("split:test")
    version = write_version(dataset, space, "v", SplitSpec())
    parts = {name: rows_of(f"split:{name}") for name in version.rows}
    assert {name: len(found) for name, found in parts.items()} == version.rows
    assert sorted(row for found in parts.values() for row in found) == list(range(60))
    dataset.edit(parts["test"][0], '{"prompt": "new", "completion": "y"}')
    assert rows_of("split:test") == parts["test"][1:]
    with pytest.raises(UserError, match="no split 'tset'"):
        rows_of("split:tset")


def test_an_answer_column_of_json_is_looked_into_like_any_other_answer(tmp_path: Path) -> None:
    space = workspace.create(tmp_path / "work")
    file = space.datasets / "a.jsonl"
    rows = [
        {"question": "q", "answer": json.dumps({"urgency": level})} for level in ("high", "low")
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert found(open_dataset(file, space), "answer.urgency=high") == [0]
