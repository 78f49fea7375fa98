"""Run a program with its network cut off, and every step towards one written down."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent / "security" / "net_watch.c"
NO_COMPILER = "watching connect() needs a C compiler (gcc or cc) and there is none"


@dataclass(frozen=True)
class Seen:
    """One call: ``family`` is inet, inet6, unix, abstract, or name for a look-up."""

    pid: int
    call: str
    family: str
    address: str
    port: int

    @property
    def leaves(self) -> bool:
        """Whether it asks for another machine, or would let one in."""
        return self.family != "unix"


class NetWatch:
    """The preloaded library and its log, in a folder of the test."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "net.log"
        self._library = folder / "net_watch.so"
        compiler = shutil.which("gcc") or shutil.which("cc")
        self.works = compiler is not None
        if compiler is not None:
            command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(self._library)]
            subprocess.run([*command, str(SOURCE), "-ldl"], check=True)

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """The environment in which a program and all that it starts are watched."""
        if not self.works:
            return dict(given)
        return {**given, "LD_PRELOAD": str(self._library), "NET_WATCH_LOG": str(self.log)}

    def seen(self) -> list[Seen]:
        if not self.log.exists():
            return []
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            pid, call, family, rest = line.split(" ", 3)
            address, _, port = rest.rpartition(" ")
            found.append(Seen(int(pid), call, family, address, int(port)))
        return found


def cut_off() -> list[str]:
    """The words before a command that give it a network of its own with nothing in it.

    [] where the kernel allows that to nobody but root, and this is not root.
    """
    for words in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if (
            shutil.which(words[0])
            and not subprocess.run([*words, "true"], capture_output=True, check=False).returncode
        ):
            return words
    return []


def listening(pid: int) -> list[str]:
    """Local addresses of the TCP and UDP sockets that wait in the network of a process."""
    found = []
    for name, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        try:
            lines = Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        found += [f"{name} {line.split()[1]}" for line in lines if line.split()[3] == state]
    return found


def command_lines() -> list[bytes]:
    """What any account of this machine may read of every process: its arguments."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found.append(Path(f"/proc/{entry}/cmdline").read_bytes())
            except OSError:
                continue
    return found
