"""Summaries, differences, verdicts, slices, worst rows, and the past of a training run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evaluated import asked, record_of, right_from, tickets

from finetui.errors import UserError
from finetui.evaluation import figures, paired, past, slices, worst
from finetui.evaluation.joined import JoinedRecord
from finetui.evaluation.metrics import wilson
from finetui.evaluation.record import Answer, Expectation, Item, Record, SetSpec, Subject

ITEMS = tickets()


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """The base is right on rows 40 to 59, the tuned one on rows 10 to 59."""
    answers = {"base": right_from(ITEMS, 40, 2.0), "tuned": right_from(ITEMS, 10, 1.0)}
    return record_of(tmp_path, [(SetSpec("test"), ITEMS, answers)])


def test_shares_have_wilson_tango_and_mcnemar(record: Record) -> None:
    found = figures.compute(record)
    base = found.summaries["base"]["test"]["accuracy"]
    assert (base.value, base.low, base.high) == pytest.approx((20 / 60, *wilson(20, 60)))
    change = found.difference("test", "accuracy", "tuned")
    assert change is not None and change.main
    assert (change.fixed, change.broken, change.n) == (30, 0, 60)
    assert (change.low, change.high) == pytest.approx(paired.tango(30, 0, 60))
    assert change.p == pytest.approx(2 / 2**30)
    assert change.direction == "better"
    assert (
        "tuned against base on test: right answer 33.3% → 83.3%, +50.0 pp (95 %" in change.sentence
    )
    assert change.sentence.endswith("30 fixed, 0 broken; better, p < 0.001)")


def test_losses_are_better_when_lower_and_tested_once(record: Record) -> None:
    found = figures.compute(record)
    loss = found.difference("test", "loss", "tuned")
    restated = found.difference("test", "perplexity", "tuned")
    assert loss is not None and restated is not None
    assert loss.value == pytest.approx(-1.0)
    assert loss.direction == restated.direction == "better"
    assert restated.p_holm == loss.p_holm
    assert found.difference("test", "tokens", "tuned") is None


def test_p_values_are_adjusted_over_all_differences_of_a_subject(record: Record) -> None:
    rows = [row for row in figures.compute(record).differences if row.metric not in (
        "perplexity", "bits_per_byte")]  # fmt: skip
    assert [row.p_holm for row in rows] == pytest.approx(paired.holm([row.p for row in rows]))


def test_the_same_record_gives_the_same_figures_and_keeps_them(record: Record) -> None:
    assert figures.read(record) is None
    written = figures.write(record)
    assert figures.read(record) == written == figures.compute(record)
    record.figures_path.write_text("{")
    with pytest.raises(UserError, match="figures.json"):
        figures.read(record)


def test_subjects_that_answered_other_rows_are_compared_on_the_common_ones(tmp_path: Path) -> None:
    answers = {"base": right_from(ITEMS, 40)[:50], "tuned": right_from(ITEMS, 10)[20:]}
    found = figures.compute(record_of(tmp_path, [(SetSpec("test"), ITEMS, answers)]))
    change = found.difference("test", "accuracy", "tuned")
    assert change is not None
    assert (change.n, change.was, change.now) == (30, pytest.approx(1 / 3), 1.0)
    loss = found.difference("test", "loss", "tuned")
    assert loss is not None and loss.n == 30
    assert found.unpaired == {"test": {"tuned": 30}}


def test_a_subject_that_has_no_answers_yet_is_left_out(tmp_path: Path) -> None:
    found = figures.compute(
        record_of(tmp_path, [(SetSpec("test"), ITEMS, {"base": right_from(ITEMS, 40)})])
    )
    assert list(found.summaries) == ["base"]
    assert found.differences == []


def suite(tmp_path: Path, n: int, broken: int, fixed: int = 0, margin: float = 0.05) -> Record:
    items = [Item(f"g:{i}", asked("?"), f"a{i}") for i in range(n)]
    base = [Answer(item.id, "" if i < fixed else item.reference) for i, item in enumerate(items)]
    tuned = [
        Answer(item.id, "" if n - broken <= i else item.reference) for i, item in enumerate(items)
    ]
    spec = SetSpec("general", "suite", margin=margin)
    return record_of(tmp_path, [(spec, items, {"base": base, "tuned": tuned})])


@pytest.mark.parametrize(
    ("n", "broken", "fixed", "good"),
    [
        (100, 0, 0, True),
        (100, 2, 2, True),
        (100, 30, 0, False),
        (100, 4, 0, None),
        (20, 0, 0, None),
    ],
)
def test_a_suite_is_kept_only_when_the_bad_end_is_within_the_margin(
    n: int, broken: int, fixed: int, good: bool | None, tmp_path: Path
) -> None:
    margin = 0.08 if fixed else 0.05
    (verdict,) = figures.compute(suite(tmp_path, n, broken, fixed, margin)).verdicts
    assert (verdict.kind, verdict.subject, verdict.good) == ("regression", "tuned", good)
    word = {True: "kept", False: "lost", None: "not clear"}[good]
    assert word in verdict.sentence


def test_safety_drift_and_leaks_have_verdicts_of_their_own(tmp_path: Path) -> None:
    ask = [Item(f"s:{i}", asked("?"), "no", expect=Expectation("refuse")) for i in range(80)]
    no, yes = "I can't help with that.", "Sure."
    text = " ".join(f"w{n}" for n in range(20))
    probes = [Item(f"p:{i}", asked("?"), text) for i in range(20)]
    prompts = [Item(f"g:{i}", asked("?"), "x") for i in range(10)]
    record = record_of(tmp_path, [
        (SetSpec("safety", "safety"), ask, {
            "base": [Answer(item.id, no) for item in ask],
            "tuned": [Answer(item.id, yes if i < 40 else no) for i, item in enumerate(ask)]}),
        (SetSpec("leak", "leak"), probes, {
            "base": [Answer(item.id, "other") for item in probes],
            "tuned": [Answer(item.id, text if i < 9 else "") for i, item in enumerate(probes)]}),
        (SetSpec("drift", "drift"), prompts, {
            "base": [Answer(item.id, "") for item in prompts],
            "tuned": [Answer(item.id, "", kl=3.0, kl_tokens=10) for item in prompts]}),
    ])  # fmt: skip
    found = figures.compute(record)
    told = {verdict.kind: (verdict.good, verdict.sentence) for verdict in found.verdicts}
    assert told["safety"][0] is False
    assert told["leak"][0] is False and "45.0% of 20 beginnings" in told["leak"][1]
    assert told["drift"][0] is None and "KL from the base 0.3000 nats" in told["drift"][1]
    leak = found.difference("leak", "leaked", "tuned")
    assert leak is not None
    assert (leak.fixed, leak.broken, leak.direction) == (0, 9, "worse")


def test_checkpoints_make_a_line_over_steps(tmp_path: Path) -> None:
    subjects = [Subject("base", "base"), Subject("step-20", "checkpoint", step=20),
                Subject("step-10", "checkpoint", step=10), Subject("other", "adapter")]  # fmt: skip
    answers = {who.name: right_from(ITEMS, 40 - who.step) for who in subjects}
    record = record_of(tmp_path, [(SetSpec("test"), ITEMS, answers)], subjects)
    manifest, found = record.manifest(), figures.compute(record)
    line = figures.over_steps(manifest, found, "test", "accuracy")
    assert [(step, round(point.value * 60)) for step, point in line] == [
        (0, 20),
        (10, 30),
        (20, 40),
    ]
    assert figures.main_sentence(found, manifest).startswith("step-20 against base on test")


def test_slices_show_where_it_fails(record: Record) -> None:
    found = slices.table(record, "test", "base", "tuned")
    assert [row.column for row in found if row.value in ("low", "de", "Pay")] == [
        "language", "urgency", "product",
    ]  # fmt: skip
    low = next(row for row in found if row.value == "low")
    assert (low.n, low.fixed, low.broken) == (30, 15, 0)
    assert (low.before, low.after) == pytest.approx((10 / 30, 25 / 30))
    assert (low.low, low.high) == pytest.approx(paired.tango(15, 0, 30))
    assert "length" not in {row.column for row in found}
    products = [row.after for row in found if row.column == "product"]
    assert products == sorted(products)


def test_slices_of_a_figure_of_the_whole_set(record: Record) -> None:
    found = slices.table(record, "test", "base", "tuned", "loss")
    assert all(row.difference == pytest.approx(-1.0) for row in found)


def test_the_worst_rows_come_first(record: Record) -> None:
    rows = worst.ranked(record, "test", "tuned", "base")
    changes = [row.change for row in rows]
    assert changes == ["broken"] * 30 + ["wrong"] * 10 + ["right"] * 20
    assert "urgency: nothing instead of low" in rows[0].note
    by_loss = worst.ranked(record, "test", "tuned", "base", "loss")
    assert {row.change for row in by_loss} == {"broken"}
    assert by_loss[0].note.startswith("loss of the reference 1.000 → 2.000")


def test_subjects_of_two_evaluations_are_paired_on_the_rows_that_are_the_same(
    tmp_path: Path,
) -> None:
    changed = [*ITEMS[:-5], *(Item(item.id, asked("another"), "x") for item in ITEMS[-5:])]
    first = record_of(
        tmp_path / "1", [(SetSpec("test"), changed, {"base": right_from(changed, 40)})]
    )
    second = record_of(tmp_path / "2", [(SetSpec("test"), ITEMS, {"tuned": right_from(ITEMS, 10)})])
    joined = JoinedRecord((first, "base"), (second, "tuned"))
    change = figures.compute(joined).difference("test", "accuracy", "after")
    assert change is not None
    assert (change.n, change.fixed, change.broken) == (55, 30, 0)
    assert worst.ranked(joined, "test", "after", "before")[0].change == "broken"
    assert joined.manifest().name == "base of try and tuned of try"
    with pytest.raises(UserError, match="no row in common"):
        JoinedRecord((first, "tuned"), (second, "tuned"))


def test_what_words_do_not_decide_is_put_aside_for_people(tmp_path: Path) -> None:
    items = [Item(f"s:{i}", asked("?"), "no", expect=Expectation("refuse")) for i in range(3)]
    no, late = "I can't help with that.", "Sure. " * 60 + "But I can't help with that."
    record = record_of(tmp_path, [(SetSpec("safety", "safety"), items, {
        "base": [Answer(item.id, no) for item in items],
        "tuned": [Answer("s:0", no), Answer("s:1", late), Answer("s:2", "Yes!")]})])  # fmt: skip
    rows = worst.ranked(record, "safety", "base", "tuned")
    assert {row.item.id for row in worst.doubtful(rows)} == {"s:1", "s:2"}


def test_the_past_of_a_training_run_reads_as_an_evaluation(tmp_path: Path) -> None:
    def write(name: str, answers: list[Answer]) -> None:
        rows = [
            {"id": item.id, "prompt": item.prompt, "answer": answer.answer,
             "reference": item.reference, "format": True, "correct": True}
            for item, answer in zip(ITEMS, answers, strict=True)
        ]  # fmt: skip
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)

    assert past.of_training(tmp_path) is None
    write("outputs-before", right_from(ITEMS, 40))
    write("outputs-after", right_from(ITEMS, 10))
    record = past.of_training(tmp_path)
    assert record is not None
    found = figures.compute(record)
    change = found.difference("test", "accuracy", "tuned")
    assert change is not None and (change.fixed, change.broken) == (30, 0)
    assert [spec.name for spec in record.manifest().sets] == ["test"]
    assert worst.ranked(record, "test", "base", "tuned")[0].change == "wrong"
