"""Near-duplicates side by side: choose by rule or by hand which row of each cluster stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.message import Message

from finetui.data import alike, merge
from finetui.data.dataset import DataSet
from finetui.data.findings import Cluster
from finetui.data.strict import RowError
from finetui.display import plural
from finetui.errors import UserError
from finetui.tui.actions import Action, register
from finetui.tui.screens import data_view
from finetui.tui.screens.page import Page
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.record import RecordView
from finetui.tui.widgets.table import Column, ListSource, TableRow, VirtualTable

_MOST = 5000  # clusters that are listed


@dataclass
class Clustered(Message):
    """The clusters of the set, or ``error`` says why there are none."""

    clusters: tuple[Cluster, ...] = ()
    error: str = ""


@dataclass
class Progressed(Message):
    done: int
    total: int

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, Progressed)


class AlikePage(Page["tuple[str, list[int]] | None"]):
    """Dismisses with (title, rows) to show, or None."""

    PARTS = ("clusters", "members", "member")
    KEYS = "l longest · f first · n newest · enter keep this · A all · esc close"
    BINDINGS: ClassVar = register(
        Action(
            "alike.longest", "l", "longest", "Keep the longest row of this cluster.", writes=True
        ),
        Action(
            "alike.first", "f", "first", "Keep the row that comes first in the file.", writes=True
        ),
        Action(
            "alike.newest", "n", "newest", "Keep the row that comes last in the file.", writes=True
        ),
        Action("alike.all", "A", "all", "Keep the longest row of every cluster.", writes=True),
        Action("alike.undo", "u", "undo", "Undo the last choice.", writes=True),
        Action("alike.show", "s", "show rows", "Show this cluster's rows in the table."),
    )
    DEFAULT_CSS = """
    AlikePage #clusters { height: 2fr; min-height: 5; }
    AlikePage #members { height: 1fr; min-height: 5; }
    AlikePage #member { height: 2fr; min-height: 5; }
    """

    def __init__(self, data: DataSet, changed: Callable[[], None]) -> None:
        super().__init__(f"near-duplicates · {data.path.name}")
        self.data, self._changed = data, changed
        self.clusters: list[Cluster] = []
        self._stop = Event()

    def body(self) -> ComposeResult:
        yield VirtualTable(
            [Column("rows", 6, "right"), Column("alike", 6, "right"), Column("left", 5, "right"),
             Column("the first of them", weight=1)],
            id="clusters", classes="panel", empty="comparing every row with every other …",
        )  # fmt: skip
        yield VirtualTable(
            [Column("line", 9, "right"), Column("", 1, tone=True), Column("length", 8, "right"),
             Column("asked", weight=1.2), Column("answer", weight=1)],
            id="members", classes="panel",
        )  # fmt: skip
        yield RecordView(id="member", classes="panel")

    def on_mount(self) -> None:
        for name, title in (("clusters", "clusters"), ("members", "rows of this cluster"),
                            ("member", "row")):  # fmt: skip
            entitle(self.query_one(f"#{name}"), title)
        self._look()

    def on_unmount(self) -> None:
        self._stop.set()

    @work(thread=True, group="alike", exclusive=True, exit_on_error=False)
    def _look(self) -> None:
        def tell(done: int, total: int) -> None:
            self.post_message(Progressed(done, total))

        try:
            found = alike.near_clusters(self.data, progress=tell, stop=self._stop.is_set)
        except UserError as error:
            self.post_message(Clustered(error=str(error)))
        except alike.StoppedError:
            return
        else:
            self.post_message(Clustered(tuple(found)))

    @on(Progressed)
    def _progressed(self, message: Progressed) -> None:
        if message.total:
            share = f"{message.done / message.total:.0%} compared"
            entitle(self.query_one("#clusters"), None, share)

    @on(Clustered)
    def _clustered(self, message: Clustered) -> None:
        table = self.table("clusters")
        table.empty = message.error or "no two rows are alike"
        self.clusters = sorted(message.clusters, key=lambda each: (-len(each.rows), each.rows))
        self._show()

    # -- showing -----------------------------------------------------------------------------

    def _show(self) -> None:
        table = self.table("clusters")
        before = table.cursor
        table.show(ListSource([self._row(cluster) for cluster in self.clusters[:_MOST]]))
        table.go_to(min(before, max(0, len(self.clusters) - 1)))
        rows = sum(len(cluster.rows) for cluster in self.clusters)
        told = f"{plural(len(self.clusters), 'cluster')} of {plural(rows, 'row')}"
        entitle(table, None, told if self.clusters else "")
        self._show_members()

    def _row(self, cluster: Cluster) -> TableRow:
        left = sum(self.data.state(row).kept for row in cluster.rows)
        asked, _ = self._said(cluster.rows[0])
        cells = (f"{len(cluster.rows):,}", f"{cluster.similarity:.0%}", f"{left:,}", asked)
        return TableRow(cells, "muted" if left < 2 else "")

    def _said(self, row: int) -> tuple[str, str]:
        try:
            cells = data_view.cells_of(self.data.value(row), self.data.shape)
        except RowError:
            return self.data.text(row)[:300], ""
        return cells[-2] if len(cells) > 1 else cells[0], cells[-1]

    def _show_members(self) -> None:
        cluster = self._current()
        rows = []
        for row in cluster.rows if cluster else ():
            kept = self.data.state(row).kept
            asked, answer = self._said(row)
            cells = (f"{self.data.source.line(row):,}", " " if kept else "D",
                     f"{len(self.data.raw(row)):,}", asked, answer)  # fmt: skip
            rows.append(TableRow(cells, "" if kept else "dropped"))
        table = self.table("members")
        table.show(ListSource(rows))
        self._show_member(min(table.cursor, max(0, len(rows) - 1)))

    def _show_member(self, place: int) -> None:
        cluster = self._current()
        view = self.query_one(RecordView)
        if cluster is None or place >= len(cluster.rows):
            view.show([])
            return
        row = cluster.rows[place]
        view.show(data_view.blocks_of(self.data, row, ()))
        entitle(view, f"line {self.data.source.line(row):,}", "")

    def _current(self) -> Cluster | None:
        place = self.table("clusters").cursor
        return self.clusters[place] if place < len(self.clusters) else None

    @on(VirtualTable.RowHighlighted)
    def _moved(self, message: VirtualTable.RowHighlighted) -> None:
        message.stop()
        if message.table.id == "clusters":
            self._show_members()
        else:
            self._show_member(message.row)

    @on(VirtualTable.RowSelected, "#clusters")
    def _opened(self) -> None:
        self.turn_to("members")

    # -- choosing ----------------------------------------------------------------------------

    @on(VirtualTable.RowSelected, "#members")
    def _kept_by_hand(self, message: VirtualTable.RowSelected) -> None:
        cluster = self._current()
        if cluster is not None and message.row < len(cluster.rows):
            self._keep([cluster], cluster.rows[message.row])

    def action_longest(self) -> None:
        self._keep_here("longest")

    def action_first(self) -> None:
        self._keep_here("first")

    def action_newest(self) -> None:
        self._keep_here("newest")

    def _keep_here(self, rule: Any) -> None:
        cluster = self._current()
        if cluster is not None:
            self._keep([cluster], rule)
            self.table("clusters").action_down()

    def action_all(self) -> None:
        self._keep(self.clusters, "longest")

    def _keep(self, clusters: list[Cluster], keep: Any) -> None:
        """One step: the others of each cluster are dropped, one that was dropped comes back."""
        out = [row for cluster in clusters for row in merge.choose(self.data, cluster, keep)]
        try:
            if isinstance(keep, int):
                self.data.restore([keep])
            count = self.data.drop(out, reason="near-duplicate") if out else 0
        except UserError as error:
            self.say(str(error), "error")
            return
        self._show()
        self._changed()
        self.say(f"{plural(count, 'row')} dropped. u takes it back.")

    def action_undo(self) -> None:
        try:
            said = self.data.undo()
        except UserError as error:
            self.say(str(error), "error")
            return
        self._show()
        self._changed()
        self.say(said or "There is nothing to undo.")

    def action_show(self) -> None:
        cluster = self._current()
        if cluster is not None:
            self.dismiss((f"{len(cluster.rows)} rows alike", list(cluster.rows)))
