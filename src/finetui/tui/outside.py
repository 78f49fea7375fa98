"""A text in the person's own editor, with the screen put aside."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from textual.app import App, SuspendNotSupported

from finetui.errors import UserError


def editor_command(environ: Mapping[str, str] = os.environ) -> list[str]:
    """$VISUAL, then $EDITOR, then vi. Raises UserError when it cannot be read."""
    named = environ.get("VISUAL") or environ.get("EDITOR") or "vi"
    try:
        return shlex.split(named)
    except ValueError as error:
        raise UserError(f"$EDITOR cannot be read: {error}.", named) from None


def edited_outside(app: App[object], text: str, suffix: str = ".json") -> str:
    """What the editor left. Raises UserError when it cannot run; then nothing is changed."""
    command = editor_command()
    with tempfile.TemporaryDirectory(prefix="finetui-") as folder:
        file = Path(folder) / f"row{suffix}"
        file.write_text(text + "\n", encoding="utf-8", errors="surrogatepass")
        try:
            with app.suspend():
                done = subprocess.run([*command, str(file)], check=False)
        except SuspendNotSupported:
            raise UserError("an editor cannot be opened here.", fix="e edits the row.") from None
        except OSError as error:
            raise UserError(
                f"the editor cannot run: {error.strerror}.", command[0], "Set $EDITOR."
            ) from None
        if done.returncode:
            raise UserError(f"the editor ended with {done.returncode}; nothing was kept.")
        return file.read_text(encoding="utf-8", errors="surrogatepass").rstrip("\n")
