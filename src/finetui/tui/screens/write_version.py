"""The dialog that writes a version: as it is, split, or with general data mixed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen

from finetui.display import clean
from finetui.tui.actions import Action, register
from finetui.tui.widgets.bars import hint_line
from finetui.tui.widgets.form import FormField, FormList
from finetui.tui.widgets.textpanel import TextPanel

_ORDERS = ("as-is", "shuffled", "short-to-long")


class WriteDialog(ModalScreen["list[str] | None"]):
    """Dismisses with the arguments of `finetui split` or `finetui mix`, or None."""

    BINDINGS: ClassVar = register(
        Action("write.start", "w,f2", "write", "Write the version.", show=True, writes=True),
        Action("write.cancel", "escape", "cancel", "Leave it.", show=True),
    )
    DEFAULT_CSS = """
    WriteDialog FormList { height: 18; }
    WriteDialog TextPanel { margin-top: 1; }
    .-short WriteDialog FormList, .-short FormList { height: 1fr; }
    """

    def __init__(self, path: Path, general: Sequence[str], versions: Sequence[str]) -> None:
        super().__init__()
        self.path = path
        none = ("–", *general)
        fields = (
            FormField("name", "Version", "name", path.stem),
            FormField("shares", "Split", "shares", "80/10/10", note="train/validation/test"),
            FormField("counts", "Split", "or rows", "", note="as 0/500/500; 0 is the rest"),
            FormField("seed", "Split", "seed", "0"),
            FormField("group", "Split", "together by", "", note="a field, as customer.id"),
            FormField("stratify", "Split", "balance by", "", note="auto, answer, a field"),
            FormField("near", "Split", "near-duplicates", "true", "flag", note="kept together"),
            FormField("from", "Split", "go on from", "–", "choice", ("–", *versions),
                      note="its rows stay where they are"),
            FormField("general", "Mix", "general data", "–", "choice", none),
            FormField("share", "Mix", "share", "25%", note="of the set's own rows"),
            FormField("by", "Mix", "counted in", "rows", "choice", ("rows", "tokens")),
            FormField("order", "Mix", "order", "as-is", "choice", _ORDERS),
            FormField("skip", "Rows", "leave out broken", "false", "flag"),
        )  # fmt: skip
        self.fields = {field.id: field for field in fields}

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as box:
            yield FormList(id="write")
            yield TextPanel(wrap=True, id="told")
            yield TextPanel(id="keys")
        box.border_title = Content(clean(f"Write a version of {self.path.name}"))

    def on_mount(self) -> None:
        self._show()
        hints = [("enter", "edit"), ("w", "write"), ("esc", "cancel")]
        self.query_one("#keys", TextPanel).show(hint_line(hints))
        self.query_one("FormLines").focus()

    @on(FormList.FieldEdited)
    def _edited(self, message: FormList.FieldEdited) -> None:
        message.stop()
        old = self.fields[message.id]
        self.fields[message.id] = replace(old, value=message.text.strip(), changed=True)
        self._show()

    def _show(self) -> None:
        self.query_one(FormList).show(list(self.fields.values()))
        value = self._value
        told = "Dropped rows are left out; unedited rows stay byte for byte."
        if value("shares") or value("counts"):
            told += " Rows that ask the same stay on one side of the split."
        if value("general"):
            told += " General rows that give a held-out row away are left out."
        self.query_one("#told", TextPanel).show(Content.styled(told, "$muted"))

    def _value(self, name: str) -> str:
        value = self.fields[name].value
        return "" if value == "–" else value

    def arguments(self) -> list[str]:
        """The command that writes this version."""
        value = self._value
        split = bool(value("shares") or value("counts"))
        command = ["mix" if value("general") else "split", "--json", "--name", value("name")]
        for name, option in (("counts", "--counts"), ("seed", "--seed"), ("group", "--group"),
                             ("stratify", "--stratify"), ("from", "--from")):  # fmt: skip
            if value(name) and (split or name == "seed"):
                command += [option, value(name)]
        if value("shares") and not value("counts") and not value("from"):
            command += ["--fractions", value("shares")]
        if value("near") != "true":
            command.append("--no-near")
        if value("skip") == "true":
            command.append("--skip-malformed")
        if value("general"):
            command += ["--general", value("general"), "--share", value("share"),
                        "--by", value("by"), "--order", value("order")]  # fmt: skip
        return [*command, "--", str(self.path)]

    def action_start(self) -> None:
        self.dismiss(self.arguments())

    def action_cancel(self) -> None:
        self.dismiss(None)
