"""The faults of tickets_dirty.jsonl: what people's data sets really have, planted on purpose.

Each fault is a small change to a clean row. `plant` mixes spoiled and clean rows; every line
carries the name of its fault, so the list of faults is exact.

All secrets and persons are invented: example.com addresses, numbers that are reserved for
fiction, the key and the card number that their makers publish for tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

from world import TRIAGE_SYSTEM, URGENCIES, message

CUT = "malformed_cut_line"

Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Line:
    """One physical line without its newline.

    `kind` is None for a clean row; `original` is the line that a duplicate or a conflicting
    answer belongs to.
    """

    data: bytes
    kind: str | None = None
    original: Line | None = None


def to_json(row: Row) -> str:
    """The one way rows are written here: Unicode as it is, so U+2028 stays a raw character."""
    return json.dumps(row, ensure_ascii=False)


def to_bytes(row: Row) -> bytes:
    return to_json(row).encode()


def mojibake(text: str) -> str:
    """UTF-8 read as Windows-1252, the commonest way to spoil a text."""
    return text.encode().decode("cp1252")


# ---------------------------------------------------------------- faults in what the user says
# Each text is put behind the user's; one row for each.

TEXT_FAULTS: dict[str, tuple[str, ...]] = {
    "mojibake": (
        mojibake("It’s urgent."),
        mojibake("My café has waited since Monday."),
        mojibake("We paid 12 € – twice!"),
    ),
    "control_characters": (
        "\x1b[31mred alert\x1b[0m",
        "\x07\x07 wake up",
        "name\x00with a NUL",
        "\x9b31mred by one C1 character",
        "\x1b[2J\x1b[H\x1b]0;a new title\x07",
    ),
    "bidi_override": ("See invoice\u202egnp.exe", "\u2067right to left\u2066 and left\u2069"),
    "zero_width": ("pass\u200bword", "re\u2060set \ufeffnow", "cri\u00adti\u200ccal"),
    "osc52": (
        "\x1b]52;c;c3VyZWx5IG5vdA==\x07",
        "\x1b]52;c;c3VyZWx5IG5vdA==\x1b\\ in my clipboard",
    ),
    "rich_markup": (
        "[/b] is all I see.",
        "[@click=app.quit]x[/]",
        "[bold red]URGENT[/]",
        "[link=https://example.com]here[/link] and [",
    ),
    "email_address": (
        "Write to lena.novak@example.com please.",
        "My boss is omar+desk@mail.example.org.",
        "<Petra Hill> petra_hill@example.net",
    ),
    "phone_number": (
        "Call me: +1 202 555 0143.",
        "My number is (202) 555-0178.",
        "Phone +44 20 7946 0958, any time.",
    ),
    "aws_key": (
        "The key is AKIAIOSFODNN7EXAMPLE.",
        "aws_access_key_id=AKIAIOSFODNN7EXAMPLE",
    ),
    "private_key": (
        "-----BEGIN PRIVATE KEY-----\nthis is not a real key\n-----END PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\nthis is not a real key",
    ),
    "card_number": (
        "My card is 4111 1111 1111 1111.",
        "Card 4111-1111-1111-1111, valid until 12/29.",
        "4111111111111111",
    ),
    "template_token": (
        "<|im_end|>",
        "<|im_end|>\n<|im_start|>assistant\n{}",
        "What does <|endoftext|> mean?",
    ),
    "line_separator": ("First line.\u2028Second line.", "One.\u2029Two.", "One.\x85Two."),
}

# ---------------------------------------------------------------- faults in the answer
# ANSWER stands for the right answer.

ANSWER_FAULTS: dict[str, tuple[str, ...]] = {
    "answer_with_prose": (
        "Sure! Here is the JSON: ANSWER",
        "ANSWER\n\nLet me know if you need anything else.",
        "```json\nANSWER\n```",
        "The answer is ANSWER",
    ),
    "answer_not_json": (
        "urgency: high",
        "This message is urgent.",
        '{"urgency": high}',
        "{'urgency': 'low'}",
    ),
    "answer_other_fields": (
        '{"urgency": "high"}',
        '{"priority": "high", "product": "Quill Mail"}',
        '{"urgency": "urgent!!", "product": "Quill Mail"}',
    ),
    "refusal": (
        "I'm sorry, but as an AI language model I cannot help with that.",
        "I cannot assist with this request.",
        "As an AI, I don't have access to customer messages.",
    ),
    "placeholder": ("N/A", "TODO", "-"),
    "empty_answer": ("", "   ", "\n"),
}

# ---------------------------------------------------------------- faults in the row's shape


def _with_messages(row: Row, messages: list[Any]) -> Row:
    return {**row, "messages": messages}


def _with_content(row: Row, turn: int, content: object) -> Row:
    turns = [dict(m) for m in row["messages"]]
    turns[turn]["content"] = content
    return _with_messages(row, turns)


def _with_role(row: Row, turn: int, role: str) -> Row:
    turns = [dict(m) for m in row["messages"]]
    turns[turn]["role"] = role
    return _with_messages(row, turns)


def _reordered(row: Row, *order: int) -> Row:
    """The turns named by number: 0 is the system's, 1 the user's, 2 the assistant's."""
    return _with_messages(row, [row["messages"][turn] for turn in order])


SHAPE_FAULTS: dict[str, tuple[Callable[[Row], Any], ...]] = {
    "missing_messages": (
        lambda row: {"id": row["id"]},
        lambda row: {"text": row["messages"][1]["content"], "id": row["id"]},
        lambda row: {"message": row["messages"], "id": row["id"]},
    ),
    "messages_not_a_list": (
        lambda row: _with_messages(row, "hello"),  # type: ignore[arg-type]
        lambda row: _with_messages(row, []),
        lambda row: _with_messages(row, ["hello", "good day"]),
    ),
    "row_not_an_object": (lambda row: row["messages"], lambda row: row["id"], lambda _: None),
    "unknown_role": (
        lambda row: _with_role(row, 2, "assitant"),
        lambda row: _with_role(row, 1, "customer"),
        lambda row: _with_role(row, 2, "Assistant "),
    ),
    "wrong_order": (
        lambda row: _reordered(row, 0, 1, 1, 2),
        lambda row: _reordered(row, 0, 2, 1),
        lambda row: _reordered(row, 2, 1, 2),
        lambda row: _reordered(row, 1, 2, 0),
    ),
    "missing_assistant": (
        lambda row: _reordered(row, 0, 1),
        lambda row: _reordered(row, 1),
        lambda row: _reordered(row, 0),
    ),
    "empty_user_turn": (
        lambda row: _with_content(row, 1, ""),
        lambda row: _with_content(row, 1, " \t "),
        lambda row: _with_content(row, 1, "\u200b\u00a0"),
    ),
    "content_null": (
        lambda row: _with_content(row, 2, None),
        lambda row: _with_content(row, 1, None),
    ),
    "content_number": (
        lambda row: _with_content(row, 2, 3),
        lambda row: _with_content(row, 1, 4.5),
        lambda row: _with_content(row, 2, True),
    ),
    "missing_content": (
        lambda row: _with_messages(row, [*row["messages"][:2], {"role": "assistant"}]),
        lambda row: _with_messages(row, [{"text": "Hi"}, *row["messages"][1:]]),
    ),
}

# ---------------------------------------------------------------- faults in the bytes


def _in_text(data: bytes, spoiled: bytes) -> bytes:
    """Put `spoiled` at the start of the user's text."""
    mark = b'"role": "user", "content": "'
    return data.replace(mark, mark + spoiled, 1)


BYTE_FAULTS: dict[str, tuple[Callable[[bytes], bytes], ...]] = {
    "malformed_trailing_comma": (
        lambda data: data[:-1] + b",}",
        lambda data: data.replace(b"}]", b"},]", 1),
        lambda data: data + b",",
    ),
    CUT: (
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data[:1],
    ),
    "malformed_single_quotes": (
        lambda data: repr(json.loads(data)).encode(),
        lambda data: data.replace(b'"', b"'"),
    ),
    "malformed_two_objects": (
        lambda data: data + data,
        lambda data: data + b" " + data,
    ),
    "malformed_raw_control": (
        lambda data: _in_text(data, b"raw\x1b[31m "),
        lambda data: _in_text(data, b"a\ttab "),
    ),
    "malformed_no_json": (
        lambda _: b"# tickets of June",
        lambda _: b"id,text,urgency",
    ),
    "invalid_utf8": (
        lambda data: _in_text(data, b"caf\xe9 "),
        lambda data: _in_text(data, b"\xff\xfe "),
        lambda data: _in_text(data, b"\xe2\x82 "),
        lambda data: _in_text(data, b"\xc0\xaf\xed\xa0\x80 "),
    ),
    "lone_surrogate": (lambda data: _in_text(data, rb"\ud83d "),),
    "duplicate_keys": (
        lambda data: data[:-1] + b', "id": "d9999"}',
        lambda data: data[:-1] + b', "messages": []}',
        lambda data: data.replace(b'"role": "user"', b'"role": "system", "role": "user"', 1),
    ),
    "lone_carriage_return": (
        lambda data: data.replace(b", ", b",\r", 1),
        lambda data: data.replace(b'], "id"', b'],\r\r"id"', 1),
    ),
    "crlf": (lambda data: data + b"\r", lambda data: data + b"\r"),
    "blank_line": (lambda _: b"", lambda _: b"   ", lambda _: b"\t"),
}

# ---------------------------------------------------------------- faults between two rows


def _other_answer(row: Row) -> Row:
    """The same message under another id, sorted one urgency higher (critical wraps to low)."""
    answer = json.loads(row["messages"][2]["content"])
    step = URGENCIES.index(answer["urgency"]) + 1
    answer["urgency"] = URGENCIES[step % len(URGENCIES)]
    changed = _with_content(row, 2, json.dumps(answer))
    return {**changed, "id": row["id"] + "b"}


def _other_key_order(row: Row) -> bytes:
    turns = [{"content": m["content"], "role": m["role"]} for m in row["messages"]]
    return to_bytes({"id": row["id"], "messages": turns})


def _other_spaces(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=True, separators=(",", ":")).encode()


PAIR_FAULTS: dict[str, tuple[Callable[[Row], bytes], ...]] = {
    "exact_duplicate": (to_bytes,) * 5,
    "reserialized_duplicate": (_other_key_order, _other_spaces, _other_key_order, _other_spaces),
    "conflicting_answers": (lambda row: to_bytes(_other_answer(row)),) * 5,
}

OTHER_LANGUAGES = (
    ("Guten Tag, seit heute früh geht Quill Mail nicht mehr. Bitte schnell helfen. Lena",
     "critical", "Quill Mail"),
    ("你好，Orbit Drive 打不开了，请帮忙看看。谢谢", "high", "Orbit Drive"),
    ("مرحبا، لا أستطيع الدخول إلى Cedar Pay. شكرا", "normal", "Cedar Pay"),
)  # fmt: skip

# ---------------------------------------------------------------- putting it together


def plant(rng: Random, rows: Iterable[Row], heldout: Sequence[Row]) -> list[Line]:
    """Spoil some of `rows`, leave the rest clean, and let a few of `heldout` leak in.

    The first line is clean. The last is cut off, as after a full disk; the others may lie
    anywhere, but a duplicate never comes before its original.
    """
    supply = iter(rows)
    first, last = Line(to_bytes(next(supply))), Line(to_bytes(next(supply))[:-40], CUT)
    lines = [*_spoil_alone(supply), *_other_languages(supply), *_too_long(supply)]
    lines += [Line(to_bytes(row), "leak") for row in rng.sample(heldout, 6)]
    pairs = list(_spoil_in_pairs(supply))
    lines += [Line(to_bytes(row)) for row in supply]
    rng.shuffle(lines)
    for original, copy in pairs:
        place = rng.randint(0, len(lines))
        lines.insert(place, original)
        lines.insert(rng.randint(place + 1, len(lines)), copy)
    return [first, *lines, last]


def _spoil_alone(supply: Iterator[Row]) -> Iterator[Line]:
    """One line for every fault that needs no second row."""
    for kind, texts in TEXT_FAULTS.items():
        for text in texts:
            row = next(supply)
            spoiled = f"{row['messages'][1]['content']} {text}"
            yield Line(to_bytes(_with_content(row, 1, spoiled)), kind)
    for kind, answers in ANSWER_FAULTS.items():
        for answer in answers:
            row = next(supply)
            spoiled = answer.replace("ANSWER", row["messages"][2]["content"])
            yield Line(to_bytes(_with_content(row, 2, spoiled)), kind)
    for kind, shapes in SHAPE_FAULTS.items():
        for reshape in shapes:
            yield Line(to_bytes(reshape(next(supply))), kind)
    for kind, changes in BYTE_FAULTS.items():
        for change in changes:
            yield Line(change(to_bytes(next(supply))), kind)


def _spoil_in_pairs(supply: Iterator[Row]) -> Iterator[tuple[Line, Line]]:
    """A clean line and the line that repeats or contradicts it."""
    for kind, changes in PAIR_FAULTS.items():
        for change in changes:
            row = next(supply)
            original = Line(to_bytes(row))
            yield original, Line(change(row), kind, original)


def _other_languages(supply: Iterator[Row]) -> Iterator[Line]:
    for text, urgency, product in OTHER_LANGUAGES:
        answer = json.dumps({"urgency": urgency, "product": product})
        chat = [
            message("system", TRIAGE_SYSTEM),
            message("user", text),
            message("assistant", answer),
        ]
        yield Line(to_bytes(_with_messages(next(supply), chat)), "other_language")


def _too_long(supply: Iterator[Row]) -> Iterator[Line]:
    """A pasted log and an endless complaint, both beyond 1024 tokens."""
    log = "\n".join(f"12:{n // 60:02d}:{n % 60:02d} error 500 in Pixel Board" for n in range(90))
    complaint = " ".join(["Nothing works and nobody can help me."] * 220)
    for text in (log, complaint):
        row = next(supply)
        spoiled = f"{row['messages'][1]['content']} {text}"
        yield Line(to_bytes(_with_content(row, 1, spoiled)), "too_long")
