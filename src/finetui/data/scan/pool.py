"""Processes that look at chunks: started with one file's task, fed over a pipe, ended with it.

A worker is ``python -m finetui.data.scan.pool DESCRIPTOR``; it ends when its pipe closes, so it
never outlives the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from types import TracebackType

from finetui.data.formats.source import JsonlSource
from finetui.data.scan.chunks import Chunk, Looked, Task, TaskScan
from finetui.errors import UserError

_AHEAD = 2  # chunks a worker has in its pipe, so that it never waits for the next


class Worker:
    """One process and our end of its pipe."""

    def __init__(self, task: Task) -> None:
        self.pipe, theirs = Pipe()
        command = [sys.executable, "-m", "finetui.data.scan.pool", str(theirs.fileno())]
        self.process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        theirs.close()
        self.waiting = 0
        self.pipe.send(task)

    def give(self, chunk: Chunk) -> None:
        self.waiting += 1
        self.pipe.send(chunk)

    def take(self) -> Looked:
        """The next result; raises UserError when the process is gone or failed."""
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError):
            raise UserError("a process of the checks ended before its work was done.") from None
        if isinstance(answer, str):
            raise UserError(f"a process of the checks failed: {answer}")
        self.waiting -= 1
        found: Looked = answer
        return found

    def end(self) -> None:
        self.pipe.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Pool:
    """Workers that look at the chunks of one file."""

    def __init__(self, task: Task, count: int) -> None:
        self._workers = [Worker(task) for _ in range(count)]

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.end()

    def look(self, chunks: Sequence[Chunk]) -> Iterator[Looked]:
        """The results of the chunks, in their order."""
        todo = iter(chunks)
        ready: dict[Chunk, Looked] = {}
        by_pipe = {worker.pipe: worker for worker in self._workers}
        for _ in range(_AHEAD):
            for worker in self._workers:
                _feed(worker, todo)
        for chunk in chunks:
            while chunk not in ready:
                busy = [worker.pipe for worker in self._workers if worker.waiting]
                for pipe in wait(busy):
                    worker = by_pipe[pipe]  # type: ignore[index]
                    looked = worker.take()
                    ready[looked.chunk] = looked
                    _feed(worker, todo)
            yield ready.pop(chunk)


def _feed(worker: Worker, todo: Iterator[Chunk]) -> None:
    chunk = next(todo, None)
    if chunk is not None:
        try:
            worker.give(chunk)
        except OSError:
            raise UserError("a process of the checks ended before its work was done.") from None


def serve(descriptor: int) -> None:
    """Look at chunks until the pipe closes."""
    pipe: Connection = Connection(descriptor)
    task: Task = pipe.recv()
    try:
        source = JsonlSource(Path(task.path), task.options.cache)
        scan = TaskScan(source, task)
        while True:
            pipe.send(scan.look(pipe.recv()))
    except UserError as error:
        pipe.send(str(error))


def main(arguments: Sequence[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is the parent's business
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        serve(int(arguments[0]))
    sys.stdout.flush()
    os._exit(0)  # nothing to tidy up, and tearing down a large heap takes time


if __name__ == "__main__":
    main(sys.argv[1:])
