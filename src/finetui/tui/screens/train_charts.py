"""The charts of a run: what each draws, which of them a person wants, and the page to choose."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec
from textual import on
from textual.app import ComposeResult

from finetui.display import clean
from finetui.errors import BROKEN
from finetui.settings import user_file
from finetui.tui import figures
from finetui.tui.actions import Action, register
from finetui.tui.screens.page import Page
from finetui.tui.widgets.drawing import Line, Mark
from finetui.tui.widgets.table import Column, ListSource, TableRow, VirtualTable
from finetui.workspace import write_atomic

if TYPE_CHECKING:
    from finetui.jobs.monitor import Snapshot

COLOURS = ("$series-1", "$series-2", "$series-3", "$series-4",
           "$success", "$error", "$accent", "$muted")  # fmt: skip
FIGURES, EVAL_FIGURES = "figures.", "eval_figures."
_MARKS_SHOWN = 500
"""The newest guards, requests and checkpoints each that are drawn."""
_STOPPING = ("stop", "stopped")


def size_label(value: float) -> str:
    """Bytes in little room."""
    return figures.size(value).replace(".0 ", "").replace(" ", "")


def _rate(value: float) -> str:
    return figures.compact(value).replace(" ", "")


def _percent(value: float) -> str:
    return f"{value * 100:.3g}%"


def _busy(value: float) -> str:
    return f"{value:.0f}%"


def _watts(value: float) -> str:
    return f"{value:.0f}W"


def _degrees(value: float) -> str:
    return f"{value:.0f}°C"


@dataclass(frozen=True, slots=True)
class ChartKind:
    """One chart: its lines, each with the curve of a snapshot that it draws. A chart of the
    ``device`` is drawn over time, and has its lines from the samples of the machine."""

    id: str
    title: str
    help: str
    lines: tuple[tuple[Line, str], ...] = ()
    device: bool = False
    smoothed: bool = False
    low: float | None = None
    high: float | None = None
    form: Callable[[float], str] | None = None


def _steps(id: str, title: str, help: str, curve: str, colour: str, **options: object) -> ChartKind:
    return ChartKind(id, title, help, ((Line("now", colour), curve),), **options)  # type: ignore[arg-type]


KINDS: dict[str, ChartKind] = {
    kind.id: kind
    for kind in (
        ChartKind("loss", "loss", "training, held-out and general probe", (
            (Line("train"), "loss"),
            (Line("eval", "$series-2", points=True), "eval_loss"),
            (Line("probe", "$series-4", points=True), "probe_loss"),
        ), smoothed=True),
        _steps("gradient", "gradient norm", "before clipping", "grad_norm", "$series-1", low=0.0),
        _steps("rate", "learning rate", "as the schedule has it", "lr", "$series-3", low=0.0),
        _steps("speed", "tokens a second", "trained and masked ones", "tokens_per_s",
               "$series-3", low=0.0, form=_rate),
        _steps("share", "supervised share", "trained tokens of all tokens", "supervised_share",
               "$series-2", low=0.0, form=_percent),
        _steps("pace", "seconds a step", "without evaluations and saves", "step_s", "$series-2",
               low=0.0),
        _steps("memory", "memory of the run", "on the device", "memory", "$series-4", low=0.0,
               form=size_label),
        _steps("resident", "host memory of the run", "resident, of the worker", "rss",
               "$series-4", low=0.0, form=size_label),
        ChartKind("gpu-memory", "GPU memory", "in use by everybody", device=True, low=0.0,
                  form=size_label),
        ChartKind("gpu-busy", "GPU utilisation", "share of the time it works", device=True,
                  low=0.0, high=100.0, form=_busy),
        ChartKind("gpu-power", "GPU power", "drawn now", device=True, low=0.0, form=_watts),
        ChartKind("gpu-heat", "GPU temperature", "of the chip", device=True, low=20.0,
                  form=_degrees),
        ChartKind("host-memory", "host memory", "in use by everybody", device=True, low=0.0,
                  form=size_label),
        ChartKind("cpu", "CPU", "share of all cores", device=True, low=0.0, high=100.0,
                  form=_busy),
        ChartKind("disk", "free disk", "where the workspace is", device=True, low=0.0,
                  form=size_label),
    )
}  # fmt: skip
"""Every chart by its name; figures of an objective come on top (see ``kind_of``)."""
DEFAULT = ("loss", "gradient", "rate", "speed", "memory", "gpu-memory", "gpu-busy", "share")


def kind_of(id: str) -> ChartKind | None:
    """A chart by its name; ``figures.NAME`` draws a figure of the objective, with its value at
    each evaluation."""
    if id in KINDS or not id.startswith(FIGURES):
        return KINDS.get(id)
    name = id.removeprefix(FIGURES)
    lines = (
        (Line("train", "$series-1"), id),
        (Line("eval", "$series-2", points=True), EVAL_FIGURES + name),
    )
    title = clean(name.replace("_", " "))
    return ChartKind(id, title, "a figure of the objective", lines, smoothed=True)


def offered(series: Iterable[str]) -> list[str]:
    """All charts that a run can show, its own figures before those of the machine."""
    own = sorted(name for name in series if name.startswith(FIGURES))
    names = [FIGURES + name.removeprefix(EVAL_FIGURES) for name in series
             if name.startswith(EVAL_FIGURES)]  # fmt: skip
    own += sorted(name for name in names if name not in own)
    fixed = list(KINDS.values())
    runs = [kind.id for kind in fixed if not kind.device]
    return [*runs, *own, *(kind.id for kind in fixed if kind.device)]


def marks_of(snapshot: Snapshot) -> tuple[Mark, ...]:
    """Checkpoints, requests and guards of a run in the order of their steps."""
    found = [Mark(each.step, "▴", "muted", f"checkpoint at step {each.step:,}")
             for each in snapshot.checkpoints[-_MARKS_SHOWN:]]  # fmt: skip
    found += [Mark(each.step, "◆", "info", each.text or each.verb.replace("_", " "), "*")
              for each in snapshot.controls[-_MARKS_SHOWN:]]  # fmt: skip
    for guard in snapshot.guards[-_MARKS_SHOWN:]:
        tone = "error" if guard.action in _STOPPING else "warning"
        found.append(Mark(guard.step, "!", tone, guard.text or guard.guard, "!"))
    return tuple(sorted(found, key=lambda mark: mark.x))


# -- which of them are wanted ----------------------------------------------------------------


def chosen_file() -> Path:
    """Where a person's choice of charts is kept, for all workspaces."""
    return user_file(os.environ).with_name("charts.json")


def load_chosen() -> tuple[str, ...]:
    """The kept choice; the usual charts where there is none, or none that can be read."""
    try:
        names = msgspec.json.decode(chosen_file().read_bytes(), type=list[str])
    except (OSError, *BROKEN):
        return DEFAULT
    return tuple(name for name in dict.fromkeys(names) if kind_of(name)) or DEFAULT


def keep_chosen(names: Sequence[str]) -> None:
    """Keep a choice for the next time. Raises OSError."""
    path = chosen_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(path, msgspec.json.encode(list(names)).decode() + "\n")


class ChartsPage(Page["tuple[str, ...] | None"]):
    """Which charts show, and in which order; the first one is the large one. Dismisses with it."""

    PARTS = ("charts",)
    KEYS = "space show/hide · J K move · d the usual · enter done · esc cancel"
    BINDINGS: ClassVar = register(
        Action("charts.switch", "space", "show/hide", "Show this chart, or leave it out."),
        Action("charts.later", "J", "later", "Show this chart after the next one."),
        Action("charts.earlier", "K", "earlier", "Show this chart before the one above."),
        Action("charts.usual", "d", "the usual", "Back to the charts that show by default."),
    )
    DEFAULT_CSS = """
    ChartsPage .page { width: 76; max-width: 100%; height: auto; max-height: 100%; }
    ChartsPage #charts { height: auto; max-height: 24; }
    """

    def __init__(self, chosen: Sequence[str], series: Iterable[str]) -> None:
        super().__init__("charts")
        self._shown = set(chosen)
        self._order = list(chosen) + [name for name in offered(series) if name not in chosen]

    def body(self) -> ComposeResult:
        columns = [Column("", 1), Column("chart", 26, tone=True), Column("what", weight=1)]
        yield VirtualTable(columns, id="charts", header=False)

    def on_mount(self) -> None:
        self.table("charts").styles.height = len(self._order)
        self._list()

    def _list(self) -> None:
        rows = []
        for name in self._order:
            kind = kind_of(name)
            if kind is not None:
                shown = name in self._shown
                cells = ("■" if shown else "□", kind.title, kind.help)
                rows.append(TableRow(cells, "" if shown else "muted"))
        self.table("charts").show(ListSource(rows))

    def action_switch(self) -> None:
        self._shown ^= {self._order[self.table("charts").cursor]}
        self._list()

    def action_later(self) -> None:
        self._move(1)

    def action_earlier(self) -> None:
        self._move(-1)

    def _move(self, by: int) -> None:
        table = self.table("charts")
        here, there = table.cursor, table.cursor + by
        if 0 <= there < len(self._order):
            order = self._order
            order[here], order[there] = order[there], order[here]
            self._list()
            table.go_to(there)

    def action_usual(self) -> None:
        self._shown = set(DEFAULT)
        self._order = [*DEFAULT, *(name for name in self._order if name not in DEFAULT)]
        self._list()

    @on(VirtualTable.RowSelected)
    def _done(self) -> None:
        chosen = tuple(name for name in self._order if name in self._shown)
        if chosen:
            self.dismiss(chosen)
        else:
            self.say("Choose one chart at least.", "warning")
