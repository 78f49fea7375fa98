"""Versions: what was written from the data, which runs used it, and what differs between two."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.content import Content

from finetui.display import clean, plural
from finetui.errors import UserError
from finetui.tui.actions import Action, register
from finetui.tui.commanding import command_lines
from finetui.tui.screens.lines import marked
from finetui.tui.screens.page import Page
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import Column, ListSource, TableRow, Tone, VirtualTable
from finetui.tui.widgets.textpanel import TextPanel
from finetui.workspace import Workspace

_SIGNS: dict[str, tuple[str, Tone]] = {
    "added": ("+", "good"),
    "removed": ("-", "error"),
    "edited": ("~", "edited"),
    "moved": (">", "muted"),
}
_MOST = 20_000  # differences that are listed


class VersionsPage(Page["Path | None"]):
    """Dismisses with a data file to open, or None."""

    PARTS = ("versions", "changes")
    KEYS = "enter open · d compare · v verify · esc close"
    BINDINGS: ClassVar = register(
        Action("versions.compare", "d", "compare", "With the version below it, or the marked one."),
        Action("versions.choose", "space", "mark", "Mark a version to compare others with."),
        Action(
            "versions.verify",
            "v",
            "verify",
            "Compare its files with the manifest.",
        ),
    )
    DEFAULT_CSS = """
    VersionsPage #versions { height: 2fr; min-height: 5; }
    VersionsPage #told { height: 2; color: $muted; }
    VersionsPage #changes { height: 3fr; min-height: 5; }
    VersionsPage #before, VersionsPage #after { height: 5; border: round $line; }
    """

    def __init__(self, workspace: Workspace) -> None:
        super().__init__("versions")
        self.workspace = workspace
        self.versions: list[dict[str, Any]] = []
        self.changes: list[dict[str, Any]] = []
        self.chosen = ""

    def body(self) -> ComposeResult:
        yield VirtualTable(
            [Column("", 1, tone=True), Column("version", 12), Column("written", 16),
             Column("name", weight=1), Column("rows", weight=1.4), Column("used by", weight=1)],
            id="versions", classes="panel", empty="none yet: w writes one, s splits",
        )  # fmt: skip
        yield TextPanel(wrap=True, id="told")
        yield VirtualTable(
            [Column("", 1, tone=True), Column("line", 18), Column("row", weight=1)],
            id="changes", classes="panel", empty="d compares two versions row by row",
        )  # fmt: skip
        yield TextPanel(wrap=True, id="before")
        yield TextPanel(wrap=True, id="after")

    def on_mount(self) -> None:
        for name, title in (("versions", "newest first"), ("changes", "differences"),
                            ("before", "before"), ("after", "after")):  # fmt: skip
            entitle(self.query_one(f"#{name}"), title)
        self._list()

    # -- listing -----------------------------------------------------------------------------

    @work(group="versions", exclusive=True, exit_on_error=False)
    async def _list(self) -> None:
        found = await self._ask("versions", "--json")
        if found is not None:
            self.versions = found
            self._show()

    async def _ask(self, *arguments: str) -> list[dict[str, Any]] | None:
        """The JSON lines of a command; None when it could not run, which is said."""
        try:
            told = command_lines([*arguments, "-w", str(self.workspace.root)])
            async with aclosing(told):
                return [line async for line in told]
        except UserError as error:
            self._tell(str(error), "$error")
            return None

    def _show(self) -> None:
        table = self.table("versions")
        before = table.cursor
        rows = []
        for version in self.versions:
            counts = ", ".join(f"{name} {count:,}" for name, count in version["rows"].items())
            cells = ("●" if version["id"] == self.chosen else " ", version["id"],
                     version["created"][:16].replace("T", " "), version["name"], counts,
                     ", ".join(version["used_by"]) or "no run")  # fmt: skip
            rows.append(TableRow(cells, "" if version["used_by"] else "muted"))
        table.show(ListSource(rows))
        table.go_to(min(before, max(0, len(rows) - 1)))

    def _tell(self, words: str, style: str = "") -> None:
        self.query_one("#told", TextPanel).show(Content.styled(clean(words), style))

    def _current(self) -> dict[str, Any] | None:
        place = self.table("versions").cursor
        return self.versions[place] if place < len(self.versions) else None

    @on(VirtualTable.RowSelected, "#versions")
    def _opened(self) -> None:
        version = self._current()
        if version is None:
            return
        folder = Path(version["path"])
        for name in ("train.jsonl", "data.jsonl"):
            if (folder / name).is_file():
                self.dismiss(folder / name)
                return

    def action_choose(self) -> None:
        version = self._current()
        if version is not None:
            self.chosen = "" if self.chosen == version["id"] else version["id"]
            self._show()

    # -- comparing ---------------------------------------------------------------------------

    def action_compare(self) -> None:
        version = self._current()
        if version is None:
            return
        place = self.table("versions").cursor
        other = self.chosen
        if not other or other == version["id"]:
            below = self.versions[place + 1 :]
            other = below[0]["id"] if below else ""
        if not other:
            self._tell("There is no older version to compare with.")
            return
        self._tell(f"comparing {other} with {version['id']} …")
        self._compare(other, version["id"])

    @work(group="versions", exclusive=True, exit_on_error=False)
    async def _compare(self, before: str, after: str) -> None:
        found = await self._ask("versions", "diff", before, after, "--json")
        if not found:
            return
        counts = found.pop()["counts"]
        told = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
        self._tell(f"from {before} to {after}: {told or 'every row is the same'}")
        self.changes = found
        rows = []
        for change in found[:_MOST]:
            sign, tone = _SIGNS[change["kind"]]
            place = change["after"] or change["before"]
            words = (change["new"] or change["old"] or "")[:300]
            rows.append(TableRow((sign, f"{place['file']}:{place['line']}", words), tone))
        self.table("changes").show(ListSource(rows))
        entitle(self.query_one("#changes"), None, plural(len(found), "row"))
        self._show_change(0)
        self.turn_to("changes")

    @on(VirtualTable.RowHighlighted, "#changes")
    def _moved(self, message: VirtualTable.RowHighlighted) -> None:
        message.stop()
        self._show_change(message.row)

    def _show_change(self, place: int) -> None:
        change = self.changes[place] if place < len(self.changes) else {}
        old, new = (change.get("old") or "")[:4000], (change.get("new") or "")[:4000]
        self.query_one("#before", TextPanel).show(marked(old, new, "$error"))
        self.query_one("#after", TextPanel).show(marked(new, old, "$success"))

    # -- verifying ---------------------------------------------------------------------------

    def action_verify(self) -> None:
        version = self._current()
        if version is not None:
            self._tell(f"reading {version['id']} …")
            self._verify(version["id"])

    @work(group="versions", exclusive=True, exit_on_error=False)
    async def _verify(self, version: str) -> None:
        for told in await self._ask("versions", "verify", version, "--json") or ():
            if told["good"]:
                self._tell(f"{told['id']}: every file is as it was written", "$success")
            else:
                wrong = ", ".join(map(str, told["wrong"]))
                self._tell(f"{told['id']} is not as it was written: {wrong}", "$error")
