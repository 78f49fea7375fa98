"""All figures of an evaluation: differences with intervals, slices, confusion, speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.message import Message

from finetui.errors import UserError
from finetui.evaluation import labels, slices
from finetui.evaluation.catalogue import metric, present
from finetui.evaluation.figures import compute
from finetui.evaluation.record import Record
from finetui.evaluation.results import Figures
from finetui.evaluation.scoring import main_metric
from finetui.tui.actions import Action, register
from finetui.tui.screens import evaluate_view
from finetui.tui.screens.evaluate_rows import Look, View, record_of
from finetui.tui.screens.page import Page
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import Column, ListSource, VirtualTable
from finetui.tui.widgets.textpanel import TextPanel

_DIFFERENCES = (
    Column("", 1, tone=True),
    Column("figure", weight=1.0, low=14),
    Column("before", 8, "right"),
    Column("after", 8, "right"),
    Column("difference, 95 %", 30, "right", tone=True),
    Column("p, Holm", 7, "right"),
    Column("rows", 6, "right"),
)
_SLICES = (
    Column("", 1, tone=True),
    Column("value", weight=1.0, low=14),
    Column("before", 8, "right"),
    Column("after", 8, "right"),
    Column("difference, 95 %", 30, "right", tone=True),
    Column("rows", 7, "right"),
    Column("by", 10),
)
_SPEED = (
    Column("as", weight=1.0, low=7),
    Column("first", 7, "right"),
    Column("tok/s", 6, "right"),
    Column("pace over base", 17, "right"),
    Column("peak", 7, "right"),
)


@dataclass
class Taken(Message):
    """All figures, read or taken anew, or what was wrong."""

    figures: Figures | None
    error: str = ""


@dataclass
class Sliced(Message):
    """Slices and label pairs of the chosen set, or what was wrong."""

    look: Look
    metric: str = ""
    slices: Sequence[slices.Slice] = ()
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = field(default_factory=dict)
    error: str = ""


class FiguresPage(Page[None]):
    """Reads the record of one evaluation; takes the figures only where no job has."""

    PARTS = ("differences", "slices", "confusion", "speed")
    KEYS = "tab next part · t other set · s other side · l other label · esc close"
    BINDINGS: ClassVar = register(
        Action("figures.set", "t", "next set", "The figures of another set."),
        Action("figures.side", "s", "other side", "The confusion table of the other side."),
        Action("figures.label", "l", "next label", "The confusion table of another field."),
    )
    DEFAULT_CSS = """
    FiguresPage #differences { height: 3fr; min-height: 5; }
    FiguresPage #slices { height: 2fr; min-height: 5; }
    FiguresPage #low { height: 2fr; }
    FiguresPage #confusion, FiguresPage #speed { width: 1fr; height: 1fr; }
    """

    def __init__(self, job: Path, view: View) -> None:
        """``view`` says which set and which two subjects to begin with."""
        super().__init__(f"figures · {job.name.split('-', 3)[-1]}")
        self.record: Record = record_of(job)
        self.view, self.look = view, view.look
        self.pairs: dict[tuple[str, str], list[tuple[str, str]]] = {}
        self.side, self.label = 1, 0
        self.figures: Figures | None = None

    def body(self) -> ComposeResult:
        yield VirtualTable(_DIFFERENCES, id="differences", classes="panel",
                           empty="taking the figures…")  # fmt: skip
        yield VirtualTable(_SLICES, id="slices", classes="panel", empty="no column to slice by")
        with Horizontal(id="low", classes="part"):
            with VerticalScroll(id="confusion", classes="panel"):
                yield TextPanel(id="confusion-text")
            yield VirtualTable(_SPEED, id="speed", classes="panel",
                               empty="speed was not measured")  # fmt: skip

    def on_mount(self) -> None:
        entitle(self.table("speed"), "speed")
        self._take()
        self._slice(self.look)

    @work(thread=True, group="figures", exclusive=True, exit_on_error=False)
    def _take(self) -> None:
        try:
            self.post_message(Taken(self.view.figures or compute(self.record)))
        except UserError as error:
            self.post_message(Taken(None, str(error)))

    @on(Taken)
    def _taken(self, message: Taken) -> None:
        if message.figures is None:
            self.say(message.error, "error")
            return
        self.figures = message.figures
        rows = [evaluate_view.speed_row(one) for one in self.figures.latency]
        self.table("speed").show(ListSource(rows))
        self._show_differences()

    def _show_differences(self) -> None:
        """Every figure of the set, with its difference where one can be taken."""
        table, found, look = self.table("differences"), self.figures, self.look
        entitle(table, f"{look.set} · {self.view.before} → {look.after}",
                "▸ what the set is judged by · p by Holm over all figures")  # fmt: skip
        if found is None:
            return
        table.empty = "this set was not answered"
        before, after = (found.summaries.get(who, {}).get(look.set, {})
                         for who in (self.view.before, look.after))  # fmt: skip
        rows = []
        for name in sorted(
            dict.fromkeys([*before, *after]), key=lambda name: name != found.main.get(look.set)
        ):
            one = found.difference(look.set, name, look.after)
            if one is not None:
                rows.append(evaluate_view.difference_row(one))
            else:
                rows.append(evaluate_view.figure_row(name, before.get(name), after.get(name)))
        table.show(ListSource(rows))

    def turn_to(self, name: str) -> None:
        super().turn_to(name)
        self.query_one("#low").set_class(name in ("confusion", "speed"), "-here")

    # -- another set, side or label ----------------------------------------------------------

    def action_set(self) -> None:
        place = self.view.sets.index(self.look.set)
        name = self.view.sets[(place + 1) % len(self.view.sets)]
        self.look = Look(name, self.look.after)
        self._show_differences()
        self._slice(self.look)

    @work(thread=True, group="slices", exclusive=True, exit_on_error=False)
    def _slice(self, look: Look) -> None:
        try:
            scores = {who: self.record.scores(who, look.set)
                      for who in (self.view.before, look.after)}  # fmt: skip
            spec = self.record.manifest().spec(look.set)
            name = main_metric(spec, present(scores[look.after]))
            found = slices.table(self.record, look.set, self.view.before, look.after, name)
            pairs: dict[tuple[str, str], list[tuple[str, str]]] = {}
            for subject, rows in scores.items():
                for score in rows:
                    for field_name, pair in score.labels.items():
                        pairs.setdefault((subject, field_name), []).append(pair)
            self.post_message(Sliced(look, name, found, pairs))
        except UserError as error:
            self.post_message(Sliced(look, error=str(error)))

    @on(Sliced)
    def _sliced(self, message: Sliced) -> None:
        if message.look != self.look:
            return
        if message.error:
            self.say(message.error, "error")
        self.pairs, self.label = message.pairs, 0
        rows = [evaluate_view.slice_row(message.metric, one) for one in message.slices]
        self.table("slices").show(ListSource(rows))
        judged = metric(message.metric).title if message.metric else ""
        entitle(self.table("slices"), f"{self.look.set} · {judged} · slices, worst first")
        self._show_confusion()

    def action_side(self) -> None:
        self.side = 1 - self.side
        self._show_confusion()

    def action_label(self) -> None:
        self.label += 1
        self._show_confusion()

    def _show_confusion(self) -> None:
        """The table of one field: rows are what was wanted, columns what was given."""
        panel = self.query_one("#confusion-text", TextPanel)
        names = list(dict.fromkeys(name for _, name in self.pairs))
        if not names:
            panel.show(Content.styled("the answers of this set are no labels", "$muted"))
            entitle(self.query_one("#confusion"), "confusion", "")
            return
        name = names[self.label % len(names)]
        subject = (self.view.before, self.look.after)[self.side]
        found = labels.confusion(self.pairs.get((subject, name), []))
        panel.show(evaluate_view.confusion(found, self.query_one("#confusion").size.width - 4))
        words = f"confusion · {name or 'answer'} · {subject}"
        entitle(self.query_one("#confusion"), words, f"macro F1 {found.macro_f1:.2f}")
