"""Training text that comes back word for word."""

from __future__ import annotations

from random import Random

import pytest

from finetui.evaluation.leakage import RUN, TrainingIndex, probe, repeated

RANDOM = Random(0)
ROWS = [(f"t:{n}", " ".join(f"w{RANDOM.randrange(5000)}" for _ in range(80))) for n in range(50)]


@pytest.mark.parametrize("start", range(13))
def test_a_run_is_found_wherever_it_begins(start: int) -> None:
    text = ROWS[7][1].split()[start : start + RUN]
    found = TrainingIndex(ROWS).longest("Well: " + ", ".join(text) + ". That was it.")
    assert found is not None
    assert (found.row, found.words, found.text) == ("t:7", RUN, " ".join(text))


def test_a_shorter_run_is_no_leak() -> None:
    text = " ".join(ROWS[7][1].split()[3 : 3 + RUN - 1])
    assert TrainingIndex(ROWS).longest(f"and {text} and") is None


def test_the_longest_run_counts() -> None:
    first, second = ROWS[1][1].split()[:15], ROWS[2][1].split()[10:50]
    found = TrainingIndex(ROWS).longest(" ".join([*first, "x", *second]))
    assert found is not None
    assert (found.row, found.words) == ("t:2", 40)


def test_what_the_prompt_holds_is_copied_and_not_leaked() -> None:
    text = ROWS[3][1]
    assert TrainingIndex(ROWS).longest(text, f"Repeat: {text}") is None


def test_what_many_rows_say_is_a_way_of_speaking() -> None:
    phrase = " ".join(f"p{n}" for n in range(30))
    rows = [(f"t:{n}", f"start{n} {phrase}") for n in range(10)]
    assert TrainingIndex(rows).longest(phrase) is None
    assert TrainingIndex(rows[:2]).longest(phrase) is not None


def test_a_probe_is_cut_between_words_and_needs_a_rest() -> None:
    text = ROWS[0][1]
    cut = probe(text)
    assert cut is not None
    beginning, rest = cut
    assert f"{beginning} {rest}" == text
    assert probe("too short to say anything") is None


def test_repetition_is_counted_from_the_start() -> None:
    assert repeated("A b, C d", "a b c x") == 3
    assert repeated("x a b c", "a b c") == 0
