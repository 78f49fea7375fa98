"""The table of prices belongs to the person: samples say so, and nothing is made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetui.cli import run
from finetui.data.prices import (
    Price,
    cost,
    find_price,
    money,
    prices_path,
    put_price,
    read_prices,
    remove_price,
    replace_prices,
)
from finetui.errors import UserError
from finetui.workspace import Workspace, create


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return create(tmp_path / "work")


def test_the_first_look_writes_dated_samples_that_say_so(workspace: Workspace) -> None:
    prices = read_prices(workspace, today="2026-11-22")
    assert {price.use for price in prices} == {"training", "input", "output"}
    assert all(price.sample and price.dated == "2026-11-22" for price in prices)
    text = prices_path(workspace).read_text()
    assert "EDIT ME" in text and read_prices(workspace) == prices


def test_edits_keep_the_persons_comments(workspace: Workspace) -> None:
    read_prices(workspace)
    file = prices_path(workspace)
    file.write_text("# mine\n" + file.read_text())
    mine = Price("my-model", 2.5, "EUR", "2026-11-01", "from the invoice", "output")
    put_price(workspace, mine)
    put_price(workspace, Price("my-model", 3, "EUR", use="output", note="raised"))
    (found,) = [price for price in read_prices(workspace) if price.name == "my-model"]
    assert (found.per_million, found.note, found.sample) == (3, "raised", False)
    assert file.read_text().startswith("# mine\n") and "EDIT ME" in file.read_text()
    assert remove_price(workspace, "my-model", "output")
    assert not remove_price(workspace, "my-model", "output")
    assert len(read_prices(workspace)) == 3


def test_an_emptied_table_stays_empty(workspace: Workspace) -> None:
    prices_path(workspace).write_text("# none\n")
    assert read_prices(workspace) == []
    put_price(workspace, Price("m", 1))
    assert read_prices(workspace) == [Price("m", 1)]


def test_the_nearest_entry_is_taken() -> None:
    prices = [Price("*", 9, use="input"), Price("big-*", 5, use="input"),
              Price("big-1", 4, use="input"), Price("a[b]?", 3, use="input")]  # fmt: skip
    found = [find_price(prices, name, "input") for name in ("big-1", "big-2", "a[b]?", "small")]
    assert [price and price.per_million for price in found] == [4, 5, 3, 9]
    assert find_price(prices, "big-1", "output") is None


def test_money_has_two_meaning_digits() -> None:
    assert cost(2_500_000, Price("m", 4)) == 10
    told = [money(amount, "USD") for amount in (0, 0.00034, 0.0456, 1.25, 12.3, 1234.5)]
    assert told == ["0 USD", "0.00034 USD", "0.046 USD", "1.2 USD", "12 USD", "1,234 USD"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("price = 3", "not a list"),
        ("[[price", "is no TOML"),
        ("[[price]]\nper_million = 1", "`name` is missing"),
        ('[[price]]\nname = "m"', "`per_million` is no amount"),
        ('[[price]]\nname = "m"\nper_million = -1', "no amount"),
        ('[[price]]\nname = "m"\nper_million = nan', "no amount"),
        ('[[price]]\nname = "m"\nper_million = 1\nuse = "tea"', "use 'tea' is not known"),
        ('[[price]]\nname = "m"\nper_million = 1\nusd = 1', "unknown key 'usd'"),
    ],
)
def test_a_broken_table_names_file_and_entry(workspace: Workspace, text: str, why: str) -> None:
    prices_path(workspace).write_text(text)
    with pytest.raises(UserError, match=why) as error:
        read_prices(workspace)
    assert "prices.toml" in str(error.value)


def test_an_edited_table_is_taken_whole_or_not_at_all(workspace: Workspace) -> None:
    read_prices(workspace)
    before = prices_path(workspace).read_text()
    with pytest.raises(UserError, match="no amount"):
        replace_prices(workspace, before.replace("per_million = 10", "per_million = -10"))
    assert prices_path(workspace).read_text() == before
    found = replace_prices(workspace, before.replace("per_million = 10", "per_million = 11"))
    assert found[0].per_million == 11 == read_prices(workspace)[0].per_million


def test_the_command_enters_a_price_and_takes_it_out(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["-w", str(workspace.root)]
    assert run(["prices", *place, "m*", "8", "--use", "input", "--note", "their page"]) == 0
    assert "their page" in capsys.readouterr().out
    assert run(["prices", *place, "m*", "--use", "input", "--remove"]) == 0
    assert "their page" not in capsys.readouterr().out
    assert run(["prices", *place, "m*", "--remove"]) == 2
