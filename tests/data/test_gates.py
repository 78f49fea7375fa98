r"""A gate never keeps a check from a row that it would have told, however its JSON is written."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from text_samples import ANSWERS, LANGUAGES, PROMPTS, SAID_IN, TEXTS

from finetui.data.checks import gates
from finetui.data.checks.look import Looks, read_example
from finetui.data.checks.model import Check
from finetui.data.checks.registry import CHECKS
from finetui.data.formats.source import RawRow
from finetui.data.records import Shape
from finetui.data.strict import decode

GATED = [check for check in CHECKS.values() if isinstance(check.gate, re.Pattern)]
LOOKS = Looks(GATED)
SAMPLES = [
    *(text for group in (TEXTS, ANSWERS, PROMPTS) for texts in group.values() for text in texts),
    *(text for pair in LANGUAGES for text in pair),
    *SAID_IN.values(),
]
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f", '"': '\\"', "\\": "\\\\"}


def open_for(check: Check, raw: bytes) -> bool:
    assert isinstance(check.gate, re.Pattern)
    return check.gate.search(raw) is not None


def write(value: Any, dice: random.Random, habits: dict[str, float]) -> str:
    """JSON of a value as some program may write it: any character escaped, any spacing."""
    if isinstance(value, str):
        return '"' + "".join(_character(one, dice, habits) for one in value) + '"'
    gap = " " * (dice.random() < 0.8)
    if isinstance(value, list):
        return "[" + f",{gap}".join(write(part, dice, habits) for part in value) + "]"
    if isinstance(value, dict):
        pairs = (
            f"{write(k, dice, habits)}:{gap}{write(v, dice, habits)}" for k, v in value.items()
        )
        return "{" + f",{gap}".join(pairs) + "}"
    return json.dumps(value)


def _character(one: str, dice: random.Random, habits: dict[str, float]) -> str:
    escaped = json.dumps(one)[1:-1]
    if not one.isascii():
        if dice.random() < habits["far"]:
            return escaped.upper().replace("\\U", "\\u") if dice.random() < 0.3 else escaped
        return one
    if one in _SHORT or one < " ":
        spelt = _SHORT.get(one, escaped)
        return f"\\u{ord(one):04x}" if dice.random() < habits["near"] else spelt
    if one == "/" and dice.random() < habits["slash"]:
        return "\\/"
    return f"\\u{ord(one):04x}" if dice.random() < habits["near"] else one


def rows(prompt: str, answer: str, dice: random.Random) -> tuple[Any, Shape]:
    """One of the ways in which data sets hold a prompt and an answer."""
    cut = dice.randrange(len(prompt) + 1)
    parts = [{"type": "text", "text": prompt[:cut]}, {"type": "text", "text": prompt[cut:]}]
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    told = [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]
    several = [{"role": "user", "content": parts}, turns[1]]
    forms: list[tuple[Any, Shape]] = [
        ({"messages": turns}, Shape.CHAT),
        ({"messages": several}, Shape.CHAT),
        ({"conversations": told}, Shape.SHAREGPT),
        ({"instruction": "Do it.", "input": prompt, "output": answer}, Shape.ALPACA),
        ({"instruction": prompt, "input": "x", "output": answer}, Shape.ALPACA),
        ({"prompt": prompt, "completion": answer}, Shape.PROMPT_COMPLETION),
        ({"prompt": prompt, "chosen": answer, "rejected": prompt}, Shape.PREFERENCE),
        ({"messages": turns, "label": True}, Shape.UNPAIRED_PREFERENCE),
        ({"text": prompt + answer}, Shape.TEXT),
    ]
    return dice.choice(forms)


def missed(prompt: str, answer: str, dice: random.Random, habits: dict[str, float]) -> list[str]:
    value, shape = rows(prompt, answer, dice)
    raw = write(value, dice, habits).encode()
    example = read_example(RawRow(0, 1, 0, raw), decode, shape)
    assert example.fault is None
    told = {check.id: check for check, _ in LOOKS.hits(example)}
    return [name for name, check in told.items() if not open_for(check, raw)]


words = st.one_of(
    st.sampled_from(SAMPLES),
    st.text(max_size=12),
    st.text(alphabet="0123456789-. ()+/:AXx", max_size=24),
    st.text(alphabet="aoec асеοΑИ结é’“”«»ÃâÂ€©\xa0™ž\x80\x99", max_size=12),
    st.sampled_from([" ", "\n", "\t", "\\", '"', "'", "’", "/", "\r\n", ":", "<", ">", "key "]),
)
texts = st.lists(words, min_size=1, max_size=6).map("".join).filter(lambda text: len(text) < 900)
shares = st.sampled_from([0.0, 0.0, 0.3, 1.0])
habit = st.fixed_dictionaries(
    {"far": shares, "slash": shares, "near": st.sampled_from([0.0, 0.0, 0.0, 0.02])}
)


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts, texts, st.integers(0, 10**6), habit)
def test_no_gate_is_closed_for_a_row_that_its_check_tells(
    prompt: str, answer: str, seed: int, habits: dict[str, float]
) -> None:
    assert missed(prompt, answer, random.Random(seed), habits) == []


@pytest.mark.parametrize("text", SAMPLES)
def test_every_sample_opens_its_gate_in_every_writing(text: str) -> None:
    dice = random.Random(7)
    for far in (0.0, 0.5, 1.0):
        for near in (0.0, 0.05):
            habits = {"far": far, "near": near, "slash": far}
            for written in (text, text.upper(), text.replace(" ", "\n"), f"A line.\n{text}"):
                for prompt, answer in ((written, "Fine, done."), ("How is it?", written)):
                    assert missed(prompt, answer, dice, habits) == []


def test_gates_are_written_as_re2_reads_them() -> None:
    re2 = pytest.importorskip("re2")
    for check in GATED:
        assert isinstance(check.gate, re.Pattern)
        assert b"(?=" not in check.gate.pattern and b"(?<" not in check.gate.pattern
        assert re.search(rb"(?<!\\)\\b", check.gate.pattern.replace(rb"\\", b"")) is None
        re2.compile(check.gate.pattern)


RANGES = ("а-яё", "\u4e00-\u9fff", "\x80-\xff", "\U000e0000-\U000e007f", "é", "A-Z")


@given(st.characters(exclude_categories=["Cs"]), st.sampled_from(RANGES))
def test_a_class_of_characters_is_the_same_in_bytes(one: str, ranges: str) -> None:
    inside = re.fullmatch(f"[{ranges}]", one) is not None
    assert (re.fullmatch(gates.chars(ranges), one.encode()) is not None) == inside
    if inside and not one.isascii():
        assert re.match(gates.chars(ranges), json.dumps(one)[1:-1].encode())


def test_ordinary_rows_keep_nearly_every_gate_closed() -> None:
    rows = [
        f'{{"messages": [{{"role": "user", "content": "What is {n} times {n}, please?"}}, '
        f'{{"role": "assistant", "content": "It is {n * n}.\\n\\nThat is all."}}]}}'
        for n in range(50)
    ]
    for check in GATED:
        assert not any(open_for(check, row.encode()) for row in rows), check.id
