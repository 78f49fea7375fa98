"""Repairing rows: edit, drop, undo, redo, fix. The journal holds it, the file stays."""

from __future__ import annotations

from typing import Any

from finetui.data.strict import RowError
from finetui.errors import UserError
from finetui.tui.screens import data_view
from finetui.tui.screens.data_findings import Spot, spot_of
from finetui.tui.screens.data_rows import RowsPane
from finetui.tui.widgets.dialogs import EditorDialog


class RepairPane(RowsPane):
    """The keys that change rows."""

    def action_edit(self) -> None:
        row = self.current
        if self.file is None or row is None:
            return
        text = data_view.editable(self.file.data.text(row))
        if len(text) > EditorDialog.LONGEST:
            self.say(
                f"This row has {len(text):,} characters: too long to edit here. Drop it, or write"
                " a version and edit that in your editor.",
                "warning",
            )
            return
        title = f"{self.file.path.name}, line {self.file.data.source.line(row):,}"
        editor = EditorDialog(title, text, data_view.json_fault)
        self.app.push_screen(editor, lambda new: self._edited(row, text, new))

    def _edited(self, row: int, old: str, new: str | None) -> None:
        if self.file is None or new is None or new == old:
            return
        try:
            self.file.data.edit(row, data_view.one_line(new))
        except (RowError, UserError) as error:
            self.complain(f"Not saved: {error}")
            return
        self._check_again(row)
        self.row_was_changed(row)

    def _check_again(self, row: int) -> None:
        """Findings of one edited row; those that compare rows stay until the next check."""
        from finetui.data.checks.registry import CHECKS
        from finetui.data.checks.run import check_row

        assert self.file is not None
        if not self.findings.kept:
            return
        spots = [spot_of(found.as_dict()) for found in check_row(self.file.data, row)]
        alone = [check.id for check in CHECKS.values() if check.across is None]
        self.findings.replace(row, spots, alone)
        self.show_findings()

    def action_drop(self) -> None:
        row = self.current
        if self.file is None or row is None:
            return
        data = self.file.data
        dropped = data.state(row).dropped
        try:
            data.restore([row]) if dropped else data.drop([row])
        except UserError as error:
            self.complain(error)
            return
        self.row_was_changed(row)
        if not dropped:
            self.rows.action_down()

    def action_undo(self) -> None:
        self._step_back(redo=False)

    def action_redo(self) -> None:
        self._step_back(redo=True)

    def _step_back(self, redo: bool) -> None:
        if self.file is None:
            return
        try:
            said = self.file.data.redo() if redo else self.file.data.undo()
        except UserError as error:
            self.complain(error)
            return
        self.tokens = None
        self.rows.rows_changed()
        self.tell_rows()
        self.show_record()
        self.say(said or f"There is nothing to {'redo' if redo else 'undo'}.")

    def action_fix(self) -> None:
        from finetui.data.checks.fixes import fixable

        row = self.current
        if self.file is None or row is None:
            return
        spot = next((spot for spot in self.findings.of(row) if fixable(spot.check)), None)
        if spot is None:
            self.say("No finding of this row can be repaired by itself: e edits it, d drops it.")
            return
        try:
            said = self.file.data.fix(row, self._as_finding(spot))
        except (RowError, UserError) as error:
            self.complain(str(error))
            return
        self._check_again(row)
        self.row_was_changed(row)
        self.say(said)

    def _as_finding(self, spot: Spot) -> Any:
        from finetui.data.checks.model import Finding

        assert self.file is not None
        source = self.file.data.source
        return Finding(
            spot.check,
            spot.severity,  # type: ignore[arg-type]
            str(self.file.path),
            source.line(spot.row),
            source.offset(spot.row),
            spot.turn,
            spot.message,
            spot.row,
            spot.start,
            spot.end,
        )

    def action_copy(self) -> None:
        row = self.current
        if self.file is not None and row is not None:
            self.app.copy_to_clipboard(self.file.data.text(row))
            self.say("The row was sent to the terminal's clipboard.")
