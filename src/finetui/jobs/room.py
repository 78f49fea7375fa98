"""Room on the disk: is there enough, what is wanted, and the last word on a disk that is full.

A full disk pauses a run (`WorkerSession.hold`), it never ends one. Two files are kept aside for
it in the job folder: `ballast`, whose removal makes room for a mebibyte of records, and
`ballast.word`, whose blocks become the last record when others took even that room.
"""

import contextlib
import ctypes
import errno
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from finetui.display import size
from finetui.errors import UserError
from finetui.jobs.folder import Job, read_json
from finetui.workspace import sync_folder

FULL = (errno.ENOSPC, errno.EDQUOT)
BALLAST_BYTES = 1 << 20
_WORD_BYTES = 64 << 10
_WAITING, _NOTE_BYTES = "waiting.json", 4096
# Directories, file heads and the manifest that a save writes besides what it says.
_MARGIN = 64 << 10
# A forecast knows the big files; logs and what others write come on top.
_BUDGET = 1.2
_SPOKEN = re.compile(r"No space left on device|Disk quota exceeded|os error (28|122)\b")
_QUOTA = re.compile(r"Disk quota exceeded|os error 122\b")
# What torch's own writer says of any failed write.
_VAGUE = re.compile(r"PytorchStreamWriter failed|file write failed|unexpected pos \d+ vs \d+")
_MOUNT_NAME = re.compile(r"\\([0-7]{3})")
_NOT_ABLE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True)
class Want:
    """What waits to be written: its name for people, the folder, and its size in bytes.

    `quota` is True when it was a quota that refused it, not the file system. `after` is the time
    (time.monotonic) of the next try where there seemed to be room and was none.
    """

    what: str
    folder: Path
    need: int
    quota: bool = False
    after: float = 0.0

    def met(self) -> bool:
        """Tell whether it would go onto the disk now."""
        return time.monotonic() >= self.after and has_room(self.folder, self.need + _MARGIN)

    def sentence(self) -> str:
        """Say what is full, how much is needed and how much is free."""
        where = mounted_at(self.folder)
        full = f"your quota on {where} is used up" if self.quota else f"{where} is full"
        there = f", {size(free(self.folder))} free" if not self.quota else ""
        if self.after:
            there = "; it seemed to have that, so it is tried again now and then"
        return f"{full}: {self.what} needs {size(self.need + _MARGIN)}{there}"


def free(folder: Path) -> int:
    """Return the bytes that this user may still write on a folder's file system."""
    found = os.statvfs(_existing(folder))
    return found.f_bavail * found.f_frsize


def has_room(folder: Path, need: int) -> bool:
    """Tell whether a file of `need` bytes can be made in a folder, quotas included.

    A file of this size is made and removed at once where the file system can do that without
    writing: nothing else knows quotas, and the number of files that may still be made.
    """
    place = _existing(folder)
    try:
        if free(place) < need:
            return False
        with tempfile.TemporaryFile(dir=place) as probe:
            _allocate(probe.fileno(), max(need, 1))
    except OSError as error:
        return error.errno not in FULL
    return True


def require(folder: Path, need: int, what: str) -> None:
    """Raise a UserError when what is about to be written will not fit, with a fifth to spare."""
    asked = round(need * _BUDGET) + BALLAST_BYTES + _MARGIN
    if has_room(folder, asked):
        return
    there = free(folder)
    why = f"{size(there)} is free" if there < asked else "your quota there allows less"
    raise UserError(
        f"{what} needs about {size(asked)} on disk; {why}.",
        mounted_at(folder),
        "Make room there, or keep fewer checkpoints (checkpoints.keep).",
    )


def is_full(error: BaseException, folder: Path | None = None, need: int = 0) -> bool:
    """Tell whether an error is that of a full disk or quota.

    The writers of weights do not raise OSError; where their words could mean anything, the free
    bytes of `folder` against `need` decide.
    """
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in FULL:
            return True
        if _SPOKEN.search(str(one)):
            return True
        if folder is not None and _VAGUE.search(str(one)):
            return not has_room(folder, max(need, _MARGIN))
    return False


def is_quota(error: BaseException) -> bool:
    """Tell whether it was a quota, of the errors that `is_full` knows."""
    return any(
        (isinstance(one, OSError) and one.errno == errno.EDQUOT) or _QUOTA.search(str(one))
        for one in _chain(error)
    )


def mounted_at(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Return the file system of a folder for people: ``/scratch (tmpfs)``."""
    place, kinds = os.path.realpath(folder), {}
    with contextlib.suppress(OSError):
        for line in mounts.read_text(errors="replace").splitlines():
            words = line.split()
            if len(words) > 2:
                kinds[_MOUNT_NAME.sub(lambda code: chr(int(code[1], 8)), words[1])] = words[2]
    while place not in kinds and place != os.path.dirname(place):
        place = os.path.dirname(place)
    return f"{place} ({kinds[place]})" if place in kinds else str(folder)


# -- what a paused run waits for -------------------------------------------------------------------


class WaitingNote:
    """What a paused run waits for, in a file whose block was taken while there was room."""

    def __init__(self, job: Job, attempt: int) -> None:
        self._path, self._attempt, self._said = job.path / _WAITING, attempt, ""
        self._file = -1
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
            self._file = os.open(self._path, flags, 0o600)
            self._write(b"")

    def say(self, sentence: str) -> None:
        """Say it; "" when the run waits for nothing any more. Never raises for a full disk."""
        if sentence == self._said or self._file < 0:
            return
        self._said = sentence
        note = {"attempt": self._attempt, "sentence": sentence[: _NOTE_BYTES // 8]}
        with contextlib.suppress(OSError):
            self._write(msgspec.json.encode(note) if sentence else b"")

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _write(self, content: bytes) -> None:
        os.pwrite(self._file, content.ljust(_NOTE_BYTES - 1)[: _NOTE_BYTES - 1] + b"\n", 0)


def waited_for(job: Job, attempt: int) -> str:
    """Return what a paused attempt waits for in one sentence, "" when for a person."""
    note = read_json(job.path / _WAITING) or {}
    sentence = note.get("sentence")
    return sentence if isinstance(sentence, str) and note.get("attempt") == attempt else ""


# -- what is kept aside ---------------------------------------------------------------------------


def lay_ballast(job: Job) -> None:
    """Keep room aside in the folder; without enough of it there is none."""
    for name, count in (("ballast", BALLAST_BYTES), ("ballast.word", _WORD_BYTES)):
        path = job.path / name
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, count)
            finally:
                os.close(descriptor)
        except OSError:
            path.unlink(missing_ok=True)


def has_ballast_or_room(job: Job) -> bool:
    """Tell whether the ballast is there, or can be laid again."""
    return (job.path / "ballast").exists() or has_room(job.path, BALLAST_BYTES + _MARGIN)


def drop_ballast(job: Job, *, word: bool = False) -> None:
    """Give the room back; with `word` also what is kept for the last word."""
    for name in ("ballast", "ballast.word") if word else ("ballast",):
        with contextlib.suppress(OSError):
            (job.path / name).unlink()


def last_word(job: Job, name: str, record: object) -> None:
    """Publish one JSON record of a job folder, on a full disk with the room kept aside."""
    try:
        job.write_json(name, record)
        return
    except OSError as error:
        if error.errno not in FULL:
            raise
    drop_ballast(job)
    try:
        job.write_json(name, record)
    except OSError as error:
        if error.errno not in FULL or not _write_over_word(job, name, record):
            raise


def _write_over_word(job: Job, name: str, record: object) -> bool:
    """Make the file kept for it the record: its blocks are there, so nothing has to be found."""
    word, content = job.path / "ballast.word", msgspec.json.encode(record) + b"\n"
    if len(content) > _WORD_BYTES:
        return False
    try:
        descriptor = os.open(word, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(word, job.path / name)
    sync_folder(job.path)
    return True


def _allocate(descriptor: int, count: int) -> None:
    """Have the blocks of a file without writing them; nothing where that cannot be done.

    Not posix_fallocate: on a network disk without this call it would write every block.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    offset = ctypes.c_longlong
    if libc.fallocate64(descriptor, 0, offset(0), offset(count)) == 0:
        return
    code = ctypes.get_errno()
    if code not in _NOT_ABLE:
        raise OSError(code, os.strerror(code))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return place
