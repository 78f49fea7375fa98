"""Give votes back to the data: preference pairs, unpaired labels, and the list of burned prompts.

A prompt that leaves as training data must not be used to evaluate again: it is marked burned for
ever after.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from finetui.rating import audit
from finetui.rating.collecting import collect_votes
from finetui.rating.session import Item, Session
from finetui.rating.unseal import Mapping, read_mapping
from finetui.rating.verdict import Vote
from finetui.rating.votes import Choice
from finetui.workspace import sync_folder, write_atomic

BURNED = "burned.jsonl"
AGREEMENT = 2 / 3  # of an item's judging raters must say the same


class Exported(NamedTuple):
    """What was written: files and how many records are in each; ``burned`` counts prompts."""

    preferences: Path
    unpaired: Path
    pairs: int
    labels: int
    burned: int


class Burned(msgspec.Struct, frozen=True):
    """A prompt that was given away as training data; ``time`` in unix seconds."""

    prompt_hash: str
    session: str
    item: str
    time: float


def prompt_hash(prompt: list[dict[str, Any]]) -> str:
    """SHA-256 of a prompt's messages, hex: how a burned prompt is known again."""
    return hashlib.sha256(msgspec.json.encode(prompt, order="deterministic")).hexdigest()


def burned(ratings_dir: Path) -> frozenset[str]:
    """The hashes of all prompts that any session of this folder gave away."""
    try:
        lines = (ratings_dir / BURNED).read_bytes().splitlines()
    except FileNotFoundError:
        return frozenset()
    return frozenset(msgspec.json.decode(line, type=Burned).prompt_hash for line in lines if line)


def export(session: Session, folder: Path, min_raters: int = 1) -> Exported:
    """Write preferences.jsonl and unpaired.jsonl of an unsealed session into ``folder``; logged.

    Preference pairs ``{prompt, chosen, rejected, meta}`` come from items on which at least two
    thirds of ``min_raters`` or more raters chose the same system; unpaired records ``{prompt,
    completion, label, meta}`` from items that they called both good (two true) or both bad (two
    false). An item that a rater answered differently when it came again gives nothing. The texts
    are those that were shown. Raises UserError while the session is sealed.
    """
    mapping = read_mapping(session)
    opened = audit.unsealing(session)
    votes = collect_votes(session, mapping.placements, opened) if opened else []
    judged = [(item, *found) for item, found in _verdicts(votes, mapping.systems[1], min_raters).items()]
    pairs = [
        _pair(session, mapping, *entry)
        for entry in judged
        if entry[1] in ("candidate", "reference")
    ]
    labels = [
        line
        for entry in judged
        if entry[1] in ("good", "bad")
        for line in _labels(session, mapping, *entry)
    ]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    preferences, unpaired = folder / "preferences.jsonl", folder / "unpaired.jsonl"
    # Burned before given away: a crash in between errs on the safe side.
    _burn(session, [mapping.items[item] for item, *_ in judged])
    audit.record(session, "export", f"{len(pairs)} preference pairs, {len(labels)} labels")
    write_atomic(preferences, _lines(pairs))
    write_atomic(unpaired, _lines(labels))
    return Exported(preferences, unpaired, len(pairs), len(labels), len(judged))


def _verdicts(
    votes: Iterable[Vote], candidate: str, min_raters: int
) -> dict[str, tuple[str, dict[str, Any]]]:
    """item -> (candidate, reference, good or bad; figures), for items that the raters agree on."""
    first: defaultdict[str, dict[str, str]] = defaultdict(dict)
    again: dict[tuple[str, str], str] = {}
    for vote in votes:
        if (answer := _answer(vote, candidate)) and vote.kind == "item":
            first[vote.item][vote.rater] = answer
        elif answer:
            again[vote.rater, vote.item] = answer
    found = {}
    for item, answers in first.items():
        answer, count = Counter(answers.values()).most_common(1)[0]
        steady = all(again.get((rater, item), own) == own for rater, own in answers.items())
        if len(answers) >= min_raters and count >= AGREEMENT * len(answers) and steady:
            figures = {"raters": len(answers), "agreement": round(count / len(answers), 4)}
            found[item] = (answer, figures)
    return found


def _answer(vote: Vote, candidate: str) -> str:
    match vote.choice:
        case Choice.SKIP:
            return ""
        case Choice.BOTH_GOOD:
            return "good"
        case Choice.BOTH_BAD:
            return "bad"
        case _:
            return "candidate" if vote.winner == candidate else "reference"


def _pair(
    session: Session, mapping: Mapping, item: str, answer: str, figures: dict[str, Any]
) -> dict[str, Any]:
    reference, candidate = mapping.systems
    chosen, rejected = (candidate, reference) if answer == "candidate" else (reference, candidate)
    meta = _meta(session, mapping.items[item], figures)
    return {
        "prompt": mapping.items[item].prompt,
        "chosen": _answer_turn(mapping.texts[item][chosen]),
        "rejected": _answer_turn(mapping.texts[item][rejected]),
        "meta": {**meta, "chosen_system": chosen, "rejected_system": rejected},
    }


def _labels(
    session: Session, mapping: Mapping, item: str, answer: str, figures: dict[str, Any]
) -> list[dict[str, Any]]:
    meta = _meta(session, mapping.items[item], figures)
    return [
        {
            "prompt": mapping.items[item].prompt,
            "completion": _answer_turn(mapping.texts[item][system]),
            "label": answer == "good",
            "meta": {**meta, "system": system},
        }
        for system in mapping.systems
    ]


def _answer_turn(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _meta(session: Session, item: Item, figures: dict[str, Any]) -> dict[str, Any]:
    return {
        "session": session.name,
        "item": item.id,
        "burned": True,
        **figures,
        "source": item.meta,
    }


def _burn(session: Session, items: Iterable[Item]) -> None:
    ratings_dir = session.path.parent
    known = burned(ratings_dir)
    fresh = [item for item in items if prompt_hash(item.prompt) not in known]
    moment = round(time.time(), 3)
    lines = _lines(Burned(prompt_hash(i.prompt), session.name, i.id, moment) for i in fresh)
    with open(
        ratings_dir / BURNED, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)
    ) as log:
        log.write(lines)
        log.flush()
        os.fsync(log.fileno())
    sync_folder(ratings_dir)


def _lines(records: Iterable[object]) -> bytes:
    return b"".join(msgspec.json.encode(record) + b"\n" for record in records)
