"""Write a sealed session to disk. Only the coordinator's process imports this module."""

from __future__ import annotations

import contextlib
import grp
import hashlib
import os
import pwd
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from finetui.errors import UserError
from finetui.rating import audit
from finetui.rating.assignment import BLOCK_SIZES, Slot, assign, default_repeats, prf
from finetui.rating.normalise import normalise
from finetui.rating.session import Item, Manifest, PacketItem, commitment, open_session
from finetui.workspace import sync_folder, write_atomic

# Settings that both sides share and that name nothing; whatever else a caller passes is sealed.
PUBLIC_SETTINGS = frozenset(
    (
        "max_new_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "do_sample",
        "num_beams",
        "seed",
        "items",
    )
)
_PROMPT_KEYS = ("role", "content", "name", "tool_calls")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides a session; the same plan and key give the same files."""

    name: str
    items: tuple[Item, ...]
    systems: tuple[str, str]
    raters: tuple[str, ...]
    question: str
    endpoint: str
    alpha: float
    repeats: float | None
    generation: dict[str, Any]
    provenance: dict[str, Any]
    special_tokens: tuple[str, ...]
    key: bytes
    created: datetime


class Placement(msgspec.Struct, frozen=True):
    """The secret of one showing: which item, and which system stood on which side."""

    pid: str
    rater: str
    seq: int
    item: str
    kind: str
    left: str
    right: str


class Provenance(msgspec.Struct, frozen=True):
    """What is known of the generation and must stay sealed.

    ``systems`` is (reference, candidate).
    """

    systems: tuple[str, str]
    generation: dict[str, Any]
    provenance: dict[str, Any]


def shown_outputs(
    items: Iterable[Item], special_tokens: Sequence[str]
) -> dict[str, dict[str, str]]:
    """item id -> system -> the text a rater sees."""
    return {
        item.id: {system: normalise(text, special_tokens) for system, text in item.outputs.items()}
        for item in items
    }


def split_identical(
    texts: Mapping[str, Mapping[str, str]], systems: tuple[str, str]
) -> tuple[list[str], list[str]]:
    """(ids to show, ids whose two texts are the same)."""
    different = [i for i, sides in texts.items() if sides[systems[0]] != sides[systems[1]]]
    return different, [i for i, sides in texts.items() if sides[systems[0]] == sides[systems[1]]]


def items_hash(key: bytes, items: Sequence[Item]) -> str:
    """Keyed hash over every prompt, reference and raw output, hex."""
    return prf(key, "items", msgspec.json.encode(items, order="deterministic").decode()).hex()


def packet_bytes(
    slots: Sequence[Slot],
    items: Mapping[str, Item],
    texts: Mapping[str, Mapping[str, str]],
    systems: tuple[str, str],
) -> bytes:
    """One rater's packet file."""
    lines = []
    for slot in slots:
        left, right = (texts[slot.item][system] for system in sides(slot, systems))
        prompt = [
            {k: turn[k] for k in _PROMPT_KEYS if k in turn} for turn in items[slot.item].prompt
        ]
        lines.append(msgspec.json.encode(PacketItem(slot.pid, slot.seq, prompt, left, right)))
    return b"".join(line + b"\n" for line in lines)


def sides(slot: Slot, systems: tuple[str, str]) -> tuple[str, str]:
    """(left system, right system) of a showing."""
    reference, candidate = systems
    return (candidate, reference) if slot.candidate_left else (reference, candidate)


def placements(slots: Mapping[str, Sequence[Slot]], systems: tuple[str, str]) -> list[Placement]:
    """The whole map, rater by rater."""
    return [
        Placement(slot.pid, rater, slot.seq, slot.item, slot.kind, *sides(slot, systems))
        for rater, own in slots.items()
        for slot in own
    ]


def write_session(ratings_dir: Path, plan: Plan, group: str | None) -> Path:
    """Write the session beside its place, then move it there in one step. Raises UserError."""
    target = ratings_dir / plan.name
    draft = ratings_dir / f".{plan.name}.sealing-{os.getpid()}"
    try:
        ratings_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (
            draft,
            *(draft / name for name in ("packets", "ratings", "audit", "sealed")),
        ):
            folder.mkdir(mode=0o700)
        manifest = _write_files(draft, plan)
        audit.record(open_session(draft), "create", reason=f"sealed {manifest.items} items")
        _level_times(draft, plan.created)
        if group:
            _open_to(draft, group, plan.raters)
        draft.rename(target)
        sync_folder(ratings_dir)
    except OSError as error:
        raise UserError("the session cannot be written.", str(target), f"({error})") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _write_files(folder: Path, plan: Plan) -> Manifest:
    texts = shown_outputs(plan.items, plan.special_tokens)
    shown, identical = split_identical(texts, plan.systems)
    if not shown:
        raise UserError(
            f"both systems gave the same answer to all {len(identical)} items: nothing to rate.",
            plan.name,
            "Use other prompts, or train for longer.",
        )
    repeats = default_repeats(len(shown)) if plan.repeats is None else plan.repeats
    slots = assign(plan.key, plan.name, shown, plan.raters, repeats)
    by_id = {item.id: item for item in plan.items}
    packets = {
        rater: packet_bytes(slots[rater], by_id, texts, plan.systems) for rater in plan.raters
    }
    bare = Manifest(
        session=plan.name,
        created=plan.created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        question=plan.question,
        endpoint=plan.endpoint,
        alpha=plan.alpha,
        items=len(plan.items),
        shown=len(shown),
        identical=len(identical),
        raters=list(plan.raters),
        repeats=repeats,
        block_sizes=list(BLOCK_SIZES),
        generation=_public(plan.generation),
        special_tokens=sorted(plan.special_tokens),
        items_hash=items_hash(plan.key, plan.items),
        packets={rater: hashlib.sha256(data).hexdigest() for rater, data in packets.items()},
    )
    manifest = msgspec.structs.replace(bare, commitment=commitment(plan.key, bare))
    for rater, data in packets.items():
        write_atomic(folder / "packets" / f"{rater}.jsonl", data)
    write_atomic(folder / "manifest.json", _pretty(manifest))
    sealed = folder / "sealed"
    write_atomic(sealed / "key", plan.key.hex() + "\n")
    write_atomic(sealed / "items.jsonl", _lines(plan.items))
    write_atomic(sealed / "map.jsonl", _lines(placements(slots, plan.systems)))
    write_atomic(
        sealed / "provenance.json",
        _pretty(Provenance(plan.systems, plan.generation, plan.provenance)),
    )
    return manifest


def _public(generation: Mapping[str, Any]) -> dict[str, float | int | bool]:
    return {
        name: value
        for name, value in sorted(generation.items())
        if name in PUBLIC_SETTINGS and isinstance(value, (int, float))
    }


def _pretty(value: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _lines(values: Iterable[msgspec.Struct]) -> bytes:
    return b"".join(msgspec.json.encode(value) + b"\n" for value in values)


def _level_times(folder: Path, created: datetime) -> None:
    """Give every file one time, so that none tells what was written first or how long it took."""
    stamp = created.timestamp()
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (stamp, stamp))


def _open_to(folder: Path, group: str, raters: Sequence[str]) -> None:
    """Let a Unix group read packets and write votes.

    ``sealed/`` and ``audit/`` stay with their owner.
    """
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        raise UserError(
            f"there is no Unix group {group!r}.",
            fix="Ask the administrator, or leave the group out.",
        ) from None
    modes = {
        folder: 0o750,
        folder / "packets": 0o750,
        folder / "manifest.json": 0o640,
        folder / "ratings": 0o3770,
    }
    modes |= dict.fromkeys((folder / "packets").iterdir(), 0o640)
    for path, mode in modes.items():
        os.chown(path, -1, gid)
        path.chmod(mode)
    if os.getuid() == 0:
        _private_ballots(folder / "ratings", raters, gid)


def _private_ballots(ratings: Path, raters: Sequence[str], gid: int) -> None:
    """Sealed by root, each rater with an account gets a folder that other raters cannot read."""
    for rater in raters:
        with contextlib.suppress(KeyError):
            uid = pwd.getpwnam(rater).pw_uid
            own = ratings / rater
            own.mkdir(mode=0o700)
            os.chown(own, uid, gid)
