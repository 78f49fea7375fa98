"""The lookout: samples machine and jobs in a worker thread, as plain frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetui.display import clean, size
from finetui.tui.loop import loop_of
from finetui.tui.messages import Looked
from finetui.workspace import Workspace

_reader: Any = None


@dataclass(frozen=True, slots=True)
class JobLine:
    """One job as a list shows it; ``state`` is the derived name, ``sentence`` says it in words."""

    path: Path
    id: str
    kind: str
    slug: str
    created: Any
    state: str
    sentence: str
    waits: bool = False


def look(workspace: Workspace | None) -> Looked:
    """One sample of everything; never raises for what a machine or a job folder lacks.

    A rater's account may see nothing of the workspace but the ratings.
    """
    try:
        jobs = _jobs(workspace)
        loop = loop_of(workspace, jobs) if workspace else None
    except PermissionError:
        jobs, loop = (), None
    return Looked(_devices(), jobs, loop)


def _devices() -> Any:
    global _reader
    if _reader is None:
        from finetui.jobs.devices import DeviceReader

        _reader = DeviceReader()
    return _reader.sample()


def _jobs(workspace: Workspace | None) -> tuple[JobLine, ...]:
    if workspace is None or not workspace.jobs.is_dir():
        return ()
    from finetui.jobs.folder import list_jobs
    from finetui.jobs.liveness import state

    return tuple(_line(job, state(job)) for job in list_jobs(workspace.jobs))


def _line(job: Any, now: Any) -> JobLine:
    return JobLine(
        path=Path(job.path),
        id=clean(str(job.id)),
        kind=clean(str(job.kind)),
        slug=clean(str(job.slug)),
        created=job.created,
        state=str(now.name),
        sentence=clean(str(now.sentence)),
        waits=bool(getattr(now, "waits", False)),
    )


def machine_line(sample: Any) -> str:
    """The right end of the top line: the first GPU, or the host's memory."""
    if sample is None:
        return ""
    if sample.gpus:
        gpu = sample.gpus[0]
        more = f" +{len(sample.gpus) - 1}" if len(sample.gpus) > 1 else ""
        return f"GPU{gpu.index}{more} {_share(gpu.memory_used, gpu.memory_total)}" + (
            f" {gpu.utilisation:.0f} %" if gpu.utilisation is not None else ""
        )
    return f"no GPU · RAM {_share(sample.host_memory_used, sample.host_memory_total)}"


def _share(used: float | None, total: float | None) -> str:
    if used is None or total is None:
        return "–"
    return f"{used / 2**30:.1f}/{size(total)}"
