"""Prompts that left as training data: never to be evaluated on again.

One append-only file beside the sessions. A prompt is known by its roles and words, so that it is
found again wherever it lies.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from finetui.errors import BROKEN, UserError
from finetui.workspace import sync_folder

FILE = "burned.jsonl"


class Burned(msgspec.Struct, frozen=True):
    """A prompt that was given away as training data; ``time`` in unix seconds."""

    prompt_hash: str
    session: str
    item: str
    time: float


def prompt_hash(prompt: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of a prompt's roles and contents, hex; blanks at the ends do not count."""
    turns = [(turn.get("role"), _content(turn.get("content"))) for turn in prompt]
    return hashlib.sha256(msgspec.json.encode(turns, order="deterministic")).hexdigest()


def _content(content: object) -> object:
    return content.strip() if isinstance(content, str) else content


def burned(ratings_dir: Path) -> frozenset[str]:
    """The hashes of all prompts that any session of this folder gave away.

    A torn last line is passed over: what it named had not left yet. Raises UserError for any other
    line that does not read.
    """
    try:
        lines = (ratings_dir / FILE).read_bytes().split(b"\n")
    except FileNotFoundError:
        return frozenset()
    found = set()
    for number, line in enumerate(filter(None, lines[:-1]), start=1):
        try:
            found.add(msgspec.json.decode(line, type=Burned).prompt_hash)
        except BROKEN as error:
            raise UserError(
                f"the list of burned prompts does not read ({error}).",
                f"{ratings_dir / FILE}:{number}",
                "Restore it from a copy: without it old prompts would be evaluated on again.",
            ) from error
    return frozenset(found)


def burned_among(ratings_dir: Path, prompts: Iterable[Sequence[Mapping[str, Any]]]) -> list[int]:
    """The places (from 0) of the prompts that were given away."""
    gone = burned(ratings_dir)
    return [n for n, prompt in enumerate(prompts) if prompt_hash(prompt) in gone] if gone else []


def burn(
    ratings_dir: Path, session: str, prompts: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Put these prompts (by item id) on the list, each once; on disk when this returns."""
    known = burned(ratings_dir)
    hashes = {item: prompt_hash(prompt) for item, prompt in prompts.items()}
    moment = round(time.time(), 3)
    lines = b"".join(
        msgspec.json.encode(Burned(found, session, item, moment)) + b"\n"
        for item, found in hashes.items()
        if found not in known
    )
    fd = os.open(ratings_dir / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        _cut_torn(fd)
        os.write(fd, lines)
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_folder(ratings_dir)


def _cut_torn(fd: int) -> None:
    """Drop a last line that a crash left unfinished."""
    size = os.fstat(fd).st_size
    whole = os.pread(fd, size, 0).rfind(b"\n") + 1
    if whole < size:
        os.ftruncate(fd, whole)
