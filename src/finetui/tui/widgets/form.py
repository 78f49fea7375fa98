"""A form of one line a field, with one editor that opens at the line (a stock form of 30 inputs
takes half a second to mount and sends 45 kB a Tab)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events, on
from textual.app import ComposeResult
from textual.containers import Container
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Input

from finetui.tui.actions import Action, register
from finetui.tui.widgets.table import fit_cell

Kind = Literal["text", "choice", "flag", "lines"]
Severity = Literal["", "error", "warning", "advice", "info"]
SIGNS = {"": " ", "error": "✗", "warning": "!", "advice": "i", "info": "·"}
_TRUE = {"true", "yes", "on", "1"}


@dataclass(frozen=True, slots=True)
class FormField:
    """One line. ``value`` is text; a flag's is ``true`` or ``false``.

    A field of kind ``lines`` holds a text of some lines: enter asks the screen for an editor.
    ``idle`` says why the field has no effect now, and dims it; ``words`` are found by the search
    too, where no name is.
    """

    id: str
    group: str
    label: str
    value: str
    kind: Kind = "text"
    choices: tuple[str, ...] = ()
    changed: bool = False
    severity: Severity = ""
    note: str = ""
    idle: str = ""
    words: str = ""


_Line = tuple[str, FormField | None]  # a group's name, and the field unless it is the heading


class FormLines(ScrollView, can_focus=True):
    """The lines of the form; ``FormList`` puts the editor over them."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "form--group",
        "form--label",
        "form--value",
        "form--changed",
        "form--note",
        "form--idle",
        "form--error",
        "form--warning",
        "form--advice",
        "form--cursor",
        "form--cursor-blurred",
    }
    DEFAULT_CSS = """
    FormLines { height: 1fr; width: 1fr; overflow-x: hidden; overflow-y: auto; }
    FormLines > .form--group { color: $accent; text-style: bold; background: $background; }
    FormLines > .form--label { color: $foreground; background: $background; }
    FormLines > .form--value { color: $primary; }
    FormLines > .form--changed { color: $accent; text-style: bold; }
    FormLines > .form--note, FormLines > .form--idle { color: $muted; }
    FormLines > .form--error { color: $error; }
    FormLines > .form--warning { color: $warning; }
    FormLines > .form--advice { color: $muted; }
    FormLines > .form--cursor { color: $cursor-text; background: $cursor; }
    FormLines > .form--cursor-blurred { color: $foreground; background: $cursor-blurred; }
    """
    BINDINGS: ClassVar = register(
        Action("form.up", "up,k", "up", "One line up."),
        Action("form.down", "down,j", "down", "One line down."),
        Action("form.page-up", "pageup", "page up", "One page up."),
        Action("form.page-down", "pagedown", "page down", "One page down."),
        Action("form.first", "home,g", "first", "The first line."),
        Action("form.last", "end,G", "last", "The last line."),
        Action("form.edit", "enter", "edit", "Change the value of this field.", show=True),
        Action("form.next", "space,right", "next", "The next choice; on and off; open a group."),
        Action("form.back", "left", "back", "The choice before; close a group."),
        Action("form.fold", "minus", "fold", "Fold or unfold this group."),
        Action("form.fold-all", "plus", "all groups", "Open every group, or fold them again."),
        Action("form.group-after", "right_square_bracket", "next group", "To the next group."),
        Action("form.group-before", "left_square_bracket", "group before", "A group back."),
        Action(
            "form.only-changed", "c", "changed only", "Only what is not the default; again: all."
        ),
        Action("form.search", "slash", "find", "Find a field by its name.", show=True),
    )

    cursor: reactive[int] = reactive(0, repaint=False, init=False)

    class Changed(Message):
        """A choice or a flag got another value."""

        def __init__(self, field: FormField, value: str) -> None:
            self.field, self.value = field, value
            super().__init__()

    def __init__(self) -> None:
        super().__init__()
        self.fields: list[FormField] = []
        self.folded: set[str] = set()
        self.wanted = ""
        self.only_changed = False
        self.items: list[_Line] = []
        self._longest = 10
        self._folds_before: set[str] = set()

    @property
    def form(self) -> FormList:
        assert isinstance(self.parent, FormList)
        return self.parent

    # -- lines -------------------------------------------------------------------------------

    def set_fields(self, fields: Sequence[FormField]) -> None:
        self.fields = list(fields)
        self._longest = max((cell_len(field.label) for field in self.fields), default=10)
        self.lay_out()

    @property
    def narrowed(self) -> bool:
        """Whether a search or "changed only" hides fields; folds count no more then."""
        return bool(self.wanted) or self.only_changed

    def lay_out(self) -> None:
        """Make the list of lines from the fields, the folded groups and the search."""
        keep, heading, before = self.current, self.group, self.items
        self.items = []
        for group, found in self._found().items():
            self.items.append((group, None))
            if self.narrowed or group not in self.folded:
                self.items += [(group, field) for field in found]
        if [_name(item) for item in before] == [_name(item) for item in self.items]:
            self._refresh_changed(before)
            return
        self.virtual_size = Size(0, len(self.items))
        self.cursor = self._place_after(keep, heading)
        self.refresh()

    def _refresh_changed(self, before: Sequence[_Line]) -> None:
        """Repaint the lines of other values, and the headings: they may count something anew."""
        for place, (old, new) in enumerate(zip(before, self.items, strict=True)):
            if old != new or new[1] is None:
                self.refresh_place(place)

    def _place_after(self, keep: FormField | None, heading: str) -> int:
        """Where the cursor goes in new lines: to its field, else to the heading of its group."""
        place = self.place_of(keep.id) if keep is not None else None
        if place is None and heading and (keep is not None or self.cursor):
            place = self.heading_of(heading)
        if place is None:
            place = 1 if keep is None and self.cursor == 0 else self.cursor
        return max(0, min(place, len(self.items) - 1))

    def _found(self) -> dict[str, list[FormField]]:
        """The fields to show by group: those whose name matches, else whose help does."""
        fields = [field for field in self.fields if field.changed or not self.only_changed]
        words = self.wanted.casefold().split()
        by_name = [field for field in fields if _matches(field, words, help_too=False)]
        by_help = [] if by_name else [f for f in fields if _matches(f, words, help_too=True)]
        groups: dict[str, list[FormField]] = {}
        for field in by_name or by_help:
            groups.setdefault(field.group, []).append(field)
        return groups

    def place_of(self, id: str) -> int | None:
        """The line of a field; None while it is folded away."""
        return next(
            (i for i, (_, f) in enumerate(self.items) if f is not None and f.id == id), None
        )

    def heading_of(self, group: str) -> int | None:
        """The line of a group's heading; None where no field of it is shown."""
        return next((i for i, item in enumerate(self.items) if item == (group, None)), None)

    @property
    def current(self) -> FormField | None:
        if 0 <= self.cursor < len(self.items):
            return self.items[self.cursor][1]
        return None

    @property
    def group(self) -> str:
        """The group that the cursor is in."""
        return self.items[self.cursor][0] if 0 <= self.cursor < len(self.items) else ""

    def put(self, field: FormField) -> None:
        """Put in another value for a field and repaint its line."""
        self.fields = [field if known.id == field.id else known for known in self.fields]
        for place, (group, known) in enumerate(self.items):
            if known is not None and known.id == field.id:
                self.items[place] = (group, field)
                self.refresh_place(place)

    def refresh_place(self, place: int) -> None:
        y = place - int(self.scroll_offset.y)
        if 0 <= y < self.size.height:
            self.refresh(Region(0, y, self.size.width, 1))

    # -- drawing -----------------------------------------------------------------------------

    @property
    def label_width(self) -> int:
        return min(self._longest, max(12, self.size.width // 3))

    @property
    def value_x(self) -> int:
        return 3 + self.label_width + 2

    @property
    def value_width(self) -> int:
        return max(10, min(44, (self.size.width - self.value_x) * 3 // 5))

    def render_line(self, y: int) -> Strip:
        place = y + int(self.scroll_offset.y)
        width = self.scrollable_content_region.width
        plain = self.get_component_rich_style("form--label")
        if place >= len(self.items):
            words = "   no field like that; esc shows all" if self.narrowed and not place else ""
            return Strip([Segment(words, self._ink("note", plain))]).adjust_cell_length(
                width, plain
            )
        group, field = self.items[place]
        ground = plain
        if place == self.cursor:
            blurred = "" if self.has_focus else "-blurred"
            ground = self.get_component_rich_style(f"form--cursor{blurred}")
        line = self._group_line(group, ground) if field is None else self._field_line(field, ground)
        return Strip(line).adjust_cell_length(width, ground)

    def _ink(self, name: str, ground: Style) -> Style:
        """A part's colour on the line's ground; the focused cursor keeps one colour."""
        found = self.get_component_rich_style(f"form--{name}")
        if ground == self.get_component_rich_style("form--cursor"):
            return ground + Style(bold=found.bold)
        return ground + Style(color=found.color, bold=found.bold)

    def _group_line(self, group: str, ground: Style) -> list[Segment]:
        hidden = group in self.folded and not self.narrowed
        found = [Segment(f" {'▸' if hidden else '▾'} {group}", self._ink("group", ground))]
        if not hidden:
            return found
        inside = [field for field in self.fields if field.group == group]
        found.append(Segment(f"   {_inside(inside)}", self._ink("note", ground)))
        for severity in ("error", "warning"):
            count = sum(field.severity == severity for field in inside)
            if count:
                told = f"   {SIGNS[severity]} {count}"
                found.append(Segment(told, self._ink(severity, ground)))
        return found

    def _field_line(self, field: FormField, ground: Style) -> list[Segment]:
        mark = "•" if field.changed else " "
        room = self.value_width
        if field.severity or field.idle:  # the news: it may begin right behind a short value
            room = min(room, max(12, cell_len(value_text(field))))
        value = fit_cell(value_text(field), room)
        name = field.severity if field.severity in ("error", "warning", "advice") else "note"
        rest = self.size.width - self.value_x - room - 4
        words = field.note if field.severity else field.idle or field.note
        note = f"{SIGNS[field.severity]} {words}" if words else SIGNS[field.severity]
        strong = "idle" if field.idle else "changed" if field.changed else "value"
        return [
            Segment(f" {mark} ", self._ink("changed", ground)),
            Segment(
                fit_cell(field.label, self.label_width) + "  ",
                self._ink("idle", ground) if field.idle else ground,
            ),
            Segment(value, self._ink(strong, ground)),
            Segment("  ", ground),
            Segment(fit_cell(note, max(1, rest)), self._ink(name, ground)),
        ]

    # -- moving ------------------------------------------------------------------------------

    def validate_cursor(self, cursor: int) -> int:
        return max(0, min(cursor, len(self.items) - 1))

    def watch_cursor(self, old: int, new: int) -> None:
        if not self._keep_cursor_visible():
            self.refresh_place(old)
            self.refresh_place(new)
        self.tell()

    def tell(self) -> None:
        """Say where the cursor is."""
        if self.current is not None:
            self.post_message(FormList.FieldHighlighted(self.current.id))
        elif self.group:
            self.post_message(FormList.GroupHighlighted(self.group))

    def _keep_cursor_visible(self) -> bool:
        """Scroll so that the cursor is on screen, with its heading where that is next to it."""
        top, page = int(self.scroll_offset.y), self.size.height
        if not page:
            return False
        above = (
            self.cursor - 1
            if self.cursor and self.items[self.cursor - 1][1] is None
            else self.cursor
        )
        target = above if above < top else max(top, self.cursor - page + 1)
        if target == top:
            return False
        self.scroll_to(y=target, animate=False, force=True)
        return True

    def on_resize(self) -> None:
        self._keep_cursor_visible()
        self.refresh()

    def action_up(self) -> None:
        self.cursor -= 1

    def action_down(self) -> None:
        self.cursor += 1

    def action_page_up(self) -> None:
        self.cursor -= max(1, self.size.height - 1)

    def action_page_down(self) -> None:
        self.cursor += max(1, self.size.height - 1)

    def action_first(self) -> None:
        self.cursor = 0

    def action_last(self) -> None:
        self.cursor = len(self.items) - 1

    def action_edit(self) -> None:
        if self.current is None:
            self.action_fold()
        elif self.current.kind == "text":
            self.form.open_editor()
        elif self.current.kind == "lines":
            self.post_message(FormList.LinesWanted(self.current.id, self.current.value))
        else:
            self.action_next()

    def action_search(self) -> None:
        self.form.open_search()

    def action_fold(self) -> None:
        self.fold(self.group, self.group not in self.folded)

    def fold(self, group: str, folded: bool) -> None:
        """Fold or unfold a group; the cursor comes to its heading."""
        if not group or self.narrowed or (group in self.folded) == folded:
            return
        self.folded ^= {group}
        self.cursor = self.heading_of(group) or 0
        self.lay_out()

    def action_fold_all(self) -> None:
        if self.folded:
            self._folds_before = set(self.folded)
            self.folded = set()
        else:
            groups = {field.group for field in self.fields}
            self.folded = self._folds_before or groups
        self.lay_out()

    def action_group_after(self) -> None:
        self._to_heading(range(self.cursor + 1, len(self.items)))

    def action_group_before(self) -> None:
        self._to_heading(range(self.cursor - 1, -1, -1))

    def _to_heading(self, places: range) -> None:
        self.cursor = next((i for i in places if self.items[i][1] is None), self.cursor)

    def action_only_changed(self) -> None:
        self.narrow(self.wanted, not self.only_changed)

    def narrow(self, wanted: str, only_changed: bool) -> None:
        """Show only the fields that a search finds, or that are changed; the first is at hand."""
        self.wanted, self.only_changed = wanted, only_changed
        self.lay_out()
        if self.narrowed and self.current is None:
            self.cursor = 1
        self.tell()
        self.post_message(FormList.Narrowed(wanted, only_changed, self._field_count()))

    def _field_count(self) -> int:
        return sum(field is not None for _, field in self.items)

    def action_next(self) -> None:
        if self.current is None:
            self.fold(self.group, False)
        else:
            self._step(1)

    def action_back(self) -> None:
        if self.current is None:
            self.fold(self.group, True)
        else:
            self._step(-1)

    def _step(self, by: int) -> None:
        field = self.current
        if field is None:
            return
        if field.kind == "flag":
            value = "false" if field.value.casefold() in _TRUE else "true"
        elif field.kind == "choice" and field.choices:
            known = field.choices.index(field.value) if field.value in field.choices else -by
            value = field.choices[(known + by) % len(field.choices)]
        else:
            return
        self.put(replace(field, value=value))
        self.post_message(self.Changed(field, value))

    def on_click(self, event: events.Click) -> None:
        place = event.y + int(self.scroll_offset.y)
        if place < len(self.items):
            again = place == self.cursor
            self.cursor = place
            if again:
                self.action_edit()


def _name(line: _Line) -> tuple[str, str]:
    return line[0], line[1].id if line[1] is not None else ""


def _matches(field: FormField, words: Sequence[str], help_too: bool) -> bool:
    text = f"{field.group} {field.label} {field.id} {field.words if help_too else ''}".casefold()
    return all(word in text for word in words)


def _inside(fields: Sequence[FormField]) -> str:
    """What a folded group holds, and why where nothing of it has an effect."""
    changed = sum(field.changed for field in fields)
    told = f"{len(fields)} fields" + (f", {changed} changed" if changed else "")
    reasons = {field.idle for field in fields}
    if "" in reasons:
        return told
    return f"{told} · {reasons.pop() if len(reasons) == 1 else 'none has an effect now'}"


def value_text(field: FormField) -> str:
    """A value as the form shows it."""
    if field.kind == "flag":
        return "● on" if field.value.casefold() in _TRUE else "○ off"
    if field.kind == "choice":
        return f"‹ {field.value} ›"
    if field.kind == "lines":
        return " ".join(field.value.split()) or "–"
    return field.value or "–"


class FormList(Container):
    """A form: plain fields in, ``FieldEdited`` out."""

    DEFAULT_CSS = """
    FormList { layers: lines editor; height: 1fr; width: 1fr; }
    FormList > FormLines { layer: lines; }
    FormList > Input {
        layer: editor; display: none; position: absolute; height: 1; border: none; padding: 0;
        background: $surface; color: $foreground;
    }
    FormList > Input:focus { border: none; background: $surface; text-style: none; }
    """

    @dataclass
    class FieldEdited(Message):
        """The person settled a value."""

        id: str
        text: str

    @dataclass
    class FieldTyping(Message):
        """A value as it is being typed; answer with ``annotate``."""

        id: str
        text: str

    @dataclass
    class FieldHighlighted(Message):
        """The cursor came to a field; where it was before is no news any more."""

        id: str

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, FormList.FieldHighlighted)

    @dataclass
    class GroupHighlighted(Message):
        """The cursor came to a group's heading."""

        name: str

    @dataclass
    class LinesWanted(Message):
        """The person wants to edit a text of some lines; settle it with a ``FieldEdited``."""

        id: str
        text: str

    @dataclass
    class Narrowed(Message):
        """The search, or "changed only", shows ``count`` fields; all where neither is on."""

        words: str
        only_changed: bool
        count: int

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.page = FormLines()
        self.editor = Input(id="form-editor", compact=True)
        self.editor.cursor_blink = False
        self._editing: FormField | None = None
        self._searching = False

    def compose(self) -> ComposeResult:
        yield self.page
        yield self.editor

    # -- what the screen calls ---------------------------------------------------------------

    def show(self, fields: Sequence[FormField]) -> None:
        """Show these fields; cursor, folds and an open editor stay."""
        self.page.set_fields(fields)

    def fold(self, groups: Iterable[str]) -> None:
        """Fold these groups, and only them."""
        self.page.folded = set(groups)
        self.page.lay_out()

    def update_field(self, field: FormField) -> None:
        self.page.put(field)

    def annotate(self, id: str, severity: Severity, note: str) -> None:
        """Put a sign and a sentence behind a field."""
        for field in self.page.fields:
            if field.id == id:
                self.page.put(replace(field, severity=severity, note=note))

    def go_to(self, id: str) -> None:
        """Put the cursor on a field; its group unfolds, and a search that hides it ends."""
        for field in self.page.fields:
            if field.id == id:
                self.page.folded.discard(field.group)
        self.page.lay_out()
        if self.page.place_of(id) is None:
            self.page.narrow("", False)
        place = self.page.place_of(id)
        if place is not None:
            self.page.cursor = place

    @property
    def current(self) -> FormField | None:
        return self.page.current

    # -- the editor --------------------------------------------------------------------------

    def open_search(self) -> None:
        """Open the line that finds fields."""
        bottom = self.content_size.height - 1
        self._searching = True
        self._open(0, bottom, self.content_size.width, self.page.wanted, "find a field")

    def open_editor(self) -> None:
        """Open the editor over the value at the cursor."""
        field = self.page.current
        if field is not None:
            self._editing = field
            y = self.page.cursor - int(self.page.scroll_offset.y)
            self._open(self.page.value_x, y, self.page.value_width + 2, field.value, "")

    def _open(self, x: int, y: int, width: int, value: str, hint: str) -> None:
        self.editor.styles.offset = (x, y)
        self.editor.styles.width = width
        self.editor.placeholder = hint
        self.editor.value = value
        self.editor.cursor_position = len(value)
        self.editor.display = True
        # At once: Widget.focus waits for its turn, and a key typed ahead would go astray.
        self.screen.set_focus(self.editor, scroll_visible=False)

    def _close(self) -> None:
        self._editing, self._searching = None, False
        self.editor.display = False
        self.screen.set_focus(self.page, scroll_visible=False)

    @on(Input.Changed, "#form-editor")
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        if self._searching:
            self.page.narrow(event.value, self.page.only_changed)
        elif self._editing is not None:
            self.post_message(self.FieldTyping(self._editing.id, event.value))

    @on(Input.Submitted, "#form-editor")
    def _settled(self, event: Input.Submitted) -> None:
        event.stop()
        field = self._editing
        self._close()
        if field is not None:
            self.post_message(self.FieldEdited(field.id, event.value))

    @on(FormLines.Changed)
    def _chosen(self, message: FormLines.Changed) -> None:
        message.stop()
        self.post_message(self.FieldEdited(message.field.id, message.value))

    async def on_key(self, event: events.Key) -> None:
        if not self.editor.has_focus:
            if event.key == "escape" and self.page.narrowed:
                event.stop()
                self.page.narrow("", False)
            return
        if event.key == "escape":
            event.stop()
            self._cancel()
        elif event.key in ("tab", "down") and self._editing is not None:
            event.stop()
            event.prevent_default()
            await self.editor.action_submit()
            self.call_later(self.page.action_down)

    def _cancel(self) -> None:
        field = self._editing
        if self._searching:
            self.page.narrow("", self.page.only_changed)
        self._close()
        if field is not None:  # what was typed so far counts no more
            self.post_message(self.FieldTyping(field.id, field.value))
            self.page.put(field)
