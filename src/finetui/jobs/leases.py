"""Leases of the machine's GPUs: one lock a GPU for all users, and a fair queue of tickets.

    queue.lock             held for the moment in which somebody looks at the queue and takes
    gpu-<uuid>.lock        held by who has the GPU; never removed
    ticket-<number>-...    one for each waiter and holder, held as long as it lives

Every lock is a flock and dies with its holder, so nothing has to be cleared away after a kill:
a ticket that nobody holds is a dead one's, and whoever comes next removes it. The folder is
shared and sticky: files of others are opened for reading only, which a flock is content with.

A waiter takes all the GPUs that it wants at once or none, and none that somebody before it in the
queue could use.
"""

import contextlib
import errno
import fcntl
import os
import pwd
import random
import re
import secrets
import stat
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec

from finetui.display import clean
from finetui.errors import BROKEN, UserError
from finetui.jobs import procfs
from finetui.jobs.devices import DeviceSample, Gpu, GpuProcess, held_memory

FOLDER_VARIABLE = "FINETUI_LEASES"
OFF = "off"

_NAME = "finetui-gpus"
_BASES = (Path("/run/lock"), Path("/tmp"))
_QUEUE = "queue.lock"
_DRAFT = ".new-"
_TICKET = re.compile(r"ticket-(\d{1,15})-[0-9a-f]{8}")
_KEY = re.compile(r"[A-Za-z0-9._:/-]{1,80}")
_NOTE_LIMIT = 4096
_TEXT_LIMIT = 80
_MUTEX_S = 10.0
_RETRY_S, _RETRY_MOST_S = 0.002, 0.05
# A waiter that has not looked for so long is stopped or hangs: the queue goes past it.
_SILENT_S = 60.0

# What a process holds of a GPU before it counts as at work there: a desktop needs less.
STRANGER_BYTES = 512 << 20
# Memory that no process answers for is partly the driver's own, more of it on larger GPUs.
UNSEEN_BYTES, UNSEEN_SHARE = 2 << 30, 0.02


class QueueBusyError(Exception):
    """The queue's lock was not free for seconds: a process stopped while it had it."""


class _Note(msgspec.Struct):
    """What a ticket's file says. `t` is the unix time since when it waits, or has its GPUs."""

    job: str
    pid: int
    wants: int
    among: list[str]
    t: float
    holds: list[str] = []
    shares: list[str] = []
    worker: int = 0


@dataclass(frozen=True)
class Ticket:
    """A waiter or holder, as its file says; text of others is made printable.

    ``among`` are the GPUs (by key) that it may use and ``wants`` how many of them it needs.
    ``holds`` are its leases, ``shares`` GPUs that it uses without one. `t` is the unix time since
    when it waits or, once it has GPUs, has them. ``silent_s`` is how long ago it last looked at
    the queue.
    """

    number: int
    user: str
    job: str
    pid: int
    worker: int
    wants: int
    among: tuple[str, ...]
    t: float
    holds: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()
    silent_s: float = 0.0

    @property
    def waits(self) -> bool:
        return not self.holds and not self.shares


@dataclass(frozen=True)
class Lease:
    """One GPU of the machine and who has it.

    ``held`` without a ``holder`` is a lock whose holder left no ticket. ``sharers`` were started
    beside on purpose. ``strangers`` are processes with memory there that belong to neither; pid 0
    is memory that no process answers for.
    """

    gpu: Gpu
    held: bool
    holder: Ticket | None
    sharers: tuple[Ticket, ...] = ()
    strangers: tuple[GpuProcess, ...] = ()

    @property
    def free(self) -> bool:
        """True when a run would take it unasked."""
        return not (self.held or self.sharers or self.strangers or self.gpu.problem)


@dataclass(frozen=True)
class Overview:
    """All GPUs, and who waits, first come first. ``problem`` says why there is nothing to see."""

    leases: tuple[Lease, ...]
    waiters: tuple[Ticket, ...]
    problem: str = ""


def overview(sample: DeviceSample, folder: Path | None = None) -> Overview:
    """Who has which GPU and who waits; takes nothing, writes nothing, raises nothing."""
    path = folder or leases_folder()
    problem = sample.problem
    tickets: list[Ticket] = []
    held: set[str] = set()
    if path is None:
        problem = problem or f"leases are switched off ({FOLDER_VARIABLE}={OFF})"
    else:
        try:
            with _opened(path) as place:
                tickets = _living(place)
                held = {key_of(gpu) for gpu in sample.gpus if _lease_is_held(place, key_of(gpu))}
        except FileNotFoundError:
            pass  # nobody has asked for a GPU yet
        except (OSError, UserError) as error:
            problem = problem or f"the leases cannot be read: {error}"
    leases = tuple(_lease(gpu, tickets, held) for gpu in sample.gpus)
    return Overview(leases, tuple(one for one in tickets if one.waits), problem)


def _lease(gpu: Gpu, tickets: Sequence[Ticket], held: Collection[str]) -> Lease:
    key = key_of(gpu)
    holder = next((one for one in tickets if key in one.holds and key in held), None)
    sharers = tuple(one for one in tickets if key in one.shares)
    known = [one for one in (holder, *sharers) if one is not None]
    return Lease(gpu, key in held, holder, sharers, strangers(gpu, known))


def strangers(gpu: Gpu, tickets: Sequence[Ticket] = ()) -> tuple[GpuProcess, ...]:
    """Processes that hold memory of a GPU worth a word and belong to none of the tickets."""
    ours = {pid for one in tickets for pid in (one.pid, one.worker) if pid > 0}
    found = []
    for process in held_memory(gpu):
        if process.pid == 0:
            # Where a ticket's processes hide in another container, the rest may be theirs.
            least = max(UNSEEN_BYTES, UNSEEN_SHARE * (gpu.memory_total or 0))
            if not tickets and (process.memory or 0) >= least:
                found.append(process)
        elif (process.memory or 0) >= STRANGER_BYTES and not _descends(process.pid, ours):
            found.append(process)
    return tuple(found)


def _descends(pid: int, from_any: Collection[int]) -> bool:
    seen = 0
    while pid > 1 and seen < 64:
        if pid in from_any:
            return True
        pid, seen = procfs.parent(pid) or 0, seen + 1
    return False


def key_of(gpu: Gpu) -> str:
    """The name of a GPU in the queue: its UUID, which is the same in every process."""
    return gpu.uuid if gpu.uuid and _KEY.fullmatch(gpu.uuid) else f"index-{gpu.index}"


def leases_folder(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The folder that all users of this machine share; None when leases are switched off.

    FINETUI_LEASES names another one, or is "off".
    """
    named = environ.get(FOLDER_VARIABLE, "")
    if named == OFF:
        return None
    if named:
        return Path(named).absolute()
    # The choice depends on the machine alone, so that all its users come to the same folder.
    base = next((base for base in _BASES if _is_for_all(base)), _BASES[-1])
    return base / _NAME


def _is_for_all(base: Path) -> bool:
    try:
        found = base.stat()
    except OSError:
        return False
    return found.st_uid == 0 and found.st_mode & 0o1002 == 0o1002


class Request:
    """One job's place in the queue, and the leases that it gets.

    It dies with the processes that have its descriptors: those are to be passed to the worker, so
    that the death of the supervisor frees nothing that is still in use.
    """

    def __init__(self, folder: Path, job: str, wants: int, among: Sequence[str]) -> None:
        assert wants > 0
        self.folder = folder
        self.wants = wants
        self._note = _Note(job[:_TEXT_LIMIT], os.getpid(), wants, list(among), time.time())
        self._leases: dict[str, int] = {}
        self._ticket = self._kept = -1
        self._name = ""
        self.number = 0

    @property
    def holds(self) -> tuple[str, ...]:
        return tuple(self._leases)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What the worker must inherit: the ticket and the leases, and what keeps the folder."""
        own = (self._kept, self._ticket)
        return (*(one for one in own if one >= 0), *self._leases.values())

    def enter(self) -> None:
        """Draw a ticket: the last place in the queue. Raises UserError, QueueBusyError."""
        self.leave()  # what a try that failed half-way left
        _make_folder(self.folder)
        with _opened(self.folder) as place, _mutex(place):
            if self._kept < 0:
                # Who clears /tmp of old files leaves a folder alone that somebody has locked.
                self._kept = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
                _flock(self._kept, fcntl.LOCK_SH)
            tickets = _living(place, sweep=True)
            self.number = max((one.number for one in tickets), default=0) + 1
            self._name = f"ticket-{self.number:08d}-{secrets.token_hex(4)}"
            _publish(place, self._name, _encoded(self._note))
            self._ticket = _open(place, self._name, os.O_RDWR)
            _lock_own(self._ticket)

    def ahead(self) -> list[Ticket]:
        """Who waits before us, first come first."""
        with _opened(self.folder) as place:
            return [one for one in _living(place) if one.waits and one.number < self.number]

    def take(self, usable: Sequence[str], blocked: Collection[str] = ()) -> bool:
        """Take as many of the usable GPUs as are wanted, the first ones first, or none.

        ``blocked`` are those that are occupied without a lease: who waits for one of them keeps
        nobody from the others meanwhile. Raises UserError, QueueBusyError, and FileNotFoundError
        when somebody removed the ticket: leave and enter anew.
        """
        with _opened(self.folder) as place, _mutex(place):
            if not _is_in_place(place, self._name, self._ticket):
                raise FileNotFoundError(errno.ENOENT, "the ticket is gone", self._name)
            os.utime(self._ticket)
            kept = _kept_for_others(_living(place, sweep=True), self.number, blocked)
            return self._lock(place, [key for key in usable if key not in kept])

    def _lock(self, place: int, keys: Sequence[str]) -> bool:
        taken: dict[str, int] = {}
        for key in keys:
            if len(taken) == self.wants:
                break
            lease = _take_lease(place, key)
            if lease is not None:
                taken[key] = lease
        if len(taken) < self.wants:
            _close(taken.values())
            return False
        self._leases = taken
        self._write(holds=list(taken), t=time.time())
        return True

    def share(self, keys: Sequence[str]) -> tuple[str, ...]:
        """Take the first GPUs of ``keys`` that are wanted, with a lease where it is free.

        Passes over the queue; goes on also where the queue's lock is not to be had. Returns what
        it got, fewer than wanted only where ``keys`` are fewer.
        """
        wanted = list(keys[: self.wants])
        with _opened(self.folder) as place, contextlib.ExitStack() as stack:
            with contextlib.suppress(QueueBusyError):
                stack.enter_context(_mutex(place))
            for key in wanted:
                lease = _take_lease(place, key)
                if lease is not None:
                    self._leases[key] = lease
            shared = [key for key in wanted if key not in self._leases]
            self._write(holds=list(self._leases), shares=shared, t=time.time())
        return tuple(wanted)

    def name_worker(self, pid: int) -> None:
        """Say which process works under the leases, should the supervisor die."""
        self._write(worker=pid)

    def leave(self) -> None:
        """Give everything back."""
        _close(self._leases.values())
        self._leases = {}
        if self._ticket >= 0:
            with contextlib.suppress(OSError), _opened(self.folder) as place:
                os.unlink(self._name, dir_fd=place)
            os.close(self._ticket)
        if self._kept >= 0:
            os.close(self._kept)
        self._ticket = self._kept = -1

    def _write(self, **changes: object) -> None:
        self._note = msgspec.structs.replace(self._note, **changes)
        if self._ticket >= 0:
            os.pwrite(self._ticket, _encoded(self._note), 0)


def _kept_for_others(tickets: Sequence[Ticket], number: int, blocked: Collection[str]) -> set[str]:
    """The GPUs that waiters before this number could use, once there are enough for them."""
    kept: set[str] = set()
    for one in tickets:
        open_to = set(one.among) - set(blocked)
        ours_first = one.number >= number or one.silent_s > _SILENT_S
        if one.waits and not ours_first and len(open_to) >= one.wants:
            kept |= open_to
    return kept


def _make_folder(path: Path) -> None:
    """Make the folder for everybody. Raises UserError when it cannot be, or cannot be trusted."""
    before = os.umask(0)
    try:
        path.mkdir(mode=0o1777)
    except FileExistsError:
        pass
    except OSError as error:
        raise UserError(
            f"the folder of the GPU leases cannot be made ({error.strerror}).",
            str(path),
            f"Name another one that all users share: {FOLDER_VARIABLE}=FOLDER",
        ) from error
    finally:
        os.umask(before)
    with _opened(path):
        pass


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The folder's descriptor: never through a link, never where anybody may remove anything."""
    try:
        place = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(
            f"the folder of the GPU leases cannot be opened ({error.strerror}).",
            str(path),
            f"Ask who made it to open it to all, or use another: {FOLDER_VARIABLE}=FOLDER",
        ) from error
    try:
        mode = os.fstat(place).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise UserError(
                "anybody may remove anybody's leases here.", str(path), f"chmod +t {path}"
            )
        yield place
    finally:
        os.close(place)


@contextlib.contextmanager
def _mutex(place: int) -> Iterator[None]:
    """Be the only one to change the queue. Raises QueueBusyError after some seconds."""
    deadline, pause = time.monotonic() + _MUTEX_S, _RETRY_S
    while True:
        lock = _open_or_make(place, _QUEUE)
        try:
            if _flock(lock) and _is_in_place(place, _QUEUE, lock):
                yield
                return
        finally:
            os.close(lock)
        if time.monotonic() > deadline:
            raise QueueBusyError
        # Not in step with the other waiters, and the less often the more of them there are.
        time.sleep(pause * (0.5 + random.random()))
        pause = min(2 * pause, _RETRY_MOST_S)


def _take_lease(place: int, key: str) -> int | None:
    """The descriptor of a GPU's lock, None when somebody has it."""
    name = _lease_name(key)
    lock = _open_or_make(place, name)
    if _flock(lock) and _is_in_place(place, name, lock):
        return lock
    os.close(lock)
    return None


def _lease_is_held(place: int, key: str) -> bool:
    try:
        lock = _open(place, _lease_name(key), os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _flock(lock, fcntl.LOCK_SH)
    finally:
        os.close(lock)


def _lease_name(key: str) -> str:
    return f"gpu-{key.replace('/', '_')}.lock"


def _flock(lock: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_own(ticket: int) -> None:
    # A reader that probes it has it for microseconds.
    deadline = time.monotonic() + _MUTEX_S
    while not _flock(ticket):
        if time.monotonic() > deadline:
            raise QueueBusyError
        time.sleep(_RETRY_S)


def _is_in_place(place: int, name: str, lock: int) -> bool:
    """Whether the name still leads to the file that was locked, not to a newer one."""
    try:
        now = os.stat(name, dir_fd=place, follow_symlinks=False)
    except OSError:
        return False
    locked = os.fstat(lock)
    return (now.st_dev, now.st_ino) == (locked.st_dev, locked.st_ino)


def _open_or_make(place: int, name: str) -> int:
    """Open a lock file for reading, making it first where it is missing.

    Never O_CREAT on what may be another user's: the kernel refuses that in a sticky folder.
    """
    for _ in range(8):
        try:
            return _open(place, name, os.O_RDONLY)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                _publish(place, name, b"")
    raise OSError(errno.ENOENT, "it is made and removed again", name)


def _open(place: int, name: str, flags: int) -> int:
    """Open a plain file of the folder: no link, no pipe that would block."""
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=place)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no plain file", name)
    return descriptor


def _publish(place: int, name: str, content: bytes) -> None:
    """Make a file that all may read, whole or not at all. Raises FileExistsError."""
    draft = f"{_DRAFT}{os.getpid()}-{secrets.token_hex(4)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(draft, flags, 0o600, dir_fd=place)
    try:
        os.write(descriptor, content)
        os.fchmod(descriptor, 0o644)
        os.link(draft, name, src_dir_fd=place, dst_dir_fd=place, follow_symlinks=False)
    finally:
        os.close(descriptor)
        os.unlink(draft, dir_fd=place)


def _living(place: int, sweep: bool = False) -> list[Ticket]:
    """The tickets that somebody holds, first come first.

    With ``sweep`` (under the mutex) those of the dead are removed, and drafts that nobody
    published; those of other users only they can remove.
    """
    found = []
    for name in os.listdir(place):
        with contextlib.suppress(OSError):
            if _TICKET.fullmatch(name):
                found.append(_read_ticket(place, name, sweep))
            elif sweep and name.startswith(_DRAFT):
                age = time.time() - os.stat(name, dir_fd=place, follow_symlinks=False).st_mtime
                if age > _SILENT_S:
                    os.unlink(name, dir_fd=place)
    return sorted((one for one in found if one), key=lambda one: (one.number, one.pid))


def _read_ticket(place: int, name: str, sweep: bool) -> Ticket | None:
    """A ticket that is held; None for a dead one's, and for what is none. Raises OSError."""
    descriptor = _open(place, name, os.O_RDONLY)
    try:
        if _flock(descriptor, fcntl.LOCK_SH):
            if sweep:
                os.unlink(name, dir_fd=place)
            return None
        # A second time, should the first have met its writing.
        return _ticket(name, descriptor) or _ticket(name, descriptor)
    finally:
        os.close(descriptor)


def _ticket(name: str, descriptor: int) -> Ticket | None:
    found = os.fstat(descriptor)
    line = os.pread(descriptor, _NOTE_LIMIT, 0).partition(b"\n")[0]
    try:
        note = msgspec.json.decode(line, type=_Note)
    except BROKEN:
        return None
    number = _TICKET.fullmatch(name)
    assert number is not None
    return Ticket(
        number=int(number[1]),
        user=_user(found.st_uid),  # of the file, not of what it says
        job=clean(note.job[:_TEXT_LIMIT]),
        pid=note.pid,
        worker=note.worker,
        wants=max(1, note.wants),
        among=_keys(note.among),
        t=note.t,
        holds=_keys(note.holds),
        shares=_keys(note.shares),
        silent_s=max(0.0, time.time() - found.st_mtime),
    )


def _keys(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for word in words if _KEY.fullmatch(word))


def _encoded(note: _Note) -> bytes:
    # Padded: a shorter line over a longer one must not leave its end behind as a line.
    return msgspec.json.encode(note).ljust(_NOTE_LIMIT - 1) + b"\n"


@lru_cache(maxsize=64)
def _user(uid: int) -> str:
    try:
        return clean(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return str(uid)


def _close(descriptors: Collection[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
