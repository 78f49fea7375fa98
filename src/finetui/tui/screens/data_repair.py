"""Repairing rows: edit, drop, undo, redo, fix. The journal holds it, the file stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from finetui.data.dataset import DataSet
from finetui.data.strict import RowError
from finetui.errors import UserError
from finetui.tui.outside import edited_outside
from finetui.tui.screens import data_view
from finetui.tui.screens.data_findings import Spot
from finetui.tui.screens.data_rows import RowsPane
from finetui.tui.screens.fix_all import FixAllPage
from finetui.tui.screens.steps import StepsPage
from finetui.tui.widgets.dialogs import Choose, EditorDialog, TextPrompt
from finetui.tui.widgets.table import VirtualTable


class RepairPane(RowsPane):
    """The keys that change rows."""

    def action_edit(self) -> None:
        """Choose what to edit: a turn as plain text, or the whole row as JSON."""
        row = self.current
        if self.file is None or row is None:
            return
        turns = data_view.turns_of(self.file.data, row)
        if not turns:
            self._edit_row(row)
            return
        options = [(str(number), f"{role:<10} {text[:60]}") for number, role, text in turns]
        options.append(("row", "the whole row as JSON"))
        last = next((str(n) for n, role, _ in reversed(turns) if role == "assistant"), "0")
        chosen = Choose("Edit what?", options, last)
        self.app.push_screen(chosen, lambda what: self._edit_chosen(row, what))

    def _edit_chosen(self, row: int, what: str | None) -> None:
        if what == "row":
            self._edit_row(row)
        elif what is not None:
            self._edit_turn(row, int(what))

    def _edit_turn(self, row: int, turn: int) -> None:
        assert self.file is not None
        data = self.file.data
        role, text = next(
            (role, text) for number, role, text in data_view.turns_of(data, row) if number == turn
        )
        if self._too_long(text):
            return
        shown = data_view.escaped(text)
        title = f"{data.path.name}, line {data.source.line(row):,}, {role}"
        editor = EditorDialog(title, shown)
        self.app.push_screen(editor, lambda new: self._turn_edited(row, turn, shown, new))

    def _turn_edited(self, row: int, turn: int, old: str, new: str | None) -> None:
        if self.file is not None and new is not None and new != old:
            data = self.file.data
            self._keep(row, lambda: data.edit_turn(row, turn, data_view.unescaped(new)))

    def _edit_row(self, row: int) -> None:
        assert self.file is not None
        text = data_view.editable(self.file.data.text(row))
        if self._too_long(text):
            return
        title = f"{self.file.path.name}, line {self.file.data.source.line(row):,}"
        editor = EditorDialog(title, text, lambda typed: self._fault(row, typed))
        self.app.push_screen(editor, lambda new: self._edited(row, text, new))

    def _too_long(self, text: str) -> bool:
        if len(text) <= EditorDialog.LONGEST:
            return False
        self.say(f"This has {len(text):,} characters, too long to edit here: E opens your editor.",
                 "warning")  # fmt: skip
        return True

    def _fault(self, row: int, typed: str) -> tuple[str, int, int] | None:
        """What is wrong with an edited row: its JSON, then its shape and roles."""
        fault = data_view.json_fault(typed)
        if fault is not None or self.file is None:
            return fault
        found = self.file.data.validate(row, data_view.one_line(typed))
        return (found[0].message, 1, 1) if found else None

    def _edited(self, row: int, old: str, new: str | None) -> None:
        if self.file is not None and new is not None and new != old:
            data = self.file.data
            self._keep(row, lambda: data.edit(row, data_view.one_line(new)))

    def _keep(self, row: int, edit: Callable[[], object]) -> None:
        """Keep an edit, or say why it cannot be kept."""
        try:
            edit()
        except (RowError, UserError) as error:
            self.complain(f"Not saved: {error}")
            return
        self._check_again(row)
        self.row_was_changed(row)

    def action_edit_outside(self) -> None:
        """The row as JSON in the person's own editor, the screen put aside meanwhile."""
        row = self.current
        if self.file is None or row is None:
            return
        old = data_view.editable(self.file.data.text(row))
        try:
            new = edited_outside(self.app, old)
        except UserError as error:
            self.complain(error)
            return
        if new == old:
            self.say("Nothing was changed.")
            return
        fault = data_view.json_fault(new)
        if fault is not None:
            self.complain(f"Not saved: line {fault[1]}, column {fault[2]}: {fault[0]}.")
            return
        self._edited(row, old, new)

    # -- decisions on rows -------------------------------------------------------------------

    def action_aside(self) -> None:
        row = self.current
        if self.file is None or row is None:
            return
        if self.file.data.state(row).quarantined:
            self._decide(lambda data: data.restore([row]), row)
            return
        hint = "Out of training, but kept for a later look. Why?"
        self.app.push_screen(
            TextPrompt("Set this row aside", "", hint), lambda why: self._set_aside(row, why)
        )

    def _set_aside(self, row: int, why: str | None) -> None:
        if why is not None:
            self._decide(
                lambda data: data.quarantine([row], why or "no reason given"), row, on=True
            )

    def action_mark(self) -> None:
        row = self.current
        if self.file is not None and row is not None:
            on = not self.file.data.state(row).marked
            self._decide(lambda data: data.mark([row], on), row, on)

    def action_label(self) -> None:
        row = self.current
        if self.file is None or row is None:
            return
        prompt = TextPrompt(
            "Label this row", self.file.data.state(row).label, "One word; empty takes it away."
        )
        self.app.push_screen(prompt, lambda word: self._labelled(row, word))

    def _labelled(self, row: int, word: str | None) -> None:
        if word is not None:
            self._decide(lambda data: data.label([row], word.strip()), row, bool(word))

    def _decide(self, act: Callable[[DataSet], object], row: int, on: bool = False) -> None:
        """Do it, show it, and go on to the next row where something was set."""
        if self.file is None:
            return
        try:
            act(self.file.data)
        except UserError as error:
            self.complain(error)
            return
        self.row_was_changed(row)
        if on:
            self.rows.action_down()

    def action_fix_all(self) -> None:
        """All rows of the finding under the cursor: of the list, or of this row."""
        from finetui.data.checks.fixes import fixable

        check = self._check_at_hand()
        if self.file is None or not check:
            self.say("Choose a finding first: c runs the checks.")
            return
        rows = self.findings.rows_of(check)
        page = FixAllPage(self.file.data, check, rows, fixable(check))
        self.app.push_screen(page, lambda said: self._all_fixed(rows, said))

    def _check_at_hand(self) -> str:
        kinds = self.findings.kinds()
        table = self.query_one("#findings", VirtualTable)
        if kinds and (table.has_focus or self.note in {kind.check for kind in kinds}):
            return self.note if not table.has_focus else kinds[table.cursor].check
        spots = self.findings.of(self.current) if self.current is not None else []
        return spots[0].check if spots else ""

    def _all_fixed(self, rows: Sequence[int], said: str | None) -> None:
        if said is None:
            return
        if self.file is not None:
            self.check_all_again(self.file, rows)
        self.all_changed()
        self.say(said)

    def action_steps(self) -> None:
        if self.file is None or self.workspace is None:
            self.say("Steps need a workspace and an open file.")
            return
        page = StepsPage(self.file.data, self.all_changed)
        self.app.push_screen(page, self.rows_asked_for)

    def all_changed(self) -> None:
        """After steps that touch many rows."""
        self.tokens = None
        self.settle()
        self.rows.rows_changed()
        self.tell_rows()
        self.show_findings()
        self.show_record()

    def _check_again(self, row: int) -> None:
        self.check_again(row)
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
        self.settle()
        # an older edit may stand there now
        self.check_all_again(self.file, self.findings.rows_again)
        self.all_changed()
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
