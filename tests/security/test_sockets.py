"""Nothing listens and nobody is called: watched in real processes, by the C library's own door."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from net_watch import NO_COMPILER, NetWatch, cut_off, listening
from pty_harness import Terminal

from finetui.cli import run

TALKS = """
import socket, urllib.request
try:
    urllib.request.urlopen("http://telemetry.invalid/ping", timeout=1)
except OSError:
    pass
door = socket.socket()
door.bind(("127.0.0.1", 0))
door.listen()
"""
# The ranks of one machine meet in a store of torch.distributed.
MEETS = """
from finetui.engine.torchrun import meet_on_loopback
meet_on_loopback()
from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous import c10d_rendezvous_backend as backend
kept = [maker("127.0.0.1", 0, is_master=True, multi_tenant=True)
        for maker in (TCPStore, backend.TCPStore)]
guest = TCPStore("127.0.0.1", kept[0].port, is_master=False)
guest.set("said", "heard")
assert kept[0].get("said") == b"heard"
for name in ("tcp", "tcp6"):
    for line in open(f"/proc/self/net/{name}").read().splitlines()[1:]:
        place, state = line.split()[1], line.split()[3]
        if state == "0A" and int(place.split(":")[1], 16) in [store.port for store in kept]:
            print(place.split(":")[0])
"""


@pytest.fixture
def watch(tmp_path: Path) -> NetWatch:
    made = NetWatch(tmp_path)
    if not made.works:
        pytest.skip(NO_COMPILER)
    return made


def test_the_watch_sees_a_look_up_and_an_open_door(watch: NetWatch) -> None:
    """The proof that silence below means something."""
    subprocess.run(
        [*cut_off(), sys.executable, "-c", TALKS], env=watch.environment(os.environ), check=True
    )
    calls = {(one.call, one.family) for one in watch.seen() if one.leaves}
    assert {("getaddrinfo", "name"), ("listen", "inet")} <= calls


def test_the_screens_call_nobody_and_open_no_door(watch: NetWatch, tmp_path: Path) -> None:
    root = tmp_path / "work"
    assert run(["init", str(root), "--sample"]) == 0
    command = [*cut_off(), sys.executable, "-m", "finetui", str(root)]
    with Terminal(command, env=watch.environment({})) as terminal:
        terminal.wait_for("Jobs")
        for key in ("1", "2", "3", "4", "5"):
            terminal.press(key)
            terminal.settle(0.2, 5)
        open_doors = listening(terminal.pid) if cut_off() else []
        terminal.press("ctrl+q")
        terminal.wait(lambda one: one.status is not None)
    loaded = {one.pid for one in watch.seen() if one.call == "load"}
    assert loaded, "the watch was not there"
    assert [one for one in watch.seen() if one.leaves] == []
    assert open_doors == []


@pytest.mark.torch
@pytest.mark.skipif(not find_spec("torch"), reason="needs torch")
def test_several_processes_of_one_machine_meet_on_loopback_only() -> None:
    done = subprocess.run([sys.executable, "-c", MEETS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0100007F"] * 2  # 127.0.0.1 as /proc writes it
