"""The key table of the docs: every action of the registry, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from finetui.tui import app, modes
from finetui.tui.actions import ACTIONS, WHERE_TITLES, Action, at, key_sign


def key_table_markdown(places: Iterable[str] | None = None) -> str:
    """Every action as Markdown tables, one for each place (for the docs)."""
    modes.load_all()
    assert app.SHELL  # importing the app has filled the registry with its own actions
    found = sorted({action.place for action in ACTIONS.values()}, key=_order)
    parts = []
    for place in places or found:
        rows = [f"| {_code(action)} | {action.title} | {action.help} |" for action in at(place)]
        title = WHERE_TITLES.get(place, place.capitalize())
        parts.append(
            "\n".join(
                [f"### {title}", "", "| key | action | what it does |", "|---|---|---|", *rows]
            )
        )
    return "\n\n".join(parts) + "\n"


def _code(action: Action) -> str:
    if not action.keys:
        return "(palette)"
    signs = [key_sign(key) for key in action.keys.split(",")]
    return " ".join(f"`{sign}`" for sign in signs)


def _order(place: str) -> tuple[int, str]:
    known = ["app", "home", "data", "recipe", "train", "evaluate", "rate"]
    return (known.index(place) if place in known else len(known), place)
