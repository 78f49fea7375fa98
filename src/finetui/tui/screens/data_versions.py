"""Versions: the file with its edits, written anew beside the old one."""

from __future__ import annotations

from dataclasses import replace

from textual import on, work

from finetui.tui.screens import data_work
from finetui.tui.screens.data_rows import RowsPane
from finetui.tui.screens.data_work import OpenFile, Order, Written
from finetui.tui.widgets.dialogs import Confirm, TextPrompt
from finetui.tui.widgets.panel import entitle


class VersionsPane(RowsPane):
    """The keys that write versions."""

    def action_write(self) -> None:
        self._ask_name(split=False)

    def action_split(self) -> None:
        self._ask_name(split=True)

    def _ask_name(self, split: bool) -> None:
        if self.file is None or self.workspace is None:
            self.say("A version needs a workspace and an open file.")
            return
        what = "train, validation and test (80/10/10)" if split else "one file"
        prompt = TextPrompt(
            f"Write a version: {what}",
            self.file.path.stem,
            "A name to know it by. Dropped rows are left out; unedited rows stay byte for byte."
            + ("\nRows with the same prompt stay on one side of the split." if split else ""),
        )
        self.app.push_screen(prompt, lambda name: self._write_named(name, split))

    def _write_named(self, name: str | None, split: bool) -> None:
        if name is not None:
            self._order(Order(name, split))

    def _order(self, order: Order) -> None:
        if self.file is not None:
            entitle(self.query_one("#files"), None, "writing …")
            self._write(self.file, order)

    @work(thread=True, group="write", exclusive=True, exit_on_error=False)
    def _write(self, file: OpenFile, order: Order) -> None:
        assert self.workspace is not None
        data_work.write(file, self.workspace, order, self.post_message)

    @on(Written)
    def _written(self, message: Written) -> None:
        entitle(self.query_one("#files"), None, "")
        self.list_files()
        order = message.order
        if not message.error:
            self.say(message.said)
        elif order.skip_malformed or self.file is None:
            self.complain(message.error)
        else:
            again = replace(order, skip_malformed=True)
            self.app.push_screen(
                Confirm("Not written", message.error, "write it without malformed rows"),
                lambda yes: self._order(again) if yes else None,
            )
