"""The registry of actions: one entry feeds the binding, footer, palette, help and docs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from textual.binding import Binding, BindingType

if TYPE_CHECKING:
    from textual.dom import DOMNode

WHERE_TITLES = {
    "app": "Everywhere",
    "table": "Tables",
    "list": "Lists",
    "lines": "Text",
    "chart": "Charts",
    "form": "Forms",
    "dialog": "Dialogs",
}

_KEY_SIGNS = {
    "question_mark": "?",
    "slash": "/",
    "colon": ":",
    "escape": "esc",
    "pageup": "PgUp",
    "pagedown": "PgDn",
    "f1": "F1",
    "up": "↑",
    "down": "↓",
    "left": "←",
    "right": "→",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "plus": "+",
    "minus": "-",
    "full_stop": ".",
    "comma": ",",
    "shift+tab": "⇧tab",
}


@dataclass(frozen=True, slots=True)
class Action:
    """One thing a person can do.

    ``id`` is ``where.name``; the method is ``action_name`` unless ``call`` says otherwise.
    ``show`` lets the hint line at the bottom use it; ``priority`` beats a focused input.
    ``writes`` is for what changes the workspace, or asks something of a run: it is off where one
    only watches.
    """

    id: str
    keys: str
    title: str
    help: str
    where: str = ""
    show: bool = False
    call: str = ""
    priority: bool = False
    writes: bool = False

    @property
    def place(self) -> str:
        return self.where or self.id.partition(".")[0]

    @property
    def method(self) -> str:
        return self.call or self.id.rpartition(".")[2].replace("-", "_")

    @property
    def key_text(self) -> str:
        """The keys as a person reads them: ``↑ k``."""
        return " ".join(key_sign(key) for key in self.keys.split(",") if key)

    def binding(self) -> Binding:
        return Binding(
            self.keys,
            self.method,
            self.title,
            show=self.show,
            id=self.id,
            tooltip=self.help,
            priority=self.priority,
        )


ACTIONS: dict[str, Action] = {}


def key_sign(key: str) -> str:
    """``ctrl+r`` as ``^r``, ``question_mark`` as ``?``."""
    key = key.strip()
    if key.startswith("ctrl+"):
        return "^" + key_sign(key.removeprefix("ctrl+"))
    return _KEY_SIGNS.get(key, key)


def register(*actions: Action) -> list[BindingType]:
    """Add actions to the registry and return their bindings, for a class's ``BINDINGS``."""
    for action in actions:
        known = ACTIONS.get(action.id)
        if known is not None and known != action:
            raise ValueError(f"two actions are called {action.id!r}")
        ACTIONS[action.id] = action
    return [action.binding() for action in actions if action.keys]


def is_off(action_id: str) -> bool:
    """Whether an action is off where one only watches."""
    return action_id in ACTIONS and ACTIONS[action_id].writes


def writes(namespace: DOMNode, method: str) -> bool:
    """Whether what a screen or widget does under this name changes the workspace."""
    return method in _writing(type(namespace), namespace.id or "")


@lru_cache(maxsize=256)
def _writing(kind: type[DOMNode], place: str) -> frozenset[str]:
    """The methods that write: of a class by its bindings, of a mode by its name (some actions
    have no key)."""
    bound = {
        binding.id
        for each in kind.__mro__
        for binding in vars(each).get("BINDINGS", ())
        if isinstance(binding, Binding)
    }
    return frozenset(
        action.method.partition("(")[0]
        for action in ACTIONS.values()
        if action.writes and (action.id in bound or action.place == place)
    )


def at(where: str) -> list[Action]:
    """The actions of one place, in the order they were registered."""
    return [action for action in ACTIONS.values() if action.place == where]
