"""The forms that answers take: JSON or not, how they begin, how they end."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any

from finetui.data.strict import JsonFault, decode

_FENCE = re.compile(r"\s*```[\w-]*[ \t]*\n(.*)\n[ \t]*```\s*\Z", re.DOTALL)


def json_answer(text: str) -> Any | None:
    """The object or list that an answer is, None for any other text."""
    stripped = text.strip()
    if stripped[:1] not in ("{", "["):
        return None
    try:
        return decode(stripped.encode(errors="surrogatepass"))
    except JsonFault:
        return None


def fenced(text: str) -> str:
    """What stands inside one code fence that is the whole answer, or the text as it is."""
    if "```" not in text:
        return text
    inside = _FENCE.match(text)
    return inside[1] if inside and "```" not in inside[1] else text


class Ending(StrEnum):
    """How a text ends: with a full stop or its like, in the middle of things, or another way."""

    STOP = "stop"
    OPEN = "open"
    OTHER = "other"


_STOPS = frozenset(".!?…。！？．｡؟۔।")
_CLOSERS = "\"'”’»›」』】）)]*_~ \t\n\r"
_UNFINISHED = frozenset(",;-–—，、；(（[{/&+")


def ending(text: str) -> Ending:
    """Closing quotes, brackets and emphasis are looked through."""
    bare = text[-200:].rstrip(_CLOSERS)
    last = bare[-1:]
    if last in _STOPS and last:
        return Ending.STOP
    if last.isalnum() or last in _UNFINISHED:
        whole = text.rstrip()
        return Ending.OPEN if whole[-1:] == last else Ending.OTHER
    return Ending.OTHER


_MARK = 16
_TAG = re.compile(r"<\w{1,20}>")


def beginning(text: str) -> str:
    """The mark a text begins with (``####``, ``Answer:``, ``<think>``); empty for a plain word."""
    head = text.lstrip()[: 2 * _MARK]
    tag = _TAG.match(head)
    if tag is not None:
        return tag[0]
    word = head.split(maxsplit=1)[0] if head else ""
    if not word or len(word) > _MARK:
        return ""
    if word[-1] == ":" or not any(map(str.isalnum, word)):
        return word
    return ""


def last_line(text: str) -> str:
    """The last line of a text that has several, else nothing."""
    return text.rstrip().rpartition("\n")[2] if "\n" in text.strip() else ""
