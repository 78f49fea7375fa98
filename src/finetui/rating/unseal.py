"""Open the seal: logged first, checked, and only then is the map handed out."""

from __future__ import annotations

import hashlib
from typing import NamedTuple, TypeVar

import msgspec

from finetui.errors import BROKEN, UserError
from finetui.rating import audit
from finetui.rating.analysis import Report
from finetui.rating.collecting import report_on, standing
from finetui.rating.findings import Findings
from finetui.rating.sealing import Placement, Provenance, Scheme, items_hash, lay_out
from finetui.rating.session import FORMAT, Item, Manifest, Session, commitment

S = TypeVar("S")


class Mapping(msgspec.Struct, frozen=True, kw_only=True):
    """What was sealed. ``systems`` is the reference and the candidates.

    ``placements`` by pid; ``texts`` item -> system -> shown text; ``identical`` (item, system,
    system) with equal texts.
    """

    systems: tuple[str, ...]
    items: dict[str, Item]
    texts: dict[str, dict[str, str]]
    identical: list[tuple[str, str, str]]
    placements: dict[str, Placement]
    provenance: Provenance
    findings: Findings


class Look(NamedTuple):
    """An interim look: stop or go on, and the same in a sentence. Nothing else is told."""

    stop: bool
    sentence: str


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


def look(session: Session, reason: str = "interim look") -> Look:
    """Ask the registered stop rule whether to go on, and log the question and its answer.

    Shows no number, no direction and no side. Once it has said stop it says so for ever. Raises
    UserError as ``unseal`` does, for a fixed rule, and once the session is unsealed.
    """
    if session.manifest.stop.kind == "fixed":
        raise UserError(
            "this session was registered without interim looks.",
            session.name,
            "Rate every item of the packets, then unseal.",
        )
    if audit.unsealing(session) is not None:
        raise UserError("the session is unsealed already.", session.name, "Read its report.")
    mapping, seen = _open_and_check(session), audit.heads(session)
    before = any(entry.decision == "stop" for entry in audit.entries(session))
    stop = before or standing(session, mapping, seen).stop
    audit.record(session, "look", reason, decision="stop" if stop else "continue", seen=seen)
    if stop:
        return Look(True, "Stop: the registered rule is met. Unseal when the raters have left.")
    return Look(False, "Continue: the registered rule is not met.")


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
    if manifest.version != FORMAT:
        raise UserError(
            f"was sealed in format {manifest.version}; this finetui reads {FORMAT}.",
            session.name,
            "Open it with the version that sealed it.",
        )
    if commitment(key, manifest) != manifest.commitment:
        raise _tampered(session, "the manifest and the key do not match the commitment")
    items, excluded = (_read(session, f"{n}.jsonl", list[Item]) for n in ("items", "excluded"))
    findings = _read(session, "findings.json", Findings)
    if items_hash(key, items, excluded, findings) != manifest.items_hash:
        raise _tampered(session, "the outputs are not those that were sealed")
    provenance = _read(session, "provenance.json", Provenance)
    named = set(provenance.systems)
    if len(named) < 2 or any(not named <= item.outputs.keys() for item in items):
        raise _tampered(session, "the systems are not those that answered")
    layout = lay_out(key, _scheme(manifest), items, provenance.systems)
    for rater, packet in layout.packets.items():
        if hashlib.sha256(packet).hexdigest() != manifest.packets.get(rater):
            raise _tampered(
                session, f"the packet of {rater} does not follow from the sealed outputs"
            )
    if _read(session, "map.jsonl", list[Placement]) != layout.placements:
        raise _tampered(session, "the map is not the one that follows from the key")
    return Mapping(
        systems=provenance.systems,
        items={item.id: item for item in items},
        texts=layout.texts,
        identical=layout.identical,
        placements={place.pid: place for place in layout.placements},
        provenance=provenance,
        findings=findings,
    )


def _scheme(manifest: Manifest) -> Scheme:
    return Scheme(
        manifest.session,
        manifest.raters,
        manifest.pairing,
        manifest.repeats,
        manifest.practice,
        manifest.catch_items,
        manifest.guesses,
        manifest.special_tokens,
    )


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
    except BROKEN as error:
        raise _tampered(session, f"sealed/{name} does not read ({error})") from error


def _tampered(session: Session, what: str) -> UserError:
    return UserError(
        f"{what}: the session was changed after it was sealed.",
        str(session.path),
        "Nothing was shown. Restore it from a copy.",
    )
