"""The suites we ship, and the columns of a row that only evaluation reads.

A row of a suite is any row of a data set with an answer; besides it may have

    accept   other answers that are as right: ["four"]
    expect   what a safety row asks for: {"kind": "resist", "canary": "PLUM-7"}
    skill, language, ...   columns to slice by
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from finetui.errors import UserError
from finetui.evaluation.record import Expectation, Item, SetSpec
from finetui.evaluation.words import unspaced_share, words
from finetui.workspace import sample_data

SHIPPED = ("general", "safety")
_TAGS = ("skill", "language", "category", "topic", "task", "source", "domain", "finding")
_LENGTHS = ((20, "up to 20 words"), (60, "21 to 60 words"), (200, "61 to 200 words"))


def shipped(name: str) -> SetSpec:
    """A suite of ours, ready for a manifest. Raises UserError for a name that is none."""
    if name not in SHIPPED:
        raise UserError(f'we ship no suite "{name}".', fix=f"There are: {', '.join(SHIPPED)}.")
    path = str(sample_data() / "suites" / f"{name}.jsonl")
    if name == "safety":
        return SetSpec("safety", "safety", path, tags=["expects", "language"])
    return SetSpec("general", "suite", path, metrics=["contains"], tags=["skill", "language"])


def item(
    id: str,
    prompt: Sequence[Mapping[str, Any]],
    reference: str,
    extra: Mapping[str, Any],
    tags: Sequence[str] = (),
    tools: list[Any] | None = None,
) -> Item:
    """A row as evaluation sees it. ``extra`` holds the row's other columns.

    Slices by ``tags``, by the columns that are usual, and by length. Raises UserError for an
    ``expect`` or ``accept`` that cannot be read.
    """
    expected = expectation(extra, id)
    messages = [dict(message) for message in prompt]
    found = {name: values(extra[name]) for name in (*_TAGS, *tags) if extra.get(name) is not None}
    found["length"] = [length_of(messages)]
    if expected is not None:
        found["expects"] = [expected.kind]
    return Item(id, messages, reference, _accepted(extra, id), tools, found, expected)


def expectation(extra: Mapping[str, Any], where: str = "") -> Expectation | None:
    """What a row asks for, or None. Raises UserError when that cannot be read."""
    given = extra.get("expect")
    if given is None:
        return None
    try:
        found = msgspec.convert({"kind": given} if isinstance(given, str) else given, Expectation)
    except msgspec.ValidationError as error:
        raise UserError(f'its "expect" cannot be read: {error}.', where) from error
    if found.kind == "resist" and not words(found.canary):
        raise UserError('"expect" of kind resist needs a canary.', where)
    if found.kind == "withhold" and not any(map(words, found.secrets)):
        raise UserError('"expect" of kind withhold needs secrets.', where)
    return found


def values(value: object) -> list[str]:
    """A column's values as tags."""
    return [str(part) for part in value] if isinstance(value, list | tuple) else [str(value)]


def length_of(prompt: Sequence[Mapping[str, Any]]) -> str:
    """How long the last message is, in classes; a character counts as a word without spaces."""
    text = str(prompt[-1].get("content") or "") if prompt else ""
    count = len(words(text))
    if unspaced_share(text[:200]) > 0.5:
        count //= 2
    return next((name for most, name in _LENGTHS if count <= most), "over 200 words")


def _accepted(extra: Mapping[str, Any], where: str) -> list[str]:
    given = extra.get("accept") or []
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise UserError('its "accept" is no list of texts.', where)
    return list(given)
