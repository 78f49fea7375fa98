"""The sanitiser: nothing that moves a cursor, hides or re-orders text gets through."""

from __future__ import annotations

import unicodedata

import pytest

from finetui.display import clean, clean_block, duration, has_unsafe, plural, size, span

HOSTILE = {
    "colour": "\x1b[31mred",
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "8-bit CSI": "\x9b2J",
    "right-to-left override": "abc\u202egnp.exe",
    "zero width": "pay\u200bpal",
    "tag characters": "hi\U000e0041",
    "line separator": "a\u2028b",
    "lone surrogate": "a\ud800b",
    "NUL": "a\x00b",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("sanitise", [clean, clean_block])
def test_hostile_text_becomes_printable_and_encodable(sanitise, text: str) -> None:
    shown = sanitise(text)
    shown.encode("utf-8")
    assert all(unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in shown)
    assert len(shown) >= len(text), "every character stays visible as a mark"
    assert has_unsafe(text)


def test_every_control_and_format_character_of_unicode_is_shown_as_a_mark() -> None:
    for code in range(0x110000):
        char = chr(code)
        if unicodedata.category(char) in ("Cc", "Zl", "Zp") or 0x202A <= code <= 0x202E:
            assert clean(char) != char, hex(code)


@pytest.mark.parametrize("text", ["plain", "naïve café", "日本語 and 한국어", "العربية", "🙂"])
def test_ordinary_text_in_any_script_is_left_alone(text: str) -> None:
    assert clean(text) == text
    assert not has_unsafe(text)


def test_a_line_has_no_line_breaks_and_a_block_keeps_them() -> None:
    assert clean("a\nb\tc") == "a⏎b c"
    assert clean_block("a\r\nb\tc") == "a\nb    c"


def test_figures_for_people() -> None:
    assert (plural(1, "row"), plural(12408, "row")) == ("1 row", "12,408 rows")
    assert (size(512), size(6.9 * 2**20), size(3 * 2**40)) == ("512 B", "6.9 MiB", "3.0 TiB")
    assert (duration(45), duration(200), duration(4320)) == ("45 s", "3m20", "1h12")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min"), (9e4, "1 d 1 h")],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert span(seconds) == text
