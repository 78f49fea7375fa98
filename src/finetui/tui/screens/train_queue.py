"""The queue for the GPUs of this machine: who has which one, and who waits, of all users."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from textual import on, work
from textual.app import ComposeResult
from textual.message import Message

from finetui.display import clean, plural
from finetui.jobs.devices import DeviceReader, GpuProcess
from finetui.jobs.leases import Lease, Overview, Ticket, overview
from finetui.tui import figures
from finetui.tui.lookout import JobLine
from finetui.tui.messages import OpenJob
from finetui.tui.screens.page import Page
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import Column, ListSource, TableRow, Tone, VirtualTable

_LOOK_EVERY_S = 2.0
GPU_COLUMNS = (
    Column("GPU", 4),
    Column("", 1, tone=True),
    Column("who has it", weight=2.0, low=20),
    Column("since", 7, "right"),
    Column("memory", 14, "right"),
    Column("name", 12),
)
WAIT_COLUMNS = (
    Column("", 3, "right"),
    Column("job", weight=2.0, low=20),
    Column("user", 10),
    Column("GPUs", 5, "right"),
    Column("waits", 7, "right"),
    Column("", 14, tone=True),
)


@dataclass
class Overviewed(Message):
    """The newest look at the leases."""

    found: Overview


class QueuePage(Page["OpenJob | None"]):
    """Dismisses with a job of this workspace to open, or None. It only reads."""

    PARTS = ("gpus", "waiters")
    KEYS = "enter open the job · tab next part · esc close"
    DEFAULT_CSS = """
    QueuePage #waiters { height: 1fr; min-height: 4; }
    QueuePage.-short .part { display: block; }
    """

    def __init__(self, rows: Sequence[JobLine]) -> None:
        super().__init__("GPU queue of this machine")
        self.own = {line.id: line for line in rows}
        self.found: Overview | None = None
        self._reader: DeviceReader | None = None

    def body(self) -> ComposeResult:
        yield VirtualTable(GPU_COLUMNS, id="gpus", classes="panel", empty="looking…")
        yield VirtualTable(WAIT_COLUMNS, id="waiters", classes="panel", empty="nobody waits")

    def on_mount(self) -> None:
        entitle(self.table("gpus"), "GPUs")
        entitle(self.table("waiters"), "who waits, first come first")
        self._look()
        self.set_interval(_LOOK_EVERY_S, self._look)

    def on_unmount(self) -> None:
        if self._reader is not None:
            self._reader.close()

    @work(thread=True, group="leases", exclusive=True, exit_on_error=False)
    def _look(self) -> None:
        if self._reader is None:
            self._reader = DeviceReader()
        self.post_message(Overviewed(overview(self._reader.sample())))

    @on(Overviewed)
    def _overviewed(self, message: Overviewed) -> None:
        self.found, now = message.found, time.time()
        gpus, waiters = self.table("gpus"), self.table("waiters")
        gpus.empty = clean(message.found.problem or "no GPU here: runs start at once")
        most = max(5, self.size.height // 2)
        gpus.styles.height = min(most, max(1, len(message.found.leases)) + 3)
        _renew(gpus, [lease_row(one, now) for one in message.found.leases])
        _renew(waiters, [waiter_row(place, one, now)
                         for place, one in enumerate(message.found.waiters, 1)])  # fmt: skip
        count = len(message.found.waiters)
        entitle(waiters, "who waits, first come first", plural(count, "job") if count else "")

    @on(VirtualTable.RowSelected)
    def _selected(self, message: VirtualTable.RowSelected) -> None:
        if self.found is None:
            return
        if message.control.id == "waiters":
            ticket: Ticket | None = self.found.waiters[message.row]
        else:
            ticket = self.found.leases[message.row].holder
        line = self.own.get(ticket.job) if ticket is not None else None
        if line is not None:
            self.dismiss(OpenJob(line.path))
        elif ticket is not None:
            self.say(f"{ticket.job} of {ticket.user} is not in this workspace.")


def _renew(table: VirtualTable, rows: list[TableRow]) -> None:
    """Show other rows; the cursor stays where it was."""
    here = table.cursor
    table.show(ListSource(rows))
    if rows:
        table.go_to(min(here, len(rows) - 1))


def lease_row(lease: Lease, now: float) -> TableRow:
    """One GPU: free, leased, shared, or used by processes that asked nobody."""
    gpu, holder = lease.gpu, lease.holder
    memory = f"{_gibibytes(gpu.memory_used)} of {_gibibytes(gpu.memory_total)} GiB"
    since = figures.duration(now - holder.t) if holder is not None else ""
    sign, tone, who = _standing(lease)
    return TableRow((str(gpu.index), sign, who, since, memory, gpu.name or ""), tone)


def _standing(lease: Lease) -> tuple[str, Tone, str]:
    strangers = [_process(one) for one in lease.strangers]
    if lease.gpu.problem:
        return "?", "warning", lease.gpu.problem
    users = [_owner(one) for one in (lease.holder, *lease.sharers) if one is not None]
    if lease.held and lease.holder is None:
        users.insert(0, "somebody who left no ticket")
    if users:
        return ("!" if strangers else "●"), "info", ", ".join([*users, *strangers])
    if strangers:
        return "!", "warning", f"no lease; {', '.join(strangers)}"
    return "○", "good", "free"


def _gibibytes(value: int | None) -> str:
    return figures.UNKNOWN if value is None else f"{value / 2**30:.0f}"


def _owner(ticket: Ticket) -> str:
    return f"{_named(ticket)} of {ticket.user}" + (" (shared)" if ticket.shares else "")


def _named(ticket: Ticket) -> str:
    """``train first-run``: the job's id without its time; the whole id of another form."""
    day, _, rest = ticket.job.partition("-")
    clock, _, name = rest.partition("-")
    return name.replace("-", " ", 1) if day.isdigit() and clock.isdigit() and name else ticket.job


def _process(process: GpuProcess) -> str:
    if process.pid == 0:
        return f"{figures.size(process.memory)} of nobody we can see"
    who = f" of {process.user}" if process.user else ""
    return f"{process.name or 'process'} {process.pid}{who} ({figures.size(process.memory)})"


def waiter_row(place: int, ticket: Ticket, now: float) -> TableRow:
    """One job that waits: its place, whose it is, how many GPUs it wants, and for how long."""
    quiet = f"silent for {figures.duration(ticket.silent_s)}" if ticket.silent_s > 60 else ""
    waited = figures.duration(now - ticket.t)
    tone: Tone = "warning" if quiet else ""
    return TableRow(
        (str(place), _named(ticket), ticket.user, str(ticket.wants), waited, quiet), tone
    )
