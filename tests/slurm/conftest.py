"""A Slurm cluster on the loopback address, for the tests of one run."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import SCRIPT, TestCluster, stop, which

from finetui.jobs import slurm_queue

ASKED = "FINETUI_TEST_SLURM"


@pytest.fixture(scope="session")
def cluster() -> Iterator[TestCluster]:
    if os.environ.get(ASKED) != "1":
        pytest.skip("real Slurm daemons are tested by: make test-slurm")
    if os.getuid() != 0:
        pytest.skip("slurmd starts jobs as their owner, so only root can test it")
    missing = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if not which(name)]
    if missing:
        pytest.skip(f"Slurm is not installed here: {', '.join(missing)}")
    folder = Path(tempfile.mkdtemp(prefix="finetui-slurm-"))
    started = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True)
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        slurm_queue.DESK.every_s = 0.2
        yield TestCluster(folder)
    finally:
        os.environ.pop("SLURM_CONF", None)
        stop(folder)
