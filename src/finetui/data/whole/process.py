"""The process that runs the checks of whole sets: ``python -m finetui.data.whole.process``.

It is told what to do over a pipe and sends back what it finds; see `finetui.data.scan.whole`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from finetui.data.checks.registry import CHECKS
from finetui.data.findings import FindingsStore, open_store
from finetui.data.formats.several import open_several
from finetui.data.formats.source import Source
from finetui.data.scan.whole import Found, Job, Reached
from finetui.data.whole.model import WholeHit, WholeSet
from finetui.errors import UserError

_EVERY = 0.2  # seconds between two words about progress


def serve(pipe: Connection, job: Job) -> None:
    """Run the checks of a job one after the other, over one `WholeSet`."""
    stopped: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    sources: list[Source] = [open_several(paths, job.options.cache) for paths in job.sets]
    for source in sources:
        source.build_index()
    store = _writable(job.store) if job.store else None
    whole = WholeSet(sources, job.options, stop=lambda: bool(stopped), store=store)
    for place, check in enumerate(job.checks):
        whole.progress = _reporter(pipe, place, len(job.checks))
        for hit in _find(CHECKS[check].whole)(whole):
            pipe.send(Found(check, *_parts(hit)))
        pipe.send(Reached((place + 1) / len(job.checks)))
        if stopped:
            break
    pipe.send(None)


def _find(name: str) -> Callable[[WholeSet], Iterable[WholeHit]]:
    module, _, function = name.partition(":")
    found: Callable[[WholeSet], Iterable[WholeHit]]
    found = getattr(importlib.import_module(module), function)
    return found


def _parts(hit: WholeHit) -> tuple[int, int, str, int | None, int | None, int | None]:
    return hit.source, int(hit.row), hit.message, hit.turn, hit.start, hit.end


def _reporter(pipe: Connection, place: int, checks: int) -> Callable[[int, int], None]:
    due = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + _EVERY
            pipe.send(Reached((place + min(1.0, done / max(1, total))) / checks))

    return report


def _writable(path: str) -> FindingsStore | None:
    store = open_store(Path(path))
    if store is not None:
        store.allow_writing()
    return store


def main(arguments: Sequence[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is the parent's business
    pipe = Connection(int(arguments[0]))
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            serve(pipe, pipe.recv())
        except UserError as error:
            pipe.send(str(error))
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
