"""Regular expressions that cannot hang: linear time where possible, a time limit where not.

google-re2 matches in linear time. What it does not know (look-around, back-references) runs on
Python's ``re`` in a process of its own, which is ended when a match takes too long.
"""

from __future__ import annotations

import contextlib
import re
import select
import subprocess
import sys
import weakref
from functools import lru_cache
from typing import Protocol

import re2

from finetui.errors import UserError

SECONDS = 1.0
_MEMORY = 64 << 20


class TooSlow(Exception):
    """A match was given up after its time."""


class Pattern(Protocol):
    """A compiled pattern. ``search`` and ``whole`` may raise TooSlow."""

    def search(self, text: str) -> bool:
        """Whether it matches anywhere."""

    def whole(self, text: str) -> bool:
        """Whether it matches all of the text."""


@lru_cache(maxsize=256)
def compiled(pattern: str, seconds: float = SECONDS) -> Pattern:
    """A pattern to match with. Raises UserError when it is no regular expression."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(f"is no regular expression ({error}).", pattern) from error
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY
    try:
        return _Linear(re2.compile(pattern, options=options))
    except re2.error:
        return _Limited(pattern, seconds)


class _Linear:
    def __init__(self, pattern: re2._Regexp[str]) -> None:
        self._pattern = pattern

    def search(self, text: str) -> bool:
        return self._pattern.search(_encodable(text)) is not None

    def whole(self, text: str) -> bool:
        return self._pattern.fullmatch(_encodable(text)) is not None


class _Limited:
    """Asks a process, which is started at the first question and again after a slow one."""

    def __init__(self, pattern: str, seconds: float) -> None:
        self._pattern = pattern
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def search(self, text: str) -> bool:
        return self._ask(b"s", text)

    def whole(self, text: str) -> bool:
        return self._ask(b"w", text)

    def _ask(self, how: bytes, text: str) -> bool:
        process = self._process or self._started()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(_framed(how + _encodable(text).encode()))
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], self._seconds)
            answer = process.stdout.read(1) if ready else b""
        except OSError:
            answer = b""
        if answer in (b"0", b"1"):
            return answer == b"1"
        self._end()
        raise TooSlow(f"no match within {self._seconds:g} s")

    def _started(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _WORKER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._ender = weakref.finalize(self, _ended, self._process)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(_framed(self._pattern.encode()))
        self._process.stdin.flush()
        self._process.stdout.read(1)  # its start does not count
        return self._process

    def _end(self) -> None:
        self._process = None
        self._ender()


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what it had not read yet is lost with it
                pipe.close()


_WORKER = """
import re, sys
read, write = sys.stdin.buffer.read, sys.stdout.buffer
def take():
    head = read(8)
    return read(int.from_bytes(head, "big")).decode() if len(head) == 8 else sys.exit()
pattern = re.compile(take())
def tell(byte):
    write.write(byte)
    write.flush()
tell(b".")
while True:
    text = take()
    found = (pattern.search if text[0] == "s" else pattern.fullmatch)(text[1:])
    tell(b"1" if found else b"0")
"""


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + data


def _encodable(text: str) -> str:
    """``text`` with lone surrogates, which no UTF-8 can hold, as question marks."""
    return text.encode("utf-8", "replace").decode()
