"""Checks of the words themselves: broken encodings, hidden characters, markers and leftovers."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from finetui.data.checks import mojibake
from finetui.data.checks.gates import SLASH, chars, folded, gate
from finetui.data.checks.model import Check, Example, Hit

# C0 without \t and \n (and without the \r of \r\n), C1, zero width, bidi controls, tag characters.
_HIDDEN = "\x7f-\x9f\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f"
_CONTROL = re.compile(f"[\x00-\x08\x0b\x0c\x0e-\x1f{_HIDDEN}]|\r(?!\n)")
_ASCII_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)")
_JOINERS = "\u200c\u200d"
_FLAG = "\U0001f3f4"
_GOES_ON = "".join(map(chr, range(0x80, 0xC0)))  # bytes within a character, read as Latin-1
_TEMPLATE = re.compile(
    r"<\|[A-Za-z0-9_ ]{2,40}\|>|\[/?INST\]|<</?SYS>>|</s>|^<s>|<(?:start|end)_of_turn>"
    r"|<(?:bos|eos|pad|unk)>|^###[ \t]*(?:Instruction|Response|Input):|<｜[^｜\n]{2,40}｜>"
    r"|\[(?:CLS|SEP|PAD|MASK)\]|<extra_id_\d+>",
    re.MULTILINE | re.ASCII,
)


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
    """Joiners inside emoji and scripts that need them, tags that spell a flag, and mojibake."""
    character = text[place]
    before, after = text[place - 1 : place] if place else "", text[place + 1 : place + 2]
    if character in _JOINERS:
        return ord(before or "a") > 0x2FF and ord(after or "a") > 0x2FF
    if character in "\u200e\u200f\u061c":  # direction marks belong in Hebrew and Arabic text
        return any("\u0590" <= near <= "\u08ff" for near in text[max(0, place - 8) : place + 9])
    if character >= "\U000e0000":
        return _FLAG in text[max(0, place - 8) : place]
    if "\x80" <= character <= "\x9f":  # taking it out would spoil what mojibake can mend
        lead = text[max(0, place - 3) : place].rstrip(_GOES_ON)[-1:]
        return "\xc2" <= (lead or "a") <= "\xf4"
    return False


def template_tokens(text: str) -> Iterator[Hit]:
    """Markers of chat templates as plain text: a turn could end, or begin, inside the text."""
    if "<" not in text and "[" not in text and "###" not in text:
        return
    found = _TEMPLATE.search(text)
    if found:
        yield Hit(f"{found[0]!r} is a marker of a chat template", None, found.start(), found.end())


# ---------------------------------------------------------------- leftovers of the web

_TAG = re.compile(
    r"</?(?:p|br|div|span|b|i|em|strong|a|li|ul|ol|td|tr|th|table|tbody|font|img|h[1-6]|center"
    r"|blockquote|script|style)(?:\s[^<>=]{1,40}=[^<>]{0,300})?\s?/?>",
    re.IGNORECASE | re.ASCII,
)
_ENTITY = re.compile(
    r"&(?:nbsp|amp|lt|gt|quot|apos|hellip|[mn]dash|[lr][sd]quo|bull|middot|copy|#[0-9]{2,5}"
    r"|#x[0-9a-f]{2,5});",
    re.IGNORECASE | re.ASCII,
)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_ABOUT_MARKUP = re.compile(
    r"html|xml|svg|jsx|\bcss\b|javascript|typescript|react|vue|angular|markup|markdown|\btags?\b"
    r"|web ?(?:page|site|scrap|dev|form)|php|jquery|bootstrap|template|django|flask|\burl\b|href"
    r"|entity|escap|encod|pars(?:e|ing)|regex|regular expression|script\b|\bcode\b|element|doctype",
    re.IGNORECASE,
)
_BREAK = re.compile(r"<br ?/?>|</(?:p|div|li|tr|h[1-6]|blockquote)\s?>", re.IGNORECASE)


def html_spans(text: str) -> list[tuple[int, int]]:
    """Tags and entities outside code."""
    if "<" not in text and "&" not in text:
        return []
    code = [hit.span() for hit in _CODE.finditer(text)] if "`" in text else []
    found = [hit.span() for pattern in (_TAG, _ENTITY) for hit in pattern.finditer(text)]
    return sorted(span for span in found if not any(start <= span[0] < end for start, end in code))


def html_leftovers(example: Example) -> Iterator[Hit]:
    """Markup that came along when a text was taken from a web page."""
    record = example.record
    if record is None:
        return
    turns = record.all_turns()
    spans = [html_spans(turn.content) for turn in turns]
    if not any(spans) or any(_ABOUT_MARKUP.search(_TAG.sub(" ", t.content)) for t in turns):
        return  # the row is about markup
    for number, (turn, found) in enumerate(zip(turns, spans, strict=True)):
        if found:
            start, end = found[0]
            more = f", and {len(found) - 1} more" if len(found) > 1 else ""
            yield Hit(
                f"{turn.content[start:end]!r} is left over from HTML{more}", number, start, end
            )


def without_html(text: str) -> str:
    """The words as a browser shows them; code is left as it is."""
    if not html_spans(text):
        return text
    pieces, position = [], 0
    for code in _CODE.finditer(text):
        pieces += [_shown(text[position : code.start()]), code[0]]
        position = code.end()
    return "".join([*pieces, _shown(text[position:])])


def _shown(text: str) -> str:
    return html.unescape(_TAG.sub("", _BREAK.sub("\n", text))).replace("\xa0", " ")


# ---------------------------------------------------------------- escaped twice

_WRITTEN_BREAK = re.compile(r"(?<!\\)\\n(?![a-z])")
_WRITTEN_LETTER = re.compile(r"(?<!\\)\\u[0-9a-fA-F]{4}")
_QUOTED_BREAK = re.compile(r"[\"'`(\[/]\s*(?:\\[rnt])+\s*[\"'`)\]/+*]")
_ABOUT_CODE = re.compile(
    r"`|\bprint|\bdef |\breturn\b|\bimport |#include|;\s*$|\bregex|\\[dsw]|\bnewline|\bescape"
    r"|split\(|join\(|\\\\|\\[a-z]{3,}\{|console\.|System\.|\bbytes?\b|unicode",
    re.IGNORECASE | re.MULTILINE,
)


def double_escaped(text: str) -> Iterator[Hit]:
    r"""Line breaks or letters as the characters ``\n`` and ``\u00e9``: JSON written into JSON."""
    if "\\n" not in text and "\\u" not in text:
        return
    if text.lstrip()[:1] in ("{", "[") or _ABOUT_CODE.search(text) or _QUOTED_BREAK.search(text):
        return
    found = list(_WRITTEN_BREAK.finditer(text))
    if len(found) >= 2 and text.count("\n") < len(found):
        words = f"{len(found)} line breaks are written as the two characters \\n"
        yield Hit(words, None, *found[0].span())
        return
    letters = list(_WRITTEN_LETTER.finditer(text))
    if letters:
        words = f"{letters[0][0]} is the escape of a letter, not the letter"
        yield Hit(words, None, *letters[0].span())


def unescaped(text: str) -> str:
    """The text with its written escapes carried out, where `double_escaped` finds them."""
    if not any(double_escaped(text)):
        return text
    text = _WRITTEN_LETTER.sub(lambda hit: chr(int(hit[0][2:], 16)), text)
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return (
        text.replace("\\r\\n", "\n").replace("\\n", "\n").replace("\\t", "\t").replace('\\"', '"')
    )


CHECKS = (
    Check(
        "mojibake",
        "Broken encoding",
        "warning",
        "The model learns to write 'â€™'; such text also splits into many tokens.",
        "Repair (f) puts the meant characters back.",
        text=mojibake.mojibake,
        family="text",
        gate=mojibake.GATE,
    ),
    Check(
        "control-characters",
        "Invisible characters",
        "warning",
        "They hide text from people and not from the model, and can command a terminal.",
        "Repair (f) takes them out.",
        text=control_characters,
        family="text",
        gate=gate(
            rb"[^\\](?:\\\\)*\\(?:[bf]|r(?:[^\\]|\\[^n]))",  # \b, \f, and \r without \n
            chars(_HIDDEN),
        ),
    ),
    Check(
        "template-token",
        "Template marker in the text",
        "warning",
        "A tokenizer may read it as the real marker and end the turn there.",
        "Reword it (e) or drop the row (d).",
        text=template_tokens,
        family="text",
        gate=gate(
            rb"<\|[A-Za-z0-9_ ]",
            rb"\[" + SLASH + rb"?INST\]|\[(?:INST|CLS|SEP|PAD|MASK)\]",
            rb"<<(?:" + SLASH + rb")?SYS>>|<(?:" + SLASH + rb")?s>|<(?:start|end)_of_turn>",
            rb"<(?:bos|eos|pad|unk)>|<extra_id_",
            rb"###(?: |\\t)*(?:Instruction|Response|Input):",
            rb"<" + chars("｜"),
        ),
    ),
    Check(
        "html",
        "Left over from HTML",
        "warning",
        "The model learns to write tags and entities into plain text.",
        "Repair (f) turns them into the text a browser shows.",
        row=html_leftovers,
        family="text",
        gate=gate(
            rb"<(?:"
            + SLASH
            + rb")?"
            + folded(
                rb"p|br|div|span|b|i|em|strong|a|li|ul|ol|td|tr|th|table|tbody|font|img|h[1-6]",
                rb"center|blockquote|script|style",
            )
            + rb"[ >\\/]",
            rb"&"
            + folded(
                rb"nbsp|amp|lt|gt|quot|apos|hellip|[mn]dash|[lr][sd]quo|bull|middot|copy|#[0-9x]"
            ),
        ),
    ),
    Check(
        "double-escaped",
        "Escaped twice",
        "warning",
        "The model learns to write a backslash and an n where a line should end.",
        "Repair (f) carries the escapes out.",
        text=double_escaped,
        family="text",
        gate=gate(rb"\\\\n[^a-z]", rb"\\\\u[0-9a-fA-F]{4}"),
    ),
)
