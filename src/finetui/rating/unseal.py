"""Open the seal: logged first, checked, and only then is the map handed out."""

from __future__ import annotations

import hashlib
from typing import TypeVar

import msgspec

from finetui.errors import UserError
from finetui.rating import audit
from finetui.rating.analysis import Report
from finetui.rating.assignment import assign
from finetui.rating.collecting import report_on
from finetui.rating.sealing import (
    Placement,
    Provenance,
    items_hash,
    packet_bytes,
    placements,
    shown_outputs,
    split_identical,
)
from finetui.rating.session import Item, Session, commitment

S = TypeVar("S")


class Mapping(msgspec.Struct, frozen=True):
    """What was sealed. ``systems`` is (reference, candidate).

    ``placements`` by pid; ``texts`` item -> system -> shown text.
    """

    systems: tuple[str, str]
    items: dict[str, Item]
    texts: dict[str, dict[str, str]]
    identical: list[str]
    placements: dict[str, Placement]
    provenance: Provenance


def unseal(session: Session, reason: str) -> Mapping:
    """Log who opens the seal and why, with the head of every vote file; then return the map.

    Votes after the first unsealing are no longer blind and stay out of the analysis. Raises
    UserError when the seal cannot be opened from this account, when key, manifest, outputs or
    packets are not those that were sealed, or when the log cannot be written: then nothing was
    shown.
    """
    if not reason.strip():
        raise UserError("unsealing needs a reason.", session.name, 'Say why: --reason "..."')
    mapping = _open_and_check(session)
    audit.record(session, "unseal", reason.strip())
    return mapping


def read_mapping(session: Session) -> Mapping:
    """The map of a session that was unsealed before. Raises UserError while it is sealed."""
    if audit.unsealing(session) is None:
        raise UserError(
            "the session is sealed.",
            session.name,
            f'Open it with: finetui rate unseal {session.name} --reason "..."',
        )
    return _open_and_check(session)


def report(session: Session) -> Report:
    """Evaluate the votes that lay on disk at the first unsealing.

    Raises UserError while the session is sealed.
    """
    mapping = read_mapping(session)
    opened = audit.unsealing(session)
    if opened is None:  # read_mapping has just seen it
        raise UserError(
            "the audit log changed while it was read.", str(session.audit_log), "Run it again."
        )
    return report_on(session, mapping, opened, audit.verify(session))


def _open_and_check(session: Session) -> Mapping:
    key = _read_key(session)
    manifest = session.manifest
    if commitment(key, manifest) != manifest.commitment:
        raise _tampered(session, "the manifest and the key do not match the commitment")
    items = _read(session, "items.jsonl", list[Item])
    if items_hash(key, items) != manifest.items_hash:
        raise _tampered(session, "the outputs are not those that were sealed")
    provenance = _read(session, "provenance.json", Provenance)
    systems = provenance.systems
    texts = shown_outputs(items, manifest.special_tokens)
    shown, identical = split_identical(texts, systems)
    slots = assign(key, manifest.session, shown, manifest.raters, manifest.repeats)
    by_id = {item.id: item for item in items}
    for rater, own in slots.items():
        packet = packet_bytes(own, by_id, texts, systems)
        if hashlib.sha256(packet).hexdigest() != manifest.packets.get(rater):
            raise _tampered(
                session, f"the packet of {rater} does not follow from the sealed outputs"
            )
    derived = placements(slots, systems)
    if _read(session, "map.jsonl", list[Placement]) != derived:
        raise _tampered(session, "the map is not the one that follows from the key")
    return Mapping(systems, by_id, texts, identical, {p.pid: p for p in derived}, provenance)


def _read_key(session: Session) -> bytes:
    file = session.sealed / "key"
    try:
        return bytes.fromhex(file.read_text().strip())
    except OSError as error:
        raise UserError(
            "the seal cannot be opened from this account.",
            str(session.path),
            f"Only the account that prepared the session can do it ({error.strerror}).",
        ) from error
    except ValueError as error:
        raise _tampered(session, "the key does not read") from error


def _read(session: Session, name: str, kind: type[S]) -> S:
    file = session.sealed / name
    try:
        data = file.read_bytes()
        if name.endswith(".jsonl"):
            data = b"[" + b",".join(data.splitlines()) + b"]"
        return msgspec.json.decode(data, type=kind)
    except OSError as error:
        raise UserError(
            "a sealed file cannot be read.", str(file), f"({error.strerror})"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _tampered(session, f"sealed/{name} does not read ({error})") from error


def _tampered(session: Session, what: str) -> UserError:
    return UserError(
        f"{what}: the session was changed after it was sealed.",
        str(session.path),
        "Nothing was shown. Restore it from a copy.",
    )
