"""Where a worker stands: the stacks of all its threads, written by the worker itself on a signal.

    stack-a<N>.txt, stack-a<N>-r<R>.txt   one a process: who it is, then what was asked for

The signal's handler is faulthandler's, in C, so it answers while Python waits in a library. The
process is asked through a pidfd, and only when it holds this very file open and catches the
signal: no other process can be reached, and none is ended.
"""

import contextlib
import faulthandler
import linecache
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from finetui.errors import BROKEN, UserError
from finetui.jobs import procfs
from finetui.jobs.folder import Job

# Not USR1: NCCL and batch systems use it.
SIGNAL = signal.SIGUSR2
_ANSWER_S = 5.0
_QUIET_S = 0.1
_POLL_S = 0.02
_NAME = re.compile(r"stack-a(\d+)(?:-r(\d+))?\.txt")
_FRAME = re.compile(r'  File "(.+\.py)", line (\d+) in ')
_STATES = {
    "R": "running",
    "S": "waiting",
    "D": "waiting inside the kernel, for a disk or a device",
    "T": "stopped by a signal",
    "t": "stopped by a debugger",
    "I": "idle",
}


class _Who(msgspec.Struct):
    """The first line of a stack file: the process that writes it."""

    pid: int
    start: int
    host: str
    boot_id: str
    rank: int = 0


@dataclass(frozen=True)
class _Asked:
    """One process that was asked: its file from `place` on is the answer."""

    who: _Who
    path: Path
    place: int
    note: str


class Listener:
    """The worker's end: while it is open, SIGNAL has every thread's stack written down."""

    def __init__(self, path: Path, rank: int) -> None:
        me = os.getpid()
        who = _Who(me, procfs.start_time(me) or 0, procfs.host(), procfs.boot_id(), rank)
        self._file = -1
        # A run is not to fail for want of this.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
            self._file = os.open(path, flags, 0o600)
            os.write(self._file, msgspec.json.encode(who) + b"\n")
            faulthandler.register(SIGNAL, self._file, all_threads=True, chain=False)

    def close(self) -> None:
        """Stop listening; a second call does nothing."""
        if self._file >= 0:
            faulthandler.unregister(SIGNAL)
            os.close(self._file)
            self._file = -1


def listen(job: Job, attempt: int, rank: int = 0) -> Listener:
    """Let this process be asked where it stands; ranks other than 0 have a file each."""
    rest = f"-r{rank}" if rank else ""
    return Listener(job.path / f"stack-a{attempt}{rest}.txt", rank)


def ask(job: Job, wait_s: float = _ANSWER_S) -> str:
    """Return where all processes of a job's newest attempt stand, in lines for people.

    Names and text of files in it are as they are: `display.clean_block` before a terminal sees
    it. Raises UserError when there is no process that could be asked.
    """
    files = _files(job)
    if not files:
        raise UserError("no process of it can be asked.", job.id, "It has not begun its work yet.")
    found = [_ask_process(job, path) for path in files]
    if not any(isinstance(one, _Asked) for one in found):
        raise UserError("; ".join(map(str, found)), job.id)
    deadline = time.monotonic() + wait_s
    parts = [_told(one, deadline) if isinstance(one, _Asked) else one for one in found]
    return "\n\n".join(parts)


def _files(job: Job) -> list[Path]:
    """The stack files of the newest attempt, by rank."""
    found = [
        (int(match[1]), int(match[2] or 0), path)
        for path in job.path.glob("stack-a*.txt")
        if (match := _NAME.fullmatch(path.name))
    ]
    newest = max((attempt for attempt, _, _ in found), default=0)
    return [path for attempt, _, path in sorted(found) if attempt == newest]


def _ask_process(job: Job, path: Path) -> _Asked | str:
    """Send the signal to the process of one file; a sentence where that is not possible."""
    try:
        with path.open("rb") as file:
            who = msgspec.json.decode(file.readline(4096), type=_Who)
    except PermissionError:
        return f"{path.name} may only be read by its owner; have them run: finetui stack {job.id}"
    except (OSError, *BROKEN):
        return f"{path.name} does not say whose it is"
    name = f"rank {who.rank}, process {who.pid}"
    if who.host != procfs.host():
        return f"{name} runs on {who.host}; run there: finetui stack {job.path}"
    try:
        handle = os.pidfd_open(who.pid) if who.pid > 0 else -1
    except OSError:
        handle = -1
    if handle < 0:
        return f"{name} is gone"
    try:
        return _signal(handle, who, path, name)
    finally:
        os.close(handle)


def _signal(handle: int, who: _Who, path: Path, name: str) -> _Asked | str:
    if who.boot_id != procfs.boot_id() or not procfs.is_alive(who.pid, who.start):
        return f"{name} is gone"
    try:
        if not _holds(who.pid, path) or not procfs.catches(who.pid, SIGNAL):
            return f"{name} does not listen any more"
    except PermissionError:
        owner = procfs.process_user(who.pid)
        return f"{name} belongs to {owner}: only {owner} may ask it where it stands"
    state, place = procfs.process_state(who.pid), path.stat().st_size
    if state in ("T", "t"):
        return f"{name} is {_STATES[state]}; it goes on with: kill -CONT {who.pid}"
    inside = procfs.waits_in(who.pid)
    note = _STATES.get(state, f"in state {state}") + (f" in {inside}" if inside else "")
    try:
        signal.pidfd_send_signal(handle, SIGNAL)
    except ProcessLookupError:
        return f"{name} is gone"
    return _Asked(who, path, place, note)


def _holds(pid: int, path: Path) -> bool:
    """Whether a process has this file open. Raises PermissionError for a foreign process."""
    wanted = path.stat()
    for entry in os.scandir(procfs.PROC / str(pid) / "fd"):
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(entry.path)
            if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                return True
    return False


def _told(asked: _Asked, deadline: float) -> str:
    head = f"rank {asked.who.rank}, process {asked.who.pid} on {asked.who.host}: {asked.note}"
    lines = _main_thread_first(_answer(asked, deadline))
    if not lines:
        return f"{head}; it did not answer, so even its signals wait"
    return "\n".join([head, *(_with_code(line) for line in lines)])


def _main_thread_first(lines: list[str]) -> list[str]:
    """The oldest thread, which does the work, is written last."""
    threads = [part for part in "\n".join(lines).split("\n\n") if part.strip()]
    return "\n\n".join(reversed(threads)).splitlines()


def _answer(asked: _Asked, deadline: float) -> list[str]:
    """What was written since the signal, once nothing more comes."""
    size, since = asked.place, time.monotonic()
    while time.monotonic() < deadline:
        now = asked.path.stat().st_size
        if now != size:
            size, since = now, time.monotonic()
        elif size > asked.place and time.monotonic() - since > _QUIET_S:
            break
        time.sleep(_POLL_S)
    with asked.path.open("rb") as file:
        file.seek(asked.place)
        return file.read().decode("utf-8", "replace").splitlines()


def _with_code(line: str) -> str:
    """A frame with its line of code, where this machine has the file."""
    match = _FRAME.match(line)
    code = linecache.getline(match[1], int(match[2])).strip() if match else ""
    return f"{line}\n    {code}" if code else line
