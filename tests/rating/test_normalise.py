"""What is taken from an output before a rater sees it, and what never is."""

from __future__ import annotations

import random

import pytest

from finetui.rating.normalise import normalise


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (" urgency: high<|im_end|>\n", "urgency: high"),
        ("<|im_start|>assistant\nurgency: high<|im_end|>", "urgency: high"),
        ("<|start_header_id|>assistant<|end_header_id|>\n\nYes.<|eot_id|>", "Yes."),
        ("<start_of_turn>model\nYes.<end_of_turn>", "Yes."),
        ("[INST] Yes. [/INST]", "Yes."),
        ("<s> Yes. </s></s>", "Yes."),
        ("Yes.<pad><pad><eos>", "Yes."),
        ("<｜begin▁of▁sentence｜>Yes.", "Yes."),
        ("Yes.   \nNo.\t\n", "Yes.\nNo."),
        ("\x1b[31mred\x1b[0m and \x1b]0;title\x07plain", "red and plain"),
        ("\x1b]52;c;aGk=\x1b\\copy \x9b1mbold", "copy bold"),
        ("pass\u200bword \u202eabc\u202c\ufeff", "password abc"),
        ("tag\U000e0041\U000e0042", "tag"),
        ("line\r\nbreak\rend", "line\nbreak\nend"),
        ("bell\x07 null\x00", "bell null"),
        ("half \ud800 pair", "half \ufffd pair"),
        ("<|im_<|pad|>end|>nested", "nested"),
    ],
)
def test_residue_and_invisible_marks_are_removed(raw: str, shown: str) -> None:
    assert normalise(raw) == shown


@pytest.mark.parametrize(
    "text",
    [
        "def f(x):\n    return x < 3 and x > 1",
        "<b>bold</b> <s>struck</s> text",
        "a | b | c\n--|---|--\n1 | 2 | 3",
        '{"urgency": "high"}',
        "[/b] is markup, [INSTEAD] is not",
        "two  spaces   inside",
        "می‌خواهم 👩‍👩‍👧 क्‍ष",
        "Ünïcode ﷼ 漢字",
        "many\n\n\nblank lines",
    ],
)
def test_words_spacing_and_scripts_stay_as_they_are(text: str) -> None:
    assert normalise(text) == text


def test_a_tokenizers_own_tokens_are_removed() -> None:
    assert normalise("[EOT]Yes.[EOT][EOTX]", ["[EOT]", "", " ", "[EOTX]"]) == "Yes."


def test_joiners_that_join_nothing_are_hidden_marks_and_go() -> None:
    assert normalise("wa\u200dter\u200c mark") == "water mark"


def test_doing_it_twice_changes_nothing() -> None:
    draw = random.Random(5)
    pieces = [
        "<|",
        "|>",
        "im_end",
        "<s>",
        "</s>",
        "\x1b[",
        "3",
        "m",
        " ",
        "\n",
        "\u200d",
        "é",
        "a",
        "\r",
    ]
    for _ in range(2000):
        once = normalise("".join(draw.choices(pieces, k=12)))
        assert normalise(once) == once
