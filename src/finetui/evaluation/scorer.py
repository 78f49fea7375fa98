"""A scorer of one's own: a Python function of the workspace, run in a process with a time limit.

    # scorers/mine.py
    def score(answer, reference, prompt, row):
        return answer.strip().endswith(reference)

It may return a bool (passed or not), a number (a score), a string (a fault: not passed), None
(says nothing of this row) or a dict of those by name. ``prompt`` is the list of messages, ``row``
a dict of id and tags. What it prints goes to the log.

It is code, and runs with the rights of the person who starts the evaluation: only a scorer that
this person named is run, and its hash is kept with the result. The process is a wall against
mistakes (endless loops, too much memory, exit), not against ill will.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetui.errors import UserError
from finetui.evaluation.record import Answer, Item

_START_SECONDS = 60.0
_MEMORY = 4 << 30
_MOST_BYTES = 1 << 20
_MOST_FAILURES = 20  # in a row: then it is the scorer that is broken, not the rows


@dataclass(frozen=True)
class Verdict:
    """What a scorer says of a row: passed or a score by name ("" for a bare one), or a fault."""

    values: dict[str, bool | float] = field(default_factory=dict)
    fault: str = ""
    failed: bool = False


class Scorer:
    """Asks one function about one answer at a time; ``with`` it, so that its process ends.

    ``named`` is "file.py::function", relative to ``root``. Raises UserError when there is no such
    function, and when it fails on many rows one after another.
    """

    def __init__(
        self, root: Path, named: str, seconds: float = 5.0, memory: int = _MEMORY,
        log: Path | None = None,
    ) -> None:  # fmt: skip
        self.path, self.function = located(root, named)
        self._named, self._seconds, self._memory = named, seconds, memory
        self._log = log
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._buffer = b""

    @property
    def sha256(self) -> str:
        """Hash of the file that holds the function."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def __enter__(self) -> Scorer:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def score(self, item: Item, answer: Answer) -> Verdict:
        question = {
            "answer": answer.answer,
            "reference": item.reference,
            "prompt": item.prompt,
            "row": {"id": item.id, "tags": item.tags, "finish": answer.finish},
        }
        verdict = self._asked(question)
        self._failures = self._failures + 1 if verdict.failed else 0
        if self._failures >= _MOST_FAILURES:
            raise UserError(
                f"failed on {_MOST_FAILURES} rows in a row: {verdict.fault}", self._named,
                "Try it on one row.",
            )  # fmt: skip
        return verdict

    def _asked(self, question: dict[str, Any]) -> Verdict:
        if self._process is None:
            self._start()
        try:
            self._send(question)
            line = self._receive(self._seconds)
        except TimeoutError:
            self._end(grace=0)
            return Verdict(fault=f"the scorer took longer than {self._seconds:g} s", failed=True)
        except (OSError, EOFError):
            code = self._end()
            return Verdict(fault=f"the scorer ended with {_how(code)}", failed=True)
        return _verdict(line)

    def _start(self) -> None:
        log = open(self._log, "ab") if self._log else None  # closed below, the child keeps it
        answers, ours = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-u", str(_WORKER), str(self.path), self.function, str(ours),
                 str(self._memory)],
                stdin=subprocess.PIPE, stdout=log or subprocess.DEVNULL,
                stderr=log or subprocess.DEVNULL, pass_fds=(ours,), cwd=self._root,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            os.close(answers)
            raise UserError(f"the scorer cannot be started ({error}).", self._named) from error
        finally:
            os.close(ours)
            if log:
                log.close()
        self._answers, self._buffer = answers, b""
        self._await_readiness()

    def _await_readiness(self) -> None:
        try:
            word = self._receive(_START_SECONDS)
        except TimeoutError as error:
            self._end(grace=0)
            raise UserError(
                f"did not load within {_START_SECONDS:g} s.", self._named, "Import less."
            ) from error
        except EOFError as error:
            code = self._end()
            raise UserError(f"cannot be loaded ({_how(code)}).", self._named) from error
        if not word.get("ready"):
            self._end()
            raise UserError(f"cannot be loaded: {word.get('error', '')}", self._named)

    def _send(self, question: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        data = json.dumps(question).encode() + b"\n"
        deadline = time.monotonic() + self._seconds
        pipe = self._process.stdin.fileno()
        os.set_blocking(pipe, False)
        view = memoryview(data)
        while view:
            _, writable, _ = select.select([], [pipe], [], max(0.0, deadline - time.monotonic()))
            if not writable:
                raise TimeoutError
            view = view[os.write(pipe, view) :]

    def _receive(self, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._answers], [], [], left)[0]:
                raise TimeoutError
            data = os.read(self._answers, 1 << 16)
            if not data:
                raise EOFError
            self._buffer += data
            if len(self._buffer) > _MOST_BYTES:
                raise OSError("the answer is too long")
        line, self._buffer = self._buffer.split(b"\n", 1)
        found = json.loads(line)
        return found if isinstance(found, dict) else {}

    def _end(self, grace: float = 0.5) -> int:
        """End the process and all that it started; returns its exit status.

        The group is ended before the process is reaped, while its number cannot belong to others.
        """
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        deadline = time.monotonic() + grace
        while not _exited(process.pid) and time.monotonic() < deadline:
            time.sleep(0.005)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        os.close(self._answers)
        return process.wait()


def _exited(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


_WORKER = Path(__file__).with_name("scorer_worker.py")


def located(root: Path, named: str) -> tuple[Path, str]:
    """The file and the function of "file.py::function". Raises UserError when there is no file."""
    file, _, function = named.partition("::")
    path = (root / file).resolve()
    if not file.endswith(".py") or not path.is_file():
        raise UserError("there is no such scorer.", named, "Write it as scorers/mine.py::score.")
    return path, function or "score"


def _verdict(line: dict[str, Any]) -> Verdict:
    if "error" in line:
        return Verdict(fault=f"the scorer failed: {line['error']}", failed=True)
    found = line.get("value")
    named = found if isinstance(found, dict) else {"": found}
    values: dict[str, bool | float] = {}
    faults: list[str] = []
    for name, value in named.items():
        if isinstance(value, str):
            values[name] = False
            faults.append(f"{name}: {value}" if name else value)
        elif value is not None:
            values[name] = value if isinstance(value, bool) else float(value)
    return Verdict(values, "; ".join(faults))


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit status {code}"
