"""Subprocesses in which the real pynvml finds the fake library."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from job_workshop import Workshop, kill_process, until

from finetui.jobs import leases, procfs


def _load_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "fake_nvml_build", Path(__file__).with_name("build.py")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def nvml() -> ModuleType:
    """The module that builds the library and writes its state."""
    return _load_build()


@pytest.fixture(scope="session")
def library(nvml: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if nvml.compiler() is None:
        pytest.skip(nvml.NO_COMPILER)
    return nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def sample(library: Path, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Run DeviceReader on the fake; returns a sample for each state in turn, as plain values.

    "held" is who holds the first device's memory. A state is a function that writes the state file.
    """

    def run(*states: Callable[[Path], None]) -> list[dict[str, Any]]:
        files = [tmp_path / f"state-{number}" for number in range(len(states))]
        for file, write in zip(files, states, strict=True):
            write(file)
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(library),
            "FAKE_NVML_STATE": str(tmp_path / "state"),
        }
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(tmp_path / "state"), *map(str, files)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


@pytest.fixture
def gpus(
    nvml: ModuleType, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Give the jobs of a test a machine with these devices: lines of the state file.

    The leases of this machine are in a folder of the test's own.
    """
    state = tmp_path / "nvml-state"

    def have(*devices: str, error: int = 0) -> None:
        nvml.write_state(tmp_path / "next", *devices, error=error)
        (tmp_path / "next").replace(state)  # a supervisor may be reading

    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    monkeypatch.setenv("FAKE_NVML_STATE", str(state))
    monkeypatch.setenv("FINETUI_LEASES", str(tmp_path / "leases"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return have


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    made = Workshop(tmp_path / "jobs")
    yield made
    # The waiting ones first: they have no record yet, and each end would start the next.
    until(lambda: not _end_all(tmp_path / "leases"))
    made.sweep()


def _end_all(folder: Path) -> list[leases.Ticket]:
    """Kill whoever waits or works under a ticket; returns whom it found."""
    if not folder.is_dir():
        return []
    with leases._opened(folder) as place:
        found = leases._living(place)
    for one in sorted(found, key=lambda one: not one.waits):
        for pid in (one.pid, one.worker):
            start = procfs.start_time(pid) if pid else None
            if start is not None:
                kill_process(pid, start)
    return found


_PROGRAM = """
import dataclasses, json, shutil, sys
from finetui.jobs.devices import DeviceReader, held_memory
reader = DeviceReader()
for file in sys.argv[2:]:
    shutil.copy(file, sys.argv[1])
    sample = reader.sample()
    held = [dataclasses.asdict(one) for gpu in sample.gpus[:1] for one in held_memory(gpu)]
    print(json.dumps({**dataclasses.asdict(sample), "held": held}))
"""
