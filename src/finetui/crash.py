"""An error that finetui did not foresee: one sentence for the person, the traceback in a file."""

from __future__ import annotations

import tempfile
import traceback
from pathlib import Path

from finetui.display import brief, clean

NAME = "finetui.log"


def told(error: BaseException, folder: Path | None = None) -> str:
    """What is said of an error, and where its traceback lies: in ``folder``, or in a new file."""
    from finetui.jobs.scrubbing import scrub_text

    what = brief(scrub_text(f"{type(error).__name__}: {error}"), 300)
    return clean(f"an error that was not expected: {what} Details: {kept(error, folder)}")


def kept(error: BaseException, folder: Path | None = None) -> str:
    """Write a traceback down, for its owner alone; where, or why it could not be."""
    from finetui.jobs.scrubbing import scrub_text

    try:
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="finetui-"))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / NAME
        with path.open("a", encoding="utf-8", errors="backslashreplace") as log:
            log.write(scrub_text("".join(traceback.format_exception(error))))
    except OSError as problem:
        return f"not kept: {problem}"
    return str(path)
