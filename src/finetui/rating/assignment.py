"""Who sees which item when, and on which side: all of it from one secret key.

Every draw is HMAC-SHA256 under the session's key, so whoever has the key can derive the same
session again, and nobody else can predict a side. Sides are balanced in permuted blocks of 4 or 6
along the order of presentation; raters come in pairs that see opposite sides.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec

BLOCK_SIZES = (4, 6)
REPEAT_GAP = 15  # items between two showings, where the session is long enough
REPEATS_FROM = 20  # shown items; shorter sessions have no repeats unless asked

Kind = Literal["item", "repeat", "practice", "catch", "guess"]
Showing: TypeAlias = tuple[str, bool, Kind]
"""What is shown, whether its candidate is on the left, and what for."""


class Slot(msgspec.Struct, frozen=True):
    """One showing: ``seq`` counts from 1; ``candidate_left`` is the secret."""

    pid: str
    seq: int
    item: str
    kind: Kind
    candidate_left: bool


class Cast(NamedTuple):
    """What every rater is shown: ids of the rated, of practice, catches and the end question."""

    items: Sequence[str]
    practice: Sequence[str] = ()
    catches: Sequence[str] = ()
    guesses: Sequence[str] = ()


def keyed_digest(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA256 (RFC 2104), 32 bytes."""
    return hmac.digest(key, message, "sha256")


def prf(key: bytes, *parts: str | int) -> bytes:
    """A keyed pseudo-random value for these parts; no two lists of parts share an encoding."""
    return keyed_digest(key, msgspec.json.encode(parts))


def assign(
    key: bytes, session: str, cast: Cast, raters: Sequence[str], repeats: float
) -> dict[str, list[Slot]]:
    """Every rater's showings in order; ``repeats`` is a fraction of the items (0 to 1).

    First the practice, then the items with repeats and catches among them, then the end question.
    """
    return {
        rater: _slots(key, session, rater, _showings(key, rater, number, cast, repeats))
        for number, rater in enumerate(raters)
    }


def first_showings(key: bytes, items: Sequence[str], rater_number: int) -> list[tuple[str, bool]]:
    """(item, candidate on the left) in order, for the rater with this number (from 0).

    The second rater of a pair gets every side flipped. The order differs, but only by whole blocks
    and within blocks, so the sides are as balanced at every moment as the first one's.
    """
    blocks = _blocks(key, items, rater_number // 2)
    if rater_number % 2 == 0:
        return [shown for block in blocks for shown in block]
    numbers = sorted(range(len(blocks)), key=lambda b: prf(key, "block order", rater_number, b))
    return [
        (item, not left)
        for number in numbers
        for item, left in sorted(
            blocks[number], key=lambda s: prf(key, "order", rater_number, s[0])
        )
    ]


def default_repeats(shown: int) -> float:
    """A tenth of the items again with sides swapped, from 20 items on.

    A short session is not made longer.
    """
    return 0.1 if shown >= REPEATS_FROM else 0.0


def _blocks(key: bytes, items: Sequence[str], pair: int) -> list[list[tuple[str, bool]]]:
    order = sorted(items, key=lambda item: prf(key, "order", 2 * pair, item))
    blocks: list[list[tuple[str, bool]]] = []
    start = 0
    while start < len(order):
        draw = prf(key, "block", pair, len(blocks))
        members = order[start : start + BLOCK_SIZES[draw[0] & 1]]
        # Only the last block can be odd; a second bit says which side gets its odd item.
        lefts = (len(members) + (draw[1] & 1)) // 2
        by_side = sorted(members, key=lambda item: prf(key, "side", pair, item))
        on_left = set(by_side[:lefts])
        blocks.append([(item, item in on_left) for item in members])
        start += len(members)
    return blocks


def _showings(key: bytes, rater: str, number: int, cast: Cast, repeats: float) -> list[Showing]:
    rated = _with_repeats(key, rater, first_showings(key, cast.items, number), repeats)
    return [
        *_aside(key, "practice", number, cast.practice),
        *_with_catches(key, number, rated, _aside(key, "catch", number, cast.catches)),
        *_aside(key, "guess", number, cast.guesses),
    ]


def _aside(key: bytes, kind: Kind, number: int, items: Sequence[str]) -> list[Showing]:
    """Showings of one kind in random order, sides balanced; the second rater of a pair sees the
    other ones."""
    pair, flipped = divmod(number, 2)
    by_side = sorted(items, key=lambda item: prf(key, kind, "side", pair, item))
    odd = prf(key, kind, "odd", pair)[0] & 1
    on_left = set(by_side[: (len(items) + odd) // 2])
    order = sorted(items, key=lambda item: prf(key, kind, "order", number, item))
    return [(item, (item in on_left) != bool(flipped), kind) for item in order]


def _with_catches(
    key: bytes, number: int, rated: list[Showing], catches: list[Showing]
) -> list[Showing]:
    """One catch at a random place in each of as many stretches of equal length."""
    showings = list(rated)
    for stretch, catch in reversed(list(enumerate(catches))):
        first = stretch * len(rated) // len(catches)
        end = (stretch + 1) * len(rated) // len(catches)
        draw = int.from_bytes(prf(key, "catch place", number, catch[0]))
        showings.insert(first + draw % (end - first + 1), catch)
    return showings


def _with_repeats(
    key: bytes, rater: str, firsts: list[tuple[str, bool]], fraction: float
) -> list[Showing]:
    """The showings with side-swapped repeats put in, each at least REPEAT_GAP places after its
    first showing."""
    count = max(1, round(fraction * len(firsts))) if fraction > 0 else 0
    gap = min(REPEAT_GAP, len(firsts) // 2)
    early = [(place, *shown) for place, shown in enumerate(firsts) if place + gap <= len(firsts)]
    early.sort(key=lambda shown: prf(key, "repeat", rater, shown[1]))
    again: list[list[Showing]] = [[] for _ in range(len(firsts) + 1)]
    for place, item, left in early[:count]:
        draw = int.from_bytes(prf(key, "repeat place", rater, item))
        again[place + gap + draw % (len(firsts) - place - gap + 1)].append(
            (item, not left, "repeat")
        )
    showings: list[Showing] = []
    for place, (item, left) in enumerate(firsts):
        showings += [*again[place], (item, left, "item")]
    return showings + again[len(firsts)]


def _slots(key: bytes, session: str, rater: str, showings: Sequence[Showing]) -> list[Slot]:
    return [
        Slot(
            prf(key, session, rater, item, kind, 1 if kind == "repeat" else 0).hex()[:16],
            seq,
            item,
            kind,
            left,
        )
        for seq, (item, left, kind) in enumerate(showings, start=1)
    ]
