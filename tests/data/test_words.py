"""Words of texts as hashes: the same word the same hash, in every script."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from finetui.data.whole.words import once_a_text, spell, take, words_of


def test_case_and_numbers_are_folded_and_words_keep_their_texts() -> None:
    words = words_of(["Hello world 12", "", "hello WORLD 3456"])
    assert words.starts.tolist() == [0, 3, 3, 6]
    assert (words.hashes[:3] == words.hashes[3:]).all()


def test_scripts_without_spaces_give_pairs_of_characters() -> None:
    han, alone, cyrillic = (words_of([text]) for text in ("你好世界", "a 世 b", "привет Мир"))
    assert len(han.hashes) == 3 and len(alone.hashes) == 3 and len(cyrillic.hashes) == 2
    assert words_of(["好世"]).hashes[0] == han.hashes[1]


@given(st.lists(st.text(max_size=30), max_size=8))
def test_one_text_or_many_give_the_same_words(texts: list[str]) -> None:
    together = words_of(texts)
    for number, text in enumerate(texts):
        own = together.hashes[together.starts[number] : together.starts[number + 1]]
        assert own.tolist() == words_of([text]).hashes.tolist()


@given(st.lists(st.from_regex(r"[a-zé]{1,12}", fullmatch=True), max_size=20))
def test_words_are_those_that_a_pattern_finds(parts: list[str]) -> None:
    text = " ".join(parts)
    assert len(np.unique(words_of([text]).hashes)) == len(set(re.findall(r"[^\W_]+", text)))


def test_hashes_are_spelt_again_and_can_be_taken_by_text() -> None:
    texts = ["red green", "blue 你好", "green green"]
    words = words_of(texts)
    assert list(spell(texts, words.hashes[2:5]).values()) == ["blue", "你好", "green"]
    assert len(once_a_text(words).hashes) == 5
    assert take(words, np.array([2, 0])).hashes.tolist() == [
        *words.hashes[4:6].tolist(), *words.hashes[:2].tolist(),
    ]  # fmt: skip
