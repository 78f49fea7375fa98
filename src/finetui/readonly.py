"""Looking without touching: a workspace that this process and its children never write to.

``--readonly`` watches somebody else's run. An audit hook refuses every call that would change
something below the workspace's root, as a file system mounted read-only would; what can be built
again (indices, digests, copies of journals) goes to a private folder of the person who looks. The
environment carries both to the commands that a screen runs.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

from finetui.errors import UserError

ROOT = "FINETUI_READONLY"
CACHE = "FINETUI_READONLY_CACHE"
SENTENCE = "This workspace was opened read only: nothing in it is changed."
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_STILL = 5  # looks at a journal that is being written, until two copies of its files fit

_guarded: list[str] = []
"""Roots that nothing writes to; a hook cannot be taken out again, a root can."""
_hooked = False


class ReadOnlyError(UserError, OSError):
    """What a read-only file system would answer, in words for a person."""

    def __init__(self, where: str = "") -> None:
        UserError.__init__(
            self, "was opened read only.", where, "Open the workspace without --readonly."
        )
        self.errno, self.strerror = errno.EROFS, os.strerror(errno.EROFS)


def begin(root: Path, environ: MutableMapping[str, str] = os.environ) -> None:
    """Write nothing below ``root`` from now on, and tell the children."""
    root = root.resolve()
    environ[ROOT], environ[CACHE] = str(root), str(_private_cache(root))
    heed(environ)


def heed(environ: MutableMapping[str, str] = os.environ) -> None:
    """Guard the workspace that the environment names, if it names one."""
    global _hooked
    root = environ.get(ROOT)
    if root and not environ.get(CACHE):  # a person set the variable alone
        root = environ[ROOT] = os.path.realpath(root)
        environ[CACHE] = str(_private_cache(Path(root)))
    if root and root not in _guarded:
        _guarded.append(root)
    if root and not _hooked:
        _hooked = True
        sys.addaudithook(_refuse)


def end(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let writing be again (a process that opens another workspace, and tests)."""
    root = environ.pop(ROOT, None)
    environ.pop(CACHE, None)
    if root in _guarded:
        _guarded.remove(root)


def holds(root: Path) -> bool:
    """Whether the workspace with this root was opened read only."""
    return os.environ.get(ROOT) == str(root)


def cache_of(root: Path) -> Path | None:
    """The private folder for what can be built again; None where the workspace's own may be
    used."""
    return Path(os.environ[CACHE]) if holds(root) and os.environ.get(CACHE) else None


def stand_in(path: Path, root: Path) -> Path:
    """An SQLite file to be read: a private copy where the workspace is read only.

    A reader of a WAL database writes beside it, which is not ours to do. The copy is as new as
    this call.
    """
    cache = cache_of(root)
    if cache is None:
        return path
    name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    copy = cache / "stand-ins" / f"{name}-{path.name}"
    copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for _ in range(_STILL):
        before = _states(path)
        _copy(path, copy)
        if _states(path) == before:
            break
    return copy


def refuse_in_copy(path: Path) -> None:
    """Raise ReadOnlyError for a private copy: what is written there would reach nobody."""
    cache = os.environ.get(CACHE)
    if cache and path.parent == Path(cache, "stand-ins"):
        raise ReadOnlyError(os.environ.get(ROOT, ""))


def _states(path: Path) -> list[tuple[int, int] | None]:
    found: list[tuple[int, int] | None] = []
    for each in (path, Path(f"{path}-wal")):
        try:
            state = each.stat()
            found.append((state.st_size, state.st_mtime_ns))
        except OSError:
            found.append(None)
    return found


def _copy(path: Path, copy: Path) -> None:
    for suffix in ("-wal", "-shm"):
        Path(f"{copy}{suffix}").unlink(missing_ok=True)
    try:
        shutil.copyfile(path, copy)
    except FileNotFoundError:
        copy.unlink(missing_ok=True)
        return
    try:
        shutil.copyfile(f"{path}-wal", f"{copy}-wal")
    except FileNotFoundError:
        Path(f"{copy}-wal").unlink(missing_ok=True)


def _private_cache(root: Path) -> Path:
    """A folder of this person for this workspace, outside of it; kept, so that a long history is
    digested once."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = hashlib.sha256(str(root).encode()).hexdigest()[:16]
    folder = Path(home, "finetui", "readonly", name)
    try:
        if folder.resolve().is_relative_to(root):
            raise OSError
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise OSError
    except OSError:
        return Path(tempfile.mkdtemp(prefix="finetui-readonly-"))
    return folder


# -- the guard -------------------------------------------------------------------------------


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook: raises ReadOnlyError for a call that would change what is guarded."""
    touched = _TOUCHES.get(event)
    if touched is None or not _guarded:
        return
    for path, folder in touched(arguments):
        place = _located(path, folder)
        if place is not None and any(_inside(place, root) for root in _guarded):
            raise ReadOnlyError(place)


_Touched = list[tuple[Any, Any]]
"""Paths that a call changes, each with the descriptor of the folder it is relative to."""


def _opened(arguments: tuple[Any, ...]) -> _Touched:
    path, _, flags = (*arguments, None, None, None)[:3]
    writes = isinstance(flags, int) and flags & _WRITING
    return [(path, None)] if writes else []


def _first(arguments: tuple[Any, ...]) -> _Touched:
    return [(arguments[0], arguments[-1])]


def _named(arguments: tuple[Any, ...]) -> _Touched:
    return [(arguments[0], None)]


def _both(arguments: tuple[Any, ...]) -> _Touched:
    source, target, *folders = arguments
    of_source, of_target = (*folders, None, None)[:2]
    return [(source, of_source), (target, of_target)]


def _second(arguments: tuple[Any, ...]) -> _Touched:
    return [(arguments[1], arguments[-1])]


_TOUCHES: dict[str, Callable[[tuple[Any, ...]], _Touched]] = {
    "open": _opened,
    "os.mkdir": _first,
    "os.remove": _first,
    "os.rmdir": _first,
    "os.truncate": _named,
    "os.chmod": _named,
    "os.chown": _named,
    "os.utime": _named,
    "os.setxattr": _named,
    "os.removexattr": _named,
    "os.rename": _both,
    "os.link": _second,
    "os.symlink": _second,
    "sqlite3.connect": _named,
}


def _located(path: Any, folder: Any) -> str | None:
    """The real place of what is touched; None for what has no name (pipes, memory)."""
    if isinstance(path, int):
        return _of_descriptor(path)
    try:
        name = os.fsdecode(path)
    except TypeError:
        return None
    if not name or name == ":memory:":
        return None
    name = name.removeprefix("file:").partition("?")[0] if name.startswith("file:") else name
    if not os.path.isabs(name) and isinstance(folder, int) and folder >= 0:
        name = os.path.join(_of_descriptor(folder) or "", name)
    return os.path.join(os.path.realpath(os.path.dirname(name) or "."), os.path.basename(name))


def _of_descriptor(number: int) -> str | None:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return None


def _inside(place: str, root: str) -> bool:
    return place == root or place.startswith(root.rstrip("/") + "/")
