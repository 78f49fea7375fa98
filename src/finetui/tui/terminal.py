"""The terminal: refuse one that cannot show the screens, leave it in order on every way out."""

from __future__ import annotations

import asyncio
import codecs
import os
import select
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from finetui.errors import UserError

HANG_UP_STATUS = 128 + signal.SIGHUP
_PLAIN = "The plain commands work without one: finetui --help"


def require_terminal(
    environ: Mapping[str, str] = os.environ,
    stdin: TextIO | None = None,
    stdout: TextIO | None = None,
) -> None:
    """Raise UserError where the screens would hang or print escape bytes as garbage."""
    stdin, stdout = stdin or sys.__stdin__, stdout or sys.__stdout__
    term = environ.get("TERM", "")
    if stdin is None or stdout is None or not (stdin.isatty() and stdout.isatty()):
        raise UserError("the screens need a terminal on stdin and stdout.", fix=_PLAIN)
    if term in ("", "dumb"):
        raise UserError(
            "this terminal cannot move its cursor.",
            f"TERM={term or '(empty)'}",
            "Use ssh -t, or set TERM to what your terminal is, such as xterm-256color. " + _PLAIN,
        )
    encoding = _codec(getattr(sys.__stderr__, "encoding", None) or stdout.encoding)
    if encoding != "utf-8":
        raise UserError(
            "the screens need UTF-8 output.", encoding, "Set LANG=C.UTF-8 and start again."
        )


def _codec(name: str | None) -> str:
    try:
        return codecs.lookup(name or "ascii").name
    except LookupError:
        return name or "unknown"


def heed_signals(loop: asyncio.AbstractEventLoop, leave: Callable[[], Any]) -> None:
    """SIGTERM leaves in order; SIGHUP ends at once.

    After a hang-up nothing can be written any more: a normal exit would flush a dead stdout and,
    with SIGHUP ignored (nohup), Textual's input thread would spin for ever.
    """
    signal.signal(signal.SIGHUP, _hang_up)
    loop.add_signal_handler(signal.SIGTERM, leave)


def _hang_up(*_: object) -> None:
    os._exit(HANG_UP_STATUS)


def leave_if_hung_up(fileno: int) -> None:
    """End the process when the terminal is gone and no signal came (setsid, nohup wrappers)."""
    watch = select.poll()
    watch.register(fileno, select.POLLHUP)
    if any(event & (select.POLLHUP | select.POLLNVAL) for _, event in watch.poll(0)):
        _hang_up()
