"""Finding rows: the checks, the way from finding to row, and the filter."""

from __future__ import annotations

from pathlib import Path

from textual import on, work
from textual.timer import Timer
from textual.widgets import Input
from textual.worker import get_current_worker

from finetui.tui.screens import data_work
from finetui.tui.screens.data_findings import Batch, Findings, check_file
from finetui.tui.screens.data_rows import RowsPane
from finetui.tui.screens.data_work import Matched, OpenFile
from finetui.tui.widgets.dialogs import Choose
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import VirtualTable

_DEBOUNCE = 0.2


class SearchPane(RowsPane):
    """The keys that look for rows."""

    _typing: Timer | None = None

    # -- findings ----------------------------------------------------------------------------

    def action_check(self) -> None:
        if self.file is not None:
            self._check(self.file, [])

    def action_leaks(self) -> None:
        if self.file is None:
            return
        others = [path for path in self.paths if path != self.file.path]
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
    async def _check(self, file: OpenFile, others: list[Path]) -> None:
        self.findings = Findings()
        if self.source is not None:
            self.source.findings = self.findings
        self.show_findings("checking …")
        model = data_work.model_folder(self.workspace)
        async for batch in check_file(file.path, others, model):
            if file is not self.file:
                return
            self._found(batch)

    def _found(self, batch: Batch) -> None:
        self.findings.add(batch.spots)
        done = batch.summary is not None
        self.show_findings("" if done else "checking …")
        if batch.spots:
            self.rows.rows_changed()
        row = self.current
        if done or any(spot.row == row for spot in batch.spots):
            self.show_record()

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
        if not self.findings.kept:
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
        if text:
            self._search(self.file, text)
        else:
            self.clear_filter()

    @work(thread=True, group="filter", exclusive=True, exit_on_error=False)
    def _search(self, file: OpenFile, text: str) -> None:
        worker = get_current_worker()
        stop = lambda: worker.is_cancelled or file.stop.is_set()  # noqa: E731
        data_work.search(file, text, stop, self.post_message)

    @on(Matched)
    def _matched(self, message: Matched) -> None:
        if message.file is not self.file or message.text != self.needle:
            return
        self.note = ""
        self.show_rows(message.rows)
        if message.error:
            entitle(self.rows, None, message.error)
