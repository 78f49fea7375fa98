"""A sealed rating session: what raters may read, and how it is made.

    <session>/manifest.json            frozen, public; commits to the key
    <session>/packets/<rater>.jsonl    pid, seq, prompt, left, right: nothing else
    <session>/ratings/<rater>/*.jsonl  the votes (ballot.py)
    <session>/audit/log.jsonl          what the coordinator did (audit.py)
    <session>/sealed/                  key, map and raw generations, for the coordinator alone

Everything outside ``sealed/`` is free of system names, paths and anything that depends on which
side is which.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from finetui.errors import BROKEN, UserError
from finetui.rating.registration import (
    DEFAULT_QUESTION as DEFAULT_QUESTION,
)
from finetui.rating.registration import END_QUESTION, checked
from finetui.rating.registration import (
    Registration as Registration,
)
from finetui.rating.registration import recommended as recommended
from finetui.rating.sequential import StopRule

if TYPE_CHECKING:
    from finetui.rating.findings import Findings

FORMAT = 2
_NAME = re.compile(r"[^\W_][\w.-]{0,63}")

Phase = Literal["practice", "rating", "guess"]
"""What a rater does: try the keys, rate, or answer the end question."""


class Item(msgspec.Struct, frozen=True):
    """One prompt with every system's output, before the sealing.

    ``outputs`` maps system name to raw text, ``finish`` to why it ended: "stop", or "length" at
    the token limit.
    """

    id: str
    prompt: list[dict[str, Any]]
    reference: str = ""
    outputs: dict[str, str] = {}
    meta: dict[str, Any] = {}
    finish: dict[str, str] = {}


class PacketItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a rater gets: an opaque id, the place in the order (from 1), prompt and two texts."""

    pid: str
    seq: int
    prompt: list[dict[str, Any]]
    left: str
    right: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The frozen registration of a session, public to raters.

    ``items`` are counted, ``shown`` of them to raters, and ``identical`` are the ties that nobody
    needs to see. ``repeats`` is the fraction of items shown twice with sides swapped. A packet
    begins with ``practice`` showings and ends with ``guesses`` (the end question); repeats and
    catches are between and look like any other. ``excluded`` counts items by reason. ``packets``
    holds the SHA-256 of each packet file, ``items_hash`` a *keyed* hash of all outputs (an open one
    would let a rater try out the sides of a short session).
    """

    version: int = FORMAT
    session: str
    created: str
    question: str
    endpoint: str
    criteria: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    end_question: str = END_QUESTION
    alpha: float
    margin: float = 0.0
    stop: StopRule = StopRule()
    stop_rule: str
    systems: int = 2
    pairing: Literal["spread", "each"] = "spread"
    items: int
    shown: int
    identical: int
    excluded: dict[str, int] = {}
    raters: list[str]
    interested: list[str] = []
    repeats: float
    practice: int = 0
    catch_items: int = 0
    catch_needed: float = 0.0
    guesses: int = 0
    block_sizes: list[int]
    exclusions: str = (
        "cannot-judge votes; votes after the unsealing; practice; repeats and catches (consistency "
        "and attention only); all votes of a rater who passes too few catches"
    )
    generation: dict[str, float | int | bool]
    special_tokens: list[str]
    items_hash: str
    packets: dict[str, str]
    commitment: str = ""

    def phase(self, seq: int, showings: int) -> Phase:
        """What the showing with this number (from 1) of a packet of so many is for."""
        if seq <= self.practice:
            return "practice"
        return "guess" if seq > showings - self.guesses else "rating"


def commitment(key: bytes, manifest: Manifest) -> str:
    """SHA-256 of the key and the manifest (its commitment left empty), hex."""
    bare = msgspec.structs.replace(manifest, commitment="")
    return hashlib.sha256(key + msgspec.json.encode(bare, order="deterministic")).hexdigest()


class Session:
    """A sealed session as everybody may see it; reading it never touches ``sealed/``."""

    def __init__(self, path: Path, manifest: Manifest, manifest_hash: str) -> None:
        self.path = path
        self.manifest = manifest
        self.manifest_hash = manifest_hash
        """SHA-256 of manifest.json; every vote chain starts from it."""

    @property
    def name(self) -> str:
        return self.manifest.session

    @property
    def question(self) -> str:
        return self.manifest.question

    @property
    def raters(self) -> tuple[str, ...]:
        return tuple(self.manifest.raters)

    @property
    def ratings(self) -> Path:
        return self.path / "ratings"

    @property
    def audit_log(self) -> Path:
        return self.path / "audit" / "log.jsonl"

    @property
    def sealed(self) -> Path:
        return self.path / "sealed"

    def packet_file(self, rater: str) -> Path:
        """Where this rater's packet lies.

        Raises UserError for a name that is not a rater of this session.
        """
        if rater not in self.manifest.raters:
            raise UserError(
                f"there is no packet for the rater {rater!r}.",
                self.name,
                f"The raters of this session are: {', '.join(self.manifest.raters)}.",
            )
        return self.path / "packets" / f"{rater}.jsonl"

    def packet(self, rater: str) -> list[PacketItem]:
        """The rater's items in order.

        Raises UserError when the packet is missing or not as it was sealed.
        """
        path = self.packet_file(rater)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(
                "the packet cannot be read.", str(path), f"({error.strerror})"
            ) from error
        if hashlib.sha256(data).hexdigest() != self.manifest.packets.get(rater):
            raise UserError(
                "the packet is not the one that was sealed.",
                str(path),
                "Tell the coordinator; do not rate.",
            )
        return [msgspec.json.decode(line, type=PacketItem) for line in data.splitlines()]


class SealStrength(StrEnum):
    """Which wall keeps the map from the rater who runs this process."""

    SEPARATE = "separate accounts"
    TAMPER_EVIDENT = "one account: tamper-evident only"

    @property
    def sentence(self) -> str:
        """The same for a person, one sentence."""
        if self is SealStrength.SEPARATE:
            return "Sealed: this account cannot read which side is which."
        return (
            "One account: nothing here shows which side is which, but this account could open "
            "the sealed folder; the blinding rests on not looking, and changes leave traces."
        )


def seal_strength(session: Session) -> SealStrength:
    """Whether this process could read the sealed folder if it tried.

    A missing folder cannot be read.
    """
    readable = os.access(session.sealed, os.R_OK | os.X_OK) or os.access(
        session.sealed / "key", os.R_OK
    )
    # An owner can take the rights back, so taking them away is no wall.
    try:
        owner = session.path.stat().st_uid == os.getuid() and session.sealed.exists()
    except OSError:
        owner = False
    return SealStrength.TAMPER_EVIDENT if readable or owner else SealStrength.SEPARATE


def open_session(path: Path) -> Session:
    """Open a sealed session by its folder.

    Raises UserError when it is none or its manifest does not read.
    """
    file = path / "manifest.json"
    try:
        data = file.read_bytes()
        manifest = msgspec.json.decode(data, type=Manifest)
    except FileNotFoundError:
        raise UserError(
            "is no rating session.", str(path), "Choose a folder with a manifest.json."
        ) from None
    except OSError as error:
        raise UserError("the session cannot be read.", str(file), f"({error.strerror})") from error
    except BROKEN as error:
        raise UserError(f"the manifest does not read: {error}.", str(file)) from error
    refuse_bad_names(manifest.session, manifest.raters)  # both become names of files
    return Session(path, manifest, hashlib.sha256(data).hexdigest())


def list_sessions(ratings_dir: Path) -> list[Session]:
    """The sessions in a folder, newest first; folders that are none are passed over."""
    found = []
    for file in ratings_dir.glob("[!.]*/manifest.json"):
        try:
            found.append(open_session(file.parent))
        except UserError:
            continue
    return sorted(found, key=lambda session: (session.manifest.created, session.name), reverse=True)


def default_rater() -> str:
    """The login name of the account that runs this process.

    From its user id, not from the environment.
    """
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid-{os.getuid()}"
    return name if _NAME.fullmatch(name) else f"uid-{os.getuid()}"


def seal(
    ratings_dir: Path,
    name: str,
    items: Sequence[Item],
    registration: Registration | None = None,
    *,
    systems: Sequence[str] = ("base", "tuned"),
    generation: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    special_tokens: Sequence[str] = (),
    findings: Findings | None = None,
    key: bytes | None = None,
    group: str | None = None,
    now: datetime | None = None,
) -> Session:
    """Make a sealed session ``ratings_dir/name``; it appears whole or not at all.

    ``systems`` names the reference and the candidates, in this order, as they stand in
    ``Item.outputs``; the first two are the main comparison. ``generation`` holds the settings of
    the generation; only numbers that are the same for all become public, the rest is sealed with
    ``provenance`` (model paths, job ids). Without raters this account rates; ``group`` opens the
    packets to a Unix group, so that raters can have accounts of their own. ``findings`` spares a
    second look at the answers; ``key`` (32 bytes) and ``now`` are for tests. Raises UserError.
    """
    from finetui.rating.findings import inspect
    from finetui.rating.sealing import Plan, write_session

    wanted = registration or Registration()
    names = wanted.raters or (default_rater(),)
    chosen = checked(msgspec.structs.replace(wanted, raters=names))
    refuse_bad_names(name, names)
    _refuse_bad_items(items, systems)
    if (ratings_dir / name).exists():
        raise UserError(
            "a session of this name exists already.",
            str(ratings_dir / name),
            "Choose another name.",
        )
    told = findings or inspect(items, systems, chosen, special_tokens)
    if len(told.excluded) == len(items):
        raise UserError(
            "every item was left out: an answer of each names a model.",
            name,
            "Keep them (--identity keep), or look at the answers first.",
        )
    plan = Plan(
        name=name,
        items=tuple(item for item in items if item.id not in told.excluded),
        excluded=tuple(item for item in items if item.id in told.excluded),
        systems=tuple(systems),
        chosen=chosen,
        findings=told,
        generation=dict(generation or {}),
        provenance=dict(provenance or {}),
        special_tokens=tuple(special_tokens),
        key=key or os.urandom(32),
        created=(now or datetime.now(UTC)).replace(microsecond=0),
    )
    return open_session(write_session(ratings_dir, plan, group))


def refuse_bad_names(name: str, raters: Sequence[str]) -> None:
    """Raises UserError when the session or a rater cannot be a file name, or one comes twice."""
    for given in (name, *raters):
        if not _NAME.fullmatch(given):
            raise UserError(
                f"the name {given!r} cannot be a file name here.",
                fix="Use letters, digits, dot, dash and underscore, at most 64.",
            )
    if len(set(raters)) != len(raters):
        raise UserError("a rater is named twice.", ", ".join(raters), "Name each rater once.")


def _refuse_bad_items(items: Sequence[Item], systems: Sequence[str]) -> None:
    if not items:
        raise UserError(
            "there is nothing to rate: no items.", fix="Choose a data set with held-out prompts."
        )
    if len(systems) < 2:
        raise UserError("one system alone cannot be compared.", fix="Name a second one.")
    if len(set(systems)) < len(systems):
        raise UserError(
            "two systems have the same name.", ", ".join(systems), "Give each its own name."
        )
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise UserError("two items have the same id.", item.id, "Give each item its own id.")
        seen.add(item.id)
        missing = [system for system in systems if system not in item.outputs]
        if missing:
            raise UserError(
                f"an output of {missing[0]!r} is missing.", f"item {item.id}", "Generate it again."
            )
