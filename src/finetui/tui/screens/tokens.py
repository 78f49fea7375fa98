"""The token view: one row as training sees it, and how well each token is known, base and tuned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.content import Content
from textual.message import Message

from finetui import start
from finetui.data.dataset import DataSet, open_dataset
from finetui.data.records import RecordError
from finetui.data.strict import JsonFault, RowError
from finetui.data.token_view import Rules, TokenRow, token_rows
from finetui.display import clean, plural
from finetui.errors import UserError
from finetui.jobs import tokenlosses
from finetui.jobs.folder import Job, list_jobs
from finetui.jobs.liveness import state
from finetui.jobs.tokenlosses import TokenLosses
from finetui.recipe.files import load, resolve
from finetui.tui import figures
from finetui.tui.actions import Action, register
from finetui.tui.screens.page import Page
from finetui.tui.widgets.dialogs import Choose
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import Column, ListSource, TableRow, Tone, VirtualTable
from finetui.tui.widgets.textpanel import TextPanel
from finetui.tui.widgets.tokens import SHADES, Shade, Token, TokensView
from finetui.workspace import Workspace

if TYPE_CHECKING:
    from finetui.data.tokens import ChatTokenizer
    from finetui.recipe.schema import Recipe

_LOOK_EVERY_S = 0.5
_SHADE_WORDS = {
    "training": "trained, masked, cut",
    "base": "loss of the base model",
    "tuned": "loss of the tuned model",
    "change": "change from base to tuned",
}
_SIGNS: dict[str, tuple[str, Tone]] = {
    "trained": ("▌ trained", "good"),
    "masked": ("▏ masked", "muted"),
    "cut": ("✗ cut", "error"),
}
COLUMNS = (
    Column("", 6, "right"),
    Column("token", weight=2, low=12),
    Column("id", 7, "right"),
    Column("", 9, tone=True),
    Column("base", 14, "right"),
    Column("tuned", 14, "right"),
    Column("change", 8, "right"),
)


@dataclass
class Shown(Message):
    """A row as tokens, and what is known of their losses; or ``error`` says why not."""

    row: int
    line: int = 0
    rows: int = 0
    sides: list[TokenRow] = field(default_factory=list)
    known: list[tuple[Job, TokenLosses]] = field(default_factory=list)
    error: str = ""


@dataclass
class Measured(Message):
    """The job that measures losses has ended; ``error`` says why without them."""

    error: str = ""


def newest_recipe(workspace: Workspace) -> Recipe:
    """The recipe that was saved last. Raises UserError when there is none."""
    found = sorted(workspace.recipe_files(), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError("no recipe is here, and it says what is trained.",
                        fix="Make one in the Recipe screen (2).")  # fmt: skip
    return load(found[-1])


def _tokenizer_of(recipe: Recipe) -> ChatTokenizer:
    from finetui.data.tokens import load_chat_tokenizer

    return load_chat_tokenizer(recipe.model.path, recipe.model.chat_template)


def rules_of(recipe: Recipe) -> Rules:
    data = recipe.data
    return Rules(
        recipe.method.objective, data.max_length, data.loss_on, data.truncation_side, data.overlong
    )


class TokensPage(Page[None]):
    """Row ``row`` (from 0) of a data file under a recipe, by default the newest."""

    PARTS = ("text", "tokens")
    KEYS = "← → token · v colours · m measure losses · [ ] row · tab table"
    BINDINGS: ClassVar = register(
        Action("tokens.shade", "v", "colours", "What is trained; loss of base, of tuned; change."),
        Action("tokens.side", "s", "other side", "Chosen or rejected answer of a pair."),
        Action("tokens.measure", "m", "measure",
               "Ask base and tuned model for the loss of each token, in a job.", writes=True),
        Action("tokens.run", "M", "run", "Which run's model is asked beside its base."),
        Action("tokens.row-before", "left_square_bracket", "row before", "The row before this."),
        Action("tokens.next-row", "right_square_bracket", "next row", "The next row."),
    )  # fmt: skip
    DEFAULT_CSS = """
    TokensPage #fate { height: auto; max-height: 3; }
    TokensPage #text { height: 3fr; min-height: 4; }
    TokensPage #here { height: 1; color: $foreground; }
    TokensPage #tokens { height: 2fr; min-height: 5; }
    """

    def __init__(
        self, workspace: Workspace, path: Path, row: int = 0, recipe: Recipe | None = None
    ) -> None:
        self.recipe = resolve(recipe or newest_recipe(workspace), workspace.root)
        super().__init__(f"tokens of {path.name} under the recipe {self.recipe.name}")
        self.workspace, self.path, self.row = workspace, path, row
        self.shown = Shown(row)
        self.side = 0
        self.run: Job | None = None
        self.job: Job | None = None
        """The job that measures, while it does."""
        self.asked = ""
        """What is under way, in words."""
        self._tokenizer: ChatTokenizer | None = None

    def body(self) -> ComposeResult:
        yield TextPanel(wrap=True, id="fate")
        yield TokensView(id="text", classes="panel")
        yield TextPanel(id="here")
        yield VirtualTable(COLUMNS, id="tokens", classes="panel", empty="no tokens")

    def on_mount(self) -> None:
        self.set_interval(_LOOK_EVERY_S, self._look)
        self._read(self.row)

    @property
    def view(self) -> TokensView:
        return self.query_one("#text", TokensView)

    # -- the row -----------------------------------------------------------------------------

    @work(thread=True, group="tokens", exclusive=True, exit_on_error=False)
    def _read(self, row: int) -> None:
        try:
            if self._tokenizer is None:
                self._tokenizer = _tokenizer_of(self.recipe)
            with open_dataset(self.path, self.workspace) as data:
                data.build_index()
                if row >= data.rows:
                    raise UserError("there is no such row.", f"{self.path}, row {row + 1:,}")
                self.post_message(self._shown_of(data, row))
        except UserError as error:
            self.post_message(Shown(row, error=str(error)))

    def _shown_of(self, data: DataSet, row: int) -> Shown:
        assert self._tokenizer is not None
        line, rows = data.source.line(row), data.rows
        try:
            sides = token_rows(data.record(row), self._tokenizer, rules_of(self.recipe))
        except (RowError, JsonFault, RecordError, UserError) as error:
            return Shown(row, line, rows, error=f"this row cannot be trained on: {error}")
        known = tokenlosses.known(self.workspace.jobs, str(self.path), line)
        return Shown(row, line, rows, sides, known)

    @on(Shown)
    def _row_shown(self, message: Shown) -> None:
        if message.row != self.row:
            return
        self.shown = message
        self.side = min(self.side, max(0, len(message.sides) - 1))
        self._show()
        if message.known and self.view.shade == "training" and self.asked:
            self._shade("change" if self.tokens and self.tokens[-1].tuned is not None else "base")
        self.asked = ""

    @property
    def tokens(self) -> Sequence[Token]:
        return self.view.tokens

    def _current(self) -> TokenRow | None:
        return self.shown.sides[self.side] if self.shown.sides else None

    def _show(self, keep_place: bool = False) -> None:
        row = self._current()
        found = self._measured(row) if row else None
        self.view.show(_tokens(row, found[1] if found else None) if row else (),
                       keep_place=keep_place)  # fmt: skip
        table = self.table("tokens")
        table.show(ListSource([_table_row(row, at, token) for at, token in enumerate(self.tokens)]
                              if row else []))  # fmt: skip
        self._tell_fate(row, found)
        self._tell_place(self.view.cursor)
        self._entitle()

    def _measured(self, row: TokenRow) -> tuple[Job, TokenLosses] | None:
        ids = [row.ids[at] for at in row.seen]
        return tokenlosses.fitting(self.shown.known, row.side, ids)

    def _entitle(self) -> None:
        side = self._current().side if self._current() else ""  # type: ignore[union-attr]
        where = f"line {self.shown.line:,}" + (f", {side}" if side else "")
        entitle(self.view, where, _SHADE_WORDS[self.view.shade])
        entitle(self.table("tokens"), "tokens", self.asked)

    def _tell_fate(self, row: TokenRow | None, found: tuple[Job, TokenLosses] | None) -> None:
        panel = self.query_one("#fate", TextPanel)
        if row is None:
            panel.show(Content.styled(clean(self.shown.error or "reading…"), "$warning"))
            return
        counts = Content.assemble(
            (f"{row.count('trained'):,} trained", "$role-assistant underline"),
            (f"   {row.count('masked'):,} masked", "$muted"),
            (f"   {row.count('cut'):,} cut", "$error" if row.count("cut") else "$muted"),
            (f"   of {plural(len(row.ids), 'token')} · {_of_recipe(self.recipe)}", "$muted"),
        )
        lines = [counts]
        if row.fate:
            lines.append(Content.styled(f"! this row is left out: {row.fate}", "$warning"))
        if found is not None:
            lines.append(Content.styled(_loss_words(row, found), "$muted"))
        panel.show(Content("\n").join(lines))

    @on(TokensView.Moved)
    def _moved(self, message: TokensView.Moved) -> None:
        self._tell_place(message.token)
        self.table("tokens").go_to(message.token)

    @on(VirtualTable.RowHighlighted, "#tokens")
    def _row_moved(self, message: VirtualTable.RowHighlighted) -> None:
        if message.row != self.view.cursor and self.table("tokens").has_focus:
            self.view.go_to(message.row)

    def _tell_place(self, place: int) -> None:
        panel, row = self.query_one("#here", TextPanel), self._current()
        if row is None or place >= len(self.tokens):
            panel.show(Content(""))
            return
        token = self.tokens[place]
        parts: list[tuple[str, str]] = [
            (f"{place + 1:,}  ", "$muted"), (f"{clean(token.text)!r}", "bold"),
            (f"  id {row.ids[place]}  {token.state}", "$muted"),
        ]  # fmt: skip
        for name, loss in (("base", token.base), ("tuned", token.tuned)):
            if loss is not None:
                parts.append((f"   {name} {loss:.3f} ({_chance(loss)})", ""))
        panel.show(Content.assemble(*parts))

    # -- keys --------------------------------------------------------------------------------

    def _shade(self, shade: Shade) -> None:
        self.view.shaded(shade)
        self._entitle()

    def action_shade(self) -> None:
        known = any(token.base is not None for token in self.tokens)
        both = any(token.change is not None for token in self.tokens)
        offered = SHADES if both else SHADES[:2] if known else SHADES[:1]
        if len(offered) == 1:
            self.say("No losses are known of this row yet; m measures them.")
            return
        self._shade(offered[(offered.index(self.view.shade) + 1) % len(offered)]
                    if self.view.shade in offered else offered[0])  # fmt: skip

    def action_side(self) -> None:
        if len(self.shown.sides) > 1:
            self.side = (self.side + 1) % len(self.shown.sides)
            self._show()

    def action_row_before(self) -> None:
        self._go(self.row - 1)

    def action_next_row(self) -> None:
        self._go(self.row + 1)

    def _go(self, row: int) -> None:
        if row >= 0 and (not self.shown.rows or row < self.shown.rows):
            self.row = row
            self._read(row)

    # -- losses ------------------------------------------------------------------------------

    def action_run(self) -> None:
        runs = _runs(self.workspace, self.recipe)
        if not runs:
            self.say("No run of this recipe's model has left anything yet: only the base is asked.")
            return
        options = [(job.id, f"{job.slug}   {figures.day(job.created)}") for job in runs]
        self.app.push_screen(Choose("ask the model after", options), self._run_chosen)

    def _run_chosen(self, wanted: str | None) -> None:
        found = [job for job in _runs(self.workspace, self.recipe) if job.id == wanted]
        if found:
            self.run = found[0]
            self.action_measure()

    def action_measure(self) -> None:
        if self._current() is None or self.asked:
            return
        self.asked = "asking the model…"
        self._entitle()
        self._measure(self.shown.line)

    @work(thread=True, group="measure", exclusive=True, exit_on_error=False)
    def _measure(self, line: int) -> None:
        try:
            runs = [self.run] if self.run else _runs(self.workspace, self.recipe)[:1]
            trained = runs[0] if runs else None
            rows = [(self.path, line)]
            self.job = start.start_tokenloss(self.workspace, self.recipe, rows, trained)
        except UserError as error:
            self.post_message(Measured(str(error)))

    def _look(self) -> None:
        if self.job is not None:
            self._look_at(self.job)

    @work(thread=True, group="measure", exclusive=True, exit_on_error=False)
    def _look_at(self, job: Job) -> None:
        now = state(job)
        if now.ended:
            self.post_message(Measured("" if now.name == "finished" else now.sentence))

    @on(Measured)
    def _was_measured(self, message: Measured) -> None:
        if self.job is None and not message.error:
            return
        self.job = None
        if message.error:
            self.asked = ""
            self._entitle()
            self.say(f"The losses were not measured: {message.error}", "error")
        else:
            self._read(self.row)


def _runs(workspace: Workspace, recipe: Recipe) -> list[Job]:
    """The runs of this recipe's model that have left something, newest first."""
    found = []
    for job in list_jobs(workspace.jobs):
        if job.kind != "train" or job.result is None:
            continue
        model = job.recipe().get("model", {})
        if model.get("path") == recipe.model.path:
            found.append(job)
    return found


def _tokens(row: TokenRow, losses: TokenLosses | None) -> list[Token]:
    places = {at: number for number, at in enumerate(row.seen)}

    def loss(of: Sequence[float | None], at: int) -> float | None:
        return of[places[at]] if at in places and places[at] < len(of) else None

    return [
        Token(
            text, row.states[at],
            loss(losses.base, at) if losses else None,
            loss(losses.tuned, at) if losses else None,
        )
        for at, text in enumerate(row.pieces)
    ]  # fmt: skip


def _table_row(row: TokenRow, at: int, token: Token) -> TableRow:
    sign, tone = _SIGNS[token.state]
    cells = (
        f"{at + 1:,}", repr(token.text)[1:-1], str(row.ids[at]), sign,
        _loss_cell(token.base), _loss_cell(token.tuned),
        "" if token.change is None else f"{token.change:+.3f}",
    )  # fmt: skip
    return TableRow(cells, tone)


def _loss_cell(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.3f} {_chance(loss):>6}"


def _chance(loss: float) -> str:
    """The chance that the model gave the token."""
    share = math.exp(-loss)
    return f"{share:.0%}" if share >= 0.095 else f"{share:.1%}" if share >= 0.001 else "<0.1%"


def _of_recipe(recipe: Recipe) -> str:
    return f"max length {recipe.data.max_length:,} · loss on {recipe.data.loss_on}"


def _loss_words(row: TokenRow, found: tuple[Job, TokenLosses]) -> str:
    """Mean loss of the trained tokens, and which job measured it."""
    job, losses = found
    trained = [number for number, at in enumerate(row.seen) if row.states[at] == "trained"]
    parts = []
    for name, values in (("base", losses.base), ("tuned", losses.tuned)):
        known = [values[number] for number in trained if number < len(values)]
        finite = [value for value in known if value is not None]
        if finite:
            parts.append(f"{name} {sum(finite) / len(finite):.3f}")
    return f"loss a trained token: {', '.join(parts) or 'unknown'} · {clean(job.id)}"
