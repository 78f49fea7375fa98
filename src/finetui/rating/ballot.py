"""The rater's side of a session.

The next pair, and votes that are on disk before the next one shows.

A ballot reads manifest.json and the rater's own packet, and writes one new file under
``ratings/<rater>/``. It never looks into ``sealed/`` or the audit log, and works where it cannot.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from finetui.errors import UserError
from finetui.rating.audit import Head
from finetui.rating.chain import ChainWriter, read_chain, repair
from finetui.rating.session import PacketItem, Phase, Session, default_rater
from finetui.rating.votes import (
    Choice,
    Event,
    EventName,
    Judgement,
    apply,
    fold,
    rater_files,
    read_events,
)

COMMENT_LIMIT = 4000  # characters; a longer comment is refused, not cut
BREAK_ANSWERS, BREAK_MINUTES = 20, 45  # without a break; a choice, not a finding


class Ballot:
    """One rater at work on one session; resumes where they left, from any window or machine.

    Opening writes an "open" event, so a place that cannot be written shows at once. Every method
    that records something returns after the fsync, and raises UserError if the disk refused: then
    nothing was recorded and the state is as before. Not for two threads at once.
    """

    def __init__(
        self, session: Session, rater: str | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.session = session
        self.rater = rater if rater is not None else default_rater()
        self.items = tuple(session.packet(self.rater))
        self._clock = clock
        self._by_pid = {item.pid: item for item in self.items}
        heads = self._read_earlier_files()
        events = read_events(session, self.rater)
        self._state = fold(event for event in events if event.pid in self._by_pid)
        self._n = max((event.n for event in events), default=0)
        self.closed = any(event.ev == "close" for event in events)
        """True once the rater handed in: nothing can be changed any more."""
        self._writer = self._new_file()
        self._record(
            "open", rater=self.rater, uid=os.getuid(), host=socket.gethostname(), heads=heads
        )
        self._at = self._next_open(0)
        self.on_break = False
        self._answers_in_a_row, self._active_ms = 0, 0

    @property
    def current(self) -> PacketItem | None:
        """The pair to show now; None when every item has an answer."""
        return self.items[self._at] if self._at is not None else None

    @property
    def position(self) -> tuple[int, int]:
        """(number of the current item from 1, items in all).

        At the end the first equals the second.
        """
        return (len(self.items) if self._at is None else self._at + 1), len(self.items)

    @property
    def phase(self) -> Phase:
        """What the current item is for; the last phase when none is left."""
        seq = len(self.items) if self._at is None else self._at + 1
        return self.session.manifest.phase(seq, len(self.items))

    @property
    def question(self) -> str:
        """What is asked of the current item."""
        manifest = self.session.manifest
        return manifest.end_question if self.phase == "guess" else manifest.question

    @property
    def criteria(self) -> tuple[str, ...]:
        """The further questions of the current item, each with the same answers."""
        return () if self.phase == "guess" else self.session.manifest.criteria

    @property
    def tags(self) -> tuple[str, ...]:
        """The marks that an item can get."""
        return self.session.manifest.tags

    @property
    def break_due(self) -> str:
        """A sentence that suggests a break; empty while none is due."""
        minutes = self._active_ms // 60_000
        if self._answers_in_a_row >= BREAK_ANSWERS:
            return f"{self._answers_in_a_row} answers in a row: time for a break?"
        return f"{minutes} minutes of rating: time for a break?" if minutes >= BREAK_MINUTES else ""

    @property
    def answered(self) -> int:
        """Items with an answer; "cannot judge" is one."""
        return sum(judgement.choice is not None for judgement in self._state.values())

    @property
    def done(self) -> bool:
        """Every item has an answer."""
        return self.answered == len(self.items)

    def judgement(self, pid: str | None = None) -> Judgement:
        """Answer, comment and marks of an item (the current one by default)."""
        pid = self._pid(pid)
        return self._state.get(pid, Judgement(pid))

    def vote(
        self,
        choice: Choice | str,
        *,
        shown_at: float = 0.0,
        voted_at: float = 0.0,
        active_ms: int = 0,
        cols: int = 0,
        rows: int = 0,
        layout: str = "",
        seen_left: bool = True,
        seen_right: bool = True,
        confidence: int = 0,
        tags: Iterable[str] | None = None,
        criteria: Mapping[str, Choice | str] = {},
        client: str = "",
    ) -> PacketItem | None:
        """Record the answer to the current item; returns the next one to show.

        ``choice`` is the displayed side: L, R, G (both good), B (both bad), S (cannot judge); the
        end question takes L, R and S (don't know). Times in unix seconds, ``layout`` "side" or
        "stacked", ``confidence`` 1 to 3 (0 = not asked), ``criteria`` answers to further questions,
        ``tags`` None leaves the item's.
        """
        pid = self._pid(None)
        if self.phase == "guess" and choice in (Choice.BOTH_GOOD, Choice.BOTH_BAD):
            raise UserError(
                "the end question asks for a side.", fix="Answer left, right, or don't know."
            )
        event: EventName = "vote" if self.judgement().choice is None else "amend"
        self._record(
            event,
            pid=pid,
            choice=_choice(choice),
            shown_at=shown_at,
            voted_at=voted_at or self._clock(),
            active_ms=active_ms,
            cols=cols,
            rows=rows,
            layout=layout,
            seen_left=seen_left,
            seen_right=seen_right,
            confidence=_confidence(confidence),
            tags=None if tags is None else self._known_tags(tags),
            criteria={self._criterion(name): _choice(given) for name, given in criteria.items()},
            client=client,
        )
        self._answers_in_a_row += 1
        self._active_ms += active_ms
        self._at = self._next_open(self._place(pid))
        return self.current

    def undo(self) -> PacketItem | None:
        """Take back the last answer and return to its item; None when there is none to take back.

        Both the answer and the undoing stay in the file. Called again, it goes further back.
        """
        voted = [j for j in self._state.values() if j.choice is not None and j.event is not None]
        if not voted:
            return None
        last = max(voted, key=lambda judgement: judgement.event.n if judgement.event else 0)
        self._record("undo", pid=last.pid)
        return self.go(last.pid)

    def go(self, pid: str) -> PacketItem:
        """Show this item next, answered or not; voting on it again amends the answer."""
        self._at = self._place(self._pid(pid))
        return self.items[self._at]

    def back(self) -> PacketItem | None:
        """Show the item before the current one; nothing is undone. None at the first."""
        place = len(self.items) if self._at is None else self._at
        return self.go(self.items[place - 1].pid) if place > 0 else None

    def comment(self, text: str, pid: str | None = None) -> None:
        """Record a remark on an item (the current one by default); an empty text removes it."""
        if len(text) > COMMENT_LIMIT:
            raise UserError(
                f"the comment is longer than {COMMENT_LIMIT} characters.", fix="Shorten it."
            )
        self._record(
            "comment", pid=self._pid(pid), comment=text.encode("utf-8", "replace").decode()
        )

    def recognised(self, flag: bool = True, pid: str | None = None) -> None:
        """Record that the rater thinks to know which model wrote one side (or takes it back)."""
        self._record("flag", pid=self._pid(pid), recognised=flag)

    def confidence(self, level: int, pid: str | None = None) -> None:
        """Record how sure the rater is, 1 to 3; 0 takes it back."""
        self._record("confidence", pid=self._pid(pid), confidence=_confidence(level))

    def tag(self, names: Iterable[str], pid: str | None = None) -> None:
        """Record the marks of an item in place of those it had; they must be the session's."""
        self._record("tags", pid=self._pid(pid), tags=self._known_tags(names))

    def criterion(self, name: str, choice: Choice | str, pid: str | None = None) -> None:
        """Record the answer to one of the further questions."""
        given = {self._criterion(name): _choice(choice)}
        self._record("criteria", pid=self._pid(pid), criteria=given)

    def take_break(self) -> None:
        """Record that the rater stops for a while."""
        if not self.on_break:
            self._record("break")
            self.on_break = True

    def resume(self) -> None:
        """Record that the rater goes on; the next break is due a full stretch later."""
        if self.on_break:
            self._record("resume")
            self.on_break = False
            self._answers_in_a_row, self._active_ms = 0, 0

    def close(self) -> str:
        """Hand in for good; returns a receipt (hash of the last line) that proves what was handed
        in."""
        if not self.closed:
            self._record("close")
            self.closed = True
        return self._writer.head

    def leave(self) -> None:
        """Leave the session open for later and let go of the file."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()

    def _read_earlier_files(self) -> dict[str, Head]:
        """Mend the files that a dead process left torn, and note how far each goes."""
        heads = {}
        for path in rater_files(self.session, self.rater):
            if path.name.startswith(f"{_host()}-"):
                repair(path, self.session.manifest_hash)
            chain = read_chain(path, self.session.manifest_hash)
            heads[str(path.relative_to(self.session.ratings))] = Head(len(chain.lines), chain.head)
        return heads

    def _new_file(self) -> ChainWriter:
        folder = self.session.ratings / self.rater
        moment = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y%m%dT%H%M%S.%f")
        try:
            shared = self.session.ratings.stat().st_mode & 0o020
            if not folder.is_dir():
                folder.mkdir(mode=0o700, exist_ok=True)
                if shared:
                    folder.chmod(0o2750)
            for number in range(1000):
                mark = f"-{number}" if number else ""
                path = folder / f"{_host()}-{os.getpid()}-{moment}Z{mark}.jsonl"
                if not path.exists():
                    return ChainWriter(path, self.session.manifest_hash, 0o640 if shared else 0o600)
        except OSError as error:
            raise UserError(
                "votes cannot be saved here.", str(folder), f"({error.strerror})"
            ) from error
        raise UserError("votes cannot be saved here: too many files of one moment.", str(folder))

    def _record(self, ev: EventName, **fields: Any) -> None:
        if self.closed and ev != "open":
            raise UserError("this session was handed in and cannot be changed.", self.session.name)
        event = Event(ev=ev, n=self._n + 1, at=round(self._clock(), 3), **fields)
        try:
            self._writer.append(event)
        except OSError as error:
            raise UserError(
                "this was NOT saved: the disk refused it.",
                str(self._writer.path),
                f"({error.strerror})",
            ) from error
        self._n += 1
        if event.pid:
            self._state[event.pid] = apply(self._state.get(event.pid, Judgement(event.pid)), event)

    def _pid(self, pid: str | None) -> str:
        if pid is None:
            if self._at is None:
                raise UserError("every item has an answer already.", self.session.name)
            return self.items[self._at].pid
        if pid not in self._by_pid:
            raise UserError("there is no such item in this packet.", pid)
        return pid

    def _known_tags(self, names: Iterable[str]) -> tuple[str, ...]:
        given = tuple(dict.fromkeys(names))
        for name in given:
            if name not in self.tags:
                raise UserError(f"{name!r} is no tag.", fix=f"Use: {', '.join(self.tags)}.")
        return given

    def _criterion(self, name: str) -> str:
        asked = self.session.manifest.criteria
        if name not in asked:
            raise UserError(
                f"{name!r} is not asked in this session.", fix=f"It asks: {', '.join(asked)}."
            )
        return name

    def _place(self, pid: str) -> int:
        return self._by_pid[pid].seq - 1

    def _next_open(self, start: int) -> int | None:
        """The first item without an answer from ``start`` on, then from the beginning."""
        around = [*range(start, len(self.items)), *range(start)]
        return next((i for i in around if self.judgement(self.items[i].pid).choice is None), None)


def _choice(choice: Choice | str) -> Choice:
    try:
        return Choice(choice)
    except ValueError:
        raise UserError(f"{choice!r} is no answer.", fix="Use L, R, G, B or S.") from None


def _confidence(level: int) -> int:
    if level not in range(4):
        raise UserError(f"{level} is no confidence.", fix="Use 1 to 3, or 0 for none.")
    return level


def _host() -> str:
    return re.sub(r"[^\w.-]", "_", socket.gethostname()) or "host"
