"""The coordinator's log, and the check that no chain was broken."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from finetui.errors import BROKEN, UserError
from finetui.rating.chain import Chain, Link, append_shared, read_chain
from finetui.rating.session import Session, default_rater

_Record = TypeVar("_Record")


class Head(msgspec.Struct, frozen=True):
    """How far a vote file went at a moment: number of lines and hash of the last one."""

    lines: int
    hash: str


class AuditEntry(Link, kw_only=True, omit_defaults=True):
    """One act of the coordinator.

    ``event`` is create, look, unseal or export; ``time`` in unix seconds; ``decision`` what a look
    answered: continue or stop.
    """

    event: str
    who: str
    uid: int
    host: str
    time: float
    reason: str = ""
    decision: str = ""
    manifest: str = ""
    heads: dict[str, Head] = {}


def record(
    session: Session,
    event: str,
    reason: str = "",
    *,
    decision: str = "",
    seen: dict[str, Head] | None = None,
) -> AuditEntry:
    """Write an entry with the head of every vote file: as they are, or as ``seen`` before.

    It is on disk when this returns. Raises UserError.
    """
    entry = AuditEntry(
        event=event,
        who=default_rater(),
        uid=os.getuid(),
        host=socket.gethostname(),
        time=round(time.time(), 3),
        reason=reason,
        decision=decision,
        manifest=session.manifest_hash,
        heads=heads(session) if seen is None else seen,
    )
    try:
        append_shared(session.audit_log, session.manifest_hash, entry)
    except OSError as error:
        raise UserError(
            "the audit log cannot be written, so this is not done.",
            str(session.audit_log),
            f"({error.strerror})",
        ) from error
    except ValueError as error:
        raise UserError(
            f"the audit log was changed: {error}.",
            str(session.audit_log),
            "Restore it from a copy; if there is none, move it aside and keep it.",
        ) from error
    return entry


def entries(session: Session) -> list[AuditEntry]:
    """The trusted entries, oldest first; none where the log is missing or unreadable."""
    try:
        chain = read_chain(session.audit_log, session.manifest_hash)
    except OSError:
        return []
    return _read_as(chain.lines, AuditEntry)


def _read_as(lines: Iterable[bytes], kind: type[_Record]) -> list[_Record]:
    """The lines that are such records: a chain can be whole and hold something else."""
    found = []
    for line in lines:
        with suppress(*BROKEN):
            found.append(msgspec.json.decode(line, type=kind))
    return found


def unsealing(session: Session) -> AuditEntry | None:
    """The first unsealing, if there was one: votes after it are no longer blind."""
    return next((entry for entry in entries(session) if entry.event == "unseal"), None)


def vote_files(session: Session) -> list[Path]:
    """Every vote file of the session, in a fixed order."""
    return sorted(session.ratings.glob("*/*.jsonl"))


def heads(session: Session) -> dict[str, Head]:
    """The head of every vote file, by its path under ``ratings/``."""
    found = {}
    for path in vote_files(session):
        chain = _read(path, session)
        found[str(path.relative_to(session.ratings))] = Head(len(chain.lines), chain.head)
    return found


def verify(session: Session) -> list[str]:
    """What is wrong with manifest, packets, votes and log, one sentence each.

    An empty list is a sound session.
    """
    problems = [
        f"packets/{rater}.jsonl: is not the packet that was sealed"
        for rater in _changed_packets(session)
    ]
    problems += [
        f"ratings/{folder.name}: cannot be read from this account"
        for folder in sorted(session.ratings.iterdir())
        if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK)
    ]
    audit = _read(session.audit_log, session)
    if audit.problem:
        problems.append(f"audit/log.jsonl: {audit.problem}")
    log = entries(session)
    if len(log) < len(audit.lines):
        problems.append("audit/log.jsonl: a line is no entry of a log")
    if not log or log[0].event != "create":
        problems.append("audit/log.jsonl: the entry of the sealing is missing")
    chains = {
        str(path.relative_to(session.ratings)): _read(path, session) for path in vote_files(session)
    }
    problems += [
        f"ratings/{name}: {chain.problem}" for name, chain in chains.items() if chain.problem
    ]
    told = [(f"audit/log.jsonl ({entry.event})", entry.heads) for entry in log]
    told += [
        (f"ratings/{name}", noted) for name, chain in chains.items() for noted in _noted(chain)
    ]
    return list(
        dict.fromkeys(
            problems + [p for source, noted in told for p in _shortened(source, noted, chains)]
        )
    )


def _changed_packets(session: Session) -> list[str]:
    changed = []
    for rater, expected in session.manifest.packets.items():
        try:
            data = session.packet_file(rater).read_bytes()
        except OSError:
            data = b""
        if hashlib.sha256(data).hexdigest() != expected:
            changed.append(rater)
    return changed


class _Noted(msgspec.Struct):
    heads: dict[str, Head] = {}


def _noted(chain: Chain) -> list[dict[str, Head]]:
    """The heads of earlier files that a rater's file wrote down when it was opened."""
    return [found.heads for found in _read_as(chain.lines, _Noted) if found.heads]


def _shortened(source: str, noted: dict[str, Head], chains: dict[str, Chain]) -> list[str]:
    """Files that are gone, or no longer hold a line that somebody wrote down."""
    problems = []
    for name, head in noted.items():
        chain = chains.get(name)
        if chain is None:
            problems.append(f"ratings/{name}: is gone, though {source} names it")
        elif (
            chain.problem == ""
            and head.lines
            and head.hash not in chain.hashes[head.lines - 1 : head.lines]
        ):
            problems.append(
                f"ratings/{name}: line {head.lines} is not the one that {source} wrote down"
            )
    return problems


def _read(path: Path, session: Session) -> Chain:
    try:
        return read_chain(path, session.manifest_hash)
    except OSError as error:
        return Chain([], [], f"cannot be read ({error.strerror})", 0, 0, session.manifest_hash)
