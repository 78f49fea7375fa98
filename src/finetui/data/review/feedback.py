"""Failures from production into the review queue: what was asked, what was wrong, what was right.

Columns are found by the names they have in the wild, also inside the envelopes of request logs
(``request.messages``, ``response.choices[0].message.content``); `Columns` overrides the guess.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from finetui.data.formats.source import Source, open_source
from finetui.data.keys import normalise
from finetui.data.records import CHAT_KEYS, RecordError, Shape, parse_record
from finetui.data.review.queue import FEEDBACK, Entry, Queue, chat_row, key_of
from finetui.data.strict import JsonFault, dumps

PROMPTS = (
    *CHAT_KEYS, "prompt", "input", "inputs", "question", "query", "instruction", "request",
    "user_input", "user_message", "user",
)  # fmt: skip
BAD = (
    "bad_output", "bad_answer", "bad_response", "bad", "wrong", "rejected", "actual_output",
    "actual", "model_output", "model_answer", "model_response", "output", "outputs", "response",
    "completion", "prediction", "generated_text", "generated", "generation", "answer",
)  # fmt: skip
CORRECTED = (
    "corrected_output", "corrected_answer", "corrected_response", "corrected", "correction",
    "expected_output", "expected", "ideal_response", "ideal", "gold", "ground_truth",
    "reference_output", "reference", "target", "fixed", "edited_output", "edited", "preferred",
    "chosen", "should_be",
)  # fmt: skip
NOTES = ("note", "reason", "comment", "feedback", "error", "why", "explanation")
REPAIRS = "repairs.jsonl"  # the Evaluate screen's list

Report = Callable[[int, int], None]


class FeedbackError(Exception):
    """Why a row is no failure report."""


@dataclass(frozen=True)
class Columns:
    """Names of columns, dotted where they lie deeper; empty ones are guessed."""

    prompt: str = ""
    bad: str = ""
    corrected: str = ""
    note: str = ""


@dataclass(frozen=True)
class Failure:
    """One report. ``prompt`` is role/content messages; ``corrected`` may be empty."""

    prompt: list[dict[str, Any]]
    bad: str
    corrected: str
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """A row of the file that is no failure report: its physical line and why."""

    line: int
    reason: str


@dataclass(frozen=True)
class Imported:
    """What became of a file: ``new`` items (``corrected`` of them came with an answer), rows that
    were ``known`` (their report counts), corrections ``taken`` for items that had none."""

    rows: int
    new: int
    corrected: int
    known: int
    taken: int
    refused: list[Refused]


def import_feedback(
    queue: Queue, path: Path, columns: Columns | None = None, progress: Report | None = None
) -> Imported:
    """Read a file of failures (JSONL, JSON or CSV) into the queue, as one operation.

    Blank lines are passed over. Raises UserError when the file cannot be read.
    """
    refused: list[Refused] = []
    tally = {"rows": 0, "corrected": 0}
    name = queue.workspace.relative(path)

    def entries(source: Source) -> Iterator[tuple[int, str, Entry]]:
        for line, raw, found in _failures(source, columns or Columns(), progress):
            tally["rows"] += 1
            if isinstance(found, str):
                refused.append(Refused(line, found))
                continue
            tally["corrected"] += bool(found.corrected)
            yield _key(found), xxhash.xxh3_128_hexdigest(raw), _entry(found, f"{name}:{line}")

    with open_source(path, queue.workspace.cache) as source:
        arrived = queue.arrive(FEEDBACK, entries(source), f"import of {name}")
    return Imported(
        tally["rows"], arrived.new, tally["corrected"], arrived.known, arrived.corrected, refused
    )


def take_repairs(queue: Queue) -> int:
    """Take in what the Evaluate screen put on its list; how many were new.

    These are rows that a model was judged on: they may be worked through, and new rows made like
    them, but they are not added to a data set.
    """
    fresh = []
    for entry in _repairs(queue.workspace.root / REPAIRS):
        key = key_of("repair", entry.seed, normalise(entry.bad))
        if not queue.knows(key):
            fresh.append((key, f"repair {entry.seed}", entry))
    return queue.arrive(FEEDBACK, fresh, "the repair list of Evaluate").new if fresh else 0


def read_failure(value: object, columns: Columns | None = None) -> Failure:
    """A decoded row as a failure report; raises FeedbackError."""
    if not isinstance(value, dict):
        raise FeedbackError("the row is not an object")
    columns, left = columns or Columns(), dict(value)
    prompt = _prompt(_take(left, columns.prompt, PROMPTS), left.pop("system", None))
    corrected = _text(_take(left, columns.corrected, CORRECTED))
    bad = _text(_take(left, columns.bad, BAD))
    note = _text(_take(left, columns.note, NOTES))
    if prompt[-1]["role"] == "assistant":
        prompt, bad = _without_answer(prompt, bad)
    if not bad and not corrected:
        raise FeedbackError("neither a bad nor a corrected output")
    if bad.strip() == corrected.strip():
        raise FeedbackError("the corrected output is the bad one")
    return Failure(prompt, bad, corrected, note, left)


# ---------------------------------------------------------------- inside


def _failures(
    source: Source, columns: Columns, progress: Report | None
) -> Iterator[tuple[int, bytes, Failure | str]]:
    """(line, bytes, report or why it is none) of every row that is not blank."""
    for row in source.iterate():
        if progress and row.row % 1000 == 0:
            progress(row.offset, source.size)
        if not row.raw.strip():
            continue
        try:
            yield row.line, row.raw, read_failure(source.decode(row.raw), columns)
        except JsonFault as fault:
            yield row.line, row.raw, fault.message
        except FeedbackError as error:
            yield row.line, row.raw, str(error)


def _key(found: Failure) -> int:
    asked = [(turn["role"], normalise(turn["content"])) for turn in found.prompt]
    wrong = normalise(found.bad) if found.bad else ("corrected", normalise(found.corrected))
    return key_of(FEEDBACK, asked, wrong)


def _entry(found: Failure, source: str) -> Entry:
    return Entry(
        prompt=found.prompt,
        row=chat_row(found.prompt, found.corrected) if found.corrected else None,
        bad=found.bad,
        note=found.note,
        source=source,
        extra=found.extra,
    )


def _take(left: dict[str, Any], name: str, known: tuple[str, ...]) -> Any:
    """The value of the named column, or of the first known one; it leaves ``left``."""
    if name:
        return _dotted(left, name)
    for key in known:
        if key in left and left[key] not in (None, "", []):
            return left.pop(key)
    return None


def _dotted(left: dict[str, Any], name: str) -> Any:
    if name in left:
        return left.pop(name)
    part: Any = left
    for key in name.split("."):
        if isinstance(part, list) and key.isdecimal() and int(key) < len(part):
            part = part[int(key)]
        else:
            part = part.get(key) if isinstance(part, dict) else None
    return part


def _prompt(part: Any, system: Any) -> list[dict[str, Any]]:
    """What was asked, as messages; raises FeedbackError."""
    part = _opened(part, (*CHAT_KEYS, "prompt", "input", "question", "query", "text", "content"))
    if isinstance(part, str):
        part = [{"role": "user", "content": part}] if part.strip() else None
    if not isinstance(part, list) or not part:
        raise FeedbackError("no prompt")
    marked = any(isinstance(turn, dict) and "from" in turn for turn in part)
    value = {"messages": part, "system": system}
    try:
        record = parse_record(value, Shape.SHAREGPT if marked else Shape.CHAT)
    except RecordError as error:
        raise FeedbackError(f"the prompt cannot be read: {error}") from None
    if not any(turn.content.strip() for turn in record.turns if turn.role == "user"):
        raise FeedbackError("no prompt: nobody asks")
    return [turn.as_dict() for turn in record.turns]


def _without_answer(prompt: list[dict[str, Any]], bad: str) -> tuple[list[dict[str, Any]], str]:
    """A conversation that ends with the bad answer, taken apart."""
    last = str(prompt[-1]["content"])
    if bad and bad.strip() != last.strip():
        raise FeedbackError("the conversation ends with an answer that is not the bad output")
    return prompt[:-1], last


def _text(part: Any) -> str:
    """An output as text: a string, a message, a reply of an endpoint, or JSON as it is."""
    if part is None:
        return ""
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and _is_envelope(part):
        return _text(_opened(part, _ENVELOPES))
    if isinstance(part, list) and part and isinstance(part[-1], dict):
        texts = [piece.get("text") for piece in part if isinstance(piece, dict)]
        if len(texts) == len(part) and all(isinstance(text, str) for text in texts):
            return "".join(str(text) for text in texts)
        if _is_envelope(part[-1]):
            return _text(part[-1])
    return dumps(part)


_ENVELOPES = ("choices", "message", "content", "value", "text")


def _is_envelope(part: dict[str, Any]) -> bool:
    """A message or a reply, and not an answer that is JSON itself."""
    if {"role", "from", "choices"} & part.keys() or isinstance(part.get("message"), dict):
        return bool(set(_ENVELOPES) & part.keys())
    return len(part) == 1 and bool({"content", "text"} & part.keys())


def _opened(part: Any, keys: tuple[str, ...]) -> Any:
    """What an envelope holds; anything else as it is."""
    while isinstance(part, dict):
        key = next((key for key in keys if part.get(key) not in (None, "", [])), None)
        if key is None:
            return None if keys is _ENVELOPES else part
        part = part[key]
    return part


def _repairs(path: Path) -> Iterator[Entry]:
    """The list's readable lines; a torn one is passed over."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return
    for line in lines:
        try:
            found = json.loads(json.dumps(json.loads(line), ensure_ascii=False).encode(
                errors="replace"))  # fmt: skip
            prompt = _prompt(found["prompt"], None)
            bad, seed = str(found["answer"]), str(found["row"])
        except (ValueError, KeyError, TypeError, FeedbackError):
            continue
        yield Entry(
            prompt=prompt,
            bad=bad,
            note=str(found.get("change", "")),
            source=f"evaluation {found.get('job', '')}".strip(),
            seed=seed,
            held_out=True,
            extra={"reference": str(found.get("reference", ""))},
        )
