"""``finetui prices``: what providers charge per million tokens, as the workspace keeps it."""

from __future__ import annotations

import argparse
import datetime
from dataclasses import asdict

from finetui.commands import console
from finetui.data.prices import USES, Price, put_price, read_prices, remove_price
from finetui.errors import UserError


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "List what providers charge per million tokens, enter a price or take one out.", json=True
    )
    made.add_argument("name", nargs="?", help="a model; * stands for any letters")
    made.add_argument("per_million", nargs="?", type=float, metavar="AMOUNT")
    made.add_argument("--use", choices=USES, default="training")
    made.add_argument("--currency", default="USD")
    made.add_argument("--note", default="", help="where the price is from")
    made.add_argument("--remove", action="store_true", help="take NAME out for this use")
    return made


def run(arguments: argparse.Namespace) -> int:
    workspace = console.workspace_of(arguments)
    if arguments.remove:
        if not arguments.name or not remove_price(workspace, arguments.name, arguments.use):
            raise UserError(f"no {arguments.use} price of this name.", str(arguments.name))
    elif arguments.per_million is not None:
        today = datetime.date.today().isoformat()
        price = Price(
            arguments.name, arguments.per_million, arguments.currency, today, arguments.note,
            arguments.use,
        )  # fmt: skip
        put_price(workspace, price)
    elif arguments.name:
        raise UserError("no amount.", arguments.name, "finetui prices NAME AMOUNT")
    _tell(read_prices(workspace), arguments.json)
    return 0


def _tell(prices: list[Price], as_json: bool) -> None:
    if as_json:
        for price in prices:
            console.emit(asdict(price))
        return
    rows = [(p.name, p.use, f"{p.per_million:g} {p.currency}", p.dated, p.note) for p in prices]
    console.table(rows, ("model", "use", "per million", "dated", "note"))
