"""Scores say what a person would say; intervals and tests agree with published figures."""

from __future__ import annotations

import pytest

from finetui.evaluation.metrics import AnswerScore, mcnemar, score_answer, summarise, wilson

TICKET = '{"urgency": "high", "product": "Quill Mail"}'


@pytest.mark.parametrize(
    ("answer", "reference", "well_formed", "right"),
    [
        (TICKET, TICKET, True, True),
        ('  {"product": "Quill Mail",\n"urgency": "high"} ', TICKET, True, True),
        ('{"urgency": "low", "product": "Quill Mail"}', TICKET, True, False),
        ('{"urgency": "high"}', TICKET, False, False),
        ('{"urgency": "high", "product": "Quill Mail", "team": "x"}', TICKET, False, False),
        ("Thank you for writing!", TICKET, False, False),
        (f"```json\n{TICKET}\n```", TICKET, False, False),
        ('{"n": 1}', '{"n": true}', True, False),
        ('{"n": 1.0}', '{"n": 1}', True, True),
        ("[1, 2]", "[1, 2]", True, True),
        ("[2, 1]", "[1, 2]", True, False),
        ("So 40 + 2.\n#### 42", "work\n#### 42", True, True),
        ("#### 1,042", "#### 1042", True, True),
        ("the answer is $42.00", "#### 42", False, True),
        ("no idea", "#### 42", False, False),
        (" Paris\n", "Paris", True, True),
        ("paris", "Paris", True, False),
        ("", "Paris", False, False),
    ],
)
def test_scores_of_single_answers(
    answer: str, reference: str, well_formed: bool, right: bool
) -> None:
    assert score_answer(answer, reference) == AnswerScore(well_formed, right)


def test_wilson_equals_published_figures() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3 (95 %).
    for successes, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_without_data_knows_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(20, 20)[1] == 1.0


def test_summary_counts_shares() -> None:
    scores = [AnswerScore(True, True), AnswerScore(True, False), AnswerScore(False, False)] * 2
    summary = summarise(scores)
    assert (summary["n"], summary["format"]) == (6, pytest.approx(2 / 3))
    assert summary["accuracy"] == pytest.approx(1 / 3)
    assert summary["accuracy_low"] < 1 / 3 < summary["accuracy_high"]
    assert summarise([])["n"] == 0


def test_mcnemar_counts_what_changed() -> None:
    before = [True] * 5 + [False] * 9
    after = [False] + [True] * 4 + [True] * 7 + [False] * 2
    paired = mcnemar(before, after)
    assert (paired.fixed, paired.broken, paired.both_right, paired.both_wrong) == (7, 1, 4, 2)
    assert paired.p == pytest.approx(18 / 256)  # 2 * (C(8,0) + C(8,1)) / 2^8


def test_mcnemar_of_no_change_is_no_evidence() -> None:
    assert mcnemar([True, False], [True, False]).p == 1.0
    assert mcnemar([], []).p == 1.0


def test_mcnemar_refuses_unequal_sides() -> None:
    with pytest.raises(ValueError, match="longer|shorter"):
        mcnemar([True], [])
