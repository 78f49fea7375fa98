"""A pseudo-terminal that keeps every byte, and what a program of ours may send through it."""

# ruff: noqa: E501  (tables)

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Mapping, Sequence

_INHERITED = ("PATH", "HOME", "LANG", "PYTHONPATH", "TMPDIR", "XDG_CONFIG_HOME")

# Marks that no program of ours sends by itself, one for each way to make a terminal do something.
HOSTILE = (
    "\x1b[7;53;21mSGR\x1b[0m \x1b]52;c;cHduZWQ=\x07OSC52 \x1b]0;owned\x07 \x1b]2;owned\x1b\\ "
    "\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\ \x1bcRIS \x1b[2;7JED \x1bP+q544e\x1b\\DCS \x1b_APC\x1b\\ "
    "\x1b^PM\x1b\\ \x9b7;53mC1 \x9d52;c;eA==\x9c \x07bell \x08bs \x0eSO \x7fdel \u202ebidi \u2066iso "
    "\u200bzero \u2028sep \U000e0041tag [/b] [/] [@click=app.quit]x[/] [link=http://x]y[/link] [bold"
)
# Names are part of paths: no slash, no NUL, 255 bytes.
HOSTILE_NAME = "x\x1b[7;53;21m\x1b]0;owned\x07\x1bc\x9b7m\u202e\u200b[@click=app.quit]x[b][bold"

_CONTROL = re.compile(rb"\x1b\[[<=>?]?[0-9;:]*[ !$'\"]*([A-Za-z@`])")
_SHAPE = re.compile(rb"\x1b\]22;[a-z-]*\x07")  # of the mouse pointer
_BELL = re.compile(
    rb"\x1b\[[0-9]+;[0-9]+H\x07"
)  # Textual's own: no text is written without a style
_COPIED = re.compile(rb"\x1b\]52;c;[A-Za-z0-9+/=]*\x07")  # y copies a row: base64, nothing else
_FINALS = frozenset(b"mHJKhlnutrABCDGdXqcpSTsz")
_PLAIN = re.compile(
    rb"[\r\n\t\x20-\x7e]|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
_MARKS = (
    b"\x1b[7;53", b"\x1b[2;7J", b"\x1b]52;c;cHduZWQ", b"\x1b]0;", b"\x1b]2;", b"\x1b]8;", b"\x1bc",
    b"\x1bP+q544e", b"\x1b_", b"\x1b^",
)  # fmt: skip


def intruders(raw: bytes) -> list[str]:
    """What in a program's output a terminal would obey, and no screen of ours asks for."""
    found = [f"{mark!r} near {_near(raw, raw.index(mark))}" for mark in _MARKS if mark in raw]
    place = 0
    while place < len(raw):
        bell = _BELL.match(raw, place)
        if bell is not None:
            place = bell.end()
            continue
        control = _CONTROL.match(raw, place)
        if control is not None and control[1][0] in _FINALS:
            place = control.end()
            continue
        known = _SHAPE.match(raw, place) or _COPIED.match(raw, place)
        if known is not None:
            place = known.end()
            continue
        plain = _PLAIN.match(raw, place)
        if plain is None:
            found.append(f"byte {raw[place]:#x} near {_near(raw, place)}")
            place += 1
        else:
            if _invisible(plain[0]):
                found.append(f"{plain[0]!r} near {_near(raw, place)}")
            place = plain.end()
        if len(found) > 20:
            break
    return found


def _near(raw: bytes, place: int) -> str:
    return repr(raw[max(0, place - 60) : place + 40])


def _invisible(char: bytes) -> bool:
    if len(char) == 1:
        return False
    code = ord(char.decode("utf-8", "replace"))
    return (
        0x80 <= code < 0xA0
        or 0x200B <= code <= 0x200F
        or 0x2028 <= code <= 0x202E
        or 0x2060 <= code <= 0x206F
        or 0xE0000 <= code <= 0xE0FFF
        or code == 0xFEFF
    )


class Recorded:
    """A program that has ended: its status, and every byte it sent to its terminal."""

    def __init__(self, status: int, raw: bytes) -> None:
        self.status, self.raw = status, raw

    @property
    def end(self) -> str:
        """The last words, for a failing test's message."""
        return self.raw[-3000:].decode("utf-8", "replace").replace("\x1b", "␛")


def record(
    command: Sequence[str],
    *,
    size: tuple[int, int] = (120, 36),
    env: Mapping[str, str] | None = None,
    limit: float = 120.0,
    typed: bytes = b"",
) -> Recorded:
    """Run a program on a pseudo-terminal to its end. AssertionError when it does not end."""
    environ = {key: os.environ[key] for key in _INHERITED if key in os.environ}
    environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"}
    environ |= dict(env or {})
    pid, fd = pty.fork()
    if pid == 0:  # pragma: no cover - the child
        os.execvpe(command[0], list(command), environ)
    resize(fd, *size)
    raw, end = bytearray(), time.monotonic() + limit
    if typed:
        os.write(fd, typed)
    try:
        while time.monotonic() < end:
            ready, _, _ = select.select([fd], [], [], 0.5)
            if not ready:
                continue
            try:
                got = os.read(fd, 1 << 16)
            except OSError:
                got = b""
            if not got:
                _, status = os.waitpid(pid, 0)
                return Recorded(os.waitstatus_to_exitcode(status), bytes(raw))
            raw += got
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise AssertionError(f"still running after {limit} s: {Recorded(-1, bytes(raw)).end}")
    finally:
        os.close(fd)


def resize(fd: int, columns: int, rows: int) -> None:
    """Give a terminal another size; the program in it gets SIGWINCH."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
