"""Checks of the words themselves: broken encodings, control characters, template text, stubs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetui.data.checks.model import Check, Hit

# C0 without \t and \n (and without the \r of \r\n), C1, zero width, bidi controls, tag characters.
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069"
    "\ufeff\U000e0000-\U000e007f]|\r(?!\n)"
)
_ASCII_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)")
_JOINERS = "\u200c\u200d"
_FLAG = "\U0001f3f4"
_TEMPLATE = re.compile(
    r"<\|[A-Za-z0-9_ ]{2,40}\|>|\[/?INST\]|<</?SYS>>|</s>|^<s>|<(?:start|end)_of_turn>"
    r"|<(?:bos|eos|pad|unk)>|^###\s*(?:Instruction|Response|Input):|<｜[^｜\n]{2,40}｜>",
    re.MULTILINE,
)
_STUBS = frozenset(
    (
        *("n/a", "na", "none", "null", "nil", "nan", "undefined", "todo", "to do", "tbd", "tba"),
        *("fixme", "xxx", "test", "asdf", "foo", "bar", "placeholder", "lorem ipsum"),
        *("no answer", "your answer here", "insert answer here"),
        *("-", "--", "---", ".", "..", "...", "…", "?", "??", "???"),
    )
)
_STUB_INSIDE = re.compile(
    r"lorem ipsum|[\[<{(]\s*(?:insert|your|add|enter|put|fill in)\b[^\]>})\n]{0,60}[\]>})]"
    r"|\{\{\s*\w{1,40}\s*\}\}|^(?:TODO|FIXME|TBD)\b",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial intelligence)\b(?: language)?(?: model| assistant)?"
    r"|\bi(?:'m| am) (?:just |only )?an? (?:ai|large) (?:language )?model"
    r"|\bi(?:'m| am) (?:very |so |really )?sorry,? (?:but )?(?:i|as)\b[^.\n]{0,40}"
    r"(?:can't|cannot|can not|unable|not able)"
    r"|\bi (?:can't|cannot|can not|am unable to|'m unable to|won't) "
    r"(?:assist|help|comply|fulfill|provide|answer)\b[^.\n]{0,20}(?:with )?(?:that|this|your)"
    r"|\bi(?:'m| am) (?:unable|not able) to (?:assist|help|comply|fulfill|answer)",
    re.IGNORECASE,
)
_REFUSAL_HINTS = (
    "as an a",
    "an ai ",
    "large language",
    "sorry",
    "cannot",
    "can't",
    "can not",
    "unable",
    "not able",
    "won't",
)
_REFUSAL_LOOK = 400  # characters from the start: a refusal comes first
_EXCERPT = 40


def mojibake(text: str) -> Iterator[Hit]:
    """UTF-8 once read as a one-byte code page; ftfy's measure, and lost characters (U+FFFD)."""
    if text.isascii():
        return
    lost = text.find("\ufffd")
    if lost >= 0:
        yield Hit("a character was lost (U+FFFD) in an earlier conversion", None, lost, lost + 1)
        return
    from ftfy.badness import BADNESS_RE

    matches = BADNESS_RE.finditer(text)
    found = next((hit for hit in matches if any(char > "\x9f" for char in hit[0])), None)
    if not found:  # lone C1 characters are the business of control-characters
        return
    from ftfy import fix_encoding

    start = max(0, found.start() - 1)
    while start > 0 and not text[start - 1].isspace():
        start -= 1
    end = found.end()
    while end < len(text) and not text[end].isspace():
        end += 1
    word = text[start:end][:_EXCERPT]
    mended = fix_encoding(word)
    hint = f"; {mended!r} is meant?" if mended != word else ""
    yield Hit(f"{word!r} is text in a wrong encoding{hint}", None, start, end)


def control_spans(text: str) -> list[tuple[int, int]]:
    """The places of characters that have no business in a text."""
    pattern = _ASCII_CONTROL if text.isascii() else _CONTROL
    return [hit.span() for hit in pattern.finditer(text) if not _innocent(text, hit.start())]


def control_characters(text: str) -> Iterator[Hit]:
    """Characters that no one sees and that a terminal, a tokenizer or a reader obeys."""
    found = control_spans(text)
    if found:
        first = found[0][0]
        names = sorted({f"U+{ord(text[start]):04X}" for start, _ in found})
        shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        count = f"{len(found)} invisible characters" if len(found) > 1 else "an invisible character"
        yield Hit(f"{count} ({shown})", None, first, first + 1)


def _innocent(text: str, place: int) -> bool:
    """Joiners inside emoji and scripts that need them, and tags that spell a flag."""
    character = text[place]
    before, after = text[place - 1 : place] if place else "", text[place + 1 : place + 2]
    if character in _JOINERS:
        return ord(before or "a") > 0x2FF and ord(after or "a") > 0x2FF
    if character in "\u200e\u200f\u061c":  # direction marks belong in Hebrew and Arabic text
        return any("\u0590" <= near <= "\u08ff" for near in text[max(0, place - 8) : place + 9])
    if character >= "\U000e0000":
        return _FLAG in text[max(0, place - 8) : place]
    return False


def template_tokens(text: str) -> Iterator[Hit]:
    """Markers of chat templates as plain text: a turn could end, or begin, inside the text."""
    if "<" not in text and "[" not in text and "###" not in text:
        return
    found = _TEMPLATE.search(text)
    if found:
        yield Hit(f"{found[0]!r} is a marker of a chat template", None, found.start(), found.end())


def placeholder(text: str) -> Iterator[Hit]:
    """An answer that was never written."""
    stripped = text.strip()
    if not stripped:
        return
    if len(stripped) <= 24 and stripped.lower().rstrip("!") in _STUBS:
        yield Hit(f"the answer is only {stripped!r}", None, 0, len(text))
        return
    found = _STUB_INSIDE.search(text)
    if found:
        yield Hit(f"{found[0]!r} was never filled in", None, found.start(), found.end())


def refusal(text: str) -> Iterator[Hit]:
    """An answer that declines; often another model's words that were collected by mistake."""
    opening = text[:_REFUSAL_LOOK].replace("’", "'")
    lowered = opening.lower()
    if not any(hint in lowered for hint in _REFUSAL_HINTS):
        return
    found = _REFUSAL.search(opening)
    if found:
        yield Hit(f"the answer declines: {found[0]!r}", None, found.start(), found.end())


CHECKS = (
    Check(
        "mojibake",
        "Broken encoding",
        "warning",
        "The model learns to write 'â€™'; such text also splits into many tokens.",
        "Repair (f) puts the meant characters back.",
        text=mojibake,
    ),
    Check(
        "control-characters",
        "Invisible characters",
        "warning",
        "They hide text from people and not from the model, and can command a terminal.",
        "Repair (f) takes them out.",
        text=control_characters,
    ),
    Check(
        "template-token",
        "Template marker in the text",
        "warning",
        "A tokenizer may read it as the real marker and end the turn there.",
        "Reword it (e) or drop the row (d).",
        text=template_tokens,
    ),
    Check(
        "placeholder",
        "Placeholder answer",
        "warning",
        "The model learns to answer with the stub.",
        "Write the answer (e) or drop the row (d).",
        answer=placeholder,
    ),
    Check(
        "refusal",
        "Refusal",
        "info",
        "A few refusals teach a model to decline what it should do.",
        "Keep it if it is meant; otherwise write the answer (e) or drop the row (d).",
        answer=refusal,
    ),
)
