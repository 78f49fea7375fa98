"""What providers charge per million tokens: a table of the workspace that the person edits.

finetui knows no prices. The table is written on first use with samples that say so, and a cost
made from a sample is told as one.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetui.errors import BROKEN, UserError

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

    from finetui.workspace import Workspace

FILE = "prices.toml"
USES = ("training", "input", "output")
SAMPLE = "a sample, no quotation: edit me"
MILLION = 1_000_000

_HEAD = f"""\
# What providers charge per million tokens. EDIT ME: the entries below are samples with round
# numbers, not anybody's prices. Look yours up, put the day into `dated` and change the note.
#
# name         the model as its provider names it; * stands for any letters
# use          {", ".join(USES)}
# per_million  for one million tokens
"""
_SAMPLES = (("example-model", "training", 10), ("example-model", "input", 1),
            ("example-model", "output", 4))  # fmt: skip


@dataclass(frozen=True)
class Price:
    """One line of the table; ``dated`` is the day (YYYY-MM-DD) on which it was looked up."""

    name: str
    per_million: float
    currency: str = "USD"
    dated: str = ""
    note: str = ""
    use: str = "training"

    @property
    def sample(self) -> bool:
        """It is as finetui wrote it: nobody has looked it up."""
        return self.note == SAMPLE


def prices_path(workspace: Workspace) -> Path:
    return workspace.root / FILE


def read_prices(workspace: Workspace, today: str = "") -> list[Price]:
    """The table, in its order; written with samples when there is none yet.

    Raises UserError that names the file and the entry.
    """
    path = prices_path(workspace)
    if not path.exists():
        _write_samples(path, today or datetime.date.today().isoformat())
    return _checked(_text(path), str(path))


def replace_prices(workspace: Workspace, text: str) -> list[Price]:
    """Take a whole table as a person edited it. Raises UserError; the old one stays then."""
    from finetui.workspace import write_atomic

    path = prices_path(workspace)
    found = _checked(text, str(path))
    write_atomic(path, text)
    return found


def find_price(prices: list[Price], model: str, use: str) -> Price | None:
    """The price of a model for one use: its own entry, or the longest pattern that fits."""
    fitting = [
        price for price in prices if price.use == use and fnmatchcase(model, _plain(price.name))
    ]
    return max(fitting, key=lambda price: (price.name == model, len(price.name)), default=None)


def cost(tokens: int, price: Price) -> float:
    """What so many tokens cost, in the price's currency."""
    return tokens * price.per_million / MILLION


def money(amount: float, currency: str) -> str:
    """An amount with two meaning digits: ``0.0034 USD``, ``12 USD``."""
    if amount == 0:
        return f"0 {currency}"
    digits = max(0, 1 - math.floor(math.log10(abs(amount))))
    return f"{amount:,.{digits}f} {currency}"


def put_price(workspace: Workspace, price: Price) -> None:
    """Enter a price, in place of the one of the same name and use; comments stay."""
    import tomlkit

    _price(asdict(price), "price")
    document, entries = _document(workspace)
    fields = {key: value for key, value in asdict(price).items() if value != ""}
    found = next((entry for entry in entries if _same(entry, price.name, price.use)), None)
    if found is None:
        table = tomlkit.table()
        table.update(fields)
        entries.append(table)
    else:
        found.update(fields)
    _save(workspace, document)


def remove_price(workspace: Workspace, name: str, use: str) -> bool:
    """Take a price out of the table; whether it was there."""
    document, entries = _document(workspace)
    place = next((n for n, entry in enumerate(entries) if _same(entry, name, use)), None)
    if place is None:
        return False
    del entries[place]
    _save(workspace, document)
    return True


# ---------------------------------------------------------------- inside


def _plain(name: str) -> str:
    """Only ``*`` is a pattern: names of models hold ``[`` and ``?`` now and then."""
    return name.replace("[", "[[]").replace("?", "[?]")


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}.", str(path), "Mend it or delete it.") from error


def _checked(text: str, where: str) -> list[Price]:
    """The prices of a file's text; raises UserError that names the entry."""
    import tomli

    try:
        entries = tomli.loads(text).get("price", [])
    except BROKEN as error:
        raise UserError(f"is no TOML: {error}.", where, "Mend it or delete it.") from error
    if not isinstance(entries, list):
        raise UserError("`price` is not a list.", where, "Write [[price]] above each entry.")
    return [_price(entry, f"{where}: price {n}") for n, entry in enumerate(entries, 1)]


def _price(entry: Any, where: str) -> Price:
    if not isinstance(entry, dict):
        raise UserError("is not a table.", where)
    unknown = set(entry) - set(Price.__dataclass_fields__)
    if unknown:
        known = ", ".join(Price.__dataclass_fields__)
        raise UserError(f"unknown key {sorted(unknown)[0]!r}.", where, f"Known: {known}.")
    amount = entry.get("per_million")
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < 1e9:
        raise UserError("`per_million` is no amount.", where, "Write for example: per_million = 2")
    words = {key: str(value) for key, value in entry.items()}
    if not words.get("name"):
        raise UserError("`name` is missing.", where)
    price = Price(
        words["name"],
        float(amount),
        words.get("currency", "USD"),
        words.get("dated", ""),
        words.get("note", ""),
        words.get("use", "training"),
    )
    if price.use not in USES:
        raise UserError(f"use {price.use!r} is not known.", where, f"Use: {', '.join(USES)}.")
    return price


def _write_samples(path: Path, today: str) -> None:
    from finetui.workspace import write_atomic

    entries = [
        f'\n[[price]]\nname = "{name}"\nuse = "{use}"\nper_million = {amount}\ncurrency = "USD"\n'
        f'dated = "{today}"\nnote = "{SAMPLE}"\n'
        for name, use, amount in _SAMPLES
    ]
    write_atomic(path, _HEAD + "".join(entries))


def _document(workspace: Workspace) -> tuple[TOMLDocument, Any]:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    read_prices(workspace)
    path = prices_path(workspace)
    try:
        document = tomlkit.parse(_text(path))
    except (TOMLKitError, *BROKEN) as error:
        raise UserError(
            f"cannot be added to: {error}.", str(path), "Mend it or delete it."
        ) from error
    if "price" not in document:
        document["price"] = tomlkit.aot()
    return document, document["price"]


def _save(workspace: Workspace, document: TOMLDocument) -> None:
    import tomlkit

    from finetui.workspace import write_atomic

    write_atomic(prices_path(workspace), tomlkit.dumps(document))


def _same(entry: Any, name: str, use: str) -> bool:
    return bool(entry.get("name") == name and entry.get("use", "training") == use)
