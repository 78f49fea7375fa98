"""Training text that comes back word for word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetui.evaluation.words import words

RUN = 12
"""A run of so many words is no accident; shorter ones are phrases of the language."""

_GRAM = (RUN + 1) // 2  # any run of RUN words holds one gram that begins at a multiple of this
_FEW_ROWS = 3  # what more rows say is a way of speaking that was taught, not one row's text
_MOST_PLACES = 8


@dataclass(frozen=True)
class Run:
    """Words of an answer that stand in a training row."""

    row: str
    words: int
    text: str


class TrainingIndex:
    """Finds runs of training rows: (id, text) in, kept as every sixth run of six words."""

    def __init__(self, rows: Iterable[tuple[str, str]]) -> None:
        self._names: list[str] = []
        self._texts: list[list[str]] = []
        self._places: dict[tuple[str, ...], list[tuple[int, int]]] = {}
        for name, text in rows:
            self._add(name, words(text))

    def __len__(self) -> int:
        return len(self._texts)

    def longest(self, answer: str, prompt: str = "") -> Run | None:
        """The longest run of at least `RUN` words that the prompt does not hold; None for none."""
        given, asked = words(answer), " ".join(["", *words(prompt), ""])
        best: Run | None = None
        for at in range(len(given) - _GRAM + 1):
            for row, place in self._rare(tuple(given[at : at + _GRAM])):
                start, end = _widened(given, self._texts[row], at, place)
                if end - start < RUN or (best and end - start <= best.words):
                    continue
                text = " ".join(given[start:end])
                if f" {text} " not in asked:
                    best = Run(self._names[row], end - start, text)
        return best

    def _add(self, name: str, text: list[str]) -> None:
        number = len(self._texts)
        self._names.append(name)
        self._texts.append(text)
        for at in range(0, len(text) - _GRAM + 1, _GRAM):
            places = self._places.setdefault(tuple(text[at : at + _GRAM]), [])
            if len(places) < _MOST_PLACES:
                places.append((number, at))

    def _rare(self, gram: tuple[str, ...]) -> list[tuple[int, int]]:
        places = self._places.get(gram, [])
        return places if len({row for row, _ in places}) <= _FEW_ROWS else []


def probe(text: str, share: float = 0.5) -> tuple[str, str] | None:
    """Where to cut a training text: its beginning to ask with, the rest to see come back.

    Cuts at white space nearest to ``share``; None for a text whose rest is shorter than `RUN`.
    """
    middle = int(len(text) * share)
    cut = text.rfind(" ", 0, middle) + 1 or middle
    rest = text[cut:]
    return (text[:cut].rstrip(), rest) if len(words(rest)) >= RUN else None


def repeated(answer: str, rest: str) -> int:
    """How many words of ``rest`` the answer repeats from its start on (Carlini et al. 2023)."""
    given, wanted = words(answer), words(rest)
    count = 0
    for ours, theirs in zip(given, wanted, strict=False):
        if ours != theirs:
            break
        count += 1
    return count


def _widened(a: Sequence[str], b: Sequence[str], at: int, place: int) -> tuple[int, int]:
    """The bounds in ``a`` of the run around a gram that both have."""
    start, end = at, at + _GRAM
    while start > 0 and place > 0 and a[start - 1] == b[place - 1]:
        start, place = start - 1, place - 1
    offset = place - start
    while end < len(a) and end + offset < len(b) and a[end] == b[end + offset]:
        end += 1
    return start, end
