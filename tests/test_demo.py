"""The whole loop on the shipped model and data, as `make demo` runs it without a terminal.

One run serves several promises: what it learns, that it needs no network and calls nobody, that
nobody else may read what it leaves, and that the person's keys are nowhere in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from job_workshop import kill_process, quiet
from net_watch import NO_COMPILER, NetWatch, Seen, command_lines, cut_off, listening

from finetui.jobs.folder import list_jobs

pytest.importorskip("torch")

LIMIT_S = 540  # two cores, other work on them
LOOK_S = 0.5

KEYS = {
    "HF_TOKEN": "hf_PlantedPlantedPlantedPlanted0000",
    "WANDB_API_KEY": "planted-wandb-key",
    "AWS_SECRET_ACCESS_KEY": "planted/aws/secret",
}
# What keeps libraries quiet in the other tests: here they are as a person has them.
_QUIET = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "WANDB_MODE")

pytestmark = [pytest.mark.slow, pytest.mark.torch]


@dataclass
class Demo:
    """The run: what it said and left, and what was seen of it meanwhile."""

    folder: Path
    told: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    calls: list[Seen] | None = None
    """None where nothing could be watched."""
    doors: set[str] = field(default_factory=set)
    arguments: set[bytes] = field(default_factory=set)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Run it with the network cut off, every call towards one watched, under an open umask."""
    watch = NetWatch(tmp_path_factory.mktemp("watch"))
    made = Demo(tmp_path_factory.mktemp("run") / "demo")
    environment = {name: value for name, value in os.environ.items() if name not in _QUIET}
    words = cut_off()
    process = subprocess.Popen(
        [*words, sys.executable, "-m", "finetui", "demo", str(made.folder), "--json"],
        env=watch.environment({**environment, **KEYS}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        umask=0,
    )
    over = threading.Event()
    looking = threading.Thread(target=_look, args=(made, process.pid, bool(words), over))
    looking.start()
    try:
        data, made.told = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
        over.set()
        looking.join()
        for job in list_jobs(made.folder / "jobs"):  # they would go on without it
            proc = job.proc()
            for one in (proc.worker, proc.supervisor) if proc is not None else ():
                if one is not None:
                    kill_process(one.pid, one.start)
    assert process.returncode == 0, made.told
    for job in list_jobs(made.folder / "jobs"):
        quiet(job)
    made.result = json.loads(data.splitlines()[-1])
    made.calls = watch.seen() if watch.works else None
    return made


def _look(demo: Demo, pid: int, alone: bool, over: threading.Event) -> None:
    """Every half second: the arguments of its processes, and the doors of its network."""
    while not over.wait(LOOK_S):
        demo.arguments |= {line for line in command_lines() if b"finetui" in line}
        if alone:  # the network is the demo's own, so every door in it is too
            demo.doors |= set(listening(pid))


def test_the_demo_learns_what_the_base_model_cannot_do(demo: Demo) -> None:
    result = demo.result
    assert result["base"]["format"] == 0.0 and result["base"]["accuracy"] == 0.0
    assert result["tuned"]["format"] >= 0.99
    assert result["tuned"]["accuracy"] >= 0.95
    assert result["seconds"] > 0
    job = Path(result["job"])
    assert (job / "adapter" / "adapter_model.safetensors").is_file()
    assert list((demo.folder / "versions").glob("*/manifest.json"))
    [session] = (demo.folder / "ratings").glob("*/manifest.json")
    assert not (session.parent / "audit" / "log.jsonl").read_text().count("unseal"), "still sealed"
    for station in ("1. look", "2. repair", "3. train", "4. rate", "5. report"):
        assert station in demo.told


def test_the_demo_asks_no_network_for_anything(demo: Demo) -> None:
    """No connection, no look-up, no telemetry: with nothing set that would silence a library."""
    if demo.calls is None:
        pytest.skip(NO_COMPILER)
    watched = {one.pid for one in demo.calls if one.call == "load"}
    assert len(watched) >= 4, "the command, a supervisor, the engines"
    assert [one for one in demo.calls if one.leaves] == []


def test_the_demo_opens_no_door(demo: Demo) -> None:
    assert demo.doors == set()
    assert not [one for one in demo.calls or () if one.call in ("listen", "bind")]


def test_nobody_else_may_read_what_the_demo_leaves(demo: Demo) -> None:
    open_to_others = [
        f"{path.stat().st_mode & 0o777:o} {path}"
        for path in [demo.folder, *demo.folder.rglob("*")]
        if path.stat().st_mode & 0o077
    ]
    assert open_to_others == []


def test_the_demo_leaves_no_key_in_a_file_a_message_or_an_argument(demo: Demo) -> None:
    assert any(b"finetui.engine" in line for line in demo.arguments)
    files = [path for path in demo.folder.rglob("*") if path.is_file()]
    for name, key in KEYS.items():
        assert key not in demo.told and key not in json.dumps(demo.result)
        assert not [line for line in demo.arguments if key.encode() in line], name
        assert not [path for path in files if key.encode() in path.read_bytes()], name
