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
from typing import Any

import msgspec

from finetui.errors import UserError

DEFAULT_QUESTION = "Which answer is better, all in all?"
DEFAULT_ENDPOINT = (
    "share of items on which the new model's answer is preferred, item by item, ties counted half"
)
_NAME = re.compile(r"[^\W_][\w.-]{0,63}")


class Item(msgspec.Struct, frozen=True):
    """One prompt with both systems' outputs, before the sealing.

    ``outputs`` maps system name to raw text.
    """

    id: str
    prompt: list[dict[str, Any]]
    reference: str = ""
    outputs: dict[str, str] = {}
    meta: dict[str, Any] = {}


class PacketItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a rater gets: an opaque id, the place in the order (from 1), prompt and two texts."""

    pid: str
    seq: int
    prompt: list[dict[str, Any]]
    left: str
    right: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The frozen registration of a session, public to raters.

    ``repeats`` is the fraction of items shown twice with sides swapped. ``packets`` holds the
    SHA-256 of each packet file, ``items_hash`` a *keyed* hash of all outputs (an open one would let
    a rater try out the sides of a short session).
    """

    version: int = 1
    session: str
    created: str
    question: str
    endpoint: str
    alpha: float
    items: int
    shown: int
    identical: int
    raters: list[str]
    repeats: float
    catch_items: int = 0
    block_sizes: list[int]
    stop_rule: str = "fixed: every item of the packet"
    exclusions: str = "cannot-judge votes; votes after the unsealing; repeats (consistency only)"
    generation: dict[str, float | int | bool]
    special_tokens: list[str]
    items_hash: str
    packets: dict[str, str]
    commitment: str = ""


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
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the manifest does not read: {error}.", str(file)) from error
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
    question: str = DEFAULT_QUESTION,
    raters: Sequence[str] = (),
    *,
    systems: tuple[str, str] = ("base", "tuned"),
    endpoint: str = DEFAULT_ENDPOINT,
    alpha: float = 0.05,
    repeats: float | None = None,
    generation: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    special_tokens: Sequence[str] = (),
    key: bytes | None = None,
    group: str | None = None,
    now: datetime | None = None,
) -> Session:
    """Make a sealed session ``ratings_dir/name``; it appears whole or not at all.

    ``systems`` names the reference and the candidate, in this order, as they stand in
    ``Item.outputs``. ``generation`` holds the settings of the generation; only numbers that are the
    same for both sides become public, the rest is sealed with ``provenance`` (model paths, job
    ids). ``raters`` defaults to this account; ``group`` opens the packets to a Unix group, so that
    raters can have accounts of their own. ``key`` (32 bytes) and ``now`` are for tests. Raises
    UserError.
    """
    from finetui.rating.sealing import Plan, write_session

    names = tuple(raters) or (default_rater(),)
    _refuse_bad_names(name, names)
    _refuse_bad_items(items, systems)
    if (ratings_dir / name).exists():
        raise UserError(
            "a session of this name exists already.",
            str(ratings_dir / name),
            "Choose another name.",
        )
    plan = Plan(
        name=name,
        items=tuple(items),
        systems=systems,
        raters=names,
        question=question.strip() or DEFAULT_QUESTION,
        endpoint=endpoint,
        alpha=alpha,
        repeats=repeats,
        generation=dict(generation or {}),
        provenance=dict(provenance or {}),
        special_tokens=tuple(special_tokens),
        key=key or os.urandom(32),
        created=(now or datetime.now(UTC)).replace(microsecond=0),
    )
    return open_session(write_session(ratings_dir, plan, group))


def _refuse_bad_names(name: str, raters: Sequence[str]) -> None:
    for given in (name, *raters):
        if not _NAME.fullmatch(given):
            raise UserError(
                f"the name {given!r} cannot be a file name here.",
                fix="Use letters, digits, dot, dash and underscore, at most 64.",
            )
    if len(set(raters)) != len(raters):
        raise UserError("a rater is named twice.", ", ".join(raters), "Name each rater once.")


def _refuse_bad_items(items: Sequence[Item], systems: tuple[str, str]) -> None:
    if not items:
        raise UserError(
            "there is nothing to rate: no items.", fix="Choose a data set with held-out prompts."
        )
    if systems[0] == systems[1]:
        raise UserError("both systems have the same name.", systems[0], "Give them two names.")
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
