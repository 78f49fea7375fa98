"""Checks of what an example asks and answers: stubs, examples run together, missing pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetui.data.checks.gates import NEWLINE, SLASH, SPACE, folded, gate, phrase
from finetui.data.checks.model import Check, Example, Hit
from finetui.data.records import Record, Shape, Turn

_BLANKS = " \t\r\n"
_STUBS = frozenset(
    (
        *("n/a", "na", "none", "null", "nil", "nan", "undefined", "todo", "to do", "tbd", "tba"),
        *("fixme", "xxx", "asdf", "placeholder", "lorem ipsum", "no answer", "no output"),
        *("<noinput>", "<nooutput>", "noinput", "nooutput", "no input", "<no input>"),
        *("your answer here", "insert answer here", "[answer]", "[object object]", "#n/a"),
        *("-", "--", "---", ".", "..", "...", "…", "?", "??", "???"),
    )
)
_INPUT_STUBS = _STUBS - {"?", "??", "???", ".", "..", "...", "…"}
_STUB_INSIDE = re.compile(
    r"lorem ipsum|[\[<{] ?(?:insert|your|add|enter|put|fill in)\b[^\]>}\n\"]{0,60}[\]>}]"
    r"|\(insert [^)\n\"]{0,60}\)"
    r"|(?<![\\\w}^_$])\{\{ ?[a-z_]\w{1,40} ?\}\}|^(?:TODO|FIXME|TBD)\b",
    re.IGNORECASE | re.ASCII,
)
_TEMPLATE_ASKED = re.compile(
    r"template|placeholder|letter|e-?mail|memo|résumé|resume|\bcv\b|invitation|speech|script"
    r"|announcement|draft|form\b|contract|agreement|notice|message|post\b|press release|jinja"
    r"|mustache|handlebars|django|vue|angular|html|latex|code",
    re.IGNORECASE,
)


def answers(record: Record) -> Iterator[tuple[int, Turn, str]]:
    """The assistant's turns as (number, turn, all that the system and user said before)."""
    asked = ""
    before = len(record.turns)
    for number, turn in enumerate(record.all_turns()):
        if turn.role == "assistant":
            yield number, turn, asked
        elif number < before:
            asked += turn.content + "\n"


def placeholder(example: Example) -> Iterator[Hit]:
    """An answer that was never written, unless the prompt asks for such words."""
    if example.record is None:
        return
    for number, turn, asked in answers(example.record):
        text = turn.content
        stub = text.strip(_BLANKS)
        if len(stub) <= 24 and stub.lower().rstrip("!") in _STUBS:
            if not _mentions(asked, stub):
                yield Hit(f"the answer is only {stub!r}", number, 0, len(text))
            continue
        found = _STUB_INSIDE.search(text)
        if found and not _wanted(asked, found[0]):
            words = f"{found[0]!r} was never filled in"
            yield Hit(words, number, found.start(), found.end())


def _mentions(asked: str, stub: str) -> bool:
    """Whether the prompt names the stub as an answer it accepts: "reply None if …"."""
    return len(stub) > 1 and stub.lower() in asked.lower()


def _wanted(asked: str, blank: str) -> bool:
    return bool(_TEMPLATE_ASKED.search(asked)) or blank.lower() in asked.lower()


def placeholder_input(example: Example) -> Iterator[Hit]:
    """A stub where the user's words, or the input of an instruction, should stand."""
    record = example.record
    if record is None or record.shape is Shape.TEXT:
        return
    if record.shape is Shape.ALPACA and isinstance(example.value, dict):
        stub = example.value.get("input")
        if isinstance(stub, str) and is_input_stub(stub):
            number = max(n for n, turn in enumerate(record.turns) if turn.role == "user")
            end = len(record.turns[number].content)
            yield Hit(f"the input is only {stub.strip()!r}", number, end - len(stub), end)
            return
    for number, turn in enumerate(record.turns):
        if turn.role in ("user", "system") and is_input_stub(turn.content):
            yield Hit(f"the {turn.role} turn is only {turn.content.strip()!r}", number)


def is_input_stub(text: str) -> bool:
    return len(text) <= 24 and text.strip(_BLANKS).lower().rstrip("!") in _INPUT_STUBS


# ---------------------------------------------------------------- examples run together

_LABEL = re.compile(
    r"\n[ \t>#*]*((?ai:user|human|question|instruction|prompt|input|q)|用户|问题|问|[Пп]ользователь"
    r"|[Вв]опрос)[0-9]{0,3}[ \t*]*[:：]"
)
_SPEAKERS = ("user", "human", "用户", "пользователь")
_REPLIES = re.compile(
    r"\n[ \t>#*]*(?:(?ai:assistant|ai|bot|chatgpt|gpt|model)|助手|[Аа]ссистент)[ \t*]*[:：]"
)
_DIALOGUE_ASKED = re.compile(
    r"dialog|conversation|chat|script|transcript|role.?play|interview|scenario|exchange|simulat"
    r"|story|scene|play\b|bot\b|example|对话|диалог",
    re.IGNORECASE,
)


def merged_examples(example: Example) -> Iterator[Hit]:
    """An answer that goes on with the next prompt: examples that were not cut apart."""
    record = example.record
    if record is None or record.shape is Shape.TEXT:
        return
    for number, turn, asked in answers(record):
        for hit in _LABEL.finditer(turn.content):
            if _runs_on(turn.content, hit, asked):
                start = hit.start() + 1
                words = f"the answer goes on with {hit[0].strip()!r}: two examples in one?"
                yield Hit(words, number, start, hit.end())
                break


def _runs_on(text: str, hit: re.Match[str], asked: str) -> bool:
    """A speaker's turn with its reply, or the label that the prompt itself begins with."""
    label, before = hit[1].lower(), text[: hit.start()].rstrip(" \n*")
    if not before or before.endswith((":", "：")):
        return False  # it is announced: "Here is a question:"
    if label in _SPEAKERS:
        spoken = _REPLIES.search(text, hit.end()) is not None
        return spoken and not _DIALOGUE_ASKED.search(asked)
    own = re.compile(rf"(?:^|\n)[ \t>#*]*{re.escape(label)}\d{{0,3}}[ \t*]*[:：]", re.IGNORECASE)
    return own.search(asked) is not None and _ends_asking(asked)


def _ends_asking(asked: str) -> bool:
    """Whether the prompt is of the kind that ends "Answer:"."""
    last = asked.rstrip().rsplit("\n", 1)[-1].strip().lower()
    return last.rstrip("*").endswith((":", "：")) and len(last) < 24


# ---------------------------------------------------------------- what is not there

_THINGS = (
    "image|picture|photo|photograph|screenshot|diagram|chart|graph|figure|file|document|pdf"
    "|spreadsheet|audio|video|recording|drawing|attachment|map"
)
_THING = rf"(?:{_THINGS})s?"
_ATTACHED = re.compile(
    rf"\b(?:attached|enclosed|uploaded|accompanying) {_THING}\b|\b{_THING} (?:attached|enclosed)\b"
    rf"|\b(?:this|the (?:above|below|following|given|provided)) {_THING}\b"
    rf"|\b{_THING} (?:below|above)\b|\bsee attach(?:ed|ment)",
    re.IGNORECASE | re.ASCII,
)
_ELSEWHERE = (
    "附件", "附图", "上图", "下图", "如图", "图片中", "添付", "приложенн", "во вложении",
    "на картинке", "на рисунке", "на фото",
)  # fmt: skip
_ATTACHED_ELSEWHERE = re.compile("|".join(_ELSEWHERE))
_THERE = re.compile(
    r"\[(?:image|audio|video|file)|<(?:image|img|audio|video)|data:image|!\[|```|https?://", re.I
)
_WANTS_FILES = re.compile(
    r"how (?:do|can|to|would|should|many|much)|creat|writ|generat|design|draw|mak(?:e|ing)\b|code"
    r"|function|command|\bif |when |suppose|imagine|story|python|script|folder|\bsave",
    re.IGNORECASE,
)
_TEXTS = (
    "text|article|paragraph|passage|sentence|code|snippet|table|list|data|dataset|email|poem|story"
    "|document|review|words?|phrase|quote|equation|essay|conversation|dialogue|letter|report"
    "|excerpt|tweet|headline|recipe|resume"
)
_BELOW = re.compile(
    r"\b(?:the|this|these|those) (?:following|below|given|provided) (?:\w+ ){0,2}"
    rf"(?:{_TEXTS})s?\b",
    re.IGNORECASE | re.ASCII,
)
_CONTENT = re.compile(r"[:：;\n\"“”‘«`(\[{=<>|,]|'\w|\d|[.?!]\s+\S| - ")
_URL = re.compile(r"https?://\S+|www\.\S+", re.ASCII)
_READS_PAGE = re.compile(
    r"^\W*URL\W*$|\b(?:summari[sz]e|read|translate|review|analy[sz]e|explain|extract|describe"
    r"|tl;?dr)\b[^.?!]{0,80}\bURL"
    r"|\b(?:article|page|paper|post|blog|website|link|video|document)\b[^.?!]{0,40}URL",
    re.IGNORECASE,
)
_BUILDS_PAGE = re.compile(r"html|button|\bcode\b|script|\bcss\b|regex|pars(?:e|ing)|\bcurl\b", re.I)
_BESIDE_URL = 200
_SHORT = 400


def missing_context(example: Example) -> Iterator[Hit]:
    """A prompt that needs a picture, a file, a text or a page that the row does not hold."""
    record = example.record
    if record is None or record.shape is Shape.TEXT or not record.turns:
        return
    turn = record.turns[0]  # later turns may speak of earlier ones, and a system prompt may know
    if turn.role == "user" and not any(other.tool_calls for other in record.turns):
        found = _lacking(turn.content)
        if found:
            yield Hit(found[0], 0, *found[1])


def _lacking(text: str) -> tuple[str, tuple[int, int]] | None:
    if len(text) < _SHORT:
        hit = _ATTACHED.search(text) or _ATTACHED_ELSEWHERE.search(text)
        wanted = hit and not _THERE.search(text) and not _WANTS_FILES.search(text)
        if hit and wanted and not _holds_content(text, hit):
            return f"the prompt speaks of {hit[0]!r}, which the row does not hold", hit.span()
        hit = _BELOW.search(text)
        if hit and not _holds_content(text, hit):
            return f"the prompt speaks of {hit[0]!r}, and nothing follows", hit.span()
    return _only_url(text)


def _holds_content(text: str, hit: re.Match[str]) -> bool:
    """Whether what the prompt speaks of stands in the prompt after all."""
    before, after = text[: hit.start()].strip(), text[hit.end() :].strip().rstrip(".?!")
    return bool(_CONTENT.search(before) or _CONTENT.search(after))


def _only_url(text: str) -> tuple[str, tuple[int, int]] | None:
    url = _URL.search(text)
    if url is None or len(text) - len(url[0]) > _BESIDE_URL:
        return None
    beside = _URL.sub("URL", text)
    if _BUILDS_PAGE.search(beside) or not _READS_PAGE.search(beside):
        return None
    return "the prompt needs the page behind a URL, which the model cannot open", url.span()


# A whole text that is a stub, in its quotes.
_STUB_GATE = rb'"' + SPACE + rb"*" + folded(*map(phrase, sorted(_STUBS))) + rb"!*" + SPACE + rb'*"'

CHECKS = (
    Check(
        "placeholder",
        "Placeholder answer",
        "warning",
        "The model learns to answer with the stub.",
        "Write the answer (e) or drop the row (d).",
        row=placeholder,
        family="text",
        gate=gate(
            _STUB_GATE,
            rb"[\[<{] ?" + folded(rb"insert|your|add|enter|put|fill in") + rb"[^A-Za-z0-9_]",
            rb"\(" + folded(b"insert "),
            folded(rb"lorem ipsum", rb'"(?:todo|fixme|tbd)') + rb"|\{\{ ?[A-Za-z0-9_]",
        ),
    ),
    Check(
        "placeholder-input",
        "Placeholder prompt",
        "warning",
        "The stub becomes part of the prompt, and the model learns to expect it.",
        "Repair (f) empties the input of an instruction; else write the prompt (e) or drop it (d).",
        row=placeholder_input,
        family="text",
        gate=gate(_STUB_GATE),
    ),
    Check(
        "merged-examples",
        "Several examples in one",
        "warning",
        "The model learns to ask itself the next question instead of stopping.",
        "Cut the answer where the next example begins (e), or drop the row (d).",
        row=merged_examples,
        family="text",
        gate=gate(
            NEWLINE
            + rb"(?:[ >#*]|\\t)*(?:"
            + folded(
                *map(phrase, ("user", "human", "question", "instruction", "prompt", "input", "q"))
            )
            + rb"|"
            + b"|".join(map(phrase, ("用户", "问题", "问", "пользователь", "вопрос")))
            + rb")[0-9]{0,3}(?:[ *]|\\t)*(?::|"
            + phrase("：")
            + rb")"
        ),
    ),
    Check(
        "missing-context",
        "Prompt about what is not there",
        "warning",
        "The model learns to make up what a picture, a file or a page says.",
        "Put what is missing into the prompt (e) or drop the row (d).",
        row=missing_context,
        family="text",
        gate=gate(
            folded(
                rb"(?:attached|enclosed|uploaded|accompanying|this"
                rb"|the (?:above|below|following|given|provided)) (?:" + _THINGS.encode() + b")",
                rb"(?:" + _THINGS.encode() + rb")s? (?:attached|enclosed|below|above)|see attach",
                rb"(?:the|this|these|those) (?:following|below|given|provided) "
                rb"(?:[A-Za-z0-9_]+ ){0,2}(?:" + _TEXTS.encode() + b")",
            ),
            *map(phrase, _ELSEWHERE),
            rb"https?:" + SLASH + SLASH + rb"|www\.",
        ),
    ),
)
