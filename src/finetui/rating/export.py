"""Give votes back to the data: preference pairs and unpaired labels, with where they come from.

A prompt that leaves as training data must not be used to evaluate again: it is marked burned for
ever after.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from finetui.errors import UserError
from finetui.rating import audit
from finetui.rating.burned import burn
from finetui.rating.collecting import collect_votes, failed_raters
from finetui.rating.session import Session
from finetui.rating.unseal import Mapping, read_mapping
from finetui.rating.verdict import Vote
from finetui.rating.votes import Choice
from finetui.workspace import write_atomic

AGREEMENT = 2 / 3  # of an item's judging raters must say the same
GOOD, BAD = "both good", "both bad"


class Exported(NamedTuple):
    """What was written: files and how many records are in each; ``burned`` counts prompts."""

    preferences: Path
    unpaired: Path
    provenance: Path
    pairs: int
    labels: int
    burned: int


class Verdict(NamedTuple):
    """What the raters agree on over two answers to one item: a system, GOOD or BAD."""

    item: str
    systems: tuple[str, str]
    answer: str
    raters: int
    agreement: float


def export(
    session: Session, folder: Path, min_raters: int = 1, *, all_labels: bool = False
) -> Exported:
    """Write preferences.jsonl, unpaired.jsonl and provenance.json of an unsealed session; logged.

    Preference pairs ``{prompt, chosen, rejected, meta}`` come from items on which at least two
    thirds of ``min_raters`` or more raters chose the same system; unpaired records ``{prompt,
    completion, label, meta}`` from items that they called both good (two true) or both bad (two
    false), with ``all_labels`` also from the pairs. An item that a rater answered differently when
    it came again gives nothing, and neither does a rater who missed too many catches. The texts are
    those that were shown. Raises UserError while the session is sealed.
    """
    mapping = read_mapping(session)
    found = verdicts(_votes(session, mapping), min_raters)
    pairs = [_pair(session, mapping, one) for one in found if one.answer in one.systems]
    labels = [
        line
        for one in found
        if all_labels or one.answer in (GOOD, BAD)
        for line in _labels(session, mapping, one)
    ]
    gone = {one.item: mapping.items[one.item].prompt for one in found}
    files = [folder / name for name in ("preferences.jsonl", "unpaired.jsonl", "provenance.json")]
    told = Exported(files[0], files[1], files[2], len(pairs), len(labels), len(gone))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Burned before given away: a crash in between errs on the safe side.
        burn(session.path.parent, session.name, gone)
        audit.record(session, "export", f"{len(pairs)} preference pairs, {len(labels)} labels")
        write_atomic(told.preferences, _lines(pairs))
        write_atomic(told.unpaired, _lines(labels))
        write_atomic(told.provenance, _provenance(session, mapping, told, min_raters))
    except OSError as error:
        raise UserError("the votes cannot be written.", str(folder), f"({error})") from error
    return told


def _votes(session: Session, mapping: Mapping) -> list[Vote]:
    opened = audit.unsealing(session)
    votes = collect_votes(session, mapping.placements, opened.heads) if opened else []
    failed = failed_raters(session, votes)
    return [vote for vote in votes if vote.rater not in failed]


def verdicts(votes: Iterable[Vote], min_raters: int) -> list[Verdict]:
    """What the raters agree on, in the order in which the items were first answered."""
    first: defaultdict[tuple[str, frozenset[str]], dict[str, str]] = defaultdict(dict)
    again: dict[tuple[str, str, frozenset[str]], str] = {}
    for vote in votes:
        answer = _answer(vote)
        if answer and vote.kind == "item":
            first[vote.item, vote.pair][vote.rater] = answer
        elif answer and vote.kind == "repeat":
            again[vote.rater, vote.item, vote.pair] = answer
    found = []
    for (item, pair), answers in first.items():
        answer, count = Counter(answers.values()).most_common(1)[0]
        steady = all(again.get((rater, item, pair), own) == own for rater, own in answers.items())
        if len(answers) >= min_raters and count >= AGREEMENT * len(answers) and steady:
            one, other = sorted(pair)
            share = round(count / len(answers), 4)
            found.append(Verdict(item, (one, other), answer, len(answers), share))
    return found


def _answer(vote: Vote) -> str:
    """A system, GOOD or BAD; empty for "cannot judge"."""
    named = {Choice.SKIP: "", Choice.BOTH_GOOD: GOOD, Choice.BOTH_BAD: BAD}
    return named.get(vote.choice, vote.winner)


def _pair(session: Session, mapping: Mapping, one: Verdict) -> dict[str, Any]:
    chosen = one.answer
    rejected = next(system for system in one.systems if system != chosen)
    return {
        "prompt": mapping.items[one.item].prompt,
        "chosen": _answer_turn(mapping.texts[one.item][chosen]),
        "rejected": _answer_turn(mapping.texts[one.item][rejected]),
        "meta": {
            **_meta(session, mapping, one),
            "chosen_system": chosen,
            "rejected_system": rejected,
        },
    }


def _labels(session: Session, mapping: Mapping, one: Verdict) -> list[dict[str, Any]]:
    return [
        {
            "prompt": mapping.items[one.item].prompt,
            "completion": _answer_turn(mapping.texts[one.item][system]),
            "label": one.answer in (GOOD, system),
            "meta": {**_meta(session, mapping, one), "system": system},
        }
        for system in sorted(one.systems, key=mapping.systems.index)
    ]


def _answer_turn(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _meta(session: Session, mapping: Mapping, one: Verdict) -> dict[str, Any]:
    return {
        "session": session.name,
        "item": one.item,
        "burned": True,
        "raters": one.raters,
        "agreement": one.agreement,
        "source": mapping.items[one.item].meta,
    }


def _provenance(session: Session, mapping: Mapping, told: Exported, min_raters: int) -> bytes:
    opened = audit.unsealing(session)
    said = {
        "session": session.name,
        "manifest": session.manifest_hash,
        "commitment": session.manifest.commitment,
        "question": session.question,
        "unsealed": {"by": opened.who, "at": opened.time, "why": opened.reason} if opened else {},
        "systems": list(mapping.systems),
        "made_by": mapping.provenance.provenance,
        "generation": mapping.provenance.generation,
        "rule": {"min_raters": min_raters, "agreement": round(AGREEMENT, 4)},
        "pairs": told.pairs,
        "labels": told.labels,
        "burned": told.burned,
    }
    return msgspec.json.format(msgspec.json.encode(said), indent=2) + b"\n"


def _lines(records: Iterable[object]) -> bytes:
    return b"".join(msgspec.json.encode(record) + b"\n" for record in records)
