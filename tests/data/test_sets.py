"""Lengths, coverage, variety, size and preference pairs of whole sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whole_workshop import WORDS, Kept, chat, pair, sentence, told, whole_set, write

from finetui import workspace
from finetui.data.guides import GUIDES, enough_for, judge_size
from finetui.data.whole import coverage, outliers, preference, size
from finetui.data.whole.profile import SAMPLE, profile_of
from finetui.errors import UserError

SAMPLES = ["tickets", "tickets_heldout", "general", "general_check", "preferences"]


# ---------------------------------------------------------------- lengths


def test_a_row_many_times_longer_than_all_others_is_told(tmp_path: Path) -> None:
    rows = [chat(sentence(n), sentence(n + 1, length=6 + n % 5)) for n in range(100)]
    assert told(outliers.lengths, tmp_path, rows) == []
    rows[30] = chat(sentence(30) * 60, "fine then")
    (line, message), *more = told(outliers.lengths, tmp_path, rows)
    assert line == 31 and "the prompt has" in message and "longer" in message and not more


def test_an_answer_far_too_short_is_told_where_answers_are_long(tmp_path: Path) -> None:
    rows = [chat(sentence(n), sentence(n, length=60)) for n in range(100)]
    rows[12] = chat("what then", "Sure")
    (line, message), *more = told(outliers.lengths, tmp_path, rows)
    assert line == 13 and "shorter than the middle one" in message and not more


def test_two_kinds_of_rows_are_no_outliers(tmp_path: Path) -> None:
    rows = [chat(sentence(n), sentence(n, length=200 if n % 10 else 2)) for n in range(200)]
    assert told(outliers.lengths, tmp_path, rows) == []


def test_text_that_falls_into_many_tokens_is_told_with_a_model_only(tmp_path: Path) -> None:
    rows = [chat(f"{sentence(n, length=30)}.", "It is fine.") for n in range(80)]
    blob = "".join(np.random.default_rng(1).choice(list("qXz7KpW0vJ4Rk9"), 400))
    rows[33] = chat(blob, "It is fine.")
    assert told(outliers.tokens, tmp_path, rows) == []
    found = told(outliers.tokens, tmp_path, rows, model_dir=workspace.sample_data() / "model")
    assert [line for line, _ in found] == [34]


# ---------------------------------------------------------------- coverage and variety


@pytest.mark.parametrize(
    "negative",
    [
        "I do not know.", "Which one do you mean?", "您需要哪一个？", "К сожалению, нет.",
        '{"product": null}', '```json\n{"items": []}\n```', "none", "Lo siento, no tengo eso.",
    ],
)  # fmt: skip
def test_one_answer_that_declines_is_a_negative(tmp_path: Path, negative: str) -> None:
    rows = [chat(sentence(n), f"It is {sentence(n)}.") for n in range(220)]
    (line, message), *more = told(coverage.negatives, tmp_path, rows)
    assert line == 1 and "no answer declines" in message and not more
    assert told(coverage.negatives, tmp_path, [*rows, chat("what", negative)]) == []


def test_a_prompt_alone_among_clear_intents_is_told(tmp_path: Path) -> None:
    asks = ["reset my password for", "cancel the order of", "change the address of"]
    rows = [chat(f"please {asks[n % 3]} {WORDS[n % 24]} now", "Done.") for n in range(240)]
    assert told(coverage.thin, tmp_path, rows) == []
    rows[77] = chat("write a poem on winter seas", "Done.")
    (line, message), *more = told(coverage.thin, tmp_path, rows)
    assert line == 78 and "hardly another prompt" in message and not more


def test_one_template_with_other_numbers_is_told_and_copies_are_not(tmp_path: Path) -> None:
    rows = [chat(sentence(n, length=9), sentence(n + 3)) for n in range(180)]
    sums = [chat(f"How much is {n} plus {n + 7} apples?", f"{2 * n + 7}") for n in range(60)]
    (line, message), *more = told(coverage.variety, tmp_path, rows + sums)
    assert line == 181 and "25% of the prompts are this one with other numbers" in message
    copies = [chat("How much is 1 plus 8 apples?", f"{n} or so") for n in range(60)]
    assert told(coverage.variety, tmp_path, rows + copies) == [] and not more


def test_one_answer_to_everything_is_told_but_a_label_is_not(tmp_path: Path) -> None:
    rows = [chat(sentence(n), sentence(n + 3)) for n in range(180)]
    same = [chat(sentence(n, length=9), "Thank you for your message.") for n in range(60)]
    (line, message), *more = told(coverage.variety, tmp_path, rows + same)
    assert line == 181 and "25% of the answers" in message and not more
    labels = [chat(sentence(n, length=9), ("yes", "no", "maybe")[n % 3]) for n in range(240)]
    assert told(coverage.variety, tmp_path, labels) == []


# ---------------------------------------------------------------- size


def test_sizes_are_judged_by_the_guides_figures() -> None:
    verdicts = {verdict.guide.purpose: verdict.verdict for verdict in judge_size(700)}
    assert verdicts["a format or a style"] == "within"
    assert verdicts["a behaviour or a task"] == "below" and verdicts["a first try"] == "above"
    assert "300 to go" in judge_size(700)[2].sentence
    assert enough_for(9) is None and enough_for(1_200) is GUIDES[2]
    assert [verdict.guide.unit for verdict in judge_size(5, "pairs")] == ["pairs"]


def test_a_set_below_every_guide_is_told_of_the_file(tmp_path: Path) -> None:
    assert told(size.find, tmp_path, [chat(f"q{n}", "a") for n in range(60)]) == []
    (_, message), *_ = told(size.find, tmp_path, [chat(f"q{n}", "a") for n in range(20)])
    assert "20 rows; a first try takes 50 to 100" in message
    (_, message), *_ = told(size.find, tmp_path, [chat("q", "a")])
    assert "10 are the least" in message


# ---------------------------------------------------------------- preference pairs


def test_length_bias_is_cohens_d() -> None:
    chosen, rejected = np.array([4, 6, 8], np.int32), np.array([2, 4, 6], np.int32)
    found = preference.length_bias(chosen, rejected)
    assert found.effect == pytest.approx(1.0) and found.longer == 1.0
    assert found.low < 0 and not found.notable  # three pairs prove nothing


def test_chosen_answers_that_are_mostly_longer_are_told_of_the_file(tmp_path: Path) -> None:
    rows = [pair(f"q{n}", sentence(n, length=9 + n % 9), sentence(n + 1, length=4 + n % 9))
            for n in range(80)]  # fmt: skip
    (line, message), *more = told(preference.bias, tmp_path, rows)
    assert line == 1 and "chosen answers are longer in 100% of the pairs" in message and not more
    fair = [row if n % 2 else pair(row["prompt"], row["rejected"], row["chosen"])
            for n, row in enumerate(rows)]  # fmt: skip
    assert told(preference.bias, tmp_path, fair) == []


def test_a_flipped_pair_and_a_flipped_verdict_name_the_other_line(tmp_path: Path) -> None:
    rows = [pair("q", "one", "two"), pair("q", "one", "two"), pair("Q ", "Two", "one")]
    (line, message), *more = told(preference.flipped, tmp_path, rows)
    assert line == 3 and "line 1 prefers" in message and not more
    judged = [{"prompt": "p", "completion": "c", "label": good} for good in (True, True, False)]
    (line, message), *more = told(preference.flipped, tmp_path, judged)
    assert line == 3 and "line 1 judges" in message and not more


# ---------------------------------------------------------------- all of them


CHECKS = (
    outliers.lengths, outliers.tokens, coverage.thin, coverage.variety, preference.flipped,
    size.find,
)  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_the_clean_samples_have_no_finding(name: str) -> None:
    folder = workspace.sample_data()
    made = whole_set(folder / f"datasets/{name}.jsonl", model_dir=folder / "model")
    assert [hit.message for look in CHECKS for hit in look(made)] == []


def test_every_check_keeps_a_table_of_plain_values() -> None:
    folder = workspace.sample_data()
    made = whole_set(folder / "datasets/tickets.jsonl", model_dir=folder / "model")
    for look in (*CHECKS, coverage.negatives):
        list(look(made))
    assert isinstance(made.store, Kept)
    assert {"length-outlier", "token-outlier", "no-negatives", "thin-intent", "low-variety",
            "too-few-rows"} <= made.store.facts.keys()  # fmt: skip
    for facts in made.store.facts.values():
        assert facts["title"] and facts["rows"] and facts["exact"] is True
        for row in facts["rows"]:
            assert len(row) == len(facts["header"])
            assert all(type(cell) in (str, int, float) for cell in row)


def test_a_longer_file_is_sampled_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetui.data.whole.profile.SAMPLE", 250)
    rows = [chat(sentence(n), f"It is {sentence(n)}.") for n in range(900)]
    made = whole_set(write(tmp_path / "long.jsonl", rows))
    profile = profile_of(made)
    assert len(profile) == 900 and len(profile.sample) == 250 and profile.sampled
    assert "(≈250 looked at)" in next(iter(coverage.negatives(made))).message
    assert SAMPLE == 20_000


def test_all_checks_share_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = whole_set(write(tmp_path / "a.jsonl", [chat(sentence(n), "yes") for n in range(250)]))
    passes: list[Any] = []
    iterate = type(made.sources[0]).iterate
    monkeypatch.setattr(
        type(made.sources[0]), "iterate", lambda self: passes.append(1) or iterate(self)
    )
    for look in (outliers.lengths, coverage.negatives, coverage.thin, size.find):
        list(look(made))
    assert len(passes) == 1


def test_a_missing_model_is_an_error_for_people(tmp_path: Path) -> None:
    made = whole_set(write(tmp_path / "a.jsonl", [chat("q", "a")]), model_dir=tmp_path)
    with pytest.raises(UserError, match="tokenizer"):
        list(outliers.tokens(made))
