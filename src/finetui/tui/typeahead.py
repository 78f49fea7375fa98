"""Keys in order: one is settled before the next is handed out.

Textual hands a key to whoever has the focus when it arrives, but the answer to a key comes some
messages later. On a slow line ``/over`` arrives in one piece, and the ``o`` would still go to the
table and open a file. So a key waits until the one before has gone its whole way.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from textual import events
from textual.app import App
from textual.message import Message
from textual.screen import ModalScreen
from textual.widget import Widget

PATIENCE = 0.5
"""Seconds until a key counts as settled though nobody said so (its widget may be gone)."""


ROUNDS = 2
"""Round trips that a key is followed: its own, and that of the messages it caused."""


@dataclass
class KeySettled(Message):
    """Follows a key through the same queues; when it arrives, what was before it is done."""

    target: Widget
    rounds: int


class TypeAhead(App[None]):
    """An app that hands out keys one after another."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[events.Key] = deque()
        self._under_way_until = 0.0

    async def on_event(self, event: events.Event) -> None:
        if not isinstance(event, events.Key) or event.is_forwarded:
            await super().on_event(event)
        elif self._waiting or time.monotonic() < self._under_way_until:
            self._waiting.append(event)
            self.set_timer(PATIENCE, self._go_on)
        else:
            await self._hand_out(event)

    async def _hand_out(self, event: events.Key) -> None:
        self._under_way_until = time.monotonic() + PATIENCE
        target = self.focused or self.screen
        await super().on_event(event)
        self._follow(target, ROUNDS)

    def _follow(self, target: Widget, rounds: int) -> None:
        if not target.post_message(KeySettled(target, rounds)):
            self._under_way_until = 0.0  # the widget is gone, and the key with it

    async def on_key_settled(self, message: KeySettled) -> None:
        if message.rounds > 1:
            self._follow(message.target, message.rounds - 1)
        else:
            await self._settle()

    async def _settle(self) -> None:
        if not self.screen_stack:  # the app is leaving
            return
        opening = isinstance(self.screen, ModalScreen) and self.focused is None
        if opening and time.monotonic() < self._under_way_until:
            self.call_after_refresh(self._settle)  # a dialog's focus comes with its mounting
            return
        self._under_way_until = 0.0
        await self._go_on()

    async def _go_on(self) -> None:
        if self._waiting and time.monotonic() >= self._under_way_until:
            await self._hand_out(self._waiting.popleft())
