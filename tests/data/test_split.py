"""Splits: exact sizes, deterministic, grouped, balanced, and never leaking."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path

import pytest

from finetui import workspace
from finetui.data.dataset import open_dataset
from finetui.data.ledger import Ledger
from finetui.data.split import LEFT_OUT, Split, SplitSpec, find_leaks, split, split_datasets
from finetui.errors import UserError

SYSTEM = {"role": "system", "content": "The same for all."}


def chat(prompt: str, answer: str = "ok", **extra: object) -> dict[str, object]:
    turns = [SYSTEM, {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **extra}


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def placed(result: object, rows: list[dict[str, object]]) -> dict[str, set[int]]:
    """Prompt, normalised, to the splits it is in."""
    where: dict[str, set[int]] = defaultdict(set)
    for row, place in enumerate(result.assignment[0]):  # type: ignore[attr-defined]
        prompt = rows[row]["messages"][1]["content"]  # type: ignore[index]
        where[" ".join(prompt.lower().split())].add(place)
    return where


def test_shares_are_exact_though_all_rows_have_one_system_prompt(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [chat(f"question {n}") for n in range(1000)])
    assert split(path).counts == {"train": 800, "validation": 100, "test": 100}
    assert split(path, (0.9, 0.1)).counts == {"train": 900, "test": 100}


def test_the_same_prompt_in_other_case_and_spacing_stays_together(tmp_path: Path) -> None:
    rng = random.Random(4)
    rows = []
    for n in range(400):
        prompt = f"Where is parcel {n % 150}?"
        rows.append(chat(rng.choice([prompt, prompt.upper(), prompt.replace(" ", "  ")]), f"a{n}"))
    result = split(write(tmp_path / "a.jsonl", rows), seed=3)
    assert result.groups == 150
    assert all(len(places) == 1 for places in placed(result, rows).values())
    assert sum(result.counts.values()) == 400


def test_the_persons_key_joins_rows_and_chains_of_keys_and_prompts(tmp_path: Path) -> None:
    rows = [chat(f"q{n}", customer={"id": n // 10}) for n in range(300)]
    rows.append(chat("q5", customer={"id": 29}))  # ties customer 0 to customer 29
    result = split(write(tmp_path / "a.jsonl", rows), group_key="customer.id")
    assert result.groups == 29
    places = result.assignment[0]
    assert len({places[row] for row in (*range(10), *range(290, 301))}) == 1


def test_a_group_key_that_no_row_has_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [chat(f"q{n}") for n in range(30)])
    with pytest.raises(UserError, match="no row has the field 'user'"):
        split(path, group_key="user")


def test_one_seed_gives_one_split_and_another_seed_another(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [chat(f"q{n}") for n in range(200)])
    first = split(path, seed=1).assignment
    assert split(path, seed=1).assignment == first
    assert split(path, seed=2).assignment != first


def test_the_order_of_the_rows_does_not_matter(tmp_path: Path) -> None:
    rows = [chat(f"q{n}") for n in range(200)]
    straight = split(write(tmp_path / "a.jsonl", rows))
    by_prompt = {f"q{n}": place for n, place in enumerate(straight.assignment[0])}
    random.Random(1).shuffle(rows)
    mixed = split(write(tmp_path / "b.jsonl", rows))
    for row, place in enumerate(mixed.assignment[0]):
        assert by_prompt[rows[row]["messages"][1]["content"]] == place  # type: ignore[index]


@pytest.mark.parametrize("stratify", ["auto", "answer", "kind"])
def test_labels_are_balanced_over_the_splits(tmp_path: Path, stratify: str) -> None:
    labels = ["low"] * 500 + ["high"] * 90 + ["rare"] * 20
    rows = [chat(f"q{n}", label, kind=label) for n, label in enumerate(labels)]
    result = split(write(tmp_path / "a.jsonl", rows), stratify=stratify)
    for name, size in (("validation", 2), ("test", 2)):
        chosen = [labels[row] for row in result.rows(name)]
        assert chosen.count("rare") == size and chosen.count("high") == 9


def test_a_field_of_json_answers_is_found_for_balance(tmp_path: Path) -> None:
    rows = [
        chat(f"q{n}", json.dumps({"id": n, "urgency": ["low", "high"][n % 5 == 0]}))
        for n in range(300)
    ]
    result = split(write(tmp_path / "a.jsonl", rows), stratify="auto")
    assert result.stratified_by == "answer.urgency"
    high = [row for row in result.rows("test") if row % 5 == 0]
    assert len(high) == 6


def test_bad_blank_and_dropped_rows_belong_to_no_split(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(chat(f"q{n}")) for n in range(40)]
    lines[3:3] = ["{broken", ""]
    path.write_text("\n".join(lines) + "\n")
    result = split(path)
    assert sum(result.counts.values()) == 40
    assert list(result.assignment[0][3:5]) == [255, 255]


def test_several_files_are_split_as_one(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", [chat(f"q{n}") for n in range(100)])
    b = write(tmp_path / "b.jsonl", [chat(f"Q{n}") for n in range(100)])
    result = split([a, b])
    assert result.groups == 100 and result.assignment[0] == result.assignment[1]


def test_a_large_group_is_named_and_never_torn(tmp_path: Path) -> None:
    rows = [chat("the same question", f"a{n}") for n in range(60)]
    rows += [chat(f"q{n}") for n in range(140)]
    result = split(write(tmp_path / "a.jsonl", rows))
    assert len(set(result.assignment[0][:60])) == 1
    assert result.counts == {"train": 160, "validation": 20, "test": 20}
    assert "60 of 200" in result.notes[0]


def test_a_tiny_set_has_something_in_every_split(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [chat(f"q{n}") for n in range(4)])
    assert all(split(path).counts.values())
    with pytest.raises(UserError, match="cannot fill"):
        split(write(tmp_path / "b.jsonl", [chat("q"), chat("Q")]))


@pytest.mark.parametrize("fractions", [(0.8, 0.3), (1.0,), (1.2, -0.2), (0.5, 0.2, 0.2, 0.1)])
def test_impossible_shares_are_refused(tmp_path: Path, fractions: tuple[float, ...]) -> None:
    path = write(tmp_path / "a.jsonl", [chat(f"q{n}") for n in range(9)])
    with pytest.raises(UserError, match="is not a split"):
        split(path, fractions)


def test_the_gate_sees_a_planted_leak(tmp_path: Path) -> None:
    rows = [chat(f"q{n}") for n in range(50)] + [chat("Q7")]
    with open_dataset(write(tmp_path / "a.jsonl", rows)) as dataset:
        result = split_datasets([dataset], SplitSpec())
        assert find_leaks([dataset], result) == []
        result.assignment[0][50] = (result.assignment[0][7] + 1) % 3
        assert find_leaks([dataset], result) == [(f"{dataset.path}:51", f"{dataset.path}:8")]


# ---------------------------------------------------------------- groups of other kinds


def conversation(*said: str) -> dict[str, object]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[k % 2], "content": text} for k, text in enumerate(said)]}


LONG = "a question that is long enough to tell one conversation from another "


def test_a_conversation_and_its_continuation_stay_together(tmp_path: Path) -> None:
    rows = []
    for n in range(100):
        rows.append(conversation(f"{LONG}{n}", "the answer"))
        rows.append(conversation(f"{LONG}{n}", "the answer", f"and then {n}?", "so"))
        rows.append(conversation(f"{LONG}{n}", "the answer", f"or else {n}?", "no"))
    result = split(write(tmp_path / "a.jsonl", rows))
    assert result.groups == 100
    places = result.assignment[0]
    assert all(len(set(places[3 * n : 3 * n + 3])) == 1 for n in range(100))


def test_a_set_phrase_at_the_beginning_makes_no_group(tmp_path: Path) -> None:
    rows = [conversation(f"{LONG}of all", "Yes.", f"question {n}", "so") for n in range(300)]
    assert split(write(tmp_path / "a.jsonl", rows)).groups == 300
    short = [conversation("hi", "Hello!", f"question {n}", "so") for n in range(15)]
    assert split(write(tmp_path / "b.jsonl", short)).groups == 15


def test_blanks_say_nothing_in_a_script_without_them(tmp_path: Path) -> None:
    rows = [chat(f"第 {n} 号 订单 在哪里") for n in range(50)]
    rows += [chat(f"第{n}号订单在哪里") for n in range(50)]
    result = split(write(tmp_path / "a.jsonl", rows))
    assert result.groups == 50 and result.assignment[0][:50] == result.assignment[0][50:]


def test_equal_rows_without_a_question_stay_together(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "assistant", "content": f"a{n % 40}"}]} for n in range(120)]
    result = split(write(tmp_path / "a.jsonl", rows))
    assert result.groups == 40 and result.assignment[0][:40] == result.assignment[0][40:80]


def test_clusters_that_are_handed_in_are_not_torn(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", [chat(f"q{n}") for n in range(90)])
    b = write(tmp_path / "b.jsonl", [chat(f"p{n}") for n in range(90)])
    alike = [[(0, n), (1, n)] for n in range(90)]
    with open_dataset(a) as first, open_dataset(b) as second:
        result = split_datasets([first, second], SplitSpec(), alike)
    assert result.groups == 90 and result.assignment[0] == result.assignment[1]


# ---------------------------------------------------------------- by count


def test_rows_can_be_asked_for_by_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [chat(f"q{n}") for n in range(1000)])
    with open_dataset(path) as dataset:
        some = split_datasets([dataset], SplitSpec(counts=(0, 50, 70)))
        assert some.counts == {"train": 880, "validation": 50, "test": 70}
        two = split_datasets([dataset], SplitSpec(counts=(0, 130)))
        assert two.counts == {"train": 870, "test": 130}
        few = split_datasets([dataset], SplitSpec(counts=(300, 20, 30)))
        assert few.counts == {"train": 300, "validation": 20, "test": 30}
        assert list(few.assignment[0]).count(LEFT_OUT) == 650
        assert few.notes == ["650 rows are more than was asked for, and left out."]
        with pytest.raises(UserError, match="1,001 rows are asked for, and there are 1,000"):
            split_datasets([dataset], SplitSpec(counts=(0, 1, 1000)))


# ---------------------------------------------------------------- frozen


def freeze(path: Path, spec: SplitSpec, earlier: Ledger | None = None) -> Split:
    with open_dataset(path) as dataset:
        return split_datasets([dataset], spec, earlier=earlier)


def by_prompt(result: Split, rows: list[dict[str, object]]) -> dict[str, int]:
    return {
        rows[row]["messages"][1]["content"]: place  # type: ignore[index]
        for row, place in enumerate(result.assignment[0])
    }


@pytest.mark.parametrize("stratify", ["", "answer"])
def test_growing_data_never_moves_an_old_row(tmp_path: Path, stratify: str) -> None:
    spec = SplitSpec(stratify=stratify)
    rng = random.Random(2)
    rows = [chat(f"q{n}", rng.choice("ab")) for n in range(300)]
    result = freeze(write(tmp_path / "a.jsonl", rows), spec)
    before = by_prompt(result, rows)
    for grown in range(3):
        rows = [*rows, *(chat(f"new {grown} {n}", rng.choice("abc")) for n in range(200))]
        rng.shuffle(rows)
        result = freeze(write(tmp_path / "b.jsonl", rows), spec, result.ledger)
        after = by_prompt(result, rows)
        assert {prompt: after[prompt] for prompt in before} == before
        before = after
    assert result.counts == {"train": 720, "validation": 90, "test": 90}
    assert result.notes == ["700 rows stay where they were."]


def test_an_old_row_keeps_its_place_when_its_prompt_is_repaired(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [chat(f"q{n}") for n in range(100)])
    space = workspace.create(tmp_path)
    first = freeze(path, SplitSpec())
    with open_dataset(path, space) as dataset:
        for row in range(0, 100, 3):
            dataset.edit(row, json.dumps(chat(f"repaired {row}")))
        again = split_datasets([dataset], SplitSpec(seed=9), earlier=first.ledger)
    assert again.assignment == first.assignment


def test_new_rows_of_an_old_customer_go_where_the_customer_is(tmp_path: Path) -> None:
    spec = SplitSpec(group_key="who")
    first = freeze(
        write(tmp_path / "a.jsonl", [chat(f"q{n}", who=n // 4) for n in range(200)]), spec
    )
    where = {n // 4: place for n, place in enumerate(first.assignment[0])}
    fresh = [chat(f"new {n}", who=n) for n in range(50)]  # the old rows are in no file any more
    second = freeze(write(tmp_path / "b.jsonl", fresh), spec, first.ledger)
    assert dict(enumerate(second.assignment[0])) == where


def test_what_ties_two_splits_together_is_left_out_and_told(tmp_path: Path) -> None:
    rows = [chat(f"q{n}") for n in range(60)]
    first = freeze(write(tmp_path / "a.jsonl", rows), SplitSpec())
    train, test = first.rows("train")[0], first.rows("test")[0]
    tie = chat("a new row that is like both")
    path = write(tmp_path / "b.jsonl", [*rows, tie])
    with open_dataset(path) as dataset:
        alike = [[(0, train), (0, 60)], [(0, test), (0, 60)]]
        second = split_datasets([dataset], SplitSpec(), alike, first.ledger)
    places = second.assignment[0]
    assert places[test] == 2 and places[train] == LEFT_OUT and places[60] == LEFT_OUT
    assert sum(old != new for old, new in zip(first.assignment[0], places, strict=False)) == 1
    assert "2 rows are left out" in second.notes[-1]


def test_a_split_in_two_cannot_go_on_from_one_in_three(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [chat(f"q{n}") for n in range(60)])
    first = freeze(path, SplitSpec())
    with pytest.raises(UserError, match="has a validation split"):
        freeze(path, SplitSpec((0.9, 0.1)), first.ledger)
    two = freeze(path, SplitSpec((0.9, 0.1)))
    assert freeze(path, SplitSpec(), two.ledger).rows("test") == two.rows("test")
