"""Have a model measured on the meta device, in a process of its own; the caller needs no torch."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

LIMIT_S = 180.0
# The module's own imports take seconds: the process listens for its parent's end before them.
_PROGRAM = """
import sys
from finetui.jobs.measuring import end_with_parent
end_with_parent()
from finetui.engine.measure import main
sys.exit(main(sys.argv[1:]))
"""
_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def measure(root: Path, model_folder: str, keys: Sequence[str]) -> str:
    """Measure a model for each key into the workspace's cache; blocks for some seconds.

    Returns "" or, in words, why nothing was measured. A key that fails is remembered in the cache
    and not tried again. Reads the model's config.json only, never its code.
    """
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, str(root), model_folder, *keys],
            stdin=reading,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **_ENVIRONMENT},
            text=True,
        )
        os.setpriority(os.PRIO_PROCESS, process.pid, 10)
        told, complaints = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"measuring took longer than {LIMIT_S:.0f} s"
    except OSError as error:
        return f"the measuring process cannot be started ({error.strerror})"
    finally:
        os.close(reading)
        os.close(writing)
    if process.returncode:
        return _last_line(complaints) or f"the measuring process ended with {process.returncode}"
    return _problems(told)


def end_with_parent() -> None:
    """Leave as soon as whoever holds the other end of standard input is gone."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()


def _problems(told: str) -> str:
    try:
        problems = msgspec.json.decode(told.strip().splitlines()[-1])["problems"]
    except (msgspec.DecodeError, IndexError, KeyError, TypeError):
        return "the measuring process gave no answer"
    return "; ".join(dict.fromkeys(problems.values()))


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
