"""Leaks between files: near prompts, passages, shared beginnings; templates are none."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from near_cases import chat, lines_of, long_rows, replaced, talk, text, whole_set, words, write

from finetui.data.alike import covered, near_leaks
from finetui.data.dataset import open_dataset
from finetui.data.formats.source import open_source
from finetui.data.whole import leakage
from finetui.data.whole.rows import SourceRows

SAMPLES = Path(__file__).parents[2] / "sample_data" / "datasets"
SCRIPTS = ("latin", "cyrillic", "han", "kana")


def reader(path: Path) -> SourceRows:
    source = open_source(path)
    return SourceRows(source, source.shape.shape)


def rows(rng: Random, count: int, script: str = "latin") -> list[tuple[str, str]]:
    """Prompts and answers of 60 words."""
    return [
        (text(words(rng, 60, script), script), text(words(rng, 60, script), script))
        for _ in range(count)
    ]


# ---------------------------------------------------------------- near prompts


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_held_out_prompt_in_other_words_is_a_near_leak(script: str, tmp_path: Path) -> None:
    rng = Random(1)
    asked = [words(rng, 60, script) for _ in range(20)]
    held = write(tmp_path / "test.jsonl", [chat(text(each, script), "yes") for each in asked])
    lines = [chat(*each) for each in rows(rng, 50, script)]
    for number in (3, 7):
        edited = text(replaced(rng, asked[number], 0.1, script), script)
        lines.append(chat(edited, "another answer"))
    train = write(tmp_path / "train.jsonl", lines)
    hits = list(leakage.find_near(whole_set(held, train)))
    assert lines_of(hits) == [51, 52] and all(hit.source == 1 for hit in hits)
    assert hits[0].message.endswith(f"% the same as in {held}:4")


def test_an_equal_prompt_is_left_to_the_leak_check_but_reported_to_the_gate(
    tmp_path: Path,
) -> None:
    rng = Random(2)
    asked = text(words(rng, 40))
    held = write(tmp_path / "test.jsonl", [chat(asked, "yes")])
    train = write(tmp_path / "train.jsonl", [chat(asked.upper(), "no")])
    assert list(leakage.find_near(whole_set(held, train))) == []
    with open_dataset(train) as one, open_dataset(held) as other:
        (leak,) = near_leaks([one], [other])
    assert (leak.row, leak.held_out_row, leak.similarity, leak.why) == (0, 0, 1.0, "near prompt")


def test_every_file_is_compared_with_those_before_it(tmp_path: Path) -> None:
    rng = Random(3)
    asked = words(rng, 60)
    paths = [
        write(tmp_path / f"{name}.jsonl", [chat(text(replaced(rng, asked, 0.05)), name)])
        for name in ("test", "validation", "train")
    ]
    hits = list(leakage.find_near(whole_set(*paths)))
    assert [(hit.source, hit.row) for hit in hits] == [(1, 0), (2, 0)]


def test_rows_of_one_template_leak_nothing(tmp_path: Path) -> None:
    rng = Random(4)
    template = text(words(rng, 60))

    def made(count: int) -> list[str]:
        return [chat(f"{template} {text(words(rng, 12))}", words(rng, 1)[0]) for _ in range(count)]

    held = write(tmp_path / "test.jsonl", made(40))
    whole = whole_set(held, write(tmp_path / "train.jsonl", made(200)))
    assert list(leakage.find_near(whole)) == [] and list(leakage.find_passages(whole)) == []


def test_the_sample_tickets_do_not_leak_and_the_dirty_ones_only_where_planted() -> None:
    held = SAMPLES / "tickets_heldout.jsonl"
    for name, planted in (("tickets", 0), ("tickets_dirty", 6)):
        with open_dataset(SAMPLES / f"{name}.jsonl") as train, open_dataset(held) as test:
            found = covered(train, [test])
        assert len(found) == planted and {leak.why for leak in found} <= {"same prompt"}


# ---------------------------------------------------------------- passages


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_passage_of_a_held_out_row_is_found_wherever_it_stands(
    script: str, tmp_path: Path
) -> None:
    rng = Random(5)
    secret = words(rng, 120, script)
    held = [chat("Continue.", text(secret, script))]
    held += [chat(*each) for each in rows(rng, 20, script)]
    lines = [chat(*each) for each in rows(rng, 60, script)]
    middle = text(secret[40:100], script)
    lines.append(chat(f"{text(words(rng, 30, script), script)} {middle} so?", "it depends"))
    shuffled = sorted(secret, key=lambda word: rng.random())
    lines.append(chat("Continue.", text(shuffled, script)))
    whole = whole_set(write(tmp_path / "test.jsonl", held), write(tmp_path / "train.jsonl", lines))
    (hit,) = leakage.find_passages(whole)
    assert hit.row == 60 and "of the text of" in hit.message and hit.message.endswith(":1")


def test_coverage_is_the_share_of_the_held_out_rows_passages(tmp_path: Path) -> None:
    rng = Random(6)
    said = words(rng, 200)
    held = write(tmp_path / "test.jsonl", [chat("Go on.", text(said))])
    train = write(
        tmp_path / "train.jsonl",
        [chat("Other", text(said[:100])), chat("Third", text(said[:20]))],
    )
    (leak,) = leakage.passages(reader(train), [reader(held)])
    assert leak.row == 0 and leak.other == 0 and leak.share == pytest.approx(0.5, abs=0.05)


# ---------------------------------------------------------------- beginnings

OPENING = (
    "I would like to move my subscription to another address, how do I do that?",
    "Open the settings, choose billing, and type the new address there.",
)


def test_a_conversation_that_begins_like_a_held_out_one_is_found(tmp_path: Path) -> None:
    held = write(tmp_path / "test.jsonl", [talk(*OPENING, "And the name?", "In the same place.")])
    train = write(
        tmp_path / "train.jsonl",
        [
            talk("Something else?", "Yes, something else of a sufficient length, I suppose."),
            talk(OPENING[0].upper(), OPENING[1]),
            talk(*OPENING, "And the country?", "That too."),
            talk(OPENING[0], "Write to us."),
        ],
    )
    hits = list(leakage.find_beginnings(whole_set(held, train)))
    assert lines_of(hits) == [2, 3]
    assert hits[0].message == f"the conversation begins like that of {held}:1"


def test_greetings_and_habits_are_no_shared_beginning(tmp_path: Path) -> None:
    rng = Random(7)
    short = [talk("Hi", "Hello!", text(words(rng, 9)), "yes") for _ in range(3)]
    usual = [talk(*OPENING, text(words(rng, 9)), "yes") for _ in range(8)]
    held = write(tmp_path / "test.jsonl", [short[0], usual[0]])
    train = write(tmp_path / "train.jsonl", [*short[1:], *usual[1:]])
    assert list(leakage.find_beginnings(whole_set(held, train))) == []


# ---------------------------------------------------------------- the door


def test_covered_gives_the_strongest_reason_and_minds_the_rows_held_out(tmp_path: Path) -> None:
    rng = Random(8)
    one, two = rows(rng, 2)
    held = write(tmp_path / "test.jsonl", [chat(*one), chat(*two)])
    lines = [chat(*each) for each in rows(rng, 5)]
    lines += [chat(one[0], "another answer"), chat("Repeat.", two[1])]
    train = write(tmp_path / "train.jsonl", lines)
    with open_dataset(train) as data, open_dataset(held) as test:
        found = covered(data, [test])
        assert [(leak.row, leak.held_out_row, leak.why) for leak in found] == [
            (5, 0, "same prompt"),
            (6, 1, "passages"),
        ]
        assert [leak.row for leak in covered(data, [(test, [1])])] == [6]


def test_a_file_that_is_gone_is_told_to_the_person(tmp_path: Path) -> None:
    from finetui.errors import UserError

    path = write(tmp_path / "train.jsonl", [chat("a", "b")])
    with open_dataset(path) as data:
        path.unlink()
        with pytest.raises(UserError, match="no such file"):
            covered(data, [])


def test_giving_up_ends_the_work(tmp_path: Path) -> None:
    from finetui.data.alike import StoppedError, near_clusters

    path = write(tmp_path / "data.jsonl", long_rows(1500))
    with open_dataset(path) as data, pytest.raises(StoppedError):
        near_clusters(data, stop=lambda: True)
