"""All evaluations and runs of the workspace: open one, mark some to compare, export, ask again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.message import Message

from finetui.errors import UserError
from finetui.evaluation import report
from finetui.evaluation.catalogue import metric
from finetui.evaluation.figures import compute
from finetui.evaluation.joined import JoinedRecord
from finetui.evaluation.record import of_job
from finetui.evaluation.results import Difference
from finetui.evaluation_wish import main_subject
from finetui.tui import figures
from finetui.tui.actions import Action, register
from finetui.tui.lookout import JobLine
from finetui.tui.messages import OpenJob
from finetui.tui.screens import evaluate_view
from finetui.tui.screens.lines import MARKS
from finetui.tui.screens.page import Page
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import Column, ListSource, TableRow, Tone, VirtualTable

_LETTERS = "ABCDEF"
_TONES: dict[str, Tone] = {"finished": "good", "failed": "error", "interrupted": "error"}
COLUMNS = (
    Column("", 1),
    Column("name", weight=1.0, low=16),
    Column("what", 4),
    Column("state", 11, tone=True),
    Column("when", 12),
    Column("what came out", weight=3.0, low=16),
)


_DIFFERENCES = (
    Column("", 1, tone=True),
    Column("set", 12),
    Column("figure", weight=1.0, low=14),
    Column("A", 8, "right"),
    Column("B", 8, "right"),
    Column("B less A, 95 %", 30, "right", tone=True),
    Column("p, Holm", 7, "right"),
    Column("rows", 6, "right"),
)
_MARK = "space marks evaluations to compare"


@dataclass
class Matched(Message):
    """The marked evaluations compared: two row by row, more of them beside each other."""

    paths: tuple[Path, ...]
    rows: list[report.ComparedRow] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    error: str = ""


class EvaluationsPage(Page["OpenJob | None"]):
    """Dismisses with a job to show, or None."""

    PARTS = ("records", "matched")
    KEYS = "enter show · space mark to compare · tab the comparison · esc close"
    BINDINGS: ClassVar = register(
        Action("evaluations.mark", "space", "mark", "Compare this evaluation with other marked."),
    )
    DEFAULT_CSS = """
    EvaluationsPage #records { height: 1fr; min-height: 5; }
    EvaluationsPage #matched { height: 1fr; min-height: 5; }
    """

    def __init__(self, jobs: Sequence[JobLine], chosen: Path | None = None) -> None:
        super().__init__("evaluations and runs")
        kinds = ("evaluate", "train")
        self.jobs = [job for kind in kinds for job in jobs if job.kind == kind]
        self.marked: list[Path] = []
        self._chosen = chosen

    def body(self) -> ComposeResult:
        yield VirtualTable(COLUMNS, id="records", classes="panel", empty="no evaluation yet")
        yield VirtualTable(id="matched", classes="panel", empty=_MARK)

    def on_mount(self) -> None:
        self._show()
        places = [job.path for job in self.jobs]
        if self._chosen in places:
            self.table("records").go_to(places.index(self._chosen))
        entitle(self.table("matched"), "comparison")

    def _show(self) -> None:
        table = self.table("records")
        table.show(ListSource([self._row(job) for job in self.jobs]))
        marked = f"{len(self.marked)} marked" if self.marked else ""
        entitle(table, "newest first, evaluations before training runs", marked)

    def _row(self, job: JobLine) -> TableRow:
        letter = _LETTERS[self.marked.index(job.path)] if job.path in self.marked else ""
        sign, _ = MARKS.get(job.state, ("?", ""))
        what = "eval" if job.kind == "evaluate" else "run"
        cells = (letter, job.slug, what, f"{sign} {job.state}", figures.day(job.created),
                 job.sentence)  # fmt: skip
        return TableRow(cells, _TONES.get(job.state, "warning"))

    @property
    def current(self) -> JobLine | None:
        place = self.table("records").cursor
        return self.jobs[place] if place < len(self.jobs) else None

    @on(VirtualTable.RowSelected, "#records")
    def _opened(self) -> None:
        if self.current is not None:
            self.dismiss(OpenJob(self.current.path))

    def action_mark(self) -> None:
        job = self.current
        if job is None:
            return
        if job.kind != "evaluate":
            self.say("Runs are compared on the Train screen (R); mark evaluations here.")
            return
        if job.path in self.marked:
            self.marked.remove(job.path)
        elif len(self.marked) == len(_LETTERS):
            self.say(f"{len(_LETTERS)} are as many as fit beside each other.")
            return
        else:
            self.marked.append(job.path)
        self._show()
        self._match(tuple(self.marked))

    @work(thread=True, group="matched", exclusive=True, exit_on_error=False)
    def _match(self, paths: tuple[Path, ...]) -> None:
        records = [of_job(path) for path in paths]
        try:
            if len(records) == 2:
                sides = [(record, main_subject(record.manifest())) for record in records]
                found = compute(JoinedRecord(*sides))
                self.post_message(Matched(paths, differences=found.differences))
            else:
                rows = report.compare(records) if len(records) > 2 else []
                self.post_message(Matched(paths, rows))
        except UserError as error:
            self.post_message(Matched(paths, error=str(error)))

    @on(Matched)
    def _matched(self, message: Matched) -> None:
        if message.paths != tuple(self.marked):
            return
        if message.error:
            self.say(message.error, "error")
        letters = _LETTERS[: len(message.paths)]
        table = self.table("matched")
        table.empty = "space marks another one to compare with" if letters else _MARK
        if len(letters) == 2:
            rows = [_difference_row(one) for one in message.differences]
            table.show(ListSource(rows), _DIFFERENCES)
        else:
            columns = [Column("set", 12), Column("figure", weight=1, low=16),
                       *(Column(letter, 24, "right") for letter in letters)]  # fmt: skip
            table.show(ListSource([_matched_row(row) for row in message.rows]), columns)
        names = [f"{letter} {path.name.split('-', 3)[-1]}"
                 for letter, path in zip(letters, message.paths, strict=True)]  # fmt: skip
        entitle(table, " · ".join(["comparison", *names]),
                "the rows that both answered, paired" if len(letters) == 2 else "")  # fmt: skip


def _matched_row(row: report.ComparedRow) -> TableRow:
    return TableRow((row.set, metric(row.metric).title, *row.values))


def _difference_row(one: Difference) -> TableRow:
    row = evaluate_view.difference_row(one)
    return TableRow((row.cells[0], one.set, *row.cells[1:]), row.tone)
