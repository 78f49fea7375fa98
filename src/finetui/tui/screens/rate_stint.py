"""Time at work on the pair that shows. Plain values, no widget."""

from __future__ import annotations

import time
from collections.abc import Callable

JUST_SHOWN = 0.1
"""Seconds a pair must have been on screen: a key held down repeats faster than that."""

IDLE = 120.0
"""Seconds without a key after which nobody is at work any more."""

Clock = Callable[[], float]


class Stint:
    """The clock of a pair. Call ``key`` at each key, ``shown`` when another pair is on screen."""

    def __init__(self, clock: Clock = time.monotonic, wall: Clock = time.time) -> None:
        self.clock, self.wall = clock, wall
        self.shown_wall = wall()
        self._shown = self._last = clock()
        self._on_pair = 0.0

    def shown(self) -> None:
        """Another pair is on screen: its time begins."""
        self._shown = self._last = self.clock()
        self.shown_wall = self.wall()
        self._on_pair = 0.0

    def key(self) -> None:
        """Somebody is there; the time since the last key counts, up to ``IDLE``."""
        now = self.clock()
        self._on_pair += min(IDLE, max(0.0, now - self._last))
        self._last = now

    def rested(self) -> None:
        """A break is over; its time is nobody's."""
        self._last = self.clock()

    @property
    def too_soon(self) -> bool:
        """Whether nobody can have seen the pair yet."""
        return self.clock() - self._shown < JUST_SHOWN

    @property
    def active_ms(self) -> int:
        """Time on this pair without pauses, in milliseconds."""
        return round(self._on_pair * 1000)
