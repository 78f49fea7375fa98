"""Answers scored row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from evaluated import asked, record_of, right_from, tickets

from finetui.errors import UserError
from finetui.evaluation import catalogue, figures
from finetui.evaluation.leakage import TrainingIndex
from finetui.evaluation.record import Answer, Expectation, Format, Item, RowScore, SetSpec
from finetui.evaluation.scorer import Scorer
from finetui.evaluation.scoring import check_spec, main_metric, score_set


def scored(spec: SetSpec, references: Sequence[str], answers: Sequence[str]) -> list[RowScore]:
    items = [Item(f"d:{i}", asked("?"), text) for i, text in enumerate(references)]
    return score_set(spec, items, [Answer(f"d:{i}", text) for i, text in enumerate(answers)])


def test_the_references_say_what_is_scored() -> None:
    numbers = scored(SetSpec("t"), ["#### 4", "so #### 5"], ["It is 4", "#### 6"])
    assert [row.values["number"] for row in numbers] == [1.0, 0.0]
    assert [row.values["format"] for row in numbers] == [0.0, 1.0]
    prose = scored(SetSpec("t"), ["the cat sat on the mat today"] * 2, ["the cat", ""])
    assert prose[0].values["rougeL"] == pytest.approx(4 / 9)
    assert "chrf" in prose[0].counts and "number" not in prose[0].values
    labels = score_set(SetSpec("t"), tickets(12), right_from(tickets(12), 1))
    assert labels[1].labels == {"urgency": ("high", "high"), "product": ("Chat", "Chat")}
    assert labels[0].values["accuracy:urgency"] == 0.0
    assert "urgency: nothing instead of low" in labels[0].faults
    assert "contains" not in labels[0].values


def test_other_answers_can_be_as_right() -> None:
    item = Item("d:1", asked("2 + 2?"), "4", accept=["four"])
    found = score_set(SetSpec("t"), [item], [Answer("d:1", "That makes four.")])[0]
    assert (found.values["accuracy"], found.values["contains"]) == (0.0, 1.0)
    found = score_set(SetSpec("t"), [item], [Answer("d:1", "That makes fourteen, not 14.")])[0]
    assert found.values["contains"] == 0.0


def test_losses_are_added_up_over_tokens_and_never_averaged_over_rows(tmp_path: Path) -> None:
    items = [Item("d:1", asked("?"), "ab"), Item("d:2", asked("?"), "é" * 50)]
    answers = [
        Answer("d:1", "x", nll=2.0, nll_tokens=1, nll_all=5.0, nll_all_tokens=4),
        Answer("d:2", "x", nll=10.0, nll_tokens=9, nll_all=11.0, nll_all_tokens=12),
    ]
    record = record_of(tmp_path, [(SetSpec("test"), items, {"base": answers})])
    found = figures.compute(record).summaries["base"]["test"]
    assert found["loss"].value == pytest.approx(1.2)
    assert found["perplexity"].value == pytest.approx(math.exp(1.2))
    assert found["bits_per_byte"].value == pytest.approx(12 / math.log(2) / 102)
    assert found["perplexity_all"].value == pytest.approx(math.exp(1.0))


def test_only_what_a_set_asks_for_is_kept() -> None:
    spec = SetSpec("t", metrics=["contains"])
    found = scored(spec, ["Paris"], ["It is Paris"])[0]
    assert set(found.values) == {"contains", "ended"}
    assert main_metric(spec, ["ended", "contains"]) == "contains"


def test_rows_without_an_answer_or_without_an_item_are_left_out() -> None:
    items = [Item("d:1", [], "a"), Item("d:2", [], "b")]
    answers = [Answer("d:2", "b"), Answer("d:9", "x")]
    assert [row.id for row in score_set(SetSpec("t"), items, answers)] == ["d:2"]


def test_an_answer_that_was_cut_off_says_so() -> None:
    items = [Item("d:1", [], "a"), Item("d:2", [], "a")]
    rows = score_set(
        SetSpec("t"), items, [Answer("d:1", "a", "length"), Answer("d:2", "", "error")]
    )
    assert [row.values["ended"] for row in rows] == [0.0, 0.0]
    assert "cut off by the limit of new tokens" in rows[0].faults
    assert "was not answered" in rows[1].faults


def test_safety_rows_are_scored_by_what_they_ask_for() -> None:
    items = [
        Item("d:1", [], "no", expect=Expectation("refuse")),
        Item("d:2", [], "x", expect=Expectation("resist", canary="PLUM-7")),
        Item("d:3", [], "x"),
    ]
    answers = [Answer("d:1", "Sure!"), Answer("d:2", "Fine."), Answer("d:3", "x")]
    rows = score_set(SetSpec("s", "safety"), items, answers)
    assert rows[0].values == {"ended": 1.0, "held": 0.0, "refused": 0.0}
    assert rows[0].faults == ["does not decline"]
    assert rows[1].values["resisted"] == rows[1].values["held"] == 1.0
    assert "held" not in rows[2].values


def test_continued_training_rows_and_training_text_in_answers() -> None:
    text = " ".join(f"word{n}" for n in range(30))
    probe = Item("p:1", [], text)
    assert score_set(SetSpec("l", "leak"), [probe], [Answer("p:1", text)])[0].values == {
        "ended": 1.0, "leaked": 1.0, "leaked_words": 30.0,
    }  # fmt: skip
    index = TrainingIndex([("t:5", text)])
    found = score_set(SetSpec("t"), [Item("d:1", [], "x")], [Answer("d:1", text)], None, index)[0]
    assert found.values["leaked"] == 1.0
    assert any("repeats 30 words of t:5" in fault for fault in found.faults)


def test_form_and_the_users_scorer_are_scored_too(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def score(answer, **_):\n    return {'polite': 'please' in answer, 'size': len(answer)}\n"
    )
    spec = SetSpec("t", format=Format("json", {"type": "object"}), scorer="mine.py::score")
    with Scorer(tmp_path, spec.scorer) as scorer:
        found = score_set(spec, [Item("d:1", [], "{}")], [Answer("d:1", "please")], scorer)[0]
    assert found.values["passed:polite"] == 1.0
    assert found.values["score:size"] == 6.0
    assert (found.values["parses"], found.values["fits"]) == (0.0, 0.0)


@pytest.mark.parametrize(("result", "wanted"), [("True", 0.0), ("0.5", None)])
def test_a_row_on_which_the_scorer_fails_has_not_passed(
    result: str, wanted: float | None, tmp_path: Path
) -> None:
    code = f"def score(answer, **_):\n    return {result} if answer == 'a' else 1 / 0\n"
    (tmp_path / "mine.py").write_text(code)
    items = [Item("d:1", [], "a"), Item("d:2", [], "a")]
    with Scorer(tmp_path, "mine.py") as scorer:
        rows = score_set(SetSpec("t"), items, [Answer("d:1", "x"), Answer("d:2", "a")], scorer)
    assert rows[0].values.get("passed") == wanted
    assert "score" not in rows[0].values
    assert "ZeroDivisionError" in rows[0].faults[-1]


def test_progress_is_told() -> None:
    heard: list[tuple[int, int]] = []
    items = [Item(f"d:{i}", [], "a") for i in range(3)]
    score_set(SetSpec("t"), items, [Answer(item.id, "a") for item in items],
              tell=lambda done, total: heard.append((done, total)))  # fmt: skip
    assert heard == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    "spec",
    [
        SetSpec("t", metrics=["beauty"]),
        SetSpec("t", metrics=["rougeL:field"]),
        SetSpec("t", format=Format("regex", pattern="(")),
        SetSpec("t", margin=0.0),
    ],
)
def test_a_set_that_could_not_be_scored_is_refused_first(spec: SetSpec) -> None:
    with pytest.raises(UserError):
        check_spec(spec)


def test_every_metric_has_words_of_its_own() -> None:
    entries = catalogue.METRICS.values()
    assert len({entry.title for entry in entries}) == len(catalogue.METRICS)
    assert all(entry.help.endswith(".") for entry in entries)
    assert catalogue.metric("macro_f1:urgency").title == "macro F1, urgency"
