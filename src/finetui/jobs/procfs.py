"""What the Linux kernel says about this machine and its processes, read from /proc."""

import os
import pwd
import socket
from pathlib import Path

PROC = Path("/proc")
_CGROUP_ROOT = Path("/sys/fs/cgroup")


def host() -> str:
    """Return this machine's name, as recorded in proc.json."""
    return socket.gethostname()


def boot_id() -> str:
    """Return the id of this boot: start times in ticks mean nothing without it."""
    return _text(PROC / "sys/kernel/random/boot_id").strip()


def start_time(pid: int) -> int | None:
    """Return a live process's start in clock ticks since boot; None when gone or a zombie."""
    stat = _text(PROC / str(pid) / "stat")
    # The name in parentheses may hold spaces and parentheses: fields begin after the last one.
    fields = stat[stat.rfind(")") + 2 :].split()
    if len(fields) < 20 or fields[0] in ("Z", "X"):
        return None
    return int(fields[19])


def is_alive(pid: int, start: int) -> bool:
    """Tell whether the process is the very one that was recorded, not a reuse of its number."""
    return pid > 0 and start_time(pid) == start


def parent(pid: int) -> int | None:
    """Return the process number of a process's parent, None when it is gone."""
    stat = _text(PROC / str(pid) / "stat")
    fields = stat[stat.rfind(")") + 2 :].split()
    return int(fields[1]) if len(fields) > 1 else None


def process_state(pid: int) -> str:
    """Return the letter of a process's state (R, S, D, T, ...), "" when it is gone."""
    stat = _text(PROC / str(pid) / "stat")
    return stat[stat.rfind(")") + 2 :][:1]


def waits_in(pid: int) -> str:
    """Return the kernel's function that a process waits in, "" when it runs or is not told."""
    name = _text(PROC / str(pid) / "wchan").strip()
    return name if name != "0" else ""


def catches(pid: int, number: int) -> bool:
    """Tell whether a process has a handler for a signal: without one it may end the process."""
    for line in _text(PROC / str(pid) / "status").splitlines():
        name, _, mask = line.partition(":")
        if name == "SigCgt":
            return bool(int(mask, 16) >> (number - 1) & 1)
    return False


def children(pid: int) -> list[int]:
    """Return the process numbers of a process's children, zombies included."""
    return [int(word) for word in _text(PROC / f"{pid}/task/{pid}/children").split()]


def process_name(pid: int) -> str | None:
    """Return the short command name of a process, None when it cannot be seen."""
    return _text(PROC / str(pid) / "comm").strip() or None


def process_user(pid: int) -> str | None:
    """Return the owner of a process: a user name, or the number when it has no name."""
    try:
        uid = (PROC / str(pid)).stat().st_uid
    except OSError:
        return None
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def oom_kills() -> int | None:
    """Return how many processes the kernel has killed for want of memory since boot."""
    return _counter(_text(PROC / "vmstat"), "oom_kill")


def cgroup_oom_kills() -> int | None:
    """Return the same counter for this process's memory cgroup (v2, then v1)."""
    for line in _text(PROC / "self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        relative = path.lstrip("/")
        if number == "0" and not controllers:
            events = _text(_CGROUP_ROOT / relative / "memory.events")
        elif "memory" in controllers.split(","):
            events = _text(_CGROUP_ROOT / "memory" / relative / "memory.oom_control")
        else:
            continue
        if (count := _counter(events, "oom_kill")) is not None:
            return count
    return None


def _counter(text: str, name: str) -> int | None:
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == name and words[1].isdigit():
            return int(words[1])
    return None


def _text(path: Path) -> str:
    try:
        return os.fsdecode(path.read_bytes())
    except OSError:
        return ""
