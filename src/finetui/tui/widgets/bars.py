"""The first and the last line of the screen."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from textual import events
from textual.content import Content
from textual.geometry import Region
from textual.reactive import reactive
from textual.widget import Widget

from finetui.display import clean
from finetui.tui.actions import ACTIONS, is_off, key_sign
from finetui.tui.messages import ShowPane

HINTS = 5


class TopBar(Widget):
    """Name, workspace, the modes with the current one marked, and the machine."""

    workspace: reactive[str] = reactive("")
    current: reactive[str] = reactive("")
    machine: reactive[str] = reactive("", repaint=False)
    readonly: reactive[bool] = reactive(False)

    def __init__(self, modes: Sequence[tuple[str, str, str]]) -> None:
        """``modes`` holds (name, key, title)."""
        super().__init__()
        self.modes = list(modes)
        self._spans: list[tuple[int, int, str]] = []

    def watch_machine(self, before: str, now: str) -> None:
        """Repaint the right end only: it changes every other second."""
        room = 1 + max(cell_len(clean(before)), cell_len(clean(now)))
        self.refresh(Region(max(0, self.size.width - room), 0, room, 1))

    def render(self) -> Content:
        width = self.size.width
        tabs = self._tabs(titles=width >= 72)
        left = self._left(width - tabs.cell_length - 2)
        right = Content(clean(self.machine))
        room = width - left.cell_length - tabs.cell_length - 2
        if right.cell_length > room - 1:
            right = Content("")
        if room > 0 and right.cell_length:
            right = right.stylize("$muted")
        self._mark_spans(left.cell_length, titles=width >= 72)
        gap = " " * max(1, room - right.cell_length)
        return Content.assemble(left, tabs, gap, right, " ")

    def _left(self, room: int) -> Content:
        mark = (" read only ", "bold $background on $warning") if self.readonly else ""
        name = Content.assemble((" finetui", "bold $accent"), "  ", mark, " " if mark else "")
        place = clean(self.workspace)
        if room - name.cell_length < 4:
            return name
        if cell_len(place) > room - name.cell_length - 2:
            return name
        return Content.assemble(name, (place, "$muted"), "  ")

    def _tabs(self, titles: bool) -> Content:
        parts: list[Content] = []
        for name, key, title in self.modes:
            words = f" {key} {title} " if titles else f" {key} "
            if name == self.current:
                words = words if titles else f" {key} {title} "
                parts.append(Content.styled(words, "bold $cursor-text on $cursor"))
            elif titles:
                parts.append(Content.assemble((f" {key} ", "$key"), (f"{title} ", "$foreground")))
            else:
                parts.append(Content.styled(words, "$key"))
        return Content.assemble(*parts)

    def _mark_spans(self, start: int, titles: bool) -> None:
        self._spans.clear()
        for name, key, title in self.modes:
            wide = titles or name == self.current
            end = start + (len(key) + len(title) + 3 if wide else len(key) + 2)
            self._spans.append((start, end, name))
            start = end

    def on_click(self, event: events.Click) -> None:
        for start, end, name in self._spans:
            if start <= event.x < end:
                self.post_message(ShowPane(name))


def hint_line(hints: Sequence[tuple[str, str]]) -> Content:
    """Keys and words in the look of the last line."""
    parts = [
        Content.assemble((key, "bold $key"), (f" {clean(words)}", "$muted"), "   ")
        for key, words in hints
    ]
    return Content.assemble(*parts)


class HintBar(Widget):
    """At most five keys that fit what has the focus, and always help."""

    hints: reactive[tuple[tuple[str, str], ...]] = reactive(())

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self._collect())
        self._collect()

    def _collect(self) -> None:
        """Read the active bindings, nearest to the focus first."""
        found: dict[str, tuple[str, str]] = {}
        watching = getattr(self.app, "readonly", False)
        for active in self.screen.active_bindings.values():
            binding = active.binding
            if not (binding.show and active.enabled):
                continue
            action = ACTIONS.get(binding.id or "")
            if watching and is_off(binding.id or ""):
                continue
            sign = key_sign((action.keys if action else binding.key).split(",")[0])
            found.setdefault(binding.id or binding.action, (sign, binding.description))
        self.hints = tuple(found.values())[:HINTS]

    def render(self) -> Content:
        width = self.size.width
        tail = Content.assemble(("?", "bold $key"), (" help ", "$muted"))
        parts: list[Content] = [Content(" ")]
        used = 1
        for sign, words in self.hints:
            hint = Content.assemble((sign, "bold $key"), (f" {words}", "$muted"), "   ")
            if used + hint.cell_length + tail.cell_length > width:
                break
            parts.append(hint)
            used += hint.cell_length
        gap = " " * max(0, width - used - tail.cell_length)
        return Content.assemble(*parts, gap, tail)

    async def on_click(self) -> None:
        await self.app.run_action("app.help")
