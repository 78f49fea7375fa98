"""Pace for slow lines: a live frame is sent only when the terminal has swallowed the last one.

Textual's writer blocks the whole screen when its queue is full. Asking the terminal where its
cursor is (CSI 6n) after a frame tells when the frame has arrived; until the answer comes, live
updates wait, so that a key is never queued behind pictures. tmux and screen answer by themselves,
so there the pace is that of the line up to them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

ASK = "\x1b[6n"
PATIENCE = 10.0
"""Seconds until an answer is given up, from a terminal that has answered before."""
FIRST_PATIENCE = 1.0
"""The same before the first answer: some terminals never give one."""
STRIKES = 2
"""Answers in a row that never came before the terminal is not asked any more."""


class Pacer:
    """Whether the next live frame may be drawn."""

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._asked: float | None = None
        self._missed = 0
        self._heard = False

    @property
    def ready(self) -> bool:
        """True when the last frame has arrived, or the terminal does not tell."""
        if self._asked is None:
            return True
        if self._clock() - self._asked < (PATIENCE if self._heard else FIRST_PATIENCE):
            return False
        self._asked = None
        self._missed += 1
        return True

    def sent(self) -> None:
        """Call after a live frame."""
        if self._asked is None and self._missed < STRIKES:
            self._asked = self._clock()
            self._write(ASK)

    def answered(self) -> None:
        """Call when the terminal reported its cursor; a late answer counts too."""
        self._heard = True
        self._asked = None
        self._missed = 0
