"""How a job listens: requests from people outside the training loop."""

from __future__ import annotations

from finetui.jobs.worker import StopRequested as StopRequested
from finetui.jobs.worker import WorkerSession


def attend(session: WorkerSession) -> None:
    """Pause or stop where it was asked for; raises StopRequested.

    Other requests wait for the training loop.
    """
    verbs = session.control.poll()
    if "pause" in verbs:
        verbs |= session.hold()
    if verbs & {"stop", "stop_best"}:
        raise StopRequested
    session.control.keep(verbs - {"pause", "resume"})
