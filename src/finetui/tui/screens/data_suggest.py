"""Rows like this one from a model: told in full before anything is sent, decided in the queue."""

from __future__ import annotations

from textual import work

from finetui.errors import UserError
from finetui.tui.commanding import command_answer
from finetui.tui.screens.data_rows import RowsPane
from finetui.tui.widgets.dialogs import Confirm, TextPrompt

_COUNT = "3"


class SuggestPane(RowsPane):
    """The key that asks for candidates."""

    def action_suggest(self) -> None:
        row = self.current
        if self.file is None or self.workspace is None or row is None:
            self.say("Candidates need a workspace and a row.")
            return
        line = self.file.data.source.line(row)
        hint = (
            "What should the new rows be like? Empty: variations of this one.\n"
            "Nothing is sent before you have seen what, to where and for how much."
        )
        prompt = TextPrompt(f"Ask a model for rows like line {line:,}", "", hint)
        self.app.push_screen(prompt, lambda words: self._plan(line, words))

    def _plan(self, line: int, words: str | None) -> None:
        if words is None or self.file is None or self.workspace is None:
            return
        arguments = ["suggest", "-w", str(self.workspace.root), "--json", "--count", _COUNT]
        arguments += ["--lines", str(line), *(["--instruction", words] if words else [])]
        self._ask_first([*arguments, str(self.file.path)])

    @work(group="suggest", exclusive=True, exit_on_error=False)
    async def _ask_first(self, arguments: list[str]) -> None:
        try:
            _, plan = await command_answer([*arguments, "--dry-run"])
        except UserError as error:
            self.complain(error)
            return
        question = Confirm("Send this?", plan.strip(), "send it")
        self.app.push_screen(question, lambda yes: self._agreed(arguments, bool(yes)))

    def _agreed(self, arguments: list[str], yes: bool) -> None:
        if yes:
            self._send(arguments)

    @work(group="suggest", exclusive=True, exit_on_error=False)
    async def _send(self, arguments: list[str]) -> None:
        self.say("Asking the model …")
        try:
            _, told = await command_answer([*arguments, "--yes"])
        except UserError as error:
            self.complain(error)
            return
        lines = [line for line in told.strip().splitlines() if not line.startswith(" ")]
        self.say(" ".join(lines[-2:]) + " Q opens the queue.")
