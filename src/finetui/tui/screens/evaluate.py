"""The Evaluate screen: who answers better, by how much and how surely; worst rows first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message

from finetui.errors import UserError
from finetui.evaluation import repairs
from finetui.jobs.folder import Job
from finetui.tui.actions import Action, register
from finetui.tui.lookout import JobLine
from finetui.tui.loop import ACTIVE
from finetui.tui.messages import OpenData, OpenJob
from finetui.tui.screens import evaluate_view, lines
from finetui.tui.screens.evaluate_again import AgainPane
from finetui.tui.screens.evaluate_figures import FiguresPage
from finetui.tui.screens.evaluate_list import EvaluationsPage
from finetui.tui.screens.evaluate_rows import CHANGES, Look, Row, View, read_view
from finetui.tui.screens.evaluate_steps import StepsPage, has_steps
from finetui.tui.widgets.dialogs import Choose, TextPrompt
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import Column, TableRow, VirtualTable
from finetui.tui.widgets.textpanel import TextPanel

COLUMNS = (
    Column("change", 8, tone=True),
    Column("", 1),
    Column("asked", weight=1.4, low=16),
    Column("base answered", low=14),
    Column("tuned answered", low=14),
)
EMPTY = "No comparison yet.\nA finished run or evaluation is shown here; n starts an evaluation."
NO_ROWS = "No rows to compare yet.\nThey show when the evaluation has ended."
LOW = 28
"""Rows below which the scores take two lines a set."""
_LOOK_EVERY_S = 1.0
_KINDS = ("train", "evaluate")


class RowsSource:
    """The rows of a view that pass the filter."""

    def __init__(self, rows: tuple[Row, ...], repaired: frozenset[str]) -> None:
        self.rows, self.repaired = rows, repaired

    @property
    def row_count(self) -> int:
        return len(self.rows)

    def row(self, index: int) -> TableRow:
        row = self.rows[index]
        return evaluate_view.row(row, row.id in self.repaired)


class EvaluatePane(AgainPane):
    """Reads what a finished job wrote; nothing is generated or scored here."""

    FOCUS = "#rows"
    BINDINGS: ClassVar = register(
        Action("evaluate.repair", "a", "repair", "Put this row on the repair list.", show=True),
        Action("evaluate.filter", "f", "filter", "Only broken, wrong, fixed or right rows.",
               show=True),
        Action("evaluate.set", "t", "next set", "The next set of rows.", show=True),
        Action("evaluate.figures", "v", "figures",
               "All figures: differences, slices, confusion, speed.", show=True),
        Action("evaluate.open", "o", "open", "Another evaluation or run; compare several.",
               show=True),
        Action("evaluate.start", "n", "new",
               "Start an evaluation: base, tuned and others on held-out rows and suites.",
               writes=True),
        Action("evaluate.find", "slash", "find", "Only rows that hold these words."),
        Action("evaluate.other", "c", "compare with", "Choose who is compared with the base."),
        Action("evaluate.checkpoints", "p", "checkpoints", "The figures over the checkpoints."),
        Action("evaluate.export", "e", "export", "A report as Markdown, HTML or JSON.",
               writes=True),
        Action("evaluate.again", "R", "run again",
               "Ask the same again, from the manifest (asks first).", writes=True),
        Action("evaluate.stop", "x", "stop", "Stop a running evaluation (asks first).",
               writes=True),
        Action("evaluate.data", "enter", "data", "Show this row in the Data screen."),
        Action("evaluate.watch", "w", "curves", "Show the curves of this run."),
    )  # fmt: skip
    DEFAULT_CSS = """
    EvaluatePane #scores { }
    EvaluatePane #body { height: 1fr; }
    EvaluatePane #rows { height: 1fr; min-height: 5; }
    EvaluatePane #asked { height: auto; max-height: 8; }
    EvaluatePane #sides { height: 10; }
    EvaluatePane #base, EvaluatePane #tuned, EvaluatePane #wanted { width: 1fr; padding: 0 1; }
    .-short EvaluatePane #sides { height: 7; }
    .-short EvaluatePane #asked { max-height: 4; }
    .-wide EvaluatePane #sides { height: 14; }
    """

    @dataclass
    class Compared(Message):
        """What was read of a job, or why it could not be."""

        job: Path
        view: View
        error: str = ""

    @dataclass
    class Repaired(Message):
        """A row was put on the repair list, or why it was not."""

        row: str
        added: bool
        error: str = ""

    def __init__(self) -> None:
        super().__init__()
        self.job: Job | None = None
        self.view = View()
        self.only = ""
        self.words = ""
        self.rows: tuple[Row, ...] = ()
        self._state = ""

    def compose(self) -> ComposeResult:
        yield TextPanel(id="scores", classes="panel")
        with Vertical(id="body"):
            yield VirtualTable(COLUMNS, empty=EMPTY, id="rows", classes="panel")
            with VerticalScroll(id="asked", classes="panel"):
                yield TextPanel(wrap=True, id="asked-text")
            with Horizontal(id="sides"):
                for id in ("wanted", "base", "tuned"):
                    with VerticalScroll(id=id, classes="panel"):
                        yield TextPanel(wrap=True, id=f"{id}-text")

    def on_mount(self) -> None:
        self.query_one("#asked").border_title = "asked"
        self.query_one("#wanted").border_title = "reference"
        self._show()
        self.watch(self.app, "jobs", self._jobs_seen)
        self.set_interval(_LOOK_EVERY_S, self._look)

    # -- which job -------------------------------------------------------------------------------

    def shown(self) -> None:
        self._jobs_seen(self.shell.jobs)
        if self.job is not None:
            self.compare()

    def receive(self, request: object) -> None:
        if isinstance(request, OpenJob):
            self.open(request.path)

    def open(self, path: Path) -> None:
        """Show a training run's own comparison, or an evaluation."""
        self.job = Job(path)
        self.view, self.only, self.words, self._state = View(), "", "", ""
        self.progress = ""
        self._show()
        self.compare()

    @property
    def line(self) -> JobLine | None:
        """What the look-out says of the job on screen."""
        if self.job is None:
            return None
        return next((job for job in self.shell.jobs if job.path == self.job.path), None)

    def _jobs_seen(self, jobs: tuple[JobLine, ...]) -> None:
        """Take the newest finished job until the person has chosen one; read it anew at its end."""
        finished = [job for job in jobs if job.kind in _KINDS and job.state == "finished"]
        if self.job is None and finished and self.active:
            self.open(finished[0].path)
        line = self.line
        if line is None or not self.active:
            return
        ended = self._state not in ("", line.state)
        self._state = line.state
        if ended:
            self.compare()
        elif self.view.figures is None:
            self.show_scores()

    def _look(self) -> None:
        """See how far a running evaluation is; the look-out tells only when a state changes."""
        line = self.line
        if self.active and line is not None and line.kind == "evaluate" and line.state in ACTIVE:
            self.follow(Job(line.path))

    def action_open(self) -> None:
        jobs = [job for job in self.shell.jobs if job.kind in _KINDS]
        if not jobs:
            self.say("There is no run yet.", "warning")
            return

        def chosen(request: OpenJob | None) -> None:
            if request is not None:
                self.open(request.path)

        here = self.job.path if self.job else None
        self.app.push_screen(EvaluationsPage(jobs, here), chosen)

    def action_watch(self) -> None:
        if self.job is None:
            return
        if self.job.kind == "train":
            self.go("train", OpenJob(self.job.path))
        else:
            self.say("An evaluation has no curves; p shows it over the checkpoints.")

    # -- comparing -------------------------------------------------------------------------------

    def compare(self, look: Look | None = None) -> None:
        """Read a set and two subjects of the job; by default those on screen."""
        if self.workspace is not None and self.job is not None:
            self._compare_in_thread(self.job.path, self.workspace.root, look or self.view.look)

    @work(thread=True, exit_on_error=False, group="compare", exclusive=True)
    def _compare_in_thread(self, path: Path, root: Path, look: Look) -> None:
        view, error = View(repaired=repairs.rows(root)), ""
        try:
            view = read_view(path, root, look)
        except UserError as problem:
            error = str(problem)
        self.post_message(self.Compared(path, view, error))

    @on(Compared)
    def _compared(self, message: Compared) -> None:
        if not self.children:
            return  # the screen is being left, the thread's answer came late
        if self.job is None or message.job != self.job.path:
            return
        if message.error:
            self.complain(message.error)
        same = message.view == self.view
        self.view = message.view
        if not same or self.view.empty:
            self._show()

    # -- what is shown ---------------------------------------------------------------------------

    def _show(self) -> None:
        self.show_scores()
        self.rows = tuple(row for row in self.view.rows if self._passes(row))
        table = self.query_one("#rows", VirtualTable)
        waiting = NO_ROWS if self.view.figures is None else "no row was answered by both"
        table.empty = EMPTY if self.view.empty else waiting
        before, after = self.view.before, self.view.look.after
        headed = (replace(COLUMNS[3], title=f"{before} answered"),
                  replace(COLUMNS[4], title=f"{after} answered"))  # fmt: skip
        table.show(RowsSource(self.rows, self.view.repaired), (*COLUMNS[:3], *headed))
        entitle(table, self._title())
        entitle(self.query_one("#base"), before)
        entitle(self.query_one("#tuned"), after)
        self._show_row()

    def show_scores(self) -> None:
        panel = self.query_one("#scores", TextPanel)
        width = panel.content_size.width or 76
        panel.show(lines.join(self._scores(width)))
        entitle(
            panel,
            f"{self.view.before} against {self.view.look.after}",
            self.job.slug if self.job else "",
        )

    def _scores(self, width: int) -> list[Content]:
        low = self.size.height < LOW
        if self.view.figures is not None:
            return evaluate_view.record_scores(self.view, width, low)
        if self.view.comparisons:
            return evaluate_view.run_scores(self.view, width, low)
        return [Content.styled(self._state_words(), "$muted")]

    def _state_words(self) -> str:
        """Why there is nothing to see yet."""
        line = self.line
        if self.job is None:
            return "nothing to compare yet"
        if self.job.kind != "evaluate" or line is None:
            return "this run has no answers yet"
        if line.state in ACTIVE and self.progress:
            return f"{line.state} · {self.progress}"
        return f"{line.state} · {line.sentence}"

    def _passes(self, row: Row) -> bool:
        return (not self.only or row.change == self.only) and row.has(self.words)

    def _title(self) -> str:
        kept = f"{len(self.rows):,} of {len(self.view.rows):,} rows"
        words = f"“{self.words}”" if self.words else ""
        parts = [self.view.title, kept, self.view.judged_by, self.only, words]
        return " · ".join(part for part in parts if part)

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    @on(VirtualTable.RowHighlighted, "#rows")
    def _show_row(self) -> None:
        row = self.row
        shown: dict[str, Content] = {id: Content("") for id in ("asked", "wanted", "base", "tuned")}
        if row is not None:
            shown["asked"] = lines.chat(row.prompt)
            shown["wanted"] = evaluate_view.answer_text(row.reference, "what was asked for")
            for place, id in enumerate(("base", "tuned")):
                shown[id] = evaluate_view.answer_text(row.answers[place], row.told[place])
        for id, text in shown.items():
            self.query_one(f"#{id}-text", TextPanel).show(text)
            self.query_one(f"#{id}").scroll_home(animate=False)
        asked = self.query_one("#asked")
        entitle(asked, subtitle=_row_name(row) if row else "")
        if row is not None:
            self.call_after_refresh(asked.scroll_end, animate=False)

    @property
    def row(self) -> Row | None:
        """The row under the cursor."""
        cursor = self.query_one("#rows", VirtualTable).cursor
        return self.rows[cursor] if cursor < len(self.rows) else None

    # -- what a person can look at ---------------------------------------------------------------

    def action_filter(self) -> None:
        order = ("", *CHANGES)
        self.only = order[(order.index(self.only) + 1) % len(order)]
        self._show()

    def action_find(self) -> None:
        def typed(words: str | None) -> None:
            if words is not None:
                self.words = words
                self._show()

        self.app.push_screen(TextPrompt("Find rows", self.words, "Empty shows all."), typed)

    def action_set(self) -> None:
        names = self.view.sets
        if len(names) > 1:
            name = names[(names.index(self.view.look.set) + 1) % len(names)]
            self.compare(replace(self.view.look, set=name))
        else:
            self.say("This run has one set of answers only.")

    def action_other(self) -> None:
        view = self.view
        if len(view.others) < 2:
            self.say("There is nobody else to compare with.")
            return

        def chosen(name: str | None) -> None:
            if name is not None:
                self.compare(replace(view.look, after=name))

        options = [(name, name) for name in view.others]
        question = f"Compare {view.before} with whom?"
        self.app.push_screen(Choose(question, options, view.look.after), chosen)

    def action_figures(self) -> None:
        if self.job is None or not self.view.rows:
            self.say("There are no answers yet.", "warning")
            return
        self.app.push_screen(FiguresPage(self.job.path, self.view))

    def action_checkpoints(self) -> None:
        if self.job is None or self.view.figures is None or not has_steps(self.view):
            self.say("No checkpoint was evaluated: n starts one with checkpoints on.")
            return
        self.app.push_screen(StepsPage(self.job.path, self.view))

    # -- what a person can do with a row ---------------------------------------------------------

    def action_repair(self) -> None:
        row = self.row
        if row is None or self.workspace is None or self.job is None:
            return
        entry = {
            "change": row.change,
            "prompt": row.prompt,
            "reference": row.reference,
            "answer": row.answers[1],
            "job": self.job.id,
        }
        self._repair_in_thread(self.workspace.root, row.id, entry)

    @work(thread=True, exit_on_error=False, group="repair")
    def _repair_in_thread(self, root: Path, row: str, entry: dict[str, object]) -> None:
        try:
            self.post_message(self.Repaired(row, repairs.add(root, row, entry)))
        except UserError as error:
            self.post_message(self.Repaired(row, False, str(error)))

    @on(Repaired)
    def _repaired(self, message: Repaired) -> None:
        if message.error:
            self.complain(message.error)
            return
        self.view = replace(self.view, repaired=self.view.repaired | {message.row})
        table = self.query_one("#rows", VirtualTable)
        table.show(RowsSource(self.rows, self.view.repaired))
        on_list = f"{len(self.view.repaired)} on the list, {repairs.FILE}"
        self.say(f"{'Added' if message.added else 'Was there already'}: {on_list}.")

    @on(VirtualTable.RowSelected, "#rows")
    def action_data(self) -> None:
        row = self.row
        if row is None or self.job is None:
            return
        file, _, line = row.id.rpartition(":")
        path = self._file_of(file)
        if path is None or not line.isdecimal():
            self.say("The row's file is not there any more.", "warning")
            return
        self.go("data", OpenData(path, (int(line) - 1,), f"{row.change} in {self.job.slug}"))

    def _file_of(self, name: str) -> Path | None:
        """The file a row came from: as named, or the job's own path to a file of this name."""
        if self.job is None:
            return None
        known = self.view.manifest.files if self.view.manifest else _recipe_files(self.job)
        paths = [
            Path(name),
            *(Path(path) for path in known if path and Path(path).name == Path(name).name),
        ]
        if self.workspace is not None:
            paths.append(self.workspace.root / name)
        return next((path for path in paths if path.is_absolute() and path.is_file()), None)


def _recipe_files(job: Job) -> list[str]:
    """The files whose rows a training run answered."""
    recipe = job.recipe()
    return [
        recipe.get("data", {}).get("eval", ""),
        recipe.get("evaluation", {}).get("suite", ""),
    ]


def _row_name(row: Row) -> str:
    file, _, line = row.id.rpartition(":")
    return f"{Path(file).name} line {line}" if file else row.id
