"""A workshop of jobs that sweeps up after each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from job_workshop import Workshop


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    made = Workshop(tmp_path / "jobs")
    yield made
    made.sweep()
