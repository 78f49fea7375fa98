"""Words of any script, ROUGE, chrF and BLEU."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetui.errors import UserError
from finetui.evaluation import overlap
from finetui.evaluation.paired import Added
from finetui.evaluation.words import folded, unspaced_share, words

ENGLISH = [
    ("the cat sat on the mat today", "the cat is sitting on the mat"),
    ("a quick brown fox", "the quick brown fox jumps over the lazy dog"),
    ("Nothing in common.", "completely different words here now"),
    ("It's 3.5 degrees, isn't it? Yes!", "It is 3.5 degrees, isn't it?"),
    ("", "an answer was wanted here"),
]
CHINESE = [("今天天气很好。", "今天的天气非常好。"), ("我喜欢读书", "他喜欢读书和写字")]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Don't stop_now, OK?", ["don", "t", "stop", "now", "ok"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("我有3只猫。", ["我", "有", "3", "只", "猫"]),
        ("ภาษาไทย", ["ภ", "า", "ษ", "า", "ไ", "ท", "ย"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("naïve ﬁle", ["naïve", "file"]),
        ("— … !", []),
    ],
)
def test_words_of_many_scripts(text: str, wanted: list[str]) -> None:
    assert words(text) == wanted


def test_marks_stay_with_their_letter_where_words_have_no_spaces() -> None:
    assert words("กี่") == ["กี่"]
    assert unspaced_share("ภาษา") == 1.0
    assert unspaced_share("plain text") == 0.0


def test_folding_takes_off_what_rarely_matters() -> None:
    assert folded(' "Paris." ') == folded("paris") == "paris"
    assert folded("ＡＢ  c") == "ab c"


def test_rouge_l_of_the_examples_in_lin_2004() -> None:
    reference = "police killed the gunman"
    assert overlap.rouge("police kill the gunman", reference)["rougeL"] == 0.75
    assert overlap.rouge("the gunman kill police", reference)["rougeL"] == 0.5


def test_rouge_counts_repeated_words_once_each() -> None:
    found = overlap.rouge("the the the", "the cat")
    assert found["rouge1"] == pytest.approx(2 * 1 / (3 + 2))
    assert found["rouge2"] == 0.0


def test_rouge_works_where_words_have_no_spaces() -> None:
    found = overlap.rouge("今天天气很好", "今天的天气很好")
    assert found["rougeL"] == pytest.approx(2 * 6 / 13)


def test_rouge_of_empty_texts() -> None:
    assert set(overlap.rouge("", "a b").values()) == {0.0}
    assert set(overlap.rouge("", "").values()) == {1.0}


@given(st.lists(st.sampled_from("abc"), max_size=40), st.lists(st.sampled_from("abc"), max_size=40))
@settings(max_examples=60, deadline=None)
def test_the_common_subsequence_is_that_of_the_plain_table(a: list[str], b: list[str]) -> None:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, left in enumerate(a):
        for j, right in enumerate(b):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if left == right else max(table[i][j + 1], table[i + 1][j])
            )
    assert overlap.common_subsequence(a, b) == table[-1][-1]


@pytest.mark.parametrize("pairs", [ENGLISH, CHINESE, ENGLISH[:1], [("", "x")], [("ab", "ab")]])
def test_chrf_is_that_of_sacrebleu(pairs: list[tuple[str, str]]) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    answers, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    oracle = sacrebleu.corpus_chrf(answers, [references]).score
    rows = [overlap.chrf_counts(*pair) for pair in pairs]
    assert Added(overlap.chrf)(rows) == pytest.approx(oracle, abs=1e-9)


@pytest.mark.parametrize(
    ("pairs", "tokenizer"),
    [
        (ENGLISH, "13a"),
        (CHINESE, "char"),
        (CHINESE, "zh"),
        (ENGLISH[1:2], "13a"),
        (ENGLISH[4:], "13a"),
    ],
)
def test_bleu_is_that_of_sacrebleu(pairs: list[tuple[str, str]], tokenizer: str) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    answers, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    oracle = sacrebleu.corpus_bleu(answers, [references], tokenize=tokenizer).score
    rows = [overlap.bleu_counts(*pair, tokenizer) for pair in pairs]
    assert Added(overlap.bleu)(rows) == pytest.approx(oracle, abs=1e-9)


def test_the_tokenizer_follows_the_script() -> None:
    assert overlap.tokenizer_for(["plain words", "more of them"]) == "13a"
    assert overlap.tokenizer_for(["今天天气很好"]) == "char"


def test_an_unknown_tokenizer_is_named() -> None:
    pytest.importorskip("sacrebleu")
    with pytest.raises(UserError, match='no tokenizer "nonsense"'):
        overlap.bleu_counts("a", "b", "nonsense")
