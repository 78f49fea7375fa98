"""The palette: every action of the registry by name, those that work here first."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content

from finetui.tui import modes
from finetui.tui.actions import ACTIONS, Action

if TYPE_CHECKING:
    from finetui.tui.app import FinetuiApp

# Moving a cursor by name is of no use to anybody.
_MOVES = {"table", "list", "lines", "dialog", "form", "chart"}


class ActionProvider(Provider):
    """Offers the actions of the focus, then those of the other modes (which it opens first)."""

    async def startup(self) -> None:
        modes.load_all()

    @property
    def _shell(self) -> FinetuiApp:
        return cast("FinetuiApp", self.app)

    def _offers(self) -> list[tuple[str, Action, Callable[[], object]]]:
        """Title, action and what runs it; an action of the focused chain comes first."""
        here = {
            active.binding.id: active
            for active in self.screen.active_bindings.values()
            if active.binding.id and active.enabled
        }
        offers = []
        for action in ACTIONS.values():
            if action.place in _MOVES or action.id == "app.palette":
                continue
            if action.writes and self._shell.readonly:
                continue
            title = _title(action)
            if action.id in here:
                active = here[action.id]
                run = partial(self.app.run_action, action.method, active.node)
                rank = 1 if action.place == "app" else 0
                offers.append((rank, title, action, cast("Callable[[], object]", run)))
            elif action.place == "app":
                run = partial(self.app.run_action, action.method)
                offers.append((1, title, action, cast("Callable[[], object]", run)))
            elif action.place in modes.BY_NAME:
                offers.append((2, title, action, partial(self._elsewhere, action)))
        offers.sort(key=lambda offer: offer[0])
        return [offer[1:] for offer in offers]

    async def _elsewhere(self, action: Action) -> None:
        pane = await self._shell.show(action.place)
        await self.app.run_action(action.method, pane)

    async def discover(self) -> Hits:
        for title, action, run in self._offers():
            yield DiscoveryHit(Content(title), run, text=title, help=_help(action))

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for title, action, run in self._offers():
            score = matcher.match(title)
            if score > 0:
                yield Hit(score, matcher.highlight(title), run, text=title, help=_help(action))


def _title(action: Action) -> str:
    mode = modes.BY_NAME.get(action.place)
    return f"{mode.title}: {action.title}" if mode else action.title


def _help(action: Action) -> str:
    return f"{action.help}  ({action.key_text})" if action.keys else action.help
