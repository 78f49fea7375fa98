"""Answers that some other program wrote, put to the rows that they belong to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetui.data.records import Shape, prompt_and_reference, read_record
from finetui.errors import UserError
from finetui.evaluation.record import Item

_IDS = ("id", "row")
_ANSWERS = ("answer", "output", "response", "completion", "generated", "prediction", "text")


def outputs_of(path: Path, sets: Mapping[str, Sequence[Item]]) -> dict[str, dict[str, str]]:
    """{set: {row id: answer}} of a JSONL of outputs.

    A line has the row's id (file:line) and its answer, or is a chat whose last turn is the answer
    to one of the prompts, or is the answer alone, in the order of the rows of a set of that size.
    Raises UserError when it fits no row.
    """
    lines = list(_lines(path))
    by_id = {str(id): text for value, text in lines if (id := _id(value)) is not None}
    by_prompt = {_words(asked): text for value, text in lines if (asked := _prompt(value))}
    found: dict[str, dict[str, str]] = {}
    for name, items in sets.items():
        answers = {
            item.id: text
            for item in items
            if (text := by_id.get(item.id, by_prompt.get(_words(item.prompt)))) is not None
        }
        if not answers and not by_id and not by_prompt and len(items) == len(lines):
            answers = {item.id: text for item, (_, text) in zip(items, lines, strict=True)}
        if answers:
            found[name] = answers
    if not found:
        raise UserError(
            f"none of its {len(lines)} lines fits a row that is evaluated.",
            str(path),
            'Give each line the row\'s "id" (file:line) or its "messages", or one answer a row.',
        )
    return found


def _lines(path: Path) -> Iterator[tuple[Any, str]]:
    try:
        content = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}.", str(path)) from error
    for number, line in enumerate(content, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise UserError(f"is not valid JSON: {error}.", f"{path}:{number}") from error
        text = _answer(value)
        if text is None:
            named = ", ".join(_ANSWERS)
            raise UserError(f"has no answer ({named}).", f"{path}:{number}")
        yield value, text


def _answer(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        return None
    for name in _ANSWERS:
        if isinstance(value.get(name), str):
            return str(value[name])
    record = _chat(value)
    return prompt_and_reference(record)[1] if record is not None else None


def _id(value: Any) -> object:
    if not isinstance(value, dict):
        return None
    return next((value[name] for name in _IDS if isinstance(value.get(name), str)), None)


def _prompt(value: Any) -> list[dict[str, Any]]:
    record = _chat(value)
    if record is not None:
        return prompt_and_reference(record)[0]
    asked = value.get("prompt") if isinstance(value, dict) else None
    if isinstance(asked, str):
        return [{"role": "user", "content": asked}]
    return asked if isinstance(asked, list) else []


def _chat(value: Any) -> Any:
    if not isinstance(value, dict) or "messages" not in value:
        return None
    record, faults = read_record(value, Shape.CHAT)
    return None if faults else record


def _words(prompt: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(
        [(turn.get("role"), turn.get("content")) for turn in prompt if turn.get("role") != "system"]
    )
