"""Finding rows: the checks, the way from finding to row, and the filter."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

from textual import on, work
from textual.timer import Timer
from textual.widgets import Input
from textual.worker import get_current_worker

from finetui.data.filter import is_quick
from finetui.errors import UserError
from finetui.tui.screens import data_work
from finetui.tui.screens.data_findings import Findings, scan, window_of
from finetui.tui.screens.data_rows import RowsPane
from finetui.tui.screens.data_work import Matched, OpenFile, Sort
from finetui.tui.widgets.dialogs import Choose, TextPrompt
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import VirtualTable

_DEBOUNCE = 0.2
_ORDERS = (("bytes", "length"), ("tokens", "tokens"), ("turns", "turns"), ("findings", "findings"))


class SearchPane(RowsPane):
    """The keys that look for rows."""

    _typing: Timer | None = None

    # -- findings ----------------------------------------------------------------------------

    def action_check(self) -> None:
        """Look again: what was found in the same bytes is used, so a second press looks anew."""
        if self.file is not None:
            done = self.findings.store is not None and self.findings.store.complete
            self._check(self.file, [], again=done)

    def action_leaks(self) -> None:
        if self.file is None:
            return
        others = [path for path in self.paths if path not in self.file.paths]
        if not others:
            self.say("There is no other file to compare with: o opens one.")
            return
        options = [(str(place), self.named(path)) for place, path in enumerate(others)]
        chosen = Choose("Leaks between this file and", options)
        self.app.push_screen(chosen, lambda found: self._check_with(others, found))

    def _check_with(self, others: list[Path], chosen: str | None) -> None:
        if chosen is not None and self.file is not None:
            self._check(self.file, [others[int(chosen)]])

    @work(group="check", exclusive=True, exit_on_error=False)
    async def _check(self, file: OpenFile, others: list[Path], again: bool = False) -> None:
        if self.workspace is None:
            self.say("The checks need a workspace: finetui init makes one.")
            return
        self.findings.close()  # the scan may put another store in its place
        self.findings = Findings()
        self.show_findings("checking …")
        window = window_of(self.workspace)
        first = self.current or 0
        lines = scan(self.workspace, file.paths, others, window, first, again)
        try:
            async with aclosing(lines) as told:
                async for line in told:
                    if file is not self.file:
                        return
                    self._scanned(file, line)
        except asyncio.CancelledError:
            if file is self.file:
                self.take_findings("stopped")
            raise
        except UserError as error:
            if file is self.file:
                self.take_findings("stopped")
            self.complain(error)
            return
        if file is self.file:
            self.take_findings("")

    def _scanned(self, file: OpenFile, line: dict[str, Any]) -> None:
        progress = line.get("progress")
        if progress is None:
            return
        total = progress["rows_total"] or 1
        self.take_findings(f"{progress['rows_done'] / total:.0%} checked, esc stops")

    def take_findings(self, state: str) -> None:
        """Show what the store holds by now."""
        if not self.findings.known:
            self.open_store()
        self.findings.refresh()
        self.checking = state not in ("", "stopped")
        self.show_findings(state)
        self.rows.rows_changed()
        self.show_record()

    def stop_checking(self) -> bool:
        """End a scan that is going on; whether there was one."""
        if not self.checking:
            return False
        self.checking = False
        self.workers.cancel_group(self, "check")
        return True

    @on(VirtualTable.RowSelected, "#findings")
    def _kind_chosen(self, message: VirtualTable.RowSelected) -> None:
        kind = self.findings.kinds()[message.row]
        self.needle, self.note = "", kind.check
        self.show_rows(self.findings.rows_of(kind.check))
        self.hand_to(self.rows)

    def action_next(self) -> None:
        self._step_finding(forward=True)

    def action_previous(self) -> None:
        self._step_finding(forward=False)

    def _step_finding(self, forward: bool) -> None:
        row, source = self.current, self.source
        if row is None or source is None:
            return
        if not self.findings.known:
            self.say("No findings yet: c runs the checks.")
            return
        found = self.findings.next_row(row, forward)
        while found is not None and source.place(found) is None:  # stay inside a filter
            found = self.findings.next_row(found, forward)
        if found is None:
            self.say(f"No finding {'after' if forward else 'before'} this row.")
        else:
            self.go_to(found)

    # -- filter ------------------------------------------------------------------------------

    def action_filter(self) -> None:
        finder = self.query_one("#filter", Input)
        finder.display = True
        finder.value = self.needle
        self.hand_to(finder)

    @on(Input.Changed, "#filter")
    def _filter_typed(self, event: Input.Changed) -> None:
        event.stop()
        if self._typing is not None:
            self._typing.stop()
        self._typing = self.set_timer(_DEBOUNCE, lambda: self._filter(event.value))

    @on(Input.Submitted, "#filter")
    def _filter_kept(self, event: Input.Submitted) -> None:
        event.stop()
        self.close_filter()
        if event.value != self.needle:
            self._filter(event.value)

    def close_filter(self) -> None:
        if self._typing is not None:
            self._typing.stop()
        self.query_one("#filter").display = False
        self.hand_to(self.rows)

    def _filter(self, text: str) -> None:
        if text == self.needle or self.file is None:
            return
        self.needle = text
        if text or self.sort:
            self._look_for(self.file, text)
        else:
            self.clear_filter()

    def _look_for(self, file: OpenFile, text: str) -> None:
        """Quick filters run beside the screen, all others in a process of their own."""
        try:
            apart = self.sort is not None or data_work.is_sql(text)
            quick = not apart and is_quick(file.data, text)
        except UserError as error:
            entitle(self.rows, None, str(error))
            return
        if quick:
            self._search(file, text)
        elif self.workspace is None:
            self.say("Orders and SQL need a workspace: finetui init makes one.")
        else:
            entitle(self.rows, None, "looking …")
            self._search_apart(file, text)

    @work(group="filter", exclusive=True, exit_on_error=False)
    async def _search_apart(self, file: OpenFile, text: str) -> None:
        assert self.workspace is not None
        wants_tokens = "tokens" in text or (self.sort is not None and self.sort.by == "tokens")
        model = data_work.model_folder(self.workspace) if wants_tokens else None
        await data_work.search_apart(
            file, text, self.sort, self.post_message, model, self.workspace.root
        )

    # -- order -------------------------------------------------------------------------------

    def action_sort(self) -> None:
        options = [("", "as in the file")]
        for by, words in _ORDERS:
            options += [(f"-{by}", f"{words}, most first"), (by, f"{words}, least first")]
        options.append(("field", "a field of the row …"))
        self.app.push_screen(Choose("Order of the rows", options), self._sort_chosen)

    def _sort_chosen(self, chosen: str | None) -> None:
        if chosen == "field":
            hint = "As id, meta.source or answer.urgency; - before it for the largest first."
            self.app.push_screen(TextPrompt("Order by a field", "", hint), self._sort_by)
        elif chosen is not None:
            self._sort_by(chosen)

    def _sort_by(self, key: str | None) -> None:
        if key is None or self.file is None:
            return
        self.sort = Sort(key.lstrip("-"), key.startswith("-")) if key.strip("- ") else None
        if self.needle or self.sort:
            self._look_for(self.file, self.needle)
        else:
            self.clear_filter()

    @work(thread=True, group="filter", exclusive=True, exit_on_error=False)
    def _search(self, file: OpenFile, text: str) -> None:
        worker = get_current_worker()
        stop = lambda: worker.is_cancelled or file.stop.is_set()  # noqa: E731
        data_work.search(file, text, stop, self.post_message, self.workspace)

    @on(Matched)
    def _matched(self, message: Matched) -> None:
        if message.file is not self.file or message.text != self.needle:
            return
        self.note = ""
        if message.error and message.done:
            entitle(self.rows, None, message.error)
            return
        self.show_rows(message.rows)
        if message.error:
            entitle(self.rows, None, message.error)
