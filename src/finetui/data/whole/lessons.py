"""Whether two rows that look alike teach the same: answers, and prompts that differ in nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any

from finetui.data.checks.answers import json_answer
from finetui.data.keys import answer_text, prompt_text
from finetui.data.records import Record, Shape
from finetui.data.whole.windows import fold

# Characters of scripts that have no spaces between words.
_DENSE = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u9fff\uf900-\ufaff]")
_SHORT = 5  # an answer of so few words is a label, a number or a name: it is equal or it differs
_EXACT = 20  # up to so many words, other numbers make another answer
_SAME = 0.3  # the share of words that longer answers with one meaning have in common, at least
_FEW = 60  # more words between the common begin and end of two prompts are no slip
_SLIPS = 4  # words that may differ in all

# Words that may come and go without changing what is asked.
_COURTESY_WORDS = """
please pls plz kindly hi hello hey dear thanks thank you thx regards sir madam
bitte danke hallo por favor gracias hola svp merci bonjour
пожалуйста привет здравствуйте спасибо
请 問 问 請 你 您 好 谢 謝 く だ さ い お 願 し ま す
"""
_COURTESY = frozenset(_COURTESY_WORDS.split())


def units(text: str) -> list[str]:
    """Folded words; of scripts without spaces, characters."""
    folded = fold(text).decode(errors="surrogatepass")
    if folded.isascii():
        return folded.split()
    return _DENSE.sub(lambda found: f" {found[0]} ", folded).split()


def same_answer(one: Record, other: Record) -> bool:
    """Whether two rows answer alike enough to be copies of each other."""
    if one.shape is Shape.TEXT:
        return True
    left, right = answer_text(one), answer_text(other)
    return left == right or not _differ(left, right)


def conflict(one: Record, other: Record) -> bool:
    """Whether two rows ask the same in slightly other words and are answered otherwise.

    Long answers in prose are not judged: there are many right ones.
    """
    if one.shape in (Shape.TEXT, Shape.UNPAIRED_PREFERENCE):
        return False
    left, right = answer_text(one), answer_text(other)
    if not left.strip() or not right.strip() or not _comparable(left, right):
        return False
    return _differ(left, right) and _ask_the_same(one, other)


def _comparable(left: str, right: str) -> bool:
    if json_answer(left) is not None and json_answer(right) is not None:
        return True
    return max(len(units(left)), len(units(right))) <= _EXACT


def _differ(left: str, right: str) -> bool:
    one, other = json_answer(left), json_answer(right)
    if (one is None) != (other is None):
        return True
    if one is None:
        return _texts_differ(left, right)
    return _values_differ(dict(_leaves(one)), dict(_leaves(other)))


def _texts_differ(left: str, right: str) -> bool:
    one, other = units(left), units(right)
    if one == other:
        return False
    longest = max(len(one), len(other))
    if longest <= _SHORT or (longest <= _EXACT and _numbers(one) != _numbers(other)):
        return True
    words, others = set(one), set(other)
    return len(words & others) < _SAME * len(words | others)


def _values_differ(one: dict[str, str], other: dict[str, str]) -> bool:
    """JSON answers differ in a key, or in a value; long texts in them are compared as texts."""
    return one.keys() != other.keys() or any(
        _texts_differ(value, other[key]) for key, value in one.items()
    )


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(part, f"{path}.{key}")
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from _leaves(part, f"{path}.{place}")
    else:
        yield path, str(value)


def _numbers(words: list[str]) -> list[str]:
    return [word for word in words if any(letter.isdigit() for letter in word)]


def _ask_the_same(one: Record, other: Record) -> bool:
    if _system(one) != _system(other):
        return False  # other instructions may want other answers
    left, right = units(prompt_text(one)), units(prompt_text(other))
    start = _common(left, right)
    end = _common(left[start:][::-1], right[start:][::-1])
    left, right = left[start : len(left) - end], right[start : len(right) - end]
    if max(len(left), len(right)) > _FEW:
        return False
    changed = 0
    for kind, i, j, k, m in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if kind != "equal":
            changed += max(j - i, m - k)
            if not _harmless(left[i:j], right[k:m]):
                return False
    return changed <= _SLIPS


def _system(record: Record) -> list[str]:
    return [turn.content for turn in record.turns if turn.role == "system"]


def _common(left: list[str], right: list[str]) -> int:
    """How many words both begin with."""
    limit = min(len(left), len(right))
    return next((k for k in range(limit) if left[k] != right[k]), limit)


def _harmless(left: list[str], right: list[str]) -> bool:
    """A slip of spelling, or a word of courtesy more or less."""
    if len(left) == len(right):
        return all(_slip(*pair) for pair in zip(left, right, strict=True))
    return all(word in _COURTESY for word in (*left, *right))


def _slip(one: str, other: str) -> bool:
    """One letter wrong, missing, doubled, or two swapped, in a word of four and more."""
    if min(len(one), len(other)) < 4 or _numbers([one, other]):
        return one in _COURTESY and other in _COURTESY
    start = _common(list(one), list(other))
    rest, rest_other = one[start:], other[start:]
    return (
        rest[1:] == rest_other
        or rest == rest_other[1:]
        or rest[1:] == rest_other[1:]
        or (rest[:2] == rest_other[1::-1] and rest[2:] == rest_other[2:])
    )
