"""``finetui tokens``: one row as training sees it, token by token."""

from __future__ import annotations

import argparse
from pathlib import Path

from finetui import start
from finetui.commands import console, watch
from finetui.commands.train import recipe_file
from finetui.data.dataset import DataSet, open_dataset
from finetui.data.records import Record, RecordError
from finetui.data.strict import JsonFault, RowError
from finetui.data.token_view import Rules, TokenRow, token_rows
from finetui.data.tokens import load_chat_tokenizer
from finetui.errors import UserError
from finetui.jobs import tokenlosses
from finetui.jobs.tokenlosses import TokenLosses
from finetui.recipe.files import load, resolve
from finetui.recipe.schema import Recipe
from finetui.workspace import Workspace

_SIGNS = {"trained": "|", "masked": "", "cut": "x"}


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Show which tokens of a row are trained, masked and cut under a recipe.", json=True
    )
    made.add_argument("recipe", help="its name or file")
    made.add_argument("data", help="a data file")
    made.add_argument("line", type=int, help="the row's line in it")
    made.add_argument(
        "--loss",
        nargs="?",
        const="",
        metavar="RUN",
        help="also the loss of each token: of the base model, and of the model after RUN "
        "(starts a job and waits for it)",
    )
    return made


def run(arguments: argparse.Namespace) -> int:
    workspace = console.workspace_of(arguments)
    recipe = resolve(load(recipe_file(workspace, arguments.recipe)), workspace.root)
    path = workspace.resolve(arguments.data)
    rows = rows_of(workspace, recipe, path, arguments.line)
    losses = (
        measured(workspace, recipe, path, arguments.line, arguments.loss)
        if arguments.loss is not None
        else []
    )
    for row in rows:
        ids = [row.ids[at] for at in row.seen]
        found = next((one for one in losses if one.side == row.side and one.ids == ids), None)
        _tell(row, found, arguments.json)
    return 0


def rows_of(workspace: Workspace, recipe: Recipe, path: Path, line: int) -> list[TokenRow]:
    """The row of a line as tokens; two for a pair. Raises UserError."""
    data = recipe.data
    rules = Rules(
        recipe.method.objective, data.max_length, data.loss_on, data.truncation_side, data.overlong
    )
    tokenizer = load_chat_tokenizer(recipe.model.path, recipe.model.chat_template)
    with open_dataset(path, workspace) as rows:
        rows.build_index()
        return token_rows(_record(rows, line), tokenizer, rules)


def _record(rows: DataSet, line: int) -> Record:
    row = next((at for at in range(rows.rows) if rows.source.line(at) == line), None)
    if row is None:
        raise UserError("there is no such row.", f"{rows.path}:{line}")
    try:
        return rows.record(row)
    except (RowError, JsonFault, RecordError) as error:
        raise UserError(f"cannot be trained on: {error}", f"{rows.path}:{line}") from error


def measured(
    workspace: Workspace, recipe: Recipe, path: Path, line: int, run_name: str
) -> list[TokenLosses]:
    """Ask base and tuned model in a job, and wait for it. Raises UserError when it fails."""
    trained = start.trained_job(workspace, run_name) if run_name else None
    job = start.start_tokenloss(workspace, recipe, [(path, line)], trained)
    watch.follow(job, console.say)
    if watch.ended(job):
        raise UserError("the losses were not measured.", job.id, f"Its log: {job.path}")
    return tokenlosses.read(job)


def _tell(row: TokenRow, losses: TokenLosses | None, as_json: bool) -> None:
    places = {at: number for number, at in enumerate(row.seen)}

    def loss(of: list[float | None] | None, at: int) -> float | None:
        return of[places[at]] if of and at in places else None

    found = [
        (at, row.pieces[at], row.ids[at], row.states[at],
         loss(losses.base if losses else None, at), loss(losses.tuned if losses else None, at))
        for at in range(len(row.ids))
    ]  # fmt: skip
    if as_json:
        names = ("place", "text", "id", "state", "base", "tuned")
        for one in found:
            console.emit({"side": row.side, **dict(zip(names, one, strict=True))})
        return
    cells = [
        (at + 1, _SIGNS[state], repr(text)[1:-1], token, state,
         *("" if value is None else f"{value:.3f}" for value in (base, tuned)))
        for at, text, token, state, base, tuned in found
    ]  # fmt: skip
    told = ("base", "tuned") if losses else ("", "")
    console.table(cells, ("", "", "token", "id", row.side, *told))
    counts = ", ".join(f"{row.count(state)} {state}" for state in ("trained", "masked", "cut"))
    console.say(counts + (f". This row is left out: {row.fate}." if row.fate else "."))
