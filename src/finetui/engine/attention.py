"""How a job listens: requests from people outside the training loop."""

from __future__ import annotations

from finetui.jobs.worker import WorkerSession


class StopRequested(Exception):
    """Somebody asked the job to stop outside the training loop: there is nothing to save."""


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
