"""The whole loop on the shipped model and data, as `make demo` runs it without a terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

LIMIT_S = 540  # two cores, other work on them


@pytest.mark.slow
@pytest.mark.torch
def test_the_demo_learns_what_the_base_model_cannot_do(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "finetui", "demo", str(folder), "--json"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["base"]["format"] == 0.0 and result["base"]["accuracy"] == 0.0
    assert result["tuned"]["format"] >= 0.99
    assert result["tuned"]["accuracy"] >= 0.95
    assert result["seconds"] > 0
    job = Path(result["job"])
    assert (job / "adapter" / "adapter_model.safetensors").is_file()
    assert list((folder / "versions").glob("*/manifest.json"))
    [session] = (folder / "ratings").glob("*/manifest.json")
    assert not (session.parent / "audit" / "log.jsonl").read_text().count("unseal"), "still sealed"
    told = done.stderr
    for station in ("1. look", "2. repair", "3. train", "4. rate", "5. report"):
        assert station in told
