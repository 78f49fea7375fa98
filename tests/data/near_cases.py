"""Data sets with planted near copies, for the tests of near-duplicates and leaks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random

from finetui.data.checks.model import CheckOptions
from finetui.data.findings import Cluster
from finetui.data.formats.source import open_source
from finetui.data.whole.model import WholeHit, WholeSet

_SYLLABLES = {
    "latin": ["ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu", "na", "pe", "ri", "so"],
    "cyrillic": ["ба", "це", "ди", "фо", "гу", "ха", "же", "ки", "ло", "му", "на", "пе", "ри"],
    "han": [chr(code) for code in range(0x4E00, 0x4F00)],
    "kana": [chr(code) for code in range(0x3042, 0x3092)],
}


def words(rng: Random, count: int, script: str = "latin") -> list[str]:
    """Invented words; single characters in ``han`` and ``kana``."""
    if script in ("han", "kana"):
        return rng.choices(_SYLLABLES[script], k=count)
    syllables = _SYLLABLES[script]
    return ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(count)]


def text(drawn: Sequence[str], script: str = "latin") -> str:
    return ("" if script in ("han", "kana") else " ").join(drawn)


def replaced(rng: Random, drawn: Sequence[str], share: float, script: str = "latin") -> list[str]:
    """The same words but for a share of them, in one stretch."""
    count = max(1, round(share * len(drawn)))
    start = rng.randrange(len(drawn) - count)
    return [*drawn[:start], *words(rng, count, script), *drawn[start + count :]]


def chat(user: str, answer: str, system: str = "", **more: object) -> str:
    turns = [{"role": "system", "content": system}] if system else []
    turns += [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns, **more}, ensure_ascii=False)


def long_rows(count: int) -> list[str]:
    """Rows of 2 kB that are quickly made, for what must take a while."""
    drawn = [f"word{place}" for place in range(3 * count)]
    return [chat(" ".join(drawn[row : row + 250]), "yes") for row in range(count)]


def talk(*said: str) -> str:
    """A conversation of user and assistant in turns."""
    turns = [
        {"role": "assistant" if place % 2 else "user", "content": content}
        for place, content in enumerate(said)
    ]
    return json.dumps({"messages": turns}, ensure_ascii=False)


def write(path: Path, lines: Iterable[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Kept:
    """A store that remembers what a check wrote."""

    def __init__(self) -> None:
        self.clusters: dict[str, list[Cluster]] = {}
        self.facts: dict[str, object] = {}

    def write_clusters(self, kind: str, clusters: Iterable[Cluster]) -> None:
        self.clusters[kind] = list(clusters)

    def write_facts(self, check: str, facts: object) -> None:
        self.facts[check] = facts


def whole_set(*paths: Path, store: Kept | None = None) -> WholeSet:
    """The files as a check gets them: held-out ones first, the training file last."""
    return WholeSet([open_source(path) for path in paths], CheckOptions(), store=store)


def lines_of(hits: Iterable[WholeHit]) -> list[int]:
    return sorted(hit.row + 1 for hit in hits)
