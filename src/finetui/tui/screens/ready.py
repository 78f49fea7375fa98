"""The readiness page: is this set ready, what would trainers lose, and is tuning the right tool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.content import Content

from finetui.data import prices, questions
from finetui.display import clean, plural
from finetui.errors import UserError
from finetui.tui.actions import Action, register
from finetui.tui.commanding import command_lines
from finetui.tui.outside import edited_outside
from finetui.tui.screens.page import Page
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import Column, ListSource, TableRow, Tone, VirtualTable
from finetui.tui.widgets.textpanel import TextPanel
from finetui.workspace import Workspace

_SIGNS: dict[str, tuple[str, Tone]] = {
    "good": ("✓", "good"),
    "warn": ("!", "warning"),
    "bad": ("✗", "error"),
    "unknown": ("?", "muted"),
}
_WORDS = {
    "good": ("✓ ready to train on", "bold $success"),
    "warn": ("! ready, with a doubt", "bold $warning"),
    "unknown": ("? not everything is known", "bold $muted"),
    "bad": ("✗ not ready", "bold $error"),
}
_FATES = ("trained", "cut", "dropped", "stops")


class ReadyScreen(Page["tuple[str, list[int]] | None"]):
    """Dismisses with (title, rows) to show in the Data screen, or None."""

    PARTS = ("points", "trainers", "questions")
    KEYS = "y n u answer · tab parts · enter rows · esc close"
    BINDINGS: ClassVar = register(
        Action("ready.yes", "y", "yes", "Answer the question with yes.", show=True, writes=True),
        Action("ready.no", "n", "no", "Answer the question with no.", show=True, writes=True),
        Action(
            "ready.unsure", "u", "unsure", "Answer that nobody knows yet.", show=True, writes=True
        ),
        Action("ready.forget", "delete,x", "forget", "Take the answer back.", writes=True),
        Action(
            "ready.prices", "p", "prices", "Edit what providers charge, in $EDITOR.", writes=True
        ),
    )
    DEFAULT_CSS = """
    ReadyScreen #points { height: 4fr; min-height: 5; }
    ReadyScreen #why { height: 2; color: $muted; }
    ReadyScreen #trainers { height: 7; }
    ReadyScreen #questions { height: 5fr; min-height: 5; }
    ReadyScreen #costs { height: auto; max-height: 3; color: $muted; }
    """

    def __init__(self, workspace: Workspace, path: Path) -> None:
        super().__init__(f"readiness · {path.name}")
        self.workspace, self.path = workspace, path
        self.points: list[dict[str, Any]] = []
        self.fates: list[dict[str, Any]] = []
        self.given = questions.replies(workspace)

    def body(self) -> ComposeResult:
        yield TextPanel(id="state")
        yield VirtualTable(
            [Column("", 1, tone=True), Column("", 15), Column("", weight=1)],
            header=False, id="points", classes="panel", empty="reading …",
        )  # fmt: skip
        yield TextPanel(wrap=True, id="why")
        yield VirtualTable(
            [Column("trainer", 13), Column("limit", weight=1, low=12),
             *(Column(name, 8, "right") for name in _FATES)],
            id="trainers", classes="panel", empty="needs a model's tokenizer",
        )  # fmt: skip
        yield TextPanel(wrap=True, id="costs")
        yield VirtualTable(
            [Column("", 1, tone=True), Column("", 6), Column("", weight=1)],
            header=False, id="questions", classes="panel",
        )  # fmt: skip

    def on_mount(self) -> None:
        for name, title in (("points", "this set"), ("trainers", "what becomes of the rows"),
                            ("questions", "is tuning the right tool?")):  # fmt: skip
            entitle(self.query_one(f"#{name}"), title)
        self.query_one("#state", TextPanel).show(Content.styled("reading the set …", "$muted"))
        self._show_questions()
        self._look()

    def action_prices(self) -> None:
        """The table of prices in the person's editor; a faulty one is refused and not kept."""
        try:
            prices.read_prices(self.workspace)
            text = prices.prices_path(self.workspace).read_text("utf-8")
            prices.replace_prices(self.workspace, edited_outside(self.app, text, ".toml") + "\n")
        except (UserError, OSError) as error:
            self.say(str(error), "error")
        else:
            self._look()

    # -- reading -----------------------------------------------------------------------------

    @work(group="ready", exclusive=True, exit_on_error=False)
    async def _look(self) -> None:
        arguments = ["ready", "--json", "-w", str(self.workspace.root), "--", str(self.path)]
        try:
            async with aclosing(command_lines(arguments)) as told:
                async for page in told:
                    self._show(page)
        except UserError as error:
            state = Content.styled(clean(str(error)), "$error")
            self.query_one("#state", TextPanel).show(state)

    def _show(self, page: Mapping[str, Any]) -> None:
        self.points = list(page["points"])
        rows = [
            TableRow((_SIGNS[entry["state"]][0], entry["title"], entry["detail"]),
                     _SIGNS[entry["state"]][1])
            for entry in self.points
        ]  # fmt: skip
        self.query_one("#points", VirtualTable).show(ListSource(rows))
        words, style = _WORDS[page["state"]]
        self.query_one("#state", TextPanel).show(
            Content.assemble((words, style), (f"   {_told(page)}", "$muted"))
        )
        self._show_fates(page)
        self.query_one("#costs", TextPanel).show(_costs(page["costs"]))
        self._explain_point(0)

    def _show_fates(self, page: Mapping[str, Any]) -> None:
        self.fates = list(page["trainers"])
        about = "" if page["measure"]["exact"] else "≈ "
        rows = [
            TableRow(
                (entry["name"], entry["limit"], *(f"{about}{entry[kind]:,}" for kind in _FATES)),
                "warning" if entry["dropped"] or entry["stops"] else "",
            )
            for entry in self.fates
        ]
        self.query_one("#trainers", VirtualTable).show(ListSource(rows))

    # -- questions ---------------------------------------------------------------------------

    def _show_questions(self) -> None:
        rows = []
        for question in questions.QUESTIONS:
            said = self.given.get(question.id, questions.Reply()).answer
            tone: Tone = "muted" if said in ("", "unsure") else "good"
            if said in ("yes", "no") and said != question.wanted:
                tone = "error" if question.decisive else "warning"
            sign = {"muted": "?", "good": "✓", "error": "✗", "warning": "!"}[tone]
            rows.append(TableRow((sign, said or "–", question.text), tone))
        table = self.query_one("#questions", VirtualTable)
        before = table.cursor
        table.show(ListSource(rows))
        table.go_to(before)
        entitle(table, None, clean(questions.verdict(self.given).sentence))

    def _answer(self, said: str) -> None:
        table = self.query_one("#questions", VirtualTable)
        if self.focused is not table:
            self.turn_to("questions")
            return
        question = questions.QUESTIONS[table.cursor]
        try:
            questions.answer(self.workspace, question.id, said)
            self.given = questions.replies(self.workspace)
        except (UserError, OSError) as error:
            self.say(str(error), "error")
            return
        self._show_questions()
        if said and table.cursor + 1 < len(questions.QUESTIONS):
            table.go_to(table.cursor + 1)

    def action_yes(self) -> None:
        self._answer("yes")

    def action_no(self) -> None:
        self._answer("no")

    def action_unsure(self) -> None:
        self._answer("unsure")

    def action_forget(self) -> None:
        self._answer("")

    # -- moving ------------------------------------------------------------------------------

    @on(VirtualTable.RowHighlighted)
    def _moved(self, message: VirtualTable.RowHighlighted) -> None:
        message.stop()
        name = message.table.id
        if name == "points":
            self._explain_point(message.row)
        elif name == "trainers" and message.row < len(self.fates):
            reasons = self.fates[message.row]["reasons"]
            self._explain("; ".join(
                f"{entry['count']:,} {entry['kind']}: {entry['why']}" for entry in reasons
            ) or "every row is trained on")  # fmt: skip
        elif name == "questions":
            question = questions.QUESTIONS[message.row]
            self._explain(f"{question.why} {question.otherwise}")

    def _explain_point(self, row: int) -> None:
        if row < len(self.points):
            entry = self.points[row]
            self._explain(f"{entry['detail']}. {entry['fix']}".strip())

    def _explain(self, text: str) -> None:
        self.query_one("#why", TextPanel).show(Content(clean(text)))

    @on(VirtualTable.RowSelected, "#points")
    def _point_chosen(self, message: VirtualTable.RowSelected) -> None:
        if message.row < len(self.points) and self.points[message.row]["rows"]:
            entry = self.points[message.row]
            self.dismiss((entry["title"], list(entry["rows"])))

    @on(VirtualTable.RowSelected, "#trainers")
    def _trainer_chosen(self, message: VirtualTable.RowSelected) -> None:
        if message.row < len(self.fates):
            entry = self.fates[message.row]
            rows = sorted({row for reason in entry["reasons"] for row in reason["rows"]})
            if rows:
                self.dismiss((f"lost by {entry['name']}", rows))


def _told(page: Mapping[str, Any]) -> str:
    about = "" if page["measure"]["exact"] else "≈ "
    parts = [f"{about}{page['tokens']:,} tokens, {page['trained']:,} trained on"]
    if page["steps"]:
        parts.append(f"{page['epochs']:g} epochs are {about}{plural(page['steps'], 'step')}")
    return " · ".join(parts)


def _costs(costs: Sequence[Mapping[str, Any]]) -> Content:
    if not costs:
        return Content("")
    sample = " · sample prices: p edits them" if any(each["sample"] for each in costs) else ""
    told = " · ".join(f"{each['name']} {each['told']}" for each in costs)
    return Content(clean(f"at a provider: {told}{sample}"))
