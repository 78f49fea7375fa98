"""Readiness says what is trained on, what would be lost, and what is in the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetui import workspace
from finetui.cli import run
from finetui.data import questions, readiness
from finetui.data.dataset import DataSet, open_dataset
from finetui.data.readiness import Plan
from finetui.data.tokens import ChatTokenizer, load_chat_tokenizer
from finetui.errors import UserError
from finetui.workspace import Workspace


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    return load_chat_tokenizer(workspace.sample_data() / "model")


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return workspace.create(tmp_path / "work")


def a_set(
    space: Workspace, *answers: str, roles: tuple[str, ...] = ("user", "assistant")
) -> DataSet:
    file = space.datasets / "a.jsonl"
    rows = [
        {"messages": [{"role": role, "content": answer} for role in roles]} for answer in answers
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_dataset(file, space)


def test_tokens_are_those_of_the_model_and_its_template(
    space: Workspace, tokenizer: ChatTokenizer
) -> None:
    dataset = a_set(space, *["yes"] * 20)
    found = readiness.measure(dataset, tokenizer, 100)
    one = tokenizer.encode(
        [{"role": "user", "content": "yes"}, {"role": "assistant", "content": "yes"}]
    )
    assert (found.rows, found.kept, found.measured, found.exact) == (20, 20, 20, True)
    assert found.tokens == 20 * len(one.ids)
    assert found.trained == 20 * one.trained_tokens
    assert found.longest == len(one.ids)


def test_a_long_row_is_lost_in_some_trainers_and_cut_in_others(
    space: Workspace, tokenizer: ChatTokenizer
) -> None:
    dataset = a_set(space, "short", "long " * 300)
    found = readiness.measure(dataset, tokenizer, 200)
    told = {name: dict(counts) for name, counts in readiness.losses(found).items()}
    assert found.over == 1 and found.longest_row == 1
    assert told["finetui"] == {"trained": 1, "dropped": 1}
    assert told["Axolotl"] == {"trained": 1, "dropped": 1}
    assert told["LLaMA-Factory"] == {"trained": 1, "cut": 1}
    # the prompt alone fills the limit, so nothing trained is left behind the cut
    assert told["TRL"] == {"trained": 1, "dropped": 1}


def test_rows_that_were_left_out_do_not_count(space: Workspace, tokenizer: ChatTokenizer) -> None:
    dataset = a_set(space, *["yes"] * 12)
    dataset.drop([0, 1])
    dataset.quarantine([2], "odd")
    found = readiness.measure(dataset, tokenizer, 100)
    assert (found.rows, found.kept, found.measured) == (12, 9, 9)
    page = readiness.points(found, {}, {"duplicate": "warning"})
    assert readiness.ready(page) == "bad"  # nine rows are too few
    assert page[0].title == "size"


def test_a_broken_row_and_an_error_stand_in_the_way(
    space: Workspace, tokenizer: ChatTokenizer
) -> None:
    dataset = a_set(space, *["yes"] * 30)
    clean = readiness.measure(dataset, tokenizer, 100)
    good = readiness.points(clean, {}, {"secret": "error"}, Plan(held_out=60, leaks=0))
    assert readiness.ready(good) == "warn"  # 30 rows are few; nothing else
    dataset.path.write_text(dataset.path.read_text() + "{broken\n")
    with open_dataset(dataset.path, space) as again:
        found = readiness.measure(again, tokenizer, 100)
    page = readiness.points(found, {"secret": 2}, {"secret": "error"}, Plan(held_out=0, leaks=3))
    bad = {point.title for point in page if point.state == "bad"}
    assert bad == {"rows", "checks", "held-out rows", "leaks"}
    assert found.first_broken == 30


def test_without_a_model_roles_are_judged_and_tokens_are_unknown(space: Workspace) -> None:
    dataset = a_set(space, *["a"] * 12, roles=("user", "user", "assistant"))
    found = readiness.measure(dataset, None, 100)
    assert set(found.fates) == {"LLaMA-Factory"}
    assert found.lost("LLaMA-Factory") == 12
    assert any(point.state == "unknown" for point in readiness.points(found, {}, {}))


# ---------------------------------------------------------------- whether to tune at all


def test_answers_are_kept_and_add_up_to_a_verdict(space: Workspace) -> None:
    assert questions.verdict(questions.replies(space)).state == "unknown"
    for question in questions.QUESTIONS:
        told = questions.answer(space, question.id, question.wanted, "because")
    assert told.state == "good"
    kept = questions.replies(space)["prompting"]
    assert (kept.answer, kept.note) == ("yes", "because") and kept.who and kept.when


def test_a_decisive_answer_against_tuning_names_what_to_do_instead(space: Workspace) -> None:
    told = questions.answer(space, "knowledge", "yes")
    assert told.state == "bad" and "retrieval" in told.advice[0]
    assert questions.answer(space, "knowledge", "").state == "unknown"


def test_comments_in_the_answers_survive_and_bad_ones_are_refused(space: Workspace) -> None:
    file = space.root / questions.FILE
    file.write_text("# asked in the meeting of May\n")
    questions.answer(space, "stable", "no")
    assert file.read_text().startswith("# asked in the meeting")
    with pytest.raises(UserError, match="yes, no or unsure"):
        questions.answer(space, "stable", "maybe")
    with pytest.raises(UserError, match="no question"):
        questions.answer(space, "stabel", "yes")
    file.write_text("= broken")
    with pytest.raises(UserError, match="cannot be read"):
        questions.answer(space, "stable", "yes")


def test_a_finished_scan_of_the_same_bytes_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = workspace.create(tmp_path / "work")
    file = space.datasets / "a.jsonl"
    words = "the parcel that was promised for tuesday morning has still not come to my door at all"
    rows = [f"Please help: {words}", f"Please help: {words} now"]
    file.write_text("".join(json.dumps({"prompt": q, "completion": "Yes."}) + "\n" for q in rows))
    place = ["-w", str(space.root), str(file)]

    def told() -> str:
        run(["ready", "--json", *place])
        page = json.loads(capsys.readouterr().out)
        return next(point["detail"] for point in page["points"] if point["title"] == "checks")

    assert told() == "nothing found"
    run(["check", "--store", *place])
    capsys.readouterr()
    assert told() == "no error, 2 other findings", "only a whole scan compares rows"
