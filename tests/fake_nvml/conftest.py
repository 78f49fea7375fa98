"""A subprocess in which the real pynvml finds the fake library."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


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
