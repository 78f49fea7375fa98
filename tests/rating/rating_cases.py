"""Small sealed sessions to test with: the system names are words that stand nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetui.rating.ballot import Ballot
from finetui.rating.registration import Registration
from finetui.rating.sealing import Placement
from finetui.rating.session import Item, PacketItem, Session, seal
from finetui.rating.unseal import _open_and_check

REFERENCE, CANDIDATE = "plainfish", "tunedfish"
KEY = bytes(range(32))
CHOICES = frozenset(Registration.__struct_fields__)
MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def make_items(count: int, identical: Iterable[int] = ()) -> list[Item]:
    same = set(identical)
    return [
        Item(
            id=f"row-{n}",
            prompt=[{"role": "user", "content": f"question {n}"}],
            reference=f"answer {n}",
            outputs={
                REFERENCE: f"first wording {n}",
                CANDIDATE: f"first wording {n}" if n in same else f"second wording {n}",
            },
            meta={"line": n + 1},
        )
        for n in range(count)
    ]


def make_session(
    folder: Path,
    count: int = 12,
    raters: Iterable[str] = ("ann",),
    identical: Iterable[int] = (),
    **options: Any,
) -> Session:
    """``options`` are those of the registration and of ``seal``."""
    options = {"key": KEY, "now": MOMENT, "systems": (REFERENCE, CANDIDATE), **options}
    chosen = {name: options.pop(name) for name in CHOICES & options.keys()}
    items = options.pop("items", None) or make_items(count, identical)
    return seal(folder, "trial", items, Registration(raters=tuple(raters), **chosen), **options)


def placements(session: Session) -> dict[str, Placement]:
    """The truth, for tests that decide by system."""
    return dict(_open_and_check(session).placements)


def vote_by(session: Session, rater: str, decide: Callable[[PacketItem], str]) -> None:
    with Ballot(session, rater) as ballot:
        while ballot.current is not None:
            ballot.vote(decide(ballot.current), active_ms=2000)


def by_system(session: Session, answers: dict[str, str]) -> Callable[[PacketItem], str]:
    """Decide by item: ``answers`` says W (candidate), X (reference), G, B or S for an item id."""
    truth = placements(session)

    def decide(item: PacketItem) -> str:
        place = truth[item.pid]
        answer = answers[place.item]
        if answer in "GBS":
            return answer
        wanted = CANDIDATE if answer == "W" else REFERENCE
        return "L" if place.left == wanted else "R"

    return decide
