"""What earlier runs on this machine took, against what was forecast for them.

One line a run, appended to a file of the machine beside the user's settings: forecasts of every
workspace learn from it. A home folder that several machines share holds one file for each.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from finetui.jobs import procfs
from finetui.jobs.folder import Job
from finetui.settings import user_file

_KEPT = 500  # newest runs that are read
_LARGEST = 4 * 2**20  # bytes of the file that are read, from its end


class Run(msgspec.Struct, frozen=True):
    """One run: memory in bytes, time in seconds, 0 where not known.

    ``predicted`` is the forecast of the tensors at the peak. ``peak`` is what was measured: the
    allocator's peak on a GPU, resident memory of the process on a CPU. ``flops`` are the
    operations of the tokens that were trained on in ``seconds``.
    """

    t: float
    job: str
    device: str
    method: str
    parameters: int
    predicted: float
    peak: float
    flops: float
    seconds: float


def machine_file(environ: Mapping[str, str] = os.environ) -> Path:
    """The file of this machine."""
    host = re.sub(r"[^\w.-]+", "-", procfs.host()) or "machine"
    return user_file(environ).parent / "machines" / f"{host}.jsonl"


def keep(job: Job, environ: Mapping[str, str] = os.environ) -> Run | None:
    """Write down what an ended run took; None when it tells nothing. Never raises."""
    try:
        run = run_of(job)
        if run is None:
            return None
        file = machine_file(environ)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(file, flags, 0o600)
        try:
            os.write(descriptor, msgspec.json.encode(run) + b"\n")
        finally:
            os.close(descriptor)
    except (OSError, ValueError, TypeError):
        return None
    return run


def run_of(job: Job) -> Run | None:
    """What a job's own records tell: the forecast in its manifest, the figures of its outcome."""
    outcome = job.outcome() or {}
    forecast, metrics = job.manifest().get("forecast"), outcome.get("metrics")
    if not isinstance(forecast, dict) or not isinstance(metrics, dict):
        return None
    peak, pace = _number(metrics, "peak_bytes"), _number(metrics, "tokens_per_s")
    tokens = _number(metrics, "tokens")
    if not peak and not pace:
        return None
    return Run(
        t=_number(outcome, "t"),
        job=job.id,
        device=str(forecast.get("device") or ""),
        method=str(forecast.get("method") or ""),
        parameters=int(_number(forecast, "parameters")),
        predicted=_number(forecast, "tensors"),
        peak=peak,
        flops=_number(forecast, "flops_per_token") * tokens,
        seconds=tokens / pace if pace else 0.0,
    )


def _number(record: Mapping[str, Any], name: str) -> float:
    value = record.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def runs(environ: Mapping[str, str] = os.environ) -> tuple[Run, ...]:
    """The earlier runs of this machine, newest first; lines that are none are passed over."""
    file = machine_file(environ)
    try:
        state = file.stat()
    except OSError:
        return ()
    return _read(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4)
def _read(file: Path, size: int, _changed: int) -> tuple[Run, ...]:
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, size - _LARGEST))
            lines = stream.read(_LARGEST).splitlines()
    except OSError:
        return ()
    found = (_run(line) for line in reversed(lines))
    return tuple(run for run in found if run is not None)[:_KEPT]


def _run(line: bytes) -> Run | None:
    try:
        return msgspec.json.decode(line, type=Run)
    except msgspec.MsgspecError:
        return None
