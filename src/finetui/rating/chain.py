"""Append-only files of hash-chained JSON lines, the form of votes and of the audit log.

Each line is one JSON object that ends in ``"h"``, the SHA-256 of the same bytes without that
member. The object names the ``h`` of the line before in ``"prev"``; the first line names a genesis
value that ties the file to its session. A line is on the disk when ``append`` returns.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from finetui.errors import BROKEN
from finetui.workspace import sync_folder

_H_OPEN = b',"h":"'
_H_CLOSE = b'"}'
_SUFFIX = len(_H_OPEN) + 64 + len(_H_CLOSE)


class Link(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What every chained record has: the hash of the record before it."""

    prev: str = ""


class _Stated(msgspec.Struct):
    prev: str
    h: str


class Chain(NamedTuple):
    """One chained file as read back.

    ``lines`` are the trusted records (bytes, without newline) and ``hashes`` their hashes.
    ``problem`` says where the chain breaks ("" when it holds); from there on ``set_aside`` lines
    are not trusted. ``torn`` counts the bytes of an unfinished last line: nobody was told that it
    was saved. ``head`` is the hash of the last trusted line.
    """

    lines: list[bytes]
    hashes: list[str]
    problem: str
    set_aside: int
    torn: int
    head: str


def encode_line(record: Link) -> tuple[bytes, str]:
    """The line for a record that already names its predecessor, newline included, and its hash
    (hex)."""
    body = msgspec.json.encode(record)
    digest = hashlib.sha256(body).hexdigest()
    return body[:-1] + _H_OPEN + digest.encode() + _H_CLOSE + b"\n", digest


def read_chain(path: Path, genesis: str) -> Chain:
    """Read and check a chained file; a missing file is an empty chain."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    lines = data.split(b"\n")
    torn = len(lines.pop())
    if lines and _stated(lines[-1]) is None:
        torn += len(lines.pop()) + 1
    hashes: list[str] = []
    problem, trusted = "", len(lines)
    expected = genesis
    for number, line in enumerate(lines, start=1):
        problem, trusted = _check(line, number, expected)
        if problem:
            break
        expected = line[-len(_H_CLOSE) - 64 : -len(_H_CLOSE)].decode()
        hashes.append(expected)
    hashes = hashes[:trusted]
    head = hashes[-1] if hashes else genesis
    return Chain(lines[:trusted], hashes, problem, len(lines) - trusted, torn, head)


def _check(line: bytes, number: int, expected: str) -> tuple[str, int]:
    """The problem with line ``number`` ("" if none), and how many lines before or with it stay
    trusted."""
    stated = _stated(line)
    if stated is None:
        return f"line {number} is no chained record", number - 1
    body = line[:-_SUFFIX] + b"}"
    if hashlib.sha256(body).hexdigest() != stated.h:
        return f"line {number} was changed after it was written", number - 1
    if stated.prev != expected:
        if number == 1:
            return "line 1 does not start this session's chain", 0
        return (
            f"line {number} does not follow line {number - 1}: something was changed or removed",
            number - 2,
        )
    return "", number


def _stated(line: bytes) -> _Stated | None:
    ends_well = line[-_SUFFIX : -_SUFFIX + len(_H_OPEN)] == _H_OPEN
    try:
        return msgspec.json.decode(line, type=_Stated) if ends_well else None
    except BROKEN:
        return None


class ChainWriter:
    """The only writer of one new chained file; holds a lock so that nobody repairs it meanwhile."""

    def __init__(self, path: Path, genesis: str, mode: int = 0o600) -> None:
        self.path = path
        self.head = genesis
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(path, flags, mode)
        self._size = 0
        os.fchmod(self._fd, mode)  # the umask may have taken the group's right to read
        _lock(self._fd, wait=False)
        sync_folder(path.parent)

    def append(self, record: Link) -> str:
        """Write one record behind the others and return its hash once the disk has it.

        Raises OSError.
        """
        if self._fd < 0:
            raise OSError(errno.EBADF, "the file is closed", str(self.path))
        line, digest = encode_line(msgspec.structs.replace(record, prev=self.head))
        try:
            _write_all(self._fd, line)
            os.fsync(self._fd)
        except OSError:
            # A half-written line would break the chain for the next one.
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(line)
        self.head = digest
        return digest

    def close(self) -> None:
        """Let go of the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def append_shared(path: Path, genesis: str, record: Link) -> str:
    """Append to a file that several processes write now and then (the audit log).

    Returns the record's hash.

    Raises OSError, and ValueError when the chain is already broken.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        _lock(fd, wait=True)
        _drop_torn(path, fd, genesis)
        chain = read_chain(path, genesis)
        if chain.problem:
            raise ValueError(chain.problem)
        line, digest = encode_line(msgspec.structs.replace(record, prev=chain.head))
        _write_all(fd, line)
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_folder(path.parent)
    return digest


def repair(path: Path, genesis: str) -> int:
    """Move an unfinished last line to ``<file>.torn``; returns the bytes moved.

    Does nothing while the file's writer lives, or where locks or writing are not to be had: reading
    skips the tail anyway.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return _drop_torn(path, fd, genesis) if _lock(fd, wait=False) else 0
    finally:
        os.close(fd)


def _drop_torn(path: Path, fd: int, genesis: str) -> int:
    torn = read_chain(path, genesis).torn
    if not torn:
        return 0
    size = os.fstat(fd).st_size
    with open(f"{path}.torn", "ab") as kept:
        kept.write(os.pread(fd, torn, size - torn) + b"\n")
        kept.flush()
        os.fsync(kept.fileno())
    os.ftruncate(fd, size - torn)
    os.fsync(fd)
    sync_folder(path.parent)
    return torn


def _lock(fd: int, wait: bool) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
