"""The heartbeat: 64 bytes that the worker overwrites at each sign of progress.

It is written by the thread that does the work, not beside it, so a run that hangs stops beating
although its process lives.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

STALL_S = 60.0
# Loading a model or scoring a set has no step edge, so it may be silent for longer.
STAGE_STALL_S = 600.0
_STEPS = 10
_SIZE = 64
_PHASES = ("starting", "running", "paused")


@dataclass(frozen=True)
class Beat:
    """One sign of life: unix time, attempt, phase, step, and after how long silence is a stall."""

    t: float
    attempt: int
    phase: str
    step: int
    limit: float


class Heart:
    """The worker's end of the heartbeat."""

    def __init__(self, path: Path, attempt: int, clock: Callable[[], float] = time.time) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._attempt = attempt
        self._clock = clock
        self._step_times: deque[float] = deque(maxlen=50)
        self.phase = "starting"
        self.step = 0
        self.patience = STALL_S
        self.limit = STAGE_STALL_S
        self.beat()

    def beat(self) -> None:
        """Say "alive" (about a microsecond)."""
        words = f"{self._clock():.3f} {self._attempt} {self.phase} {self.step} {self.limit:.1f}"
        # Where every write takes new blocks (btrfs, zfs) a full disk refuses even this one.
        with contextlib.suppress(OSError):
            os.pwrite(self._file, words.ljust(_SIZE - 1).encode()[: _SIZE - 1] + b"\n", 0)

    def stage(self) -> None:
        """A new stage without step edges began."""
        self.limit = STAGE_STALL_S

    def begun(self) -> None:
        """The work proper began: no longer starting."""
        if self.phase == "starting":
            self.phase = "running"

    def stepped(self, step: int, seconds: float | None) -> None:
        """A step ended: from now on silence is judged by `patience`, or by much slower steps."""
        self.step = step
        self.begun()
        if seconds is not None and seconds > 0:
            self._step_times.append(seconds)
        usual = median(self._step_times) if self._step_times else 0.0
        self.limit = max(self.patience, _STEPS * usual)

    def close(self) -> None:
        os.close(self._file)


def read(path: Path) -> Beat | None:
    """Return the last sign of life, None when there is none."""
    try:
        words = path.read_bytes().split()
        t, attempt, phase, step, limit = words[:5]
        beat = Beat(float(t), int(attempt), phase.decode(), int(step), float(limit))
    except (OSError, ValueError):
        return None
    return beat if beat.phase in _PHASES else None
