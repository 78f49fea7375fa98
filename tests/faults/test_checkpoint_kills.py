"""kill -9 while saving: every attempt finds a valid checkpoint, the last told or a later one."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from finetui.jobs import checkpoints
from finetui.jobs.folder import Job

# Saves step after step, and says which ones are published; looks at what it goes on from first.
_SAVER = """
import os, sys
from pathlib import Path
from finetui.jobs import checkpoints
from finetui.jobs.folder import Job

job, keep = Job(Path(sys.argv[1])), 2
folder = checkpoints.folder_of(job)
folder.mkdir(parents=True, exist_ok=True)
rests = checkpoints.remove_rests(folder)
found = checkpoints.newest(job)
step = found.step if found else 0
broken = checkpoints.damage(found) if found else ""
print("from", step, len(rests), broken or "whole", flush=True)
while True:
    step += 1
    draft = checkpoints.draft_folder(folder)
    (draft / "inside").mkdir()
    for name in ("adapter_model.safetensors", "optimizer.pt", "inside/run.json"):
        (draft / name).write_bytes(str(step).encode() * 40_000)
    checkpoints.publish(draft, folder / f"step-{step}", step=step, attempt=1, best=0)
    print("saved", step, flush=True)
    checkpoints.rotate(folder, keep)
"""


def kill_while_saving(job: Job, times: int) -> int:
    """Start a saver and kill it, again and again; returns how many kills cut a save short."""
    random, told, rests = Random(times), 0, 0
    for _ in range(times):
        saver = subprocess.Popen(
            [sys.executable, "-c", _SAVER, str(job.path)], stdout=subprocess.PIPE, text=True
        )
        assert saver.stdout is not None
        word, step, left, state = saver.stdout.readline().split(maxsplit=3)
        assert (word, state.strip()) == ("from", "whole")
        assert int(step) >= told, "a checkpoint that was told is lost"
        rests += int(left) > 0
        time.sleep(random.uniform(0.0, 0.06))
        saver.kill()
        lines = saver.stdout.read().splitlines()
        saver.wait()
        told = max([told, *(int(line.split()[1]) for line in lines if line.startswith("saved "))])
    found = checkpoints.newest(job)
    assert found is not None and found.step >= told > 0 and checkpoints.damage(found) == ""
    return rests


def test_kill_9_while_saving_leaves_a_valid_checkpoint(tmp_path: Path) -> None:
    assert kill_while_saving(Job(tmp_path / "job"), 25) > 0, "no kill hit a save"


@pytest.mark.figures
def test_kill_9_while_saving_200_times(tmp_path: Path) -> None:
    rests = kill_while_saving(Job(tmp_path / "job"), 200)
    print(
        f"kill -9 while saving, 200 times: 200 go on from a valid checkpoint ({rests} hit a save)"
    )
