"""Write a sealed session to disk. Only the coordinator's process imports this module."""

from __future__ import annotations

import contextlib
import grp
import hashlib
import os
import pwd
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from finetui.errors import UserError
from finetui.rating import audit
from finetui.rating.assignment import BLOCK_SIZES, Cast, Slot, assign, default_repeats, prf
from finetui.rating.findings import Findings, shown_texts
from finetui.rating.normalise import normalise
from finetui.rating.registration import Registration
from finetui.rating.session import Item, Manifest, PacketItem, commitment, open_session
from finetui.rating.verdict import CATCH
from finetui.workspace import MARKER, sync_folder, write_atomic

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


SOUND = "sound"
"""The "system" of the better text of a catch item."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides a session; the same plan and key give the same files."""

    name: str
    items: tuple[Item, ...]
    excluded: tuple[Item, ...]
    systems: tuple[str, ...]
    chosen: Registration
    findings: Findings
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

    ``systems`` is the reference and the candidates.
    """

    systems: tuple[str, ...]
    generation: dict[str, Any]
    provenance: dict[str, Any]


class Contest(NamedTuple):
    """Two systems' answers to one item; the candidate is the later one of ``systems``."""

    item: str
    reference: str
    candidate: str

    @property
    def unit(self) -> str:
        """What the assignment draws: the contest as a text."""
        return msgspec.json.encode(self).decode()


class Scheme(NamedTuple):
    """What the layout of a session depends on, besides key, items and systems."""

    name: str
    raters: Sequence[str]
    pairing: Literal["spread", "each"]
    repeats: float | None
    practice: int
    catches: int
    guesses: int
    special_tokens: Sequence[str]


class Layout(NamedTuple):
    """What follows from scheme, key, items and systems.

    ``texts`` item -> system -> shown text; ``identical`` (item, system, system) with equal texts;
    ``counted`` items, ``shown`` of them to raters.
    """

    texts: dict[str, dict[str, str]]
    identical: list[tuple[str, str, str]]
    counted: int
    shown: int
    scheme: Scheme
    placements: list[Placement]
    packets: dict[str, bytes]


def lay_out(key: bytes, scheme: Scheme, items: Sequence[Item], systems: Sequence[str]) -> Layout:
    """Decide what each rater sees. Raises UserError when nothing is left to rate."""
    texts = shown_texts(items, systems, scheme.special_tokens)
    practice, spoilt = _set_aside(key, scheme, items, texts, systems)
    aside = {*practice, *(item for item in spoilt if _differ(texts[item]))}
    counted = [item for item in texts if item not in aside]
    if not counted:
        raise UserError(
            f"{len(texts)} items are too few: practice and catches take them all.",
            scheme.name,
            "Use more prompts, or less practice and fewer catches.",
        )
    contests = _contests(key, counted, systems, scheme.pairing)
    shown = [one for one in contests if not _alike(texts[one.item], one)]
    if not shown:
        raise UserError(
            f"all systems gave the same answer to all {len(counted)} items: nothing to rate.",
            scheme.name,
            "Use other prompts, or train for longer.",
        )
    repeats = default_repeats(len(shown)) if scheme.repeats is None else scheme.repeats
    guesses = _guesses(key, shown, systems, scheme.guesses)
    cast = Cast(
        [one.unit for one in shown],
        [Contest(item, systems[0], systems[1]).unit for item in practice],
        [Contest(item, SOUND, CATCH).unit for item in spoilt],
        [one.unit for one in guesses],
    )
    slots = assign(key, scheme.name, cast, scheme.raters, repeats)
    whole = {item: texts[item] | spoilt.get(item, {}) for item in texts}
    prompts = {item.id: item.prompt for item in items}
    seen = set(shown)
    return Layout(
        texts=texts,
        identical=[(*one,) for one in contests if one not in seen],
        counted=len(counted),
        shown=len({one.item for one in shown}),
        scheme=scheme._replace(
            repeats=repeats, practice=len(practice), catches=len(spoilt), guesses=len(guesses)
        ),
        placements=[_placement(slot, rater) for rater, own in slots.items() for slot in own],
        packets={rater: _packet(own, prompts, whole) for rater, own in slots.items()},
    )


def _alike(sides: Mapping[str, str], one: Contest) -> bool:
    return sides[one.reference] == sides[one.candidate]


def _differ(sides: Mapping[str, str]) -> bool:
    return len(set(sides.values())) > 1


def _set_aside(
    key: bytes,
    scheme: Scheme,
    items: Sequence[Item],
    texts: Mapping[str, Mapping[str, str]],
    systems: Sequence[str],
) -> tuple[list[str], dict[str, dict[str, str]]]:
    """(items to practise on, item -> texts of a catch).

    A catch takes an item that nobody would see, as all its answers are alike, if there is one.
    """
    drawn = sorted(texts, key=lambda item: prf(key, "aside", item))
    main = [item for item in drawn if texts[item][systems[0]] != texts[item][systems[1]]]
    practice = main[: scheme.practice]
    pool = sorted((item for item in drawn if item not in practice), key=lambda i: _differ(texts[i]))
    sound = _sound_texts(key, items, texts, scheme.special_tokens)
    spoilt: dict[str, dict[str, str]] = {}
    for item in pool:
        if len(spoilt) == scheme.catches:
            break
        if bad := _spoilt_text(key, item, sound):
            spoilt[item] = {SOUND: sound[item], CATCH: bad}
    return practice, spoilt


def _sound_texts(
    key: bytes,
    items: Sequence[Item],
    texts: Mapping[str, Mapping[str, str]],
    special_tokens: Sequence[str],
) -> dict[str, str]:
    """A good answer to each item: its reference, or where there is none some system's."""
    found = {}
    for item in items:
        sides = sorted(texts[item.id], key=lambda system: prf(key, "sound", item.id, system))
        reference = normalise(item.reference, special_tokens)
        found[item.id] = reference or texts[item.id][sides[0]]
    return found


def _spoilt_text(key: bytes, item: str, sound: Mapping[str, str]) -> str:
    """A worse answer in the same style: a good one to another prompt, or its words shuffled.

    Empty where neither differs from the good one.
    """
    own = sound[item].casefold().split()
    others = (other for other in sound if sound[other].casefold().split() != own)
    drawn = min(others, key=lambda other: prf(key, "spoil", item, other), default="")
    if drawn:
        return sound[drawn]
    words = sound[item].split()
    places = sorted(range(len(words)), key=lambda n: prf(key, "shuffle", item, n))
    shuffled = " ".join(words[n] for n in places)
    return shuffled if shuffled.casefold().split() != own else ""


def _contests(
    key: bytes, items: Sequence[str], systems: Sequence[str], pairing: str
) -> list[Contest]:
    """Which systems meet over which item: every pair, or one, dealt in permuted blocks."""
    pairs = list(combinations(systems, 2))
    if pairing == "each" or len(pairs) == 1:
        return [Contest(item, *pair) for item in items for pair in pairs]
    order = sorted(items, key=lambda item: prf(key, "deal", item))
    dealt = {}
    for place, item in enumerate(order):
        block, turn = divmod(place, len(pairs))
        deck = sorted(pairs, key=lambda pair, b=block: prf(key, "deck", b, *pair))  # type: ignore[misc]
        dealt[item] = Contest(item, *deck[turn])
    return [dealt[item] for item in items]


def _guesses(
    key: bytes, shown: Sequence[Contest], systems: Sequence[str], count: int
) -> list[Contest]:
    """Contests for the end question: of the main pair, then others that the reference is in."""
    fit = [one for one in shown if one.reference == systems[0]]
    fit.sort(key=lambda one: (one.candidate != systems[1], prf(key, "guess", *one)))
    return fit[:count]


def _placement(slot: Slot, rater: str) -> Placement:
    contest = msgspec.json.decode(slot.item, type=Contest)
    return Placement(slot.pid, rater, slot.seq, contest.item, slot.kind, *_sides(slot, contest))


def _sides(slot: Slot, contest: Contest) -> tuple[str, str]:
    """(left system, right system) of a showing."""
    _, reference, candidate = contest
    return (candidate, reference) if slot.candidate_left else (reference, candidate)


def _packet(
    slots: Sequence[Slot],
    prompts: Mapping[str, Sequence[Mapping[str, Any]]],
    texts: Mapping[str, Mapping[str, str]],
) -> bytes:
    """One rater's packet file."""
    lines = []
    for slot in slots:
        contest = msgspec.json.decode(slot.item, type=Contest)
        left, right = (texts[contest.item][system] for system in _sides(slot, contest))
        prompt = [{k: turn[k] for k in _PROMPT_KEYS if k in turn} for turn in prompts[contest.item]]
        lines.append(msgspec.json.encode(PacketItem(slot.pid, slot.seq, prompt, left, right)))
    return b"".join(line + b"\n" for line in lines)


def items_hash(
    key: bytes, items: Sequence[Item], excluded: Sequence[Item], findings: Findings
) -> str:
    """Keyed hash over every prompt, reference and raw output, and what was found in them, hex."""
    parts = [
        msgspec.json.encode(part, order="deterministic") for part in (items, excluded, findings)
    ]
    return prf(key, "items", *(part.decode() for part in parts)).hex()


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
            _open_to(draft, group, plan.chosen.raters)
            _let_in(ratings_dir, group)
        draft.rename(target)
        sync_folder(ratings_dir)
    except OSError as error:
        raise UserError("the session cannot be written.", str(target), f"({error})") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _write_files(folder: Path, plan: Plan) -> Manifest:
    chosen = plan.chosen
    layout = lay_out(
        plan.key,
        Scheme(
            plan.name, chosen.raters, chosen.pairing, chosen.repeats, chosen.practice,
            chosen.catches, chosen.guesses, sorted(plan.special_tokens),
        ),
        plan.items,
        plan.systems,
    )  # fmt: skip
    bare = _manifest(plan, layout)
    manifest = msgspec.structs.replace(bare, commitment=commitment(plan.key, bare))
    for rater, data in layout.packets.items():
        write_atomic(folder / "packets" / f"{rater}.jsonl", data)
    write_atomic(folder / "manifest.json", _pretty(manifest))
    sealed = folder / "sealed"
    write_atomic(sealed / "key", plan.key.hex() + "\n")
    write_atomic(sealed / "items.jsonl", _lines(plan.items))
    write_atomic(sealed / "excluded.jsonl", _lines(plan.excluded))
    write_atomic(sealed / "findings.json", _pretty(plan.findings))
    write_atomic(sealed / "map.jsonl", _lines(layout.placements))
    write_atomic(
        sealed / "provenance.json",
        _pretty(Provenance(plan.systems, plan.generation, plan.provenance)),
    )
    return manifest


def _manifest(plan: Plan, layout: Layout) -> Manifest:
    """The public registration, its commitment still empty."""
    chosen, scheme = plan.chosen, layout.scheme
    return Manifest(
        session=plan.name,
        created=plan.created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        question=chosen.question,
        endpoint=chosen.endpoint,
        criteria=chosen.criteria,
        tags=chosen.tags,
        end_question=chosen.end_question,
        alpha=chosen.alpha,
        margin=chosen.margin,
        stop=chosen.stop,
        stop_rule=chosen.stop.sentence,
        systems=len(plan.systems),
        pairing=chosen.pairing,
        items=layout.counted,
        shown=layout.shown,
        identical=len(layout.identical),
        excluded=dict(sorted(Counter(plan.findings.excluded.values()).items())),
        raters=list(chosen.raters),
        interested=list(chosen.interested),
        repeats=scheme.repeats or 0.0,
        practice=scheme.practice,
        catch_items=scheme.catches,
        catch_needed=chosen.catch_needed if scheme.catches else 0.0,
        guesses=scheme.guesses,
        block_sizes=list(BLOCK_SIZES),
        generation=_public(plan.generation),
        special_tokens=list(scheme.special_tokens),
        items_hash=items_hash(plan.key, plan.items, plan.excluded, plan.findings),
        packets={rater: hashlib.sha256(data).hexdigest() for rater, data in layout.packets.items()},
    )


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


def _let_in(ratings_dir: Path, group: str) -> None:
    """Let the group reach its session: list the ratings folder, pass through the workspace and read
    its settings. What lies beside stays as closed as it is.
    """
    workspace = ratings_dir.parent
    for path, needed in ((ratings_dir, 0o050), (workspace, 0o010), (workspace / MARKER, 0o040)):
        mode = path.stat().st_mode & 0o7777 if path.exists() else 0o777
        if mode & (needed >> 3) != needed >> 3:  # not open to everybody already
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
            path.chmod(mode | needed)


def _private_ballots(ratings: Path, raters: Sequence[str], gid: int) -> None:
    """Sealed by root, each rater with an account gets a folder that other raters cannot read."""
    for rater in raters:
        with contextlib.suppress(KeyError):
            uid = pwd.getpwnam(rater).pw_uid
            own = ratings / rater
            own.mkdir(mode=0o700)
            os.chown(own, uid, gid)
