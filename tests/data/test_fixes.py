"""A repair takes its finding away, changes nothing else, and is the same whenever it is done."""

from __future__ import annotations

import json

import pytest
from text_samples import TEXTS

from finetui.data.checks.fixes import PRIVATE, fixable, hidden, repair, spans
from finetui.data.checks.look import Looks, read_example
from finetui.data.checks.registry import CHECKS
from finetui.data.formats.source import RawRow
from finetui.data.records import Shape
from finetui.data.strict import decode
from finetui.errors import UserError


def row(text: str) -> bytes:
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "Fine, done."}]
    return json.dumps({"messages": turns, "id": 7}).encode()


def told(check: str, raw: bytes, shape: Shape = Shape.CHAT) -> bool:
    example = read_example(RawRow(0, 1, 0, raw), decode, shape)
    return any(Looks([CHECKS[check]]).hits(example))


def mended(check: str, text: str) -> str:
    fixed = repair(check, row(text), decode)
    assert fixed is not None
    return str(json.loads(fixed)["messages"][0]["content"])


@pytest.mark.parametrize(
    ("check", "text"),
    [(check, text) for check, texts in TEXTS.items() if fixable(check) for text in texts],
)
def test_a_repaired_row_is_told_no_more_and_repairing_again_changes_nothing(
    check: str, text: str
) -> None:
    if check == "mojibake" and "\ufffd" in text:
        return  # what was lost cannot be put back
    fixed = repair(check, row(text), decode)
    assert fixed is not None and not told(check, fixed.encode())
    assert repair(check, fixed.encode(), decode) == fixed
    assert json.loads(fixed)["id"] == 7


@pytest.mark.parametrize(
    ("check", "text", "meant"),
    [
        ("html", "fish &amp; chips<br>and <b>tea</b>", "fish & chips\nand tea"),
        ("html", "<p>one</p><p>two `a &amp; <b>`</p>", "one\ntwo `a &amp; <b>`\n"),
        ("double-escaped", "One.\\n\\nTwo: \\u00e9", "One.\n\nTwo: é"),
        ("homoglyph", "the p\u0430ypal page", "the paypal page"),
        ("homoglyph", "это \u0441ервeр", "это сервер"),
        ("control-characters", "\\(\x0crac{a}{b} \x08eta\\)", "\\(\\frac{a}{b} \\beta\\)"),
        ("control-characters", "a\x1b[31mb\u200bc\n\tfine", "a[31mbc\n\tfine"),
        ("mojibake", "itâ\x80\x99s cafÃ©", "it’s café"),
        ("iban", "to DE89 3704 0044 0532 0130 00.", "to [IBAN]."),
        ("national-id", "SSN 536-90-4399!", "SSN [ID]!"),
        ("ip-address", "at 93.184.216.34, yes", "at [IP], yes"),
        ("phone", "Tel. 030 1234567.", "Tel. [PHONE]."),
        ("secret", "postgres://admin:q8Zr2Lm9@db/x", "postgres://admin:[SECRET]@db/x"),
    ],
)  # fmt: skip
def test_a_repair_writes_what_was_meant(check: str, text: str, meant: str) -> None:
    assert mended(check, text) == meant


def test_code_keeps_its_markup() -> None:
    text = "Use:\n```html\n<p>a &amp; b</p>\n```"
    assert mended("html", text) == text


def test_a_mask_is_asked_for_every_value_with_its_kind() -> None:
    asked: list[tuple[str, str]] = []

    def mask(kind: str, value: str) -> str:
        asked.append((kind, value))
        return f"<{kind}>"

    text = "a@example.com or b@example.com"
    assert hidden("email", text, mask) == "<EMAIL> or <EMAIL>"
    assert asked == [("EMAIL", "a@example.com"), ("EMAIL", "b@example.com")]
    assert spans("email", text) == [(0, 13), (17, 30)]
    assert set(PRIVATE) <= set(CHECKS)


@pytest.mark.parametrize(
    ("check", "raw", "value"),
    [
        ("not-a-number", b'{"text": "NaN is \\"NaN\\"", "a": [NaN, -Infinity, 1]}',
         {"text": 'NaN is "NaN"', "a": [None, None, 1]}),
        ("lone-surrogate", b'{"text": "\\ud83d a \\ud83d\\ude00 \\\\ud83d \\udc00"}',
         {"text": " a 😀 \\ud83d "}),
        ("invalid-utf8", b'{"text": "caf\xe9 \x93x\x94 \xc3\xa9"}', {"text": "café “x” é"}),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_read_is_mended_in_its_bytes(
    check: str, raw: bytes, value: object
) -> None:
    assert told(check, raw, Shape.TEXT)
    fixed = repair(check, raw, decode)
    assert fixed is not None and json.loads(fixed) == value


def test_the_input_of_an_instruction_is_emptied() -> None:
    raw = b'{"instruction": "Name a fruit.", "input": "<noinput>", "output": "Pear."}'
    fixed = repair("placeholder-input", raw, decode)
    assert fixed is not None and json.loads(fixed)["input"] == ""
    with pytest.raises(UserError, match="no automatic repair"):
        repair("placeholder-input", row("N/A"), decode)
