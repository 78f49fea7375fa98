"""One widget alone on a screen, and the regions that it repaints."""

from __future__ import annotations

from typing import Any

import pytest
from textual.app import App, ComposeResult
from textual.geometry import Region
from textual.widget import Widget


class Stage(App[None]):
    """One widget on an empty screen, and the messages it sent."""

    def __init__(self, widget: Widget) -> None:
        super().__init__()
        self.widget = widget
        self.seen: list[Any] = []

    def get_theme_variable_defaults(self) -> dict[str, str]:
        from finetui.tui import themes

        return themes.own_variables(self.current_theme)

    def compose(self) -> ComposeResult:
        yield self.widget

    def on_event_seen(self, message: Any) -> None:
        self.seen.append(message)

    for _name in (
        "virtual_table_row_highlighted",
        "virtual_table_row_selected",
        "form_list_field_edited",
        "form_list_field_typing",
        "braille_chart_step_selected",
        "braille_chart_moved",
    ):
        locals()[f"on_{_name}"] = on_event_seen


def lines_of(widget: Widget) -> list[str]:
    return [widget.render_line(y).text for y in range(widget.size.height)]


class Watched:
    """Counts the regions that a widget asks to repaint."""

    def __init__(self, widget: Widget, patch: pytest.MonkeyPatch) -> None:
        self.regions: list[tuple[Region, ...]] = []
        real = widget.refresh

        def refresh(*regions: Region, **options: Any) -> Any:
            self.regions.append(regions)
            return real(*regions, **options)

        patch.setattr(widget, "refresh", refresh)
