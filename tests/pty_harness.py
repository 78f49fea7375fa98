"""A real pseudo-terminal with a screen model: what a person would see, and every byte sent.

with Terminal([sys.executable, "-m", "finetui", path], size=(120, 36)) as terminal:
    terminal.wait_for("tickets.jsonl")
    terminal.press("1")
    assert "chat" in terminal.text
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import pyte

KEYS = {
    "enter": "\r",
    "esc": "\x1b",
    "tab": "\t",
    "shift+tab": "\x1b[Z",
    "space": " ",
    "backspace": "\x7f",
    "up": "\x1b[A",
    "down": "\x1b[B",
    "right": "\x1b[C",
    "left": "\x1b[D",
    "home": "\x1b[H",
    "end": "\x1b[F",
    "pageup": "\x1b[5~",
    "pagedown": "\x1b[6~",
    "f1": "\x1bOP",
}
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "TMPDIR", "XDG_CONFIG_HOME")
LIMIT = 30.0


class Terminal:
    """Runs a command in its own pty and keeps a screen of what it drew."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        size: tuple[int, int] = (120, 36),
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        term: str = "xterm-256color",
    ) -> None:
        columns, rows = size
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.status: int | None = None
        environ = {key: os.environ[key] for key in _INHERITED if key in os.environ}
        environ |= {"TERM": term, "COLORTERM": "truecolor", "LANG": "C.UTF-8"} | dict(env or {})
        self.started = time.perf_counter()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:  # pragma: no cover - the child
            _resize(1, columns, rows)
            if cwd is not None:
                os.chdir(cwd)
            os.execvpe(command[0], list(command), environ)
        _resize(self.fd, columns, rows)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- reading -----------------------------------------------------------------------------

    def pump(self, seconds: float) -> bytes:
        """Read once, waiting at most ``seconds``; b"" when nothing came or the end did."""
        ready, _, _ = select.select([self.fd], [], [], max(0.0, seconds))
        if not ready:
            return b""
        try:
            got = os.read(self.fd, 1 << 16)
        except OSError:
            got = b""
        if not got:
            self._reap()
            return b""
        self.raw += got
        self._stream.feed(got)
        return got

    def wait(self, condition: Callable[[Terminal], bool], limit: float = LIMIT) -> None:
        """Read until the condition holds; AssertionError with the screen when it never does."""
        end = time.monotonic() + limit
        while not condition(self):
            left = end - time.monotonic()
            if left <= 0 or (self.status is not None and not condition(self)):
                raise AssertionError(f"not seen in {limit} s; the screen:\n{self.text}")
            self.pump(min(0.1, left))

    def wait_for(self, text: str, limit: float = LIMIT) -> None:
        self.wait(lambda terminal: text in terminal.text, limit)

    def wait_gone(self, text: str, limit: float = LIMIT) -> None:
        self.wait(lambda terminal: text not in terminal.text, limit)

    def settle(self, quiet: float = 0.3, limit: float = LIMIT) -> None:
        """Read until nothing came for ``quiet`` seconds (for pictures; tests wait for text)."""
        end = time.monotonic() + limit
        while time.monotonic() < end and self.pump(quiet):
            pass

    @property
    def lines(self) -> list[str]:
        """The screen's lines; a wide character counts two columns and shows once."""
        found = []
        for y in range(self.screen.lines):
            row = self.screen.buffer[y]
            found.append("".join(row[x].data for x in range(self.screen.columns)).rstrip())
        return found

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    # -- writing -----------------------------------------------------------------------------

    def press(self, *keys: str) -> None:
        """Send keys by name (``enter``, ``ctrl+r``) or as they are (``a``)."""
        for key in keys:
            self.write(_key_bytes(key))

    def type(self, text: str) -> None:
        self.write(text)

    def write(self, text: str) -> None:
        os.write(self.fd, text.encode())

    # -- the end -----------------------------------------------------------------------------

    def wait_exit(self, limit: float = LIMIT) -> int:
        """Read until the process is gone; returns its status as ``os.waitstatus_to_exitcode``."""
        end = time.monotonic() + limit
        while self.status is None and time.monotonic() < end:
            self.pump(0.05)
            self._reap()
        if self.status is None:
            raise AssertionError(f"still running after {limit} s:\n{self.text}")
        return self.status

    def hang_up(self) -> None:
        """Close the terminal under the process, as a lost SSH connection does."""
        os.close(self.fd)
        self.fd = -1

    def alive(self) -> bool:
        self._reap()
        return self.status is None

    def _reap(self) -> None:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        if self.status is None:
            for sent in (signal.SIGTERM, signal.SIGKILL):
                os.kill(self.pid, sent)
                end = time.monotonic() + 5
                while self.status is None and time.monotonic() < end:
                    if self.fd >= 0:
                        self.pump(0.02)
                    self._reap()
                if self.status is not None:
                    break
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _key_bytes(key: str) -> str:
    if key in KEYS:
        return KEYS[key]
    if key.startswith("ctrl+") and len(key) == 6:
        return chr(ord(key[-1]) & 0x1F)
    return key


def _resize(fd: int, columns: int, rows: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
