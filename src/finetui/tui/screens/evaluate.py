"""The Evaluate screen: base against tuned on the held-out rows, worst rows first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message

from finetui.errors import UserError
from finetui.evaluation import repairs
from finetui.evaluation.compare import Comparison, Pair, compare_job
from finetui.jobs.folder import Job
from finetui.tui.actions import Action, register
from finetui.tui.lookout import JobLine
from finetui.tui.messages import OpenData, OpenJob
from finetui.tui.pane import ModePane
from finetui.tui.screens import evaluate_view, lines
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
EMPTY = "No comparison yet.\nA finished run with held-out data is shown here."
LOW = 28
"""Rows below which the scores take two lines a set."""
TITLES = {"outputs": "held-out", "suite": "general check"}


class PairSource:
    """The rows of a comparison that pass the filter."""

    def __init__(self, pairs: tuple[Pair, ...], repaired: frozenset[str]) -> None:
        self.pairs, self.repaired = pairs, repaired

    @property
    def row_count(self) -> int:
        return len(self.pairs)

    def row(self, index: int) -> TableRow:
        pair = self.pairs[index]
        return evaluate_view.row(pair, pair.after.id in self.repaired)


class EvaluatePane(ModePane):
    """Reads what a finished job wrote; nothing is generated or scored here."""

    FOCUS = "#rows"
    BINDINGS: ClassVar = register(
        Action("evaluate.repair", "a", "repair", "Put this row on the repair list.", show=True),
        Action("evaluate.filter", "f", "filter", "Only broken, wrong, fixed or right rows.",
               show=True),
        Action("evaluate.find", "slash", "find", "Only rows that hold these words.", show=True),
        Action("evaluate.set", "t", "check", "Held-out rows or the general check.", show=True),
        Action("evaluate.run", "o", "run", "Compare another run.", show=True),
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
        """Both comparisons of a job, or why there are none."""

        job: Path
        found: dict[str, Comparison]
        repaired: frozenset[str]
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
        self.found: dict[str, Comparison] = {}
        self.repaired: frozenset[str] = frozenset()
        self.set = "outputs"
        self.only = ""
        self.words = ""
        self.pairs: tuple[Pair, ...] = ()

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
        self.query_one("#scores").border_title = "base against tuned"
        self.query_one("#wanted").border_title = "reference"
        for id in ("asked", "base", "tuned"):
            self.query_one(f"#{id}").border_title = id
        self._show()
        self.watch(self.app, "jobs", self._jobs_seen)

    # -- which run -------------------------------------------------------------------------------

    def shown(self) -> None:
        self._jobs_seen(self.shell.jobs)
        if self.job is not None:
            self.compare(self.job)

    def receive(self, request: object) -> None:
        if isinstance(request, OpenJob):
            self.open(request.path)

    def open(self, path: Path) -> None:
        """Compare base and tuned model of a job."""
        self.job = Job(path)
        self.found, self.only, self.words, self.set = {}, "", "", "outputs"
        self.compare(self.job)

    def _jobs_seen(self, jobs: tuple[JobLine, ...]) -> None:
        """Take the newest finished run until the person has chosen one."""
        finished = [job for job in jobs if job.kind == "train" and job.state == "finished"]
        if self.job is None and finished and self.active:
            self.open(finished[0].path)

    def action_run(self) -> None:
        runs = [job for job in self.shell.jobs if job.kind == "train"]
        if not runs:
            self.say("There is no run yet.", "warning")
            return
        options = [(str(job.path), f"{job.slug} · {job.state} · {job.sentence}") for job in runs]

        def chosen(path: str | None) -> None:
            if path is not None:
                self.open(Path(path))

        self.app.push_screen(Choose("Which run?", options), chosen)

    def action_watch(self) -> None:
        if self.job is not None:
            self.go("train", OpenJob(self.job.path))

    # -- comparing -------------------------------------------------------------------------------

    def compare(self, job: Job) -> None:
        if self.workspace is not None:
            self._compare_in_thread(job.path, self.workspace.root)

    @work(thread=True, exit_on_error=False, group="compare", exclusive=True)
    def _compare_in_thread(self, path: Path, root: Path) -> None:
        found: dict[str, Comparison] = {}
        error = ""
        try:
            for name in TITLES:
                comparison = compare_job(path, name)
                if comparison is not None:
                    found[name] = comparison
        except UserError as problem:
            error = str(problem)
        self.post_message(self.Compared(path, found, repairs.rows(root), error))

    @on(Compared)
    def _compared(self, message: Compared) -> None:
        if not self.children:
            return  # the screen is being left, the thread's answer came late
        if self.job is None or message.job != self.job.path:
            return
        if message.error:
            self.complain(message.error)
        same = message.found == self.found and message.repaired == self.repaired
        self.found, self.repaired = message.found, message.repaired
        if self.set not in self.found and self.found:
            self.set = next(iter(self.found))
        if not same or not self.found:
            self._show()

    # -- what is shown ---------------------------------------------------------------------------

    def _show(self) -> None:
        panel = self.query_one("#scores", TextPanel)
        width = panel.content_size.width or 76
        panel.show(self._scores(width))
        entitle(panel, subtitle=self.job.slug if self.job else "")
        self.pairs = tuple(pair for pair in self._all() if self._passes(pair))
        table = self.query_one("#rows", VirtualTable)
        table.show(PairSource(self.pairs, self.repaired))
        entitle(table, self._title())
        self._show_pair()

    def _scores(self, width: int) -> Content:
        if not self.found:
            words = "nothing to compare yet" if self.job is None else "this run has no answers yet"
            return Content.styled(words, "$muted")
        told = []
        for name, comparison in self.found.items():
            if self.size.height < LOW:
                told += evaluate_view.brief_scores(TITLES[name], comparison)
            else:
                told += evaluate_view.scores(TITLES[name], comparison, width)
        return lines.join(told)

    def _all(self) -> tuple[Pair, ...]:
        comparison = self.found.get(self.set)
        return comparison.rows if comparison else ()

    def _passes(self, pair: Pair) -> bool:
        if self.only and pair.change != self.only:
            return False
        texts = (evaluate_view.last_user(pair.after.prompt), pair.before.answer,
                 pair.after.answer, pair.after.reference)  # fmt: skip
        whole = " ".join(texts).casefold()
        return all(word in whole for word in self.words.casefold().split())

    def _title(self) -> str:
        kept = f"{len(self.pairs):,} of {len(self._all()):,} rows"
        parts = [TITLES[self.set], kept, self.only, f"“{self.words}”" if self.words else ""]
        return " · ".join(part for part in parts if part)

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    @on(VirtualTable.RowHighlighted, "#rows")
    def _show_pair(self) -> None:
        pair = self.pair
        shown: dict[str, Content] = {id: Content("") for id in ("asked", "wanted", "base", "tuned")}
        if pair is not None:
            base, tuned = pair.before, pair.after
            shown["asked"] = lines.chat(tuned.prompt)
            shown["wanted"] = evaluate_view.answer_text(tuned.reference, "what was asked for")
            for id, side in (("base", base), ("tuned", tuned)):
                told = evaluate_view.judged(side.format, side.correct)
                shown[id] = evaluate_view.answer_text(side.answer, told)
        for id, text in shown.items():
            self.query_one(f"#{id}-text", TextPanel).show(text)
            self.query_one(f"#{id}").scroll_home(animate=False)
        asked = self.query_one("#asked")
        entitle(asked, subtitle=self._row_name(pair) if pair else "")
        if pair is not None:
            self.call_after_refresh(asked.scroll_end, animate=False)

    @property
    def pair(self) -> Pair | None:
        """The row under the cursor."""
        cursor = self.query_one("#rows", VirtualTable).cursor
        return self.pairs[cursor] if cursor < len(self.pairs) else None

    def _row_name(self, pair: Pair) -> str:
        file, _, line = pair.after.id.rpartition(":")
        return f"{Path(file).name} line {line}" if file else pair.after.id

    # -- what a person can do --------------------------------------------------------------------

    def action_filter(self) -> None:
        order = ("", *evaluate_view.CHANGES)
        self.only = order[(order.index(self.only) + 1) % len(order)]
        self._show()

    def action_find(self) -> None:
        def typed(words: str | None) -> None:
            if words is not None:
                self.words = words
                self._show()

        self.app.push_screen(TextPrompt("Find rows", self.words, "Empty shows all."), typed)

    def action_set(self) -> None:
        names = list(self.found)
        if len(names) > 1:
            self.set = names[(names.index(self.set) + 1) % len(names)]
            self._show()
        else:
            self.say("This run has one set of answers only.")

    def action_repair(self) -> None:
        pair = self.pair
        if pair is None or self.workspace is None or self.job is None:
            return
        entry = {
            "change": pair.change,
            "prompt": pair.after.prompt,
            "reference": pair.after.reference,
            "answer": pair.after.answer,
            "job": self.job.id,
        }
        self._repair_in_thread(self.workspace.root, pair.after.id, entry)

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
        self.repaired |= {message.row}
        table = self.query_one("#rows", VirtualTable)
        table.show(PairSource(self.pairs, self.repaired))
        on_list = f"{len(self.repaired)} on the list, {repairs.FILE}"
        self.say(f"{'Added' if message.added else 'Was there already'}: {on_list}.")

    @on(VirtualTable.RowSelected, "#rows")
    def action_data(self) -> None:
        pair = self.pair
        if pair is None or self.job is None:
            return
        file, _, line = pair.after.id.rpartition(":")
        path = self._held_out(file)
        if path is None or not line.isdecimal():
            self.say("The row's file is not there any more.", "warning")
            return
        self.go("data", OpenData(path, (int(line) - 1,), f"{pair.change} in {self.job.slug}"))

    def _held_out(self, name: str) -> Path | None:
        """The file a row came from: as named, or the recipe's own path to a file of this name."""
        if self.job is None:
            return None
        recipe = self.job.spec().get("recipe", {})
        known = [
            recipe.get("data", {}).get("eval", ""),
            recipe.get("evaluation", {}).get("suite", ""),
        ]
        paths = [
            Path(name),
            *(Path(path) for path in known if path and Path(path).name == Path(name).name),
        ]
        return next((path for path in paths if path.is_absolute() and path.is_file()), None)
