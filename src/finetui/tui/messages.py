"""Messages between the panes and the app: small, frozen, handled with ``@on``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textual.message import Message


@dataclass(frozen=True, slots=True)
class OpenData:
    """Show a data file, and some of its rows (0-based), in the Data screen."""

    path: Path
    rows: tuple[int, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class OpenRecipe:
    """Show a recipe in the form; ``data`` starts a new one on that file."""

    path: Path | None = None
    data: Path | None = None


@dataclass(frozen=True, slots=True)
class OpenJob:
    """Show a job; the train and the evaluate screens take it."""

    path: Path


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Show a rating session."""

    path: Path


@dataclass
class ShowPane(Message):
    """Ask the app to show a mode, and to hand its pane a request."""

    mode: str
    request: object | None = None


@dataclass
class Looked(Message):
    """What the look-out saw: devices and jobs. The newest one is enough."""

    devices: Any = None
    jobs: tuple[Any, ...] = field(default_factory=tuple)
    loop: Any = None

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, Looked)
