"""The strings of a JSON text and where they stand, so that one can be replaced and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from finetui.data.strict import decode

_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s"{}\[\],:]+')

Path = tuple[str | int, ...]


class Leaf(NamedTuple):
    """A string (or null, as ``""``) of a JSON value: its path and the characters it takes."""

    path: Path
    start: int
    end: int
    text: str
    null: bool = False


def leaves(text: str) -> Iterator[Leaf]:
    """The strings and nulls of valid JSON text, in order; keys of objects are no leaves."""
    stack: list[str | int] = []  # for each open object its key, for each open array its index
    key = ""
    expects_key: list[bool] = []
    for found in _TOKEN.finditer(text):
        token = found[0]
        if token in "{[":
            stack.append("" if token == "{" else 0)
            expects_key.append(token == "{")
        elif token in "}]":
            stack.pop()
            expects_key.pop()
        elif token == ",":
            place = stack[-1]
            if isinstance(place, int):
                stack[-1] = place + 1
            else:
                expects_key[-1] = True
        elif token[0] == '"' and expects_key and expects_key[-1]:
            key = _unquoted(token)
            stack[-1], expects_key[-1] = key, False
        elif token[0] == '"' or token == "null":
            null = token == "null"
            words = "" if null else _unquoted(token)
            yield Leaf(tuple(stack), found.start(), found.end(), words, null)


def _unquoted(token: str) -> str:
    return str(json.loads(token)) if "\\" in token else token[1:-1]


def replaced(text: str, changes: Iterable[tuple[Leaf, str]]) -> str:
    """The text with other strings in the place of some leaves; every other character stays."""
    escaped = text.isascii() and "\\u" in text  # as the file was written, so it is written on
    pieces, position = [], 0
    for leaf, words in sorted(changes, key=lambda change: change[0].start):
        pieces += [text[position : leaf.start], json.dumps(words, ensure_ascii=escaped)]
        position = leaf.end
    return "".join([*pieces, text[position:]])


def respelt(before: str, after: str) -> str:
    """``after`` in the spelling of ``before``: only the strings that differ are written anew.

    Both are valid JSON; where more than strings differ, ``after`` is given back as it is.
    """
    old, new = list(leaves(before)), list(leaves(after))
    if [leaf.path for leaf in old] != [leaf.path for leaf in new]:
        return after
    pairs = zip(old, new, strict=True)
    changes = [(leaf, other.text) for leaf, other in pairs if leaf.text != other.text]
    tried = replaced(before, changes)
    return tried if decode(tried.encode()) == decode(after.encode()) else after
