"""Rows, files and whole sets for the tests of checks that look at a set."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetui.data.checks.model import CheckOptions
from finetui.data.formats.source import open_source
from finetui.data.whole.model import WholeHit, WholeSet

WORDS = [
    "harbor", "lantern", "meadow", "copper", "violet", "thunder", "basket", "pepper", "glacier",
    "saddle", "orchard", "marble", "ribbon", "canyon", "beacon", "walnut", "kettle", "feather",
    "bridge", "velvet", "summit", "pocket", "garden", "mirror",
]  # fmt: skip


def chat(user: str, answer: str, **extra: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **extra}


def pair(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def sentence(number: int, words: Sequence[str] = WORDS, length: int = 8) -> str:
    """Words that depend on the number only, and differ from one number to the next."""
    step = 1 + number % 5
    return " ".join(words[(number * 7 + k * step) % len(words)] for k in range(length))


def write(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@dataclass
class Kept:
    """A store that keeps facts in memory."""

    facts: dict[str, Any] = field(default_factory=dict)

    def write_facts(self, check: str, facts: Any) -> None:
        self.facts[check] = facts

    def write_clusters(self, kind: str, clusters: Iterable[Any]) -> None:
        """No check of these writes any."""


def whole_set(*files: Path, **options: Any) -> WholeSet:
    """The files as a check gets them: held-out ones first, the training file last."""
    return WholeSet([open_source(file) for file in files], CheckOptions(**options), store=Kept())


def told(
    look: Callable[[WholeSet], Iterable[WholeHit]], path: Path, rows: Iterable[Any], **options: Any
) -> list[tuple[int, str]]:
    """(line, message) of what a check says of one file with these rows."""
    made = whole_set(write(path / "set.jsonl", rows), **options)
    return [(made.sources[hit.source].line(hit.row), hit.message) for hit in look(made)]
