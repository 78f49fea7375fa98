"""A cheap key of rows for checks that compare rows: rows that concern each other have equal keys.

It is coarser than the hashes of `finetui.data.keys`: a row whose key no other row has cannot be a
copy of one nor ask what another asks, and only the others are worth comparing in earnest.
"""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from finetui.data.checks.model import Example
from finetui.data.keys import normalise, value_hash
from finetui.data.records import Shape

# Everything that str.split() takes for a blank in ASCII text.
_BLANKS = bytes((*range(9, 14), *range(28, 33)))
_LOWER = bytes(range(256)).lower()
_ORDERS = 4096  # orders of roles that are remembered


class Alike:
    """The letters that a row asks with; where it asks nothing, those of all that it says.

    Case, width, blanks, and who says what, do not count, nor do system turns.
    """

    def __init__(self) -> None:
        self._asked: dict[tuple[str, ...], tuple[int, ...]] = {}

    def __call__(self, example: Example) -> int | None:
        record = example.record
        if example.fault is not None:
            return None
        if record is None or not record.all_turns():
            return value_hash(example.value)
        if record.shape is Shape.TEXT:
            return self.text(record.turns[0].content)
        if record.chosen is None:
            return self.plain(
                tuple(turn.role for turn in record.turns), [turn.content for turn in record.turns]
            )
        asked = "".join([turn.content for turn in record.turns if turn.role != "system"])
        return _letters(asked) or self.text("".join([t.content for t in record.all_turns()]))

    def plain(self, roles: tuple[str, ...], texts: Sequence[str]) -> int:
        """The key of a row with these roles and texts."""
        asked = self._asked.get(roles)
        if asked is None:
            asked = self._asking(roles)
        if len(asked) == 1:
            key = _letters(texts[asked[0]])
        else:
            key = _letters("".join([texts[place] for place in asked]))
        return key or self.text("".join(texts))

    def text(self, text: str) -> int:
        """The key of a plain text."""
        return _letters(text) or 1

    def _asking(self, roles: tuple[str, ...]) -> tuple[int, ...]:
        """The turns before the last answer that are no system turns."""
        last = len(roles) - 1
        while last >= 0 and roles[last] != "assistant":
            last -= 1
        before = roles if last < 0 else roles[:last]
        asked = tuple(place for place, role in enumerate(before) if role != "system")
        if len(self._asked) < _ORDERS:
            self._asked[roles] = asked
        return asked


def _letters(text: str) -> int:
    """The hash of a text without case and blanks; 0 when nothing is left."""
    if not text.isascii():
        text = normalise(text)
    letters = text.encode(errors="surrogatepass").translate(_LOWER, _BLANKS)
    return xxhash.xxh3_64_intdigest(letters) if letters else 0


CONTENT = PROMPT = Alike()
"""For rows that say or ask the same: a row that says the same asks the same."""
