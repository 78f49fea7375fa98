"""Votes as events on disk, and the state they add up to. Only the displayed side is known here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from finetui.errors import UserError
from finetui.rating.audit import Head
from finetui.rating.chain import Link, read_chain
from finetui.rating.session import Session

EventName = Literal[
    "open", "vote", "amend", "undo", "comment", "flag", "confidence", "tags", "criteria",
    "break", "resume", "close",
]  # fmt: skip


class Choice(StrEnum):
    """A rater's answer, by the side on the screen."""

    LEFT = "L"
    RIGHT = "R"
    BOTH_GOOD = "G"
    BOTH_BAD = "B"
    SKIP = "S"


class Event(Link, kw_only=True, omit_defaults=True):
    """One thing a rater did.

    ``n`` orders the events of a rater over all files; ``at``, ``shown_at`` and ``voted_at`` are
    unix seconds; ``active_ms`` is the time spent on the item without pauses. ``heads`` (in "open")
    are the rater's earlier files and how far they went. ``criteria`` are answers to further
    questions, by side as well; ``tags`` None leaves those of the item as they are.
    """

    ev: str
    n: int
    at: float
    v: int = 1
    pid: str = ""
    choice: Choice | None = None
    shown_at: float = 0.0
    voted_at: float = 0.0
    active_ms: int = 0
    cols: int = 0
    rows: int = 0
    layout: str = ""
    seen_left: bool = True
    seen_right: bool = True
    confidence: int = 0
    recognised: bool = False
    comment: str = ""
    tags: tuple[str, ...] | None = None
    criteria: dict[str, Choice] = {}
    rater: str = ""
    uid: int = -1
    host: str = ""
    client: str = ""
    heads: dict[str, Head] = {}


class Judgement(msgspec.Struct, frozen=True):
    """The state of one item: the last answer (None if undone or not given) and the marks on it."""

    pid: str
    choice: Choice | None = None
    event: Event | None = None
    comment: str = ""
    confidence: int = 0
    recognised: bool = False
    tags: tuple[str, ...] = ()
    criteria: dict[str, Choice] = {}
    changes: int = 0


class Progress(NamedTuple):
    """How far a rater is: answered items, items of the packet, handed in or not."""

    done: int
    total: int
    closed: bool


def rater_files(session: Session, rater: str) -> list[Path]:
    """The vote files of one rater."""
    return sorted((session.ratings / rater).glob("*.jsonl"))


def read_events(session: Session, rater: str, until: dict[str, Head] | None = None) -> list[Event]:
    """The rater's trusted events over all files, in order.

    With ``until``, only what lay on disk at those heads: files that are not named there count as
    empty.
    """
    events: list[tuple[int, float, str, Event]] = []
    for path in rater_files(session, rater):
        lines = _lines(path, session)
        if until is not None:
            head = until.get(str(path.relative_to(session.ratings)))
            lines = lines[: head.lines if head else 0]
        events += [(event.n, event.at, path.name, event) for event in _decode(lines)]
    # n decides; clocks of several machines only break ties between raters' parallel windows.
    return [event for *_, event in sorted(events, key=lambda entry: entry[:3])]


def _lines(path: Path, session: Session) -> list[bytes]:
    try:
        return read_chain(path, session.manifest_hash).lines
    except OSError as error:
        raise UserError("votes cannot be read.", str(path), f"({error.strerror})") from error


def _decode(lines: Iterable[bytes]) -> Iterator[Event]:
    """The events; one that this version does not know is passed over."""
    for line in lines:
        try:
            yield msgspec.json.decode(line, type=Event)
        except msgspec.ValidationError:
            continue


def fold(events: Iterable[Event]) -> dict[str, Judgement]:
    """The last word on every item that was touched."""
    state: dict[str, Judgement] = {}
    for event in events:
        if event.pid:
            state[event.pid] = apply(state.get(event.pid, Judgement(event.pid)), event)
    return state


def apply(before: Judgement, event: Event) -> Judgement:
    """The state of an item after one more event on it."""
    change = msgspec.structs.replace
    match event.ev:
        case "vote" | "amend":
            marked = change(
                before,
                confidence=event.confidence or before.confidence,
                tags=before.tags if event.tags is None else event.tags,
                criteria=before.criteria | event.criteria,
            )
            again = before.changes + (before.event is not None)
            return change(marked, choice=event.choice, event=event, changes=again)
        case "undo":
            return change(before, choice=None)
        case "comment":
            return change(before, comment=event.comment)
        case "flag":
            return change(before, recognised=event.recognised)
        case "confidence":
            return change(before, confidence=event.confidence)
        case "tags":
            return change(before, tags=event.tags or ())
        case "criteria":
            return change(before, criteria=before.criteria | event.criteria)
        case _:
            return before


def progress(session: Session, rater: str) -> Progress:
    """How far a rater is, without opening a ballot. Raises UserError when they have no packet."""
    pids = {item.pid for item in session.packet(rater)}
    events = read_events(session, rater)
    judged = [j for pid, j in fold(events).items() if pid in pids and j.choice is not None]
    return Progress(len(judged), len(pids), any(event.ev == "close" for event in events))
