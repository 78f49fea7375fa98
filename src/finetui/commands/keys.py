"""``finetui keys``: the key table, made from the registry of actions."""

from __future__ import annotations

import argparse

from finetui.commands import console


def parser() -> argparse.ArgumentParser:
    return console.parser("Print the keys of the screens as Markdown.", workspace=False)


def run(arguments: argparse.Namespace) -> int:
    from finetui.tui.keytable import key_table_markdown

    console.out(key_table_markdown())
    return 0
