"""Versions: the file with its edits, written anew beside the old one, split or mixed."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from textual import on, work

from finetui.errors import UserError
from finetui.tui.commanding import command_lines
from finetui.tui.screens import data_work
from finetui.tui.screens.data_rows import RowsPane
from finetui.tui.screens.data_work import OpenFile, Order, Written
from finetui.tui.screens.versions import VersionsPage
from finetui.tui.screens.write_version import WriteDialog
from finetui.tui.widgets.dialogs import Confirm, TextPrompt
from finetui.tui.widgets.panel import entitle


class VersionsPane(RowsPane):
    """The keys that write versions and look at them."""

    def action_write(self) -> None:
        if self.file is None or self.workspace is None:
            self.say("A version needs a workspace and an open file.")
            return
        prompt = TextPrompt(
            "Write a version: one file",
            self.file.path.stem,
            "A name to know it by. Dropped rows are left out; unedited rows stay byte for byte.",
        )
        self.app.push_screen(prompt, self._write_named)

    def _write_named(self, name: str | None) -> None:
        if name is not None:
            self._order(Order(name))

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

    # -- split and mix -----------------------------------------------------------------------

    def action_split(self) -> None:
        if self.file is None or self.workspace is None:
            self.say("A version needs a workspace and an open file.")
            return
        own = self.file.path
        general = [self.workspace.relative(path) for path in self.paths if path != own]
        versions = sorted(
            {
                path.parent.name
                for path in self.paths
                if path.parent.parent == self.workspace.versions
            }
        )
        self.app.push_screen(WriteDialog(own, general, versions), self._ordered)

    def _ordered(self, arguments: list[str] | None) -> None:
        if arguments is not None:
            entitle(self.query_one("#files"), None, "writing …")
            self._run(arguments)

    @work(group="write", exclusive=True, exit_on_error=False)
    async def _run(self, arguments: list[str]) -> None:
        assert self.workspace is not None
        verb, *rest = arguments
        told = command_lines([verb, "-w", str(self.workspace.root), *rest])
        try:
            async with aclosing(told):
                async for line in told:
                    self._version_written(line)
        except UserError as error:
            self.complain(error)
        finally:
            entitle(self.query_one("#files"), None, "")

    def _version_written(self, line: dict[str, object]) -> None:
        manifest = line.get("manifest")
        if not isinstance(manifest, dict):
            return
        counts = ", ".join(f"{out['file']} {out['rows']:,}" for out in manifest["outputs"])
        notes = (manifest.get("split") or {}).get("notes", [])
        self.list_files()
        self.say(" ".join([f"Version {line['id']}: {counts}.", *notes]))

    def action_versions(self) -> None:
        if self.workspace is None:
            self.say("Versions need a workspace.")
            return
        self.app.push_screen(VersionsPage(self.workspace), self._open_version)

    def _open_version(self, path: Path | None) -> None:
        if path is not None:
            self.open(path)
